"""Line integrals from counts, and pixels that do not count."""

import numpy as np
import pytest

from gpu.normalize import to_sinograms
from srctd.core.errors import ReconstructionFailed

SHAPE = (24, 3, 40)  # angles, rows, columns


def frames(*, dark: float = 100.0, flat: float = 10_000.0, dtype: type = np.uint16):
    """Projections of known line integrals, flats, darks, and those line integrals (n_rows, n_angles, n_columns)."""
    rng = np.random.default_rng(1)
    gain = rng.uniform(0.8, 1.2, SHAPE[1:])
    lines = rng.uniform(0.1, 2.0, SHAPE)
    counts = [dark + flat * gain * np.exp(-lines), dark + flat * np.stack([gain * 0.9, gain * 1.1])]
    darks = np.full((2, *SHAPE[1:]), dark)
    projections, flats = (np.round(c) if np.issubdtype(dtype, np.integer) else c for c in counts)
    return projections.astype(dtype), flats.astype(dtype), darks.astype(dtype), lines.transpose(1, 0, 2)


def run(projections, flats, darks, **options):
    given = {"minimum_transmission": 1e-4, "repair_dead_pixels": True, **options}
    return to_sinograms(projections, flats, darks, **given)


@pytest.mark.parametrize(("dtype", "error"), [(np.float32, 2e-5), (np.float64, 2e-5), (np.uint16, 2e-3)])
def test_values_are_the_line_integrals(dtype: type, error: float) -> None:
    projections, flats, darks, lines = frames(dtype=dtype)
    result = run(projections, flats, darks)
    assert result.sinograms.dtype == np.float32
    assert result.sinograms.flags.c_contiguous
    np.testing.assert_allclose(result.sinograms, lines, atol=error)
    assert result.repaired_fraction == 0


def test_signed_counts_below_dark_and_no_counts_are_clamped() -> None:
    projections, flats, darks, _ = frames()
    projections[5, 1, 7] = 0
    projections[6, 1, 7] = 100
    sinograms = run(projections, flats, darks, minimum_transmission=1e-3).sinograms
    np.testing.assert_allclose(sinograms[1, 5:7, 7], -np.log(1e-3), rtol=1e-5)


def test_without_darks_the_dark_field_is_zero() -> None:
    projections, flats, darks, lines = frames(dark=0.0, dtype=np.float32)
    np.testing.assert_allclose(run(projections, flats, darks[:0]).sinograms, lines, atol=2e-5)


def test_without_flats_there_is_an_error() -> None:
    projections, flats, darks, _ = frames()
    with pytest.raises(ReconstructionFailed, match="no flat field"):
        run(projections, flats[:0], darks)


def test_dead_pixels_are_interpolated_between_the_nearest_good_ones() -> None:
    projections, flats, darks, lines = frames(dtype=np.float32)
    for dead in ((0, 0), (0, 10), (0, 11), (2, 39)):
        projections[:, *dead] = flats[:, *dead] = darks[:, *dead] = 0
    result = run(projections, flats, darks)
    got = result.sinograms
    np.testing.assert_allclose(got[0, :, 0], lines[0, :, 1], atol=2e-5)
    np.testing.assert_allclose(got[0, :, 10], (2 * lines[0, :, 9] + lines[0, :, 12]) / 3, atol=3e-5)
    np.testing.assert_allclose(got[2, :, 39], lines[2, :, 38], atol=2e-5)
    np.testing.assert_allclose(got[1], lines[1], atol=2e-5)
    assert result.repaired_fraction == pytest.approx(4 / (3 * 40))


def test_dead_pixels_may_be_left_as_no_absorption() -> None:
    projections, flats, darks, _ = frames()
    flats[:, 0, 10] = 0
    result = run(projections, flats, darks, repair_dead_pixels=False)
    assert not result.sinograms[0, :, 10].any()
    assert result.sinograms[0, :, 11].all()


def test_a_stuck_pixel_is_repaired_though_its_flat_field_looks_well() -> None:
    projections, flats, darks, lines = frames(dtype=np.float32)
    projections[:, 1, 20] = 4000
    result = run(projections, flats, darks)
    np.testing.assert_allclose(result.sinograms[1, :, 20], (lines[1, :, 19] + lines[1, :, 21]) / 2, atol=3e-5)
    assert result.repaired_fraction == pytest.approx(1 / 120)


def test_air_without_noise_is_not_stuck() -> None:
    projections, flats, darks, _ = frames()
    projections[:, :, :10] = flats[0, :, :10]
    result = run(projections, flats, darks)
    assert result.repaired_fraction == 0
    assert np.ptp(result.sinograms[:, :, :10], axis=1).max() == 0


def test_a_pixel_that_hardly_responds_is_dead() -> None:
    projections, flats, darks, _ = frames()
    flats[:, 2, 5] = 103
    assert run(projections, flats, darks).repaired_fraction == pytest.approx(1 / 120)


def test_a_row_without_a_good_pixel_gives_zeros() -> None:
    projections, flats, darks, _ = frames()
    flats[:, 1] = 0
    sinograms = run(projections, flats, darks).sinograms
    assert not sinograms[1].any()
    assert np.isfinite(sinograms).all()


def test_values_that_are_no_numbers_are_interpolated() -> None:
    projections, flats, darks, lines = frames(dtype=np.float32)
    projections[3, 0, 8] = np.nan
    projections[4, 0, 9] = np.inf
    projections[5, 2] = np.nan
    flats[0, 1, 30] = np.nan
    sinograms = run(projections, flats, darks).sinograms
    assert np.isfinite(sinograms).all()
    assert sinograms[0, 3, 8] == pytest.approx((lines[0, 3, 7] + lines[0, 3, 9]) / 2, abs=3e-5)
    assert not sinograms[2, 5].any()


def test_threads_and_blocks_do_not_change_a_bit() -> None:
    rng = np.random.default_rng(2)
    projections = rng.integers(200, 5000, (70, 3, 2100), np.uint16)  # more than one block per row
    flats, darks = rng.integers(5000, 6000, (3, 3, 2100), np.uint16), np.full((1, 3, 2100), 90, np.uint16)
    whole = run(projections, flats, darks, workers=2).sinograms
    single = run(projections[:, 1:2], flats[:, 1:2], darks[:, 1:2]).sinograms
    np.testing.assert_array_equal(whole[1:2], single)
