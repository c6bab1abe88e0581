"""The watch over space: what it hears it tells, and a place that does not answer keeps nobody waiting."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from srctd import terminal
from srctd.adapters.space import Measured, SharedStorage
from srctd.core.errors import StorageUnavailable
from srctd.core.space import Thresholds
from srctd.spacewatch import SILENT_SECONDS, Place, SpaceWatch

GB = 10**9


class Disk(SharedStorage):
    """Shared storage that answers what a test says, when it says so."""

    def __init__(self, folder: Path, answer: Measured | None = None) -> None:
        super().__init__(str(folder), str(folder / "note"), Thresholds(sixteen_bit=100 * GB))
        self.answer = answer
        self.hanging = threading.Event()
        if answer is not None:
            self.hanging.set()

    def _ask(self) -> Measured:
        self.hanging.wait(20)
        if self.answer is None:
            raise StorageUnavailable("/shared: Stale file handle", hint="check the mount")
        return self.answer


async def watched(watch: SpaceWatch, known: int) -> list[dict[str, Any]]:
    """What it says once so many places are known."""
    task = asyncio.create_task(watch.run_forever())
    try:
        async with asyncio.timeout(10):
            while sum(place.heard_at is not None for place in watch.places) < known:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return watch.disks()
    finally:
        task.cancel()


def test_a_disk_is_shown_once_with_all_it_is_for_and_the_grade_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    disk = Disk(tmp_path, Measured(tmp_path.stat().st_dev, 60 * GB, 1000 * GB))
    watch = SpaceWatch(
        disk,
        {str(tmp_path): "detector", str(tmp_path / "not there yet"): "state"},
        lambda *event: told.append(event),
    )
    (row,) = asyncio.run(watched(watch, 3))
    assert row["purposes"] == ["shared storage", "detector", "state"]
    assert (row["free_bytes"], row["total_bytes"], row["grade"]) == (60 * GB, 1000 * GB, "16-bit")
    assert (row["good"], row["hours_to_full"]) == (False, None)
    assert watch.shared_free == 60 * GB
    ((topic, body),) = told
    assert (topic, body["before"], body["grade"]) == ("space.grade", "full", "16-bit")
    assert "less than 100.0 GB; volumes are written as 16-bit integers" in body["reason"]
    line = str(terminal._disk(row))
    assert line.endswith("0.06 of 1 TB free; volumes are written as 16-bit integers")


def test_a_place_that_hangs_keeps_nobody_waiting(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    watch = SpaceWatch(disk, {"/": "state"}, lambda *event: None)
    shared, state = asyncio.run(watched(watch, 1))
    disk.hanging.set()
    assert (shared["free_bytes"], shared["grade"], watch.shared_free) == (None, "full", None)
    assert state["free_bytes"] > 0


def test_what_a_place_says_is_wrong_is_shown(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.hanging.set()
    watch = SpaceWatch(disk, {}, lambda *event: None)
    (row,) = asyncio.run(watched(watch, 1))
    assert row["sentences"] == ["/shared: Stale file handle (check the mount)"]
    assert not row["good"]


def test_silence_is_told_after_a_while() -> None:
    place = Place("/p", "state", lambda: Measured(1, 1, 1), asked_at=1000.0)
    assert place.silent_seconds(1000.0 + SILENT_SECONDS - 1) == 0
    assert place.silent_seconds(1000.0 + SILENT_SECONDS + 1) == SILENT_SECONDS + 1
    place.heard_at = 1001.0
    assert place.silent_seconds(2000.0) == 0


def test_what_fills_up_is_told_once(tmp_path: Path) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    disk = Disk(tmp_path)
    now = [1_800_000_000.0]
    watch = SpaceWatch(disk, {}, lambda *event: told.append(event), clock=lambda: now[0])
    for minute in range(30):
        watch._hear(watch.places[0], Measured(7, (600 - minute) * GB, 1000 * GB))
        now[0] += 60
    assert [(topic, body["path"]) for topic, body in told] == [("space.filling", str(tmp_path))]
    assert told[0][1]["hours_to_full"] == pytest.approx(590 / 60, rel=0.01)
    (row,) = watch.disks()
    assert row["sentences"] == ["full in about 10 h at the rate of the last 29 min"]
    assert not row["good"]
