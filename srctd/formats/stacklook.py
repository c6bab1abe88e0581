"""The evidence that a stack gives while it may still be written: what `StackScan.look` answers."""

import os
import posixpath
from typing import TYPE_CHECKING, Literal

import numpy as np
from msgspec.structs import replace

from srctd.core.completion import Coverage, EndMark, Expectation, Probe, coverage
from srctd.core.errors import HoldError, ScanUnreadable
from srctd.core.roles import holes
from srctd.formats.beside import fitting
from srctd.formats.rotations import coverage_of_each, rotations
from srctd.formats.stackroles import KINDS, Survey

if TYPE_CHECKING:
    from srctd.formats.stack import StackScan

MOST_SENTENCES = 5
"""Of one sort; the rest is counted."""
MOST_GAPS = 1000
_PARAMETER_FILES = (".json", ".ini", ".par", ".toml", ".cfg", ".yaml", ".yml", ".csv", ".txt", ".xml")


def look_at(scan: "StackScan") -> Probe:
    """What is there and what is missing.

    What waiting cannot heal (frames of two sizes, two files with one number) is no obstacle to completeness:
    `index` will name it.
    """
    try:
        survey = scan.survey()
    except HoldError as exc:
        return Probe(readable=False, problem=exc.sentence)
    if scan.flag("reconstructed"):
        return Probe(readable=True, foreign=True, problem=str(scan.unreadable()))
    started = scan.value("start_time")
    seen = Probe(
        readable=True,
        frames_found=survey.found,
        expectations=_expectations(scan, survey),
        end_marks=_end_marks(scan, survey),
        aborted=aborted(scan, survey),
        gaps=_gaps(survey),
        missing=(*_unended(scan), *_shortened(scan, survey)),
        checks=tuple(survey.checks),
        started=str(started.value) if started else "",
    )
    covered, usable, members = _use(scan, survey)
    return replace(seen, coverage=covered, usable=usable, members=members)


def _expectations(scan: "StackScan", survey: Survey) -> tuple[Expectation, ...]:
    """What the log announces, and what a list of angles does; frames that were not announced count as they are."""
    there = {kind: len(survey.frames[kind]) for kind in KINDS}
    found: list[Expectation] = []
    announced = scan.announced
    if announced:
        total = sum(max(there[kind], announced.get(kind, 0)) for kind in KINDS)
        said = scan.value("n_projections")
        words = ", ".join(f"{count} {kind}" for kind, count in announced.items() if count)
        origin = said.origin if said else ""
        suffix = posixpath.splitext(origin.split(":")[0])[1].lower()
        found.append(Expectation(kind=_source(suffix), frames=total, text=f"{words} by {origin}"))
    listed = scan.angle_list()
    if listed is not None:
        try:
            angles = len(scan.angles(survey))
        except ScanUnreadable:
            return tuple(found)
        total = max(angles, there["projections"]) + there["flats"] + there["darks"]
        found.append(
            Expectation(kind="list", frames=total, text=f"{angles} angles in {os.path.basename(listed[0])}")
        )
    return tuple(found)


def _source(suffix: str) -> Literal["log", "info", "parameter file"]:
    if suffix == ".info":
        return "info"
    return "parameter file" if suffix in _PARAMETER_FILES else "log"


def _end_marks(scan: "StackScan", survey: Survey) -> tuple[EndMark, ...]:
    """Marker files of the site and of the layout, and the last line of the log."""
    wanted = scan.options.marker_files + (survey.choice.layout.end_files if survey.choice else ())
    marks = [EndMark(kind="marker file", text=f"{name} is there") for name in _matching(scan, wanted)]
    marks += [
        EndMark(kind="log", text=f"{os.path.basename(tagged.path)}: {tagged.end_line}")
        for tagged in scan.tagged
        if tagged.end_line
    ]
    return tuple(marks)


def _unended(scan: "StackScan") -> list[str]:
    """Logs that end with a certain line, and do not have it yet."""
    unended = (tagged.path for tagged in scan.tagged if tagged.ends and not tagged.end_line)
    return [f"{path} does not have the line with which it ends" for path in unended]


def aborted(scan: "StackScan", survey: Survey) -> str:
    """What says that the acquisition was broken off; empty if nothing does."""
    wanted = survey.choice.layout.abort_files if survey.choice else ()
    return next((f"{name} is there" for name in _matching(scan, wanted)), "")


def _matching(scan: "StackScan", patterns: tuple[str, ...]) -> list[str]:
    """Names of files beside the frames that fit one of some wildcards."""
    return fitting((file.name for file in scan.listing.others), patterns, scan.listing.name)


def _gaps(survey: Survey) -> tuple[tuple[int, int], ...]:
    """Projections that are not there though later ones are."""
    there = sorted({seen.number for seen in survey.frames["projections"]} | survey.damaged["projections"])
    return holes(there, there[-1] + 1)[:MOST_GAPS] if there else ()


def _shortened(scan: "StackScan", survey: Survey) -> list[str]:
    """What may still come; of many sentences of a sort the first few."""
    said = len(survey.cut) + len(survey.blank)
    everything = scan.missing(survey)
    others, damaged = everything[: len(everything) - said], everything[len(everything) - said :]
    if len(damaged) > MOST_SENTENCES:
        more = len(damaged) - MOST_SENTENCES
        damaged = [*damaged[:MOST_SENTENCES], f"{more} more frames are cut short or were not written"]
    for pattern in scan.options.must_have:
        if not pattern.startswith("/") and not _matching(scan, (pattern,)):
            others.append(f"there is no file {pattern} in {scan.listing.folder}, which this site requires")
    return others + damaged


def _use(scan: "StackScan", survey: Survey) -> tuple[Coverage | None, bool, int]:
    """What the projections that are there cover, whether an index could be made of them, and of how many scans."""
    try:
        angles = scan.angles(survey)
    except ScanUnreadable:
        return None, False, 1
    there = [seen.number for seen in survey.frames["projections"] if seen.number < len(angles)]
    covered = coverage(angles[there].tolist())
    try:
        taken = scan.take(survey, incomplete=True)
    except ScanUnreadable:
        return covered, False, 1
    parts = rotations(np.degrees(taken.angles))
    if len(parts) > 1:
        covered = coverage_of_each(taken.angles, parts)
    return covered, True, len(parts)
