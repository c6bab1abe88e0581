"""The daemon is killed again and again while a detector writes: what it copies meanwhile is never wrong, and in the
end every scan is there.

The seed is printed; SRCTD_TEST_SEED=n repeats the moments, as far as the machine's timing does.
"""

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import proofs
from site_under_test import Site, running

from srctd.adapters import sync
from srctd.sim.writer import SimulationSpec, simulate

KILLS = 12
SEED = int(os.environ.get("SRCTD_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
SLOW = SimulationSpec(rows=32, columns=192, angles=240, flats=5, darks=5, frames_per_second=15.0)


@contextmanager
def acquiring(folder: Path) -> Iterator[list[Path]]:
    """A detector that writes a growing file and a stack of frames at the same time; ends both."""
    scans = {
        folder / "growing.nxs": SLOW,
        folder / "stack": msgspec.structs.replace(SLOW, format="elettra", seed=5),
    }
    threads = [
        threading.Thread(target=simulate, args=(spec, str(path)), daemon=True) for path, spec in scans.items()
    ]
    for thread in threads:
        thread.start()
    yield list(scans)
    for thread in threads:
        thread.join()


def test_the_daemon_is_killed_while_it_copies_what_is_acquired(tmp_path: Path) -> None:
    print(f"SRCTD_TEST_SEED={SEED}")  # noqa: T201 - shown where the test fails
    chance = random.Random(SEED)
    site = Site(tmp_path, workers=0, catalog="embedded = false", stalled_seconds=20)
    with acquiring(site.detector) as sources, site.log.open("ab") as log:
        for _ in range(KILLS):
            command = [sys.executable, "-m", "srctd", "run", "--config", str(site.config)]
            process = subprocess.Popen(command, stdout=log, stderr=log)
            time.sleep(chance.uniform(0.7, 2.0))  # the moment of death is what is tried
            assert process.poll() is None, site.tail()
            process.kill()
            process.wait()
            for task in (site.shared / "visitors").glob("[!.]*"):
                assert sync.published(task)
                assert proofs.check_manifest(task)
    with running(Site(tmp_path, workers=1, catalog="embedded = false", stalled_seconds=20)) as whole:
        folders = [whole.ends(source.name) for source in sources]
        for source, folder in zip(sources, folders, strict=True):
            proofs.check_done(folder, source)
        assert {path.name for path in (whole.shared / "visitors").iterdir()} == {f.name for f in folders}
        assert len(whole.ask("status")["scans"]) == len(sources)
        assert whole.stop() == 0
