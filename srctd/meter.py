"""How a copy gets on: bytes, rate, and whether it stands still; and the way to stop it."""

import threading
import time
from collections import deque
from typing import NamedTuple

from srctd.adapters.sync import Pace
from srctd.core.errors import StorageUnavailable

RATE_SECONDS = 10.0
"""Over which the rate is taken."""
SAMPLE_SECONDS = 0.5
STILL_SECONDS = 10.0
"""A copy that moved no byte for so long stands still; below that it may be one slow write."""


class Figures(NamedTuple):
    """How the copy of one scan stands."""

    copied: int
    """Bytes of what is known of the scan that are in its copy."""
    rate: float
    """Bytes per second, lately."""
    still_seconds: float
    """How long no byte was moved though the storage was to take some; 0 if one was a moment ago."""
    held_back: bool
    """Whether it waits for its turn: for a place, or until the detector leaves it some of its disk."""


class Meter:
    """Counts what one copy moves. Called by its thread (`Attempt`) and by the event loop."""

    def __init__(self) -> None:
        self.base = 0
        """Bytes that were in the copy when the attempt began."""
        self.goal = 0
        """Bytes that will be there when it ends."""
        self._moved = 0
        self._moved_at = 0.0
        self._working = False
        self._held_back = False
        self._samples: deque[tuple[float, int]] = deque(maxlen=int(RATE_SECONDS / SAMPLE_SECONDS))
        self._total = 0

    def expect(self, base: int, goal: int) -> None:
        """An attempt is about to begin."""
        self.base, self.goal, self._moved = base, goal, 0
        self._moved_at, self._held_back = time.monotonic(), True

    def begin(self) -> None:
        """It begins: from now on standing still is noticed."""
        self._moved_at, self._working, self._held_back = time.monotonic(), True, False

    def end(self) -> None:
        """It ended, well or not."""
        self._working = self._held_back = False
        self.base, self._moved = min(self.goal, self.base + self._moved), 0

    def reached(self, copied: int) -> None:
        """So many bytes are there now, moved by this attempt or found from an earlier one."""
        self.base, self.goal, self._moved = copied, max(self.goal, copied), 0

    def moved(self, count: int) -> None:
        """So many bytes more."""
        self._moved += count
        self._total += count
        self._moved_at = now = time.monotonic()
        if not self._samples or now - self._samples[-1][0] >= SAMPLE_SECONDS:
            self._samples.append((now, self._total))

    def held_back(self, held_back: bool) -> None:
        """It is, or is not any more, made to wait."""
        self._held_back, self._moved_at = held_back, time.monotonic()

    def figures(self) -> Figures:
        """As of now."""
        now = time.monotonic()
        still = now - self._moved_at
        noticed = self._working and not self._held_back and still >= STILL_SECONDS
        return Figures(
            copied=min(self.goal, self.base + self._moved) if self._working else self.base,
            rate=self._rate(now),
            still_seconds=still if noticed else 0.0,
            held_back=self._held_back,
        )

    def _rate(self, now: float) -> float:
        recent = [sample for sample in tuple(self._samples) if now - sample[0] <= RATE_SECONDS]
        if not recent or now <= recent[0][0]:
            return 0.0
        return (self._total - recent[0][1]) / (now - recent[0][0])


class Stop:
    """Ends an attempt at its next block."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.preempted = False
        """Whether it only makes room for a more urgent one, and goes on after that."""

    def check(self) -> None:
        """Raise `StorageUnavailable` if it is to end."""
        if self.event.is_set():
            raise StorageUnavailable("the copy was interrupted")


class Counted:
    """A pace that tells a meter of what passes."""

    def __init__(self, pace: Pace, meter: Meter, stop: Stop) -> None:
        self._pace, self._meter, self._stop = pace, meter, stop

    def take(self, count: int) -> None:
        """Wait until so many more bytes may be read."""
        self._stop.check()
        self._meter.held_back(True)
        try:
            self._pace.take(count)
        finally:
            self._meter.held_back(False)
        self._meter.moved(count)
