"""Simulated scans read back without srctd's own readers, and what they ought to hold."""

import configparser
import json
from pathlib import Path

import fabio
import h5py
import numpy as np
import tifffile

from srctd.sim.plan import Camera, plan
from srctd.sim.spec import SimulationSpec

SMALL = SimulationSpec(rows=10, columns=32, angles=9, flats=3, darks=2, center_offset=1.5, seed=3)


def truth(spec):
    """All frames of a scan by their kind, each an array (frames, rows, columns)."""
    camera = Camera(spec)
    frames = {"dark": [], "flat": [], "projection": [], "return": []}
    for shot in plan(spec):
        frames[shot.kind].append(camera.take(shot))
    return {kind: np.array(taken) for kind, taken in frames.items() if taken}


def read_back(spec, path):
    """The frames as `truth` has them, in the order in which they were taken."""
    return _READERS[spec.format](spec, Path(path))


def tiffs(folder, pattern):
    """All pages of all files that fit, by their names."""
    return np.concatenate([_pages(file) for file in sorted(folder.glob(pattern))])


def _pages(file):
    pixels = tifffile.imread(file)
    return pixels if pixels.ndim == 3 else pixels[None]


def _named(projection, flat, dark):
    def read(spec, path):
        return {
            "projection": tiffs(path, projection),
            "flat": tiffs(path, flat),
            "dark": tiffs(path, dark),
        }

    return read


def _als(spec, path):
    def frames(middle):
        files = path.glob(f"{path.name}{middle}*.tif")
        return np.array(
            [tifffile.imread(file) for file in sorted(files, key=lambda file: _at_and_number(file.name))]
        )

    return {"projection": frames("_0000_"), "flat": frames("bak_"), "dark": frames("drk_")}


def _als_hdf5(spec, path):
    names = {"projection": "_0000_", "flat": "bak_", "dark": "drk_"}
    with h5py.File(path) as file:
        (group,) = file.values()
        read = {
            kind: [name for name in group if name.startswith(path.stem + middle)]
            for kind, middle in names.items()
        }
        return {
            kind: np.concatenate([group[name][()] for name in sorted(found, key=_at_and_number)])
            for kind, found in read.items()
        }


def _at_and_number(name):
    """The last number of a flat or dark is that of the projection at which it was taken."""
    return name.removesuffix(".tif").split("_")[::-1]


def _tomcat(spec, path):
    files = sorted((path / "tif").glob(f"{path.name}*.tif"))
    frames = np.array([tifffile.imread(file) for file in files])
    assert files[0].name == f"{path.name}0001.tif"
    flats = spec.darks + spec.flats
    last = flats + spec.projections
    after = frames[last:]
    return {
        "dark": frames[: spec.darks],
        "flat": np.concatenate([frames[spec.darks : flats], after]),
        "projection": frames[flats:last],
    }


def _edf(spec, path):
    def frames(pattern):
        return [fabio.open(str(file)).data for file in sorted(path.glob(pattern))]

    own = frames(f"{path.name}[0-9]*.edf")
    read = {"projection": own[: spec.projections], "dark": frames("dark*.edf")}
    by_set = sorted(path.glob("ref*.edf"), key=lambda file: file.stem.split("_")[::-1])
    read["flat"] = [fabio.open(str(file)).data for file in by_set]
    if spec.return_images:
        read["return"] = own[spec.projections :]
    return {kind: np.array(of_kind) for kind, of_kind in read.items()}


def parameters_of(path):
    """A parameter file in JSON or INI."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return json.loads(text)
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(text)
    return dict(parser["scan"])


def _raw(spec, path):
    known = parameters_of(path / f"{path.name}.{spec.parameters}")
    shape = (-1, int(known["n_rows"]), int(known["n_columns"]))
    dtype = ("<" if known["byte_order"] == "little" else ">") + "u2"
    frames = np.fromfile(path / f"{path.name}.raw", dtype).reshape(shape)
    darks, flats = int(known["n_darks"]), int(known["n_darks"]) + int(known["n_flats"])
    last = flats + int(known["n_projections"])
    assert len(frames) == last
    return {"dark": frames[:darks], "flat": frames[darks:flats], "projection": frames[flats:last]}


def _nxtomo(spec, path):
    with h5py.File(path) as file:
        detector = file["entry/instrument/detector"]
        frames, keys = detector["data"][()], detector["image_key"][()]
    names = {"projection": 0, "flat": 1, "dark": 2, "return": -1}
    return {kind: frames[keys == key] for kind, key in names.items() if (keys == key).any()}


def _dataexchange(spec, path):
    with h5py.File(path) as file:
        names = {"projection": "data", "flat": "data_white", "dark": "data_dark"}
        return {kind: file[f"exchange/{name}"][()] for kind, name in names.items()}


def _lnls(spec, path):
    def read(name, place):
        with h5py.File(path / name) as file:
            return file[place][()]

    return {
        "projection": read("tomo.h5", "images"),
        "flat": read("tomo_flat_before.h5", "flats"),
        "dark": read("tomo_dark_before.h5", "darks"),
    }


_READERS = {
    "nxtomo": _nxtomo,
    "dataexchange": _dataexchange,
    "lnls": _lnls,
    "tomcat": _tomcat,
    "als832": _als,
    "als832h5": _als_hdf5,
    "kit": _named("radios/image_*.tif", "flats/image_*.tif", "darks/image_*.tif"),
    "elettra": _named("tomo_*.tif", "flat_*.tif", "dark_*.tif"),
    "petra": _named(
        "scan_0002/ccd/pco01/ccd_*.tif", "scan_0001/ccd/pco01/ccd_*.tif", "scan_0000/ccd/pco01/ccd_*.tif"
    ),
    "australian": _named("SAMPLE_T_*.tif", "BG__*.tif", "DF__*.tif"),
    "plain": _named("tiffs/raw_*.tiff", "flat_*.tiff", "dark_*.tiff"),
    "edf": _edf,
    "raw": _raw,
}
