"""Dynamic scans: one acquisition whose sample went on turning, as several scans."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

FULL_TURN = 360.0
HALF_TURN = 180.0


def rotations(degrees: NDArray[np.float64], period: float | None = None) -> list[slice]:
    """Which projections make up a scan of their own, in the order of acquisition; a single slice if all do.

    The rule: the angles must run one way without turning back (angles written modulo 360 degrees are unrolled).
    Together, the last step included, they must cover at least two full turns; then every full turn is a member. A
    scan of 360 degrees, or of one turn and a half, is one scan. `period` (degrees, 180 or 360) is what the file
    itself says of one member, and takes the place of the full turn. What is left after the last whole member is a
    member if it covers a half turn, and else belongs to none.
    """
    whole = [slice(0, len(degrees))]
    if len(degrees) < 4:
        return whole
    unrolled = np.unwrap(degrees, period=FULL_TURN)
    steps = np.diff(unrolled)
    step = float(np.median(steps))
    if step == 0 or np.any(steps * np.sign(step) < -0.5 * abs(step)):
        return whole
    length = period or FULL_TURN
    gone = (unrolled - unrolled[0]) * np.sign(step)
    covered = float(gone[-1]) + abs(step)
    slack = 0.5 * abs(step)
    members = int((covered + slack) // length)
    if members < 2:
        return whole
    begins = [int(np.searchsorted(gone, k * length - slack)) for k in range(members + 1)]
    found = [slice(first, end) for first, end in pairwise(begins)]
    if covered - members * length >= HALF_TURN - slack:
        found.append(slice(begins[-1], len(degrees)))
    return found
