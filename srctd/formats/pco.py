"""Counters that PCO cameras write into the first pixels of a frame: a proof of frames that were dropped.

The first 14 pixels of row 0 hold two binary-coded decimal digits each in their low byte: four pixels count the
images, the rest is the time as YYYY MM DD hh mm ss and microseconds (pco.sdk, `binary` timestamp mode).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

STAMP_PIXELS = 14
MOST_READS = 4096
"""Frames looked at while jumps are searched for; there is one search per jump."""

_HIGHEST = (99, 99, 99, 99, 20, 99, 12, 31, 23, 59, 59, 99, 99, 99)
_LOWEST = (0, 0, 0, 0, 20, 0, 1, 1, 0, 0, 0, 0, 0, 0)


def counter(pixels: NDArray[np.generic]) -> int | None:
    """The image counter in the first pixels of a frame; None where they are no plausible stamp."""
    if len(pixels) < STAMP_PIXELS or pixels.dtype.kind not in "ui":
        return None
    values = [int(pixel) for pixel in pixels[:STAMP_PIXELS]]
    if max(values) > 0x99 or min(values) < 0 or any(value & 15 > 9 or value >> 4 > 9 for value in values):
        return None
    digits = [10 * (value >> 4) + (value & 15) for value in values]
    if any(not low <= n <= high for n, low, high in zip(digits, _LOWEST, _HIGHEST, strict=True)):
        return None
    return digits[0] * 1_000_000 + digits[1] * 10_000 + digits[2] * 100 + digits[3]


def dropped(read: Callable[[int], int | None], frames: int) -> list[tuple[int, int]] | None:
    """Frames that a camera took and that are not in a file, as (position after which they are missing, how many).

    `read` gives the counter of the frame at a position. None unless first, middle and last frame all have a
    plausible one that does not run backwards. A camera of which only every n-th frame is kept counts in steps of n.
    Jumps are found by bisection: where the counters at both ends of a stretch fit its length, nothing is missing in
    it. So a whole scan costs three reads, and a scan with k jumps about k log2(frames) more.
    """
    if frames < 3:
        return None
    first, middle, last = (read(i) for i in (0, frames // 2, frames - 1))
    if first is None or middle is None or last is None or not first < middle < last:
        return None
    step = max(1, (last - first) // (frames - 1))
    found: list[tuple[int, int]] = []
    waiting = [(frames // 2, middle, frames - 1, last), (0, first, frames // 2, middle)]
    reads = 3
    while waiting and reads < MOST_READS:
        begin, low, end, high = waiting.pop()
        lost = (high - low) // step - (end - begin)
        if lost <= 0:
            continue
        if end - begin == 1:
            found.append((begin, lost))
            continue
        half = (begin + end) // 2
        between = read(half)
        reads += 1
        if between is None:
            return None
        waiting += [(half, between, end, high), (begin, low, half, between)]
    return found
