"""What copies cost the detector: how long its writes take while scans are copied from the disk to which it writes.

    python tests/bench/detector_unharmed.py [--seconds 20] [--megabytes 512] [--rate 200]

As root. A simulated detector writes 4 MB at a time past the page cache to an ext4 of its own, once as fast as the
disk takes it and once at 60 % of that; meanwhile another process copies a scan from the same file system, again and
again, the page cache of its source dropped before every round, which is the worst that copies can do: the detector
is alone, beside copies that yield to nothing, and beside copies at the daemon's pace. The disk is a loop device on
a file in memory, that a FUSE process serves one request after the other, at so many megabytes per second in all.
Prints what the detector got, how long its writes took, and how much was copied beside them.
"""

import argparse
import asyncio
import mmap
import multiprocessing
import os
import shutil
import stat
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import NamedTuple

import fuse

sys.path.insert(0, str(Path(__file__).parents[1]))

from srctd.adapters import sync
from srctd.adapters.pace import Paces
from srctd.config import WatchSection
from srctd.core.errors import StorageUnavailable
from srctd.core.scan import FileEntry, Manifest, ReadBack

PIECE = 4 << 20
FILES = 8
WAYS = ("alone", "copies at full speed", "copies at the daemon's pace")


class Seen(NamedTuple):
    megabytes_per_second: float
    median_ms: float
    p99_ms: float
    longest_ms: float


# --- the detector -----------------------------------------------------------------------------------------


def acquire(path: Path, size: int, seconds: float, rate: float) -> Seen:
    """Write a file over and over, past the page cache; `rate`: bytes per second at most."""
    frame = mmap.mmap(-1, PIECE)  # aligned, as the disk wants it
    frame.write(os.urandom(PIECE))
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
    took, began = [], time.perf_counter()
    while (now := time.perf_counter()) - began < seconds:
        os.pwrite(target, frame, len(took) * PIECE % size)
        took.append(time.perf_counter() - now)
        ahead = len(took) * PIECE / rate - (time.perf_counter() - began)
        if ahead > 0:
            time.sleep(ahead)
    wall = time.perf_counter() - began
    os.close(target)
    cuts = statistics.quantiles(took, n=100)
    return Seen(
        len(took) * PIECE / wall / 1e6, 1000 * statistics.median(took), 1000 * cuts[98], 1000 * max(took)
    )


# --- the copies -------------------------------------------------------------------------------------------


def copy_again_and_again(
    way: str, root: str, shared: str, stop: Event, copied: "multiprocessing.Queue[int]"
) -> None:
    """Copy a scan until told to stop; then say how many bytes were read for it."""
    manifest = scan(Path(root) / "scan")
    canceled = threading.Event()
    threading.Thread(target=lambda: stop.wait() and canceled.set(), daemon=True).start()
    taken = asyncio.run(at_pace(way, manifest, root, shared, canceled))
    copied.put(taken)


async def at_pace(way: str, manifest: Manifest, root: str, shared: str, canceled: threading.Event) -> int:
    paces = Paces([WatchSection(path=root)], 1, shared)
    observing = asyncio.create_task(paces.run_forever()) if way == WAYS[2] else None
    async with paces.place(root, urgent=True):
        pace = Counted(paces.pace(root, canceled))

        def copy() -> None:
            with paces.priority(root):
                while not canceled.is_set():
                    drop_from_cache(manifest)
                    part = Path(shared) / "part"
                    sync.copy(manifest, part, sync.CopyOptions(pace=pace, read_back=ReadBack.NONE))
                    shutil.rmtree(part)

        with suppress(StorageUnavailable):  # canceled
            await asyncio.to_thread(copy)
    if observing:
        print("  ", paces.facts()[0]["why"] or "not limited at the end", flush=True)
        observing.cancel()
    return pace.taken


class Counted:
    """A pace that remembers."""

    def __init__(self, pace: sync.Pace) -> None:
        self._pace = pace
        self.taken = 0

    def take(self, count: int) -> None:
        self._pace.take(count)
        self.taken += count


def scan(folder: Path) -> Manifest:
    stats = {path.name: path.stat() for path in sorted(folder.iterdir())}
    files = tuple(FileEntry(path=n, size=s.st_size, mtime_ns=s.st_mtime_ns) for n, s in stats.items())
    return Manifest(folder=str(folder), files=files)


def drop_from_cache(manifest: Manifest) -> None:
    for file in manifest.files:
        descriptor = os.open(f"{manifest.folder}/{file.path}", os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


# --- the place --------------------------------------------------------------------------------------------


class SlowFile(fuse.Operations):  # type: ignore[misc]
    """One file, of which reads and writes together have a rate."""

    def __init__(self, backing: str, rate: float) -> None:
        self._descriptor = os.open(backing, os.O_RDWR)
        self._rate = rate
        self._free_at = 0.0

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}
        size = os.fstat(self._descriptor).st_size
        return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": size}

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        self._serve(size)
        return os.pread(self._descriptor, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self._serve(len(data))
        return os.pwrite(self._descriptor, data, offset)

    def _serve(self, count: int) -> None:
        now = time.perf_counter()
        self._free_at = max(now, self._free_at) + count / self._rate
        if self._free_at - now > 0.001:  # a shorter sleep lasts longer than it should
            time.sleep(self._free_at - now)


def serve(backing: str, mount: str, rate: float) -> None:
    fuse.FUSE(
        SlowFile(backing, rate), mount, foreground=True, nothreads=True, direct_io=True, big_writes=True
    )


@contextmanager
def disk(folder: Path, size: int, rate: float) -> Iterator[Path]:
    """A file system on a disk with a rate."""
    image, served, mount = folder / "disk.img", folder / "served", folder / "detector"
    served.mkdir()
    mount.mkdir()
    with image.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True)
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(str(image), str(served), rate))
    server.start()
    try:
        while not served.is_mount():
            time.sleep(0.05)
        subprocess.run(["mount", "-o", "loop", served / "disk.img", mount], check=True)
        try:
            yield mount
        finally:
            subprocess.run(["umount", mount], check=True)
    finally:
        subprocess.run(["fusermount", "-u", served], check=True)
        server.join()


def one_case(
    way: str, root: Path, shared: Path, size: int, seconds: float, rate: float
) -> tuple[Seen, float]:
    """What the detector saw, and megabytes per second that were copied beside it."""
    stop: Event = multiprocessing.get_context("spawn").Event()
    copied: multiprocessing.Queue[int] = multiprocessing.get_context("spawn").Queue()
    copier = multiprocessing.get_context("spawn").Process(
        target=copy_again_and_again, args=(way, str(root), str(shared), stop, copied)
    )
    if way != WAYS[0]:
        copier.start()
        while not (shared / "part").exists():
            time.sleep(0.01)
    began = time.monotonic()
    seen = acquire(root / "acquired.raw", size, seconds, rate)
    wall = time.monotonic() - began
    if way == WAYS[0]:
        return seen, 0.0
    stop.set()
    taken = copied.get(timeout=60)
    copier.join()
    shutil.rmtree(shared / "part", ignore_errors=True)
    return seen, taken / wall / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--megabytes", type=int, default=512, help="of the scan, and of the detector's file")
    parser.add_argument("--rate", type=float, default=200.0, help="of the disk, megabytes per second")
    options = parser.parse_args()
    size = options.megabytes << 20
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as folder,
        tempfile.TemporaryDirectory(dir="/dev/shm") as shared,
        disk(Path(folder), size * 5 // 2, options.rate * 1e6) as root,
    ):
        (root / "scan").mkdir()
        for number in range(FILES):
            (root / "scan" / f"{number}.raw").write_bytes(os.urandom(size // FILES))
        os.sync()
        acquire(root / "acquired.raw", size, 3.0, float("inf"))
        print(
            f"{'detector':<10}{'':<30}{'MB/s':>8}{'median ms':>11}{'p99 ms':>9}{'longest':>9}{'copied MB/s':>13}"
        )
        rate = float("inf")
        for load in ("all", "60 %"):
            for way in WAYS:
                seen, beside = one_case(way, root, Path(shared), size, options.seconds, rate)
                numbers = "".join(
                    f"{value:>{width}.1f}" for value, width in zip(seen, (8, 11, 9, 9), strict=True)
                )
                print(f"{load:<10}{way:<30}{numbers}{beside:>13.1f}", flush=True)
                if load == "all" and way == WAYS[0]:
                    full = seen.megabytes_per_second
            rate = 0.6 * full * 1e6


if __name__ == "__main__":
    main()
