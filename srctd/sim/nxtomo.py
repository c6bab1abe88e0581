"""NXtomo: one data set of frames in an entry; image key, angles and `end_time` come last.

The file is locked as HDF5 locks by default, so a reader that takes locks is found out. Open to a single writer and
multiple readers (SWMR) no group can be added: all but `end_time` is made before the frames and grows with them.
"""

import h5py
import numpy as np

from srctd.sim.detector import Frame
from srctd.sim.hdf5 import FrameStore, GrowingDataset, nexus_group, put_quantity
from srctd.sim.plan import Kind, Shot, plan
from srctd.sim.sink import Format
from srctd.sim.spec import SimulationSpec
from srctd.sim.text import now_text

IMAGE_KEYS: dict[Kind, int] = {"projection": 0, "flat": 1, "dark": 2, "return": -1}
_DETECTOR = "instrument/detector"


class NxtomoFile:
    """One file, with one entry or several ones that are written one after the other."""

    def __init__(self, spec: SimulationSpec, path: str) -> None:
        self._spec, self._path = spec, path
        self._file: h5py.File | None = None
        self._entry: _Entry | None = None
        self._number = -1

    def begin(self) -> None:
        """Make the file and its first entry."""
        self._file = h5py.File(self._path, "w", libver="latest" if self._spec.hdf5.swmr else None)
        self._next_entry()
        if self._spec.hdf5.swmr:
            self._file.swmr_mode = True

    def frame(self, shot: Shot, frame: Frame) -> None:
        """Write a frame; those of a further entry begin it."""
        if shot.entry != self._number:
            self._conclude()
            self._next_entry()
        assert self._entry is not None
        self._entry.put(shot, frame)

    def end(self) -> None:
        """Write the metadata, unless they come late, and close the file."""
        if not self._late:
            self._conclude()
        self.abort()

    def annotate(self) -> None:
        """Open the file again for what could not be written before."""
        if self._late:
            with h5py.File(self._path, "a") as file:
                entry = file[self._name]
                if not self._spec.hdf5.swmr:
                    _write_frame_facts(entry, self._spec, self._number)
                    _write_scan_facts(entry, self._spec)
                _write_end(entry, self._spec)

    def abort(self) -> None:
        """Close all files."""
        if self._entry is not None:
            self._entry.store.close()
        if self._file is not None:
            self._file.close()

    @property
    def _late(self) -> bool:
        return self._spec.hdf5.swmr or self._spec.faults.late_seconds > 0

    @property
    def _name(self) -> str:
        return "entry" if self._spec.hdf5.entries == 1 else f"entry{self._number:04d}"

    def _next_entry(self) -> None:
        assert self._file is not None
        self._number += 1
        self._entry = _Entry(self._file, self._name, self._spec, self._path)
        self._file.attrs.setdefault("default", self._name)
        self._file.flush()

    def _conclude(self) -> None:
        """Write what belongs to the end of an entry."""
        assert self._entry is not None
        self._entry.store.close()
        group = self._entry.group
        _write_frame_facts(group, self._spec, self._number)
        _write_scan_facts(group, self._spec)
        _write_end(group, self._spec)


class _Entry:
    """An entry that frames are written to."""

    def __init__(self, file: h5py.File, name: str, spec: SimulationSpec, path: str) -> None:
        self.group = nexus_group(file, name, "NXentry")
        for field, value in (
            ("definition", "NXtomo"),
            ("title", spec.title),
            ("experiment_identifier", spec.proposal),
            ("start_time", now_text()),
        ):
            self.group[field] = value
        instrument = nexus_group(self.group, "instrument", "NXinstrument")
        instrument["name"] = spec.instrument
        detector = nexus_group(instrument, "detector", "NXdetector")
        detector["tomo_n"] = spec.projections
        self.store = FrameStore(detector, spec, path, name)
        self._lists: tuple[GrowingDataset, GrowingDataset] | None = None
        if spec.hdf5.swmr:
            _write_scan_facts(self.group, spec)
            self._lists = (
                GrowingDataset(detector, "image_key", (), "int32", 0, chunks=(1024,)),
                GrowingDataset(self.group["sample"], "rotation_angle", (), "float64", 0, chunks=(1024,)),
            )
            self._lists[1].dataset.attrs["units"] = "degree"

    def put(self, shot: Shot, frame: Frame) -> None:
        """Write a frame; with SWMR its key and angle too, and everything becomes visible at once."""
        self.store.put(shot.position, frame)
        if self._lists is not None:
            keys, angles = self._lists
            keys.put(shot.position, IMAGE_KEYS[shot.kind])
            angles.put(shot.position, shot.angle_deg)
            self.group.file.flush()


def _write_scan_facts(entry: h5py.Group, spec: SimulationSpec) -> None:
    """What holds for the whole scan."""
    detector = entry[_DETECTOR]
    put_quantity(detector, "x_pixel_size", spec.pixel_size, "m")
    put_quantity(detector, "y_pixel_size", spec.pixel_size, "m")
    put_quantity(detector, "distance", spec.distance, "m")
    put_quantity(nexus_group(entry, "beam", "NXbeam"), "incident_energy", spec.energy_kev, "keV")
    specimen = _sample(entry)
    specimen["name"] = spec.sample
    for axis, position in (("x", spec.position_x), ("z", spec.position_z)):
        if position is not None:
            put_quantity(specimen, f"{axis}_translation", np.full(spec.frames, position), "m")
    user = nexus_group(entry, "user", "NXuser")
    user["name"], user["email"] = spec.experimenter, spec.email


def _write_frame_facts(entry: h5py.Group, spec: SimulationSpec, number: int) -> None:
    """Key and angle of every frame."""
    detector = entry[_DETECTOR]
    shots = [shot for shot in plan(spec) if shot.entry == number]
    detector["image_key"] = np.array([IMAGE_KEYS[shot.kind] for shot in shots], np.int32)
    put_quantity(_sample(entry), "rotation_angle", np.array([shot.angle_deg for shot in shots]), "degree")


def _write_end(entry: h5py.Group, spec: SimulationSpec) -> None:
    """The default plot, and that it is over."""
    detector = entry[_DETECTOR]
    plot = nexus_group(entry, "data", "NXdata")
    plot.attrs["signal"] = "data"
    linked = spec.hdf5.storage == "external"
    plot["data"] = h5py.SoftLink(f"{entry.name}/{_DETECTOR}/data") if linked else detector["data"]
    plot["image_key"] = detector["image_key"]
    plot["rotation_angle"] = entry["sample/rotation_angle"]
    entry["end_time"] = now_text()


def _sample(entry: h5py.Group) -> h5py.Group:
    return entry["sample"] if "sample" in entry else nexus_group(entry, "sample", "NXsample")


NXTOMO = Format(
    NxtomoFile,
    ".nxs",
    frozenset(
        {
            "presized",
            "drop",
            "shuffle",
            "late_seconds",
            "renamed",
            "storage",
            "compression",
            "swmr",
            "entries",
            "return_images",
            "flats_every",
            "flats_after",
            "darks_after",
        }
    ),
)
