"""Small scans of two cylinders with known attenuation, and their parameter files, for tests of reconstruction."""

from pathlib import Path

import h5py
import msgspec
import numpy as np

from srctd.core import recipe
from srctd.core.recipe import DEFAULT_RECIPE, ParameterFile
from srctd.formats import open_scan

ANGLES, ROWS, COLUMNS, CENTER = 90, 20, 64, 34.3
PIXEL_SIZE = 2e-6
ATTENUATION = 0.02
"""Of the large cylinder, per pixel; the small one inside has twice that."""


def line_integrals(n_angles=ANGLES, n_rows=ROWS, n_columns=COLUMNS, center=CENTER):
    """Exact, (n_angles, n_rows, n_columns): the small cylinder moves outward from row to row."""
    angles = np.arange(n_angles) * np.pi / n_angles
    column = np.arange(n_columns) - center

    def cylinder(x, y, radius, value):
        shadow = x * np.cos(angles)[:, None, None] + y * np.sin(angles)[:, None, None]
        return 2 * value * np.sqrt(np.maximum(radius**2 - (column - shadow) ** 2, 0))

    unit = n_columns / 64
    row = np.arange(n_rows)[None, :, None]
    return cylinder(2 * unit, 1 * unit, 18 * unit, ATTENUATION) + cylinder(
        4 * unit + 0.2 * row, -3 * unit, 5 * unit, ATTENUATION
    )


def write_scan(path, *, integrals=None, seed=1):
    """A DataExchange file with Poisson noise."""
    integrals = line_integrals() if integrals is None else integrals
    n_angles, n_rows, n_columns = integrals.shape
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        file["exchange/data"] = (200 + rng.poisson(20000 * np.exp(-integrals))).astype(np.uint16)
        file["exchange/data_white"] = (200 + rng.poisson(20000, (4, n_rows, n_columns))).astype(np.uint16)
        file["exchange/data_dark"] = np.full((2, n_rows, n_columns), 200, np.uint16)
        file["exchange/theta"] = np.arange(n_angles) * 180 / n_angles
        file["exchange/theta"].attrs["units"] = "degrees"
        file["measurement/instrument/detection_system/objective/resolution"] = PIXEL_SIZE
        file["process/acquisition/end_date"] = "2026-01-01"
    return str(path)


def write_parameters(path, scan, **overrides):
    """The parameter file that the daemon would write for a scan."""
    with open_scan(scan) as reader:
        header = reader.header
    parameters = ParameterFile(
        scan="cylinders",
        input=scan,
        input_in_place=True,
        raw=Path(scan).name,
        format=header.format,
        entry=header.entry,
        recipe="built-in",
        parameters=recipe.resolve(header, DEFAULT_RECIPE, overrides),
        notes=header.notes,
        software="srctd test",
    )
    path.write_bytes(msgspec.json.encode(parameters))
    return str(path)
