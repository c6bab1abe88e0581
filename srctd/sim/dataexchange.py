"""DataExchange as at the APS: three data sets in `/exchange`; metadata as the file is closed, then the angles.

areaDetector appends every frame that reaches it to the data set of its kind and closes the file with `end_date`.
Then the scan program opens it again for `theta`, of all projections that were triggered: frames that were dropped
are told by their unique numbers alone.
"""

import h5py
import numpy as np

from srctd.sim.detector import Frame
from srctd.sim.hdf5 import GrowingDataset, frames_dataset, put_quantity
from srctd.sim.plan import Kind, Shot
from srctd.sim.sink import Format
from srctd.sim.spec import SimulationSpec
from srctd.sim.text import now_text

DATA_SETS: dict[Kind, str] = {"projection": "data", "flat": "data_white", "dark": "data_dark"}


class DataExchangeFile:
    """One file."""

    def __init__(self, spec: SimulationSpec, path: str) -> None:
        self._spec, self._path = spec, path
        self._file: h5py.File | None = None
        self._stacks: dict[str, GrowingDataset] = {}
        self._written = dict.fromkeys(DATA_SETS.values(), 0)
        self._ids: list[int] = []
        self._locations: list[str] = []

    def begin(self) -> None:
        """Make the file and its data sets."""
        spec = self._spec
        self._file = h5py.File(self._path, "w")
        self._file["implements"] = "exchange:measurement:process"
        self._file["process/acquisition/start_date"] = now_text()
        exchange = self._file.create_group("exchange")
        lengths = {"data": spec.projections, "data_white": spec.all_flats, "data_dark": spec.all_darks}
        self._stacks = {
            name: frames_dataset(exchange, name, spec, length) for name, length in lengths.items()
        }
        self._file.flush()

    def frame(self, shot: Shot, frame: Frame) -> None:
        """Append a frame to the data set of its kind."""
        name = DATA_SETS[shot.kind]
        self._stacks[name].put(self._written[name], frame)
        self._written[name] += 1
        self._ids.append(shot.number)
        self._locations.append(f"/exchange/{name}")

    def end(self) -> None:
        """Write the metadata and close the file."""
        assert self._file is not None
        self._file["defaults/NDArrayUniqueId"] = np.array(self._ids, np.int32)
        self._file["defaults/HDF5FrameLocation"] = np.array(self._locations, dtype="S")
        _write_measurement(self._file, self._spec)
        _write_acquisition(self._file["process/acquisition"], self._spec)
        self.abort()

    def annotate(self) -> None:
        """Open the file again for the angles."""
        with h5py.File(self._path, "a") as file:
            put_quantity(file["exchange"], "theta", self._spec.angles_deg, "degree")

    def abort(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _write_measurement(file: h5py.File, spec: SimulationSpec) -> None:
    specimen = file.create_group("measurement/sample")
    for name, value in (
        ("name", spec.sample),
        ("experiment/title", spec.title),
        ("experiment/proposal", spec.proposal),
        ("experimenter/name", spec.experimenter),
        ("experimenter/email", spec.email),
    ):
        specimen[name] = value
    instrument = file.create_group("measurement/instrument")
    instrument["name"] = spec.instrument
    put_quantity(instrument, "monochromator/energy", spec.energy_kev, "keV")
    put_quantity(instrument, "detection_system/objective/resolution", spec.pixel_size * 1e6, "um")
    put_quantity(instrument, "detector_motor_stack/setup/z", spec.distance * 1e3, "mm")
    for axis, position in (("x", spec.position_x), ("y", spec.position_z)):  # y is along the rotation axis
        if position is not None:
            put_quantity(instrument, f"sample_motor_stack/setup/{axis}", position * 1e3, "mm")


def _write_acquisition(acquisition: h5py.Group, spec: SimulationSpec) -> None:
    acquisition["rotation/num_angles"] = spec.projections
    put_quantity(acquisition, "rotation/start", spec.angle_start_deg, "degree")
    put_quantity(acquisition, "rotation/step", spec.step_deg, "degree")
    for kind, before, after in (
        ("flat", spec.flats, spec.flats_after),
        ("dark", spec.darks, spec.darks_after),
    ):
        acquisition[f"{kind}_fields/number"] = before or after
        acquisition[f"{kind}_fields/mode"] = _MODES[bool(before), bool(after)]
    acquisition["end_date"] = now_text()


_MODES = {(False, False): "None", (True, False): "Start", (False, True): "End", (True, True): "Both"}

DATAEXCHANGE = Format(
    DataExchangeFile,
    ".h5",
    frozenset({"presized", "drop", "late_seconds", "renamed", "compression", "flats_after", "darks_after"}),
)
