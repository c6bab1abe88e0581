"""LNLS: three HDF5 files in a folder, one for every kind of frame; the angles in a parameter file of the site."""

import os
from pathlib import Path

import h5py

from srctd.sim.detector import Frame
from srctd.sim.hdf5 import GrowingDataset, frames_dataset
from srctd.sim.parameters import PARAMETER_FILE, parameter_text, parameters
from srctd.sim.plan import Kind, Shot
from srctd.sim.sink import Format
from srctd.sim.spec import SimulationSpec

FILES: dict[Kind, tuple[str, str]] = {
    "dark": ("tomo_dark_before.h5", "darks"),
    "flat": ("tomo_flat_before.h5", "flats"),
    "projection": ("tomo.h5", "images"),
}
"""File and data set of every kind."""


class LnlsFiles:
    """`tomo.h5`, `tomo_flat_before.h5`, `tomo_dark_before.h5`; a file is made when its first frame comes."""

    def __init__(self, spec: SimulationSpec, path: str) -> None:
        self._spec, self._path = spec, path
        self._open: dict[Kind, GrowingDataset] = {}

    def begin(self) -> None:
        """Write the parameter file."""
        os.makedirs(self._path, exist_ok=True)
        text = parameter_text(parameters(self._spec), "json")
        Path(self._path, PARAMETER_FILE).write_text(text, encoding="utf-8")

    def frame(self, shot: Shot, frame: Frame) -> None:
        """Write a frame at its place in the file of its kind; the files of other kinds are closed."""
        if shot.kind not in self._open:
            self.end()
            name, place = FILES[shot.kind]
            lengths = {"dark": self._spec.darks, "flat": self._spec.flats}
            length = lengths.get(shot.kind, self._spec.projections)
            file = h5py.File(os.path.join(self._path, name), "w")
            self._open[shot.kind] = frames_dataset(file, place, self._spec, length)
        self._open[shot.kind].put(shot.of_kind, frame)

    def end(self) -> None:
        """Close the files."""
        while self._open:
            self._open.popitem()[1].dataset.file.close()

    def annotate(self) -> None:
        """There is nothing to add."""

    def abort(self) -> None:
        """Close the files."""
        self.end()


LNLS = Format(LnlsFiles, "", frozenset({"presized", "drop", "compression"}))
