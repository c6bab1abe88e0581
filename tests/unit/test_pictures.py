"""Pictures: gray window, sizes, the limit of the catalogue."""

import io

import numpy as np
import pytest
from PIL import Image

from gpu.pictures import LIMIT_BYTES, Panel, axis_strip, gray_window, orthogonal, to_gray
from gpu.pictures import _length_text as length_text
from gpu.pictures import _round_length as round_length


def opened(png):
    image = Image.open(io.BytesIO(png))
    image.load()
    return image


def test_window_ignores_corners_and_single_hot_voxels():
    image = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    image[:3, :3] = 1e6
    image[32, 32] = 1e6
    low, high = gray_window(image)
    assert 0 <= low < 0.05
    assert 0.95 < high <= 1


@pytest.mark.parametrize("value", [0.0, -3.0, 7.5, np.nan])
def test_window_of_a_constant_picture_is_not_empty(value):
    image = np.full((8, 8), value, np.float32)
    low, high = gray_window(image)
    assert low < high
    assert np.ptp(to_gray(image, (low, high))) == 0


def test_gray_values_are_clipped_and_rounded():
    gray = to_gray(np.array([[-1, 0, 0.5, 1, 9, np.nan, np.inf]], np.float32), (0.0, 1.0))
    assert gray.tolist() == [[0, 0, 128, 255, 255, 0, 255]]


def test_noise_in_the_largest_size_stays_below_the_limit():
    noise = np.random.default_rng(0).normal(size=(3, 900, 900)).astype(np.float32)
    png = orthogonal([Panel(image=one, label="xy") for one in noise], pixel_size=1e-6)
    assert len(png) < LIMIT_BYTES
    assert opened(png).mode == "L"
    assert opened(png).width > 3 * 150


def test_panels_share_one_scale_and_strided_rows_are_stretched():
    xy = np.zeros((500, 500), np.float32)
    xz = np.zeros((50, 500), np.float32)  # every fifth of 250 rows
    image = opened(orthogonal([Panel(xy, "xy"), Panel(xz, "xz", spacing=(5.0, 1.0))], pixel_size=None))
    assert image.size == (320 + 6 + 320, 320 + 16)
    flat = opened(axis_strip([Panel(xz, "1.0", spacing=(5.0, 1.0))]))
    assert flat.size == (320, 160 + 16)


def test_small_slices_are_not_enlarged():
    assert opened(axis_strip([Panel(np.eye(40, dtype=np.float32), "20.5")])).size == (40, 40 + 16)


@pytest.mark.parametrize(
    ("longest", "expected"), [(1.0, 1.0), (4.9, 2.0), (5.0, 5.0), (0.03, 0.02), (800.0, 500.0)]
)
def test_scale_bar_lengths_are_round(longest, expected):
    assert round_length(longest) == pytest.approx(expected)


@pytest.mark.parametrize(("metres", "text"), [(2e-3, "2 mm"), (5e-5, "50 um"), (2e-7, "200 nm")])
def test_scale_bar_texts(metres, text):
    assert length_text(metres) == text
