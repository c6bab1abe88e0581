"""Ring removal: level the detector columns that stand out at every angle.

A pixel whose response is a little off draws a straight stripe through the sinogram and a ring into the slice.
What tells a stripe from the sample is that it stays the same while the sample turns. So each column is
compared with the sliding median of its neighborhood once per group of successive angles, and its offset is
the median over the groups; it counts as a stripe if it exceeds, by the threshold, both its own scatter over
the groups (the sample scatters, a stripe does not) and the usual offset of the row's columns. A sliding
median leaves monotonic slopes alone, and with them the edges of a sample that is round about the axis.

Means of groups instead of a median over all angles: one pass over the data at memory speed, and the medians
then run over a few rows only (see Vo, Atwood, Drakopoulos, Opt. Express 26, 28396, 2018,
doi:10.1364/OE.26.028396, for stripes and methods in general).
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

GROUPS = 16
"""Groups of successive angles; half of them may be disturbed by the sample without harm."""

_MAD = 1.4826
"""Median absolute deviation to standard deviation, for a normal distribution."""

_MEDIAN_NOISE = 1.2533
"""Standard deviation of a median against that of a mean, for a normal distribution."""


def remove_median(
    sinograms: NDArray[np.float32], *, size: int, threshold: float, workers: int = 1
) -> NDArray[np.float32]:
    """Level stripes, in place.

    Every row is worked on by itself, so the result does not depend on how rows are divided; rows and columns
    without a stripe keep their bytes.

    Parameters
    ----------
    sinograms
        (n_rows, n_angles, n_columns), float32; changed in place.
    size
        Neighborhood, pixels. Stripes wider than half of it stay.
    threshold
        Robust standard deviations by which a column must stand out.
    workers
        Threads.

    Returns
    -------
    `sinograms` itself.

    """

    def row(r: int) -> None:
        offset = stripes(sinograms[r], size=size, threshold=threshold)
        if offset.any():
            sinograms[r] -= offset

    if workers > 1:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(row, range(len(sinograms))))
    else:
        for r in range(len(sinograms)):
            row(r)
    return sinograms


def stripes(sinogram: NDArray[np.float32], *, size: int, threshold: float) -> NDArray[np.float32]:
    """Offset of each column that is a stripe, 0 elsewhere.

    `sinogram` (n_angles, n_columns); returns (n_columns,), float32, in the sinogram's unit. On a slope a
    stripe lower than the slope's rise to the next column hides among its neighbors and stays. Fewer than
    `GROUPS` angles cannot tell a stripe from the sample; nothing is found in them.
    """
    if len(sinogram) < GROUPS:
        return np.zeros(sinogram.shape[1], np.float32)
    standing_out = offsets(sinogram, size)
    offset = _median(standing_out)
    scatter = _MAD * _median(np.abs(standing_out - offset))
    own = _MEDIAN_NOISE * scatter / np.sqrt(len(standing_out))
    usual = _MAD * np.median(np.abs(offset))
    found = np.abs(offset) > threshold * np.maximum(own, usual)
    return np.where(found, offset, np.float32(0)).astype(np.float32)


def offsets(sinogram: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """How far columns stand out of their neighborhood, per group of angles, (n_groups, n_columns)."""
    n_angles = len(sinogram)
    bounds = np.linspace(0, n_angles, min(GROUPS, n_angles) + 1).astype(int)
    means = np.stack([sinogram[a:b].mean(axis=0) for a, b in pairwise(bounds)])
    return means - _sliding_median(means, size)


def _median(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Median along the first axis. Sorting a few long rows against each other is faster than numpy's selection."""
    ordered = np.sort(rows, axis=0)
    n = len(rows)
    middle: NDArray[np.float32] = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    return middle


def _sliding_median(rows: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Median over `size` (made odd) columns of every row; beyond its ends a row goes on with its last value.

    All rows in one go: scipy's one-dimensional median is much faster than that along an axis.
    """
    half = min(size // 2, rows.shape[1] - 1)
    padded = np.pad(rows, ((0, 0), (half, half)), mode="edge")
    smooth: NDArray[np.float32] = median_filter(padded.ravel(), 2 * half + 1).reshape(padded.shape)
    return smooth[:, half : half + rows.shape[1]]
