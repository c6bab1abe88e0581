"""The transform from scattered frequencies to an image against the sum itself."""

import numpy as np
import pytest

from gpu.kernels.nufft import ImageTransform


@pytest.mark.parametrize("n", [1, 2, 9, 32, 45])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-4, 1e-5])
def test_it_is_the_sum_to_the_tolerance(n: int, tolerance: float) -> None:
    rng = np.random.default_rng(n)
    v, u = rng.uniform(-np.pi, np.pi, (2, 300)).astype(np.float32)
    strengths = (rng.normal(size=300) + 1j * rng.normal(size=300)).astype(np.complex64)
    pixels = np.arange(n) - n // 2
    along_y, along_x = (np.exp(1j * np.outer(pixels, w.astype(np.float64))) for w in (v, u))
    expected = (along_y * strengths) @ along_x.T
    real, imaginary = np.empty((2, n, n), np.float32)
    transform = ImageTransform(v, u, n, tolerance)
    transform(strengths, real, imaginary)
    error = np.linalg.norm(real + 1j * imaginary - expected) / np.linalg.norm(expected)
    assert error < 3 * tolerance
    again = np.empty_like(real)
    transform(strengths, again, None)
    assert again.tobytes() == real.tobytes()
