"""Small scan files for the tests of reading: right by default, wrong where a test says so."""

from pathlib import Path

import h5py
import numpy as np

ROWS, COLUMNS = 4, 6
KEYS = (2, 1, 0, 0, 3, 0, -1, 1, 0)
"""Image keys in mixed order: 4 projections, 2 flats, 1 dark, 2 that are not used."""


def frame_values(n_frames, rows=ROWS, columns=COLUMNS):
    """Every pixel of every frame has a value of its own."""
    return np.arange(1, n_frames * rows * columns + 1, dtype=np.uint16).reshape(n_frames, rows, columns)


def write_nxtomo(
    path, *, keys=KEYS, angles=None, data=None, end_time="2026-01-01T00:00:00", entry="entry", mode="w"
):
    """An NXtomo file; `angles` in degrees, one for every frame; `data` an array, or a link."""
    angles = np.linspace(0, 90, len(keys)) if angles is None else np.asarray(angles)
    with h5py.File(path, mode) as file:
        group = file.create_group(entry)
        group["definition"] = "NXtomo"
        group["title"] = np.bytes_("a title")
        detector = group.create_group("instrument/detector")
        detector["data"] = frame_values(len(keys)) if data is None else data
        detector["image_key"] = np.asarray(keys, dtype=np.float64)
        group["sample/rotation_angle"] = angles
        group["sample/rotation_angle"].attrs["units"] = "degree"
        group["sample/name"] = ["a sample"]
        if end_time:
            group["end_time"] = end_time
    return str(path)


def write_dataexchange(path, *, projections=5, flats=2, darks=1, theta=None, end_date="2026-01-01", **extra):
    """A DataExchange file; `theta` in degrees, False for none; `extra` are further data sets by their path."""
    values = frame_values(projections + flats + darks)
    with h5py.File(path, "w") as file:
        file["exchange/data"] = values[:projections]
        if flats:
            file["exchange/data_white"] = values[projections : projections + flats]
        if darks:
            file["exchange/data_dark"] = values[projections + flats :]
        if theta is not False:
            file["exchange/theta"] = np.arange(projections) * 30.0 if theta is None else np.asarray(theta)
        if end_date:
            file["process/acquisition/end_date"] = end_date
        for name, value in extra.items():
            file[name] = value
    return str(path)


def set_quantity(path, place, value, unit=None):
    """Put a value with its unit into a file."""
    with h5py.File(path, "a") as file:
        if place in file:
            del file[place]
        file[place] = value
        if unit is not None:
            file[place].attrs["units"] = unit


def truncate(path, size):
    """Cut a file short, as an interrupted copy leaves it."""
    file = Path(path)
    file.write_bytes(file.read_bytes()[:size])
    return str(path)
