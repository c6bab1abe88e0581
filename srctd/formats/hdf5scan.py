"""What the HDF5 formats have in common: a scan as data sets of frames, its angles, and the checks on both.

A format is a subclass that finds the pieces. Finding never fails: a piece that is not there goes into `missing`,
because it may still come. `check` decides whether the scan can be reconstructed, and raises if not.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar, NamedTuple, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from srctd.core.completion import EndMark, Expectation, Probe
from srctd.core.errors import HoldError, ScanUnreadable
from srctd.core.frames import FrameIndex, Segment
from srctd.core.recipe import physics_notes
from srctd.core.scan import Quantity, ScanHeader
from srctd.formats.hdf5 import ExternalMissing, Source, frames_written, length, text, translated, unit
from srctd.formats.protocol import Kind
from srctd.formats.units import ANGLE, Dimension

LARGEST_SIDE = 100_000
"""Detector rows or columns; more is taken for a damaged header."""
MOST_FRAMES = 10_000_000

Indices = NDArray[np.int64]


class Frames(NamedTuple):
    """Frames of one kind: a data set and which of its frames."""

    dataset: h5py.Dataset
    indices: Indices


class Hdf5Scan(ABC):
    """A scan inside an open HDF5 file; a `ScanReader` once `check` has passed."""

    format: ClassVar[str]
    header: ScanHeader

    def __init__(self, source: Source, entry: str) -> None:
        self.source = source
        self.entry = entry
        self.missing: list[ScanUnreadable] = []
        self.notes: list[str] = []
        self.references: dict[str, None] = {}
        self.places: dict[h5py.Dataset, str] = {}
        self.angle: h5py.Dataset | None = None
        self._frames: dict[Kind, Frames] = {}
        self._angles: NDArray[np.float64] = np.empty(0)

    # --- what a format answers ---------------------------------------------------------------------------

    @property
    @abstractmethod
    def stacks(self) -> list[h5py.Dataset]:
        """The data sets of frames that are there; the one with the projections first."""

    @property
    @abstractmethod
    def lists(self) -> dict[str, h5py.Dataset]:
        """What has one value for every frame of the first of `stacks`, by the name of such values."""

    @abstractmethod
    def frames(self) -> dict[Kind, Frames]:
        """Which frames are projections, flats and darks."""

    @abstractmethod
    def announced(self) -> int | None:
        """All frames that the acquisition was set to take; None where the file does not say."""

    @abstractmethod
    def end_marker(self) -> str:
        """What in the file says that the acquisition ended; empty if nothing does."""

    @abstractmethod
    def facts(self) -> dict[str, object]:
        """Fields of the header that describe the measurement."""

    # --- finding -----------------------------------------------------------------------------------------

    def find(self, what: str, candidates: Iterable[str]) -> h5py.Dataset | None:
        """The first data set among some paths; if there is none, note in `missing` what was looked for."""
        paths = list(candidates)
        lost: ExternalMissing | None = None
        for path in paths:
            try:
                dataset = self.source.dataset(path)
                if dataset is not None:
                    self.references.update(dict.fromkeys(self.source.references(dataset)))
                    self.places[dataset] = path
                    return dataset
            except ExternalMissing as exc:
                lost = lost or exc
        if lost is not None:
            self.references[lost.target] = None
            self.missing.append(lost)
        else:
            self.missing.append(
                ScanUnreadable(
                    f"{self.source.path} has no {what} ({paths[0]})",
                    hint="it may still be written; it is never assumed",
                )
            )
        return None

    def first_text(self, candidates: Iterable[str]) -> str:
        """The first string among some paths that is not empty."""
        return next((word for word in map(self._text, candidates) if word), "")

    def quantity(
        self, name: str, candidates: Iterable[str], dimension: Dimension, default_unit: str = ""
    ) -> Quantity | None:
        """The first value among some paths that is a positive number with a known unit.

        A value that cannot be used is named in the notes. `default_unit` holds where the file gives none and the
        format's own definition says which one is meant; else a value without a unit is not used.
        """
        for path in candidates:
            node = self._optional(path)
            if node is None:
                continue
            value, given = _number(node), unit(node) or default_unit
            scale = dimension.factor(given)
            if value is None or not math.isfinite(value) or value <= 0:
                self.notes.append(f"{name} at {path} is not a positive number and is not used")
            elif scale is None:
                self.notes.append(f"{name} at {path} has {_unit_words(given)} and is not used")
            else:
                return Quantity(value=value * scale, unit=dimension.unit, origin=path)
        return None

    def integer(self, candidates: Iterable[str]) -> int | None:
        """The first non-negative whole number among some paths."""
        for path in candidates:
            node = self._optional(path)
            value = None if node is None else _number(node)
            if value is not None and math.isfinite(value) and value >= 0:
                return round(value)
        return None

    def _optional(self, path: str) -> h5py.Dataset | None:
        """A data set that need not be there: one behind a link that leads nowhere counts as absent."""
        try:
            return self.source.dataset(path)
        except HoldError:
            return None

    def _text(self, path: str) -> str:
        return text(self._optional(path))

    # --- looking -----------------------------------------------------------------------------------------

    def look(self) -> Probe:
        """What is there and what is missing; never raises for what the content may be.

        Reads metadata, and up to three frames where everything else looks complete. What waiting cannot heal (a wrong
        rank, angles that are not numbers) is no obstacle to completeness: `index` will name it.
        """
        found, expected = self.frames_found(), self.frames_expected()
        missing = [str(problem) for problem in self.missing] + self.shortfalls()
        if not missing and found >= (expected or 0):
            missing = self._blank_frames()
        announced = (
            [] if expected is None else [Expectation(kind="metadata", frames=expected, text=f"{expected}")]
        )
        mark = self.end_marker()
        return Probe(
            readable=True,
            frames_found=found,
            expectations=tuple(announced),
            end_marks=(EndMark(kind="metadata", text=mark),) if mark else (),
            missing=tuple(missing),
            references=tuple(self.references),
        )

    def _blank_frames(self) -> list[str]:
        """First, middle and last projection, those of them that hold nothing but the fill value.

        A data set that got its size and its storage in advance reads like that where nothing was written yet.
        """
        stack, indices = self.frames()["projections"]
        if stack.ndim != 3 or len(indices) == 0 or indices[-1] >= stack.shape[0]:
            return []
        picked = sorted({int(indices[i]) for i in (0, len(indices) // 2, -1)})
        blank = [i for i in picked if np.all(stack[i] == stack.fillvalue)]
        return [
            f"frame {i} of {self.places[stack]} in {self.source.path} holds nothing but {stack.fillvalue}"
            for i in blank
        ]

    # --- counting ----------------------------------------------------------------------------------------

    def frames_found(self) -> int:
        """Frames that have storage, of all kinds."""
        return sum(frames_written(stack) for stack in self.stacks)

    def frames_expected(self) -> int | None:
        """Frames to come in all: announced, or taken from the longest list until the end is marked."""
        lengths = [length(stack) for stack in self.stacks]
        counts = [sum(lengths), self.announced() or 0]
        if lengths and not self.end_marker():
            counts.extend(length(values) + sum(lengths[1:]) for values in self.lists.values())
        return max(counts) or None

    def shortfalls(self) -> list[str]:
        """Lists that are shorter than the frames, one sentence each; none once the end is marked."""
        if not self.stacks or self.end_marker():
            return []
        return [problem for name in self.lists if (problem := self._mismatch(name, only_short=True))]

    def _mismatch(self, name: str, only_short: bool = False) -> str:
        values, stack = self.lists[name], self.stacks[0]
        there, needed = length(values), length(stack)
        if there == needed or (only_short and there > needed):
            return ""
        return f"{self.source.path} has {there} {name} ({self.places[values]}) for {needed} frames"

    # --- checking ----------------------------------------------------------------------------------------

    def check(self) -> Self:
        """Make the scan ready for reading; raises `ScanUnreadable` for the first thing that is wrong."""
        with translated(self.source.path):
            if self.missing:
                raise self.missing[0]
            for stack in self.stacks:
                self._check_shape(stack)
            self._check_lists()
            self._frames = self.frames()
            self._check_kinds()
            self._angles = self._checked_angles()
            self.header = self._header()
        return self

    def _check_shape(self, stack: h5py.Dataset) -> None:
        where = f"{self.source.path}: {self.places[stack]}"
        if stack.ndim != 3:
            raise ScanUnreadable(
                f"{where} has {stack.ndim} dimensions, shape {stack.shape}; expected 3 (frames, rows, columns)"
            )
        if stack.dtype.kind not in "uif":
            raise ScanUnreadable(f"{where} holds values of type {stack.dtype}; expected numbers")
        frames, rows, columns = stack.shape
        if frames > MOST_FRAMES or max(rows, columns) > LARGEST_SIDE:
            raise ScanUnreadable(
                f"{where} claims to be {frames} frames of {rows} x {columns} pixels, which no detector writes"
            )
        if stack.shape[1:] != self.stacks[0].shape[1:] or 0 in stack.shape[1:]:
            raise ScanUnreadable(
                f"{where} has frames of {rows} x {columns} pixels, "
                f"the projections of {' x '.join(map(str, self.stacks[0].shape[1:]))}"
            )

    def _check_lists(self) -> None:
        for name, values in self.lists.items():
            if values.ndim != 1 or values.dtype.kind not in "uif":
                raise ScanUnreadable(
                    f"{self.source.path}: {self.places[values]} should be a list of {name}, but has the shape "
                    f"{values.shape} and the type {values.dtype}"
                )
            if problem := self._mismatch(name):
                raise ScanUnreadable(
                    problem, hint="the acquisition was cut short, or frames were dropped; nothing is assumed"
                )

    def _check_kinds(self) -> None:
        if len(self._frames["projections"].indices) == 0:
            raise ScanUnreadable(f"{self.source.path} holds no projections", hint="was the scan aborted?")
        if len(self._frames["flats"].indices) == 0:
            raise ScanUnreadable(
                f"{self.source.path} holds no flat fields, so the beam cannot be divided out",
                hint="acquire flat fields, or add those of another scan to the file",
            )

    def _checked_angles(self) -> NDArray[np.float64]:
        assert self.angle is not None  # `missing` would have said so
        where = f"{self.source.path}: {self.places[self.angle]}"
        indices = self._frames["projections"].indices
        values = np.asarray(self.angle[()], dtype=np.float64)[indices]
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            raise ScanUnreadable(
                f"{where} has {len(wrong)} of {len(values)} angles that are not numbers, "
                f"the first at index {indices[wrong[0]]} ({values[wrong[0]]})",
                hint="repair the angles in the file; they are never assumed",
            )
        if len(values) > 1 and np.ptp(values) == 0:
            raise ScanUnreadable(f"{where}: all {len(values)} angles are {values[0]:g}")
        return values * self._angle_factor(where, float(np.ptp(values)))

    def _angle_factor(self, where: str, span: float) -> float:
        """Radians per unit of the angles. Both formats define degrees where no unit is given."""
        assert self.angle is not None
        given = unit(self.angle)
        scale = ANGLE.factor(given)
        if scale is not None:
            return scale
        if given:
            raise ScanUnreadable(f"{where} has the unknown unit {given!r}", hint="write degrees or radians")
        if 3.0 <= span <= 6.5:
            raise ScanUnreadable(
                f"{where} spans {span:.4g} without a unit, which could be degrees or radians",
                hint="write the attribute `units`",
            )
        self.notes.append(f"{self.places[self.angle]} has no unit: degrees, as the format defines")
        return math.pi / 180

    def _header(self) -> ScanHeader:
        facts = self.facts()
        projections, flats, darks = (self._frames[kind] for kind in ("projections", "flats", "darks"))
        if len(darks.indices) == 0:
            self.notes.append("no dark fields: the dark signal is taken as zero")
        physics = ("pixel_size", "energy", "distance")
        self.notes += physics_notes([name for name in physics if facts.get(name) is None])
        _, rows, columns = projections.dataset.shape
        return ScanHeader(
            format=self.format,
            entry=self.entry,
            n_projections=len(projections.indices),
            n_flats=len(flats.indices),
            n_darks=len(darks.indices),
            n_rows=int(rows),
            n_columns=int(columns),
            dtype=projections.dataset.dtype.name,
            angle_first_deg=math.degrees(self._angles[0]),
            angle_last_deg=math.degrees(self._angles[-1]),
            references=tuple(self.references),
            notes=tuple(dict.fromkeys(self.notes)),
            **facts,  # type: ignore[arg-type]
        )

    # --- the index -----------------------------------------------------------------------------------------

    def index(self, *, incomplete: bool = False, member: int = 0) -> FrameIndex:
        """All frames, ready for reading; raises `ScanUnreadable` for the first thing that is wrong."""
        self.check()
        kinds = {kind: self._segments(frames) for kind, frames in self._frames.items()}
        dtype = self._frames["projections"].dataset.dtype
        return FrameIndex(header=self.header, dtype=dtype.str, angles=tuple(self._angles.tolist()), **kinds)

    def _segments(self, frames: Frames) -> tuple[Segment, ...]:
        place = self.places.get(frames.dataset, "")
        return tuple(
            Segment(container="hdf5", file=self.source.path, place=place, first=first, count=count)
            for first, count in _runs(frames.indices)
        )

    def close(self) -> None:
        """Close every file."""
        self.source.close()


def _runs(indices: Indices) -> list[tuple[int, int]]:
    """Runs (first, length) of neighbors in a list of frame numbers."""
    if len(indices) == 0:
        return []
    cuts = np.flatnonzero(np.diff(indices) != 1) + 1
    return [(int(run[0]), len(run)) for run in np.split(indices, cuts)]


def _number(node: h5py.Dataset) -> float | None:
    """A number, however it was written; of a list the median of those that are numbers."""
    if node.dtype.kind not in "uif":
        try:
            return float(text(node))
        except ValueError:
            return None
    values = np.asarray(node[()], dtype=np.float64).ravel()
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else None


def _unit_words(given: str) -> str:
    return f"the unknown unit {given!r}" if given else "no unit"
