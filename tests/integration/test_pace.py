"""The pace of real copies: a process of its own, real files, what the kernel says of its threads."""

import asyncio
import os
import platform
import threading
import time
from pathlib import Path

import needs
import pytest

from srctd.adapters import sync
from srctd.adapters.pace import PRIORITIES, Paces, io_priority_of
from srctd.config import WatchSection
from srctd.core.errors import StorageUnavailable
from srctd.core.scan import FileEntry, Manifest

LIMIT = 2.0
"""Megabytes per second."""


def scan(root: Path, *sizes: int) -> Manifest:
    root.mkdir()
    entries = []
    for number, size in enumerate(sizes):
        path = root / f"{number}.raw"
        path.write_bytes(os.urandom(size))
        entries.append(FileEntry(path=path.name, size=size, mtime_ns=path.stat().st_mtime_ns))
    return Manifest(folder=str(root), files=tuple(entries))


async def copy(paces: Paces, manifest: Manifest, part: Path, canceled: threading.Event) -> tuple[float, int]:
    """Copy a scan as the daemon does; return how long it took, and the thread's identifier."""
    async with paces.place(manifest.folder, urgent=True):
        pace = paces.pace(manifest.folder, canceled)

        def in_thread() -> tuple[float, int]:
            began = time.monotonic()
            with paces.priority(manifest.folder):
                sync.copy(manifest, part, sync.CopyOptions(pace=pace))
            return time.monotonic() - began, threading.get_native_id()

        return await asyncio.to_thread(in_thread)


def test_a_copy_is_not_faster_than_its_roots_limit_and_holds_nobody_else_up(tmp_path: Path) -> None:
    sections = [
        WatchSection(path=str(tmp_path / "slow"), copy_megabytes_per_second=LIMIT),
        WatchSection(path=str(tmp_path / "fast")),
    ]
    slow, fast = scan(tmp_path / "slow", 2_000_000, 3_000_000), scan(tmp_path / "fast", 10_000_000)

    async def scenario() -> None:
        paces = Paces(sections, 2, str(tmp_path))
        slowly = asyncio.create_task(copy(paces, slow, tmp_path / "slow.part", threading.Event()))
        await asyncio.sleep(0)
        await copy(paces, fast, tmp_path / "fast.part", threading.Event())
        assert not slowly.done()
        took, _ = await slowly
        assert took >= slow.size / (LIMIT * 1e6) - 0.2

    asyncio.run(scenario())
    assert (tmp_path / "slow.part/input/1.raw").read_bytes() == (tmp_path / "slow/1.raw").read_bytes()


def test_a_copy_that_waits_for_its_pace_ends_when_it_is_canceled(tmp_path: Path) -> None:
    section = WatchSection(path=str(tmp_path / "slow"), copy_megabytes_per_second=0.001)
    manifest, canceled = scan(tmp_path / "slow", 1_000_000), threading.Event()

    async def scenario() -> None:
        paces = Paces([section], 1, str(tmp_path))
        asyncio.get_running_loop().call_later(0.2, canceled.set)
        async with asyncio.timeout(20):
            with pytest.raises(StorageUnavailable, match="interrupted"):
                await copy(paces, manifest, tmp_path / "part", canceled)

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["low", "idle"])
def test_the_copying_thread_has_its_roots_priority_while_it_copies(tmp_path: Path, name: str) -> None:
    if platform.machine() not in ("x86_64", "aarch64"):
        needs.missing("no number of ioprio_get is known here")
    section = WatchSection(path=str(tmp_path / "root"), io_priority=name, copy_megabytes_per_second=1.0)
    manifest, canceled = scan(tmp_path / "root", 2_000_000), threading.Event()

    def priorities() -> set[int]:
        return {io_priority_of(int(task)) for task in os.listdir("/proc/self/task")}

    async def scenario() -> None:
        paces = Paces([section], 1, str(tmp_path))
        assert PRIORITIES[name] not in priorities()
        copying = asyncio.create_task(copy(paces, manifest, tmp_path / "part", canceled))
        async with asyncio.timeout(20):
            while PRIORITIES[name] not in priorities():  # noqa: ASYNC110 - the kernel does not ring
                await asyncio.sleep(0.01)
        await copying
        assert PRIORITIES[name] not in priorities(), "the thread serves others after that"

    asyncio.run(scenario())
