"""Copies on file systems of several kinds: shared blocks, holes, and many files at once."""

import os
from collections.abc import Iterator
from pathlib import Path

import disks
import pytest
from proofs import check_manifest, digest_of

from srctd.adapters import space, sync
from srctd.adapters.sync import kernel
from srctd.core.scan import BLOCK_BYTES, FileEntry, Manifest, ReadBack


def manifest_of(folder: Path) -> Manifest:
    entries = []
    for path in sorted(folder.iterdir()):
        stat = path.stat()
        entries.append(FileEntry(path=path.name, size=stat.st_size, mtime_ns=stat.st_mtime_ns))
    return Manifest(folder=str(folder), files=tuple(entries))


@pytest.fixture(params=["xfs", "btrfs"])
def sharing(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A disk on which files can share blocks; source and target lie there."""
    with disks.disk(tmp_path, 512, "mount", request.param) as mount:
        (mount / "detector").mkdir()
        (mount / "shared").mkdir()
        yield mount


def test_on_one_file_system_a_large_file_takes_no_space_twice(
    sharing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = sharing / "detector/large"
    large.write_bytes(os.urandom(6 * BLOCK_BYTES))
    (sharing / "detector/small").write_bytes(b"small")
    os.sync()
    before = space.free_bytes(sharing)
    shared: list[bool] = []
    original = kernel.clone

    def clone(source: int, target: int) -> bool:
        shared.append(original(source, target))
        return shared[-1]

    monkeypatch.setattr(kernel, "clone", clone)
    part, final = sharing / "shared/.scan.part", sharing / "shared/scan"
    manifest = sync.copy(manifest_of(sharing / "detector"), part, sync.CopyOptions(read_back=ReadBack.FULL))
    sync.publish(part, final)
    assert shared == [True]
    assert before - space.free_bytes(sharing) < BLOCK_BYTES
    assert check_manifest(final) == 2
    assert manifest.files[0].digest == digest_of(large)

    with large.open("r+b") as file:  # the detector's own program writes on: the copy stays as it was
        file.write(b"another")
    assert digest_of(final / "input/large") == manifest.files[0].digest


def test_what_was_shared_is_put_right_block_by_block(sharing: Path) -> None:
    large = sharing / "detector/large"
    large.write_bytes(os.urandom(3 * BLOCK_BYTES))
    part = sharing / "shared/.scan.part"
    sync.copy(manifest_of(sharing / "detector"), part)
    before = digest_of(large)
    with large.open("r+b") as file:
        file.seek(BLOCK_BYTES)
        file.write(b"index")
    manifest = sync.copy(manifest_of(sharing / "detector"), part)
    assert digest_of(part / "input/large") == manifest.files[0].digest == digest_of(large) != before


@pytest.mark.parametrize("kind", list(disks.MAKE))
def test_holes_on_all_kinds(tmp_path: Path, kind: str) -> None:
    (tmp_path / "detector").mkdir()
    sparse = tmp_path / "detector/sparse"
    with sparse.open("wb") as file:
        file.truncate(5 * BLOCK_BYTES)
        file.seek(2 * BLOCK_BYTES + (1 << 20))
        file.write(os.urandom(1 << 20))
    with disks.disk(tmp_path, 512, "mount", kind) as mount:
        manifest = sync.copy(
            manifest_of(tmp_path / "detector"),
            mount / ".scan.part",
            sync.CopyOptions(read_back=ReadBack.FULL),
        )
        copied = mount / ".scan.part/input/sparse"
        assert manifest.files[0].digest == digest_of(copied) == digest_of(sparse)
        assert manifest.files[0].hole_bytes == 5 * BLOCK_BYTES - (1 << 20)
        assert copied.stat().st_blocks * 512 < 2 << 20


def test_of_many_files_few_are_open(tmp_path: Path) -> None:
    (tmp_path / "detector").mkdir()
    (tmp_path / "shared").mkdir()
    for number in range(1000):
        (tmp_path / f"detector/{number:04}").write_bytes(number.to_bytes(2, "little"))
    most = 0

    class Counting:
        def take(self, _: int) -> None:
            nonlocal most
            most = max(most, len(os.listdir("/proc/self/fd")))

    before = len(os.listdir("/proc/self/fd"))
    part = tmp_path / "shared/.scan.part"
    sync.copy(manifest_of(tmp_path / "detector"), part, sync.CopyOptions(pace=Counting()))
    assert most - before < 512
    assert len(os.listdir("/proc/self/fd")) == before
    assert check_manifest(part) == 1000
