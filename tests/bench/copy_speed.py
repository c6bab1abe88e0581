"""How fast scans are copied, beside `cp` and `rsync -a` on the same files.

    python tests/bench/copy_speed.py [--megabytes 4000] [--files 20000] [--kilobytes 100] [--rounds 3]
                                      [--ways "cp -r" "rsync -a" srctd ...]

Prints, for one large file and for many small ones, medians of wall time and of processor time, the throughput, and
the peak memory of a process that copied and did nothing else. Where the caches can be dropped (as root), every copy
begins with none. srctd's copies are digested, durable and sampled; `cp` and rsync leave it to the kernel when data
are written to the disk, and so both followed by `sync` are shown as well. The order changes from round to round.
Copies are emptied and stay until the end: ext4 is slow to make files for minutes after as many were removed.
"""

import argparse
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from srctd.adapters import sync
from srctd.core.scan import FileEntry, Manifest, ReadBack

CACHES = Path("/proc/sys/vm/drop_caches")


class Run(NamedTuple):
    """What one copy took."""

    wall: float
    processor: float
    """Seconds of all its threads, in the kernel and outside."""
    peak: int
    """Bytes of memory."""


def make(folder: Path, files: int, size: int) -> None:
    """So many files of random bytes, no two alike."""
    folder.mkdir(parents=True)
    block = random.Random(1).randbytes(min(size, 8 << 20))
    for number in range(files):
        with (folder / f"frame_{number:06}.tif").open("wb") as file:
            left = size
            while left:
                file.write((number.to_bytes(8, "little") + left.to_bytes(8, "little") + block[16:])[:left])
                left -= min(left, len(block))


def by_srctd(read_back: ReadBack) -> Callable[[Path, Path], None]:
    def copy(source: Path, target: Path) -> None:
        entries = []
        for found in sorted(os.scandir(source), key=lambda found: found.name):
            stat = found.stat()
            entries.append(FileEntry(path=found.name, size=stat.st_size, mtime_ns=stat.st_mtime_ns))
        part = target.with_name(".copy.part")
        sync.copy(
            Manifest(folder=str(source), files=tuple(entries)), part, sync.CopyOptions(read_back=read_back)
        )
        sync.publish(part, target)

    return copy


def by_program(*command: str, then_sync: bool = False) -> Callable[[Path, Path], None]:
    def copy(source: Path, target: Path) -> None:
        subprocess.run([*command, f"{source}/", f"{target}/"], check=True)
        if then_sync:
            subprocess.run(["sync", "-f", target], check=True)

    return copy


WAYS = {
    "cp -r": by_program("cp", "-r", "-T"),
    "cp -r, sync": by_program("cp", "-r", "-T", then_sync=True),
    "rsync -a": by_program("rsync", "-a"),
    "rsync -a, sync": by_program("rsync", "-a", then_sync=True),
    "srctd": by_srctd(ReadBack.SAMPLED),
    "srctd, not read back": by_srctd(ReadBack.NONE),
    "srctd, all read back": by_srctd(ReadBack.FULL),
}


def timed(way: str, source: Path, target: Path) -> Run:
    """Copy in a process of its own."""
    os.sync()
    if os.access(CACHES, os.W_OK):
        CACHES.write_text("3")
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        WAYS[way](source, target)
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        target.with_name("usage").write_text(
            f"{sum(usage.ru_utime + usage.ru_stime for usage in usages)}"
            f" {max(usage.ru_maxrss for usage in usages[: 1 if 'srctd' in way else 2])}"
        )
        os._exit(0)
    _, status = os.waitpid(child, 0)
    wall = time.perf_counter() - began
    if status:
        sys.exit(f"{way} failed")
    processor, peak = target.with_name("usage").read_text().split()
    for path in target.rglob("*"):
        if path.is_file():
            os.truncate(path, 0)
    return Run(wall, float(processor), int(peak) << 10)


def compare(title: str, folder: Path, files: int, size: int, rounds: int, ways: Sequence[str]) -> None:
    """Print a table."""
    source = folder / "source"
    make(source, files, size)
    runs: dict[str, list[Run]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in ways if number % 2 == 0 else ways[::-1]:
            runs[way].append(timed(way, source, folder / f"target-{number}-{way}"))
    shutil.rmtree(source)
    print(f"\n{title}, median of {rounds}")
    print(f"{'':22}{'s':>8}{'MB/s':>8}{'of 1st':>8}{'cpu s':>8}{'MB':>6}   all")
    reference = statistics.median(run.wall for run in runs[ways[0]])
    for way in ways:
        wall = statistics.median(run.wall for run in runs[way])
        processor = statistics.median(run.processor for run in runs[way])
        peak = max(run.peak for run in runs[way]) / 1e6
        every = " ".join(f"{run.wall:.2f}" for run in runs[way])
        rate = files * size / 1e6 / wall
        print(f"{way:22}{wall:8.2f}{rate:8.0f}{reference / wall:8.2f}{processor:8.2f}{peak:6.0f}   {every}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=4_000)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--kilobytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--folder", default=tempfile.gettempdir())
    options = parser.parse_args()
    if not os.access(CACHES, os.W_OK):
        print("not root: what is copied may be in memory already")
    ways = [way for way in options.ways if shutil.which("rsync") or "rsync" not in way]
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        if options.megabytes:
            title = f"one file of {options.megabytes} MB"
            compare(title, Path(name) / "large", 1, options.megabytes * 10**6, options.rounds, ways)
        if options.files:
            title = f"{options.files} files of {options.kilobytes} kB"
            compare(
                title, Path(name) / "small", options.files, options.kilobytes * 10**3, options.rounds, ways
            )


if __name__ == "__main__":
    main()
