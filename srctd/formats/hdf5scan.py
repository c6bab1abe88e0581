"""What the HDF5 formats have in common: finding the pieces of a scan, and making an index of its frames.

A format is a subclass that finds the pieces. Finding never fails: a piece that is not there goes into `missing`,
because it may still come. `look` says what is there; `index` decides whether it can be reconstructed, and raises if
not.
"""

import math
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import PurePath
from typing import ClassVar, NamedTuple

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from srctd.core.completion import EndMark, Probe
from srctd.core.errors import HoldError, ScanUnreadable
from srctd.core.frames import FrameIndex, Segment, count
from srctd.core.recipe import physics_notes
from srctd.core.scan import ScanHeader, Shortfall
from srctd.formats.chunks import Storage, stored, unsound
from srctd.formats.frametable import (
    DARK,
    FLAT,
    PROJECTION,
    UNKNOWN,
    Mask,
    Numbers,
    Runs,
    Table,
    holes,
    segments,
)
from srctd.formats.hdf5 import Source, length, translated, unit
from srctd.formats.hdf5look import look_at
from srctd.formats.hdf5pieces import Announced, Pieces
from srctd.formats.pixels import all_blank, counted, may_be_blank
from srctd.formats.protocol import ReadOptions
from srctd.formats.rotations import choose_member, rotations
from srctd.formats.units import ANGLE

AMBIGUOUS_SPAN = 3.0, 6.5
"""Radian: a span without a unit in between may be degrees or radians."""


class Taken(NamedTuple):
    """The frames of which an index is made: rows of the table, and the angles of the projections in radian."""

    projections: Numbers
    flats: Numbers
    darks: Numbers
    angles: NDArray[np.float64]


class Hdf5Scan(Pieces, ABC):
    """A scan inside an open HDF5 file: a `FoundScan`."""

    format: ClassVar[str]

    def __init__(self, source: Source, entry: str, options: ReadOptions) -> None:
        super().__init__(source)
        self.entry = entry
        self.options = options
        self.angle: h5py.Dataset | None = None
        self.lender: Hdf5Scan | None = None
        """Another entry of the file, whose flats and darks are used where this one has none."""

    # --- what a format answers ---------------------------------------------------------------------------

    @abstractmethod
    def rows(self) -> Table:
        """All frames of the data sets that are there."""

    @property
    @abstractmethod
    def lists(self) -> dict[str, h5py.Dataset]:
        """What has one value for every frame of the first stack, by the name of such values."""

    @abstractmethod
    def announced(self) -> Announced | None:
        """Projections that the acquisition was set to take; None where the file does not say."""

    @abstractmethod
    def end_marks(self) -> list[EndMark]:
        """What in the file says that the acquisition ended."""

    @abstractmethod
    def facts(self) -> dict[str, object]:
        """Fields of the header that describe the measurement."""

    def announced_references(self) -> list[Announced]:
        """Flats and darks to come, those that are there included."""
        kinds = self.table.kind
        others = int(np.count_nonzero((kinds != PROJECTION) & (kinds != UNKNOWN)))
        return [Announced(others, "flat, dark and unused frames that are there")] if others else []

    def aborted(self) -> str:
        """What in the file says that the acquisition was broken off; empty where the format has no such word."""
        return ""

    def period(self) -> float | None:
        """Degrees of one member of a dynamic scan, where the file says so."""
        return None

    def half_view(self) -> bool:
        """Whether a frame shows half of the sample, the axis near its edge, so that a whole turn is needed."""
        return False

    def healed(self) -> tuple[ScanUnreadable, ...]:
        """Of what is `missing`, that without which an incomplete scan can be taken all the same."""
        return ()

    # --- what is there -------------------------------------------------------------------------------------

    @cached_property
    def table(self) -> Table:
        """All frames; sound data sets only, so `unsound` is asked first."""
        return self.rows()

    @cached_property
    def stores(self) -> list[Storage]:
        """What the storage of each stack tells."""
        with translated(self.source.path):
            return [stored(self.source, stack.data) for stack in self.table.stacks]

    @property
    def written(self) -> Mask:
        """Frames that have storage."""
        there = np.zeros(len(self.table.kind), bool)
        for i, store in enumerate(self.stores):
            there[self.table.stack == i] = store.written
        return there

    @property
    def suspicious(self) -> Mask:
        """Frames that have storage and may still be blank."""
        return may_be_blank(self.table, self.stores)

    @abstractmethod
    def datasets(self) -> list[h5py.Dataset]:
        """The data sets of frames that are there; the one with the projections first."""

    def unsound(self) -> str:
        """What is wrong with the data sets themselves, in one sentence; empty if nothing is."""
        found = self.datasets()
        for dataset in found:
            where = f"{self.source.path}: {self.places[dataset]}"
            if problem := unsound(dataset):
                return f"{where} {problem}"
            if dataset.shape[1:] != found[0].shape[1:] or 0 in dataset.shape[1:]:
                rows, columns = dataset.shape[1:]
                return (
                    f"{where} has frames of {rows} x {columns} pixels, "
                    f"the projections of {' x '.join(map(str, found[0].shape[1:]))}"
                )
        return ""

    def mismatch(self, name: str) -> str:
        """How a list differs in length from the frames it belongs to; empty if it does not."""
        values, stack = self.lists[name], self.datasets()[0]
        there, needed = length(values), length(stack)
        if there == needed:
            return ""
        return f"{self.source.path} has {there} {name} ({self.places[values]}) for {needed} frames"

    def look(self) -> Probe:
        """What is there and what is missing; never raises for what the content may be."""
        return look_at(self)

    # --- the index -----------------------------------------------------------------------------------------

    def index(self, *, incomplete: bool = False, member: int = 0) -> FrameIndex:
        """All frames, ready for reading; raises `ScanUnreadable` for the first thing that is wrong."""
        with translated(self.source.path):
            there, taken = self._ready(incomplete)
            shortfall = self._shortfall(there, taken) if incomplete else None
            parts = self.members(taken.angles)
            path = self.source.path
            own = choose_member(parts, member, len(taken.angles), path, PurePath(path).stem)
            chosen = taken._replace(projections=taken.projections[own.part], angles=taken.angles[own.part])
            header = msgspec.structs.replace(self._header(chosen), shortfall=shortfall)
            return self._index_of(own.labeled(header), chosen)

    def members_in(self, *, incomplete: bool = False) -> int:
        """Members of the scan; one that cannot be indexed counts as one."""
        try:
            with translated(self.source.path):
                return len(self.members(self._ready(incomplete)[1].angles))
        except HoldError:
            return 1

    def _ready(self, incomplete: bool) -> tuple[Mask, Taken]:
        """Which frames are there, and which of them are taken."""
        self.refuse_missing(incomplete)
        there = self.written
        if incomplete:
            there &= ~all_blank(self.table, there, self.suspicious)
        return there, self.taken(there, incomplete)

    def _index_of(self, header: ScanHeader, taken: Taken) -> FrameIndex:
        return FrameIndex(
            header=header,
            dtype=self._common_dtype().str,
            projections=segments(self.table, taken.projections),
            flats=segments(self.table, taken.flats) or self._lent(FLAT),
            darks=segments(self.table, taken.darks) or self._lent(DARK),
            angles=tuple(taken.angles.tolist()),
        )

    def _common_dtype(self) -> np.dtype[np.generic]:
        """What all frames fit into without loss: averaged flats may be floats where the projections are counts."""
        lent = self.lender.datasets() if self.lender is not None else []
        kinds = dict.fromkeys(dataset.dtype for dataset in (*self.datasets(), *lent))
        return next(iter(kinds)) if len(kinds) == 1 else np.result_type(*kinds)

    def refuse_missing(self, incomplete: bool) -> None:
        """Raise for what is not there at all, or cannot be read whoever waits for it."""
        healed = self.healed() if incomplete else ()
        for problem in self.missing:
            if problem not in healed:
                raise problem
        if problem_text := self.unsound():
            raise ScanUnreadable(problem_text)
        for name, values in self.lists.items():
            if values.ndim != 1 or values.dtype.kind not in "uif":
                raise ScanUnreadable(
                    f"{self.source.path}: {self.places[values]} should be a list of {name}, but has the shape "
                    f"{values.shape} and the type {values.dtype}"
                )

    def taken(self, there: Mask, incomplete: bool) -> Taken:
        """The frames of which an index is made; raises `ScanUnreadable` where they do not suffice."""
        if not incomplete:
            self._refuse_shortfalls(there)
        projections, flats, darks = (self.table.rows(kind, there) for kind in (PROJECTION, FLAT, DARK))
        if incomplete:
            projections = projections[np.isfinite(self.table.angle[projections])]
        if len(projections) == 0:
            raise ScanUnreadable(f"{self.source.path} holds no projections", hint="was the scan aborted?")
        if len(flats) == 0 and not self._lent(FLAT):
            raise ScanUnreadable(
                f"{self.source.path} holds no flat fields, so the beam cannot be divided out",
                hint="acquire flat fields, or add those of another scan to the file",
            )
        return Taken(projections, flats, darks, self.radians(projections))

    def _lent(self, kind: int) -> tuple[Segment, ...]:
        """Flats or darks of the entry that lends them, if they are of the same size."""
        lender = self.lender
        if lender is None or lender.unsound() or not lender.datasets():
            return ()
        if lender.datasets()[0].shape[1:] != self.datasets()[0].shape[1:]:
            return ()
        return segments(lender.table, lender.table.rows(kind, lender.written))

    def _refuse_shortfalls(self, there: Mask) -> None:
        for name in self.lists:
            if problem := self.mismatch(name):
                raise ScanUnreadable(
                    problem, hint="the acquisition was cut short, or frames were dropped; nothing is assumed"
                )
        lost = int(np.count_nonzero(~there))
        if lost:
            raise ScanUnreadable(
                f"{self.source.path}: {lost} of {len(there)} frames were never written",
                hint="--incomplete takes those that are there",
            )

    def radians(self, rows: Numbers) -> NDArray[np.float64]:
        """Angles of some projections; raises `ScanUnreadable` where they are no angles or their unit is unknown."""
        values = self.table.angle[rows]
        if len(values) == 0:
            return values
        where = f"{self.source.path}: {self.angle_place}"
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            raise ScanUnreadable(
                f"{where} has {len(wrong)} of {len(values)} angles that are not numbers, "
                f"the first at index {self.table.frame[rows][wrong[0]]} ({values[wrong[0]]})",
                hint="repair the angles in the file; they are never assumed",
            )
        if len(values) > 1 and np.ptp(values) == 0:
            raise ScanUnreadable(f"{where}: all {len(values)} angles are {values[0]:g}")
        return values * self._angle_factor(where, float(np.ptp(values)))

    @property
    def angle_place(self) -> str:
        """Where the angles come from."""
        return "" if self.angle is None else self.places[self.angle]

    def _angle_factor(self, where: str, span: float) -> float:
        """Radians per unit of the angles. The formats define degrees where no unit is given."""
        if self.angle is None:
            return math.pi / 180
        given = unit(self.angle)
        scale = ANGLE.factor(given)
        if scale is not None:
            return scale
        if given:
            raise ScanUnreadable(f"{where} has the unknown unit {given!r}", hint="write degrees or radians")
        low, high = AMBIGUOUS_SPAN
        if low <= span <= high:
            raise ScanUnreadable(
                f"{where} spans {span:.4g} without a unit, which could be degrees or radians",
                hint="write the attribute `units`",
            )
        self.notes.append(f"{self.angle_place} has no unit: degrees, as the format defines")
        return math.pi / 180

    def members(self, radians: NDArray[np.float64]) -> list[slice]:
        """The scans that the projections make up, by `rotations`."""
        return rotations(np.degrees(radians), self.period())

    def _shortfall(self, there: Mask, taken: Taken) -> Shortfall | None:
        """What is missing of the projections; None if nothing is."""
        announced = self.announced()
        known = self.table.projection[self.table.kind == PROJECTION]
        expected = max(announced.frames if announced else 0, int(known.max()) + 1 if len(known) else 0)
        gaps: Runs = holes(self.table.projection[taken.projections], expected)
        words = []
        if gaps or len(taken.projections) < expected:
            said = f", announced by {announced.origin}" if announced else ""
            words.append(f"{len(taken.projections)} of {expected} projections are there{said}")
        absent = int(np.count_nonzero(~there & (self.table.kind != PROJECTION)))
        if absent:
            words.append(f"{absent} frames that are no projections were never written or are blank")
        words += [str(problem) for problem in self.healed()]
        words += [problem for name in self.lists if (problem := self.mismatch(name))]
        lost, _ = counted(self.table, taken.projections)
        if lost:
            frames = sum(last - first + 1 for first, last in lost)
            words.append(
                f"the camera's counter jumps over {frames} frames; the angles are those that the file gives"
            )
        if not words:
            return None
        return Shortfall(reason="; ".join(words), expected=expected, gaps=gaps)

    def _header(self, taken: Taken) -> ScanHeader:
        facts = self.facts()
        n_flats = len(taken.flats) or count(self._lent(FLAT))
        n_darks = len(taken.darks) or count(self._lent(DARK))
        if n_flats != len(taken.flats) or n_darks != len(taken.darks):
            assert self.lender is not None  # nothing else lends
            self.notes.append(f"flat or dark fields are those of {self.lender.entry}")
        if n_darks == 0:
            self.notes.append("no dark fields: the dark signal is taken as zero")
        physics = ("pixel_size", "energy", "distance")
        self.notes += physics_notes([name for name in physics if facts.get(name) is None])
        announced = self.announced()
        _, rows, columns = self.datasets()[0].shape
        return ScanHeader(
            format=self.format,
            entry=self.entry,
            n_projections=len(taken.projections),
            n_flats=n_flats,
            n_darks=n_darks,
            n_rows=int(rows),
            n_columns=int(columns),
            dtype=self.datasets()[0].dtype.name,
            angle_first_deg=math.degrees(taken.angles[0]),
            angle_last_deg=math.degrees(taken.angles[-1]),
            expected_projections=announced.frames if announced else None,
            references=tuple(self.references),
            notes=tuple(dict.fromkeys(self.notes)),
            **facts,  # type: ignore[arg-type]
        )

    def close(self) -> None:
        """Close every file."""
        self.source.close()
