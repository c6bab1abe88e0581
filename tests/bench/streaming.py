"""How soon after the verdict a scan that was copied while it was acquired has its verified copy.

    python tests/bench/streaming.py [--gigabytes 4] [--seconds 60] [--settle 2] [--folder /tmp]

A detector writes a scan of that size in that time below the watched root of a real daemon: one HDF5 file that
grows, and a stack of TIFF files. Prints, by the times of the daemon's journal, the seconds from the verdict to the
end of the step in which the copy appears under its name, verified; and what was left to copy when it was ended.
"""

import argparse
import json
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import proofs
from site_under_test import Site, running

from srctd.sim.writer import SimulationSpec, simulate

ROWS = COLUMNS = 1024
FRAME_BYTES = 2 * ROWS * COLUMNS
REFERENCES = 10
"""Flat and dark fields each."""


def acquire(site: Site, kind: str, gigabytes: float, seconds: float) -> tuple[Path, float]:
    """Write a scan; return where it is and how long that took."""
    frames = int(gigabytes * 1e9 / FRAME_BYTES)
    spec = SimulationSpec(
        rows=ROWS,
        columns=COLUMNS,
        angles=frames - 2 * REFERENCES,
        flats=REFERENCES,
        darks=REFERENCES,
        distinct=8,
        format=kind,  # type: ignore[arg-type]
        frames_per_second=frames / seconds,
    )
    path = site.detector / ("growing.nxs" if kind == "nxtomo" else "stack")
    began = time.monotonic()
    simulate(spec, str(path))
    return path, time.monotonic() - began


def events(site: Site, scan: str) -> Iterator[tuple[float, str, dict[str, Any]]]:
    """Time, topic and content of all that the journal has of a scan."""
    with sqlite3.connect(f"file:{site.folder}/state/journal.sqlite?mode=ro", uri=True) as journal:
        for at, topic, body in journal.execute(
            "SELECT at, topic, body FROM events WHERE scan = ? ORDER BY sequence", (scan,)
        ):
            yield at, topic, json.loads(body)


def ends(site: Site) -> list[str]:
    """What the daemon's log says of the copy's end."""
    return [line for line in site.log.read_text().splitlines() if "copy.ended" in line]


def measure(folder: Path, kind: str, options: argparse.Namespace) -> None:
    """One acquisition, from an empty site to the copy."""
    site = Site(
        folder,
        workers=0,
        catalog="embedded = false",
        settle_seconds=options.settle,
        unmarked_settle_seconds=2 * options.settle,
        unannounced_settle_seconds=3 * options.settle,
        stalled_seconds=12 * options.settle,
    )
    with running(site):
        path, took = acquire(site, kind, options.gigabytes, options.seconds)
        scan = site.copied(path.name)
        told = list(events(site, scan["scan"]))
        verdict = next(at for at, topic, _ in told if topic == "scan.completed")
        copied = next(at for at, topic, body in told if topic == "step.done" and body["step"] == "sync")
        rate = scan["bytes"] / took / 1e6
        print(f"{kind}: {scan['bytes'] / 1e9:.2f} GB in {scan['files']} files, {took:.0f} s, {rate:.0f} MB/s")
        print(f"  verdict to verified copy: {copied - verdict:.2f} s")
        for line in ends(site):
            print(f"  {line}")
        (task,) = site.shared.glob("visitors/[!.]*")
        print(f"  {proofs.check_manifest(task)} digests are right")
        site.stop()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--settle", type=float, default=2.0, help="settle time of the watched root")
    parser.add_argument("--folder", type=Path, default=None, help="where to do it")
    parser.add_argument("--format", nargs="+", default=["nxtomo", "elettra"])
    options = parser.parse_args()
    for kind in options.format:
        folder = Path(tempfile.mkdtemp(prefix="streaming-", dir=options.folder))
        try:
            measure(folder, kind, options)
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
