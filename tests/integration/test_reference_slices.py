"""Slices of two real scans against ASTRA's, and their axes against those found by hand.

The references were made with a strip projector, which acts like a linear interpolation, so the window that amounts
to one (`sinc2`) is compared sharply. Without it the exact ramp keeps more noise than the reference, and ring
removal takes rings out that the reference has: those are compared sharply after a little smoothing only.
"""

import os
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from gpu.center import estimate
from gpu.fourier import FourierFBP, FourierPlan
from gpu.normalize import to_sinograms
from gpu.stripes import remove_median
from srctd.core.recipe import SPECS

DATA = Path(os.environ.get("SRCTD_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")
pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"the real scans are not at {DATA}; set SRCTD_TEST_DATA"
)


class Case(NamedTuple):
    """A real scan with its reference."""

    sinograms: NDArray[np.float32]
    angles: NDArray[np.float64]
    row: int
    """Of the sinograms; the one of the reference."""
    reference: NDArray[np.float32]
    reference_center: float
    center: float
    """The axis as found by hand."""


def prepared(projections: np.ndarray, flats: np.ndarray, darks: np.ndarray) -> NDArray[np.float32]:
    return to_sinograms(
        projections,
        flats,
        darks,
        minimum_transmission=float(str(SPECS["minimum_transmission"].default)),
        repair_dead_pixels=True,
    ).sinograms


def tooth() -> Case:
    with h5py.File(DATA / "tooth_aps/tooth.h5") as file:
        group = file["exchange"]
        sinograms = prepared(group["data"][()], group["data_white"][()], group["data_dark"][()])
        angles = np.deg2rad(group["theta"][()])
    reference = np.load(DATA / "tooth_aps/ref/row0_astra_c296.0.npy")
    return Case(sinograms, angles, 0, reference, 296.0, 295.9)


def savu() -> Case:
    with h5py.File(DATA / "savu_24737/24737_repack.nxs") as file:
        group = file["entry1/tomo_entry/data"]
        key, frames = group["image_key"][()], group["data"][()]
        angles = np.deg2rad(group["rotation_angle"][()][key == 0])
    sinograms = prepared(*(frames[key == k] for k in (0, 1, 2)))
    reference = np.load(DATA / "savu_24737/ref/row090_astra_c86.0.npy")
    # Row 90 and four others, the first with the pixel that is 0 in every frame.
    return Case(sinograms[[90, 0, 30, 60, 120]], angles, 0, reference, 86.0, 85.8)


@pytest.fixture(scope="module", params=[tooth, savu], ids=["tooth", "savu"])
def case(request: pytest.FixtureRequest) -> Case:
    made: Case = request.param()
    return made


def reconstructed(case: Case, *, filter_name: str, rings: bool) -> NDArray[np.float32]:
    """The reference's row, made with the default parameters but for those named."""
    sinogram = case.sinograms[case.row : case.row + 1].copy()
    default = {
        name: float(str(SPECS[name].default)) for name in ("ring_size", "ring_threshold", "padding_factor")
    }
    if rings:
        remove_median(sinogram, size=int(default["ring_size"]), threshold=default["ring_threshold"])
    n = sinogram.shape[2]
    out = np.empty((1, n, n), np.float32)
    plan = FourierPlan(
        angles=case.angles,
        n_columns=n,
        center=case.reference_center,
        filter_name=filter_name,
        padding="edge",
        padding_factor=default["padding_factor"],
        tolerance=float(str(SPECS["tolerance"].default)),
    )
    FourierFBP(plan).reconstruct(sinogram, out)
    return out[0]


def agreement(image: np.ndarray, case: Case, *, smooth: float = 0.0) -> tuple[float, float]:
    """Correlation with the reference and slope of the fit, in the best of 8 orientations, in the field of view."""
    n = len(image)
    radius = 0.9 * min(case.reference_center, n - 1 - case.reference_center)
    x = np.arange(n) - (n - 1) / 2
    inside = np.hypot(x[None], x[:, None]) <= radius
    turned = [np.rot90(flipped, k) for flipped in (image, image.T) for k in range(4)]
    blur = (lambda a: gaussian_filter(a, smooth)) if smooth else np.asarray
    truth = blur(case.reference)[inside]
    fits = [blur(candidate)[inside] for candidate in turned]
    best = max(fits, key=lambda values: float(np.corrcoef(truth, values)[0, 1]))
    return float(np.corrcoef(truth, best)[0, 1]), float(np.polyfit(truth, best, 1)[0])


def test_the_slice_is_the_reference(case: Case) -> None:
    r, slope = agreement(reconstructed(case, filter_name="sinc2", rings=False), case)
    assert r >= 0.998
    assert 0.97 <= slope <= 1.03


@pytest.mark.parametrize("rings", [False, True], ids=["plain", "rings removed"])
@pytest.mark.parametrize("filter_name", ["ram-lak", "shepp-logan", "sinc2"])
def test_with_any_window_it_is_the_reference_but_for_noise(case: Case, filter_name: str, rings: bool) -> None:
    image = reconstructed(case, filter_name=filter_name, rings=rings)
    r, slope = agreement(image, case, smooth=1.5)
    assert r >= 0.9998
    assert 0.97 <= slope <= 1.03
    r, slope = agreement(image, case)
    assert r >= 0.992
    assert 0.97 <= slope <= 1.03


def test_the_axis_is_found_without_a_hint(case: Case) -> None:
    result = estimate(case.sinograms, case.angles)
    assert result.center == pytest.approx(case.center, abs=0.5)
    assert result.confidence > 0.8
