"""Filtered back-projection by direct summation on the CPU: the twin of `kernels/backproject.cu`.

Every pixel adds up, over the angles, what lies at x cos t + y sin t + center in the filtered row, linearly
interpolated. That takes n^2 steps per angle where the Fourier method takes about log n, and damps the highest
frequencies as the window sinc^2 does; it owes the Fourier method nothing, so that each is the other's check.

The samples of `SLICES` slices lie side by side: position and weights are found once for all of them, and the sums
are vector instructions.
"""

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from gpu.fourier import FourierPlan, ramp_filter
from gpu.geometry import angular_weights

SLICES = 32
"""Slices worked on together. With 16 the compiler finds no vectors; 64 are a quarter faster in twice the memory."""
_TILE = 16
"""Side of the square of pixels whose sums stay in the cache while the angles go by."""


def backproject(
    rows: NDArray[np.float32],
    angles: NDArray[np.float64],
    slices: NDArray[np.float32],
    *,
    center: float,
    first: tuple[int, int] = (0, 0),
    n: int | None = None,
    threads: int = 1,
) -> None:
    """Sum over all angles of the rows' values at every pixel; see `kernels.backprojection.backproject`.

    `rows`: (n_groups, n_angles, length, `SLICES`), C-contiguous. The bytes do not depend on `threads`.
    """
    n_y, n_x = slices.shape[1:]
    side, length = n or n_x, rows.shape[2]
    views = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    # Column of the pixel at (0, 0): no product with the angle is left than that of whole pixels.
    start = views @ (np.array(first) - 0.5 * (side - 1)) + center % length

    def tile(group: int, top: int) -> None:
        some = slices[group * SLICES : (group + 1) * SLICES]
        for left in range(0, n_x, _TILE):
            _tile(rows[group], views, start, top, left, some)

    jobs = [(group, top) for group in range(len(rows)) for top in range(0, n_y, _TILE)]
    with ThreadPoolExecutor(max(1, threads)) as pool:
        list(pool.map(tile, *zip(*jobs, strict=True)))


class DirectFBP:
    """Filtered back-projection by direct summation, planned as the Fourier method is but for its tolerance.

    The bytes of a slice depend neither on the number of threads nor on which slices are worked on with it.
    """

    def __init__(self, plan: FourierPlan, threads: int = 1) -> None:
        """`threads`: of a group of `SLICES` slices, which takes 12 n_angles P bytes for each of them."""
        self.n_columns, self.threads, self._plan = plan.n_columns, max(1, threads), plan
        transfer = ramp_filter(plan.length, plan.filter_name)[: plan.length // 2 + 1]
        weights = angular_weights(plan.angles) * plan.scale
        self._response = np.multiply.outer(weights, transfer).astype(np.float32)

    def reconstruct(self, sinograms: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Reconstruct slices: (n_rows, n_angles, n_columns) to `out` (n_rows, n_columns, n_columns), float32."""
        plan = self._plan
        rows = np.empty((1, len(plan.angles), plan.length, SLICES), np.float32)
        for first in range(0, len(sinograms), SLICES):
            some = slice(first, first + SLICES)
            self._filter(sinograms[some], rows[0])
            backproject(rows, plan.angles, out[some], center=plan.center, threads=self.threads)

    def _filter(self, sinograms: NDArray[np.float32], rows: NDArray[np.float32]) -> None:
        """Padded and filtered rows of a group, side by side, (n_angles, P, `SLICES`)."""
        n, seam, edge = self.n_columns, self._plan.seam, self._plan.edge

        def one(angle: int) -> None:
            padded = np.zeros((len(sinograms), self._plan.length), np.float32)
            padded[:, :n] = sinograms[:, angle]
            if edge:
                padded[:, n:seam] = padded[:, n - 1 : n]
                padded[:, seam:] = padded[:, :1]
            spectrum = scipy.fft.rfft(padded, axis=1) * self._response[angle]
            rows[angle, :, len(sinograms) :] = 0
            rows[angle, :, : len(sinograms)] = scipy.fft.irfft(spectrum, self._plan.length, axis=1).T

        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(one, range(len(rows))))


@numba.njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def _tile(
    rows: NDArray[np.float32],
    views: NDArray[np.float64],
    start: NDArray[np.float64],
    top: int,
    left: int,
    slices: NDArray[np.float32],
) -> None:
    """A square of pixels of a group: (n_angles, length, `SLICES`) to `slices` (up to `SLICES`, n_y, n_x)."""
    n_angles, length, _ = rows.shape
    n_y, n_x = min(_TILE, slices.shape[1] - top), min(_TILE, slices.shape[2] - left)
    sums = np.zeros((_TILE, _TILE, SLICES), np.float32)
    for angle in range(n_angles):
        row, step = rows[angle], views[angle]
        for y in range(n_y):
            for x in range(n_x):
                t = start[angle] + (left + x) * step[0] + (top + y) * step[1]
                below = np.floor(t)
                share = np.float32(t - below)
                at = int(below)
                if at < 0:
                    at += length
                elif at >= length:
                    at -= length
                following = at + 1 if at + 1 < length else 0
                for s in range(SLICES):
                    sums[y, x, s] += row[at, s] + share * (row[following, s] - row[at, s])
    for s in range(len(slices)):
        for y in range(n_y):
            for x in range(n_x):
                slices[s, top + y, left + x] = sums[y, x, s]
