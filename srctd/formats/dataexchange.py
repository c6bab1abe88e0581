"""DataExchange: projections, flats and darks in three data sets of the group `/exchange`.

De Carlo et al., J. Synchrotron Rad. 21, 1224 (2014), https://doi.org/10.1107/S160057751401604X; with the places
where tomoscan at APS puts things. Where a value has no unit, the definition means SI, and degrees for angles.
"""

import posixpath
from functools import cached_property
from typing import ClassVar, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from srctd.core.completion import EndMark
from srctd.core.errors import ScanUnreadable
from srctd.core.scan import Quantity
from srctd.formats.frametable import DARK, FLAT, Numbers, Table, assembled, padded, projections, references
from srctd.formats.hdf5 import Source, as_text, length, numbers, readable_whole
from srctd.formats.hdf5pieces import Announced
from srctd.formats.hdf5scan import Hdf5Scan
from srctd.formats.protocol import ReadOptions
from srctd.formats.units import ENERGY, LENGTH, MAGNIFICATION, TIME

_SAMPLE = "/measurement/sample"
_INSTRUMENT = "/measurement/instrument"
_OBJECTIVE = f"{_INSTRUMENT}/detection_system/objective"
_PROCESS = "/process/acquisition"
_STAGE = f"{_INSTRUMENT}/sample_motor_stack/setup"
_END = f"{_PROCESS}/end_date"

NUM_ANGLES = (f"{_PROCESS}/rotation/num_angles", f"{_PROCESS}/rotation/rotation_num_angles")
START = (f"{_PROCESS}/rotation/start", f"{_PROCESS}/rotation/rotation_start")
STEP = (f"{_PROCESS}/rotation/step", f"{_PROCESS}/rotation/rotation_step")
RANGE = (f"{_PROCESS}/rotation/range",)
UNIQUE_ID = "/defaults/NDArrayUniqueId"
FRAME_LOCATION = "/defaults/HDF5FrameLocation"


class _Nominal(NamedTuple):
    """The rotation as it was set, degree."""

    start: float
    step: float
    proof: str
    """What shows which projection is which."""


class DataExchange(Hdf5Scan):
    """A scan in a group `exchange`."""

    format: ClassVar[str] = "dataexchange"

    def __init__(self, source: Source, entry: str, options: ReadOptions) -> None:
        super().__init__(source, entry, options)
        self.data = self.find("projections", [f"{entry}/data"])
        self.white = self._find_if_linked("flat fields", f"{entry}/data_white")
        self.dark = self._find_if_linked("dark fields", f"{entry}/data_dark")
        self.angle = self.find("rotation angle", [f"{entry}/theta"])
        self._no_theta = self.missing[-1] if self.angle is None else None

    def _find_if_linked(self, what: str, path: str) -> h5py.Dataset | None:
        """A data set that need not be there, but whose file must be if it is linked."""
        group = self.source.group(posixpath.dirname(path))
        if group is None or group.get(posixpath.basename(path), getlink=True) is None:
            return None
        return self.find(what, [path])

    def datasets(self) -> list[h5py.Dataset]:
        """Those of the three data sets that are there."""
        return [stack for stack in (self.data, self.white, self.dark) if stack is not None]

    @property
    def lists(self) -> dict[str, h5py.Dataset]:
        """Angles: there is one for every projection."""
        return {} if self.angle is None or self.data is None else {"rotation angles": self.angle}

    def rows(self) -> Table:
        """Every frame of a data set is of its kind; a data set that is not there has none."""
        parts = []
        if self.data is not None:
            trigger = self._triggers(length(self.data))
            parts.append((self.stack(self.data), projections(self._angles(trigger), trigger)))
        if self.white is not None:
            parts.append((self.stack(self.white), references(FLAT, length(self.white))))
        if self.dark is not None:
            parts.append((self.stack(self.dark), references(DARK, length(self.dark))))
        return assembled(parts)

    # --- which frame is which ------------------------------------------------------------------------------

    @cached_property
    def _ids(self) -> Numbers | None:
        """The camera's number of every projection in the file; None where areaDetector did not note them.

        `NDArrayUniqueId` counts all frames of the camera, `HDF5FrameLocation` says into which data set each went.
        """
        ids, places = numbers(self.optional(UNIQUE_ID)), self.optional(FRAME_LOCATION)
        if self.data is None or places is None or places.ndim != 1 or places.dtype.kind not in "SO":
            return None
        if len(ids) != len(places) or not readable_whole(places) or not np.all(np.isfinite(ids)):
            return None
        inside = np.array([as_text(place) == f"{self.entry}/data" for place in places[()]], bool)
        mine = ids[inside].astype(np.int64)
        return mine if len(mine) == length(self.data) and np.all(np.diff(mine) > 0) else None

    def _triggers(self, frames: int) -> Numbers:
        """Number of every projection, those counted that were dropped.

        By the camera's numbers, the first projection in the file being the first that was taken: were it not, the
        volume would be turned as a whole, and nothing else. Without them, the place in the data set.
        """
        return np.arange(frames) if self._ids is None or len(self._ids) == 0 else self._ids - self._ids[0]

    def _angles(self, trigger: Numbers) -> NDArray[np.float64]:
        """Angle of every projection: `theta` has one for each in the file, or one for each that was triggered.

        Without `theta`, the nominal angles, where `_nominal` finds them proven.
        """
        theta = numbers(self.angle)
        if self.angle is None:
            nominal = self._nominal
            if nominal is None:
                return np.full(len(trigger), np.nan)
            self.notes.append(
                f"no {self.entry}/theta: nominal angles from {nominal.start:g} deg by {nominal.step:g} deg; "
                f"which projection is which is shown by {nominal.proof}"
            )
            return np.asarray(nominal.start + nominal.step * trigger, np.float64)
        if len(theta) > len(trigger) > 0:
            return padded(theta, int(trigger[-1]) + 1)[trigger]
        return padded(theta, len(trigger))

    @cached_property
    def _nominal(self) -> "_Nominal | None":
        """Start and step of the rotation, if it is proven which projection is which; else None.

        Proof is the camera's numbers that stay within the announced projections, or exactly as many projections as
        were announced.
        """
        start, step = self.number(START), self.number(STEP)
        announced = self.announced()
        if self.data is None or start is None or not step or announced is None:
            return None
        frames = length(self.data)
        by_id = (
            self._ids is not None and len(self._ids) > 0 and self._ids[-1] - self._ids[0] < announced.frames
        )
        if not by_id and frames != announced.frames:
            return None
        return _Nominal(
            start, step, UNIQUE_ID if by_id else f"{frames} projections, as {announced.origin} says"
        )

    def healed(self) -> tuple[ScanUnreadable, ...]:
        """A missing `theta`, where the nominal angles are known and proven."""
        return () if self._no_theta is None or self._nominal is None else (self._no_theta,)

    @property
    def angle_place(self) -> str:
        """`theta`, or start and step."""
        return super().angle_place or STEP[0]

    # --- what the file says ----------------------------------------------------------------------------------

    def announced(self) -> Announced | None:
        """`num_angles`. A file without it announces nothing."""
        return self.integer(NUM_ANGLES)

    def announced_references(self) -> list[Announced]:
        """Flats and darks: those that are there, or their number at each time that `mode` names, if more."""
        found = []
        for kind, stack in (("flat", self.white), ("dark", self.dark)):
            group = f"{_PROCESS}/{kind}_fields"
            number = self.integer([f"{group}/number", f"{group}/num_{kind}_fields"])
            mode = self.first_text([f"{group}/mode", f"{group}/{kind}_field_mode"]).lower()
            told = (number.frames if number else 0) * {"start": 1, "end": 1, "both": 2}.get(mode, 0)
            if told > length(stack) and number is not None:
                found.append(Announced(told, f"{kind} fields by {number.origin}, mode {mode}"))
            elif length(stack):
                found.append(Announced(length(stack), f"{kind} fields that are there"))
        return found

    def end_marks(self) -> list[EndMark]:
        """`end_date`: areaDetector writes it as it closes the file, after an abort as well."""
        word = self.first_text([_END])
        return [EndMark(kind="metadata", text=f"{_END} = {word}")] if word else []

    def period(self) -> float | None:
        """Degrees of one member of a series, where the rotation says it."""
        value = self.number(RANGE)
        return value if value in (180.0, 360.0) else None

    def facts(self) -> dict[str, object]:
        """Who, what and how, as far as the file knows."""

        def words(*paths: str) -> str:
            return self.first_text(paths)

        return {
            "title": words(f"{_SAMPLE}/experiment/title"),
            "sample": words(f"{_SAMPLE}/name"),
            "instrument": words(f"{_INSTRUMENT}/name", f"{_INSTRUMENT}/source/beamline"),
            "proposal": words(f"{_SAMPLE}/experiment/proposal"),
            "experimenter": words(f"{_SAMPLE}/experimenter/name"),
            "email": words(f"{_SAMPLE}/experimenter/email"),
            "start_time": words(f"{_PROCESS}/start_date") or None,
            "end_time": words(_END) or None,
            "pixel_size": self._pixel_size(),
            "energy": self.quantity("energy", [f"{_INSTRUMENT}/monochromator/energy"], ENERGY, "J"),
            "distance": self.quantity(
                "distance",
                [f"{_INSTRUMENT}/detector_motor_stack/setup/z", f"{_INSTRUMENT}/detector/distance"],
                LENGTH,
                "m",
            ),
            "exposure_time": self.quantity(
                "exposure time", [f"{_INSTRUMENT}/detector/exposure_time"], TIME, "s"
            ),
            "positions": self._positions(),
        }

    def _positions(self) -> dict[str, Quantity]:
        """Where the sample's stage stood."""
        found = {
            axis: self.quantity(f"position {axis}", [f"{_STAGE}/{axis}"], LENGTH, "m", signed=True)
            for axis in "xyz"
        }
        return {axis: position for axis, position in found.items() if position is not None}

    def _pixel_size(self) -> Quantity | None:
        """At the sample: the objective's resolution, else the camera's pixel over the magnification."""
        effective = self.quantity("pixel size", [f"{_OBJECTIVE}/resolution"], LENGTH, "m")
        if effective is not None:
            return effective
        detector = f"{_INSTRUMENT}/detector"
        camera = self.quantity(
            "pixel size", [f"{detector}/pixel_size", f"{detector}/pixel_size_x"], LENGTH, "m"
        )
        if camera is None:
            return None
        magnification = self.quantity("magnification", [f"{_OBJECTIVE}/magnification"], MAGNIFICATION)
        if magnification is not None:
            binning = self.integer([f"{detector}/binning_x"])
            value = camera.value * (binning.frames if binning else 1) / magnification.value
            return Quantity(value=value, unit="m", origin=f"{camera.origin} / {magnification.origin}")
        if self.source.group(_OBJECTIVE) is None:
            self.notes.append(
                f"the file names no objective: {camera.origin} is taken as the size at the sample"
            )
            return camera
        self.notes.append(f"{camera.origin} is the camera's, and the magnification is unknown")
        return None


def find_dataexchange(source: Source, entry: str, options: ReadOptions) -> list[Hdf5Scan]:
    """The group `/exchange`, or the named one, if it holds frames or is about to; none otherwise."""
    path = "/" + entry.strip("/") if entry else "/exchange"
    group = source.group(path)
    if group is None or (entry and not {"data", "data_white", "theta"} & set(group)):
        return []
    return [DataExchange(source, path, options)]
