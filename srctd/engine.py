"""One event at a time: journal it, let `advance` decide, start what follows; a step's end is the next event.

The engine holds the scans and nothing else that matters: all of it is in the journal before anything is
started, so the process may be killed anywhere.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec
import structlog

from srctd.adapters import sync
from srctd.core import retry
from srctd.core.errors import JournalError, NoSpace, SrctdError, TransientError
from srctd.core.lifecycle import (
    AnyEvent,
    Command,
    Completed,
    Recovered,
    Renamed,
    RetryDue,
    RunStep,
    Scan,
    SourceKept,
    SourceRemovalBegun,
    SourceRemoved,
    Step,
    StepDone,
    StepFailed,
    Superseded,
    WakeStep,
    advance,
)
from srctd.core.scan import member_task, numbered
from srctd.services import Services, Work
from srctd.steps import STEPS, StepFunction

log = structlog.get_logger()
T = TypeVar("T")
LAST_SECONDS = 2.0
"""For canceled steps; a thread that hangs on a dead file server is left behind."""
CUT_AT_ONCE = frozenset({Step.PREVIEW, Step.RECONSTRUCT, Step.SEND, Step.SEND_RESULTS})
"""At a stop: they wait for others, and go on where they were."""


class JournalPort(Protocol):
    """Durable memory. Errors: `JournalError`, which ends the process."""

    def load(self) -> list[Scan]:
        """All scans with their finished, retrying and held steps."""

    def commit(self, scan: Scan, event: AnyEvent, at: float) -> int:
        """Make an event and the scan after it durable; return the event's number."""


class JournalThread:
    """Runs the journal's methods one after the other in a thread of its own, off the event loop."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="journal")

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Await `function(*args)`, run in the journal's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, partial(function, *args))

    def close(self) -> None:
        """Wait for what is under way."""
        self._executor.shutdown()


class Engine:
    """All scans of the daemon, moved on by events."""

    def __init__(
        self,
        journal: JournalPort,
        thread: JournalThread,
        services: Services,
        timeouts: Mapping[Step, float],
        publish: Callable[[str, dict[str, Any]], None],
        steps: Mapping[Step, StepFunction] = STEPS,
    ) -> None:
        self.scans: dict[str, Scan] = {}
        self._at: dict[str, set[str]] = {}  # path -> scans that are, or were seen, there
        self._with_content: dict[str, set[str]] = {}
        self._journal = journal
        self._thread = thread
        self._services = services
        self._timeouts = timeouts
        self._publish = publish
        self._steps = steps
        self._events: asyncio.Queue[AnyEvent] = asyncio.Queue()
        self._running: dict[tuple[str, Step], asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup
        self._ready = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._stopping = False

    def load(self, scans: Iterable[Scan]) -> None:
        """Take over the journal's scans, in the order in which they came; each goes on where it was."""
        for scan in scans:
            self._keep(scan)
            if not scan.done and not scan.superseded:
                self.tell(Recovered(scan=scan.id))

    def tell(self, event: AnyEvent) -> None:
        """Put an event in line. Call it in the event loop's thread."""
        self._events.put_nowait(event)

    def at(self, path: str) -> Scan | None:
        """The scan at a path: the first member of the newest revision, else one that was seen there."""
        newest = self.newest_at(path)
        if newest:
            return newest[0]
        seen = (self.scans[name] for name in self._at.get(path, ()))
        return max(
            seen, key=lambda scan: (not scan.superseded, scan.completed_at, -scan.member), default=None
        )

    def holding(self, path: str, fingerprint: str) -> Scan | None:
        """The scan whose files these are, as they were judged or seen since; None if it was superseded."""
        there = (self.scans[name] for name in self._at.get(path, ()))
        mine = (scan for scan in there if not scan.superseded and scan.is_at(path, fingerprint))
        return min(mine, key=lambda scan: scan.member, default=None)

    def newest_at(self, path: str) -> list[Scan]:
        """All members of the newest revision of the scan whose own path this is."""
        own = [scan for name in self._at.get(path, ()) if (scan := self.scans[name]).path == path]
        revision = max((scan.revision for scan in own), default=0)
        return sorted((scan for scan in own if scan.revision == revision), key=lambda scan: scan.member)

    def with_content(self, content: str) -> list[Scan]:
        """All members of the newest scan with a content, wherever it lies; none for an empty digest."""
        same = [self.scans[name] for name in self._with_content.get(content, ()) if content]
        alive = sorted((scan for scan in same if not scan.superseded), key=lambda scan: scan.completed_at)
        newest = [
            scan for scan in alive if (scan.path, scan.revision) == (alive[-1].path, alive[-1].revision)
        ]
        return sorted(newest, key=lambda scan: scan.member)

    def tasks(self) -> set[str]:
        """Names of task directories that scans have; members of one file have one together."""
        return {_task_of(scan) for scan in self.scans.values()}

    async def rename(self, leader: str) -> Scan:
        """Give a scan, and all members of its files, another name of a task directory, which no scan has.

        The first member, which is returned, comes last: killed before that, it finds its name taken again, and all
        are renamed once more.
        """
        members = [scan for scan in self.scans.values() if leader in (scan.id, scan.leader)]
        taken = self.tasks()
        task = next(name for name in numbered(_task_of(self.scans[leader])) if name not in taken)
        for scan in sorted(members, key=lambda scan: scan.member, reverse=True):
            own = member_task(task, scan.member) if scan.members > 1 else task
            await self.happen(Renamed(scan=scan.id, task=own))
        log.info("scan.renamed", scan=leader, task=task)
        return self.scans[leader]

    def _keep(self, scan: Scan) -> None:
        self.scans[scan.id] = scan
        for path in (scan.path, *scan.seen_at):
            self._at.setdefault(path, set()).add(scan.id)
        self._with_content.setdefault(scan.content, set()).add(scan.id)

    def running(self, scan: str) -> frozenset[Step]:
        """Steps of a scan that are being carried out now."""
        return frozenset(step for name, step in self._running if name == scan)

    async def run_forever(self) -> None:
        """Handle events until cancelled. A bug here, or a journal that fails, ends the process."""
        async with asyncio.TaskGroup() as self._group:
            self._ready.set()
            while True:
                await self.happen(await self._events.get())

    async def happen(self, event: AnyEvent) -> Scan:
        """Let an event happen now; return the scan once the event is durable and its commands are started."""
        await self._ready.wait()
        async with self._one_at_a_time:
            commands = await self._record(event)
            if isinstance(event, Superseded):
                self._cancel_steps(event.scan)
            for command in commands:
                self._start(command)
            return self.scans[event.scan]

    async def stop(self, grace_seconds: float) -> None:
        """Start nothing more, give what runs a grace, cancel the rest.

        What is cut short is done again, so steps that wait for others are cut at once: finished shards, and what
        was sent, stay.
        """
        self._stopping = True
        for (_, step), task in self._running.items():
            if step in CUT_AT_ONCE:
                task.cancel()
        tasks = list(self._running.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=LAST_SECONDS)
        while not self._events.empty():
            await self.happen(self._events.get_nowait())
        async with self._one_at_a_time:  # the last one may still be on its way to the journal
            pass

    def _start(self, command: Command) -> None:
        match command:
            case RunStep(scan=scan, step=step) if not self._stopping:
                task = self._group.create_task(self._run(scan, step), name=f"{scan}:{step}")
                self._running[scan, step] = task
            case WakeStep(scan=scan, step=step, at=at):
                delay = max(0.0, at - time.time())
                asyncio.get_running_loop().call_later(delay, self.tell, RetryDue(scan=scan, step=step))

    def _cancel_steps(self, scan: str) -> None:
        for (name, _), task in self._running.items():
            if name == scan:
                task.cancel()

    async def _record(self, event: AnyEvent) -> list[Command]:
        """Let the event happen: decide, make it durable, tell the feed."""
        scan, commands = advance(self.scans.get(event.scan), event)
        sequence = await self._thread.call(self._journal.commit, scan, event, time.time())
        self._keep(scan)
        self._publish(_topic(event), {"sequence": sequence, **_summary(scan, event)})
        return commands

    async def _run(self, scan_id: str, step: Step) -> None:
        """Carry a step out; its end, good or bad, becomes an event."""
        with structlog.contextvars.bound_contextvars(scan=scan_id, step=str(step)):
            began = time.monotonic()
            self._publish("step.started", {"scan": scan_id, "step": str(step)})
            try:
                event = await self._outcome(scan_id, step, began)
            finally:
                del self._running[scan_id, step]
            self.tell(event)

    async def _outcome(self, scan_id: str, step: Step, began: float) -> StepDone | StepFailed:
        scan = self.scans[scan_id]
        limit = self._timeouts[step]
        deadline = asyncio.timeout(limit)
        try:
            async with deadline:
                result = await self._steps[step](Work(scan=scan, services=self._services))
        except JournalError:
            raise
        except SrctdError as exc:
            return self._failed(scan, step, exc, exc.sentence)
        except Exception as exc:
            if deadline.expired():
                late = TransientError(f"{step} of {scan_id} did not end within {limit:g} s")
                return self._failed(scan, step, late, late.sentence)
            if isinstance(exc, OSError) and exc.errno is not None:  # a file system's word is no bug
                told = sync.storage_error(exc, f"{exc.filename or scan.path} cannot be used in {step}")
                return self._failed(scan, step, told, told.sentence)
            log.exception("step.bug")  # it holds this one scan, the daemon lives on
            return self._failed(scan, step, exc, f"internal error in {step}: {type(exc).__name__}: {exc}")
        seconds = time.monotonic() - began
        log.info("step.done", seconds=round(seconds, 3))
        return StepDone(
            scan=scan_id, step=step, result=msgspec.Raw(msgspec.json.encode(result)), seconds=seconds
        )

    def _failed(self, scan: Scan, step: Step, error: Exception, sentence: str) -> StepFailed:
        now = time.time()
        retry_at = retry.decide(error, scan.step(step).attempts, now, random.random())
        retry_in = None if retry_at is None else round(retry_at - now, 1)
        log.warning("step.failed", reason=sentence, retry_in_seconds=retry_in, held=retry_at is None)
        return StepFailed(
            scan=scan.id,
            step=step,
            reason=sentence,
            retry_at=retry_at,
            cause=type(error).__name__,
            needs_bytes=error.needs if isinstance(error, NoSpace) else 0,
        )


def _task_of(scan: Scan) -> str:
    return scan.task.rsplit("-m", 1)[0] if scan.members > 1 else scan.task


def _topic(event: AnyEvent) -> str:
    return str(event.__struct_config__.tag)


def _summary(scan: Scan, event: AnyEvent) -> dict[str, Any]:
    """What the feed says of an event: small, without the steps' results."""
    body: dict[str, Any] = {"scan": scan.id, "at": time.time()}
    match event:
        case Completed():
            body |= {"path": scan.path, "bytes": scan.source.bytes, "files": scan.source.files}
        case Renamed(task=task):
            body |= {"task": task}
        case StepDone(step=step, seconds=seconds):
            body |= {"step": str(step), "seconds": round(seconds, 3), "scan_done": scan.done}
        case StepFailed(step=step, reason=reason, retry_at=retry_at):
            body |= {"step": str(step), "reason": reason, "retry_at": retry_at, "held": retry_at is None}
        case SourceRemovalBegun(files=files, bytes=size) | SourceRemoved(files=files, bytes=size):
            body |= {"path": scan.path, "files": files, "bytes": size}
        case SourceKept(reason=reason):
            body |= {"path": scan.path, "reason": reason}
    return body
