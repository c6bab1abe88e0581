import math

import numpy as np
import pytest

from srctd.sim.phantom import Ellipsoid, Geometry, projection, reference_slice, sample

PIXEL = 2e-6


def numeric(body, geometry, angle, row, column, steps=4001):
    """Line integral through one ellipsoid by adding up points along the ray, averaged over the pixel's width."""
    total = 0.0
    along = np.linspace(-80, 80, steps)
    fractions = (np.arange(16) + 0.5) / 16 - 0.5
    for u in column + fractions - geometry.center:
        v = row - (geometry.rows - 1) / 2
        s = u * math.cos(geometry.tilt) + v * math.sin(geometry.tilt)
        z = v * math.cos(geometry.tilt) - u * math.sin(geometry.tilt) - body.z
        x = s * math.cos(angle) - along * math.sin(angle) - body.x
        y = s * math.sin(angle) + along * math.cos(angle) - body.y
        p = x * math.cos(body.phi) + y * math.sin(body.phi)
        q = y * math.cos(body.phi) - x * math.sin(body.phi)
        inside = (p / body.a) ** 2 + (q / body.b) ** 2 + (z / body.c) ** 2 <= 1
        total += inside.mean() * (along[-1] - along[0])
    return total / len(fractions) * body.value * geometry.pixel_size


@pytest.mark.parametrize("tilt", [0.0, 0.05])
@pytest.mark.parametrize("angle", [0.0, 0.7, 2.9])
def test_projections_are_line_integrals(tilt, angle):
    geometry = Geometry(rows=21, columns=61, center=33.3, tilt=tilt, pixel_size=PIXEL)
    body = Ellipsoid(x=4.0, y=-7.5, z=1.5, a=14.0, b=6.0, c=9.0, phi=0.4, value=1000.0)
    image = projection((body,), geometry, angle)
    peak = 2 * 14 * 1000 * PIXEL
    for row, column in [(10, 33), (11, 40), (5, 30), (14, 25), (3, 36), (20, 33), (11, 2)]:
        assert image[row, column] == pytest.approx(
            numeric(body, geometry, angle, row, column), abs=0.004 * peak
        )


def test_a_disc_through_its_middle_has_its_diameter_times_its_attenuation():
    geometry = Geometry(rows=1, columns=101, center=50.0, pixel_size=PIXEL)
    ball = Ellipsoid(x=0, y=0, z=0, a=30, b=30, c=1e6, phi=0, value=500.0)
    image = projection((ball,), geometry, 1.0)
    assert image[0, 50] == pytest.approx(60 * PIXEL * 500, rel=1e-4)
    assert image.sum() == pytest.approx(math.pi * 30**2 * PIXEL * 500, rel=1e-5)


def test_the_axis_column_and_its_tilt():
    """A rod on the axis is seen at the same column from everywhere, and moves by -tan(tilt) from row to row."""
    geometry = Geometry(rows=41, columns=80, center=44.25, tilt=math.radians(2), pixel_size=PIXEL)
    rod = (Ellipsoid(x=0, y=0, z=0, a=4, b=4, c=1e5, phi=0, value=500.0),)
    columns = np.arange(80)
    for angle in (0.0, 1.0, 3.0):
        image = projection(rod, geometry, angle)
        seen = (image * columns).sum(axis=1) / image.sum(axis=1)
        np.testing.assert_allclose(seen, 44.25 - math.tan(math.radians(2)) * np.arange(-20, 21), atol=5e-3)


def test_opposite_projections_are_mirror_images_about_the_axis():
    geometry = Geometry(rows=8, columns=64, center=31.5, pixel_size=PIXEL)
    phantom = sample(geometry, seed=3)
    there, back = projection(phantom, geometry, 0.3), projection(phantom, geometry, 0.3 + math.pi)
    np.testing.assert_allclose(there, back[:, ::-1], atol=1e-5)


def test_the_reference_slice_has_the_conventions_of_the_reconstruction():
    """Its projection along an axis is the projection; x grows with the columns, y with the rows."""
    geometry = Geometry(rows=5, columns=65, center=32.0, pixel_size=PIXEL)
    phantom = sample(geometry, seed=1)
    truth = reference_slice(phantom, geometry, row=3, oversampling=8)
    for angle, sums in ((0.0, truth.sum(axis=0)), (math.pi / 2, truth.sum(axis=1))):
        np.testing.assert_allclose(projection(phantom, geometry, angle)[3], sums * PIXEL, atol=0.012)


def test_the_sample_stays_inside_the_field_of_view():
    geometry = Geometry(rows=16, columns=128, center=70.0, pixel_size=PIXEL)
    phantom = sample(geometry, seed=0)
    assert phantom == sample(geometry, seed=0)
    for angle in np.linspace(0, math.pi, 7):
        image = projection(phantom, geometry, angle)
        assert not image[:, [0, -1]].any()
        assert image.min() >= 0
        assert 0.9 < image.max() < 2.5
