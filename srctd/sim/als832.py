"""Beamline 8.3.2 at the ALS, before it wrote DataExchange: TIFF files, and the settings in a `.sct` file.

Later the same in one HDF5 file: a data set for every TIFF file, the settings as attributes. Names as in dxchange
(`read_als_832`, `read_als_832h5`): flats and darks carry their number in the set and the projection at which they
were taken.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import h5py

from srctd.sim.detector import Frame
from srctd.sim.hdf5 import filter_arguments
from srctd.sim.plan import Shot
from srctd.sim.sink import Format
from srctd.sim.spec import SimulationSpec
from srctd.sim.stack import TIFF_FEATURES, FileStack


class AlsStack(FileStack):
    """`<name>_0000_0000.tif`, `<name>bak_0000_0000.tif`, `<name>drk_0000_0000.tif`."""

    def name(self, shot: Shot) -> str:
        """The file of a frame."""
        return _name(self._spec, self._prefix, shot)

    def begin(self) -> None:
        """Write the settings."""
        super().begin()
        text = "".join(f"-{name} {value}\n" for name, value in _settings(self._spec).items())
        Path(self._place(f"{self._prefix}.sct")).write_text(text, encoding="utf-8")


class AlsFile:
    """`/<name>/<name>_0000_0000.tif` and so on in one file."""

    def __init__(self, spec: SimulationSpec, path: str) -> None:
        self._spec, self._path = spec, path
        self._prefix = os.path.splitext(os.path.basename(path))[0]
        self._file: h5py.File | None = None

    def begin(self) -> None:
        """Make the file and its group, with the settings."""
        self._file = h5py.File(self._path, "w")
        group = self._file.create_group(self._prefix)
        for name, value in _settings(self._spec).items():
            group.attrs[name] = value
        self._file.flush()

    def frame(self, shot: Shot, frame: Frame) -> None:
        """Add a data set, shape (1, rows, columns)."""
        assert self._file is not None
        name = f"{self._prefix}/{_name(self._spec, self._prefix, shot)}"
        stored = filter_arguments(self._spec.hdf5.compression)
        self._file.create_dataset(name, data=frame[None], chunks=(1, *frame.shape), **stored)

    def end(self) -> None:
        """Close the file."""
        self.abort()

    def annotate(self) -> None:
        """There is nothing to add."""

    def abort(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _name(spec: SimulationSpec, prefix: str, shot: Shot) -> str:
    """Of the file or data set of a frame."""
    if shot.kind == "projection":
        return f"{prefix}_0000_{shot.of_kind:04d}.tif"
    role = {"flat": "bak", "dark": "drk"}[shot.kind]
    at = min(shot.taken, spec.projections - 1)
    return f"{prefix}{role}_{shot.within:04d}_{at:04d}.tif"


def _settings(spec: SimulationSpec) -> Mapping[str, str]:
    """The settings; the range ends at the last projection, which is how the beamline's readers take it."""
    return {
        "scanner": spec.instrument,
        "object": spec.sample,
        "senergy": f"{spec.energy_kev * 1e3:.2f}",
        "scurrent": "500.00",
        "pxsize": f"{spec.pixel_size * 1e3:.6f}",
        "nslices": str(spec.rows),
        "nrays": str(spec.columns),
        "nangles": str(spec.projections),
        "arange": f"{spec.angles_deg[-1] - spec.angles_deg[0]:.6f}",
        "i0cycle": str(spec.flats_every),
        "num_bright_field": str(spec.flats),
        "num_dark_fields": str(spec.darks),
    }


_FEATURES = frozenset({"drop", "shuffle", "flats_every", "flats_after", "darks_after"})
ALS832 = Format(AlsStack, "", TIFF_FEATURES | _FEATURES)
ALS832_HDF5 = Format(AlsFile, ".h5", _FEATURES | {"renamed", "compression"})
