"""Whose source may be removed from a detector's disk, and why every other one stays.

A source may go when nothing is lost with it: every step of every scan in its files is done, the files were copied,
the raw data set was posted, the further host, if there is one, has them too, and the files are those that were
copied. Which of these go, and when, is a question of room: above the high-water mark the oldest, until the disk is
at the low-water mark; never the newest of a root.

What only a look at the disks can tell (whether the copy reads as it was written, whether every file is unchanged)
is asked when it is a scan's turn; `Candidate.trouble` is the answer, if it is none.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec

from srctd.core.lifecycle import Scan, Status, Step
from srctd.core.scan import minute_text, scan_id

Result = TypeVar("Result", bound=msgspec.Struct)
AT_CATALOG = frozenset({Step.REGISTER, Step.PUBLISH})


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """When sources are removed."""

    minimum_age_seconds: float
    """Since the last step was done."""
    high_water_percent: float
    low_water_percent: float
    remote_target: str = ""
    """The further host that must have the files as well; empty: there is none."""


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """A detector's disk, which several roots may share."""

    size: int
    """Bytes that are used or may be used."""
    used: int
    in_vain: str = ""
    """Why nothing more is removed from it, in one sentence: it would free nothing."""
    removing: bool = False
    """It was above the high-water mark, and has not come down to the low-water mark since."""

    def percent(self, freed: int = 0) -> float:
        """How full it is once so many bytes are freed, as `df` counts."""
        return 100.0 * (self.used - freed) / self.size if self.size else 0.0


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a scan, or of several that one file holds, and what is known of them."""

    members: tuple[Scan, ...]
    """All scans that the files hold, as far as they are known, the first member first."""
    root: str
    """The watched root below which they lie."""
    done_at: float | None
    """UTC timestamp of the last step of any member, by the clock as it goes now; None: unknown."""
    listed: str | None
    """Fingerprint of what lies there by the last listing; None: nothing does."""
    newer: str = ""
    """The scan that took their place under the same path."""
    trouble: str = ""
    """What stands in the way of removing them, by a look at the disks, in one sentence."""

    @property
    def leader(self) -> Scan:
        """The scan that has copied and registered the files."""
        return self.members[0]

    @property
    def begun(self) -> bool:
        """Whether some of the files may be removed already."""
        return self.leader.removal_begun_at is not None and not self.removed

    @property
    def removed(self) -> bool:
        """Whether they were removed before."""
        return self.leader.source_removed_at is not None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a scan's source."""

    scan: str
    path: str
    files: int
    bytes: int
    remove: bool
    reasons: tuple[str, ...] = ()
    """Why it stays, one sentence each; none if it is removed."""


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """A disk and what becomes of the sources on it."""

    roots: tuple[str, ...]
    disk: Disk
    decisions: tuple[Decision, ...]


def too_full(disk: Disk, rule: Rule) -> bool:
    """Whether sources are to go: above the one mark, and from there down to the other."""
    return disk.percent() > (rule.low_water_percent if disk.removing else rule.high_water_percent)


def plan(candidates: Sequence[Candidate], disk: Disk, rule: Rule, now: float) -> tuple[Decision, ...]:
    """Decide about every scan whose files lie on one disk, in the order in which they would go.

    `candidates`: all that are known, removed ones too, in the order in which they came: the times at which they
    came are of a clock that may have been wrong. `now`: UTC timestamp. What was begun is ended first, whatever the
    marks say: half a source is of no use to anybody.
    """
    newest = _newest(candidates)
    freed = 0
    decisions: list[Decision] = []
    for candidate in sorted(candidates, key=lambda candidate: not candidate.begun):
        undone = {} if candidate.removed else _undone(candidate)
        shared = _reasons(candidate, newest, rule, now)
        if not candidate.removed and not candidate.begun:
            shared += _enough(disk, freed, rule)
        if not undone and not shared:
            freed += candidate.leader.source.bytes
        decisions += _decided(candidate, undone, shared)
    return tuple(decisions)


def _newest(candidates: Sequence[Candidate]) -> dict[str, str]:
    """The newest scan of every root, of those whose files are there, whole."""
    newest: dict[str, str] = {}
    for candidate in candidates:
        there = candidate.listed is not None and candidate.leader.source_is_whole
        if there and not candidate.leader.superseded:
            newest[candidate.root] = candidate.leader.id
    return newest


def _decided(
    candidate: Candidate, undone: Mapping[str, list[str]], shared: Sequence[str]
) -> Iterator[Decision]:
    """One decision for every member; the files go when all of them let them go."""
    for member in candidate.members:
        own = list(undone.get(member.id, ()))
        other = next((other for other in undone if other != member.id), None)
        if other is not None:
            own.append(f"member of a file whose other member {other} is not done")
        reasons = (*own, *shared)
        yield Decision(
            scan=member.id,
            path=member.path,
            files=member.source.files,
            bytes=member.source.bytes,
            remove=not reasons,
            reasons=reasons,
        )


# --- why a source stays -----------------------------------------------------------------------------------


def _reasons(candidate: Candidate, newest: Mapping[str, str], rule: Rule, now: float) -> list[str]:
    """Why the files stay, but for what is not done of a member, and for want of room."""
    if candidate.removed:
        return [_removed(candidate)]
    unsafe = _unsafe(candidate, rule.remote_target)
    if candidate.begun:
        return unsafe + _unsure(candidate, newest)
    return unsafe + _untimely(candidate, newest, rule, now)


def _removed(candidate: Candidate) -> str:
    at = minute_text(candidate.leader.source_removed_at or 0.0)
    if candidate.listed is not None:
        return f"already removed on {at}; what lies there was put there since, and is left to who did that"
    return f"already removed on {at}"


def _undone(candidate: Candidate) -> dict[str, list[str]]:
    """What is not done of each member, by its identifier; nothing of one that is done."""
    undone = {member.id: _not_done(member) for member in candidate.members}
    return {name: sentences for name, sentences in undone.items() if sentences}


def _not_done(scan: Scan) -> list[str]:
    if scan.superseded:
        return []  # said as that
    sentences = []
    for step in Step:
        state = scan.step(step)
        if state.status is Status.HELD:
            sentences.append(f"held at {step.upper()}: {state.reason}")
        elif state.status is Status.RETRYING:
            what = "not catalogued yet" if step in AT_CATALOG else f"{step} is not done yet"
            sentences.append(f"{what}: tried {state.attempts} times, {state.reason}")
    if sentences or scan.done:
        return sentences
    first = next(step for step in Step if scan.step(step).status is not Status.DONE)
    return [f"not done yet: {first} is {scan.step(first).status}"]


def _unsafe(candidate: Candidate, remote_target: str) -> list[str]:
    """Why something could be lost with the files."""
    leader = candidate.leader
    reasons = []
    if leader.superseded or candidate.newer:
        by = candidate.newer or "a later revision"
        reasons.append(f"superseded by {by}: its files are the newer revision's")
    if len(candidate.members) < leader.members:
        known = len(candidate.members)
        reasons.append(f"only {known} of the {leader.members} scans in the file are known")
    synced, registered = _found(leader, Step.SYNC, _Synced), _found(leader, Step.REGISTER, _Registered)
    if synced and synced.in_place:
        reasons.append("in place: there is no other copy")
    if registered and not registered.posted:
        reasons.append("not catalogued: its raw data set was posted to no catalogue")
    sent = _found(leader, Step.SEND, _Sent)
    if sent and remote_target not in ("", sent.target):
        reasons.append(f"not sent to {remote_target}: it was done before that was configured")
    if leader.source_kept:
        reasons.append(f"kept: {leader.source_kept}")
    if candidate.trouble:
        reasons.append(candidate.trouble)
    return reasons


def _unsure(candidate: Candidate, newest: Mapping[str, str]) -> list[str]:
    """Why files that are missing may not have been removed: the newest of a root never is."""
    if candidate.root in newest:
        return []
    return [f"no other scan is found below {candidate.root}: its disk may not be mounted"]


def _untimely(candidate: Candidate, newest: Mapping[str, str], rule: Rule, now: float) -> list[str]:
    """Why it is not its turn, or not srctd's to remove it."""
    leader = candidate.leader
    if leader.superseded:
        return []
    reasons = []
    if scan_id(leader.path, leader.revision, leader.member) != leader.id:
        reasons.append("moved or renamed since it was judged: its files are known by their former names only")
    elif candidate.listed is None and not candidate.newer:
        reasons.append("not found at the last look")
    elif candidate.listed != leader.source.fingerprint and not candidate.newer:
        reasons.append("changed since it was copied")
    if leader.id == newest.get(candidate.root):
        reasons.append("the newest scan of its root")
    if all(member.done for member in candidate.members):
        reasons += _too_young(candidate.done_at, rule.minimum_age_seconds, now)
    return reasons


def _too_young(done_at: float | None, minimum: float, now: float) -> list[str]:
    if done_at is None:
        return ["it is not known since when it is done"]
    if now - done_at < minimum:
        return [f"done {_span(now - done_at)} ago, must be {_span(minimum)}"]
    return []


def _span(seconds: float) -> str:
    """`3.2 days`, `5 hours`."""
    value, unit = (seconds / 86400, "days") if seconds >= 2 * 86400 else (seconds / 3600, "hours")
    return f"{round(max(0.0, value), 1):g} {unit}"


def _enough(disk: Disk, freed: int, rule: Rule) -> list[str]:
    """Why nothing need go, because there is room enough, or would help; nothing if neither is so."""
    if not too_full(disk, rule):
        high = rule.high_water_percent
        return [f"disk is {disk.percent():.1f} % full, removing begins above {high:g} %"]
    left, low = disk.percent(freed), rule.low_water_percent
    if left <= low:
        return [f"the older ones bring the disk down to {left:.1f} %, removing ends at {low:g} %"]
    return [disk.in_vain] if disk.in_vain else []


# --- of the results of steps, what counts here ------------------------------------------------------------


class _Synced(msgspec.Struct, frozen=True):
    in_place: bool


class _Registered(msgspec.Struct, frozen=True):
    posted: bool


class _Sent(msgspec.Struct, frozen=True):
    target: str


def _found(scan: Scan, step: Step, kind: type[Result]) -> Result | None:
    """What a step found; None if it is not done."""
    state = scan.step(step)
    return msgspec.json.decode(state.result, type=kind) if state.status is Status.DONE else None
