"""Direct back-projection on the CPU: the sum as it is defined, and what the Fourier method makes of the same."""

import numpy as np
import oracles
import pytest

from gpu.direct import SLICES, DirectFBP, backproject
from gpu.fourier import FourierFBP, FourierPlan


def grouped(rows: np.ndarray) -> np.ndarray:
    """(n_rows, n_angles, length) to groups of rows side by side."""
    whole = np.zeros((-(-len(rows) // SLICES) * SLICES, *rows.shape[1:]), np.float32)
    whole[: len(rows)] = rows
    return np.moveaxis(whole.reshape(-1, SLICES, *rows.shape[1:]), 1, 3).copy()


@pytest.mark.parametrize(
    ("n", "n_angles", "n_rows", "center", "length"),
    [
        (1, 1, 1, 0.2, 4),
        (16, 5, SLICES, 7.5, 32),
        (31, 17, SLICES + 1, 14.2, 64),
        (37, 6, 2, 36.0, 37),  # not padded: the columns beyond the detector are those of its other end
        (20, 6, 1, -13.0, 41),
        (20, 6, 1, 60.5, 41),
    ],
)
def test_it_is_the_sum(n: int, n_angles: int, n_rows: int, center: float, length: int) -> None:
    rows = np.random.default_rng(n).standard_normal((n_rows, n_angles, length)).astype(np.float32)
    angles = np.pi * np.arange(n_angles) / n_angles
    out = np.full((n_rows, n, n), np.nan, np.float32)
    backproject(grouped(rows), angles, out, center=center)
    expected = oracles.back_projection(rows.astype(np.float64), angles, center, n)
    assert np.abs(out - expected).max() < 1e-5 * max(1, np.abs(expected).max())


def test_a_region_is_that_of_the_whole() -> None:
    n, angles = 37, np.linspace(0, 3, 8)
    rows = grouped(np.random.default_rng(2).standard_normal((3, len(angles), 80)).astype(np.float32))
    whole = np.empty((3, n, n), np.float32)
    backproject(rows, angles, whole, center=18.3)
    corner = np.full((3, 20, 11), np.nan, np.float32)
    backproject(rows, angles, corner, center=18.3, first=(5, 12), n=n)
    np.testing.assert_allclose(corner, whole[:, 12:32, 5:16], rtol=0, atol=1e-5)


def planned(n: int, filter_name: str = "ram-lak", **options: object) -> FourierPlan:
    given = {"padding": "edge", "padding_factor": 2.0, "center": 0.47 * n, "scale": 3.0, **options}
    angles = np.pi * np.arange(200) / 200
    return FourierPlan(angles=angles, n_columns=n, filter_name=filter_name, tolerance=1e-6, **given)


def reconstructed(transform: DirectFBP | FourierFBP, sinograms: np.ndarray) -> np.ndarray:
    out = np.full((len(sinograms), transform.n_columns, transform.n_columns), np.nan, np.float32)
    transform.reconstruct(sinograms, out)
    return out


def test_bytes_depend_neither_on_threads_nor_on_other_slices() -> None:
    sinograms = np.random.default_rng(3).standard_normal((SLICES + 3, 200, 50)).astype(np.float32)
    whole = reconstructed(DirectFBP(planned(50)), sinograms)
    np.testing.assert_array_equal(reconstructed(DirectFBP(planned(50), threads=3), sinograms), whole)
    np.testing.assert_array_equal(reconstructed(DirectFBP(planned(50)), sinograms[5:9]), whole[5:9])


@pytest.mark.parametrize(("padding", "factor"), [("edge", 2.0), ("zero", 3.0), ("edge", 1.0)])
@pytest.mark.parametrize("n", [200, 201])
def test_it_agrees_with_the_fourier_method_on_what_is_smooth(n: int, padding: str, factor: float) -> None:
    plan = planned(n, "parzen", padding=padding, padding_factor=factor)
    columns = np.arange(n) - plan.center
    sinograms = np.stack(
        [
            np.exp(-0.5 * ((columns - x * np.cos(plan.angles)[:, None]) / width) ** 2) + level
            for x, width, level in [(0.0, 20.0, 0.0), (24.0, 16.0, 0.0), (-16.0, 26.0, 0.3)]
        ]
    ).astype(np.float32)
    direct, fourier = (reconstructed(kind(plan), sinograms) for kind in (DirectFBP, FourierFBP))
    y, x = np.mgrid[:n, :n] - (n - 1) / 2
    inside = x**2 + y**2 <= (0.45 * n) ** 2
    assert np.abs(direct - fourier)[:, inside].max() < 1e-3 * np.abs(fourier).max()
