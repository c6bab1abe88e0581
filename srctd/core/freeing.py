"""What removing files freed, by how full the disk was before and after.

Files may share their blocks with others (copies on XFS and btrfs, snapshots), and then nothing is free when they
are gone. What is written to the disk at the same time hides what was freed, and some file systems free only a while
later: so the use is asked several times, and what is written is reckoned from how the use goes on afterwards.
"""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

MEANINGFUL = 0.25
"""Part of what was removed that must be free afterwards: who removes more for less removes nearly everything."""
_FLOOR_BYTES = 1 << 30
_FLOOR_PART = 0.01


class Sample(NamedTuple):
    """How full a disk was."""

    at: float
    """Seconds of a monotonic clock."""
    used: int
    """Bytes."""


def freed(before: Sample, after: Sequence[Sample]) -> float:
    """Bytes that were freed between a sample and those after it, in order, where all else went on as afterwards.

    The median of the rates afterwards is what was written: what is freed later shows in one of them.
    """
    rates = [
        (later.used - one.used) / (later.at - one.at) for one, later in pairwise(after) if later.at > one.at
    ]
    rate = max(0.0, median(rates)) if rates else 0.0
    return max(before.used - sample.used + rate * (sample.at - before.at) for sample in after)


def tells(removed: int, size: int) -> bool:
    """Whether so many bytes are enough to be seen on a disk of that size, beside what others do there."""
    return removed >= min(_FLOOR_BYTES, _FLOOR_PART * size)
