"""When is a scan complete? A verdict with its evidence, from what was seen; never from a sleep alone.

The listing says how long nothing changed (on the daemon's own monotonic clock: a file server's clock may be
wrong). The probe says what the file's content shows. `judge` weighs both by the rule of the watched root.
"""

import math
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Literal, NamedTuple

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
    """The widest gap between neighboring angles, all of them taken modulo 180 degrees and around the half circle:
    what is seen from one side need not be seen from the other. Around the whole circle where a frame shows only
    half of the sample."""
    members: int = 1
    """Of so many scans in the same files this is the least of each, so that all suffice where this does."""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """What the content of a scan's files shows, read without locking or changing anything."""

    readable: bool
    """The container opens and its structure is that of a scan."""
    problem: str = ""
    """Why not, in one sentence that names the file and the value."""
    unreachable: bool = False
    """A disk or a server did not give the files: this says nothing of the scan, so no verdict on it is final."""
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
    """What was looked at and found good, a few words each: `121 files of 43,454 bytes`, `first, middle and last
    frame are not blank`, `PCO counters 1 to 900 without a gap`."""
    coverage: Coverage | None = None
    """None while angles or projections are unknown: then nothing can be made of what is there."""
    usable: bool = False
    """Whether `open_scan(..., incomplete=True)` would open what is there."""
    started: str = ""
    """When the acquisition began, as the file says it."""
    references: tuple[str, ...] = ()
    """Absolute paths of further files, outside the listing of the scan itself, that belong to it."""
    members: int = 1
    """Scans that these files hold: rotations of a dynamic scan, entries of an HDF5 file."""

    @property
    def may_change(self) -> bool:
        """Whether another look may show more although none of the scan's files changed."""
        return bool(self.missing) or self.unreachable


class Usable(msgspec.Struct, frozen=True, kw_only=True):
    """When an incomplete scan is worth reconstructing with the angles that are there."""

    projections: int = 30
    """Fewest projections; 0: incomplete scans are never taken."""
    hole_deg: float = 10.0
    """Widest gap between neighboring angles, see `Coverage.hole_deg`."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What an acquisition says of a scan when it is over (`srctd submit PATH`)."""

    frames: int | None = None
    """Of all kinds together, that were taken; None: not told."""
    aborted: str = ""
    """Why it was broken off; empty if it was not."""
    sender: str = "srctd submit"
    """Who said it."""


ANY_END = ("marker file", "log", "metadata", "message")
"""End evidence that counts unless a site says otherwise. Not the superblock: writers open files again."""
ALL_ENDS = (*ANY_END, "superblock")
"""Every kind there is."""
ANY_EXPECTATION = ("metadata", "log", "info", "parameter file", "list", "message")
PAUSES = 3.0
"""A scan that made pauses may make another: where nothing says that it ended, it must be quiet for so many times
the longest of them."""


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
    """Whether no scan is complete without end evidence. Without it, it is incomplete after `stalled_seconds`."""
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


class _Weighed(NamedTuple):
    """A probe by the rule of its root."""

    marks: tuple[EndMark, ...]
    """Those that are believed."""
    expected: Expectation | None
    obstacles: tuple[str, ...]
    """What keeps the scan from being complete, one sentence each; empty if nothing does."""
    ended: bool
    """Nothing that is missing is still to be expected."""
    announced: bool
    """All frames that were announced are there, and no others."""


def judge(probe: Probe, quiet_seconds: float, rule: Rule, pause_seconds: float = 0.0) -> Verdict:
    """Weigh a probe and the time since the last change of any of the scan's files.

    `pause_seconds`: the longest time between two changes while the scan was watched. Both are measured on the
    watcher's own monotonic clock.
    """
    weighed = _weigh(probe, rule)
    needed = 0.0 if probe.foreign else _needed_seconds(weighed, rule, pause_seconds)
    left = max(0.0, needed - quiet_seconds)
    state = _state(probe, weighed, rule, left)
    if state is State.FOREIGN:
        missing: tuple[str, ...] = (probe.problem,)
    elif state is State.ARRIVING and not weighed.obstacles:
        missing = (f"{left:.1f} s more without a change",)
    else:
        missing = weighed.obstacles
    return Verdict(
        state=state,
        reason=_reason(state, probe, weighed, quiet_seconds, needed),
        evidence=_evidence(probe, weighed, quiet_seconds),
        missing=missing,
        frames_found=probe.frames_found,
        frames_expected=weighed.expected.frames if weighed.expected else None,
        gaps=probe.gaps,
        recheck_seconds=left,
        quiet_seconds=quiet_seconds,
        needed_seconds=needed,
        nothing_missing=not (weighed.obstacles or probe.foreign),
    )


def with_message(probe: Probe, message: Message) -> Probe:
    """The probe with what the acquisition itself said of the scan.

    A scan that its files say was broken off stays so.
    """
    said = f"{message.sender} said that the acquisition ended"
    aborted = f"{message.sender} said: {message.aborted}" if message.aborted else ""
    announced: tuple[Expectation, ...] = ()
    if message.frames is not None:
        text = f"{message.frames} frames by {message.sender}"
        announced = (Expectation(kind="message", frames=message.frames, text=text),)
    return msgspec.structs.replace(
        probe,
        end_marks=(*probe.end_marks, EndMark(kind="message", text=said)),
        expectations=(*probe.expectations, *announced),
        aborted=probe.aborted or aborted,
    )


def is_news(verdict: Verdict, message: Message) -> bool:
    """Whether a message may change a final verdict: it speaks of more frames than were found, or of an end of
    another kind than the verdict took.
    """
    if verdict.state is not State.COMPLETE:
        return True
    return bool(message.aborted) or (message.frames or 0) > (verdict.frames_found or 0)


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


def coverage(angles_rad: Iterable[float], around_deg: float = 180.0) -> Coverage | None:
    """What some projections cover; None without any. `around_deg`: 360 where both sides must be seen."""
    degrees = sorted(math.degrees(angle) for angle in angles_rad)
    if not degrees:
        return None
    folded = sorted(angle % around_deg for angle in degrees)
    around = [*folded[1:], folded[0] + around_deg]
    hole = max(after - before for before, after in zip(folded, around, strict=True))
    return Coverage(projections=len(degrees), span_deg=degrees[-1] - degrees[0], hole_deg=hole)


def least(covered: Sequence[Coverage | None]) -> Coverage | None:
    """The worst of several scans in the same files; None where one of them covers nothing."""
    known = [seen for seen in covered if seen is not None]
    if not known or len(known) < len(covered):
        return None
    return Coverage(
        projections=min(seen.projections for seen in known),
        span_deg=min(seen.span_deg for seen in known),
        hole_deg=max(seen.hole_deg for seen in known),
        members=sum(seen.members for seen in known),
    )


def gaps_text(gaps: Sequence[tuple[int, int]]) -> str:
    """`3, 7 to 9 and 12`; a long list is cut."""
    words = [str(first) if first == last else f"{first} to {last}" for first, last in gaps[:8]]
    if len(gaps) > len(words):
        words.append(f"{len(gaps) - len(words)} more runs")
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


# --- weighing ---------------------------------------------------------------------------------------------


def _weigh(probe: Probe, rule: Rule) -> _Weighed:
    marks = tuple(mark for mark in probe.end_marks if mark.kind in rule.end_evidence)
    expected = expected_frames(probe, rule)
    obstacles = list(_obstacles(probe, expected, bool(marks)))
    if rule.require_end and not (marks or probe.aborted):
        obstacles.append("nothing says yet that the acquisition ended")
    # What is missing besides frames may be added after the end: angles, a linked file, the rest of a copy.
    whole = probe.readable and not probe.missing and not probe.open_for_writing
    return _Weighed(
        marks=marks,
        expected=expected,
        obstacles=tuple(obstacles),
        ended=bool(probe.aborted) or (bool(marks) and whole),
        announced=expected is not None and probe.frames_found == expected.frames,
    )


def _obstacles(probe: Probe, expected: Expectation | None, ended: bool) -> Iterable[str]:
    if not probe.readable:
        yield probe.problem or "the files cannot be read yet"
    if probe.open_for_writing:
        yield "the HDF5 superblock says that the file is open for writing"
    if probe.aborted:
        yield f"the acquisition was broken off: {probe.aborted}"
    yield from probe.missing
    if probe.gaps:
        yield f"frames {gaps_text(probe.gaps)} are not there, though later ones are"
    found = probe.frames_found or 0
    if expected is not None and found < expected.frames:
        yield f"{found} of {expected.frames} announced frames are there ({expected.text})"
    elif probe.readable and not (found or probe.missing or ended):  # once it has ended, the reader says why
        yield "no frames are there yet"


def _needed_seconds(weighed: _Weighed, rule: Rule, pause_seconds: float) -> float:
    """How long nothing may have changed before the verdict is final. More evidence never makes it longer."""
    pauses = PAUSES * pause_seconds
    counted = max(rule.unmarked_settle_seconds, min(pauses, rule.stalled_seconds))
    if weighed.obstacles:
        return counted if weighed.ended else max(rule.stalled_seconds, rule.unmarked_settle_seconds, pauses)
    if weighed.marks:
        return rule.settle_seconds
    # Who sent more frames than were announced may send still more: then the announcement says nothing.
    return counted if weighed.announced else max(counted, rule.unannounced_settle_seconds, pauses)


def _state(probe: Probe, weighed: _Weighed, rule: Rule, left_seconds: float) -> State:
    if probe.foreign:
        return State.FOREIGN
    if left_seconds > 0 or probe.unreachable:
        return State.ARRIVING
    if not weighed.obstacles:
        return State.COMPLETE
    if is_usable(probe, rule):
        return State.INCOMPLETE_USABLE
    return State.ABORTED if weighed.ended else State.STALLED


# --- sentences --------------------------------------------------------------------------------------------


def _reason(
    state: State, probe: Probe, weighed: _Weighed, quiet_seconds: float, needed_seconds: float
) -> str:
    """The verdict in one sentence."""
    if state is State.FOREIGN:
        return probe.problem
    ended = weighed.marks[0].text if weighed.marks else "nothing says that the acquisition ended"
    if not weighed.obstacles:
        what = "all announced frames are there" if weighed.announced else "nothing is missing"
        if state is State.ARRIVING:
            return f"{what}; waiting until nothing has changed for {needed_seconds:.0f} s ({ended})"
        return f"{what}, {ended}, and nothing changed for {quiet_seconds:.1f} s"
    first = weighed.obstacles[0]
    if state is State.ARRIVING:
        return f"not complete: {first}"
    seen = probe.coverage
    if state is State.INCOMPLETE_USABLE and seen is not None:
        suffice = f"the {_counted(seen)} that are there suffice, {_hole(seen)}"
        return f"{first}; {suffice}"
    angles = f"{_counted(seen)}, {_hole(seen)}" if seen else "no projections with known angles"
    cause = "" if weighed.ended else f"nothing changed for {quiet_seconds:.0f} s, and "
    return f"{first}; {cause}what is there does not suffice ({angles})"


def _counted(seen: Coverage) -> str:
    if seen.members == 1:
        return f"{seen.projections} projections"
    return f"at least {seen.projections} projections in each of {seen.members} members"


def _hole(seen: Coverage) -> str:
    return f"with no gap wider than {seen.hole_deg:.1f} degrees"


def _evidence(probe: Probe, weighed: _Weighed, quiet_seconds: float) -> tuple[Evidence, ...]:
    """Everything that was looked at."""
    return (
        Evidence(name="quiet", speaks_for=None, text=f"nothing changed for {quiet_seconds:.1f} s"),
        _structure(probe),
        _frames(probe, weighed),
        _end(probe, weighed),
        _superblock(probe),
        _covered(probe.coverage),
    )


def _structure(probe: Probe) -> Evidence:
    text = probe.problem or "; ".join((*probe.missing, *probe.checks)) or "opens, and every piece is there"
    return Evidence(name="structure", speaks_for=probe.readable and not probe.missing, text=text)


def _frames(probe: Probe, weighed: _Weighed) -> Evidence:
    found = probe.frames_found or 0
    expected = weighed.expected
    parts = ["an unknown number found" if probe.frames_found is None else f"{found} found"]
    parts.append(expected.text if expected else "nothing says how many are to come")
    if expected is not None and found > expected.frames:
        parts.append(f"{found - expected.frames} more than announced")
    parts += [other.text for other in _contradicting(probe, expected)]
    if probe.gaps:
        parts.append(f"{gaps_text(probe.gaps)} not there")
    enough = None if expected is None else found >= expected.frames and not probe.gaps
    return Evidence(name="frames", speaks_for=False if probe.gaps else enough, text="; ".join(parts))


def _contradicting(probe: Probe, counts: Expectation | None) -> Iterable[Expectation]:
    """Announcements of another number than the one that counts."""
    return (other for other in probe.expectations if counts is None or other.frames != counts.frames)


def _end(probe: Probe, weighed: _Weighed) -> Evidence:
    ignored = [mark.text for mark in probe.end_marks if mark not in weighed.marks]
    text = probe.aborted or "; ".join(mark.text for mark in weighed.marks) or "none"
    if ignored:
        text += f" (not believed here: {'; '.join(ignored)})"
    speaks_for = False if probe.aborted else (True if weighed.marks else None)
    return Evidence(name="end marker", speaks_for=speaks_for, text=text)


def _superblock(probe: Probe) -> Evidence:
    texts = {True: "open for writing", False: "closed", None: "not recorded by this format"}
    writing = probe.open_for_writing
    return Evidence(
        name="superblock", speaks_for=None if writing is None else not writing, text=texts[writing]
    )


def _covered(seen: Coverage | None) -> Evidence:
    text = "unknown"
    if seen is not None:
        text = f"{_counted(seen)} over {seen.span_deg:.1f} degrees, {_hole(seen)}"
    return Evidence(name="coverage", speaks_for=None, text=text)
