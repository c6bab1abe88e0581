"""What it costs to find scans and to judge them.

    python tests/bench/judging_cost.py [--files 100000] [--folders 2000] [--seconds 30]

Prints, for stacks of so many small TIFF files and for fractions of that: one look (listing, probe, judgment), time
per file, peak memory of a process that did that and nothing else. Then what a daemon takes of a core while the
largest of them is quiet: one that waits for a frame, one that waits for its settle time, one that was handed over.
Its root is listed every 0.5 s, ten times as often as by default. Then one round of listing over many scan folders
at rest.
"""

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from site_under_test import Site, running

from srctd.adapters.listing import ACTIVE_SECONDS, Listing
from srctd.config import WatchSection
from srctd.core.completion import Rule, State, judge
from srctd.formats import probe
from srctd.sim import SimulationSpec, simulate
from srctd.sim.parameters import PARAMETER_FILE, parameter_text, parameters

REFERENCES = 10
"""Flat and dark fields each."""


# --- what is judged ---------------------------------------------------------------------------------------


def stack(folder: Path, files: int, missing: int = 0) -> Path:
    """A stack of one small frame again and again, in folders by role; `missing` more are announced."""
    spec = SimulationSpec(rows=4, columns=16, angles=1, flats=REFERENCES, darks=REFERENCES, format="kit")
    path = folder / "scan"
    simulate(spec, str(path))
    frame = (path / "radios" / "image_00000.tif").read_bytes()
    projections = files - 2 * REFERENCES - 1
    for number in range(1, projections):
        (path / "radios" / f"image_{number:05}.tif").write_bytes(frame)
    announced = SimulationSpec(
        rows=4, columns=16, angles=projections + missing, flats=REFERENCES, darks=REFERENCES, format="kit"
    )
    (path / PARAMETER_FILE).write_text(parameter_text(parameters(announced), "json"))
    return path


def one_look(folder: str, files: int) -> tuple[float, float, float, float]:
    """Seconds of listing, probe and judgment; peak memory, MB."""
    listing = Listing(WatchSection(path=folder))
    times = [time.perf_counter()]
    listing.look((), 0.0)
    times.append(time.perf_counter())
    seen = probe(f"{folder}/scan")
    times.append(time.perf_counter())
    verdict = judge(seen, 1e3, Rule())
    times.append(time.perf_counter())
    assert verdict.state is State.COMPLETE, verdict
    assert listing.groups[os.path.realpath(f"{folder}/scan")].files == files
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return times[1] - times[0], times[2] - times[1], times[3] - times[2], peak


def looks(folder: Path, most: int) -> None:
    print(f"{'files':>8} {'listing s':>10} {'probe s':>10} {'judge ms':>10} {'us/file':>8} {'peak MB':>8}")
    for files in (most // 8, most // 4, most // 2, most):
        own = folder / str(files)
        own.mkdir()
        stack(own, files)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            listing, probing, judging, peak = pool.apply(one_look, (str(own), files))
        each = (listing + probing + judging) / files * 1e6
        print(f"{files:8} {listing:10.2f} {probing:10.2f} {judging * 1e3:10.2f} {each:8.1f} {peak:8.0f}")


# --- while nothing happens --------------------------------------------------------------------------------


def quiet(folder: Path, files: int, seconds: float) -> None:
    """What the daemon takes of a core, its reader included, while nothing below its root changes."""
    few = files // 10  # copying is no part of this, and takes its time
    cases = {
        "waits for a frame": (files, 1, 600.0),
        "has a frame cut short": (files, 0, 600.0),
        "was copied and waits to settle": (few, 0, 600.0),
        "was handed over": (few, 0, 0.8),
    }
    for number, (what, (count, missing, settle)) in enumerate(cases.items()):
        site = Site(
            folder / str(number),
            workers=0,
            catalog="",
            stalled_seconds=600.0,
            unmarked_settle_seconds=settle,
        )
        path = stack(site.detector, count, missing)
        if "cut" in what:
            os.truncate(path / "radios" / "image_00007.tif", 100)
        with running(site):
            if settle < 1:
                site.scan("running", seconds=300.0)
                site.copied("scan")
            else:
                site.until(lambda site=site: frames_found(site), "it was judged")
            if "copied" in what:
                site.until(lambda site=site, count=count: copies(site) >= count, "it was copied ahead")
            time.sleep(5.0)
            print(f"{count} files, a scan that {what}: {share(site, seconds):.2%} of a core")
            assert site.stop() == 0


def frames_found(site: Site) -> object:
    return [row for row in site.ask("status")["arriving"] if row["frames_found"]]


def copies(site: Site) -> int:
    return sum(path.suffix == ".tif" for path in site.shared.rglob("*")) + 1


def share(site: Site, seconds: float) -> float:
    """Of a core, over some seconds, by the daemon and its children."""
    assert site.process
    before = cpu_seconds(site.process.pid)
    time.sleep(seconds)
    return (cpu_seconds(site.process.pid) - before) / seconds


def cpu_seconds(pid: int) -> float:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for task in tasks for child in task.read_text().split()]
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own + sum(map(cpu_seconds, children))


# --- many scans at rest -----------------------------------------------------------------------------------


def at_rest(folder: Path, folders: int) -> None:
    for number in range(folders):
        (folder / f"scan{number:05}").mkdir()
        for frame in range(3):
            (folder / f"scan{number:05}" / f"proj_{frame:06}.tif").touch()
    listing = Listing(WatchSection(path=str(folder)))
    print(f"{folders} scan folders: first look {timed(listing, 0.0):.3f} s")
    timed(listing, ACTIVE_SECONDS + 5)
    rounds = sorted(timed(listing, ACTIVE_SECONDS + 10 + 5 * n) for n in range(9))
    print(f"{folders} scan folders at rest: one round of listing {rounds[4] * 1e3:.1f} ms (median of 9)")


def timed(listing: Listing, now: float) -> float:
    began = time.perf_counter()
    listing.look((), now)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--folders", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for part in ("looks", "quiet", "rest"):
            (Path(name) / part).mkdir()
        at_rest(Path(name) / "rest", options.folders)
        looks(Path(name) / "looks", options.files)
        quiet(Path(name) / "quiet", options.files, options.seconds)


if __name__ == "__main__":
    main()
