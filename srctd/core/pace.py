"""How fast copies may read: the limit of a root, and what the detector leaves of its disk.

All rates are bytes per second, all times monotonic seconds; the caller brings them.
"""

import math
from typing import NamedTuple

BURST_SECONDS = 0.1
"""A copy that was slower than it might have been for a while reads on at once for what so much time allows."""
FLOOR = 1e6
"""What copies get at least, however busy the detector is: a copy that stands still would look like a broken one."""
NEGLIGIBLE = 0.05
"""Part of what a disk gives below which what is written to it is no acquisition."""
SHARE = 0.5
"""Copies get so much of what the detector leaves. Were it all of it, a detector that was pushed aside would stay
there: what it leaves is then what the copies took. This way they take less and less, until it has all it wants."""
RISE = 1.1
"""While the detector writes, what copies get grows by no more than this factor from one observation to the next."""
SATURATED = 0.95
"""Part of the time for which a disk works above which it is taken to give no more than it just gave. A disk that
serves many requests at once may well give more, but whether it does is not tried out on a detector."""
LEAST_BUSY = 0.1
"""A disk that works for less of the time says nothing of what it could do."""
PRESUMED = 100e6
"""What a disk gives of which little was seen so far: one for a detector gives more."""


# --- a limit ----------------------------------------------------------------------------------------------


class Bucket(NamedTuple):
    """What may be read at once, by a rate that was not used up."""

    saved: float
    """Bytes."""
    at: float
    """When that was so."""


def filled(bucket: Bucket, rate: float, waiting: float, now: float) -> Bucket:
    """The bucket as it is now. `waiting`: bytes that are asked for, for which there is room whatever the rate."""
    if math.isinf(rate):
        return Bucket(math.inf, now)
    saved = bucket.saved + rate * max(0.0, now - bucket.at)
    return Bucket(min(saved, max(rate * BURST_SECONDS, waiting)), max(now, bucket.at))


def seconds_until(bucket: Bucket, rate: float, wanted: float) -> float:
    """How long until so many bytes may be read; 0: they may be now."""
    return max(0.0, (wanted - bucket.saved) / rate)


# --- a disk -----------------------------------------------------------------------------------------------


class Load(NamedTuple):
    """What happened on a disk between two observations."""

    seconds: float
    written: float
    """Bytes, by the detector."""
    read: float
    """Bytes, by copies and whoever else reads there."""
    total: float
    """Bytes, read or written by anybody."""
    busy: float = 0.0
    """Part of the time for which the disk worked; 0 where that is not known."""


class Disk(NamedTuple):
    """What is known of a disk, and what follows for copies."""

    detector: float = 0.0
    """What the detector writes: rises at once, falls by half from one observation to the next."""
    most: float = PRESUMED
    """The most that was seen of the disk, reads and writes together."""
    gives: float = PRESUMED
    """What the disk is taken to give."""
    allowed: float = math.inf
    """What copies may read."""


def observed(disk: Disk, load: Load, configured: float, fraction: float) -> Disk:
    """A disk after another observation. `configured`: what it gives; 0: the most that was seen of it.

    Copies yield while the detector writes more than a fraction of what the disk gives it, which is what it gives
    less what they read; `allowed` is then half of what the detector leaves.
    """
    written, read, total = (count / load.seconds for count in (load.written, load.read, load.total))
    # What it did in the time for which it worked, it could do all the time.
    most = max(disk.most, total / min(load.busy, 1.0) if load.busy >= LEAST_BUSY else total)
    gives = configured or most
    # Reads and writes side by side get less of a disk than the most that was seen of it.
    just_now = min(gives, total) if load.busy >= SATURATED else gives
    detector = max(written, disk.detector / 2)
    if detector <= NEGLIGIBLE * gives:
        return Disk(detector, most, gives)
    risen = RISE * disk.allowed
    if detector <= fraction * max(0.0, just_now - read):
        return Disk(detector, most, gives, risen if risen < gives else math.inf)
    left = SHARE * max(0.0, just_now - detector)
    return Disk(detector, most, gives, max(FLOOR, min(left, risen)))
