"""The evidence that an HDF5 scan gives while it may still be written: what `Hdf5Scan.look` answers.

Reads metadata, up to nine frames, and a few rows more where one of those is blank or carries a camera's counter. A
scan of 100,000 frames is looked at in well under a second.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from msgspec.structs import replace

from srctd.core.completion import Coverage, EndMark, Expectation, Probe, coverage
from srctd.core.errors import HoldError
from srctd.formats.beside import fitting
from srctd.formats.frametable import DARK, FLAT, MOST_RUNS, PROJECTION, Mask, holes
from srctd.formats.hdf5 import length
from srctd.formats.pixels import all_blank, counted, sampled_blank
from srctd.formats.rotations import coverage_of_each

if TYPE_CHECKING:
    from srctd.formats.hdf5scan import Hdf5Scan


class _Pixels(NamedTuple):
    """What the frames themselves show."""

    there: Mask
    blank: tuple[str, ...]
    checks: tuple[str, ...]


class _Use(NamedTuple):
    """What could be made of the frames that are there."""

    covered: Coverage | None = None
    usable: bool = False
    members: int = 1


def look_at(scan: "Hdf5Scan") -> Probe:
    """What is there and what is missing.

    What waiting cannot heal (a wrong rank, angles that are not numbers) is no obstacle to completeness: `index`
    will name it.
    """
    marks = tuple(scan.end_marks() + _marker_files(scan))
    missing = [str(problem) for problem in scan.missing] + _short_lists(scan) + _must_have(scan)
    seen = Probe(
        readable=True,
        end_marks=marks,
        aborted=scan.aborted(),
        missing=tuple(dict.fromkeys(missing)),
        started=str(scan.facts().get("start_time") or ""),
        references=tuple(scan.references),
    )
    if scan.unsound():
        return seen
    return _with_frames(scan, seen)


def _with_frames(scan: "Hdf5Scan", seen: Probe) -> Probe:
    foreign = _only_references(scan, seen)
    if foreign:
        return replace(seen, foreign=True, problem=foreign)
    pixels = _pixels(scan)
    lost, stamps = counted(scan.table, scan.table.rows(PROJECTION, pixels.there))
    gaps = tuple(sorted({*holes(scan.table.number[pixels.there]), *lost}))[:MOST_RUNS]
    found = int(np.count_nonzero(pixels.there))
    expectations = _expectations(scan, found)
    missing = (*seen.missing, *pixels.blank, *_holes_in_references(scan, pixels.there))
    use = _use(scan, pixels.there)
    return replace(
        seen,
        frames_found=found,
        expectations=expectations,
        gaps=gaps,
        missing=missing,
        checks=(*pixels.checks, *stamps),
        coverage=use.covered,
        usable=use.usable,
        members=use.members,
    )


# --- frames ----------------------------------------------------------------------------------------------


def _pixels(scan: "Hdf5Scan") -> _Pixels:
    """Which frames are there: they have storage, and where a first look finds a blank one, none that are blank."""
    table, there, suspicious = scan.table, scan.written, scan.suspicious
    if len(there) == 0:
        return _Pixels(there, (), ())
    checks = []
    if any(stack.data.chunks is not None for stack in table.stacks):
        checks.append(f"{np.count_nonzero(there)} of {len(there)} frames have storage")
    blank = sampled_blank(table, there, suspicious)
    if not blank:
        return _Pixels(there, (), (*checks, "first, middle and last frame of every kind are not blank"))
    sentences = []
    for row in blank:
        stack = table.stacks[table.stack[row]]
        value = stack.data[table.frame[row], 0, 0]
        sentences.append(
            f"frame {table.frame[row]} of {stack.place} in {stack.file} holds nothing but {value}"
        )
    return _Pixels(there & ~all_blank(table, there, suspicious), tuple(sentences), tuple(checks))


def _expectations(scan: "Hdf5Scan", found: int) -> tuple[Expectation, ...]:
    """How many frames the file announces: by a number, by its lists, by data sets made in their full size."""
    announced: list[Expectation] = []
    said = scan.announced()
    if said is not None:
        others = scan.announced_references()
        words = [f"{said.frames} projections by {said.origin}", *(f"{n} {origin}" for n, origin in others)]
        total = said.frames + sum(other.frames for other in others)
        announced.append(Expectation(kind="metadata", frames=total, text=", ".join(words)))
    lengths = [length(dataset) for dataset in scan.datasets()]
    for name, values in scan.lists.items():
        if lengths and length(values) > lengths[0]:
            total = length(values) + sum(lengths[1:])
            text = f"{length(values)} {name} in {scan.places[values]}"
            announced.append(Expectation(kind="list", frames=total, text=text))
    if found < sum(lengths):
        places = " and ".join(dict.fromkeys(stack.place for stack in scan.table.stacks[:4]))
        text = f"{sum(lengths)} by the size of {places}"
        announced.append(Expectation(kind="metadata", frames=sum(lengths), text=text))
    return tuple(announced)


def _holes_in_references(scan: "Hdf5Scan", there: Mask) -> list[str]:
    """Flats and darks in data sets of their own that have no number among the frames, but are not all there."""
    table = scan.table
    found = []
    for kind, word in ((FLAT, "flat"), (DARK, "dark")):
        mine = (table.kind == kind) & (table.number < 0)
        lost = int(np.count_nonzero(mine & ~there))
        if lost:
            found.append(
                f"{lost} of {np.count_nonzero(mine)} {word} fields in {scan.source.path} were not written"
            )
    return found


def _use(scan: "Hdf5Scan", there: Mask) -> _Use:
    """What an incomplete scan would cover; nothing while angles or frames are unknown."""
    try:
        scan.refuse_missing(incomplete=True)
        rows = scan.table.rows(PROJECTION, there)
        angles = scan.radians(rows[np.isfinite(scan.table.angle[rows])])
    except HoldError:
        return _Use()
    around = 360.0 if scan.half_view() else 180.0
    covered = coverage(angles.tolist(), around)
    try:
        taken = scan.taken(there, incomplete=True)
    except HoldError:
        return _Use(covered)
    parts = scan.members(taken.angles)
    if len(parts) > 1:
        covered = coverage_of_each(taken.angles, parts, around)
    return _Use(covered, True, len(parts))


# --- what else must be there -----------------------------------------------------------------------------


def _short_lists(scan: "Hdf5Scan") -> list[str]:
    """Lists that are shorter than the frames, one sentence each."""
    stacks = scan.datasets()
    if not stacks:
        return []
    short = [name for name, values in scan.lists.items() if length(values) < length(stacks[0])]
    return [scan.mismatch(name) for name in short]


def _must_have(scan: "Hdf5Scan") -> list[str]:
    """What the site wants to see first: paths inside the file (with a slash first), names of files beside it."""
    lost = []
    for wanted in scan.options.must_have:
        if not wanted.startswith("/"):
            if not _beside(scan, (wanted,)):
                lost.append(f"there is no file {wanted} beside {scan.source.path}")
            continue
        try:
            there = scan.source.get(wanted) is not None
        except HoldError:
            there = False
        if not there:
            lost.append(f"{scan.source.path} has no {wanted}, which this site requires")
    return lost


def _marker_files(scan: "Hdf5Scan") -> list[EndMark]:
    """Files beside the scan that say that the acquisition ended."""
    names = _beside(scan, scan.options.marker_files)
    return [EndMark(kind="marker file", text=f"{name} is there") for name in names]


def _beside(scan: "Hdf5Scan", patterns: Sequence[str]) -> list[str]:
    """Names of files in the scan's folder that fit."""
    folder, own = os.path.split(scan.source.path)
    return sorted(fitting(os.listdir(folder), patterns, os.path.splitext(own)[0]))


def _only_references(scan: "Hdf5Scan", seen: Probe) -> str:
    """Says so where a finished file holds flats or darks and no projections, and announces none."""
    kinds = scan.table.kind
    announced = scan.announced()
    ended = any(mark.kind == "metadata" for mark in seen.end_marks)
    if not ended or np.any(kinds == PROJECTION) or (announced is not None and announced.frames > 0):
        return ""
    others = int(np.count_nonzero((kinds == FLAT) | (kinds == DARK)))
    if others == 0:
        return ""
    return f"{scan.source.path} holds {others} flat and dark fields and no projections: those of another scan"
