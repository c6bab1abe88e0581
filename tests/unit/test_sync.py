"""Copying and proving: what arrives, what is refused, what a cut leaves."""

import errno
import os
import shutil
import time
from pathlib import Path

import msgspec
import pytest
import xxhash

from srctd.adapters import sync
from srctd.adapters.sync import folders
from srctd.core.errors import (
    DigestMismatch,
    HoldError,
    NoSpace,
    NotPermitted,
    ScanUnreadable,
    SourceChanged,
    StorageUnavailable,
)
from srctd.core.scan import FileEntry, Manifest


def a_file(folder: Path, name: str, data: bytes) -> FileEntry:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, ns=(1_700_000_000_123_456_789, 1_700_000_000_123_456_789))
    return entry_of(folder, name)


def entry_of(folder: Path, name: str) -> FileEntry:
    stat = (folder / name).stat()
    return FileEntry(path=name, size=stat.st_size, mtime_ns=stat.st_mtime_ns)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "detector"
    folder.mkdir()
    return folder


@pytest.fixture
def part(tmp_path):
    account = tmp_path / "shared" / "account"
    account.mkdir(parents=True)
    return account / ".scan.part"


class Telling:
    """A pace that tells a function of every block."""

    def __init__(self, function):
        self.take = function


def telling(function) -> sync.CopyOptions:
    return sync.CopyOptions(pace=Telling(function))


def tree(folder: Path) -> list[str]:
    """The files, but for the notes of a copy, which go when it is published."""
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return [file for file in files if file != sync.PROGRESS]


# --- copying ----------------------------------------------------------------------------------------------


def test_what_is_above_a_copy_is_never_made(source: Path, part: Path) -> None:
    """A missing account folder is that of a file system that is not mounted."""
    wanted = Manifest(folder=str(source), files=(a_file(source, "a", b"1"),))
    part.parent.rmdir()
    with pytest.raises(StorageUnavailable, match="account cannot be written: No such file"):
        sync.copy(wanted, part)
    with pytest.raises(StorageUnavailable, match="account cannot be written: No such file"):
        sync.copy_settled(wanted, {"a": 1}, part)
    assert not part.parent.exists()


def test_a_copy_is_equal_and_proven(source, part):
    large = os.urandom(sync.BLOCK_BYTES + 12_345)
    files = [a_file(source, "a.h5", large), a_file(source, "raw/b.tif", b"frame"), a_file(source, "c", b"")]
    told: list[int] = []
    manifest = sync.copy(Manifest(folder=str(source), files=tuple(files)), part, telling(told.append))
    assert tree(part) == ["input/a.h5", "input/c", "input/raw/b.tif", "manifest.json", "manifest.xxh128"]
    for file in manifest.files:
        copied = part / "input" / file.path
        assert copied.read_bytes() == (source / file.path).read_bytes()
        assert copied.stat().st_mtime_ns == file.mtime_ns
        assert file.digest == xxhash.xxh3_128_hexdigest(copied.read_bytes())
    assert sum(told) == manifest.size == len(large) + 5
    lines = (part / "manifest.xxh128").read_text().splitlines()
    assert lines[1] == f"{manifest.files[1].digest}  input/raw/b.tif"
    assert msgspec.json.decode((part / "manifest.json").read_bytes(), type=Manifest) == manifest


def test_the_digest_is_that_of_the_reference_implementation(source, part):
    manifest = sync.copy(Manifest(folder=str(source), files=(a_file(source, "a", b""),)), part)
    assert manifest.files[0].digest == "99aa06d3014798d86001c324468d497f"


class Enough(Exception):
    """Somebody ends the copy."""


def test_what_was_copied_is_not_copied_again_but_read_back(source, part):
    files = [a_file(source, name, name.encode() * 9) for name in ("a", "b", "c")]
    told: list[int] = []

    def until_c(count: int) -> None:
        told.append(count)
        if len(told) == 3:
            raise Enough

    with pytest.raises(Enough):
        sync.copy(Manifest(folder=str(source), files=tuple(files)), part, telling(until_c))
    assert not (part / "manifest.json").exists()
    with (part / "progress.jsonl").open("ab") as notes:
        notes.write(b'{"path":"c","si')
    (part / "input/b").write_bytes(b"B" * 9)
    inode = (part / "input/a").stat().st_ino
    mtime = (part / "input/a").stat().st_ctime_ns
    manifest = sync.copy(Manifest(folder=str(source), files=tuple(files)), part)
    assert ((part / "input/a").stat().st_ino, (part / "input/a").stat().st_ctime_ns) == (inode, mtime)
    assert (part / "input/b").read_bytes() == b"b" * 9, "a copy that is not what was noted is made anew"
    assert [file.digest for file in manifest.files] == [
        xxhash.xxh3_128_hexdigest(name * 9) for name in (b"a", b"b", b"c")
    ]
    assert tree(part) == ["input/a", "input/b", "input/c", "manifest.json", "manifest.xxh128"]


def test_files_of_an_earlier_attempt_that_are_no_longer_listed_go(source, part):
    sync.copy(
        Manifest(folder=str(source), files=(a_file(source, "a", b"1"), a_file(source, "old/b", b"2"))),
        part,
    )
    sync.copy(Manifest(folder=str(source), files=(entry_of(source, "a"),)), part)
    assert tree(part / "input") == ["a"]


@pytest.mark.parametrize("data", [b"longer than before", b"short", b""])
def test_a_source_that_changed_since_it_was_judged_is_noticed(source, part, data):
    file = a_file(source, "a", b"as judged")
    (source / "a").write_bytes(data)
    with pytest.raises(SourceChanged, match=f"{source}/a changed: {len(data)} bytes instead of 9"):
        sync.copy(Manifest(folder=str(source), files=(file,)), part)


def test_a_source_that_changes_during_the_copy_is_noticed(source, part):
    file = a_file(source, "a", b"x" * 100)
    with pytest.raises(SourceChanged, match="another time of writing"):
        sync.copy(
            Manifest(folder=str(source), files=(file,)), part, telling(lambda _: os.utime(source / "a"))
        )


def test_a_source_that_shrinks_during_the_copy_is_noticed(source, part):
    file = a_file(source, "a", os.urandom(sync.BLOCK_BYTES * 2))
    with pytest.raises(SourceChanged, match="became shorter than 8388608 bytes"):
        sync.copy(
            Manifest(folder=str(source), files=(file,)),
            part,
            telling(lambda _: os.truncate(source / "a", 10)),
        )


def test_a_source_that_vanished_is_noticed(source, part):
    with pytest.raises(SourceChanged, match="is not there any more"):
        sync.copy(Manifest(folder=str(source), files=(FileEntry(path="gone", size=1, mtime_ns=1),)), part)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        *(
            (name, "is no plain relative name")
            for name in ("/etc/passwd", "../a", "a/../../b", "./a", "a//b")
        ),
        *((name, "is no plain relative name") for name in ("", "a/", "a\x00")),
        ("a\udcff", "is not UTF-8"),
    ],
)
def test_names_that_lead_astray_are_refused(source, part, name, what):
    with pytest.raises(ScanUnreadable, match=what):
        sync.copy(Manifest(folder=str(source), files=(FileEntry(path=name, size=1, mtime_ns=1),)), part)
    assert not part.exists()


def test_a_name_twice_is_refused(source, part):
    file = a_file(source, "a", b"1")
    with pytest.raises(ScanUnreadable, match="listed twice"):
        sync.copy(Manifest(folder=str(source), files=(file, file)), part)


def test_letters_of_any_language_pass(source, part):
    name = "样品 ①\u3000Zähne.h5"
    sync.copy(Manifest(folder=str(source), files=(a_file(source, name, b"1"),)), part)
    assert (part / "input" / name).read_bytes() == b"1"


# --- hostile scans ----------------------------------------------------------------------------------------


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def make_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [make_fifo, make_link, make_folder])
@pytest.mark.timeout(20)
def test_what_is_no_regular_file_is_refused_without_waiting(source, part, make):
    make(source / "a.h5")
    with pytest.raises(ScanUnreadable, match=r"a\.h5 is no regular file"):
        sync.copy(Manifest(folder=str(source), files=(FileEntry(path="a.h5", size=1, mtime_ns=1),)), part)
    with pytest.raises(ScanUnreadable):
        sync.digest_in_place(
            Manifest(folder=str(source), files=(FileEntry(path="a.h5", size=1, mtime_ns=1),))
        )


def test_a_link_on_the_way_is_not_followed(source, part, tmp_path):
    secret = a_file(tmp_path / "secrets", "key", b"secret")
    (source / "raw").symlink_to(tmp_path / "secrets")
    with pytest.raises(ScanUnreadable, match="behind a symbolic link"):
        sync.copy(
            Manifest(folder=str(source), files=(msgspec.structs.replace(secret, path="raw/key"),)), part
        )
    assert b"secret" not in b"".join(path.read_bytes() for path in part.rglob("*") if path.is_file())


def test_a_link_planted_in_the_target_is_not_written_through(source, part, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (part / "input").mkdir(parents=True)
    (part / "input/a").symlink_to(victim)
    with pytest.raises(HoldError):
        sync.copy(Manifest(folder=str(source), files=(a_file(source, "a", b"new"),)), part)
    assert victim.read_bytes() == b"precious"


# --- in place ---------------------------------------------------------------------------------------------


def test_a_folder_of_the_copy_that_became_a_link_is_not_written_through(source, part, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    entry = a_file(source, "darks/a.tif", b"dark")
    sync.copy(Manifest(folder=str(source), files=(entry,)), part)
    (part / "input/darks/a.tif").unlink()
    (part / "input/darks").rmdir()
    (part / "input/darks").symlink_to(outside)
    (part / "input/more").symlink_to(outside)
    sync.copy(Manifest(folder=str(source), files=(entry,)), part)
    assert not list(outside.iterdir())
    assert (part / "input/darks/a.tif").read_bytes() == b"dark"
    assert [path.name for path in (part / "input").iterdir()] == ["darks"]
    assert not (part / "input/darks").is_symlink()


@pytest.mark.parametrize(("before", "after"), [("a", "a/b/c.tif"), ("a/b/c.tif", "a"), ("a/b.tif", "c.tif")])
def test_a_file_may_become_a_folder_and_a_folder_a_file(source, part, before, after):
    early = Manifest(folder=str(source), files=(a_file(source, before, b"before"),))
    sync.copy_settled(early, {before: 6}, part)
    shutil.rmtree(source)
    late = Manifest(folder=str(source), files=(a_file(source, after, b"after"),))
    sync.copy(late, part)
    assert (part / "input" / after).read_bytes() == b"after"
    there = {str(path.relative_to(part / "input")) for path in (part / "input").rglob("*")}
    assert there == {after, *map(str, Path(after).parents)} - {"."}


def test_what_is_changed_within_one_tick_of_the_clock_is_copied(source, part, monkeypatch):
    """Where times are kept by the second, a file that was changed within the last may change without a trace."""
    a_file(source, "a.tif", b"first")
    last = time.time_ns() // 1_000_000_000 * 1_000_000_000
    os.utime(source / "a.tif", ns=(last, last))

    def sleep(seconds):  # the detector writes once more, and the time stays the same
        assert 0 < seconds <= 2
        (source / "a.tif").write_bytes(b"other")
        os.utime(source / "a.tif", ns=(last, last))

    monkeypatch.setattr(time, "sleep", sleep)
    sync.copy(Manifest(folder=str(source), files=(entry_of(source, "a.tif"),)), part)
    assert (part / "input/a.tif").read_bytes() == b"other"


def test_files_on_shared_storage_are_proven_where_they_are(source, part):
    file = a_file(source, "raw/a.h5", b"frames")
    manifest = sync.digest_in_place(Manifest(folder=str(source), files=(file,)))
    sync.link_input(part, str(source))
    sync.write_manifest(part, manifest)
    assert (part / "manifest.xxh128").read_text() == (
        f"{xxhash.xxh3_128_hexdigest(b'frames')}  input/raw/a.h5\n"
    )
    assert tree(part) == ["manifest.json", "manifest.xxh128"]
    with pytest.raises(SourceChanged):
        sync.digest_in_place(Manifest(folder=str(source), files=(msgspec.structs.replace(file, size=5),)))


def test_nothing_is_written_or_removed_through_the_link_to_files_left_in_place(source, part):
    file = a_file(source, "raw/a.h5", b"frames")
    a_file(source, ".old.part", b"a name that is swept in task folders")
    wanted = Manifest(folder=str(source), files=(file,))
    before = tree(source)
    final = part.with_name("scan")

    def link():
        sync.link_input(part, str(source))
        sync.write_manifest(part, sync.digest_in_place(wanted))

    link()
    link()
    sync.publish(part, final)
    assert (final / "input/raw/a.h5").read_bytes() == b"frames"
    assert sync.published(final) == sync.digest_in_place(wanted)
    sync.sweep(final)
    link()
    sync.publish(part, final)
    sync.replace_folder(final, part.with_name("other"))
    sync.remove_folder(part.with_name("other"))
    link()
    other = source.with_name("another")
    sync.copy(Manifest(folder=str(other), files=(a_file(other, "b", b"b"),)), part)
    assert not (part / "input").is_symlink()
    assert tree(source) == before
    assert tree(part) == ["input/b", "manifest.json", "manifest.xxh128"]


def test_inside_looks_through_links(tmp_path):
    (tmp_path / "shared/raw").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "shared/raw")
    assert sync.inside(tmp_path / "link/scan.h5", tmp_path / "shared")
    assert sync.inside(tmp_path / "shared", tmp_path / "shared")
    assert not sync.inside(tmp_path / "shared2/scan.h5", tmp_path / "shared")
    assert not sync.inside(tmp_path / "shared/../other", tmp_path / "shared")


# --- publishing -------------------------------------------------------------------------------------------


def test_publishing_twice_is_publishing_once(source, part):
    file = a_file(source, "a", b"1")
    final = part.with_name("scan")
    assert sync.published(final) is None
    for _ in range(2):
        manifest = sync.copy(Manifest(folder=str(source), files=(file,)), part)
        sync.publish(part, final)
        assert sorted(os.listdir(final)) == ["input", "manifest.json", "manifest.xxh128"]
        assert os.listdir(final / "input") == ["a"]
        assert not part.exists()
    sync.publish(part, final)
    assert sync.published(final) == manifest


def test_a_folder_of_somebody_else_is_not_touched(source, part):
    final = part.with_name("scan")
    (final / "theirs").mkdir(parents=True)
    sync.copy(Manifest(folder=str(source), files=(a_file(source, "a", b"1"),)), part)
    with pytest.raises(DigestMismatch, match="is not the copy of this scan"):
        sync.publish(part, final)
    assert (final / "theirs").is_dir()
    assert (part / "manifest.json").is_file()


def test_a_broken_manifest_is_a_sentence(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DigestMismatch, match="no manifest"):
        sync.published(tmp_path)


# --- replacing --------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


def killed_before(one: Path, other: Path) -> bool:
    raise Killed


def killed_after(one: Path, other: Path) -> bool:
    assert folders.exchange_names(one, other)
    raise Killed


def cannot(one: Path, other: Path) -> bool:
    return False


def make(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "volume").write_text(text)
    return folder


@pytest.mark.parametrize("exchange", [folders.exchange_names, cannot])
def test_a_redone_folder_takes_the_old_one_s_place(tmp_path, exchange):
    final = tmp_path / "output"
    for text in ("first", "second", "third"):
        sync.replace_folder(make(tmp_path / ".output.part-12ab", text), final, exchange)
        assert (final / "volume").read_text() == text
        assert os.listdir(tmp_path) == ["output"]


@pytest.mark.parametrize(("exchange", "left"), [(killed_before, "old"), (killed_after, "new")])
def test_killed_in_the_exchange_one_of_them_is_whole(tmp_path, exchange, left):
    final = make(tmp_path / "output", "old")
    with pytest.raises(Killed):
        sync.replace_folder(make(tmp_path / ".output.part-12ab", "new"), final, exchange)
    assert (final / "volume").read_text() == left
    assert not (tmp_path / ".output.part-12ab").exists(), "no remainder is taken for a growing part"
    sync.replace_folder(make(tmp_path / ".output.part-12ab", "again"), final)
    assert (final / "volume").read_text() == "again"
    assert os.listdir(tmp_path) == ["output"]


def test_the_exchange_is_available_here(tmp_path):
    one, other = make(tmp_path / "one", "1"), make(tmp_path / "other", "2")
    assert folders.exchange_names(one, other)
    assert (one / "volume").read_text() == "2"
    with pytest.raises(FileNotFoundError):
        folders.exchange_names(one, tmp_path / "nowhere")


def test_sweep_takes_the_remainders_and_nothing_else(tmp_path):
    for name in (".output.part-12ab", ".preview.part-1", ".output.part-swap", "output", ".config"):
        make(tmp_path / name, "x")
    (tmp_path / ".record.json.part-00ff").write_text("{")
    (tmp_path / "record.json").write_text("{}")
    (tmp_path / ".x.part").symlink_to(tmp_path / "output")
    assert sync.sweep(tmp_path) == ()
    assert sorted(os.listdir(tmp_path)) == [".config", "output", "record.json"]
    assert (tmp_path / "output/volume").exists()


# --- small files and errors -------------------------------------------------------------------------------


def test_a_small_file_is_replaced_whole(tmp_path):
    for data in (b"one", b"two" * 1000):
        sync.write_atomic(tmp_path / "record.json", data)
        assert (tmp_path / "record.json").read_bytes() == data
    assert os.listdir(tmp_path) == ["record.json"]


def test_a_file_that_cannot_be_written_is_a_sentence_and_leaves_nothing(tmp_path):
    (tmp_path / "record.json").mkdir()
    with pytest.raises(HoldError, match=r"record\.json cannot be written: Is a directory"):
        sync.write_atomic(tmp_path / "record.json", b"{}")
    assert os.listdir(tmp_path) == ["record.json"]
    with pytest.raises(StorageUnavailable):
        sync.write_atomic(tmp_path / "nowhere" / "record.json", b"{}")


def test_digest_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sync.digest_file(tmp_path / "a") == (xxhash.xxh3_128_hexdigest(b"abc"), 3)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, NoSpace),
        (errno.EDQUOT, NoSpace),
        (errno.EACCES, NotPermitted),
        (errno.EPERM, NotPermitted),
        (errno.EIO, StorageUnavailable),
        (errno.ESTALE, StorageUnavailable),
        (errno.ETIMEDOUT, StorageUnavailable),
        (errno.ENODEV, StorageUnavailable),
        (errno.EROFS, StorageUnavailable),
        (errno.ENOTCONN, StorageUnavailable),
        (errno.ENAMETOOLONG, HoldError),
    ],
)
def test_every_error_says_what_happens_next(code, kind):
    error = sync.storage_error(OSError(code, os.strerror(code)), "/shared/a cannot be written")
    assert type(error) is kind
    assert str(error) == f"/shared/a cannot be written: {os.strerror(code)}"
    assert error.hint
