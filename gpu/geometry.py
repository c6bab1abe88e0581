"""Angles and axis of a parallel-beam scan, as the algorithms need them."""

import numpy as np
from numpy.typing import NDArray

GAP_LIMIT = 3.0
"""A gap between neighboring angles counts at most this many usual steps."""

GAP_RADIANS = np.radians(5.0)
"""A gap up to this is no wedge, whatever the steps: angles at random have many of several usual steps."""

_SAME = 0.05
"""Angles closer than this fraction of the mean step are one direction measured again."""


def angular_weights(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the half circle that each projection stands for, radian; sums to pi without gaps.

    Projections at t and t + pi see the same rays, so directions live on a circle of circumference pi. On it
    every direction gets half the distance to either neighbor (the trapezoidal rule on a circle), whatever the
    order of the angles and whether they cover 180 degrees, 360 degrees or both end points; projections of one
    direction share its weight equally.

    A gap is counted as at most `GAP_LIMIT` usual steps (the upper quartile of the steps) or 5 degrees: with a
    missing wedge the edge directions would otherwise stand for all that was never measured, and draw streaks.
    What is missing stays missing: the weights then sum to less than pi.
    """
    n = len(angles)
    folded = np.mod(np.asarray(angles, np.float64), np.pi)
    order = np.argsort(folded, kind="stable")
    steps = np.diff(folded[order], append=folded[order[0]] + np.pi)  # steps[i]: from the i-th to the next
    if n == 1:
        return np.array([np.pi])
    start = (int(np.argmax(steps)) + 1) % n  # begin behind the largest gap: no direction straddles the end
    order, steps = np.roll(order, -start), np.roll(steps, -start)
    direction = np.concatenate([[0], np.cumsum(steps[:-1] > _SAME * np.pi / n)])
    n_directions = int(direction[-1]) + 1
    position = np.concatenate([[0.0], np.cumsum(steps[:-1])])
    count = np.bincount(direction)
    middle = np.bincount(direction, position) / count
    gaps = np.diff(middle, append=middle[0] + np.pi)
    if n_directions > 2:
        gaps = np.minimum(gaps, max(GAP_RADIANS, GAP_LIMIT * np.quantile(gaps, 0.75)))
    share = 0.5 * (gaps + np.roll(gaps, 1)) / count
    weights = np.empty(n)
    weights[order] = share[direction]
    return weights


def step(angles: NDArray[np.float64]) -> float:
    """The usual distance between neighboring angles, radian; 0 only if all are the same."""
    steps = np.diff(np.sort(angles))
    distinct = steps[steps > 1e-9]
    return float(np.median(distinct)) if len(distinct) else 0.0
