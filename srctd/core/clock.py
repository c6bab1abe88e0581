"""What a clock that was set does to times that were noted before.

A machine whose clock stood back writes times that are too old; once it is put right, what has just happened would
seem to have happened long ago. Seconds since the machine was started cannot be set. Where both disagree the clock
was set, and what was noted before moves with it: its age is the time for which this machine was seen to run since.
"""

from typing import NamedTuple

UNNOTICED_SECONDS = 1.0
"""Clocks that are brought right gently, and two clocks that are read one after the other, differ by less."""


class Reading(NamedTuple):
    """What the clocks of a machine said at one moment."""

    wall: float
    """UTC timestamp."""
    running: float
    """Seconds since the machine was started; it may have slept meanwhile."""
    boot: str
    """Which start that was; empty: not known, and taken for another one."""


def set_by(before: Reading, now: Reading) -> float:
    """By how many seconds the clock was set in between; 0 where it was not.

    Over another start of the machine nothing tells for how long it was off: that time counts as set.
    """
    ran = now.running - before.running if now.boot == before.boot != "" else 0.0
    jump = now.wall - before.wall - ran
    return jump if abs(jump) > UNNOTICED_SECONDS else 0.0
