"""The life of a scan: ten steps, one table, one pure function.

A scan enters when its files are complete (`Completed`). From then on `NEEDS` alone decides what may run: a step
runs when every step that it needs is done. `advance` takes a scan and an event and returns the scan after the
event and the commands that follow from it. It never looks at a clock, a disk or a log.

The journal keeps finished steps only, so a restart is: load the scans, hand each a `Recovered`, carry the
commands out. There is no other recovery.

The six stages that people see are a function of the steps (`stages`), never a second state.
"""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from srctd.core.completion import State, Verdict
from srctd.core.errors import NoSpace
from srctd.core.labels import is_partial
from srctd.core.scan import Manifest, Series, SourceFiles


class Step(StrEnum):
    """What is done to a scan, in the order a person would tell it."""

    IDENTIFY = "identify"
    CHECK = "check"
    SYNC = "sync"
    SUBMIT = "submit"
    PREVIEW = "preview"
    RECONSTRUCT = "reconstruct"
    REGISTER = "register"
    PUBLISH = "publish"
    SEND = "send"
    SEND_RESULTS = "send_results"


NEEDS: Mapping[Step, frozenset[Step]] = {
    Step.IDENTIFY: frozenset(),
    Step.CHECK: frozenset(),
    Step.SYNC: frozenset({Step.CHECK, Step.IDENTIFY}),
    Step.SUBMIT: frozenset({Step.SYNC}),
    Step.PREVIEW: frozenset({Step.SUBMIT}),
    Step.RECONSTRUCT: frozenset({Step.PREVIEW}),
    Step.REGISTER: frozenset({Step.SYNC}),
    Step.PUBLISH: frozenset({Step.RECONSTRUCT, Step.REGISTER}),
    Step.SEND: frozenset({Step.SYNC}),
    Step.SEND_RESULTS: frozenset({Step.SEND, Step.PUBLISH}),
}


READ_THE_SOURCE = frozenset({Step.CHECK, Step.SYNC})
"""Steps that need the scan's files where the detector wrote them; all others work with the copy."""


class Status(StrEnum):
    """How a step stands. Only `done`, `retrying` and `held` are in the journal."""

    WAITING = "waiting"
    RUNNING = "running"
    RETRYING = "retrying"
    HELD = "held"
    DONE = "done"


class StepState(msgspec.Struct, frozen=True, kw_only=True):
    """One step of one scan."""

    status: Status = Status.WAITING
    attempts: int = 0
    """Failures since the step was last released."""
    reason: str = ""
    """Sentence of the last failure; empty once done."""
    cause: str = ""
    """Name of the error's class."""
    needs_bytes: int = 0
    """What must be free on shared storage before it is tried again, where want of space holds it."""
    retry_at: float | None = None
    """UTC timestamp."""
    result: msgspec.Raw = msgspec.Raw(b"null")
    """What the step found, as JSON; later steps read it."""
    seconds: float = 0.0


class _Judged(msgspec.Struct, frozen=True):
    """Of a verdict what the course of a scan depends on."""

    state: State


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """One scan and how far it is."""

    id: str
    path: str
    """Canonical path of the file or folder that is opened."""
    root: str
    """Watched root under which it was found, or empty if it was submitted by hand."""
    revision: int
    task: str
    """Name of the task directory, unique among all scans."""
    source: SourceFiles
    completed_at: float
    """UTC timestamp of the verdict."""
    verdict: msgspec.Raw = msgspec.Raw(b"null")
    """The completion verdict with its evidence, as JSON."""
    member: int = 0
    """Which of the scans that the files hold, counted from 0."""
    members: int = 1
    leader: str = ""
    """The first member, whose copy of the files and whose raw data set serve all; empty: this one itself."""
    series: Series | None = None
    """What the names of its neighbors say of its place among them."""
    content: str = ""
    """Digest of names, sizes and samples of the content: the same wherever the scan lies."""
    seen_at: dict[str, str] = {}
    """Where else these very files were seen, or at which other time: path, fingerprint."""
    superseded: bool = False
    """The file was rewritten; a later revision goes on in its place."""
    overrides: dict[str, bool | int | float | str | None] = {}
    """Parameter values that an operator gave."""
    take_incomplete: bool = False
    """An operator wants what is there, though the verdict would hold the scan."""
    run: int = 1
    """Counts the reconstructions whose results were published; each has files of its own."""
    removal_begun_at: float | None = None
    """UTC timestamp: since when files of the source may be missing, because retention removes them."""
    source_removed_at: float | None = None
    """UTC timestamp: when retention removed the source; None: it did not."""
    source_kept: str = ""
    """Why retention must not remove the source, in one sentence: its copy is not what was copied."""
    steps: dict[Step, StepState] = {}

    @property
    def leader_task(self) -> str:
        """Name of the first member's task directory."""
        return f"{self.task.rsplit('-m', 1)[0]}-m000" if self.leader else self.task

    def is_at(self, path: str, fingerprint: str) -> bool:
        """Whether files at a path are this scan's, as they were judged or seen since."""
        here = path == self.path and fingerprint == self.source.fingerprint
        return here or self.seen_at.get(path) == fingerprint

    def step(self, step: Step) -> StepState:
        """How a step stands."""
        return self.steps.get(step, StepState())

    @property
    def partial(self) -> bool:
        """Whether it is taken though something is missing."""
        if bytes(self.verdict) == b"null":
            return False
        return is_partial(msgspec.json.decode(self.verdict, type=_Judged).state, self.take_incomplete)

    @property
    def judged(self) -> Verdict:
        """The verdict; of scans that entered with one."""
        return msgspec.json.decode(self.verdict, type=Verdict)

    @property
    def source_is_whole(self) -> bool:
        """Whether retention left the source alone so far."""
        return self.removal_begun_at is None and self.source_removed_at is None

    @property
    def done(self) -> bool:
        """Whether every step is done."""
        return all(self.step(step).status is Status.DONE for step in Step)

    @property
    def published(self) -> bool:
        """Whether results are there and catalogued; at most sending them to a further host is left."""
        return self.step(Step.PUBLISH).status is Status.DONE

    @property
    def held(self) -> Step | None:
        """The first step that is held, if any."""
        return next((step for step in Step if self.step(step).status is Status.HELD), None)

    @property
    def lacks_space(self) -> Step | None:
        """The first step that is held for want of space alone: it goes on by itself when there is room."""
        held = (step for step in Step if self.step(step).status is Status.HELD)
        return next((step for step in held if self.step(step).cause == NoSpace.__name__), None)


# --- events, in the past tense ----------------------------------------------------------------------------


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """Something that happened to a scan."""

    scan: str


class Completed(Event, frozen=True, kw_only=True, tag="scan.completed"):
    """The scan's files are complete; carries the scan as it enters."""

    entered: Scan
    manifest: Manifest


class SeenAgain(Event, frozen=True, kw_only=True, tag="scan.seen_again"):
    """The scan's files were found elsewhere, or with other times: renamed, copied, touched. Nothing is done
    again.
    """

    path: str
    fingerprint: str
    moved: SourceFiles | None = None
    """Where they are now, if they are not any more where they were."""


class Recovered(Event, frozen=True, kw_only=True, tag="scan.recovered"):
    """The daemon started and found the scan in its journal."""


class StepDone(Event, frozen=True, kw_only=True, tag="step.done"):
    """A step is done for good."""

    step: Step
    result: msgspec.Raw
    seconds: float


class StepFailed(Event, frozen=True, kw_only=True, tag="step.failed"):
    """A step did not work out; without `retry_at` the scan is held."""

    step: Step
    reason: str
    retry_at: float | None
    cause: str = ""
    """Name of the error's class."""
    needs_bytes: int = 0
    """What must be free before it is tried again, where space is lacking."""


class RetryDue(Event, frozen=True, kw_only=True, tag="step.retry_due"):
    """The time of a retry has come."""

    step: Step


class Released(Event, frozen=True, kw_only=True, tag="scan.released"):
    """A person lets a held scan go on, perhaps with other parameters; or what it waited for is there.

    `again` names the first step to be done anew; unset, only what is held or waiting for a retry is. `only`: the
    one held step that may go on, for what else is held a person must decide.
    """

    again: Step | None = None
    only: Step | None = None
    overrides: dict[str, bool | int | float | str | None] = {}
    take_incomplete: bool = False
    """What is there shall do."""


class Superseded(Event, frozen=True, kw_only=True, tag="scan.superseded"):
    """The scan's file was rewritten; nothing more is done to this revision."""


class Renamed(Event, frozen=True, kw_only=True, tag="scan.renamed"):
    """The name of the scan's task directory was taken by another daemon on the same storage."""

    task: str


class SourceRemovalBegun(Event, frozen=True, kw_only=True, tag="scan.source_removal_begun"):
    """Retention is about to remove the first file of the scan's source.

    It is durable before anything is removed: by it, after a kill, files that are missing are known to have been
    removed by srctd and not by somebody else, and what is left is not taken for a new, incomplete scan.
    """

    at: float
    """UTC timestamp."""
    folder: str
    files: int
    bytes: int


class SourceRemoved(Event, frozen=True, kw_only=True, tag="scan.source_removed"):
    """Retention removed the scan's source, of which a proven copy is on shared storage and in the catalogue."""

    at: float
    """UTC timestamp."""
    folder: str
    files: int
    bytes: int


class SourceKept(Event, frozen=True, kw_only=True, tag="scan.source_kept"):
    """Retention wanted to remove the scan's source and found its copy damaged or gone: the source stays."""

    reason: str


AnyEvent = (
    Completed
    | SeenAgain
    | Recovered
    | StepDone
    | StepFailed
    | RetryDue
    | Released
    | Superseded
    | Renamed
    | SourceRemovalBegun
    | SourceRemoved
    | SourceKept
)


# --- commands, in the imperative --------------------------------------------------------------------------


class RunStep(msgspec.Struct, frozen=True, kw_only=True):
    """Carry a step out and report its end as an event."""

    scan: str
    step: Step


class WakeStep(msgspec.Struct, frozen=True, kw_only=True):
    """Send `RetryDue` at a time."""

    scan: str
    step: Step
    at: float


Command = RunStep | WakeStep


def dependents(step: Step) -> frozenset[Step]:
    """All steps that need this one, directly or not."""
    direct = {other for other, needs in NEEDS.items() if step in needs}
    return frozenset(direct.union(*(dependents(other) for other in direct)))


def advance(scan: Scan | None, event: AnyEvent) -> tuple[Scan, list[Command]]:
    """Return the scan after an event and what is to be done about it.

    `scan` is None exactly for `Completed`. An event that no longer fits (the end of a step that was done
    already, a retry of a step that is held) changes nothing.
    """
    if isinstance(event, Completed):
        return _start_ready(event.entered)
    if scan is None:
        raise ValueError(f"{event.scan}: no such scan")
    match event:
        case Recovered():
            return _recover(scan)
        case StepDone(step=step) if scan.step(step).status is Status.RUNNING:
            done = StepState(status=Status.DONE, result=event.result, seconds=event.seconds)
            return _start_ready(_with(scan, step, done))
        case StepFailed(step=step) if scan.step(step).status is Status.RUNNING:
            return _fail(scan, event)
        case RetryDue(step=step) if scan.step(step).status is Status.RETRYING:
            waiting = msgspec.structs.replace(scan.step(step), status=Status.WAITING, retry_at=None)
            return _start_ready(_with(scan, step, waiting))
        case Released():
            return _release(scan, event)
        case SeenAgain():
            return _see_again(scan, event)
        case Superseded() | Renamed() | SourceRemovalBegun() | SourceRemoved() | SourceKept():
            return _note(scan, event), []
    return scan, []


def _note(scan: Scan, event: Superseded | Renamed | SourceRemovalBegun | SourceRemoved | SourceKept) -> Scan:
    """Keep in mind what happened to the scan's files. Of a scan that is not done no removal can begin, and one that
    was copied keeps its name.
    """
    replace = msgspec.structs.replace
    match event:
        case Superseded():
            return replace(scan, superseded=True)
        case Renamed(task=task) if scan.step(Step.SYNC).status is not Status.DONE:
            return replace(scan, task=task)
        case SourceRemovalBegun(at=at) if scan.done and not scan.superseded:
            return replace(scan, removal_begun_at=at)
        case SourceRemoved(at=at):
            return replace(scan, source_removed_at=at)
        case SourceKept(reason=reason):
            return replace(scan, source_kept=reason)
    return scan


def _with(scan: Scan, step: Step, state: StepState) -> Scan:
    return msgspec.structs.replace(scan, steps={**scan.steps, step: state})


def _start_ready(scan: Scan) -> tuple[Scan, list[Command]]:
    """Set every step running whose needs are done and that waits; none once the scan is superseded."""
    commands: list[Command] = []
    if scan.superseded:
        return scan, commands
    for step, needs in NEEDS.items():
        ready = all(scan.step(need).status is Status.DONE for need in needs)
        if ready and scan.step(step).status is Status.WAITING:
            scan = _with(scan, step, msgspec.structs.replace(scan.step(step), status=Status.RUNNING))
            commands.append(RunStep(scan=scan.id, step=step))
    return scan, commands


def _see_again(scan: Scan, event: SeenAgain) -> tuple[Scan, list[Command]]:
    """Remember the place, or move there; a copy that failed because the files were moved begins anew."""
    if event.moved is None:
        return msgspec.structs.replace(scan, seen_at={**scan.seen_at, event.path: event.fingerprint}), []
    seen_at = {path: print_ for path, print_ in scan.seen_at.items() if path != event.path}
    scan = msgspec.structs.replace(
        scan,
        path=event.path,
        source=event.moved,
        seen_at=seen_at,
        removal_begun_at=None,  # the files are somewhere again
        source_removed_at=None,
    )
    if scan.step(Step.SYNC).status is Status.DONE:
        return scan, []
    for step in (Step.CHECK, Step.SYNC):
        if scan.step(step).status in (Status.HELD, Status.RETRYING):
            scan = _with(scan, step, StepState())
    return _start_ready(scan)


def _recover(scan: Scan) -> tuple[Scan, list[Command]]:
    for step, state in scan.steps.items():
        if state.status is Status.RUNNING:
            scan = _with(scan, step, msgspec.structs.replace(state, status=Status.WAITING))
    wakes: list[Command] = [
        WakeStep(scan=scan.id, step=step, at=state.retry_at or 0.0)
        for step, state in scan.steps.items()
        if state.status is Status.RETRYING and not scan.superseded
    ]
    scan, commands = _start_ready(scan)
    return scan, commands + wakes


def _fail(scan: Scan, event: StepFailed) -> tuple[Scan, list[Command]]:
    before = scan.step(event.step)
    state = msgspec.structs.replace(
        before,
        status=Status.HELD if event.retry_at is None else Status.RETRYING,
        attempts=before.attempts + 1,
        reason=event.reason,
        cause=event.cause,
        needs_bytes=event.needs_bytes,
        retry_at=event.retry_at,
    )
    scan = _with(scan, event.step, state)
    if event.retry_at is None:
        return scan, []
    return scan, [WakeStep(scan=scan.id, step=event.step, at=event.retry_at)]


def _release(scan: Scan, event: Released) -> tuple[Scan, list[Command]]:
    """Reset what is stuck and what is to be done again; nothing changes while any of that is running.

    Published results stay as the catalogue describes them: doing them again is a new run, from SUBMIT on.
    """
    if event.only is not None:
        held = scan.step(event.only).status is Status.HELD
        return _start_ready(_with(scan, event.only, StepState())) if held else (scan, [])
    again = affected(scan, event.again)
    if any(scan.step(step).status is Status.RUNNING for step in again):
        return scan, []
    if again & READ_THE_SOURCE and not scan.source_is_whole:
        return scan, []
    if Step.RECONSTRUCT in again and scan.step(Step.PUBLISH).status is not Status.WAITING:
        scan = msgspec.structs.replace(scan, run=scan.run + 1)
        again |= affected(scan, Step.SUBMIT)
    scan = msgspec.structs.replace(
        scan,
        overrides={**scan.overrides, **event.overrides},
        take_incomplete=scan.take_incomplete or event.take_incomplete,
        source_kept="",
    )
    for step in Step:
        if step in again or scan.step(step).status in (Status.HELD, Status.RETRYING):
            scan = _with(scan, step, StepState())
    return _start_ready(scan)


def affected(scan: Scan, again: Step | None) -> frozenset[Step]:
    """The steps that are done again if `again` is: itself and all that follow, as far as they began."""
    if again is None:
        return frozenset()
    steps = {again, *dependents(again)}
    return frozenset(step for step in steps if scan.step(step).status is not Status.WAITING)


# --- the six stages ---------------------------------------------------------------------------------------


class Stage(StrEnum):
    """The stages shown to people (Wang et al., J. Synchrotron Rad. 31, 2024)."""

    LOGIN = "LOGIN"
    CHECK = "CHECK"
    SUBMIT = "SUBMIT"
    QUEUE = "QUEUE"
    RUN = "RUN"
    DONE = "DONE"


class Box(StrEnum):
    """How a stage's box is drawn."""

    WAITING = "waiting"
    CURRENT = "current"
    DONE = "done"
    PARTIAL = "partial"
    """Done, with what is there of an incomplete scan."""
    HELD = "held"


_STEPS_OF: Mapping[Stage, tuple[Step, ...]] = {
    Stage.LOGIN: (Step.IDENTIFY,),
    Stage.CHECK: (Step.CHECK,),
    Stage.SUBMIT: (Step.SYNC, Step.SUBMIT),
    Stage.QUEUE: (),
    Stage.RUN: (Step.PREVIEW, Step.RECONSTRUCT),
    Stage.DONE: (Step.REGISTER, Step.PUBLISH, Step.SEND, Step.SEND_RESULTS),
}


def stages(scan: Scan, started: bool) -> dict[Stage, Box]:
    """The six boxes of a scan. `started`: a worker has taken, or finished, one of its jobs."""
    boxes = {stage: _box(scan, steps) for stage, steps in _STEPS_OF.items()}
    submitted = boxes[Stage.SUBMIT] is Box.DONE
    began = started or scan.step(Step.PREVIEW).status in (Status.DONE, Status.HELD)
    boxes[Stage.QUEUE] = (Box.DONE if began else Box.CURRENT) if submitted else Box.WAITING
    if boxes[Stage.RUN] is Box.CURRENT and not began:
        boxes[Stage.RUN] = Box.WAITING
    if boxes[Stage.DONE] is Box.CURRENT and boxes[Stage.RUN] is not Box.DONE:
        boxes[Stage.DONE] = Box.WAITING
    if scan.partial:
        for stage in (Stage.CHECK, Stage.DONE):
            boxes[stage] = Box.PARTIAL if boxes[stage] is Box.DONE else boxes[stage]
    return boxes


def current_stage(boxes: Mapping[Stage, Box]) -> Stage:
    """The stage a scan is at: the first that is held, else the first that is not done, else DONE."""
    held = (stage for stage, box in boxes.items() if box is Box.HELD)
    undone = (stage for stage, box in boxes.items() if box not in (Box.DONE, Box.PARTIAL))
    return next(held, next(undone, Stage.DONE))


def _box(scan: Scan, steps: tuple[Step, ...]) -> Box:
    states = [scan.step(step).status for step in steps]
    if Status.HELD in states:
        return Box.HELD
    if states and all(status is Status.DONE for status in states):
        return Box.DONE
    if any(status is not Status.WAITING for status in states):
        return Box.CURRENT
    return Box.WAITING
