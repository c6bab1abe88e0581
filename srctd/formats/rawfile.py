"""One file of pixels and nothing else as a scan; a parameter file beside it says what they are.

Whatever is needed to find a frame in the file must be said there: shape, type and byte order of the pixels, and how
many frames of each kind there are. All frames have the same size and follow each other in the order of acquisition,
so a frame that was not written is a hole of zeros, or is beyond the end of the file.
"""

import os
import posixpath
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from srctd.core.errors import ScanUnreadable
from srctd.core.frames import Segment
from srctd.core.grouping import printable
from srctd.core.layouts import FRAME_SUFFIXES, HEADER_SUFFIXES
from srctd.core.roles import Choice, Layout, Named, counter_runs, places
from srctd.core.scan import ScanHeader
from srctd.core.tags import Tagged, TagValue
from srctd.formats.files import regular
from srctd.formats.hdf5 import translated
from srctd.formats.planes import LARGEST_SIDE, MOST_FRAMES, Plane
from srctd.formats.protocol import ReadOptions
from srctd.formats.stack import StackScan, Taken
from srctd.formats.stackfiles import Listing, StackFile
from srctd.formats.stackframes import Frame, camera_counters
from srctd.formats.stackroles import Seen, Survey, examined
from srctd.formats.tags import read_all

RAW_SUFFIX = ".raw"
LAYOUT = Layout(name="raw", description="one file of pixels, explained by a parameter file", names=())
TYPES = {
    "uint8": "u1",
    "uint16": "u2",
    "int16": "i2",
    "uint32": "u4",
    "int32": "i4",
    "float32": "f4",
    "float64": "f8",
}
BITS = {8: "u1", 16: "u2"}
"""Types of detectors that are named by their bits alone; 12 bits may be packed, 32 bits may be floats."""
FORM = ("n_rows", "n_columns", "dtype", "bits", "byte_order", "header_bytes")
"""Canonical names of what tells where the frames lie."""
ORDERS = {"little": "<", "little-endian": "<", "big": ">", "big-endian": ">"}


class RawForm(NamedTuple):
    """Where the frames of a raw file lie."""

    rows: int
    columns: int
    dtype: str
    """numpy's name, with byte order."""
    header_bytes: int
    header_told: bool
    """Whether the parameter file says how long the header is; else it is none, which the size must prove."""

    @property
    def frame_bytes(self) -> int:
        """From the begin of one frame to that of the next."""
        return self.rows * self.columns * np.dtype(self.dtype).itemsize

    def frames_in(self, size: int) -> int:
        """Whole frames in so many bytes of file."""
        return max(0, size - self.header_bytes) // self.frame_bytes

    def planes(self, frames: int) -> tuple[Plane, ...]:
        """The first frames."""
        step = self.frame_bytes
        begins = range(self.header_bytes, self.header_bytes + frames * step, step)
        return tuple(Plane(self.rows, self.columns, self.dtype, begin, begin + step) for begin in begins)


def raw_form(where: str, values: Mapping[str, TagValue]) -> RawForm:
    """Where frames lie by canonical tags; raises `ScanUnreadable` for the first thing that is not said.

    `where`: the raw file, for the sentence.
    """
    rows, columns = _side(where, values, "n_rows"), _side(where, values, "n_columns")
    kind = _pixel_type(where, values)
    told = values.get("header_bytes")
    header = int(told.value) if told is not None and isinstance(told.value, int | float) else 0
    return RawForm(rows, columns, _byte_order(where, values, kind) + kind, header, told is not None)


def _side(where: str, values: Mapping[str, TagValue], name: str) -> int:
    found = values.get(name)
    if found is None:
        raise _unsaid(where, name)
    if not isinstance(found.value, int) or not 0 < found.value <= LARGEST_SIDE:
        raise ScanUnreadable(f"{where}: {found.origin} = {found.value} is no number of detector {name[2:]}")
    return found.value


def _pixel_type(where: str, values: Mapping[str, TagValue]) -> str:
    named, bits = values.get("dtype"), values.get("bits")
    if named is None and bits is None:
        raise _unsaid(where, "dtype")
    if named is None:
        assert bits is not None
        kind = BITS.get(int(bits.value)) if isinstance(bits.value, int) else None
        if kind is None:
            raise ScanUnreadable(
                f"{where}: {bits.origin} = {bits.value} does not tell the type of a pixel", hint="give dtype"
            )
        return kind
    kind = TYPES.get(str(named.value).strip().lower())
    if kind is None:
        raise ScanUnreadable(
            f"{where}: {named.origin} = {named.value!r} is no type of pixel",
            hint=f"known: {', '.join(TYPES)}",
        )
    if bits is not None and bits.value != 8 * int(kind[1]):
        raise ScanUnreadable(
            f"{where}: {named.origin} = {named.value!r} and {bits.origin} = {bits.value} contradict each other"
        )
    return kind


def _byte_order(where: str, values: Mapping[str, TagValue], kind: str) -> str:
    if kind[1] == "1":
        return "|"
    found = values.get("byte_order")
    if found is None:
        raise _unsaid(where, "byte_order")
    order = ORDERS.get(str(found.value).strip().lower())
    if order is None:
        raise ScanUnreadable(
            f"{where}: {found.origin} = {found.value!r} is no byte order", hint="write little or big"
        )
    return order


def _unsaid(where: str, name: str) -> ScanUnreadable:
    return ScanUnreadable(
        f"{where}: no parameter file beside it says {name}", hint=f"give {name}; it is never assumed"
    )


def find_raw(path: str, options: ReadOptions) -> "RawScan | None":
    """The raw file at a path: its own, its parameter file's, or that of a folder with one and no other frames.

    None if there is none. Folders of many images are left at the first one of them.
    """
    with translated(path):
        raw = _raw_at(os.path.abspath(path))
        if raw is None:
            return None
        listing = _listing(raw)
        return RawScan(listing, read_all(listing.folder, listing.headers, options), options)


def _raw_at(path: str) -> str | None:
    if os.path.isdir(path):
        return _only_raw(path)
    stem, suffix = posixpath.splitext(path)
    if suffix.lower() == RAW_SUFFIX:
        return path if regular(path) else None
    if suffix.lower() not in HEADER_SUFFIXES:
        return None
    own = stem + RAW_SUFFIX
    return own if regular(own) else _only_raw(os.path.dirname(path))


def _only_raw(folder: str) -> str | None:
    found: str | None = None
    with os.scandir(folder) as entries:
        for entry in entries:
            suffix = posixpath.splitext(entry.name)[1].lower()
            if suffix not in FRAME_SUFFIXES or entry.name.startswith(".") or not printable(entry.name):
                continue
            if suffix != RAW_SUFFIX or found is not None or not regular(entry.path):
                return None
            found = entry.path
    return found


def _listing(raw: str) -> Listing:
    """The raw file and the files beside it; where there are several raw files, those that bear its name."""
    folder, name = os.path.split(raw)
    stem = posixpath.splitext(name)[0]
    alone = _only_raw(folder) == raw
    with os.scandir(folder) as entries:
        others = sorted(
            StackFile(entry.name, found.st_size)
            for entry in entries
            if (found := regular(entry.path))
            and not entry.name.startswith(".")
            and printable(entry.name)
            and posixpath.splitext(entry.name)[1].lower() not in FRAME_SUFFIXES
            and (alone or entry.name.split(".", 1)[0] == stem)
        )
    return Listing(folder, stem, (StackFile(name, os.stat(raw).st_size),), tuple(others))


class RawScan(StackScan):
    """A `FoundScan` of one raw file: a stack whose frames all lie in one file, which has no header of its own."""

    def __init__(self, listing: Listing, tagged: tuple[Tagged, ...], options: ReadOptions) -> None:
        super().__init__(listing, tagged, options)
        self._file = listing.frames[0]
        self._path = os.path.join(listing.folder, self._file.name)
        self._found: dict[bool, Survey] = {}

    def form(self) -> RawForm:
        """Where the frames lie; raises `ScanUnreadable` where that is not said."""
        told = self.value("n_projections")
        if told is not None and "n_projections" not in self.counts:
            raise ScanUnreadable(f"{self._path}: {told.origin} = {told.value}, which no detector takes")
        if not self.counts.get("n_projections"):
            raise _unsaid(self._path, "n_projections")
        return raw_form(self._path, {name: value for name in FORM if (value := self.value(name)) is not None})

    def survey(self, *, thorough: bool = False) -> Survey:
        """The frames, found once; `thorough`: all of them are looked at where a sample shows damage."""
        if thorough not in self._found:
            with translated(self._path):
                self._found[thorough] = self._survey(self.form(), thorough)
        return self._found[thorough]

    def _survey(self, form: RawForm, thorough: bool) -> Survey:
        runs = counter_runs(LAYOUT.order, self.counts)
        announced = sum(run.frames for run in runs)
        if announced > MOST_FRAMES:
            raise ScanUnreadable(f"{self._path}: {announced:,} frames are announced, which no detector takes")
        whole = min(form.frames_in(self._file.size), announced)
        pages = form.planes(whole)
        found = Survey(choice=Choice(LAYOUT, f"{self._file.name} is the only file of frames"))
        for page, (kind, number) in enumerate(places(runs)[:whole]):
            found.frames[kind].append(Seen(number, self._file.name, pages, page))
        self._check_size(form, announced, found)
        found.checks.append(f"{whole} frames of {form.frame_bytes:,} bytes in {self._file.name}")
        examined(self.listing, self.counts, found, thorough=thorough)
        self._check_counters(found, pages)
        return found

    def _check_size(self, form: RawForm, announced: int, found: Survey) -> None:
        end = form.header_bytes + announced * form.frame_bytes
        size = self._file.size
        if size > end:
            found.wrong.append(
                ScanUnreadable(
                    f"{self._path} has {size:,} bytes, {announced} announced frames end at byte {end:,}",
                    hint="the counts, the shape or header_bytes in the parameter file are wrong",
                )
            )
        elif size < end and not form.header_told:
            found.wrong.append(_unsaid(self._path, "header_bytes"))
        begun = (size - form.header_bytes) % form.frame_bytes if size > form.header_bytes else 0
        if size < end and begun:
            found.cut.append(f"{self._path} ends within frame {form.frames_in(size)}")

    def _check_counters(self, found: Survey, pages: tuple[Plane, ...]) -> None:
        """A frame that the camera lost and that left no hole shifts all that follow to wrong angles."""
        file = Named(self._file.name, "projections", 0, None, None)
        frames = [Frame(seen.number, 0, seen.page) for seen in found.frames["projections"]]
        every = self.counts.get("flats_every", 0)
        breaks = frozenset(range(every, len(frames), every) if every else ())
        counters = camera_counters(self.listing.folder, [file], [pages], frames, breaks)
        if counters.check:
            found.checks.append(counters.check)
        if counters.jumps:
            first = counters.jumps[0]
            found.wrong.append(
                ScanUnreadable(
                    f"{self._path}: the camera's counter jumps over {first.frames} frames after projection "
                    f"{first.after}, and the file has no place for them",
                    hint="their angles are wrong from there on",
                )
            )

    def _segments(self, frames: Sequence[Seen], dtype: "np.dtype[np.generic]") -> tuple[Segment, ...]:
        """Frames as runs of bytes."""
        del dtype  # one file has one type
        segments: list[Segment] = []
        following = -1
        for seen in frames:
            plane = seen.plane
            begin, size = plane.offset or 0, plane.end - (plane.offset or 0)
            if segments and seen.page == following:
                segments[-1] = msgspec.structs.replace(segments[-1], count=segments[-1].count + 1)
            else:
                segments.append(Segment(container="raw", file=self._path, offset=begin, stride=size))
            following = seen.page + 1
        return tuple(segments)

    def _header(self, survey: Survey, taken: Taken) -> ScanHeader:
        header = super()._header(survey, taken)
        notes = header.notes
        if self.value("header_bytes") is None:
            notes = (*notes, "no header_bytes is given: there are none, by the size of the file")
        return msgspec.structs.replace(header, format="raw", notes=notes)
