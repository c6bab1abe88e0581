"""DataExchange: projections, flats and darks in three data sets of the group `/exchange`.

De Carlo et al., J. Synchrotron Rad. 21, 1224 (2014), https://doi.org/10.1107/S160057751401604X; with the places
where tomoscan at APS puts things. Where a value has no unit, the definition means SI, and degrees for angles.
"""

import posixpath
from typing import ClassVar

import h5py
import numpy as np

from srctd.core.scan import Quantity
from srctd.formats.hdf5 import Source, length
from srctd.formats.hdf5scan import Frames, Hdf5Scan
from srctd.formats.protocol import Kind
from srctd.formats.units import ENERGY, LENGTH, MAGNIFICATION, TIME

_SAMPLE = "/measurement/sample"
_INSTRUMENT = "/measurement/instrument"
_OBJECTIVE = f"{_INSTRUMENT}/detection_system/objective"
_PROCESS = "/process/acquisition"
_END = f"{_PROCESS}/end_date"

NUM_ANGLES = (f"{_PROCESS}/rotation/num_angles", f"{_PROCESS}/rotation/rotation_num_angles")


class DataExchange(Hdf5Scan):
    """A scan in a group `exchange`."""

    format: ClassVar[str] = "dataexchange"

    def __init__(self, source: Source, entry: str) -> None:
        super().__init__(source, entry)
        self.data = self.find("projections", [f"{entry}/data"])
        self.white = self._find_if_linked("flat fields", f"{entry}/data_white")
        self.dark = self._find_if_linked("dark fields", f"{entry}/data_dark")
        self.angle = self.find("rotation angle", [f"{entry}/theta"])

    def _find_if_linked(self, what: str, path: str) -> h5py.Dataset | None:
        """A data set that need not be there, but whose file must be if it is linked."""
        group = self.source.group(posixpath.dirname(path))
        if group is None or group.get(posixpath.basename(path), getlink=True) is None:
            return None
        return self.find(what, [path])

    @property
    def stacks(self) -> list[h5py.Dataset]:
        """Those of the three data sets that are there; none without projections."""
        if self.data is None:
            return []
        return [stack for stack in (self.data, self.white, self.dark) if stack is not None]

    @property
    def lists(self) -> dict[str, h5py.Dataset]:
        """Angles: there is one for every projection."""
        return {} if self.angle is None else {"rotation angles": self.angle}

    def frames(self) -> dict[Kind, Frames]:
        """Every frame of a data set is of its kind; a data set that is not there has none."""

        def whole(stack: h5py.Dataset | None) -> Frames:
            return Frames(self.data if stack is None else stack, np.arange(length(stack)))

        return {"projections": whole(self.data), "flats": whole(self.white), "darks": whole(self.dark)}

    def announced(self) -> int | None:
        """`num_angles`, and the flats and darks by their number and mode; else those that are there."""
        projections = self.integer(NUM_ANGLES)
        flats = max(length(self.white), self._references_expected("flat"))
        darks = max(length(self.dark), self._references_expected("dark"))
        return (length(self.data) if projections is None else projections) + flats + darks

    def _references_expected(self, kind: str) -> int:
        """Flats or darks announced: their number at each of the times that `mode` names (Start, End, Both)."""
        group = f"{_PROCESS}/{kind}_fields"
        number = self.integer([f"{group}/number", f"{group}/num_{kind}_fields"])
        mode = self.first_text([f"{group}/mode", f"{group}/{kind}_field_mode"]).lower()
        return (number or 0) * {"start": 1, "end": 1, "both": 2}.get(mode, 0)

    def end_marker(self) -> str:
        """`end_date`: areaDetector writes it as it closes the file."""
        word = self.first_text([_END])
        return f"{_END} = {word}" if word else ""

    def facts(self) -> dict[str, object]:
        """Who, what and how, as far as the file knows."""

        def words(*paths: str) -> str:
            return self.first_text(paths)

        return {
            "expected_projections": self.integer(NUM_ANGLES),
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
        }

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
            binning = self.integer([f"{detector}/binning_x"]) or 1
            value = camera.value * binning / magnification.value
            return Quantity(value=value, unit="m", origin=f"{camera.origin} / {magnification.origin}")
        if self.source.group(_OBJECTIVE) is None:
            self.notes.append(
                f"the file names no objective: {camera.origin} is taken as the size at the sample"
            )
            return camera
        self.notes.append(f"{camera.origin} is the camera's, and the magnification is unknown")
        return None


def find_dataexchange(source: Source, entry: str = "") -> DataExchange | None:
    """The group `/exchange`, or the named one, if it holds frames or is about to; None otherwise."""
    path = "/" + entry.strip("/") if entry else "/exchange"
    group = source.group(path)
    if group is None or (entry and not {"data", "data_white", "theta"} & set(group)):
        return None
    return DataExchange(source, path)
