"""Stripes are leveled; what is not a stripe keeps its bytes."""

import numpy as np

from gpu.stripes import remove_median, stripes

ANGLES = np.arange(180) * np.pi / 180
OPTIONS = {"size": 9, "threshold": 3.0}


def sinogram(n: int = 200, *, noise: float = 0.0) -> np.ndarray:
    """Three discs, none about the axis, (n_angles, n)."""
    s = np.arange(n) - (n - 1) / 2 - 5
    total = np.zeros((len(ANGLES), n))
    for x, y, radius in ((9, -4, 70), (30, 10, 12), (-20, -35, 6)):
        track = x * np.cos(ANGLES) + y * np.sin(ANGLES)
        total += 0.02 * np.sqrt(np.maximum(radius**2 - (s - track[:, None]) ** 2, 0))
    return (total + np.random.default_rng(0).normal(0, noise, total.shape)).astype(np.float32)


def test_a_sample_without_stripes_is_left_alone_to_the_bit() -> None:
    for clean in (sinogram(), np.zeros((50, 20), np.float32)):
        treated = remove_median(clean[None].copy(), **OPTIONS)[0]
        assert treated.tobytes() == clean.tobytes()


def test_a_few_angles_cannot_tell_a_stripe() -> None:
    striped = sinogram()[:7]
    striped[:, 30] += 1
    assert not stripes(striped, **OPTIONS).any()


def test_the_edge_of_a_round_sample_is_no_stripe() -> None:
    s = np.arange(200) - 99.5
    rod = np.sqrt(np.maximum(80.0**2 - s**2, 0)).astype(np.float32) + np.zeros((90, 1), np.float32)
    assert not stripes(rod, **OPTIONS)[:60].any()


def test_stripes_are_leveled_and_nothing_else_is_touched() -> None:
    clean = sinogram(noise=0.005)
    where, height = [15, 16, 97, 130], np.array([0.1, 0.1, -0.2, 0.05], np.float32)
    striped = clean.copy()
    striped[:, where] += height
    treated = remove_median(striped[None].copy(), **OPTIONS)[0]
    assert np.abs((treated - clean)[:, where].mean(axis=0)).max() < 0.012
    changed = np.flatnonzero((treated != striped).any(axis=0))
    assert set(where) <= set(changed)
    assert len(changed) < 20
    # Whatever noise is taken for a stripe besides is as small as noise.
    assert np.abs(treated - striped)[:, np.setdiff1d(changed, where)].max(initial=0) < 0.01


def test_a_high_threshold_leaves_small_stripes() -> None:
    striped = sinogram(noise=0.005)
    striped[:, 97] += 0.03
    assert stripes(striped, size=9, threshold=3.0)[97] > 0.02
    assert not stripes(striped, size=9, threshold=100.0).any()


def test_rows_are_independent_of_each_other_and_of_threads() -> None:
    rows = np.stack([sinogram(noise=0.01 * (i + 1)) for i in range(4)])
    rows[:, :, 50] += 0.2
    together = remove_median(rows.copy(), **OPTIONS, workers=2)
    for i in range(4):
        alone = remove_median(rows[i : i + 1].copy(), **OPTIONS)
        assert alone.tobytes() == together[i : i + 1].tobytes()


def test_it_works_in_place() -> None:
    rows = sinogram()[None].copy()
    assert remove_median(rows, **OPTIONS) is rows
