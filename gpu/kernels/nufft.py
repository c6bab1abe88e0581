"""The sum over scattered frequencies that makes an image: a non-uniform Fourier transform of type 1.

    f(y, x) = sum_j c_j exp(i (y v_j + x u_j)),   y, x = -(n // 2) ... (n - 1) // 2

Spreading onto a finer grid is finufft's (Barnett, Magland, af Klinteberg, SIAM J. Sci. Comput. 41, C479,
2019, doi:10.1137/18M120885X). The FFT of that grid is done here, because only a part of its result is wanted:
columns outside the image are dropped between its two passes, the passes run over blocks that stay in cache,
and the correction for the spreading kernel and the division into two real images come with the copies.
"""

import finufft
import numpy as np
import scipy.fft
from numpy.typing import NDArray

_BLOCK_BYTES = 1 << 20
_FINEST = 1e-6
"""Single precision does not carry a smaller tolerance."""
_WIDE_ENOUGH = 3e-5
"""Down to this tolerance a grid 1.25 times as fine is enough in single precision; below it takes 2."""
_SAMPLES = 64
"""Samples of the kernel per grid step, for its Fourier transform."""


def spread_options(tolerance: float) -> dict[str, object]:
    """Options of finufft for a tolerance; the same bytes in every process (planned by rule, one thread)."""
    return {
        "eps": max(tolerance, _FINEST),
        "upsampfac": 1.25 if tolerance >= _WIDE_ENOUGH else 2.0,
        "isign": 1,
        "dtype": "complex64",
        "nthreads": 1,
        "fftw": 64,  # FFTW_ESTIMATE
    }


class ImageTransform:
    """The transform for one set of frequencies. One object works for one thread at a time.

    Holds a grid of about (1.25 n)^2 complex64, and an index per frequency.
    """

    def __init__(self, v: NDArray[np.float32], u: NDArray[np.float32], n: int, tolerance: float) -> None:
        """Sort the frequencies `v` (along y) and `u` (along x), radian per pixel, within -pi to pi."""
        self.n = n
        options = spread_options(tolerance)
        fine = max(32, int(np.ceil(float(str(options["upsampfac"])) * n)))
        size = 2 * int(scipy.fft.next_fast_len(-(-fine // 2)))
        self._plan = finufft.Plan(1, (size, size), 1, spreadinterponly=1, **options)
        self._plan.setpts(v, u)
        self._grid = np.empty((size, size), np.complex64)
        pixels = np.arange(n) - n // 2
        # Grid point l lies at -pi + 2 pi l / size: hence the sign.
        self._correction = (
            np.where(pixels % 2 == 0, 1, -1) / _kernel_transform(pixels / size, options)
        ).astype(np.float32)

    def __call__(
        self,
        strengths: NDArray[np.complex64],
        real: NDArray[np.float32],
        imaginary: NDArray[np.float32] | None,
    ) -> None:
        """Write the sum's real and imaginary part to images (n, n); `strengths` in the order of the frequencies."""
        n, half, grid = self.n, self.n // 2, self._grid
        self._plan.execute(strengths, out=grid)
        size = len(grid)
        step = max(1, _BLOCK_BYTES // (8 * size))
        for first in range(0, size, step):
            block = grid[first : first + step]
            passed = scipy.fft.ifft(block, axis=1, norm="forward")
            np.multiply(passed[:, size - half :], self._correction[:half], out=block[:, :half])
            np.multiply(passed[:, : n - half], self._correction[half:], out=block[:, half:n])
        down = self._correction[:, None]
        for first in range(0, n, step):
            columns = slice(first, min(first + step, n))
            passed = scipy.fft.ifft(grid[:, columns], axis=0, norm="forward")
            parts = [(passed.real, real)] + ([] if imaginary is None else [(passed.imag, imaginary)])
            for part, image in parts:
                np.multiply(part[size - half :], down[:half], out=image[:half, columns])
                np.multiply(part[: n - half], down[half:], out=image[half:, columns])


def _kernel_transform(frequency: NDArray[np.float64], options: dict[str, object]) -> NDArray[np.float64]:
    """Fourier transform of finufft's spreading kernel, at frequencies in cycles per grid step.

    The kernel is sampled by spreading single points between grid points.
    """
    size = 32
    plan = finufft.Plan(1, (size,), 1, spreadinterponly=1, **options)
    total = np.zeros(len(frequency))
    for i in range(_SAMPLES):
        shift = i / _SAMPLES - 0.5
        plan.setpts(np.array([2 * np.pi * shift / size], np.float32))
        kernel = plan.execute(np.ones(1, np.complex64)).real.astype(np.float64)
        distance = np.arange(size) - size / 2 - shift
        total += np.cos(2 * np.pi * frequency[:, None] * distance) @ kernel
    return total / _SAMPLES
