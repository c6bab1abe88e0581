"""NXtomo: one data set holds all frames, and an image key says what each of them is.

https://manual.nexusformat.org/classes/applications/NXtomo.html; with the places where ESRF (nxtomo) and Diamond
(GDA) put things. A file with frames, image keys and angles but no NXtomo entry is found by search: `nexus`.
"""

import posixpath
import re
from typing import ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray

from srctd.core.completion import EndMark
from srctd.core.errors import ScanUnreadable
from srctd.core.scan import Quantity
from srctd.formats.frametable import DARK, PROJECTION, UNKNOWN, UNUSED, Columns, Table, assembled, padded
from srctd.formats.hdf5 import ExternalMissing, Source, as_text, length, numbers, readable_whole, text
from srctd.formats.hdf5pieces import Announced
from srctd.formats.hdf5scan import Hdf5Scan
from srctd.formats.protocol import ReadOptions
from srctd.formats.units import ENERGY, LENGTH, TIME

INVALID = 3

DATA = ("instrument/detector/data", "data/data")
IMAGE_KEY = (
    "instrument/detector/image_key_control",
    "instrument/detector/image_key",
    "data/image_key",
    "../instrument/image_key/image_key",
)
ANGLE = ("sample/rotation_angle", "data/rotation_angle")
PIXEL_SIZE = (
    "sample/x_pixel_size",
    "instrument/detector/x_magnified_pixel_size",
    "instrument/detector/x_pixel_size",
)
PHOTON_ENERGY = (
    "beam/incident_energy",
    "instrument/beam/incident_energy",
    "sample/beam/incident_energy",
    "instrument/monochromator/energy",
    "../instrument/monochromator/energy",
)
"""Never `instrument/source/energy`: that is the energy of the storage ring."""
DISTANCE = ("sample/propagation_distance", "instrument/detector/distance")
EXPOSURE = ("instrument/detector/count_time", "../instrument/detector/count_time")
TOMO_N = ("instrument/detector/tomo_n",)
END = ("end_time", "../end_time", "diamond_scan/end_time")
FINISHED = ("diamond_scan/scan_finished", "../diamond_scan/scan_finished")
END_REASON = ("end_reason", "../end_reason")
SCAN_RANGE = ("instrument/detector/scan_range", "scan_range", "technique/scan/scan_range")
FIELD_OF_VIEW = ("instrument/detector/field_of_view", "instrument/detector/FOV")

ANGLE_NAME = re.compile(r"theta|rotation|(^|_)(angle|rot|omega)(_|$)", re.IGNORECASE)
_BROKEN_OFF = re.compile(r"abort|cancel|fail|kill", re.IGNORECASE)
_MOST_GROUPS = 2000


class NxTomo(Hdf5Scan):
    """A scan in an NXtomo entry."""

    format: ClassVar[str] = "nxtomo"

    def __init__(self, source: Source, entry: str, options: ReadOptions) -> None:
        super().__init__(source, entry, options)
        self.data = self.find("data set of frames", self.paths(DATA))
        self.image_key = self.find("image key", self.paths(IMAGE_KEY))
        self.angle = self.find("rotation angle", self.paths(ANGLE))

    def paths(self, relative: tuple[str, ...]) -> list[str]:
        """Absolute paths; `../` leads to the enclosing entry, where there is one."""
        absolute = (posixpath.normpath(posixpath.join(self.entry, path)) for path in relative)
        return [path for path in absolute if posixpath.dirname(path) != "/"]

    def datasets(self) -> list[h5py.Dataset]:
        """The one data set of frames, if it is there."""
        return [] if self.data is None else [self.data]

    @property
    def lists(self) -> dict[str, h5py.Dataset]:
        """Image keys and angles: there is one for every frame, flats and darks included."""
        both = {"image keys": self.image_key, "rotation angles": self.angle}
        return {name: values for name, values in both.items() if values is not None}

    def rows(self) -> Table:
        """The frames sorted by their image key, which may come in any order; unknown are those without a key."""
        if self.data is None:
            return assembled([])
        frames = length(self.data)
        keys = self._keys()
        unused = int(np.count_nonzero((keys < PROJECTION) | (keys > DARK)))
        if unused:
            self.notes.append(
                f"{unused} frames are marked as invalid or as alignment images and are not used"
            )
        kinds = np.full(frames, UNKNOWN, np.int64)
        known = np.where((keys < PROJECTION) | (keys > DARK), UNUSED, keys)[:frames]
        kinds[: len(known)] = known
        columns = Columns(
            kind=kinds,
            angle=padded(numbers(self.angle), frames),
            number=np.arange(frames),
            projection=np.where(kinds == PROJECTION, np.cumsum(kinds == PROJECTION) - 1, -1),
        )
        return assembled([(self.stack(self.data), columns)])

    def _keys(self) -> NDArray[np.int64]:
        """Image key of every frame, as a whole number: GDA writes floats."""
        return np.nan_to_num(numbers(self.image_key), nan=INVALID).astype(np.int64)

    def announced(self) -> Announced | None:
        """ESRF's `tomo_n` counts the projections to come."""
        return self.integer(self.paths(TOMO_N))

    def end_marks(self) -> list[EndMark]:
        """`end_time` of the entry or of the one around it; GDA's `scan_finished`."""
        finished = self.integer(self.paths(FINISHED))
        if finished is not None and finished.frames == 0:
            return []
        ends = ((path, self.text_at(path)) for path in self.paths(END))
        said = [f"{path} = {word}" for path, word in ends if word][:1]
        if finished is not None:
            said.append(f"{finished.origin} = {finished.frames}")
        return [EndMark(kind="metadata", text=text) for text in said]

    def aborted(self) -> str:
        """BLISS's `end_reason` or GDA's status, where it is a word that says so."""
        for path in self.paths((*END_REASON, *FINISHED)):
            word = self.text_at(path)
            if _BROKEN_OFF.search(word):
                return f"{path} = {word}"
        return ""

    def period(self) -> float | None:
        """BLISS's `scan_range`: degrees of one tomogram of a series."""
        value = self.number(self.paths(SCAN_RANGE))
        return value if value in (180.0, 360.0) else None

    def half_view(self) -> bool:
        """By the field of view."""
        return self.first_text(self.paths(FIELD_OF_VIEW)).lower() == "half"

    def facts(self) -> dict[str, object]:
        """Who, what and how, as far as the file knows."""

        def words(*relative: str) -> str:
            return self.first_text(self.paths(relative))

        user = self._user()
        if self.half_view():
            self.notes.append(
                "the field of view is half the sample's: the axis lies near the edge of the detector"
            )
        return {
            "title": words("title", "../title"),
            "sample": words("sample/name", "../sample/name"),
            "instrument": words("instrument/name", "../instrument/name"),
            "proposal": words("experiment_identifier", "../experiment_identifier"),
            "experimenter": self.first_text([f"{user}/name", f"{user}/username"]) if user else "",
            "email": self.first_text([f"{user}/email"]) if user else "",
            "start_time": words("start_time", "../start_time") or None,
            "end_time": words(*END) or None,
            "pixel_size": self.quantity("pixel size", self.paths(PIXEL_SIZE), LENGTH),
            "energy": self.quantity("energy", self.paths(PHOTON_ENERGY), ENERGY),
            "distance": self.quantity("distance", self.paths(DISTANCE), LENGTH),
            "exposure_time": self.quantity("exposure time", self.paths(EXPOSURE), TIME, "s"),
            "positions": self._positions(),
        }

    def _positions(self) -> dict[str, Quantity]:
        """Translations of the sample, by the file's own names of the axes, where they stay the same all through."""
        found = {}
        for axis in ("x", "y", "z"):
            (path,) = self.paths((f"sample/{axis}_translation",))
            node = self.optional(path)
            if node is None or node.dtype.kind not in "uif" or node.size == 0 or not readable_whole(node):
                continue
            values = np.asarray(node[()], np.float64).ravel()
            of_projections = (
                values[self._keys() == PROJECTION] if len(values) == len(self._keys()) else values
            )
            if _varies(of_projections):
                continue
            position = self.quantity(f"position {axis}", [path], LENGTH, signed=True)
            if position is not None:
                found[axis] = position
        return found

    def _user(self) -> str:
        """Path of the first NXuser group in the entry or the one around it."""
        for path in (self.entry, posixpath.dirname(self.entry)):
            for name, group in _subgroups(self.source.group(path)):
                if as_text(group.attrs.get("NX_class", "")) == "NXuser" or name.startswith("user"):
                    return f"{path.rstrip('/')}/{name}"
        return ""


class Nexus(NxTomo):
    """A scan without an NXtomo entry: a detector group with an image key was found by search."""

    format: ClassVar[str] = "nexus"

    def __init__(self, source: Source, entry: str, detector: str, options: ReadOptions) -> None:
        Hdf5Scan.__init__(self, source, entry, options)
        self.detector = detector
        self.data = self.find("data set of frames", [f"{detector}/data"])
        self.image_key = self.find("image key", [f"{detector}/image_key"])
        self.angle = self._search_angle()
        if self.angle is not None:
            self.notes.append(
                f"no NXtomo entry: frames at {detector}/data and "
                f"angles at {self.places[self.angle]} were found by search"
            )

    def paths(self, relative: tuple[str, ...]) -> list[str]:
        """As in an NXtomo entry, with the detector that was found."""
        camera = posixpath.relpath(self.detector, self.entry)
        return super().paths(tuple(path.replace("instrument/detector", camera) for path in relative))

    def _search_angle(self) -> h5py.Dataset | None:
        """A list of as many numbers as there are image keys, whose name or group speaks of an angle.

        What is named like the detector comes first: it was recorded with it.
        """
        wanted = None if self.image_key is None else self.image_key.shape
        camera = posixpath.basename(self.detector)
        candidates = [
            path
            for path, _ in links(self.source.group(self.entry))
            if any(ANGLE_NAME.search(part) for part in path.split("/")[-2:])
        ]
        for path in sorted(candidates, key=lambda path: (camera not in path.split("/"), path)):
            dataset = self.optional(path)
            if dataset is not None and dataset.shape == wanted and dataset.dtype.kind == "f":
                return self.find("rotation angle", [path])
        self.missing.append(
            ScanUnreadable(
                f"{self.source.path} has no rotation angle: nothing named theta, rotation or angle in {self.entry} "
                "is as long as the image key",
                hint="it may still be written; it is never assumed",
            )
        )
        return None


def find_nxtomo(source: Source, entry: str, options: ReadOptions) -> list[Hdf5Scan]:
    """All NXtomo entries, or the named one; none where there is none."""
    entries = _nxtomo_entries(source)
    if entry:
        path = "/" + entry.strip("/")
        entries = [path] if path in entries else []
    return [NxTomo(source, path, options) for path in entries]


def find_nexus(source: Source, entry: str, options: ReadOptions) -> list[Hdf5Scan]:
    """A group that holds an image key beside frames, anywhere in the file or below `entry`."""
    top = source.group("/" + entry.strip("/"))
    detectors = [posixpath.dirname(path) for path, name in links(top) if name == "image_key"]
    detectors = [path for path in detectors if _has_frames(source, path)] or detectors
    return [Nexus(source, "/" + path.split("/")[1], path, options) for path in detectors[:1]]


def unfinished_entry(source: Source) -> str:
    """Path of an NXentry that was begun and not ended; empty if there is none."""
    for name, group in _subgroups(source.root):
        if as_text(group.attrs.get("NX_class", "")) == "NXentry":
            started = text(source.dataset(f"/{name}/start_time"))
            if started and not text(source.dataset(f"/{name}/end_time")):
                return f"/{name}"
    return ""


def _nxtomo_entries(source: Source) -> list[str]:
    """Paths of the groups, at most two deep, whose `definition` is NXtomo."""
    found: list[str] = []
    lost: ExternalMissing | None = None
    for name in source.root:
        try:
            group = source.group(f"/{name}")
        except ExternalMissing as exc:
            lost = lost or exc
            continue
        inner = (f"/{name}/{child}" for child, _ in _subgroups(group))
        found.extend(path for path in (f"/{name}", *inner) if _is_nxtomo(source, path))
    if lost is not None and not found:
        raise lost
    return found


def _is_nxtomo(source: Source, path: str) -> bool:
    try:
        return text(source.get(f"{path}/definition")).lower() == "nxtomo"
    except ExternalMissing:
        return False


def _has_frames(source: Source, detector: str) -> bool:
    try:
        dataset = source.dataset(f"{detector}/data")
    except ExternalMissing:
        return False
    return dataset is not None and dataset.ndim == 3


def _subgroups(group: h5py.Group | None) -> list[tuple[str, h5py.Group]]:
    """(name, group) of the groups right below; links to elsewhere are not followed."""
    if group is None:
        return []
    hard = (name for name in group if group.get(name, getclass=True, getlink=True) is h5py.HardLink)
    return [(name, group[name]) for name in hard if group.get(name, getclass=True) is h5py.Group]


def links(top: h5py.Group | None) -> list[tuple[str, str]]:
    """(path, name) of every link below a group; links to elsewhere are named and not followed."""
    found: list[tuple[str, str]] = []
    waiting = [] if top is None else [top]
    for group in waiting:  # grows as it goes
        if len(waiting) > _MOST_GROUPS:
            break
        found.extend((posixpath.join(group.name, name), name) for name in group)
        waiting.extend(child for _, child in _subgroups(group))
    return found


def _varies(values: NDArray[np.float64]) -> bool:
    """Whether a position changes within a scan, by more than a motor's readback does."""
    values = values[np.isfinite(values)]
    return len(values) > 0 and float(np.ptp(values)) > 1e-3 * max(float(np.abs(values).max()), 1e-9)
