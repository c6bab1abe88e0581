"""When is a scan complete? A verdict with its evidence, from what was seen; never from a sleep alone.

The listing says how long nothing changed (on the daemon's own monotonic clock: a file server's clock may be
wrong). The probe says what the file's content shows. `judge` weighs both by the rule of the watched root.
"""

from enum import StrEnum

import msgspec


class State(StrEnum):
    """The verdicts."""

    ARRIVING = "ARRIVING"
    COMPLETE = "COMPLETE"
    STALLED = "STALLED"
    FOREIGN = "FOREIGN"


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """What a file's content shows, read without locking it."""

    readable: bool
    """The container opens and its structure is that of a scan."""
    problem: str = ""
    """Why not, in one sentence that names the file and the value."""
    foreign: bool = False
    """Opens, but holds no tomography; `problem` says what was looked for."""
    frames_found: int | None = None
    """Projections, flats and darks that are there."""
    frames_expected: int | None = None
    """What the file itself announces, where it does."""
    end_marker: str = ""
    """End evidence inside the file, such as `end_time = 2026-11-22T10:00:00`."""
    open_for_writing: bool | None = None
    """The HDF5 superblock's consistency flag; None where this version of the format has none."""
    missing: tuple[str, ...] = ()
    """Pieces that may still come: data sets that must be there, external files. One sentence each."""
    references: tuple[str, ...] = ()
    """Absolute paths of further files that belong to the scan."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """How a watched root's scans are judged. Seconds."""

    settle_seconds: float = 2.0
    """Unchanged for so long, with an end marker."""
    unmarked_settle_seconds: float = 15.0
    """Unchanged for so long, where nothing in the file says that it ended."""
    stalled_seconds: float = 300.0
    """Unchanged for so long and still something missing: nothing more is coming."""


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
    recheck_seconds: float = 0.0
    """When a look can change the verdict though nothing changes on disk."""
    quiet_seconds: float = 0.0
    """How long nothing had changed."""
    needed_seconds: float = 0.0
    """How long nothing had to change. The difference is the daemon's own delay."""
    nothing_missing: bool = False
    """Only time can change the verdict."""


def judge(probe: Probe, quiet_seconds: float, rule: Rule) -> Verdict:
    """Weigh a probe and the time since the last change of any of the scan's files."""
    evidence = _evidence(probe, quiet_seconds)
    needed = rule.settle_seconds if probe.end_marker else rule.unmarked_settle_seconds
    obstacles = _obstacles(probe)

    if probe.foreign:
        return Verdict(state=State.FOREIGN, reason=probe.problem, evidence=evidence)
    if not obstacles:
        if quiet_seconds >= needed:
            reason = f"nothing is missing, {probe.end_marker or 'no end marker'}, {evidence[0].text}"
            return Verdict(
                state=State.COMPLETE,
                reason=reason,
                evidence=evidence,
                quiet_seconds=quiet_seconds,
                needed_seconds=needed,
                nothing_missing=True,
            )
        return Verdict(
            state=State.ARRIVING,
            reason=f"everything is there; waiting until nothing changed for {needed:g} s",
            evidence=evidence,
            missing=(f"{needed - quiet_seconds:.1f} s more without a change",),
            recheck_seconds=needed - quiet_seconds,
            nothing_missing=True,
        )
    if quiet_seconds >= rule.stalled_seconds:
        return Verdict(
            state=State.STALLED,
            reason=f"nothing changed for {quiet_seconds:.0f} s and {obstacles[0]}",
            evidence=evidence,
            missing=obstacles,
            quiet_seconds=quiet_seconds,
            needed_seconds=rule.stalled_seconds,
        )
    return Verdict(
        state=State.ARRIVING,
        reason=f"not complete: {obstacles[0]}",
        evidence=evidence,
        missing=obstacles,
        recheck_seconds=rule.stalled_seconds - quiet_seconds,
    )


def _obstacles(probe: Probe) -> tuple[str, ...]:
    """What keeps the scan from being complete, one sentence each; empty if nothing does."""
    found: list[str] = []
    if not probe.readable:
        found.append(probe.problem)
    if probe.open_for_writing:
        found.append("the HDF5 superblock says that the file is open for writing")
    found.extend(probe.missing)
    if probe.frames_expected is not None and (probe.frames_found or 0) < probe.frames_expected:
        found.append(f"{probe.frames_found or 0} of {probe.frames_expected} announced frames are there")
    return tuple(found)


def _evidence(probe: Probe, quiet_seconds: float) -> tuple[Evidence, ...]:
    yes_no = {True: "open for writing", False: "closed", None: "not recorded by this version of HDF5"}
    closed = None if probe.open_for_writing is None else not probe.open_for_writing
    announced = "not announced" if probe.frames_expected is None else f"{probe.frames_expected} announced"
    counted = None if probe.frames_expected is None else (probe.frames_found or 0) >= probe.frames_expected
    found = "unknown" if probe.frames_found is None else str(probe.frames_found)
    return (
        Evidence(name="quiet", speaks_for=None, text=f"nothing changed for {quiet_seconds:.1f} s"),
        Evidence(
            name="structure",
            speaks_for=probe.readable and not probe.missing,
            text=probe.problem or "; ".join(probe.missing) or "opens, and every data set is there",
        ),
        Evidence(name="frames", speaks_for=counted, text=f"{found} found, {announced}"),
        Evidence(
            name="end marker", speaks_for=True if probe.end_marker else None, text=probe.end_marker or "none"
        ),
        Evidence(name="superblock", speaks_for=closed, text=yes_no[probe.open_for_writing]),
    )
