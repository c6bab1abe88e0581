"""HDF5 files of beamlines that follow no standard: LNLS IMX, and ALS 8.3.2 before it wrote DataExchange.

The layouts are those that dxchange reads (`read_lnls_imx`, `read_als_832h5`, https://github.com/data-exchange/dxchange).
"""

import glob
import os
import re
from typing import ClassVar

import h5py
import numpy as np

from srctd.core.completion import EndMark
from srctd.core.errors import ScanUnreadable
from srctd.formats.frametable import (
    DARK,
    FLAT,
    Columns,
    Stack,
    Table,
    assembled,
    projections,
    references,
)
from srctd.formats.hdf5 import Source, as_text, length, numbers
from srctd.formats.hdf5pieces import Announced
from srctd.formats.hdf5scan import Hdf5Scan
from srctd.formats.nxtomo import ANGLE_NAME, links
from srctd.formats.protocol import ReadOptions

_REFERENCE_FILE = re.compile(r"(?P<scan>.+)_(?P<kind>flat|dark)_(before|after)\.(h5|hdf5?)")
_KINDS = {"flat": FLAT, "dark": DARK}


class Lnls(Hdf5Scan):
    """`tomo.h5` with `images`; `tomo_flat_before.h5` with `flats` and `tomo_dark_before.h5` with `darks` beside it.

    Files `_after` are read as well. The file need not know the angles: then the scan is refused, or waits for them.
    """

    format: ClassVar[str] = "hdf5"

    def __init__(self, source: Source, entry: str, options: ReadOptions) -> None:
        super().__init__(source, entry, options)
        self.data = self.find("data set of frames", ["/images"])
        self.angle = self._angle()
        self._sources: list[Source] = []
        self._references = [(kind, stack) for kind in _KINDS for stack in self._beside(kind)]

    def _angle(self) -> h5py.Dataset | None:
        """A list named like an angle."""
        named = sorted(path for path, name in links(self.source.root) if ANGLE_NAME.search(name))
        for path in named:
            dataset = self.optional(path)
            if dataset is not None and dataset.ndim == 1 and dataset.dtype.kind in "uif":
                return self.find("rotation angle", [path])
        return self.find("rotation angle", ["/angles"])

    def _beside(self, kind: str) -> list[Stack]:
        """Data sets of flats or darks in the files beside this one, those from before the scan first."""
        stem, ending = os.path.splitext(self.source.path)
        found = []
        for path in _beside(stem, kind, ending):
            try:
                source = self.source.beside(path)
            except ScanUnreadable as exc:
                self.missing.append(exc)
                continue
            self._sources.append(source)
            self.references[path] = None
            dataset = source.dataset(f"/{kind}s")
            if dataset is None:
                self.missing.append(
                    ScanUnreadable(f"{path} has no data set /{kind}s", hint="it may still be written")
                )
            else:
                self.places[dataset] = f"/{kind}s"
                found.append(Stack(dataset, path, f"/{kind}s"))
        if kind == "flat" and not found:
            wanted = f"{stem}_flat_before{ending}"
            self.references[wanted] = None
            self.missing.append(ScanUnreadable(f"{self.source.path} has no flat fields beside it ({wanted})"))
        return found

    def datasets(self) -> list[h5py.Dataset]:
        """The images, and those of the files beside them."""
        return [] if self.data is None else [self.data, *(stack.data for _, stack in self._references)]

    @property
    def lists(self) -> dict[str, h5py.Dataset]:
        """Angles: there is one for every projection."""
        return {} if self.angle is None or self.data is None else {"rotation angles": self.angle}

    def rows(self) -> Table:
        """Images, flats, darks."""
        if self.data is None:
            return assembled([])
        count = np.arange(length(self.data))
        parts = [(self.stack(self.data), projections(numbers(self.angle), count))]
        parts += [(stack, references(_KINDS[kind], length(stack.data))) for kind, stack in self._references]
        return assembled(parts)

    def announced(self) -> None:
        """The file announces nothing."""

    def end_marks(self) -> list[EndMark]:
        """The file marks no end."""
        return []

    def facts(self) -> dict[str, object]:
        """The file says nothing of the measurement."""
        return {}

    def close(self) -> None:
        """Close every file."""
        super().close()
        for source in self._sources:
            source.close()


class Als832(Hdf5Scan):
    """A group whose attributes describe the scan, with one data set per image.

    `<group>_0000_<k>.tif` are projections, `<group>bak_<j>_<k>.tif` flats, `<group>drk_<j>_<k>.tif` darks, where k
    is the projection before which they were taken. Attributes: `nangles`, `arange` (degrees), `num_bright_field`,
    `num_dark_fields`. The last projection is taken at `arange` itself.
    """

    format: ClassVar[str] = "hdf5"

    def __init__(self, source: Source, entry: str, options: ReadOptions) -> None:
        super().__init__(source, entry, options)
        self.group = source.group(entry)
        names = [] if self.group is None else list(self.group)
        stem = re.escape(entry.rsplit("/", 1)[-1])
        pattern = re.compile(rf"{stem}(?P<kind>bak|drk|)_(?P<outer>\d+)_(?P<inner>\d+)\.tif")
        found = [(match, name) for name in names if (match := pattern.fullmatch(name))]
        self._images = [
            (int(match["inner"]), int(match["outer"]), match["kind"], dataset)
            for match, name in found
            if (dataset := self.find("image", [f"{entry}/{name}"])) is not None
        ]
        self._images.sort(key=lambda image: image[:2])
        if not any(kind == "" for *_, kind, _ in self._images):
            self.missing.append(ScanUnreadable(f"{source.path} has no projections in {entry}"))
        if self._step is None:
            self.missing.append(
                ScanUnreadable(
                    f"{source.path} has no rotation angle ({entry}: attributes arange and nangles)",
                    hint="write them; they are never assumed",
                )
            )

    @property
    def _step(self) -> float | None:
        """Degrees from projection to projection."""
        angle_range, projections = self._attribute("arange"), self._attribute("nangles")
        if angle_range is None or projections is None or projections < 2:
            return None
        return angle_range / (projections - 1)

    def _attribute(self, name: str) -> float | None:
        """A number, also where it was written as text."""
        if self.group is None or name not in self.group.attrs:
            return None
        value = self.group.attrs[name]
        try:
            return float(as_text(value) or np.asarray(value).item())
        except (ValueError, TypeError):
            return None

    def _word(self, name: str) -> str:
        return "" if self.group is None else as_text(self.group.attrs.get(name, ""))

    def datasets(self) -> list[h5py.Dataset]:
        """Every image, projections first."""
        return [image[3] for image in sorted(self._images, key=lambda image: image[2])]

    @property
    def lists(self) -> dict[str, h5py.Dataset]:
        """There is no list: angles are counted."""
        return {}

    def rows(self) -> Table:
        """One stack per image."""
        return assembled(
            [(self.stack(data), self._columns(kind, inner)) for inner, _, kind, data in self._images]
        )

    def _columns(self, kind: str, inner: int) -> Columns:
        if kind:
            return references({"bak": FLAT, "drk": DARK}[kind], 1)
        step = self._step
        angle = np.array([np.nan if step is None else inner * step])
        return projections(angle, np.array([inner]))

    @property
    def angle_place(self) -> str:
        """The attributes by which angles are counted."""
        return f"{self.entry}: arange"

    def announced(self) -> Announced | None:
        """`nangles`."""
        count = self._attribute("nangles")
        return None if count is None or count < 0 else Announced(round(count), f"{self.entry}: nangles")

    def end_marks(self) -> list[EndMark]:
        """The file marks no end."""
        return []

    def facts(self) -> dict[str, object]:
        """What the attributes say whose unit the layout does not leave open."""
        self.notes.append(
            f"angles are counted, arange / (nangles - 1) degrees apart, as {self.entry} says; "
            "the sense of the rotation is not recorded"
        )
        return {
            "sample": self._word("sample_name") or self._word("dataset"),
            "experimenter": self._word("experimenter"),
            "start_time": self._word("sdate") or self._word("date") or None,
        }


def find_layout(source: Source, entry: str, options: ReadOptions) -> list[Hdf5Scan]:
    """A scan in one of these layouts; none where there is none."""
    if not entry and _is_lnls(source):
        return [Lnls(source, "/", options)]
    groups = ["/" + entry.strip("/")] if entry else [f"/{name}" for name in source.root]
    found: list[Hdf5Scan] = [Als832(source, path, options) for path in groups if _is_als(source, path)]
    return found[:1]


def reference_of(source: Source) -> str:
    """What a file of an LNLS scan is, where it holds nothing but flats or darks; else empty."""
    match = _REFERENCE_FILE.fullmatch(os.path.basename(source.path))
    if match is None or source.root.get(f"{match['kind']}s", getlink=True) is None:
        return ""
    return f"{source.path} holds only {match['kind']} fields, those of the scan {match['scan']} beside it"


def _is_lnls(source: Source) -> bool:
    """Frames named `images`, in a file that is named as there, or has flat or dark fields beside it."""
    images = source.dataset("/images")
    if images is None or images.ndim != 3:
        return False
    stem, ending = os.path.splitext(source.path)
    return os.path.basename(stem) == "tomo" or bool(_beside(stem, "*", ending))


def _beside(stem: str, kind: str, ending: str) -> list[str]:
    """Files of flats or darks of a scan, those from before it first."""
    found = glob.glob(f"{glob.escape(stem)}_{kind}_*{glob.escape(ending)}")
    known = (path for path in found if _REFERENCE_FILE.fullmatch(os.path.basename(path)))
    return sorted(known, key=lambda path: ("_after" in os.path.basename(path), path))


def _is_als(source: Source, path: str) -> bool:
    if source.root.get(path, getlink=True, getclass=True) is not h5py.HardLink:
        return False
    group = source.group(path)
    return group is not None and "nangles" in group.attrs
