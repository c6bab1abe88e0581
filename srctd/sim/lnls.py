"""IMX at the LNLS: three HDF5 files in a folder, one for every kind of frame.

The beamline's own files know no angles, and nothing else of the measurement either. The list `angles` stands for
what a site adds afterwards, so that the scan can be reconstructed.
"""

import os

import h5py

from srctd.sim.detector import Frame
from srctd.sim.hdf5 import GrowingDataset, frames_dataset, put_quantity
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
        """Make the folder."""
        os.makedirs(self._path, exist_ok=True)

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
        """Open the file of projections again for the angles."""
        name, _ = FILES["projection"]
        with h5py.File(os.path.join(self._path, name), "a") as file:
            put_quantity(file, "angles", self._spec.angles_deg, "degree")

    def abort(self) -> None:
        """Close the files."""
        self.end()


LNLS = Format(LnlsFiles, "", frozenset({"presized", "drop", "compression", "late_seconds"}))
