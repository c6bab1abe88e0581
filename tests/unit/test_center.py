"""The rotation axis: found where it can be, and doubt where it cannot."""

import numpy as np
import pytest

from gpu.center import AxisResult, estimate, strip


def scan(
    n_angles: int,
    n: int,
    offset: float,
    *,
    turn: float = np.pi,
    noise: float = 0.0,
    size: float = 0.7,
    rows: int = 3,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Sinograms of a body with discs in it, angles, and the axis; `size` is the body's diameter in widths."""
    angles = np.arange(n_angles) * turn / n_angles
    center = (n - 1) / 2 + offset * n
    rng = np.random.default_rng(5)
    sinograms = np.zeros((rows, n_angles, n))
    radius = size * n / 2
    for row in sinograms:
        discs = [(0.1 * radius, 0.05 * radius, 0.88 * radius, 1.0)]
        for _ in range(10):
            way, where, little = rng.uniform(0, 0.7), rng.uniform(0, 2 * np.pi), rng.uniform(0.03, 0.15)
            x, y = way * radius * np.cos(where), way * radius * np.sin(where)
            discs.append((x, y, little * radius, rng.choice([-0.5, 1.0])))
        for x, y, r, value in discs:
            track = np.arange(n) - center - (x * np.cos(angles) + y * np.sin(angles))[:, None]
            row += value / radius * np.sqrt(np.maximum(r**2 - track**2, 0))
    sinograms += rng.normal(0, 1, sinograms.shape) * noise
    return sinograms.astype(np.float32), angles, center


def scores(result: AxisResult) -> dict[str, float]:
    return {e.method: e.score for e in result.estimates}


@pytest.mark.parametrize(
    ("n_angles", "offset", "turn", "noise", "size"),
    [
        (180, 0.013, np.pi, 0.0, 0.7),
        (181, -0.062, np.pi, 0.05, 0.6),
        (180, 0.31, np.pi, 0.05, 0.25),
        (90, -0.39, np.pi, 0.02, 0.15),
        (240, 0.1, 2 * np.pi, 0.05, 0.6),
        (361, -0.02, 2 * np.pi, 0.2, 0.8),
    ],
)
def test_the_axis_is_found(n_angles: int, offset: float, turn: float, noise: float, size: float) -> None:
    sinograms, angles, center = scan(n_angles, 200, offset, turn=turn, noise=noise, size=size)
    result = estimate(sinograms, angles)
    assert result.center == pytest.approx(center, abs=0.5)
    assert result.confidence > 0.8
    assert len(result.estimates) >= 3


def test_order_direction_and_start_of_the_angles_do_not_matter() -> None:
    sinograms, angles, center = scan(120, 160, 0.05, noise=0.02)
    order = np.random.default_rng(0).permutation(120)
    for s, a in ((sinograms[:, order], angles[order]), (sinograms, -angles), (sinograms, angles + 4.0)):
        assert estimate(s, a).center == pytest.approx(center, abs=0.3)


def test_a_single_row_is_enough() -> None:
    sinograms, angles, center = scan(120, 160, 0.05, rows=1)
    assert estimate(sinograms, angles).center == pytest.approx(center, abs=0.5)


def test_wide_detectors_are_binned_without_shifting_the_axis() -> None:
    sinograms, angles, center = scan(120, 2200, 0.021, rows=2)
    assert estimate(sinograms, angles).center == pytest.approx(center, abs=0.5)


def test_stripes_and_a_weaker_beam_do_not_mislead() -> None:
    sinograms, angles, center = scan(180, 200, 0.06, noise=0.02)
    stripes = np.random.default_rng(1).normal(0, 0.05, (3, 1, 200)).astype(np.float32)
    assert estimate(sinograms + stripes + np.float32(0.3), angles).center == pytest.approx(center, abs=0.5)


def test_where_a_part_of_the_half_turn_is_missing_mirror_and_fourier_abstain() -> None:
    sinograms, angles, center = scan(180, 200, 0.04)
    result = estimate(sinograms[:, :130], angles[:130])
    assert not {"mirror", "fourier"} & set(scores(result))
    assert result.center == pytest.approx(center, abs=0.5)


def test_estimators_that_a_truncated_sample_misleads_have_no_say() -> None:
    sinograms, angles, center = scan(180, 200, 0.03, size=1.4, noise=0.02)
    result = estimate(sinograms, angles)
    seen = scores(result)
    assert max(seen["fourier"], seen["moment"]) < 0.2
    assert result.center == pytest.approx(center, abs=1.0)


def test_noise_alone_is_not_believed() -> None:
    noise = np.random.default_rng(0).normal(0, 1, (3, 90, 128)).astype(np.float32)
    assert estimate(noise, np.arange(90) * np.pi / 90).confidence < 0.5


def test_nothing_there_is_said() -> None:
    result = estimate(np.zeros((2, 90, 128), np.float32), np.arange(90) * np.pi / 90)
    assert (result.center, result.confidence, result.estimates) == (63.5, 0.0, ())


def test_the_strip_is_sharpest_at_the_axis() -> None:
    sinograms, angles, center = scan(180, 400, 0.05, rows=1)
    offsets = [-12, -4, 0, 4, 12]
    slices = strip(sinograms[0], angles, [center + o for o in offsets], width=256)
    assert slices.shape == (5, 200, 200)
    assert slices.dtype == np.float32
    below_zero = -np.minimum(slices, 0).sum(axis=(1, 2))
    assert int(np.argmin(below_zero)) == 2
