"""What is to be simulated: the scan, its format, and everything that goes wrong on the way."""

import math
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from srctd.sim.detector import Flaws
from srctd.sim.phantom import Geometry

FormatName = Literal[
    "nxtomo",
    "dataexchange",
    "lnls",
    "tomcat",
    "als832",
    "als832h5",
    "kit",
    "elettra",
    "petra",
    "australian",
    "plain",
    "skyscan",
    "edf",
    "raw",
]
Arrival = Literal["whole", "truncated", "preallocated", "renamed"]
ParameterSyntax = Literal["json", "ini"]
Storage = Literal["plain", "external", "virtual"]
Compression = Literal["none", "gzip", "bitshuffle", "lz4", "blosc", "zstd"]


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """What does not go as it should. Frames are counted as they were triggered, those included that are dropped."""

    abort_after: int = 0
    """The acquisition is broken off after so many frames of all kinds; 0: never."""
    drop: tuple[int, ...] = ()
    """Projections that never arrive, by their numbers from 0."""
    pause_after: int = 0
    """After so many frames nothing comes for `pause_seconds`."""
    pause_seconds: float = 0.0
    burst: int = 0
    """Frames are buffered and come so many at a time; needs a rate. 0: one at a time."""
    shuffle: int = 0
    """Within blocks of so many frames the order of arrival is random, as with several receivers; 0: in order."""
    arrival: Arrival = "whole"
    """How a file comes. `truncated`: its first half, the rest later; `preallocated`: at once in full size, but with
    zeros in its second half; `renamed`: under a temporary name."""
    finish_after: int = 1
    """A file that did not arrive whole is finished when so many further ones have come, or at the end."""
    late_seconds: float = 0.0
    """What is known at the end only (angles, keys, end of the log) follows so much later, by a second open."""
    rewrite: bool = False
    """Afterwards the scan is taken again under the same name, with other noise and without these faults."""


class TiffOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How TIFF files are written."""

    byte_order: Literal["little", "big"] = "little"
    bigtiff: bool = False
    pages: int = 1
    """Frames in one file."""


class Hdf5Options(msgspec.Struct, frozen=True, kw_only=True):
    """How HDF5 files are written."""

    storage: Storage = "plain"
    """Where the frames are: in the file itself, in another one that a link names, or in several ones."""
    parts: int = 3
    """Files of a virtual data set."""
    compression: Compression = "none"
    swmr: bool = False
    """The latest version of the format, open to single-writer-multiple-readers while frames come."""
    entries: int = 1
    """Scans in one file, one after the other."""


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """Several scans in one folder: repeated in time, or side by side and above each other."""

    repeats: int = 1
    """Scans at every place."""
    columns: int = 1
    """Places across the beam, `step_x` apart."""
    levels: int = 1
    """Places along the rotation axis, `step_z` apart."""
    step_x: float = 100e-6
    """Metre."""
    step_z: float = 100e-6
    """Metre."""

    @property
    def members(self) -> int:
        """Scans in all."""
        return self.repeats * self.columns * self.levels


class SimulationSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A scan to simulate."""

    rows: int = 256
    columns: int = 512
    angles: int = 360
    """Projections of one rotation."""
    rotations: int = 1
    """A dynamic scan: so many rotations without a stop, each by `angle_range_deg`."""
    angle_start_deg: float = 0.0
    angle_range_deg: float = 180.0
    """180 or 360; the end itself is not measured again."""
    flats: int = 10
    """Before the projections, and in every set between them."""
    flats_every: int = 0
    """Projections between two sets of flats; 0: none between."""
    flats_after: int = 0
    darks: int = 10
    darks_after: int = 0
    return_images: int = 0
    """Projections after the scan proper, on the way back, every 90 degrees."""
    center_offset: float = 7.3
    """Columns from the detector's middle to the rotation axis."""
    tilt_deg: float = 0.0
    """Of the axis in the detector's plane."""
    pixel_size: float = 1e-6
    """Metre."""
    energy_kev: float = 25.0
    distance: float = 0.1
    """Sample to detector, metre."""
    position_x: float | None = None
    """Of the sample and its axis across the beam, metre, where it is recorded."""
    position_z: float | None = None
    """Of the sample along the axis, metre, where it is recorded."""
    counts: float = 20000.0
    """In the middle of the beam without a sample."""
    flaws: Flaws = Flaws()
    pco_stamps: bool = False
    """Whether the camera writes counter and time into the first 14 pixels of every frame."""
    distinct: int = 0
    """So many frames of a kind are computed, the others repeat them: for writing at full speed. 0: all are."""
    format: FormatName = "nxtomo"
    tiff: TiffOptions = TiffOptions()
    hdf5: Hdf5Options = Hdf5Options()
    parameters: ParameterSyntax = "json"
    """Syntax of the parameter file beside a RAW file."""
    series: Series = Series()
    faults: Faults = Faults()
    seed: int = 0
    take: int = 0
    """Repetition: the same sample before the same detector, with other noise."""
    frames_per_second: float = 0.0
    """0: as fast as possible."""
    presized: bool = False
    """Whether a file of many frames has its full length from the start, as some detectors do."""
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
        moved = (self.position_x or 0.0) / self.pixel_size
        return (self.columns - 1) / 2 + self.center_offset + moved

    @property
    def projections(self) -> int:
        """Projections of all rotations."""
        return self.angles * self.rotations

    @property
    def whole_range_deg(self) -> float:
        """Of all rotations."""
        return self.angle_range_deg * self.rotations

    @property
    def step_deg(self) -> float:
        """From projection to projection."""
        return self.angle_range_deg / self.angles

    @property
    def angles_deg(self) -> NDArray[np.float64]:
        """Rotation angle of every projection, degree."""
        return self.angle_start_deg + np.arange(self.projections, dtype=np.float64) * self.step_deg

    @property
    def flat_sets_between(self) -> int:
        """Sets of flats between the projections."""
        return (self.projections - 1) // self.flats_every if self.flats_every else 0

    @property
    def all_flats(self) -> int:
        """Flats before, between and after the projections."""
        return self.flats * (1 + self.flat_sets_between) + self.flats_after

    @property
    def all_darks(self) -> int:
        """Darks before and after the projections."""
        return self.darks + self.darks_after

    @property
    def frames(self) -> int:
        """Frames of all kinds in one scan."""
        return self.all_darks + self.all_flats + self.projections + self.return_images
