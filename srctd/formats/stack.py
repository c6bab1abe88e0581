"""A stack of image files as a scan: TIFF or EDF files with a log, a parameter file or a list of angles."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from srctd.core.anglelist import projection_angles
from srctd.core.completion import Probe
from srctd.core.errors import ScanUnreadable
from srctd.core.frames import FrameIndex, Segment
from srctd.core.recipe import physics_notes
from srctd.core.roles import Context, FrameKind, counter_runs, holes
from srctd.core.scan import ScanHeader, Series, Shortfall
from srctd.core.series import family
from srctd.core.tags import CANONICAL, Tagged, TagValue
from srctd.formats.facts import angles as angles_by_rule
from srctd.formats.facts import facts, merged
from srctd.formats.hdf5 import translated
from srctd.formats.layouts import load_layouts
from srctd.formats.motors import motor_angles
from srctd.formats.planes import MOST_FRAMES
from srctd.formats.protocol import ReadOptions
from srctd.formats.rotations import choose_member, rotations
from srctd.formats.stackfiles import Listing, list_stack
from srctd.formats.stacklook import MOST_GAPS, aborted, look_at
from srctd.formats.stackroles import KINDS, Seen, Survey, survey
from srctd.formats.tags import read_all

Radians = NDArray[np.float64]


def find_stack(path: str, options: ReadOptions) -> "StackScan | None":
    """The stack at a path: its folder, or the header file of one among several in a folder; None if there is none.

    A log that announces projections is enough: the frames may be still to come. Files of bare pixels are no stack.
    """
    with translated(path):
        listing = list_stack(path)
        if listing is None or any(file.name.lower().endswith(".raw") for file in listing.frames):
            return None
        scan = StackScan(listing, read_all(listing.folder, listing.headers, options), options)
    return scan if listing.frames or scan.counts.get("n_projections") else None


class Taken(NamedTuple):
    """The frames of which an index is made."""

    projections: list[Seen]
    angles: Radians
    flats: list[Seen]
    darks: list[Seen]


class StackScan:
    """A `FoundScan` of image files."""

    def __init__(self, listing: Listing, tagged: tuple[Tagged, ...], options: ReadOptions) -> None:
        self.listing, self.tagged, self.options = listing, tagged, options
        self._values, _ = merged(tagged)
        self.counts = _counts(self._values)
        self._surveys: dict[bool, Survey] = {}
        self._angles: dict[int, Radians] = {}

    # --- what is there -----------------------------------------------------------------------------------

    def survey(self, *, thorough: bool = False) -> Survey:
        """The frames, found once; `thorough`: all of them are looked at where a sample shows damage."""
        thorough = thorough or True in self._surveys
        if thorough not in self._surveys:
            with translated(self.listing.folder):
                self._surveys[thorough] = survey(
                    self.listing,
                    load_layouts(self.options.layouts_directory),
                    self._context(),
                    self.counts | ({"n_projections": self.expected} if self.expected else {}),
                    thorough=thorough,
                )
        return self._surveys[thorough]

    def _context(self) -> Context:
        counted = "n_projections" in self.counts and bool({"n_flats", "n_darks"} & set(self.counts))
        prefix = self.value("file_prefix")
        prefixes = (str(prefix.value) if prefix else "", self.listing.name)
        return Context({tagged.table for tagged in self.tagged}, counted, prefixes)

    def value(self, name: str) -> TagValue | None:
        """A value of logs and parameter files, by its canonical name; None where two contradict each other."""
        return self._values.get(name)

    def flag(self, name: str) -> bool:
        """A flag of the log; off where nothing is said."""
        found = self.value(name)
        return found is not None and bool(found.value)

    @property
    def announced(self) -> Mapping[FrameKind, int]:
        """Frames of each kind that the log announces, where its number is one of frames in files."""
        if "n_projections" not in self.counts:
            return {}
        layout = self.survey().choice
        kinds = KINDS if layout is None else layout.layout.announced
        counts = dict.fromkeys(KINDS, 0)
        for run in counter_runs(("darks", "flats", "projections", "flats_after", "darks_after"), self.counts):
            counts[run.kind] += run.frames
        return {kind: counts[kind] for kind in kinds}

    @property
    def expected(self) -> int:
        """Projections that the log or a list of angles announces; 0 where nothing does."""
        listed = self.angle_list()
        if "n_projections" in self.counts or listed is None:
            return self.counts.get("n_projections", 0)
        try:
            return len(projection_angles(*listed, None))
        except ScanUnreadable:
            return 0

    def unreadable(self) -> ScanUnreadable | None:
        """What no waiting heals; None if nothing is wrong."""
        if self.flag("reconstructed"):
            return ScanUnreadable(
                f"{self.listing.folder} holds slices that were reconstructed, no projections"
            )
        for name, value in self._values.items():
            if CANONICAL[name].kind == "count" and name not in self.counts:
                return ScanUnreadable(f"{value.origin} = {value.value}, which no acquisition takes")
        return next(iter(self.survey().wrong), None)

    def white_level(self) -> float | None:
        """Counts of air in frames that were divided by the flat field already; None where that is unknown."""
        found = self.value("white_level")
        if found is not None and isinstance(found.value, int | float):
            return float(found.value)
        projections = self.survey().frames["projections"]
        return 1.0 if projections and np.dtype(projections[0].plane.dtype).kind == "f" else None

    # --- angles ------------------------------------------------------------------------------------------

    def angles(self, survey: Survey) -> Radians:
        """The angle of every projection by its number, radian; raises `ScanUnreadable` where they are unknown."""
        if id(survey) not in self._angles:
            self._angles[id(survey)] = self._find_angles(survey)
        return self._angles[id(survey)]

    def _find_angles(self, survey: Survey) -> Radians:
        announced = self.counts.get("n_projections")
        listed = self.angle_list()
        if listed is not None:
            return np.radians(projection_angles(*listed, announced))
        numbers = [seen.number for seen in survey.frames["projections"]]
        count = announced or (max(numbers) + 1 if numbers else 0)
        by_rule = angles_by_rule(self.tagged, count) if count else None
        if by_rule is not None:
            return np.array(by_rule.radians)
        found = motor_angles(self.listing.folder, survey.frames["projections"], count)
        if found is None:
            raise ScanUnreadable(
                f"{self.listing.folder}: nothing says what the rotation angles are: no log, parameter file or list "
                f"({', '.join(self.listing.headers[:3]) or 'there is none'})",
                hint="give angle_start and angle_step, or a list of angles; they are never assumed",
            )
        return found

    def angle_list(self) -> tuple[str, tuple[float, ...]] | None:
        """A list of angles, degree, and the file it is in."""
        for tagged in self.tagged:
            found = tagged.values.get("angles")
            if found is not None and isinstance(found.value, tuple):
                return tagged.path, found.value
        return None

    # --- looking and indexing ----------------------------------------------------------------------------

    def look(self) -> Probe:
        """What is there and what is missing; never raises for what the content may be."""
        return look_at(self)

    def missing(self, survey: Survey) -> list[str]:
        """Pieces that may still come, one sentence each."""
        folder = self.listing.folder
        found: list[str] = []
        if not survey.frames["projections"]:
            found.append(f"{folder} has no projections yet")
        try:
            angles = self.angles(survey)
            there = max((seen.number for seen in survey.frames["projections"]), default=-1) + 1
            if len(angles) < there:
                found.append(f"{folder} has {len(angles)} angles for {there} projections")
        except ScanUnreadable as exc:
            found.append(str(exc))
        if not survey.frames["flats"] and not self.flag("flat_fielded"):
            found.append(f"{folder} has no flat fields, so the beam cannot be divided out")
        return found + survey.cut + survey.blank

    def take(self, survey: Survey, *, incomplete: bool) -> Taken:
        """The frames of which an index is made; raises `ScanUnreadable` where they do not suffice."""
        wrong = self.unreadable()
        if wrong is not None:
            raise wrong
        angles = self.angles(survey)
        projections = [seen for seen in survey.frames["projections"] if seen.number < len(angles)]
        if not projections:
            raise ScanUnreadable(f"{self.listing.folder} holds no projections", hint="was the scan aborted?")
        if self.flag("flat_fielded"):
            if self.white_level() is None:
                raise ScanUnreadable(
                    f"{self.listing.folder}: the frames were divided by the flat field, and nothing says how many "
                    "counts stand for air",
                    hint="give white_level in a parameter file",
                )
        elif not survey.frames["flats"]:
            raise ScanUnreadable(
                f"{self.listing.folder} holds no flat fields, so the beam cannot be divided out",
                hint="acquire flat fields, or add those of another scan to the folder",
            )
        taken = Taken(
            projections,
            angles[[seen.number for seen in projections]],
            [] if self.flag("flat_fielded") else survey.frames["flats"],
            survey.frames["darks"],
        )
        if len(projections) > 1 and np.ptp(taken.angles) == 0:
            raise ScanUnreadable(f"{self.listing.folder}: all {len(projections)} angles are the same")
        if not incomplete:
            self._refuse_shortfall(survey, taken, len(angles))
        return taken

    def _refuse_shortfall(self, survey: Survey, taken: Taken, expected: int) -> None:
        problems = self.missing(survey)
        if not problems:
            shortfall = self._shortfall(survey, taken, expected)
            problems = [f"{self.listing.folder}: {shortfall.reason}"] if shortfall else []
        if problems:
            raise ScanUnreadable(problems[0], hint="--incomplete takes what is there")

    def _shortfall(self, survey: Survey, taken: Taken, expected: int) -> Shortfall | None:
        """What is missing of the frames; None if nothing is."""
        gaps = holes((seen.number for seen in taken.projections), expected)
        words = [f"{len(taken.projections)} of {expected} projections are there"] if gaps else []
        without = len(survey.frames["projections"]) - len(taken.projections)
        if without:
            words.append(f"{without} projections have no angle")
        for kind in KINDS[1:]:
            announced = self.announced.get(kind, 0)
            there = len(survey.frames[kind])
            if there < announced:
                words.append(f"{there} of {announced} {kind} are there")
        if survey.cut or survey.blank:
            words.append(f"{len(survey.cut) + len(survey.blank)} frames are cut short or were not written")
        if survey.lost:
            words.append(f"the camera's counter proves that {survey.lost} frames were dropped")
        if broken_off := aborted(self, survey):
            words.append(f"the acquisition was broken off ({broken_off})")
        return Shortfall(reason="; ".join(words), expected=expected, gaps=gaps[:MOST_GAPS]) if words else None

    def index(self, *, incomplete: bool = False, member: int = 0) -> FrameIndex:
        """All frames, ready for reading; raises `ScanUnreadable` for the first thing that is wrong."""
        survey = self.survey(thorough=True)
        taken = self.take(survey, incomplete=incomplete)
        shortfall = self._shortfall(survey, taken, len(self.angles(survey))) if incomplete else None
        parts = rotations(np.degrees(taken.angles))
        own = choose_member(parts, member, len(taken.angles), self.listing.folder, self.listing.name)
        chosen = taken._replace(projections=taken.projections[own.part], angles=taken.angles[own.part])
        header = own.labeled(msgspec.structs.replace(self._header(survey, chosen), shortfall=shortfall))
        dtype = self._dtype(chosen)
        return FrameIndex(
            header=header,
            dtype=dtype.str,
            projections=self._segments(chosen.projections, dtype),
            flats=self._flats(chosen, dtype),
            darks=self._segments(chosen.darks, dtype),
            angles=tuple(chosen.angles.tolist()),
        )

    def _dtype(self, taken: Taken) -> "np.dtype[Any]":
        """The type that holds the pixels of all kinds without loss; native, unless all files have the same one."""
        found = {seen.plane.dtype for seen in (*taken.projections, *taken.flats, *taken.darks)}
        dtype = np.dtype(found.pop()) if len(found) == 1 else np.result_type(*map(np.dtype, sorted(found)))
        white = 0.0 if taken.flats else self.white_level() or 0.0
        needed = np.min_scalar_type(int(white) if white.is_integer() else white)
        return dtype if np.can_cast(needed, dtype) else np.result_type(dtype, needed)

    def _flats(self, taken: Taken, dtype: "np.dtype[Any]") -> tuple[Segment, ...]:
        if taken.flats:
            return self._segments(taken.flats, dtype)
        return (Segment(container="constant", value=self.white_level() or 0.0),)

    def _segments(self, frames: Sequence[Seen], dtype: "np.dtype[Any]") -> tuple[Segment, ...]:
        """Frames as runs of pages; EDF frames by where their pixels begin."""
        segments: list[Segment] = []
        for seen in frames:
            path = os.path.join(self.listing.folder, seen.name)
            if seen.name.lower().endswith(".edf"):
                own = "" if np.dtype(seen.plane.dtype) == dtype else seen.plane.dtype
                segments.append(Segment(container="raw", file=path, offset=seen.plane.offset or 0, dtype=own))
                continue
            last = segments[-1] if segments else None
            if last is not None and last.file == path and last.first + last.count == seen.page:
                segments[-1] = msgspec.structs.replace(last, count=last.count + 1)
            else:
                segments.append(Segment(container="tiff", file=path, first=seen.page))
        return tuple(segments)

    def _header(self, survey: Survey, taken: Taken) -> ScanHeader:
        said: dict[str, Any] = dict(facts(self.tagged))
        notes = [*said.pop("notes", ()), *survey.notes]
        if not taken.darks and not self.flag("flat_fielded"):
            notes.append("no dark fields: the dark signal is taken as zero")
        if self.flag("flat_fielded"):
            notes.append(
                f"the frames were divided by the flat field before they were stored: air is {self.white_level():g}"
            )
        if survey.beyond:
            notes.append(f"{survey.beyond} frames beyond the announced projections are not used")
        if not self.expected:
            notes.append("the number of projections is not announced: it is that of the files")
        unknown = [name for name in ("pixel_size", "energy", "distance") if said.get(name) is None]
        plane = taken.projections[0].plane
        return ScanHeader(
            format="edf" if taken.projections[0].name.lower().endswith(".edf") else "tiff",
            entry="",
            n_projections=len(taken.projections),
            n_flats=len(taken.flats) or 1,
            n_darks=len(taken.darks),
            n_rows=plane.rows,
            n_columns=plane.columns,
            dtype=self._dtype(taken).name,
            angle_first_deg=math.degrees(taken.angles[0]),
            angle_last_deg=math.degrees(taken.angles[-1]),
            expected_projections=self.expected or None,
            series=self._series(),
            layout=survey.choice.layout.name if survey.choice else "",
            notes=tuple(dict.fromkeys([*notes, *physics_notes(unknown)])),
            **said,
        )

    def _series(self) -> Series | None:
        """The place in a series that a log or parameter file tells of."""
        told, of = self.value("series_member"), self.counts.get("series_members")
        if told is None or "series_member" not in self.counts:
            return None
        name = family(self.listing.name)
        return Series(name=name, member=self.counts["series_member"], members=of or None, origin=told.origin)

    def close(self) -> None:
        """No file is kept open."""


def _counts(values: Mapping[str, TagValue]) -> dict[str, int]:
    """Values of the canonical names that are counts, those left out that cannot be."""
    return {
        name: int(value.value)
        for name, value in values.items()
        if CANONICAL[name].kind == "count"
        and isinstance(value.value, int | float)
        and 0 <= value.value <= MOST_FRAMES
    }
