"""Space on every disk that matters: the watched roots', shared storage, the state directory.

Every place is asked in a thread of its own, for a file server that does not answer keeps whoever asks it, for
hours perhaps. All others read what was last heard.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import structlog

from srctd.adapters.space import Measured, SharedStorage, measure
from srctd.core import space
from srctd.core.errors import SrctdError
from srctd.core.space import Forecast, Grade, Sample

log = structlog.get_logger()

ASK_SECONDS = 5.0
SILENT_SECONDS = 30.0
"""A place that did not answer for so long is told of."""


@dataclass
class Place:
    """A folder whose disk is watched, and what was last heard of it."""

    path: str
    purpose: str
    measure: Callable[[], Measured]
    measured: Measured | None = None
    asked_at: float = field(default_factory=time.time)
    """UTC timestamp of the question that is open, or was answered last."""
    heard_at: float | None = None
    """UTC timestamp of the last answer, good or bad."""
    problem: str = ""
    """Sentence of the last answer, if it was none."""

    def silent_seconds(self, now: float) -> float:
        """For how long it has not answered; 0 while that is not worth a word."""
        answered = self.heard_at is not None and self.heard_at >= self.asked_at
        waited = 0.0 if answered else now - self.asked_at
        return waited if waited >= SILENT_SECONDS else 0.0


@dataclass
class _Disk:
    """What is remembered of a file system."""

    samples: tuple[Sample, ...] = ()
    expected: Forecast | None = None
    alarm: float | None = None


class SpaceWatch:
    """Asks all places again and again; tells of what fills up."""

    def __init__(
        self,
        storage: SharedStorage,
        others: dict[str, str],
        publish: Callable[[str, dict[str, Any]], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`others`: further places, by path, and what each is for."""
        self.places = [
            Place(storage.path, "shared storage", storage.measure),
            *(Place(path, purpose, _asking(path)) for path, purpose in others.items()),
        ]
        self._storage = storage
        self._publish = publish
        self._clock = clock
        self._told_grade = Grade.FULL
        self._disks: dict[int, _Disk] = {}
        self._stopping = threading.Event()
        self._heard = asyncio.Event()

    @property
    def shared_free(self) -> int | None:
        """Bytes that were last free on shared storage; None: not known."""
        found = self.places[0].measured
        return None if found is None else found.free

    async def run_forever(self) -> None:
        """Ask until cancelled. A thread that waits for a dead server is left behind; it ends with the process."""
        loop = asyncio.get_running_loop()
        for place in self.places:
            name = f"space of {place.path}"
            threading.Thread(target=self._ask, args=(place, loop), name=name, daemon=True).start()
        try:
            await asyncio.Event().wait()
        finally:
            self._stopping.set()

    async def next_answer(self) -> None:
        """Wait until shared storage answered once more."""
        await self._heard.wait()
        self._heard.clear()

    def disks(self) -> list[dict[str, Any]]:
        """Every disk as `srctd status` shows it: places on one disk together, shared storage first."""
        together: dict[object, list[Place]] = {}
        for place in self.places:
            key = place.measured.device if place.measured else place.path
            together.setdefault(key, []).append(place)
        return [self._row(places, self._clock()) for places in together.values()]

    def _row(self, places: list[Place], now: float) -> dict[str, Any]:
        measured = places[0].measured
        disk = self._disks.get(measured.device, _Disk()) if measured else _Disk()
        expected = disk.expected
        silent = max(place.silent_seconds(now) for place in places)
        sentences = [f"it has not answered for {silent:.0f} s"] if silent else []
        sentences += [place.problem for place in places if place.problem]
        sentences += [expected.sentence] if expected else []
        shared = places[0] is self.places[0]
        if shared and self._told_grade is not Grade.FULL:
            sentences.append(self._told_grade.sentence)
        filling = expected is not None and expected.hours < space.ALARM_HOURS[0]
        return {
            "paths": [place.path for place in places],
            "purposes": list(dict.fromkeys(place.purpose for place in places)),
            "free_bytes": measured.free if measured else None,
            "total_bytes": measured.total if measured else None,
            "hours_to_full": round(expected.hours, 2) if expected else None,
            "over_hours": round(expected.over_hours, 2) if expected else None,
            "grade": str(self._told_grade) if shared else None,
            "silent_seconds": round(silent, 1),
            "sentences": sentences,
            "good": not filling and len(sentences) == (expected is not None),
        }

    # --- asking, in a place's own thread --------------------------------------------------------------------

    def _ask(self, place: Place, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stopping.is_set():
            place.asked_at = self._clock()
            answer: Measured | SrctdError
            try:
                answer = place.measure()
            except SrctdError as exc:
                answer = exc
            if not self._stopping.is_set():
                with suppress(RuntimeError):  # the loop ended this moment
                    loop.call_soon_threadsafe(self._hear, place, answer)
            self._stopping.wait(ASK_SECONDS)

    # --- hearing, in the event loop -------------------------------------------------------------------------

    def _hear(self, place: Place, answer: Measured | SrctdError) -> None:
        place.heard_at = self._clock()
        if isinstance(answer, SrctdError):
            if place.problem != answer.sentence:
                log.warning("space.unknown", path=place.path, reason=answer.sentence)
            place.problem = answer.sentence
            return
        place.measured, place.problem = answer, ""
        disk = self._disks.setdefault(answer.device, _Disk())
        before = disk.samples
        disk.samples = space.remembered(before, Sample(place.heard_at, answer.free))
        if disk.samples != before:
            disk.expected = space.forecast(disk.samples)
            self._tell_forecast(place, disk)
        if place is self.places[0]:
            self._tell_grade(answer)
            self._heard.set()

    def _tell_forecast(self, place: Place, disk: _Disk) -> None:
        """A warning as the time left falls below one of some limits: once each."""
        expected = disk.expected
        before, disk.alarm = disk.alarm, space.alarm(expected.hours if expected else None, disk.alarm)
        if expected is None or disk.alarm is None or (before is not None and disk.alarm >= before):
            return
        told = {"path": place.path, "hours_to_full": round(expected.hours, 2), "reason": expected.sentence}
        log.warning("space.filling", **told)
        self._publish("space.filling", told)

    def _tell_grade(self, answer: Measured) -> None:
        grade = self._storage.grade
        if grade is self._told_grade:
            return
        told = {
            "path": self._storage.path,
            "before": str(self._told_grade),
            "grade": str(grade),
            "free_bytes": answer.free,
            "reason": self._storage.low_on(answer.free),
        }
        self._told_grade = grade
        log.warning("space.grade", **told)
        self._publish("space.grade", told)


def _asking(path: str) -> Callable[[], Measured]:
    return lambda: measure(path)
