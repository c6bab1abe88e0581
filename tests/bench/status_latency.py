"""How fast the control room is answered while the machine reconstructs.

    python tests/bench/status_latency.py [--seconds 20]

Starts a site with two workers in a temporary folder, keeps it busy with simulated scans, and asks for the status
over one REQ socket every 10 ms. Prints the quantiles of the round trip in milliseconds.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import zmq

sys.path.insert(0, str(Path(__file__).parents[1]))

from site_under_test import Site, running

from srctd.sim.writer import SimulationSpec, simulate


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=20.0)
    seconds = options.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made.nxs"
        simulate(SimulationSpec(rows=256, columns=512, angles=360), str(made))
        with running(Site(Path(folder) / "site", workers=2)) as site:
            for n in range(4):
                shutil.copyfile(made, site.detector / f"scan{n}.nxs")
            site.until(
                lambda: any(w["phase"] != "idle" for w in site.ask("status")["workers"]), "work begins"
            )
            round_trips = ask(site.endpoint, seconds)
            busy = sum(w["phase"] != "idle" for w in site.ask("status")["workers"])
    cuts = statistics.quantiles(round_trips, n=100)
    print(f"{len(round_trips)} requests, {busy} workers busy at the end; milliseconds:")
    print(f"median {statistics.median(round_trips):.2f}  p95 {cuts[94]:.2f}  p99 {cuts[98]:.2f}")


def ask(endpoint: str, seconds: float) -> list[float]:
    round_trips = []
    with zmq.Context() as context, context.socket(zmq.REQ) as asker:
        asker.connect(endpoint)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            began = time.perf_counter()
            asker.send(b'{"cmd":"status"}')
            asker.recv()
            round_trips.append(1000 * (time.perf_counter() - began))
            time.sleep(0.01)
    return round_trips


if __name__ == "__main__":
    main()
