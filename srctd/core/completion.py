"""When is a scan complete? A verdict with its evidence, from what was seen; never from a sleep alone.

The listing says how long nothing changed (on the daemon's own monotonic clock: a file server's clock may be
wrong). The probe says what the file's content shows. `judge` weighs both by the rule of the watched root.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Any, Literal

import msgspec


class State(StrEnum):
    """The verdicts."""

    ARRIVING = "ARRIVING"
    """Something is missing or changed a moment ago; more may come."""
    COMPLETE = "COMPLETE"
    INCOMPLETE_USABLE = "INCOMPLETE_USABLE"
    """It ended, or nothing comes any more; angles are missing, but those that are there suffice."""
    ABORTED = "ABORTED"
    """It ended, and what is there does not suffice."""
    STALLED = "STALLED"
    """Nothing says that it ended, nothing comes any more, and what is there does not suffice."""
    FOREIGN = "FOREIGN"
    """No tomography."""
    SUPERSEDED = "SUPERSEDED"
    """It was rewritten; a later revision goes on in its place."""


class EndMark(msgspec.Struct, frozen=True, kw_only=True):
    """Something that says that the acquisition ended."""

    kind: Literal["marker file", "log", "metadata", "superblock", "message"]
    text: str
    """What was seen where: `/entry/end_time = 2026-11-22T10:00:00`."""


class Expectation(msgspec.Struct, frozen=True, kw_only=True):
    """How many frames somebody announced."""

    kind: Literal["metadata", "log", "info", "parameter file", "list", "message"]
    """`list`: one value per frame (angles, image keys) is there, and it is longer than the frames."""
    frames: int
    """Of all kinds together, those included that are there and were not announced."""
    text: str
    """`180 projections by /entry/instrument/detector/tomo_n`."""


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """What the projections that are there cover."""

    projections: int
    span_deg: float
    """From the smallest angle to the largest."""
    hole_deg: float
    """The widest gap between neighboring angles, all of them taken modulo 180 degrees and around the half circle: what
    is seen from one side need not be seen from the other."""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """What the content of a scan's files shows, read without locking or changing anything."""

    readable: bool
    """The container opens and its structure is that of a scan."""
    problem: str = ""
    """Why not, in one sentence that names the file and the value."""
    foreign: bool = False
    """Opens, but holds no tomography; `problem` says what was looked for."""
    frames_found: int | None = None
    """Projections, flats and darks that are there."""
    expectations: tuple[Expectation, ...] = ()
    end_marks: tuple[EndMark, ...] = ()
    aborted: str = ""
    """What says that the acquisition was broken off; empty if nothing does."""
    open_for_writing: bool | None = None
    """The HDF5 superblock's consistency flag; None where this version of the format, or another one, has none."""
    gaps: tuple[tuple[int, int], ...] = ()
    """Frames that are not there though later ones are: (first, last) of the scan's own numbers; at most 1,000."""
    missing: tuple[str, ...] = ()
    """Pieces that may still come, one sentence each: data sets that must be there, external files, the log, a frame
    that is cut short or blank. Frames that were announced and are not there are counted, not listed here."""
    checks: tuple[str, ...] = ()
    """What was looked at and found good, a few words each: `121 files of 43,454 bytes`, `first, middle and last frame
    are not blank`, `PCO counters 1 to 900 without a gap`."""
    coverage: Coverage | None = None
    """None while angles or projections are unknown: then nothing can be made of what is there."""
    usable: bool = False
    """Whether `open_scan(..., incomplete=True)` would open what is there."""
    started: str = ""
    """When the acquisition began, as the file says it."""
    content: str = ""
    """Digest of names, sizes, start time and samples of the content, 32 hexadecimal digits; the same wherever the
    scan lies and whenever it was copied. Empty while something is missing."""
    references: tuple[str, ...] = ()
    """Absolute paths of further files, outside the listing of the scan itself, that belong to it."""
    members: int = 1
    """Scans that these files hold: rotations of a dynamic scan, entries of an HDF5 file."""


class Usable(msgspec.Struct, frozen=True, kw_only=True):
    """When an incomplete scan is worth reconstructing with the angles that are there."""

    projections: int = 30
    """Fewest projections; 0: incomplete scans are never taken."""
    hole_deg: float = 10.0
    """Widest gap between neighboring angles on the half circle."""


ANY_END = ("marker file", "log", "metadata", "message")
"""End evidence that counts unless a site says otherwise. Not the superblock: writers open files again."""
ANY_EXPECTATION = ("metadata", "log", "info", "parameter file", "list", "message")
PAUSES = 3.0
"""Where nothing says that a scan ended, it must be quiet for so many times its longest pause so far."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """How a watched root's scans are judged. Seconds."""

    settle_seconds: float = 2.0
    """Unchanged for so long, where something says that the acquisition ended."""
    unmarked_settle_seconds: float = 15.0
    """Unchanged for so long, where nothing does, but all frames that were announced are there."""
    unannounced_settle_seconds: float = 60.0
    """Unchanged for so long, where nothing says how many frames are to come either."""
    stalled_seconds: float = 300.0
    """Unchanged for so long and still something missing: nothing more is coming."""
    end_evidence: tuple[str, ...] = ANY_END
    """Kinds of `EndMark` that are believed."""
    expectation: tuple[str, ...] = ANY_EXPECTATION
    """Kinds of `Expectation` that are believed."""
    require_end: bool = False
    """Whether no scan is complete without end evidence."""
    usable: Usable = Usable()


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    name: str
    speaks_for: bool | None
    """For completeness, against it, or neither (None)."""
    text: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What is held of a scan, why, and what is still missing."""

    state: State
    reason: str
    """One sentence."""
    evidence: tuple[Evidence, ...]
    missing: tuple[str, ...] = ()
    frames_found: int | None = None
    frames_expected: int | None = None
    gaps: tuple[tuple[int, int], ...] = ()
    recheck_seconds: float = 0.0
    """When a look can change the verdict though nothing changes on disk."""
    quiet_seconds: float = 0.0
    """How long nothing had changed."""
    needed_seconds: float = 0.0
    """How long nothing had to change. The difference is the daemon's own delay."""
    nothing_missing: bool = False
    """Only time can change the verdict."""


def judge(probe: Probe, quiet_seconds: float, rule: Rule, pause_seconds: float = 0.0) -> Verdict:
    """Weigh a probe and the time since the last change of any of the scan's files.

    `pause_seconds`: the longest time between two changes while the scan was watched. Both are measured on the
    watcher's own monotonic clock.
    """
    marks = [mark for mark in probe.end_marks if mark.kind in rule.end_evidence]
    expected = expected_frames(probe, rule)
    obstacles = _obstacles(probe, expected)
    evidence = _evidence(probe, quiet_seconds, marks, expected)

    def verdict(state: State, reason: str, needed: float, **more: Any) -> Verdict:
        return Verdict(
            state=state,
            reason=reason,
            evidence=evidence,
            frames_found=probe.frames_found,
            frames_expected=expected.frames if expected else None,
            gaps=probe.gaps,
            quiet_seconds=quiet_seconds,
            needed_seconds=needed,
            **more,
        )

    if probe.foreign:
        return verdict(State.FOREIGN, probe.problem, 0.0)
    if not obstacles:
        return _nothing_missing(verdict, probe, quiet_seconds, rule, pause_seconds, marks, expected)
    # A piece that is missing may be added after the end (angles, a linked file); missing frames will not.
    ended = bool(probe.aborted) or (bool(marks) and not probe.missing and not probe.open_for_writing)
    needed = rule.unmarked_settle_seconds if ended else rule.stalled_seconds
    if quiet_seconds < needed:
        return verdict(
            State.ARRIVING,
            f"not complete: {obstacles[0]}",
            needed,
            missing=obstacles,
            recheck_seconds=needed - quiet_seconds,
        )
    said = probe.aborted or (marks[0].text if ended else f"nothing changed for {quiet_seconds:.0f} s")
    if is_usable(probe, rule):
        state, then = State.INCOMPLETE_USABLE, "the angles that are there suffice"
    else:
        state, then = (State.ABORTED if ended else State.STALLED), "what is there does not suffice"
    return verdict(state, f"{said}, and {obstacles[0]}; {then}", needed, missing=obstacles)


def _nothing_missing(
    verdict: Callable[..., Verdict],
    probe: Probe,
    quiet_seconds: float,
    rule: Rule,
    pause_seconds: float,
    marks: list[EndMark],
    expected: Expectation | None,
) -> Verdict:
    if marks:
        needed = rule.settle_seconds
    else:
        least = rule.unmarked_settle_seconds if expected else rule.unannounced_settle_seconds
        needed = max(least, PAUSES * pause_seconds)
    if rule.require_end and not marks:
        lacking = "nothing says yet that the acquisition ended"
        state = State.STALLED if quiet_seconds >= rule.stalled_seconds else State.ARRIVING
        left = max(0.0, rule.stalled_seconds - quiet_seconds)
        return verdict(state, lacking, rule.stalled_seconds, missing=(lacking,), recheck_seconds=left)
    if quiet_seconds >= needed:
        reason = f"nothing is missing, {marks[0].text if marks else 'no end marker'}, unchanged for {quiet_seconds:.1f} s"
        return verdict(State.COMPLETE, reason, needed, nothing_missing=True)
    return verdict(
        State.ARRIVING,
        f"everything is there; waiting until nothing changed for {needed:g} s",
        needed,
        missing=(f"{needed - quiet_seconds:.1f} s more without a change",),
        recheck_seconds=needed - quiet_seconds,
        nothing_missing=True,
    )


def expected_frames(probe: Probe, rule: Rule) -> Expectation | None:
    """The announcement that counts: the acquisition's own message, else the one that promises most."""
    believed = [announced for announced in probe.expectations if announced.kind in rule.expectation]
    told = [announced for announced in believed if announced.kind == "message"]
    return max(told or believed, key=lambda announced: announced.frames, default=None)


def is_usable(probe: Probe, rule: Rule) -> bool:
    """Whether the angles that are there suffice by the root's policy."""
    seen, policy = probe.coverage, rule.usable
    if not probe.usable or seen is None or policy.projections == 0:
        return False
    return seen.projections >= policy.projections and seen.hole_deg <= policy.hole_deg


def coverage(angles_rad: Iterable[float]) -> Coverage | None:
    """What some projections cover; None without any."""
    degrees = sorted(math.degrees(angle) for angle in angles_rad)
    if not degrees:
        return None
    folded = sorted(angle % 180.0 for angle in degrees)
    around = [*folded[1:], folded[0] + 180.0]
    hole = max(after - before for before, after in zip(folded, around, strict=True))
    return Coverage(projections=len(degrees), span_deg=degrees[-1] - degrees[0], hole_deg=hole)


def _obstacles(probe: Probe, expected: Expectation | None) -> tuple[str, ...]:
    """What keeps the scan from being complete, one sentence each; empty if nothing does."""
    found: list[str] = []
    if not probe.readable:
        found.append(probe.problem)
    if probe.open_for_writing:
        found.append("the HDF5 superblock says that the file is open for writing")
    if probe.aborted:
        found.append(f"the acquisition was broken off ({probe.aborted})")
    found.extend(probe.missing)
    if probe.gaps:
        found.append(f"frames {gaps_text(probe.gaps)} are not there")
    if expected is not None and (probe.frames_found or 0) < expected.frames:
        found.append(f"{probe.frames_found or 0} of {expected.frames} announced frames are there")
    return tuple(found)


def gaps_text(gaps: Sequence[tuple[int, int]]) -> str:
    """`3, 7 to 9 and 12`; a long list is cut."""
    words = [str(first) if first == last else f"{first} to {last}" for first, last in gaps[:8]]
    if len(gaps) > len(words):
        words.append(f"{len(gaps) - len(words)} more runs")
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _evidence(
    probe: Probe, quiet_seconds: float, marks: list[EndMark], expected: Expectation | None
) -> tuple[Evidence, ...]:
    yes_no = {True: "open for writing", False: "closed", None: "not recorded by this format"}
    closed = None if probe.open_for_writing is None else not probe.open_for_writing
    counted = None if expected is None else (probe.frames_found or 0) >= expected.frames and not probe.gaps
    found = "unknown" if probe.frames_found is None else str(probe.frames_found)
    announced = expected.text if expected else "not announced"
    without = f"; {gaps_text(probe.gaps)} not there" if probe.gaps else ""
    ignored = [mark.text for mark in probe.end_marks if mark not in marks]
    ended = "; ".join(mark.text for mark in marks) or "none"
    seen = probe.coverage
    covered = (
        f"{seen.projections} projections over {seen.span_deg:.1f} deg, widest gap {seen.hole_deg:.2f} deg"
        if seen
        else "unknown"
    )
    return (
        Evidence(name="quiet", speaks_for=None, text=f"nothing changed for {quiet_seconds:.1f} s"),
        Evidence(
            name="structure",
            speaks_for=probe.readable and not probe.missing,
            text=probe.problem
            or "; ".join((*probe.missing, *probe.checks))
            or "opens, and every data set is there",
        ),
        Evidence(name="frames", speaks_for=counted, text=f"{found} found; {announced}{without}"),
        Evidence(
            name="end marker",
            speaks_for=False if probe.aborted else (True if marks else None),
            text=probe.aborted or ended + (f" (not believed here: {'; '.join(ignored)})" if ignored else ""),
        ),
        Evidence(name="superblock", speaks_for=closed, text=yes_no[probe.open_for_writing]),
        Evidence(name="coverage", speaks_for=None, text=covered),
    )
