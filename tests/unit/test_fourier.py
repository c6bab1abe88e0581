"""Filtered back-projection: values, geometry, weights, and bytes that depend on nothing they should not."""

import numpy as np
import pytest

from gpu.fourier import FourierFBP, FourierPlan, padded_length, ramp_filter
from gpu.geometry import GAP_RADIANS, angular_weights, step

FILTERS = ["ram-lak", "shepp-logan", "cosine", "hamming", "hann", "parzen", "sinc2"]


def discs(angles: np.ndarray, n: int, center: float, parts: list[tuple[float, float, float, float]]):
    """Sinogram of discs (x, y, radius, value), each sample averaged over the pixel; (1, n_angles, n), float32."""
    edges = np.arange(n + 1) - 0.5 - center
    total = np.zeros((len(angles), n))
    for x, y, radius, value in parts:
        track = x * np.cos(angles) + y * np.sin(angles)
        u = np.clip((edges - track[:, None]) / radius, -1, 1)
        total += value * radius**2 * np.diff(u * np.sqrt(1 - u**2) + np.arcsin(u), axis=1)
    return total[None].astype(np.float32)


def plan(angles: np.ndarray, n: int, center: float, **options) -> FourierFBP:
    given = {
        "filter_name": "ram-lak",
        "padding": "edge",
        "padding_factor": 2.0,
        "tolerance": 1e-5,
        **options,
    }
    threads = given.pop("threads", 1)
    return FourierFBP(FourierPlan(angles=angles, n_columns=n, center=center, **given), threads)


def slices(transform: FourierFBP, sinograms: np.ndarray) -> np.ndarray:
    n = transform.n_columns
    out = np.full((len(sinograms), n, n), np.nan, np.float32)
    transform.reconstruct(sinograms, out)
    return out


def direct(sinogram: np.ndarray, angles: np.ndarray, center: float, length: int, *, edge: bool) -> np.ndarray:
    """The formula itself, in double precision, one pixel row, angle and frequency after another: (n, n)."""
    n = sinogram.shape[1]
    seam = min(max(round(center + length / 2), n), length)
    kernel = np.zeros(length)
    for i in range(length):
        d = min(i, length - i)
        kernel[i] = 0.25 if d == 0 else (-1 / (np.pi * d) ** 2 if d % 2 else 0.0)
    x = np.arange(n) - (n - 1) / 2
    image = np.zeros((n, n))
    for t, row in zip(angles, sinogram.astype(np.float64), strict=True):
        padded = np.zeros(length)
        padded[:n] = row
        if edge:
            padded[n:seam], padded[seam:] = row[-1], row[0]
        filtered = [sum(padded[j] * kernel[(i - j) % length] for j in range(length)) for i in range(length)]
        spectrum = np.fft.fft(filtered)
        at = x[None] * np.cos(t) + x[:, None] * np.sin(t) + center
        for k in range(-((length - 1) // 2), (length - 1) // 2 + 1):  # without the Nyquist frequency
            image += (spectrum[k] * np.exp(2j * np.pi * k * at / length)).real / length
    return image * np.pi / len(angles)


@pytest.mark.parametrize(
    ("n", "n_angles", "center", "edge"), [(16, 12, 7.5, True), (17, 9, 9.3, True), (13, 10, 4.2, False)]
)
def test_it_is_the_formula(n: int, n_angles: int, center: float, edge: bool) -> None:
    rng = np.random.default_rng(n)
    angles = np.arange(n_angles) * np.pi / n_angles + 0.1
    sinograms = rng.normal(1, 1, (1, n_angles, n)).astype(np.float32)
    expected = direct(sinograms[0], angles, center, padded_length(n, 2.0), edge=edge)
    got = slices(plan(angles, n, center, padding="edge" if edge else "zero"), sinograms)[0]
    assert np.abs(got - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("center", [63.5, 70.25])
@pytest.mark.parametrize("name", FILTERS)
def test_values_are_attenuation_times_scale(name: str, center: float) -> None:
    angles = np.arange(200) * np.pi / 200
    sinogram = discs(angles, 128, center, [(6.0, -9.0, 30.0, 0.02)])
    image = slices(plan(angles, 128, center, filter_name=name, scale=1e6), sinogram)[0]
    x = np.arange(128) - 63.5
    distance = np.hypot(x[None] - 6.0, x[:, None] + 9.0)
    assert image[distance < 24].mean() == pytest.approx(2e4, rel=5e-3)
    assert abs(image[(distance > 36) & (np.hypot(x[None], x[:, None]) < 50)].mean()) < 1e-2 * 2e4


def test_x_runs_right_and_y_runs_down() -> None:
    angles = np.arange(120) * np.pi / 120
    image = slices(plan(angles, 65, 32.0), discs(angles, 65, 32.0, [(12.0, 5.0, 4.0, 1.0)]))[0]
    assert image[32 + 5, 32 + 12] > 0.9
    for y, x in ((-5, 12), (5, -12), (-5, -12), (12, 5)):
        assert abs(image[32 + y, 32 + x]) < 0.2


def test_a_full_turn_gives_the_same_slice() -> None:
    parts = [(5.0, 3.0, 9.0, 1.0)]
    half, full = (np.arange(m) * np.pi / 90 for m in (90, 180))
    one = slices(plan(half, 48, 25.0), discs(half, 48, 25.0, parts))[0]
    other = slices(plan(full, 48, 25.0), discs(full, 48, 25.0, parts))[0]
    inside = np.hypot(*np.mgrid[-23.5:24, -23.5:24]) < 20
    assert np.abs(one - other)[inside].max() < 0.02


@pytest.mark.parametrize("n", [2, 7, 31, 64])
def test_sections_are_lines_of_the_slices(n: int) -> None:
    rng = np.random.default_rng(n)
    angles = rng.uniform(0, np.pi, 25)
    sinograms = rng.normal(0, 1, (11, 25, n)).astype(np.float32)
    transform = plan(angles, n, 0.45 * n, threads=2)
    volume = slices(transform, sinograms)
    close = 1e-4 * np.abs(volume).max()
    for position in (0, n // 2, n - 1):
        along_x = transform.section(sinograms, axis="x", position=position)
        along_y = transform.section(sinograms, axis="y", position=position)
        assert np.abs(along_x - volume[:, position]).max() < close
        assert np.abs(along_y - volume[:, :, position]).max() < close


@pytest.mark.parametrize("n", [40, 37])
def test_bytes_depend_neither_on_threads_nor_on_the_division_of_rows(n: int) -> None:
    rng = np.random.default_rng(0)
    angles = np.arange(30) * np.pi / 30
    sinograms = rng.normal(0, 1, (21, 30, n)).astype(np.float32)
    whole = slices(plan(angles, n, 18.2), sinograms)
    threaded = plan(angles, n, 18.2, threads=3)
    assert slices(threaded, sinograms).tobytes() == whole.tobytes()
    parts = [slices(threaded, sinograms[a:b]) for a, b in ((0, 8), (8, 16), (16, 21))]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


def test_the_partner_of_a_slice_does_not_show_in_it() -> None:
    angles = np.arange(60) * np.pi / 60
    one = discs(angles, 50, 24.5, [(3.0, 2.0, 10.0, 1.0)])
    other = discs(angles, 50, 24.5, [(-9.0, 2.0, 5.0, 1.0)])
    transform = plan(angles, 50, 24.5)
    alone, together = slices(transform, one)[0], slices(transform, np.concatenate([one, other]))[0]
    assert np.abs(alone - together).max() < 1e-4


def test_a_wrong_shape_is_named() -> None:
    transform = plan(np.arange(10) * 0.3, 20, 9.5)
    with pytest.raises(ValueError, match=r"\(1, 10, 21\).*\(n_rows, 10, 20\)"):
        slices(transform, np.zeros((1, 10, 21), np.float32))


def test_no_rows_are_no_slices() -> None:
    transform = plan(np.arange(10) * 0.3, 20, 9.5, threads=2)
    assert slices(transform, np.zeros((0, 10, 20), np.float32)).shape == (0, 20, 20)
    assert transform.section(np.zeros((0, 10, 20), np.float32), axis="x", position=3).shape == (0, 20)


@pytest.mark.parametrize("name", FILTERS)
def test_filters_keep_the_mean_and_follow_the_ramp_at_low_frequencies(name: str) -> None:
    transfer = ramp_filter(256, name)
    assert 0 < transfer[0] < 1e-3
    np.testing.assert_allclose(transfer[2:6], np.arange(2, 6) / 256, rtol=0.03)
    assert transfer[128] == 0
    np.testing.assert_allclose(transfer[1:], transfer[:0:-1], atol=1e-15)


# --- angular weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [np.pi, 2 * np.pi, 4 * np.pi])
@pytest.mark.parametrize("start", [0.0, -1.54])
def test_even_angles_weigh_the_same_in_any_order(turn: float, start: float) -> None:
    angles = np.random.default_rng(0).permutation(start + np.arange(90) * turn / 90)
    np.testing.assert_allclose(angular_weights(angles), np.pi / 90, rtol=1e-9)


def test_both_end_points_share_one_direction() -> None:
    angles = np.deg2rad(np.linspace(-88.2, 91.8, 91))
    weights = angular_weights(angles)
    np.testing.assert_allclose(weights[1:-1], np.pi / 90, rtol=1e-6)
    np.testing.assert_allclose(weights[[0, -1]], np.pi / 180, rtol=1e-6)


def test_uneven_angles_get_half_the_way_to_their_neighbors() -> None:
    weights = angular_weights(np.array([0.0, 0.5, 1.5, 2.0]))
    rest = np.pi - 2.0
    np.testing.assert_allclose(weights, [0.25 + rest / 2, 0.75, 0.75, 0.25 + rest / 2])


def test_a_repeated_angle_shares_its_weight() -> None:
    angles = np.concatenate([np.arange(20), [7, 7]]) * np.pi / 20
    weights = angular_weights(angles)
    np.testing.assert_allclose(weights[[7, 20, 21]], np.pi / 60)
    assert weights.sum() == pytest.approx(np.pi)


def test_a_wedge_that_is_missing_is_not_given_to_its_edges() -> None:
    angles = np.deg2rad(np.arange(120.0))
    weights = angular_weights(angles)
    assert weights.max() == pytest.approx(np.deg2rad(0.5) + GAP_RADIANS / 2)
    assert weights.sum() < np.deg2rad(120) + GAP_RADIANS


@pytest.mark.parametrize("angles", [[0.3], [0.3, 0.3], [0.3, 0.3 + np.pi], [0.0, np.pi / 2]])
def test_very_few_angles_share_the_half_circle(angles: list[float]) -> None:
    np.testing.assert_allclose(angular_weights(np.array(angles)), np.pi / len(angles))


def test_step() -> None:
    assert step(np.array([0.2, 0.0, 0.1, 0.3, 0.3])) == pytest.approx(0.1)
    assert step(np.array([1.0, 1.0])) == 0
