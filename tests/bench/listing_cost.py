"""What watching costs: 2,000 scan folders at rest, a scan of 100,000 files while it is quiet, the first look at
both.

python tests/bench/listing_cost.py [--files 100000] [--folders 2000]
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

from srctd.adapters.listing import ACTIVE_SECONDS, Listing
from srctd.config import WatchSection


def touch(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        (folder / f"proj_{number:06}.tif").touch()


def at_rest(folder: Path, folders: int) -> None:
    for number in range(folders):
        touch(folder / f"scan{number:05}", 3)
    listing = Listing(WatchSection(path=str(folder)))
    print(f"{folders} scan folders: first look {timed(listing, 0.0):.3f} s")
    timed(listing, ACTIVE_SECONDS + 5)
    rounds = [timed(listing, ACTIVE_SECONDS + 10 + 5 * n) for n in range(9)]
    print(f"  at rest, one round of listing: median {sorted(rounds)[4] * 1e3:.1f} ms")


def quiet(folder: Path, count: int) -> None:
    """Simulated time: ten minutes in which nothing happens, a look a second, as while a verdict is awaited."""
    touch(folder / "scan", count)
    listing = Listing(WatchSection(path=str(folder)))
    first = timed(listing, 0.0)
    listing.busy = {str(folder / "scan")}
    began = time.process_time()
    for second in range(1, 601):
        listing.look((), float(second))
    share = (time.process_time() - began) / 600
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(
        f"{count} files: first look {first:.2f} s, while quiet {share:.2%} of a core, peak memory {peak:.0f} MB"
    )


def timed(listing: Listing, now: float) -> float:
    began = time.perf_counter()
    listing.look((), now)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--folders", type=int, default=2_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "rest").mkdir()
        at_rest(Path(name) / "rest", options.folders)
        for count in (options.files // 4, options.files // 2, options.files):
            (Path(name) / str(count)).mkdir()
            quiet(Path(name) / str(count), count)


if __name__ == "__main__":
    main()
