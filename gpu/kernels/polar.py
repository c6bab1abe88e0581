"""Filtered back-projection by a non-uniform FFT on a device; the kernels are in `fourier.cu`.

The same sum as on the CPU (`gpu.fourier`): rows are padded, transformed, filtered, spread onto a Cartesian grid
finer than the image, and that is transformed. Made of launches and FFTs only.
"""

from typing import NamedTuple

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from gpu.array import Array
from gpu.kernels.device import Device, Kernel

MOST_PAIRS = 4
"""Pairs of slices that one thread works on: so often are samples and weights used once they are found."""

_FINEST = 1e-6
"""Single precision does not carry a smaller tolerance."""

_FEW_SAMPLES = 0.8
"""Samples per pixel below which transforming the grid takes longer than spreading, so that a coarse grid pays."""

_CORE = 32
"""Half the side of the square about zero frequency where the rays are divided among threads, grid steps at most."""
_PARTS = 32

_QUADRATURE = 200
"""Nodes for the Fourier transform of the spreading kernel; it is smooth, so that far fewer would do."""


class Spreading(NamedTuple):
    """The spreading kernel exp(beta (sqrt(1 - (d / reach)^2) - 1)) and how fine its grid is."""

    upsampling: float
    """Grid points per pixel, along each axis."""
    reach: float
    """Half the kernel's width, grid steps."""
    beta: float

    @classmethod
    def of(cls, tolerance: float, upsampling: float) -> "Spreading":
        """The narrowest kernel for a relative tolerance (Barnett et al. 2019, eqs. 3.5 and 4.5)."""
        rate = np.pi * np.sqrt(1 - 1 / upsampling)
        width = int(np.ceil(np.log(1 / max(tolerance, _FINEST)) / rate))
        return cls(upsampling, width / 2, 0.97 * np.pi * width * (1 - 0.5 / upsampling))

    def transform(self, frequency: NDArray[np.float64]) -> NDArray[np.float64]:
        """Its Fourier transform, at frequencies in cycles per grid step."""
        nodes, weights = np.polynomial.legendre.leggauss(_QUADRATURE)
        values = weights * np.exp(self.beta * (np.sqrt(1 - nodes**2) - 1)) * self.reach
        total: NDArray[np.float64] = (
            np.cos(2 * np.pi * self.reach * np.multiply.outer(frequency, nodes)) @ values
        )
        return total


class _Rays(NamedTuple):
    """The lines through zero frequency on which the samples lie, sorted by angle modulo pi."""

    order: Array
    """(n_angles,): which projection each is; -1 minus that for one that is seen from behind, an odd number of half
    turns away.
    """
    steps: Array
    """(n_angles, 4): grid steps per frequency along x and y, and their inverses."""
    first_in_bin: Array
    """(n_bins,): the first ray of each of equal parts of pi."""

    @classmethod
    def of(cls, angles: NDArray[np.float64], step: float) -> "_Rays":
        """`step`: grid steps per frequency."""
        turns = np.floor(angles / np.pi)
        folded = angles - turns * np.pi
        order = np.argsort(folded, kind="stable")
        folded, behind = folded[order], turns[order] % 2 == 1
        parts = np.stack([np.cos(folded), np.sin(folded)], axis=1) * step
        with np.errstate(divide="ignore"):
            inverse = np.where(np.abs(parts) > 1e-12, 1 / parts, 1e12)
        n_bins = max(16, 2 * len(angles))
        bounds = np.arange(n_bins) * (np.pi / n_bins)
        return cls(
            np.where(behind, -1 - order, order).astype(np.int32),
            np.ascontiguousarray(np.concatenate([parts, inverse], axis=1), np.float32),
            np.searchsorted(folded, bounds).astype(np.int32),
        )


class PolarTransform:
    """The transform for one set of angles; made once, used for many slices.

    Pairs are transformed one by one, whatever their number, so that a slice's bytes do not depend on its company.
    """

    def __init__(
        self,
        device: Device,
        angles: NDArray[np.float64],
        response: NDArray[np.complex64],
        n_columns: int,
        *,
        tolerance: float,
        seam: int,
        edge: bool,
        upsampling: float | None = None,
        pairs: int = MOST_PAIRS,
    ) -> None:
        """Plan, and take the device memory that it needs.

        Parameters
        ----------
        device
            Where it runs.
        angles
            (n_angles,), radian, anywhere and in any order.
        response
            (n_angles, padded length): filter, weight and phase of every angle, by FFT frequency.
        n_columns
            Of the detector, and side of the slices.
        tolerance
            Relative.
        seam
            Where in the padding the right edge's value gives way to the left edge's.
        edge
            Whether the padding has those values, or zeros.
        upsampling
            Grid points per pixel; by default what is quicker.
        pairs
            Of slices worked on at once. Fewer take less memory and more time, and give the same bytes.

        """
        xp = device.xp
        self._device, self._seam, self._edge, self.pairs = device, seam, int(edge), pairs
        self._n, (self._n_angles, self._length) = n_columns, response.shape
        if upsampling is None:
            upsampling = 1.25 if response.size < _FEW_SAMPLES * n_columns**2 else 2.0
        self._spreading = Spreading.of(tolerance, upsampling)
        self._size = 2 * int(scipy.fft.next_fast_len(-(-max(32, int(upsampling * n_columns)) // 2)))
        self._rays = _Rays(*map(xp.asarray, _Rays.of(angles, self._size / self._length)))
        self._response = xp.asarray(response)
        pixels = np.arange(n_columns) - n_columns // 2
        self._correction = xp.asarray((1 / self._spreading.transform(pixels / self._size)).astype(np.float32))
        self._packed = xp.empty((pairs, self._n_angles, self._length), np.complex64)
        self._polar = xp.empty((self._n_angles, self._length, pairs), np.complex64)
        self._grid = xp.empty((pairs, self._size, self._size), np.complex64)
        self._core = min(_CORE, self._size // 4)
        self._parts = xp.empty((_PARTS, 2 * self._core, 2 * self._core, pairs), np.complex64)
        self._pack = Kernel("fourier.cu", "pack", (256, 1, 1), SLICES=pairs)
        self._filter = Kernel("fourier.cu", "filter_rows", (128, 1, 1), SLICES=pairs)
        self._gather = Kernel("fourier.cu", "gather", (8, 16, 1), SLICES=pairs)
        self._gather_core = Kernel("fourier.cu", "gather_core", (8, 16, 1), SLICES=pairs)
        self._add_core = Kernel("fourier.cu", "add_core", (8, 16, 1), SLICES=pairs)
        self._crop = Kernel("fourier.cu", "crop", (256, 1, 1), SLICES=pairs)
        device.transform(self._packed[0], axes=(1,), inverse=False)  # takes the memory that the FFTs work in
        device.transform(self._grid[0], axes=(0, 1), inverse=True)

    @property
    def rows(self) -> int:
        """Slices that are worked on at once."""
        return 2 * self.pairs

    def __call__(self, sinograms: Array, offsets: Array | None, slices: Array) -> None:
        """Reconstruct on the device.

        Parameters
        ----------
        sinograms
            (n_rows, n_angles, n_columns), float32, finite.
        offsets
            (n_rows, n_columns): taken off every projection, or nothing.
        slices
            (n_rows, n_columns, n_columns), float32, written.

        """
        for first in range(0, len(sinograms), self.rows):
            some = slice(first, first + self.rows)
            self._some(sinograms[some], None if offsets is None else offsets[some], slices[some])

    def _some(self, sinograms: Array, offsets: Array | None, slices: Array) -> None:
        launch = self._device.launch
        n, n_angles, length, size = self._n, self._n_angles, self._length, self._size
        n_rows = len(sinograms)
        n_pairs = (n_rows + 1) // 2
        packed, grid = self._packed[:n_pairs], self._grid[:n_pairs]
        launch(
            self._pack, (length, n_angles, n_pairs),
            sinograms, offsets, packed, n_rows, n_angles, n, length, self._seam, self._edge,
        )  # fmt: skip
        for one in packed:
            self._device.transform(one, axes=(1,), inverse=False)
        launch(
            self._filter, (length, n_angles, 1),
            packed, self._response, self._rays.order, self._polar, n_pairs, n_angles, length,
        )  # fmt: skip
        core, reach, beta = self._core, float(self._spreading.reach), float(self._spreading.beta)
        polar, n_bins = (self._polar, self._rays.steps, self._rays.first_in_bin), len(self._rays.first_in_bin)
        launch(
            self._gather_core, (2 * core, 2 * core, _PARTS),
            *polar, self._parts, n_bins, n_angles, length, size, core, _PARTS, reach, beta,
        )  # fmt: skip
        launch(
            self._gather, (size, size, 1),
            *polar, grid, n_pairs, n_bins, n_angles, length, size, core, reach, beta,
        )  # fmt: skip
        launch(self._add_core, (2 * core, 2 * core, 1), self._parts, grid, n_pairs, size, core, _PARTS)
        for one in grid:
            self._device.transform(one, axes=(0, 1), inverse=True)
        launch(self._crop, (n, n, n_pairs), grid, self._correction, slices, n_rows, n, size)
