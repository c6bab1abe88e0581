"""The listing: what is below a root, how long it has been so, how seldom a folder at rest is looked at."""

import os
import socket
import tempfile
from pathlib import Path
from types import SimpleNamespace

import needs
import pytest

from srctd.adapters.listing import ACTIVE_SECONDS, FORGET_SECONDS, MOST_PROBLEMS, Listing, References
from srctd.adapters.watch import file_system


def root_at(folder, *patterns, depth=3, listing_seconds=5.0, rest_listing_seconds=300.0):
    return SimpleNamespace(
        path=str(folder),
        patterns=patterns or ("*.h5", "*.nxs", "*.tif"),
        depth=depth,
        listing_seconds=listing_seconds,
        rest_listing_seconds=rest_listing_seconds,
    )


def looked(folder, *patterns, depth=3):
    listing = Listing(root_at(folder, *patterns, depth=depth))
    listing.look((), 0.0)
    return listing


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(listing: Listing, folder: Path) -> list[str]:
    return sorted(os.path.relpath(path, folder) for path in listing.groups)


# --- what is there ----------------------------------------------------------------------------------------


def test_a_scan_has_its_files_sizes_and_newest_time(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"12345")
    (tmp_path / "a.h5.done").write_bytes(b"1")
    listing = looked(tmp_path)
    listed = listing.groups[str(tmp_path / "a.h5")]
    assert (listed.files, listed.bytes, listed.folder) == (2, 6, str(tmp_path))
    assert listed.newest_ns == (tmp_path / "a.h5.done").stat().st_mtime_ns
    manifest = listing.manifest(listed)
    assert manifest.main == str(tmp_path / "a.h5")
    assert [(file.path, file.size) for file in manifest.files] == [("a.h5", 5), ("a.h5.done", 1)]


def test_a_stack_is_its_folder(tmp_path):
    touch(tmp_path, "s/tif/a1.tif", "s/tif/a2.tif", "s/a.log")
    listing = looked(tmp_path)
    listed = listing.groups[str(tmp_path / "s")]
    manifest = listing.manifest(listed)
    assert manifest.main == str(tmp_path / "s")
    assert [file.path for file in manifest.files] == ["a.log", "tif/a1.tif", "tif/a2.tif"]


def test_names_are_compared_without_regard_to_case(tmp_path):
    touch(tmp_path, "SCAN.H5", "scan.nxs", "scan.dat", "h5")
    assert names(looked(tmp_path), tmp_path) == ["SCAN.H5", "scan.nxs"]
    assert names(looked(tmp_path, "scan.[hd]*"), tmp_path) == ["SCAN.H5", "scan.dat"]


def test_without_a_pattern_nothing_is_a_scan(tmp_path):
    touch(tmp_path, "a.h5")
    root = root_at(tmp_path)
    root.patterns = ()
    listing = Listing(root)
    listing.look((), 0.0)
    assert listing.groups == {}


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
    assert names(looked(tmp_path, "*"), tmp_path) == ["b.h5"]


@pytest.mark.parametrize(("depth", "found"), [(0, 1), (1, 2), (2, 3), (9, 3)])
def test_the_depth_is_kept(tmp_path, depth, found):
    touch(tmp_path, "a.h5", "1/a.h5", "1/2/a.h5")
    assert len(looked(tmp_path, depth=depth).groups) == found


def test_folders_below_the_depth_are_named(tmp_path):
    touch(tmp_path, "1/2/a.h5", "3/a.h5")
    listing = looked(tmp_path, depth=1)
    assert listing.problems == (
        f"{tmp_path}: folders more than 1 levels below it are not looked at, such as {tmp_path}/1/2; set depth",
    )
    (tmp_path / "1/2/a.h5").unlink()
    (tmp_path / "1/2").rmdir()
    listing.look([str(tmp_path / "1")], 10.0)
    assert listing.problems == ()


def test_special_files_and_folders_with_fitting_names_are_no_scans(tmp_path):
    os.mkfifo(tmp_path / "fifo.h5")
    (tmp_path / "folder.h5").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s.h5"))
    listing = looked(tmp_path)
    assert (listing.groups, listing.problems) == ({}, ())


def test_links_are_not_followed(tmp_path):
    watched, outside = tmp_path / "watched", tmp_path / "outside"
    touch(watched, "a.h5")
    touch(outside, "b.h5")
    (watched / "latest.h5").symlink_to("a.h5")
    (watched / "loop").symlink_to(watched)
    assert looked(watched).problems == ()
    (watched / "b.h5").symlink_to(outside / "b.h5")
    listing = looked(watched)
    assert names(listing, watched) == ["a.h5"]
    assert listing.problems == (
        f"{watched}/b.h5: a symbolic link, not followed; watch the folder it leads to",
    )


def test_a_root_behind_a_link_is_listed_under_its_real_name(tmp_path):
    touch(tmp_path, "real/a.h5")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert list(looked(tmp_path / "link").groups) == [str(tmp_path / "real/a.h5")]


def test_a_root_that_comes_later_behind_a_link_is_found_there(tmp_path):
    listing = looked(tmp_path / "link")
    assert listing.problems
    touch(tmp_path, "real/a.h5")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    listing.look((), 10.0)
    assert list(listing.groups) == [str(tmp_path / "real/a.h5")]
    assert listing.problems == ()


def test_a_missing_root_is_a_problem_and_no_error_and_is_found_when_it_comes(tmp_path):
    listing = Listing(root_at(tmp_path / "no"))
    listing.look((), 0.0)
    assert listing.problems == (f"{tmp_path}/no: no such folder; it is looked for again at every listing",)
    assert listing.seconds_to_next(0.0) > 0
    touch(tmp_path, "no/a.h5")
    listing.look((), 5.0)
    assert (names(listing, tmp_path), listing.problems) == (["no/a.h5"], ())


@pytest.mark.parametrize("name", [b"a\nb.h5", b"a\xff.h5", b"\xff/a.h5"])
def test_a_name_that_cannot_be_written_down_is_a_problem(tmp_path, name):
    path = os.path.join(os.fsencode(tmp_path), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(os.fsdecode(path)).touch()
    listing = looked(tmp_path)
    assert listing.groups == {}
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
            listing = looked(folder)
        (folder / "closed").chmod(0o755)
        assert names(listing, folder) == ["open/c.h5"]
        assert sorted(listing.problems) == [
            f"{folder}/closed: cannot be looked at: Permission denied; let the daemon's user read it",
            f"{folder}/unreadable/b.h5: cannot be looked at: Permission denied; let the daemon's user read it",
        ]


def test_problems_are_bounded(tmp_path):
    for n in range(MOST_PROBLEMS * 3):
        touch(tmp_path, f"{n}/a.h5")
        (tmp_path / f"{n}/b.h5").symlink_to("/nowhere")
    problems = looked(tmp_path).problems
    assert len(problems) == MOST_PROBLEMS + 1
    assert problems[-1] == f"{tmp_path}: {MOST_PROBLEMS * 2} problems more"


# --- what changes -----------------------------------------------------------------------------------------


def test_any_change_of_a_member_changes_the_fingerprint(tmp_path):
    touch(tmp_path, "s/1.tif", "s/2.tif")
    listing = Listing(root_at(tmp_path))
    prints = []
    for now, change in enumerate(
        (
            lambda: None,
            lambda: (tmp_path / "s/2.tif").write_bytes(b"1"),
            lambda: os.utime(tmp_path / "s/1.tif"),
        )
    ):
        change()
        listing.look([str(tmp_path / "s")], now * 10.0)
        prints.append(listing.groups[str(tmp_path / "s")].fingerprint)
    assert len(set(prints)) == 3


def test_files_and_folders_that_vanish_are_forgotten(tmp_path):
    touch(tmp_path, "s/tif/1.tif", "s/a.log", "b.h5")
    listing = Listing(root_at(tmp_path))
    listing.look((), 0.0)
    (tmp_path / "b.h5").unlink()
    for path in (tmp_path / "s/tif/1.tif", tmp_path / "s/a.log"):
        path.unlink()
    (tmp_path / "s/tif").rmdir()
    (tmp_path / "s").rmdir()
    listing.look((), 5.0)
    assert listing.groups == {}
    assert list(listing._folders) == [str(tmp_path)]


def test_a_manifest_is_refused_where_the_files_are_not_as_listed(tmp_path):
    touch(tmp_path, "a.h5")
    listing = looked(tmp_path)
    listed = listing.groups[str(tmp_path / "a.h5")]
    (tmp_path / "a.h5").write_bytes(b"more")
    assert listing.manifest(listed) is None
    (tmp_path / "a.h5").unlink()
    assert listing.manifest(listed) is None


class Counted(Listing):
    """Counts the folders that are listed."""

    def __init__(self, root):
        super().__init__(root)
        self.listed: list[str] = []

    def _list(self, path, *rest):
        self.listed.append(os.path.basename(path))
        return super()._list(path, *rest)

    def since(self):
        listed, self.listed = sorted(self.listed), []
        return listed


def test_a_folder_at_rest_is_listed_when_its_own_time_changes_and_every_few_minutes(tmp_path):
    touch(tmp_path, "1/a.h5", "2/a.h5")
    listing = Counted(root_at(tmp_path))
    listing.look((), 0.0)
    listing.since()
    listing.look((), ACTIVE_SECONDS)
    assert listing.since() == sorted([tmp_path.name, "1", "2"]), "still active"
    now = ACTIVE_SECONDS + 5
    listing.look((), now)
    listing.since()
    listing.look((), now + 5)
    assert listing.since() == [], "at rest"
    touch(tmp_path, "2/b.h5")
    listing.look((), now + 10)
    assert listing.since() == ["2"]
    (tmp_path / "1/a.h5").write_bytes(b"more")  # no sign of it in the folder
    listing.look((), now + 15)
    assert "1" not in listing.since()
    before = listing.groups[str(tmp_path / "1/a.h5")].fingerprint
    listing.look((), now + 310)
    assert "1" in listing.since()
    assert listing.groups[str(tmp_path / "1/a.h5")].fingerprint != before


def test_a_bell_has_a_folder_listed_at_once(tmp_path):
    touch(tmp_path, "1/a.h5", "2/a.h5")
    listing = Counted(root_at(tmp_path))
    listing.look((), 0.0)
    listing.since()
    listing.look([str(tmp_path / "2")], 0.5)
    assert listing.since() == ["2"]


def test_a_folder_that_holds_what_is_still_to_be_judged_stays_active(tmp_path):
    touch(tmp_path, "1/a.h5", "2/a.h5")
    listing = Counted(root_at(tmp_path))
    listing.busy = {str(tmp_path / "1/a.h5")}
    for now in range(0, 200, 5):
        listing.look((), float(now))
        last = listing.since()
    assert last == ["1"]


def test_a_costly_folder_is_listed_less_often(tmp_path):
    touch(tmp_path, "1/a.h5")
    listing = Counted(root_at(tmp_path))
    listing.look((), 0.0)
    folder = listing._folders[str(tmp_path / "1")]
    folder.cost, folder.due = 2.0, 200.0
    listing.since()
    listing.look([str(tmp_path / "1")], 9.0)
    assert "1" not in listing.since(), "not even for a bell"
    listing.look((), 20.0)
    assert "1" in listing.since()


def test_names_of_folders_at_rest_are_not_kept_and_are_found_again(tmp_path):
    touch(tmp_path, "s/1.tif", "s/2.tif")
    listing = Listing(root_at(tmp_path))
    listing.look((), 0.0)
    listing.look((), ACTIVE_SECONDS + 5)
    listing.look((), ACTIVE_SECONDS + 10)
    assert listing._folders[str(tmp_path / "s")].files is None
    listed = listing.groups[str(tmp_path / "s")]
    assert len(listing.manifest(listed).files) == 2


def test_a_look_again_is_due_when_it_was_asked_for(tmp_path):
    touch(tmp_path, "1/a.h5")
    listing = Listing(root_at(tmp_path))
    listing.look((), 0.0)
    listed = listing.groups[str(tmp_path / "1/a.h5")]
    listing.look_again(listed, 1.5)
    assert listing.seconds_to_next(0.5) == pytest.approx(1.0, abs=0.2)
    listing.look((), 1.6)
    assert listing.looked_at(listed) == 1.6


# --- files outside ----------------------------------------------------------------------------------------


def test_references_are_quiet_together_and_forgotten_when_nobody_asks(tmp_path):
    touch(tmp_path, "a.h5", "b.h5")
    paths = [str(tmp_path / "a.h5"), str(tmp_path / "b.h5"), "with\x00zero"]
    references = References()
    assert references.quiet_of(paths, 10.0) == 0.0
    assert references.quiet_of(paths, 14.0) == 4.0
    (tmp_path / "b.h5").write_bytes(b"more")
    assert references.quiet_of(paths, 15.0) == 0.0
    (tmp_path / "a.h5").unlink()
    assert references.quiet_of(paths, 20.0) == 0.0, "one that goes is a change"
    assert references.quiet_of(paths, 22.0) == 2.0
    references.quiet_of(["/other"], 22.0 + FORGET_SECONDS)
    assert len(references._seen) == 1


# --- file systems -----------------------------------------------------------------------------------------

MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 22 0:35 / /data rw - nfs4 server:/export rw,vers=4.2,acregmin=3,acregmax=90,hard
41 40 0:36 / /data/fresh rw - nfs server:/export rw,noac
42 22 0:37 / /mnt/with\\040blank rw - fuse.sshfs host:/ rw
43 22 0:38 / /gpfs rw - gpfs gpfs0 rw
"""


@pytest.mark.parametrize(
    ("path", "kind", "remote", "cache"),
    [
        ("/home/x", "ext4", False, 0.0),
        ("/data/scans", "nfs4", True, 90.0),
        ("/data/fresh/scans", "nfs", True, 0.0),
        ("/mnt/with blank/x", "fuse.sshfs", True, 0.0),
        ("/gpfs", "gpfs", True, 0.0),
        ("/dataset", "ext4", False, 0.0),
    ],
)
def test_the_file_system_of_a_root_is_known(tmp_path, path, kind, remote, cache):
    (tmp_path / "mounts").write_text(MOUNTS)
    assert file_system(path, str(tmp_path / "mounts")) == (kind, remote, cache)


def test_an_unknown_one_counts_as_local(tmp_path):
    assert file_system("/x", str(tmp_path / "missing")) == ("unknown", False, 0.0)
