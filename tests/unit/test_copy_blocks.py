"""Copies go on where they were: block by block, of files that were cut short, grew, or changed."""

import errno
import os
import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from srctd.adapters import sync
from srctd.adapters.sync import notes
from srctd.core.errors import SourceChanged, StorageUnavailable
from srctd.core.scan import BLOCK_BYTES, FileEntry, Manifest, ReadBack

NAME = "scan.h5"
BEGIN_NS = 1_700_000_000_000_000_000


class Scan:
    """A file that a detector writes, its copy, and what was done for that."""

    def __init__(self, folder: Path) -> None:
        self.source, self.part = folder / "detector", folder / "shared/.scan.part"
        self.source.mkdir(parents=True)
        self.part.parent.mkdir()
        self.file, self.copied = self.source / NAME, self.part / "input" / NAME
        self.read = 0
        self._clock = BEGIN_NS

    def write(self, offset: int, data: bytes) -> None:
        """As a detector does, at another time."""
        with self.file.open("r+b" if self.file.exists() else "wb") as file:
            file.seek(offset)
            file.write(data)
        self.touch()

    def touch(self) -> None:
        self._clock += 10_000_000_000
        os.utime(self.file, ns=(self._clock, self._clock))

    def manifest(self) -> Manifest:
        stat = self.file.stat()
        entry = FileEntry(path=NAME, size=stat.st_size, mtime_ns=stat.st_mtime_ns)
        return Manifest(folder=str(self.source), files=(entry,))

    def settled(self, upto: int) -> None:
        self.read = 0
        sync.copy_settled(self.manifest(), {NAME: upto}, self.part, self.options())

    def copy(self) -> FileEntry:
        self.read = 0
        return sync.copy(self.manifest(), self.part, self.options()).files[0]

    def left(self) -> int:
        return sync.bytes_left(self.manifest(), self.part)

    def options(self) -> sync.CopyOptions:
        return sync.CopyOptions(pace=self, read_back=ReadBack.NONE)

    def take(self, count: int) -> None:
        self.read += count

    def check(self, entry: FileEntry) -> None:
        data = self.file.read_bytes()
        assert self.copied.read_bytes() == data
        assert entry.digest == xxhash.xxh3_128_hexdigest(data)
        blocks = [data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES)]
        digests = tuple(xxhash.xxh3_128_hexdigest(block) for block in blocks)
        assert entry.blocks == (digests if len(blocks) > 1 else ())
        assert self.copied.stat().st_mtime_ns == self.file.stat().st_mtime_ns


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    return Scan(tmp_path)


@pytest.fixture
def restart(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes this process another one, as far as notes tell."""
    return notes._run_of.cache_clear


@pytest.fixture(autouse=True)
def this_process() -> Iterator[None]:
    yield
    notes._run_of.cache_clear()


def noise(count: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(count)


# --- growing ----------------------------------------------------------------------------------------------


def test_of_a_growing_file_whole_blocks_are_copied_once(scan: Scan) -> None:
    scan.write(0, noise(BLOCK_BYTES * 2 + 5))
    scan.settled(BLOCK_BYTES + 5)
    assert scan.read == BLOCK_BYTES
    assert scan.left() == BLOCK_BYTES + 5
    scan.settled(BLOCK_BYTES + 5)
    assert scan.read == 0
    scan.write(BLOCK_BYTES * 2 + 5, noise(BLOCK_BYTES, 1))
    scan.settled(BLOCK_BYTES * 2)
    assert scan.read == BLOCK_BYTES
    assert scan.left() == BLOCK_BYTES + 5
    scan.check(scan.copy())
    assert scan.left() == 0


def test_what_an_fsync_refused_the_next_one_does_not_prove(
    scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells of a failed write-back once and drops the data; what is written later goes to the disk."""
    scan.write(0, noise(BLOCK_BYTES * 2))
    scan.settled(BLOCK_BYTES)
    scan.write(BLOCK_BYTES * 2, noise(BLOCK_BYTES * 2, 1))

    def refused(descriptor: int) -> None:
        os.pwrite(descriptor, bytes(BLOCK_BYTES), BLOCK_BYTES)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", refused)
        with pytest.raises(StorageUnavailable):
            scan.settled(BLOCK_BYTES * 2)
    scan.settled(BLOCK_BYTES * 3)
    scan.write(0, b"a header")
    scan.check(scan.copy())


def test_at_the_end_only_blocks_that_changed_are_written(scan: Scan) -> None:
    scan.write(0, noise(BLOCK_BYTES * 4))
    scan.settled(BLOCK_BYTES * 4 - 1)
    scan.write(10, b"a header")
    kept = scan.copied.open("rb")
    scan.check(scan.copy())
    lines = (scan.part / sync.PROGRESS).read_bytes().splitlines()
    overwritten = [msgspec.json.decode(line)["first"] for line in lines if b'"blocks":[""]' in line]
    assert overwritten == [0]
    assert os.fstat(kept.fileno()).st_ino == scan.copied.stat().st_ino
    kept.close()


def test_a_copy_made_ahead_is_only_looked_at(scan: Scan) -> None:
    scan.write(0, noise(BLOCK_BYTES * 2))
    entry = scan.copy()
    before = scan.copied.stat()
    assert scan.copy() == entry
    assert scan.read == 0
    assert scan.copied.stat().st_ctime_ns == before.st_ctime_ns
    scan.touch()
    again = scan.copy()
    assert (again.digest, again.blocks) == (entry.digest, entry.blocks)
    assert scan.read == BLOCK_BYTES * 2, "who knows what changed"
    scan.check(again)


def test_a_closed_file_is_copied_while_others_are_still_written(scan: Scan) -> None:
    scan.write(0, noise(1000))
    scan.settled(1000)
    assert scan.left() == 0
    scan.settled(1000)
    assert scan.read == 0
    scan.check(scan.copy())
    assert scan.read == 0


def test_a_file_that_became_shorter_than_what_settled_is_noticed(scan: Scan) -> None:
    scan.write(0, noise(100))
    seen = FileEntry(path=NAME, size=BLOCK_BYTES + 1, mtime_ns=0)
    with pytest.raises(SourceChanged, match=f"became shorter than {BLOCK_BYTES} bytes"):
        sync.copy_settled(Manifest(folder=str(scan.source), files=(seen,)), {NAME: BLOCK_BYTES}, scan.part)


def test_a_file_that_shrank_is_cut(scan: Scan) -> None:
    scan.write(0, noise(BLOCK_BYTES * 2 + 5))
    scan.copy()
    os.truncate(scan.file, BLOCK_BYTES - 3)
    scan.touch()
    scan.check(scan.copy())


# --- after a restart --------------------------------------------------------------------------------------


def test_what_another_process_copied_is_read_back(scan: Scan, restart: Callable[[], None]) -> None:
    scan.write(0, noise(BLOCK_BYTES * 3))
    entry = scan.copy()
    restart()
    assert scan.copy() == entry
    assert scan.read == 0, "the source has not changed, and is not read again: the copy is"
    with scan.copied.open("r+b") as file:
        file.seek(BLOCK_BYTES + 7)
        file.write(b"rot")
    os.utime(scan.copied, ns=(entry.mtime_ns, entry.mtime_ns))
    restart()
    assert scan.copy() == entry
    assert scan.read == BLOCK_BYTES, "one block was put right"
    scan.check(entry)


@pytest.mark.parametrize("lost", ["notes", "copy", "half the copy", "nothing"])
def test_whatever_a_power_loss_takes(scan: Scan, restart: Callable[[], None], lost: str) -> None:
    scan.write(0, noise(BLOCK_BYTES * 2 + 9))
    scan.settled(BLOCK_BYTES * 2)
    restart()
    if lost == "notes":
        (scan.part / sync.PROGRESS).unlink()
    elif lost == "copy":
        scan.copied.unlink()
    elif lost == "half the copy":
        os.truncate(scan.copied, BLOCK_BYTES + 1)
    scan.check(scan.copy())
    assert scan.read <= BLOCK_BYTES * 2 + 9


@pytest.mark.parametrize(
    "torn",
    [
        b'{"file":{"path":"scan.h5","size":8',
        b"\0" * 4096,
        b'{"file":5}\n{"run":[]}\n[]\n"x"\nnull\n',
        b'{"file":{"path":"scan.h5","size":9,"mtime_ns":1,"blocks":["00"]},"first":0}\n',
        b'{"file":{"path":"scan.h5","size":9,"mtime_ns":1},"durable":true}\n',
        b"\xff\xfe\n",
    ],
)
def test_notes_that_are_none_are_ignored_and_false_ones_found_out(scan: Scan, torn: bytes) -> None:
    scan.write(0, noise(BLOCK_BYTES + 9))
    scan.settled(BLOCK_BYTES)
    with (scan.part / sync.PROGRESS).open("ab") as file:
        file.write(torn)
    scan.check(scan.copy())


def test_what_somebody_wrote_into_the_copy_is_noticed(scan: Scan) -> None:
    scan.write(0, noise(1000))
    scan.copy()
    scan.copied.write_bytes(bytes(1000))
    scan.check(scan.copy())


def test_memory_that_waits_to_be_written_is_left_alone(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is slow; blocks that need not be written are read meanwhile."""
    scan.write(0, noise(BLOCK_BYTES * 8))
    scan.copy()
    scan.write(0, noise(BLOCK_BYTES * 3, 1))
    scan.read = 0
    far, written = threading.Event(), os.pwrite

    def slow(descriptor: int, data: memoryview, offset: int) -> int:
        assert far.wait(30)
        return written(descriptor, data, offset)

    class Tells:
        def take(self, count: int) -> None:
            scan.read += count
            if scan.read > BLOCK_BYTES * 7:
                far.set()

    monkeypatch.setattr(os, "pwrite", slow)
    options = sync.CopyOptions(pace=Tells(), read_back=ReadBack.NONE)
    scan.check(sync.copy(scan.manifest(), scan.part, options).files[0])


class Enough(Exception):
    """Somebody ends the copy."""


def test_what_was_copied_before_somebody_ended_it_is_not_copied_again(scan: Scan) -> None:
    size = BLOCK_BYTES * 3 + 1

    class Ends(Scan):
        def take(self, count: int) -> None:
            super().take(count)
            if self.read > BLOCK_BYTES * 2:
                raise Enough

    scan.write(0, noise(size))
    impatient = Ends.__new__(Ends)
    impatient.__dict__.update(scan.__dict__)
    with pytest.raises(Enough):
        impatient.copy()
    assert scan.left() == size - BLOCK_BYTES * 2
    entry = scan.copy()
    assert scan.read == size - BLOCK_BYTES * 2
    scan.check(entry)


def test_a_block_that_failed_to_be_overwritten_is_not_believed(
    scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source changes, the writing of that breaks off in the middle, and the source is changed back."""
    first, second = noise(BLOCK_BYTES * 2), noise(BLOCK_BYTES, 1)
    scan.write(0, first)
    scan.copy()
    scan.write(0, second)

    def torn(descriptor: int, data: memoryview, offset: int) -> int:
        os.lseek(descriptor, offset, os.SEEK_SET)
        os.write(descriptor, data[:1000])
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", torn)
        with pytest.raises(StorageUnavailable):
            scan.copy()
    scan.write(0, first[:BLOCK_BYTES])
    scan.check(scan.copy())


# --- holes ------------------------------------------------------------------------------------------------


def test_holes_stay_holes_and_are_told(scan: Scan) -> None:
    scan.file.touch()
    os.truncate(scan.file, BLOCK_BYTES * 3)
    scan.write(BLOCK_BYTES + 4096, noise(4096))
    if scan.file.stat().st_blocks * 512 >= scan.file.stat().st_size:
        pytest.skip("this file system knows no holes")
    entry = scan.copy()
    scan.check(entry)
    assert entry.hole_bytes == BLOCK_BYTES * 3 - 4096
    assert scan.copied.stat().st_blocks * 512 < BLOCK_BYTES


def test_zeros_that_were_written_are_written(scan: Scan) -> None:
    scan.write(0, bytes(BLOCK_BYTES + 5))
    entry = scan.copy()
    scan.check(entry)
    assert entry.hole_bytes == 0
    assert scan.copied.stat().st_blocks * 512 >= BLOCK_BYTES


def test_a_hole_where_there_was_data_takes_its_place(scan: Scan) -> None:
    scan.write(0, noise(BLOCK_BYTES * 2))
    scan.copy()
    os.truncate(scan.file, 0)
    os.truncate(scan.file, BLOCK_BYTES * 2)
    scan.write(0, b"x")
    scan.check(scan.copy())


# --- whatever happens -------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 3 * BLOCK_BYTES // 2)),
        st.tuples(st.just("rewrite"), st.integers(0, 3 * BLOCK_BYTES)),
        st.tuples(st.just("truncate"), st.integers(0, 3 * BLOCK_BYTES)),
        st.tuples(st.just("settled"), st.integers(0, BLOCK_BYTES)),
        st.tuples(st.sampled_from(["closed", "copy", "restart", "rot"]), st.just(0)),
    ),
    min_size=3,
    max_size=9,
)


def apply(scan: Scan, step: str, number: int) -> None:
    size = scan.file.stat().st_size
    if step == "append":
        scan.write(size, noise(number, number))
    elif step == "rewrite":
        scan.write(min(number, size), noise(100, number))
    elif step == "truncate":
        os.truncate(scan.file, min(number, size))
        scan.touch()
    elif step == "settled":
        scan.settled(max(0, size - number))
    elif step == "closed":
        scan.settled(size)
    elif step == "copy":
        scan.check(scan.copy())
    elif step == "restart":
        notes._run_of.cache_clear()
    elif scan.copied.is_file() and scan.copied.stat().st_size > 5:
        notes._run_of.cache_clear()
        with scan.copied.open("r+b") as file:
            file.seek(5)
            file.write(b"rot")


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_whatever_happens_the_copy_is_the_source(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        scan = Scan(Path(name))
        scan.write(0, b"begin")
        for step, number in steps:
            apply(scan, step, number)
        scan.check(scan.copy())
        assert scan.left() == 0


def test_a_scan_that_is_moved_away_while_it_is_copied_is_noticed(scan: Scan) -> None:
    """What is open could still be read."""
    scan.write(0, noise(1000))

    class Moves:
        def take(self, count: int) -> None:
            if count:
                scan.source.rename(scan.source.with_name("away"))

    with pytest.raises(SourceChanged, match=r"scan\.h5 is not there any more"):
        sync.copy(scan.manifest(), scan.part, sync.CopyOptions(pace=Moves()))
