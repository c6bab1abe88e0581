"""Write a simulated scan the way a detector does.

The file is opened, frames are appended one by one, the metadata come last, the file is closed. It is locked as
HDF5 locks by default, so a reader that takes locks is found out. Memory holds one frame at a time.
"""

import math
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from srctd.sim.detector import Detector, Flaws, Frame
from srctd.sim.phantom import Geometry, projection, sample

OnFrame = Callable[[int, int], None]
"""Called with the frames written and all frames to come."""
Stop = Callable[[], bool]
"""Asked before every frame whether to break off, as an aborted scan does."""


class SimulationSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A scan to simulate."""

    rows: int = 256
    columns: int = 512
    angles: int = 360
    angle_range_deg: float = 180.0
    """180 or 360; the end itself is not measured again."""
    flats: int = 10
    darks: int = 10
    center_offset: float = 7.3
    """Columns from the detector's middle to the rotation axis."""
    tilt_deg: float = 0.0
    """Of the axis in the detector's plane."""
    pixel_size: float = 1e-6
    """Metre."""
    energy_kev: float = 25.0
    distance: float = 0.1
    """Sample to detector, metre."""
    counts: float = 20000.0
    """In the middle of the beam without a sample."""
    flaws: Flaws = Flaws()
    format: Literal["nxtomo", "dataexchange"] = "nxtomo"
    seed: int = 0
    frames_per_second: float = 0.0
    """0: as fast as possible."""
    presized: bool = False
    """Whether the data set has its full length from the start, as some detectors do."""
    title: str = "Simulated ellipsoids"
    sample: str = "ellipsoids"
    instrument: str = "simulator"
    proposal: str = "20260001"
    experimenter: str = "Simulated User"
    email: str = "user@example.org"

    @property
    def geometry(self) -> Geometry:
        """The detector as seen from the axis."""
        return Geometry(self.rows, self.columns, self.center, math.radians(self.tilt_deg), self.pixel_size)

    @property
    def center(self) -> float:
        """Column of the rotation axis at the middle row."""
        return (self.columns - 1) / 2 + self.center_offset

    @property
    def angles_deg(self) -> NDArray[np.float64]:
        """Rotation angle of every projection, degree."""
        return np.arange(self.angles, dtype=np.float64) * (self.angle_range_deg / self.angles)

    @property
    def frames(self) -> int:
        """Frames of all kinds."""
        return self.darks + self.flats + self.angles


def simulate(
    spec: SimulationSpec, path: str, on_frame: OnFrame | None = None, stop: Stop | None = None
) -> bool:
    """Write a scan; returns whether it came to its end (False: `stop` broke it off, and no end is marked)."""
    write = {"nxtomo": _write_nxtomo, "dataexchange": _write_dataexchange}[spec.format]
    frames = _paced(spec, on_frame, stop)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return write(spec, path, frames)


def _frames(spec: SimulationSpec) -> Iterator[tuple[str, Frame]]:
    """Darks, flats, projections; one frame at a time."""
    detector = Detector(spec.geometry, spec.counts, spec.flaws, spec.seed)
    phantom = sample(spec.geometry, spec.seed)
    for number in range(spec.darks):
        yield "data_dark", detector.dark(number)
    for number in range(spec.darks, spec.darks + spec.flats):
        yield "data_white", detector.flat(number)
    for number, angle in enumerate(np.radians(spec.angles_deg), spec.darks + spec.flats):
        yield "data", detector.projection(projection(phantom, spec.geometry, float(angle)), number)


def _paced(spec: SimulationSpec, on_frame: OnFrame | None, stop: Stop | None) -> Iterator[tuple[str, Frame]]:
    """The frames at the rate asked for; ends early when `stop` says so."""
    started = time.monotonic()
    for number, kind_and_frame in enumerate(_frames(spec)):
        if stop is not None and stop():
            return
        if spec.frames_per_second > 0:
            time.sleep(max(0.0, started + number / spec.frames_per_second - time.monotonic()))
        yield kind_and_frame
        if on_frame is not None:
            on_frame(number + 1, spec.frames)


class _Stack:
    """A data set of frames that grows by one frame at a time, one chunk each."""

    def __init__(self, group: h5py.Group, name: str, spec: SimulationSpec, length: int) -> None:
        shape = (spec.rows, spec.columns)
        first = length if spec.presized else 0
        self._dataset = group.create_dataset(
            name, (first, *shape), np.uint16, maxshape=(None, *shape), chunks=(1, *shape)
        )
        self._dataset.attrs["units"] = "counts"
        self._count = 0
        self._flushed = time.monotonic()

    def append(self, frame: Frame) -> None:
        """Write one more frame; twice a second the file is flushed."""
        if self._count >= self._dataset.shape[0]:
            self._dataset.resize(self._count + 1, axis=0)
        self._dataset[self._count] = frame
        self._count += 1
        if time.monotonic() - self._flushed > 0.5:
            self._dataset.file.flush()
            self._flushed = time.monotonic()


def _write_nxtomo(spec: SimulationSpec, path: str, frames: Iterator[tuple[str, Frame]]) -> bool:
    """One data set of frames in an NXtomo entry; image key, angles and `end_time` come last."""
    with h5py.File(path, "w") as file:
        entry = _group(file, "entry", "NXentry")
        file.attrs["default"] = "entry"
        for name, value in (
            ("definition", "NXtomo"),
            ("title", spec.title),
            ("experiment_identifier", spec.proposal),
            ("start_time", _now()),
        ):
            entry[name] = value
        instrument = _group(entry, "instrument", "NXinstrument")
        instrument["name"] = spec.instrument
        detector = _group(instrument, "detector", "NXdetector")
        detector["tomo_n"] = spec.angles
        stack = _Stack(detector, "data", spec, spec.frames)
        file.flush()

        keys = [{"data": 0, "data_white": 1, "data_dark": 2}[kind] for kind, _ in _stored(stack, frames)]
        if len(keys) < spec.frames:
            return False

        detector["image_key"] = np.array(keys, np.int32)
        _quantity(detector, "x_pixel_size", spec.pixel_size, "m")
        _quantity(detector, "y_pixel_size", spec.pixel_size, "m")
        _quantity(detector, "distance", spec.distance, "m")
        _quantity(_group(entry, "beam", "NXbeam"), "incident_energy", spec.energy_kev, "keV")
        specimen = _group(entry, "sample", "NXsample")
        specimen["name"] = spec.sample
        angles = np.concatenate([np.zeros(spec.darks + spec.flats), spec.angles_deg])
        _quantity(specimen, "rotation_angle", angles, "degree")
        user = _group(entry, "user", "NXuser")
        user["name"], user["email"] = spec.experimenter, spec.email
        plot = _group(entry, "data", "NXdata")
        plot.attrs["signal"] = "data"
        for name in ("data", "image_key"):
            plot[name] = detector[name]
        plot["rotation_angle"] = specimen["rotation_angle"]
        entry["end_time"] = _now()
    return True


def _write_dataexchange(spec: SimulationSpec, path: str, frames: Iterator[tuple[str, Frame]]) -> bool:
    """Three data sets in `/exchange`; metadata as the file is closed, the angles after that.

    As at APS: areaDetector closes the file with `end_date`, then the scan program opens it again for `theta`.
    """
    lengths = {"data": spec.angles, "data_white": spec.flats, "data_dark": spec.darks}
    with h5py.File(path, "w") as file:
        file["implements"] = "exchange:measurement:process"
        file["process/acquisition/start_date"] = _now()
        exchange = file.create_group("exchange")
        stacks = {name: _Stack(exchange, name, spec, length) for name, length in lengths.items()}
        file.flush()

        written = 0
        for kind, frame in frames:
            stacks[kind].append(frame)
            written += 1
        if written < spec.frames:
            return False
        _dataexchange_metadata(file, spec)
    with h5py.File(path, "a") as file:
        _quantity(file["exchange"], "theta", spec.angles_deg, "degree")
    return True


def _dataexchange_metadata(file: h5py.File, spec: SimulationSpec) -> None:
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
    _quantity(instrument, "monochromator/energy", spec.energy_kev, "keV")
    _quantity(instrument, "detection_system/objective/resolution", spec.pixel_size * 1e6, "um")
    _quantity(instrument, "detector_motor_stack/setup/z", spec.distance * 1e3, "mm")
    acquisition = file["process/acquisition"]
    acquisition["rotation/num_angles"] = spec.angles
    for kind, number in (("flat", spec.flats), ("dark", spec.darks)):
        acquisition[f"{kind}_fields/number"] = number
        acquisition[f"{kind}_fields/mode"] = "Start"
    acquisition["end_date"] = _now()


def _stored(stack: _Stack, frames: Iterator[tuple[str, Frame]]) -> Iterator[tuple[str, Frame]]:
    """The frames again, each after it was written."""
    for kind, frame in frames:
        stack.append(frame)
        yield kind, frame


def _group(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = nx_class
    return group


def _quantity(group: h5py.Group, name: str, value: object, unit: str) -> None:
    group[name] = value
    group[name].attrs["units"] = unit


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
