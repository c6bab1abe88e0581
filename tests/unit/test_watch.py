"""Listing and tracking, without inotify."""

import os
import socket
import tempfile
from pathlib import Path
from types import SimpleNamespace

import needs
import pytest

from srctd.adapters.watch import FORGET_SECONDS, MOST_PROBLEMS, Candidate, Listing, Tracker, Watch


def look(folder: Path, *patterns: str, depth: int = 3) -> Listing:
    root = SimpleNamespace(path=str(folder), patterns=patterns or ("*.h5", "*.nxs"), depth=depth)
    watch = Watch([], lambda: None)
    watch.start()
    try:
        return watch.list_root(root)
    finally:
        watch.stop()


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(listing: Listing, folder: Path) -> list[str]:
    return sorted(os.path.relpath(candidate.path, folder) for candidate in listing.candidates)


# --- listing ----------------------------------------------------------------------------------------------


def test_matching_files_are_listed_with_size_time_and_inode(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"12345")
    stat = (tmp_path / "a.h5").stat()
    listing = look(tmp_path)
    assert listing.candidates == (Candidate(str(tmp_path / "a.h5"), 5, stat.st_mtime_ns, stat.st_ino),)
    assert listing.problems == ()


def test_names_are_compared_without_regard_to_case(tmp_path):
    touch(tmp_path, "SCAN.H5", "scan.nxs", "scan.tif", "h5")
    assert names(look(tmp_path), tmp_path) == ["SCAN.H5", "scan.nxs"]
    assert names(look(tmp_path, "scan.[ht]*"), tmp_path) == ["SCAN.H5", "scan.tif"]


def test_without_a_pattern_nothing_is_listed(tmp_path):
    touch(tmp_path, "a.h5")
    root = SimpleNamespace(path=str(tmp_path), patterns=(), depth=0)
    assert Watch([], lambda: None).list_root(root).candidates == ()


def test_hidden_and_temporary_names_are_left_out(tmp_path):
    touch(
        tmp_path,
        ".a.h5",
        ".a.h5.X7f2",
        "a.h5.part",
        "a.h5~",
        "a.h5.filepart",
        ".hidden/a.h5",
        "up.part/a.h5",
        "b.h5",
    )
    assert names(look(tmp_path, "*"), tmp_path) == ["b.h5"]


@pytest.mark.parametrize(("depth", "found"), [(0, 1), (1, 2), (2, 3), (9, 3)])
def test_the_depth_is_kept(tmp_path, depth, found):
    touch(tmp_path, "a.h5", "1/a.h5", "1/2/a.h5")
    assert len(look(tmp_path, depth=depth).candidates) == found


def test_special_files_and_folders_with_fitting_names_are_no_candidates(tmp_path):
    os.mkfifo(tmp_path / "fifo.h5")
    (tmp_path / "folder.h5").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s.h5"))
    assert look(tmp_path) == Listing((), ())


def test_links_are_not_followed(tmp_path):
    watched, outside = tmp_path / "watched", tmp_path / "outside"
    touch(watched, "a.h5")
    touch(outside, "b.h5")
    (watched / "latest.h5").symlink_to("a.h5")
    (watched / "folder").symlink_to(outside)
    (watched / "loop").symlink_to(watched)
    assert look(watched).problems == ()
    (watched / "b.h5").symlink_to(outside / "b.h5")
    listing = look(watched)
    assert names(listing, watched) == ["a.h5"]
    assert listing.problems == (
        f"{watched}/b.h5: a symbolic link, not followed; watch the folder it leads to",
    )


def test_a_root_behind_a_link_is_listed_under_its_real_name(tmp_path):
    touch(tmp_path, "real/a.h5")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert [candidate.path for candidate in look(tmp_path / "link").candidates] == [
        str(tmp_path / "real/a.h5")
    ]


def test_a_missing_root_is_a_problem_and_no_error(tmp_path):
    assert look(tmp_path / "no").problems == (
        f"{tmp_path}/no: no such folder; it is looked for again at every listing",
    )
    touch(tmp_path, "file")
    assert any("Not a directory" in problem for problem in look(tmp_path / "file").problems)


@pytest.mark.parametrize("name", [b"a\nb.h5", b"a\xff.h5", b"\xff/a.h5"])
def test_a_name_that_cannot_be_written_down_is_a_problem(tmp_path, name):
    path = os.path.join(os.fsencode(tmp_path), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(os.fsdecode(path)).touch()
    listing = look(tmp_path)
    assert listing.candidates == ()
    assert len(listing.problems) == 1
    listing.problems[0].encode()


def test_a_folder_closed_to_the_daemon_is_a_problem_and_the_rest_is_listed():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        touch(folder, "closed/a.h5", "unreadable/b.h5", "open/c.h5")
        (folder / "closed").chmod(0)
        (folder / "unreadable").chmod(0o744)
        with needs.as_nobody():
            listing = look(folder)
        (folder / "closed").chmod(0o755)
        assert names(listing, folder) == ["open/c.h5"]
        assert sorted(listing.problems) == [
            f"{folder}/closed: cannot be looked at: Permission denied; let the daemon's user read it",
            f"{folder}/unreadable/b.h5: cannot be looked at: Permission denied; let the daemon's user read it",
        ]


def test_problems_are_bounded(tmp_path):
    for n in range(MOST_PROBLEMS * 3):
        (tmp_path / f"{n}.h5").symlink_to("/nowhere")
    problems = look(tmp_path).problems
    assert len(problems) == MOST_PROBLEMS + 1
    assert problems[-1] == f"{tmp_path}: further problems of this kind"


def test_a_stopped_watch_lists_no_more(tmp_path):
    touch(tmp_path, "a.h5")
    watch = Watch([], lambda: None)
    watch.start()
    watch.stop()
    root = SimpleNamespace(path=str(tmp_path), patterns=("*.h5",), depth=0)
    assert watch.list_root(root) == Listing((), ())


# --- tracking ---------------------------------------------------------------------------------------------

A = Candidate("/a.h5", 10, 1, 7)


def quiet(tracker: Tracker, now: float, *candidates: Candidate) -> list[tuple[str, float, bool]]:
    return [(o.candidate.path, o.quiet_seconds, o.changed) for o in tracker.observe(candidates, now)]


def test_quiet_begins_at_first_sight_and_grows():
    tracker = Tracker()
    assert quiet(tracker, 100.0, A) == [("/a.h5", 0.0, True)]
    assert quiet(tracker, 103.5, A) == [("/a.h5", 3.5, False)]


@pytest.mark.parametrize("change", [{"size": 11}, {"mtime_ns": 2}, {"inode": 8}, {"mtime_ns": 0}])
def test_any_change_begins_anew(change):
    tracker = Tracker()
    quiet(tracker, 0.0, A)
    other = A._replace(**change)
    assert quiet(tracker, 5.0, other) == [("/a.h5", 0.0, True)]
    assert quiet(tracker, 6.0, other) == [("/a.h5", 1.0, False)]


def test_a_file_that_came_back_is_new():
    tracker = Tracker()
    quiet(tracker, 0.0, A)
    assert quiet(tracker, 1.0) == []
    assert quiet(tracker, 9.0, A) == [("/a.h5", 0.0, True)]


def test_files_that_vanished_are_forgotten():
    tracker = Tracker()
    quiet(tracker, 0.0, *(A._replace(path=f"/{n}") for n in range(1000)))
    quiet(tracker, 1.0, A)
    assert len(tracker._files) == 1


class Disk:
    """Referenced files as a test wants them."""

    def __init__(self, *files: Candidate) -> None:
        self.files = {file.path: file for file in files}

    def look(self, paths):
        return tuple(self.files[path] for path in paths if path in self.files)


def test_references_are_quiet_together():
    disk = Disk(A, Candidate("/b.h5", 5, 1, 8))
    tracker = Tracker(disk.look)
    assert tracker.quiet_of(["/a.h5", "/b.h5"], 10.0) == 0.0
    assert tracker.quiet_of(["/a.h5", "/b.h5"], 14.0) == 4.0
    disk.files["/b.h5"] = Candidate("/b.h5", 6, 1, 8)
    assert tracker.quiet_of(["/a.h5", "/b.h5"], 15.0) == 0.0
    del disk.files["/a.h5"]
    assert tracker.quiet_of(["/a.h5", "/b.h5"], 20.0) == 0.0, "one that goes is a change"
    assert tracker.quiet_of(["/a.h5", "/b.h5"], 22.0) == 2.0


def test_references_nobody_asks_for_are_forgotten():
    tracker = Tracker(Disk(A).look)
    tracker.quiet_of(["/a.h5"], 0.0)
    tracker.observe([], FORGET_SECONDS - 1)
    assert len(tracker._references) == 1
    tracker.observe([], FORGET_SECONDS)
    assert len(tracker._references) == 0


def test_references_are_looked_up_on_disk(tmp_path):
    touch(tmp_path, "a.h5")
    tracker = Tracker()
    paths = [str(tmp_path / "a.h5"), str(tmp_path / "missing"), "with\x00zero"]
    tracker.quiet_of(paths, 0.0)
    assert tracker.quiet_of(paths, 1.0) == 1.0
    (tmp_path / "a.h5").write_bytes(b"more")
    assert tracker.quiet_of(paths, 2.0) == 0.0
