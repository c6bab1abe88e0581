"""Space on a disk: when will it be full, and what is done as it fills up.

The forecast is the median of the slopes between pairs of samples (Theil and Sen), long pairs counting more: scans
come in bursts, and between two of them nothing is written. Pairs with a deletion in between say nothing of how fast
the disk fills, so they are left out.
"""

import bisect
import itertools
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

WINDOW_SECONDS = 3 * 3600.0
"""How far back a forecast looks: long enough to hold several scans."""
SHORTEST_SECONDS = 600.0
"""Two samples that are not so far apart say little; before, there is no forecast."""
SAMPLE_SECONDS = 60.0
"""Distance of the samples that a forecast is made of; more of them would cost and tell nothing."""
DELETION = 0.01
"""A rise of what is free, between two samples, by more than this part of it is a deletion. Less cannot spoil a
forecast of a day: in that time the window's part is eight times as much."""
FARTHEST_HOURS = 30 * 24.0
"""What will be full later than this is not filling."""
ALARM_HOURS = (24.0, 6.0, 1.0)
"""A forecast below each of these is told once."""
ALARM_OVER = 1.5
"""It is told again only after the forecast was so many times longer."""
HYSTERESIS = 0.05
"""A grade is left only when so much more than its threshold is free."""
MARGIN = 0.01
"""What waits for room goes on when so much more than it needs is free."""
RESULT_FILES = 100
"""Files and folders of a scan besides its copied files, and some more: folders of the copy, notes, pictures,
volume, shards, records."""


class Sample(NamedTuple):
    """What was free at a time."""

    at: float
    """UTC timestamp."""
    free: int
    """Bytes."""


class Forecast(NamedTuple):
    """When a disk will be full."""

    hours: float
    over_hours: float
    """From how long a time that is concluded."""

    @property
    def sentence(self) -> str:
        """`full in about 7 h at the rate of the last 2 h`."""
        return f"full in about {_duration(self.hours)} at the rate of the last {_duration(self.over_hours)}"


class Grade(StrEnum):
    """What is still done, from all to nothing, as shared storage fills up."""

    FULL = "full"
    """Everything, volumes in floating point."""
    SIXTEEN_BIT = "16-bit"
    """Volumes are half as large."""
    PREVIEWS_ONLY = "previews only"
    """Reconstructions wait."""
    STOP = "stop"
    """Nothing new is copied either."""

    def at_least(self, other: "Grade") -> bool:
        """Whether as little is done as at another grade, or less."""
        return _ORDER.index(self) >= _ORDER.index(other)

    @property
    def sentence(self) -> str:
        """What it means, for people."""
        return _MEANING[self]


_ORDER = tuple(Grade)
_MEANING = {
    Grade.FULL: "everything is done",
    Grade.SIXTEEN_BIT: "volumes are written as 16-bit integers",
    Grade.PREVIEWS_ONLY: "previews are made, reconstructions wait for more room",
    Grade.STOP: "nothing new is copied, reconstructions wait for more room",
}


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that are free, below which a grade begins; 0: never."""

    sixteen_bit: int = 0
    previews_only: int = 0
    stop: int = 0

    def of(self, grade: Grade) -> int:
        """Where a grade begins."""
        return {
            Grade.SIXTEEN_BIT: self.sixteen_bit,
            Grade.PREVIEWS_ONLY: self.previews_only,
            Grade.STOP: self.stop,
        }.get(grade, 0)

    def left_at(self, grade: Grade) -> int:
        """Bytes that must be free for a grade to end."""
        return int(self.of(grade) * (1 + HYSTERESIS))

    def left_above(self, limit: Grade) -> int:
        """Bytes that must be free for more to be done than at a grade."""
        return max(self.left_at(candidate) for candidate in _ORDER if candidate.at_least(limit))


def grade(free: int, thresholds: Thresholds, before: Grade = Grade.FULL) -> Grade:
    """The grade at so many free bytes. `before`: the grade until now, which does not end at its very threshold."""
    for candidate in reversed(_ORDER[1:]):
        limit = thresholds.left_at(candidate) if before.at_least(candidate) else thresholds.of(candidate)
        if free < limit:
            return candidate
    return Grade.FULL


def with_margin(count: int) -> int:
    """Bytes that must be free before something that needs `count` of them is tried again: a bit more, so that it
    does not fail again at once.
    """
    return int(count * (1 + MARGIN))


# --- the forecast -----------------------------------------------------------------------------------------


def remembered(samples: Sequence[Sample], new: Sample) -> tuple[Sample, ...]:
    """The samples of the window after a new one; it is left out if the last one is younger than a minute."""
    kept = [sample for sample in samples if new.at - WINDOW_SECONDS <= sample.at <= new.at]
    if not kept or new.at - kept[-1].at >= SAMPLE_SECONDS:
        kept.append(new)
    return tuple(kept)


def forecast(samples: Sequence[Sample]) -> Forecast | None:
    """When the disk will be full, by samples in the order of time; None: too few, or it is not filling."""
    series = _between_deletions(samples)
    pairs = [pair for part in series for pair in _pairs(part)] or _pairs(samples)
    if not pairs:
        return None
    rate = -_weighted_median(pairs)
    if rate <= 0:
        return None
    hours = samples[-1].free / rate / 3600.0
    return Forecast(hours, (samples[-1].at - samples[0].at) / 3600.0) if hours <= FARTHEST_HOURS else None


def alarm(hours: float | None, before: float | None) -> float | None:
    """The shortest of `ALARM_HOURS` that a forecast is below, if any. `before`: what this returned last.

    A result smaller than `before` is news; one that is equal was told already.
    """
    below = [limit for limit in ALARM_HOURS if hours is not None and hours < limit]
    now = min(below, default=None)
    if before is None or (now is not None and now <= before):
        return now
    return before if hours is not None and hours < before * ALARM_OVER else now


def _between_deletions(samples: Sequence[Sample]) -> list[Sequence[Sample]]:
    cuts = [i for i in range(1, len(samples)) if samples[i].free > samples[i - 1].free * (1 + DELETION)]
    return [samples[start:end] for start, end in zip([0, *cuts], [*cuts, len(samples)], strict=True)]


def _pairs(samples: Sequence[Sample]) -> list[tuple[float, float]]:
    """(bytes per second, seconds apart) of all pairs that are far enough apart."""
    return [
        ((later.free - earlier.free) / (later.at - earlier.at), later.at - earlier.at)
        for i, earlier in enumerate(samples)
        for later in samples[i + 1 :]
        if later.at - earlier.at >= SHORTEST_SECONDS
    ]


def _weighted_median(pairs: list[tuple[float, float]]) -> float:
    """The value at which half of the weight lies on either side; `pairs`: (value, weight)."""
    ordered = sorted(pairs)
    passed = list(itertools.accumulate(weight for _, weight in ordered))
    return ordered[bisect.bisect_left(passed, passed[-1] / 2)][0]


# --- words ------------------------------------------------------------------------------------------------


def gigabytes(count: int) -> str:
    """`12.3 GB`, powers of 1000; three more digits below one gigabyte."""
    return f"{count / 1e9:.1f} GB" if abs(count) >= 1e9 else f"{count / 1e9:.4f} GB"


def _duration(hours: float) -> str:
    """`12 min`, `7 h`, `3 days`."""
    if hours < 1:
        return f"{max(1, round(hours * 60))} min"
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"
