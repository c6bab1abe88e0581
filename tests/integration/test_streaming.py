"""The real daemon copies scans while they are acquired: at the verdict, next to nothing is left."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import proofs
from site_under_test import Site, running

from srctd.core.scan import BLOCK_BYTES
from srctd.parts import PartFolders, identity, open_part
from srctd.sim.writer import SimulationSpec, simulate

SPEC = SimulationSpec(
    rows=256, columns=1024, angles=100, flats=10, darks=10, distinct=4, frames_per_second=40.0
)
FRAME_BYTES = 2 * SPEC.rows * SPEC.columns
SECONDS = 60.0
"""Until what is waited for counts as not happening."""
SURELY_SEEN = dict.fromkeys(["settle_seconds", "unmarked_settle_seconds", "unannounced_settle_seconds"], 6.0)
"""Settle times into which a look falls, also on a machine that is slow just then."""


class Detector:
    """Writes one scan; may be made to wait in the middle until it is told to go on."""

    def __init__(self, path: Path, spec: SimulationSpec, pause_at: int = 0) -> None:
        """`pause_at`: the number of the frame after which it waits for `go_on`; 0: it does not."""
        self.path = path
        self.waits = threading.Event()
        """Set once it does."""
        path.parent.mkdir(exist_ok=True)
        self._going = threading.Event()
        self._pause_at = pause_at
        self._thread = threading.Thread(target=simulate, args=(spec, str(path), self._tick), daemon=True)

    def _tick(self, frame: int, _: int) -> None:
        if frame == self._pause_at:
            self.waits.set()
            self._going.wait(2 * SECONDS)

    def go_on(self) -> None:
        self._going.set()

    def __enter__(self) -> "Detector":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._going.set()
        self._thread.join()


@contextmanager
def site_in(folder: Path, **sections: Any) -> Iterator[Site]:
    with running(Site(folder, workers=0, catalog="embedded = false", stalled_seconds=40, **sections)) as site:
        yield site


def told(site: Site, event: str) -> list[dict[str, Any]]:
    """The lines of an event in the daemon's log, in order."""
    lines = (line.partition(">")[2] for line in site.log.read_text().splitlines() if f'"{event}"' in line)
    return [json.loads(line) for line in lines]


def arriving(site: Site, path: Path) -> dict[str, Any]:
    """What the status says of the copy of a scan that is being acquired; empty: nothing."""
    rows = [row for row in site.ask("status")["arriving"] if row["path"] == str(path)]
    return (rows[0]["copy"] or {}) if rows else {}


def is_copied(site: Site, path: Path, least: int) -> Callable[[], bool]:
    return lambda: arriving(site, path).get("bytes", 0) >= least


def finished(site: Site, path: Path) -> Path:
    """The task folder of a copied scan, which is right; nothing grows beside it."""
    site.copied(path.name)
    (task,) = (site.shared / "visitors").iterdir()
    proofs.check_copy(task, path)
    return task


def test_of_a_growing_file_only_the_tail_is_left_at_the_verdict(tmp_path: Path) -> None:
    with site_in(tmp_path, **SURELY_SEEN) as site:
        with Detector(site.detector / "growing.nxs", SPEC, pause_at=115) as detector:
            path = detector.path
            site.until(is_copied(site, path, 4 * BLOCK_BYTES), "whole blocks are copied", SECONDS)
            assert any(
                "copied already" in sentence for sentence in site.ask("why", scan=str(path))["sentences"]
            )
            detector.go_on()
        finished(site, path)
        ended = told(site, "copy.ended")[-1]
        assert ended["ahead"]
        assert ended["left"] < ended["bytes"] - 4 * BLOCK_BYTES + 1
        assert site.stop() == 0


def test_of_a_stack_only_the_last_frames_are_left_at_the_verdict(tmp_path: Path) -> None:
    spec = msgspec.structs.replace(SPEC, format="elettra")
    with site_in(tmp_path, **SURELY_SEEN) as site:
        with Detector(site.detector / "stack", spec, pause_at=115) as detector:
            path = detector.path
            # The file that is written last may not be settled; one is not even begun.
            site.until(is_copied(site, path, 112 * FRAME_BYTES), "closed files are copied", SECONDS)
            detector.go_on()
        finished(site, path)
        ended = told(site, "copy.ended")[-1]
        assert ended["ahead"]
        assert ended["left"] <= 10 * FRAME_BYTES
        assert site.stop() == 0


def test_an_acquisition_goes_on_over_a_restart_of_the_daemon(tmp_path: Path) -> None:
    spec = msgspec.structs.replace(SPEC, format="elettra")
    with Detector(tmp_path / "detector" / "stack", spec, pause_at=60) as detector:
        with site_in(tmp_path) as site:
            site.until(is_copied(site, detector.path, 50 * FRAME_BYTES), "half is copied", SECONDS)
            site.kill()
        (part,) = (site.shared / "visitors").iterdir()
        first = {path: path.stat().st_ino for path in (part / "input").rglob("*.tif")}
        stray = PartFolders(str(site.shared), identity(tmp_path / "state")).of("visitors", "gone-0123abcd")
        foreign = PartFolders(str(site.shared), "another").of("visitors", "gone-0123abcd")
        open_part(stray)
        open_part(foreign)
        with site_in(tmp_path) as site:
            site.until(lambda: not stray.exists(), "what nobody needs is removed", SECONDS)
            site.until(is_copied(site, detector.path, 50 * FRAME_BYTES), "it is followed on", SECONDS)
            detector.go_on()
            site.copied("stack")
            (task,) = (site.shared / "visitors").glob("[!.]*")
            proofs.check_copy(task, detector.path)
            kept = [path for path, number in first.items() if _inode(task, part, path) == number]
            assert len(kept) >= len(first) - 1  # the one that was being written
            assert foreign.exists()
            assert site.stop() == 0


def _inode(task: Path, part: Path, path: Path) -> int:
    return (task / path.relative_to(part)).stat().st_ino


def test_a_file_that_is_written_over_while_it_is_followed_ends_in_a_right_copy(tmp_path: Path) -> None:
    with site_in(tmp_path) as site:
        with Detector(site.detector / "growing.nxs", SPEC, pause_at=110) as detector:
            path = detector.path
            site.until(is_copied(site, path, 3 * BLOCK_BYTES), "whole blocks are copied", SECONDS)
            with path.open("r+b") as file:  # far below of what was copied; 64 pixels of some frame
                file.seek(BLOCK_BYTES + 4096)
                file.write(np.full(64, 77, "<u2").tobytes())
            detector.go_on()
        task = finished(site, path)
        with h5py.File(task / "input" / "growing.nxs") as copied:
            assert copied
        assert site.stop() == 0


def test_what_vanishes_or_turns_out_to_be_no_scan_leaves_nothing(tmp_path: Path) -> None:
    spec = msgspec.structs.replace(SPEC, format="elettra")
    with site_in(tmp_path) as site:
        with Detector(site.detector / "stack", spec, pause_at=60) as detector:
            site.until(is_copied(site, detector.path, 50 * FRAME_BYTES), "half is copied", SECONDS)
            assert detector.waits.wait(SECONDS)
            detector.path.rename(tmp_path / "elsewhere")
            account = site.shared / "visitors"
            site.until(lambda: not list(account.iterdir()), "its copy is removed", SECONDS)
            (tmp_path / "elsewhere").rename(detector.path)
            detector.go_on()
        finished(site, detector.path)
        assert site.stop() == 0


def test_nothing_is_copied_early_where_that_is_not_wanted(tmp_path: Path) -> None:
    spec = msgspec.structs.replace(SPEC, format="elettra")
    with site_in(tmp_path, watch="copy_while_acquiring = false") as site:
        with Detector(site.detector / "stack", spec, pause_at=60) as detector:
            row = site.until(
                lambda: [row for row in site.ask("status")["arriving"] if row["files"] > 50], "it arrives"
            )
            assert row[0]["copy"] is None
            assert not (site.shared / "visitors").exists()
            detector.go_on()
        finished(site, detector.path)
        assert [line["ahead"] for line in told(site, "copy.ended")] == [False]
        assert told(site, "copy.ended")[-1]["left"] > 100 * FRAME_BYTES
        assert site.stop() == 0
