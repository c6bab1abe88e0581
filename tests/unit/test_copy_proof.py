"""What storage does not keep is found by reading back, put right once, and held after that."""

import errno
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import xxhash

from srctd.adapters import sync
from srctd.adapters.sync import proof
from srctd.adapters.sync.target import Target
from srctd.core.errors import DigestMismatch, SourceChanged, StorageUnavailable
from srctd.core.scan import BLOCK_BYTES, FileEntry, Manifest, ReadBack

Write = Callable[[int, memoryview, int], int]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "detector").mkdir()
    (tmp_path / "shared").mkdir()
    (tmp_path / "detector/large").write_bytes(os.urandom(BLOCK_BYTES * 3 + 7))
    for number in range(5):
        (tmp_path / f"detector/small{number}").write_bytes(os.urandom(1000))
    return tmp_path / "detector"


def copy(source: Path, how: ReadBack) -> Manifest:
    entries = []
    for path in sorted(source.iterdir()):
        stat = path.stat()
        entries.append(FileEntry(path=path.name, size=stat.st_size, mtime_ns=stat.st_mtime_ns))
    part = source.parent / "shared/.scan.part"
    return sync.copy(
        Manifest(folder=str(source), files=tuple(entries)), part, sync.CopyOptions(read_back=how)
    )


def corrupting(monkeypatch: pytest.MonkeyPatch, times: int, after: Sequence[int] = ()) -> None:
    """Storage flips a bit of what is written at these offsets, or anywhere; so many times."""
    written: Write = os.pwrite
    left = [times]

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        if left[0] and (not after or offset in after):
            left[0] -= 1
            wrong = bytearray(data)
            wrong[len(wrong) // 2] ^= 1
            return written(descriptor, memoryview(wrong), offset)
        return written(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)


def check(source: Path, manifest: Manifest) -> None:
    for file in manifest.files:
        data = (source.parent / "shared/.scan.part/input" / file.path).read_bytes()
        assert data == (source / file.path).read_bytes()
        assert file.digest == xxhash.xxh3_128_hexdigest(data)


@pytest.mark.parametrize("times", [1, 6])
def test_what_differs_is_written_once_more(source: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    corrupting(monkeypatch, times)
    check(source, copy(source, ReadBack.FULL))


def test_what_differs_again_is_held_with_both_digests(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corrupting(monkeypatch, 2, after=(BLOCK_BYTES,))
    wanted = xxhash.xxh3_128_hexdigest((source / "large").read_bytes()[BLOCK_BYTES : 2 * BLOCK_BYTES])
    with pytest.raises(DigestMismatch) as caught:
        copy(source, ReadBack.FULL)
    found = (source.parent / "shared/.scan.part/input/large").read_bytes()[BLOCK_BYTES : 2 * BLOCK_BYTES]
    assert f"/input/large: the block at byte {BLOCK_BYTES} reads back as " in str(caught.value)
    assert xxhash.xxh3_128_hexdigest(found) in str(caught.value)
    assert wanted in str(caught.value)
    check(source, copy(source, ReadBack.FULL))


def test_nothing_is_put_right_from_a_source_that_is_another_one(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_again(*arguments: object) -> memoryview:
        (source / "large").write_bytes(bytes(BLOCK_BYTES * 3 + 7))
        return original(*arguments)  # type: ignore[arg-type]

    original = proof._read_again
    monkeypatch.setattr(proof, "_read_again", read_again)
    corrupting(monkeypatch, 1, after=(BLOCK_BYTES,))
    with pytest.raises(SourceChanged, match=f"large changed while it was copied: .* byte {BLOCK_BYTES} "):
        copy(source, ReadBack.FULL)


def test_a_sample_is_the_first_and_the_last_block_and_some(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proven: list[tuple[str, int]] = []
    original = proof._prove

    def prove(target: Target, entry: FileEntry, number: int, folder: str) -> None:
        proven.append((entry.path, number))
        original(target, entry, number, folder)

    monkeypatch.setattr(proof, "_prove", prove)
    copy(source, ReadBack.SAMPLED)
    large = [number for name, number in proven if name == "large"]
    small = [name for name, _ in proven if name != "large"]
    assert {0, 3} <= set(large)
    assert len(large) <= 3
    assert len(small) == 1, "one small file is a sample for all"
    proven.clear()
    assert set(proof._sampled(range(1000))) >= {0, 999}
    assert 10 <= len(list(proof._sampled(range(1000)))) <= 12


def test_nothing_is_read_back_where_nobody_asks_for_it(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "_prove", None)
    check(source, copy(source, ReadBack.NONE))


def test_short_writes_are_gone_on_with(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: Write = os.pwrite
    monkeypatch.setattr(
        os, "pwrite", lambda descriptor, data, at: written(descriptor, data[: 1 + len(data) // 2], at)
    )
    check(source, copy(source, ReadBack.NONE))


def open_files() -> list[str]:
    names = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:
            continue
    return names


def test_an_error_of_the_target_ends_all_threads_and_closes_all_files(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: Write = os.pwrite

    def failing(descriptor: int, data: memoryview, offset: int) -> int:
        if offset >= BLOCK_BYTES:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return written(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", failing)
    with pytest.raises(StorageUnavailable, match=r"input/large cannot be written: Input/output error"):
        copy(source, ReadBack.FULL)
    assert not [name for name in open_files() if name.startswith(str(source.parent))]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("copy-")]
    monkeypatch.undo()
    check(source, copy(source, ReadBack.FULL))


def test_what_an_fsync_refused_is_not_found_in_memory_the_next_time(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells of a failed write-back once, and keeps in memory what the disk never got."""
    refused: set[str] = set()
    fsync, forgotten = os.fsync, []

    def failing(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if name.endswith("/large") and name not in refused:
            refused.add(name)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StorageUnavailable):
        copy(source, ReadBack.NONE)
    fadvise = os.posix_fadvise

    def telling(descriptor: int, offset: int, length: int, advice: int) -> None:
        if advice == os.POSIX_FADV_DONTNEED:
            forgotten.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fadvise(descriptor, offset, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", telling)
    check(source, copy(source, ReadBack.NONE))
    assert forgotten.count("large") == 4, "every block"
