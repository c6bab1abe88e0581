"""Detectors that are slow, write in bursts, or pause, all at once below one root of the real daemon, in real time.

No pause of any of them may pass for the end of its scan: there is one revision of each, complete, with every frame.
No workers: what counts is what the daemon takes a scan to be.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from site_under_test import Site, running
from stack_files import DARKS, FLATS, PROJECTIONS, write_edf

from srctd.formats import open_scan

PAUSE = 8.0
"""Seconds; 27 times what must be quiet after an end mark, 10 times if only the number of frames is known."""
UNANNOUNCED_PAUSE, UNANNOUNCED = 4.0, 8.0
"""Seconds of a pause, and for how long a scan must be quiet of which nobody knows how many frames it has."""
SIZE = ("--rows", "6", "--columns", "24")
WRITERS = {
    "slow": ("tomcat", 12, 2, "--rate", "1"),
    "burst.nxs": ("nxtomo", 60, 4, "--rate", "6", "--burst", "12"),
    "bursting": ("kit", 60, 4, "--rate", "6", "--burst", "12", "--arrival", "preallocated"),
    "paused.h5": ("dataexchange", 40, 4, "--pause-after", "20", "--pause-seconds", str(PAUSE)),
    "paused": ("kit", 40, 4, "--pause-after", "20", "--pause-seconds", str(PAUSE)),
    "late.h5": ("dataexchange", 40, 4, "--late-seconds", "4"),
}
"""By the name of the scan: format, projections, flats and as many darks, and what is peculiar."""


def simulated(folder: Path, name: str) -> subprocess.Popen[bytes]:
    form, angles, references, *options = WRITERS[name]
    counts = ("--angles", str(angles), "--flats", str(references), "--darks", str(references))
    command = ["simulate", str(folder / name), "--format", form, *SIZE, *counts, *options]
    return subprocess.Popen([sys.executable, "-P", "-m", "srctd", *command])


def unannounced(folder: Path) -> None:
    """EDF files without a log, with their angles by motors; a pause in the middle."""
    for number in range(FLATS):
        write_edf(folder / f"ref{number:04d}_0000.edf", "flats", number)
    for number in range(DARKS):
        write_edf(folder / f"darkend{number:04d}.edf", "darks", number)
    for number in range(PROJECTIONS):
        if number == PROJECTIONS // 2:
            time.sleep(UNANNOUNCED_PAUSE)
        motors = {"motor_mne": "sx srot", "motor_pos": f"1.5 {number * 15.0:g}"}
        write_edf(folder / f"{folder.name}{number:04d}.edf", "projections", number, **motors)


@pytest.mark.timeout(120)
def test_no_pause_of_any_writer_passes_for_the_end_of_its_scan(tmp_path: Path) -> None:
    site = Site(tmp_path, workers=0, catalog="", stalled_seconds=20.0, unannounced_settle_seconds=UNANNOUNCED)
    expected = {
        name: (angles, references, references) for name, (_, angles, references, *_) in WRITERS.items()
    }
    expected["unannounced"] = (PROJECTIONS, FLATS, DARKS)
    with running(site):
        writers = [simulated(site.detector, name) for name in WRITERS]
        thread = threading.Thread(target=unannounced, args=(site.detector / "unannounced",))
        site.until(lambda: all((site.detector / name).exists() for name in WRITERS), "all have begun")
        thread.start()
        try:
            site.until(everything_submitted(site, len(expected)), "all scans are submitted", 60.0)
        finally:
            thread.join()
            for writer in writers:
                writer.kill()
        assert [writer.wait() for writer in writers] == [0] * len(writers), "each had ended before that"
        rows = site.settled()["scans"]
        assert sorted((Path(row["path"]).name, row["revision"], row["incomplete"]) for row in rows) == [
            (name, 1, False) for name in sorted(expected)
        ]
        folders = {Path(row["path"]).name: site.ask("scan", scan=row["scan"])["folder"] for row in rows}
    for name, folder in folders.items():
        with open_scan(f"{folder}/frames.json") as scan:
            header = scan.header
        assert (header.n_projections, header.n_flats, header.n_darks) == expected[name], name


def everything_submitted(site: Site, count: int) -> Callable[[], bool]:
    def reached() -> bool:
        rows = site.ask("status")["scans"]
        scans = [site.ask("scan", scan=row["scan"]) for row in rows]
        return len([scan for scan in scans if scan["steps"]["submit"]["status"] == "done"]) >= count

    return reached
