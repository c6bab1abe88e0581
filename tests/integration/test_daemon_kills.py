"""The daemon is killed again and again while a detector writes: what it copies meanwhile is never wrong, and in the
end every scan is there.

The seed is printed; SRCTD_TEST_SEED=n repeats the moments, as far as the machine's timing does.
"""

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import proofs
from site_under_test import Site, running

from srctd.adapters import sync
from srctd.sim.writer import SimulationSpec, simulate

KILLS = 12
SEED = int(os.environ.get("SRCTD_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
SLOW = SimulationSpec(rows=48, columns=192, angles=240, flats=5, darks=5, rate_hz=12)


@contextmanager
def acquiring(folder: Path) -> Iterator[list[Path]]:
    """A detector that writes a growing file and a stack of frames at the same time."""
    scans = {folder / "growing.nxs": SLOW, folder / "stack": msgspec_replace(SLOW, format="elettra", seed=5)}
    threads = [threading.Thread(target=simulate, args=(spec, str(path))) for path, spec in scans.items()]
    for thread in threads:
        thread.start()
    try:
        yield list(scans)
    finally:
        for thread in threads:
            thread.join()
