"""The CUDA kernels against their CPU twins, on the emulation and, where there is one, on a GPU."""

import numpy as np
import oracles
import pytest

from gpu import normalize, stripes
from gpu.array import to_host
from gpu.fourier import FourierFBP, FourierPlan
from gpu.kernels import preprocess, voxels
from gpu.kernels.backprojection import backproject
from gpu.kernels.device import Device
from gpu.kernels.polar import PolarTransform
from gpu.volume import encode
from srctd.core.voxels import Scaling


def planned(device: Device, angles, n: int, center: float, *, tolerance=1e-4, upsampling=2.0, edge=True):
    """The transform on the CPU, to a finer tolerance, and on the device."""
    plan = FourierPlan(
        angles=angles, n_columns=n, center=center, filter_name="ram-lak", padding="edge" if edge else "zero",
        padding_factor=2.0, tolerance=1e-6,
    )  # fmt: skip
    there = PolarTransform(
        device, angles, plan.response(), n,
        tolerance=tolerance, upsampling=upsampling, seam=plan.seam, edge=edge,
    )  # fmt: skip
    return FourierFBP(plan), there


def both(device: Device, sinograms, cpu: FourierFBP, there: PolarTransform, offsets=None):
    n = cpu.n_columns
    expected = np.empty((len(sinograms), n, n), np.float32)
    leveled = sinograms if offsets is None else sinograms - offsets[:, None]
    cpu.reconstruct(leveled, expected)
    out = device.xp.full(expected.shape, np.nan, np.float32)
    there(device.xp.asarray(sinograms), None if offsets is None else device.xp.asarray(offsets), out)
    return to_host(out), expected


def inside(n: int) -> np.ndarray:
    y, x = np.mgrid[:n, :n] - (n - 1) / 2
    return x**2 + y**2 <= (n / 2) ** 2


@pytest.mark.parametrize("upsampling", [1.25, 1.5, 2.0])
@pytest.mark.parametrize(
    ("n", "n_angles", "n_rows", "center", "edge"),
    [
        (1, 1, 1, 0.0, True),
        (2, 3, 2, 0.5, True),
        (61, 47, 3, 28.3, True),
        (64, 90, 9, 31.5, False),
        (127, 200, 1, 70.0, True),
    ],
)
def test_the_polar_transform_is_the_cpu_s(
    device: Device, n: int, n_angles: int, n_rows: int, center: float, edge: bool, upsampling: float
) -> None:
    rng = np.random.default_rng(n)
    angles = np.sort(rng.uniform(0, np.pi, n_angles))
    sinograms = rng.standard_normal((n_rows, n_angles, n)).astype(np.float32)
    out, expected = both(
        device, sinograms, *planned(device, angles, n, center, edge=edge, upsampling=upsampling)
    )
    wrong = (out - expected)[:, inside(n)]
    assert np.sqrt((wrong**2).mean()) < 1e-4 * np.sqrt((expected[:, inside(n)] ** 2).mean())


@pytest.mark.parametrize("start", [-0.4, 0.0, 2.9])
@pytest.mark.parametrize("turn", [np.pi, 2 * np.pi, -2 * np.pi])
def test_angles_may_lie_anywhere_in_any_order(device: Device, turn: float, start: float) -> None:
    rng = np.random.default_rng(5)
    angles = rng.permutation(start + turn * np.arange(90) / 90)
    sinograms = rng.standard_normal((2, 90, 48)).astype(np.float32)
    out, expected = both(device, sinograms, *planned(device, angles, 48, 22.0, tolerance=1e-5))
    assert np.abs(out - expected).max() < 3e-5 * np.abs(expected).max()


def test_stripes_come_off_while_rows_are_packed(device: Device) -> None:
    rng = np.random.default_rng(6)
    angles = np.pi * np.arange(40) / 40
    sinograms = rng.standard_normal((3, 40, 33)).astype(np.float32)
    offsets = rng.standard_normal((3, 33)).astype(np.float32)
    out, expected = both(device, sinograms, *planned(device, angles, 33, 16.0, tolerance=1e-5), offsets)
    assert np.abs(out - expected).max() < 3e-5 * np.abs(expected).max()


def test_the_same_rows_give_the_same_bytes_in_any_company(device: Device) -> None:
    rng = np.random.default_rng(7)
    angles = np.pi * np.arange(60) / 60
    sinograms = rng.standard_normal((10, 60, 40)).astype(np.float32)
    _, there = planned(device, angles, 40, 19.5)
    xp = device.xp
    whole = xp.empty((10, 40, 40), np.float32)
    part = xp.empty((2, 40, 40), np.float32)
    there(xp.asarray(sinograms), None, whole)
    there(xp.asarray(sinograms[6:8]), None, part)
    assert to_host(whole)[6:8].tobytes() == to_host(part).tobytes()


@pytest.mark.parametrize("n", [40, 331])
def test_fewer_at_once_give_the_same_bytes(device: Device, n: int) -> None:
    rng = np.random.default_rng(11)
    angles = np.pi * np.arange(70) / 70
    sinograms = device.xp.asarray(rng.standard_normal((9, 70, n)).astype(np.float32))
    plan = FourierPlan(
        angles=angles, n_columns=n, center=n / 2, filter_name="hann", padding="edge", padding_factor=2.0,
        tolerance=1e-4,
    )  # fmt: skip
    made = []
    for pairs in (4, 2, 1):
        out = device.xp.empty((9, n, n), np.float32)
        plan.on(device, pairs)(sinograms, None, out)
        made.append(to_host(out).tobytes())
    assert made[0] == made[1] == made[2]


def test_stored_integers_are_the_cpu_s(device: Device) -> None:
    rng = np.random.default_rng(12)
    values = rng.normal(1, 1, (3, 67, 67)).astype(np.float32)
    values[0, 0, :5] = np.nan, np.inf, -np.inf, 0.0, 2.0
    scaling = Scaling(0.0, 2.0 / 65535)
    expected = np.empty(values.shape, np.uint16)
    clipped = encode(values, scaling, expected)
    out = device.xp.empty(values.shape, np.uint16)
    outside = voxels.encode(
        device, device.xp.asarray(values), out, offset=0.0, scale=scaling.scale, maximum=scaling.maximum
    )
    np.testing.assert_array_equal(to_host(out), expected)
    assert int(outside[0]) == clipped


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "uint32", "float32", "float64"])
@pytest.mark.parametrize("repair", [True, False])
def test_line_integrals_are_the_cpu_s(device: Device, dtype: str, repair: bool) -> None:
    rng = np.random.default_rng(8)
    projections = rng.integers(3, 120, (37, 5, 83)).astype(dtype)
    flats = rng.integers(110, 125, (4, 5, 83)).astype(dtype)
    darks = rng.integers(0, 3, (3, 5, 83)).astype(dtype)
    flats[:, 0, [0, 1, 40, 82]] = 0
    flats[:, 1] = 0
    if dtype.startswith("float"):
        projections[3, 2, [0, 10, 11, 82]] = np.nan
        projections[4, 2] = np.inf
    expected = normalize.to_sinograms(
        projections, flats, darks, minimum_transmission=0.01, repair_dead_pixels=repair
    ).sinograms
    reference = normalize.Reference(flats, darks)
    xp = device.xp
    counts = preprocess.Counts.of(
        device, xp.asarray(projections), xp.asarray(reference.dark), xp.asarray(reference.span), reference.bad,
        repair=repair,
    )  # fmt: skip
    out = preprocess.line_integrals(device, counts, 0, 5, 0.01)
    np.testing.assert_allclose(to_host(out), expected, atol=3e-6)
    np.testing.assert_array_equal(
        to_host(preprocess.line_integrals(device, counts, 2, 4, 0.01)), to_host(out)[2:4]
    )


@pytest.mark.parametrize(("n_rows", "n_angles", "n"), [(1, 16, 1), (2, 15, 30), (3, 101, 211), (2, 400, 128)])
@pytest.mark.parametrize("size", [5, 31])
def test_stripes_are_the_cpu_s(device: Device, n_rows: int, n_angles: int, n: int, size: int) -> None:
    rng = np.random.default_rng(9)
    sinograms = rng.standard_normal((n_rows, n_angles, n)).astype(np.float32)
    sinograms[:, :, n // 3] += 2.0
    expected = np.stack([stripes.stripes(one, size=size, threshold=3.0) for one in sinograms])
    out = preprocess.stripes(
        device, device.xp.asarray(sinograms), size=size, threshold=3.0, groups=stripes.GROUPS
    )
    np.testing.assert_allclose(to_host(out), expected, atol=1e-6)
    assert n_angles < stripes.GROUPS or n < 5 or np.count_nonzero(expected)


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float16", 2e-3)])
@pytest.mark.parametrize(
    ("n", "n_angles", "n_rows", "center", "length"),
    [
        (1, 1, 1, 0.2, 4),
        (31, 17, 9, 14.2, 64),
        (64, 60, 4, 33.0, 130),
        (37, 6, 2, 36.0, 37),
        (20, 6, 1, -13.0, 41),
    ],
)
def test_direct_back_projection_is_the_sum(
    device: Device, n: int, n_angles: int, n_rows: int, center: float, length: int, dtype: str, bound: float
) -> None:
    rng = np.random.default_rng(10)
    k = 4 if dtype == "float32" else 8
    rows = rng.standard_normal((n_rows, n_angles, length)).astype(dtype)
    angles = np.pi * np.arange(n_angles) / n_angles
    grouped = np.zeros((-(-n_rows // k) * k, *rows.shape[1:]), dtype)
    grouped[:n_rows] = rows
    grouped = np.moveaxis(grouped.reshape(-1, k, *rows.shape[1:]), 1, 3).copy()
    out = device.xp.full((n_rows, n, n), np.nan, np.float32)
    backproject(device, device.xp.asarray(grouped), angles, out, center=center)
    expected = oracles.back_projection(rows.astype(np.float64), angles, center, n)
    assert np.abs(to_host(out) - expected).max() < bound * max(1, np.abs(expected).max())
    corner = device.xp.full((n_rows, n - n // 2, n - n // 3), np.nan, np.float32)
    backproject(
        device, device.xp.asarray(grouped), angles, corner, center=center, first=(n // 3, n // 2), n=n
    )
    np.testing.assert_array_equal(to_host(corner), to_host(out)[:, n // 2 :, n // 3 :])
