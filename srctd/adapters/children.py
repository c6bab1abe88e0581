"""Child processes of the daemon: local workers and the embedded catalogue.

They are started again when they end, their output goes to the log, and none outlives the daemon, however it ends.
"""

import asyncio
import contextlib
import os
import re
import signal
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec
import structlog

from srctd.adapters.parent_bound import bound

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
HEALTHY_SECONDS = 60.0
"""A child that lived so long is started again after the first pause, not after the next longer one."""
CLOSED_MASK = 0o077
"""What a child writes is closed to others until the daemon hands it over."""
MAX_LINE_BYTES = 1 << 16
RESERVED = ("event", "level", "timestamp", "self")
"""Keys of a child's log line that the log gives anew."""
LEVELS = ("debug", "info", "warning", "error", "critical")
SYSTEMD_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM", "INVOCATION_ID")
"""What systemd tells the daemon alone."""

log = structlog.get_logger()


class ChildSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A child process to keep alive."""

    name: str
    command: tuple[str, ...]
    grace_seconds: float = 10.0
    """From SIGTERM to SIGKILL when it is stopped."""
    on_exit: Callable[[int], Awaitable[None]] | None = None
    """Told the process id of every process that ended."""


class Children:
    """Keeps child processes alive until it is stopped or canceled."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def run_forever(self, specs: Iterable[ChildSpec]) -> None:
        """Start all and start again what ends; on cancellation stop them and wait until they are gone."""
        async with asyncio.TaskGroup() as group:
            self._tasks = [group.create_task(self._keep(spec), name=f"child {spec.name}") for spec in specs]

    async def stop(self) -> None:
        """Stop all children and wait until they are gone; `run_forever` then returns."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def pids(self) -> dict[str, int]:
        """Process ids by name, of the children that run now."""
        return {name: process.pid for name, process in self._running.items()}

    async def _keep(self, spec: ChildSpec) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            started = time.monotonic()
            status = await self._live(spec)
            lived = time.monotonic() - started
            if lived >= HEALTHY_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            log.warning(
                "child.exited",
                child=spec.name,
                status=status,
                lived_seconds=round(lived, 3),
                again_in_seconds=pause,
            )
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _live(self, spec: ChildSpec) -> int | None:
        """One life of a child; return its exit status, negative for a signal, None if it could not be started."""
        try:
            process, output, relay = await _start(spec)
        except OSError as exc:
            log.error("child.not_started", child=spec.name, reason=str(exc))
            return None
        self._running[spec.name] = process
        log.info("child.started", child=spec.name, pid=process.pid)
        try:
            status = await process.wait()
        finally:
            await _end(spec, process)
            await asyncio.wait({relay}, timeout=1.0)
            relay.cancel()
            output.close()
            del self._running[spec.name]
        if spec.on_exit is not None:
            await spec.on_exit(process.pid)
        return status


async def _start(
    spec: ChildSpec,
) -> tuple[asyncio.subprocess.Process, asyncio.ReadTransport, asyncio.Task[None]]:
    """The process, the pipe that it writes to, and the task that reads it.

    The pipe is our own: over one of asyncio's, `wait` would last until grandchildren have closed it, too.
    """
    ours, theirs = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *(*bound(os.getpid()), *spec.command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=theirs,
            stderr=asyncio.subprocess.STDOUT,
            env={name: value for name, value in os.environ.items() if name not in SYSTEMD_VARIABLES},
            umask=CLOSED_MASK,
            start_new_session=True,  # Ctrl-C at a terminal is for the daemon, which then stops its children
        )
    except (OSError, asyncio.CancelledError):
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    reader = asyncio.StreamReader()
    output, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours, "rb", 0)
    )
    return process, output, asyncio.create_task(_relay(spec.name, reader))


async def _end(spec: ChildSpec, process: asyncio.subprocess.Process) -> None:
    """Ask a child to end, then kill it, and with it what it left behind in its session."""
    try:
        if process.returncode is None:
            process.terminate()
            async with asyncio.timeout(spec.grace_seconds):
                await process.wait()
    except TimeoutError:
        log.warning("child.killed", child=spec.name, grace_seconds=spec.grace_seconds)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


# --- what children say ------------------------------------------------------------------------------------


async def _relay(child: str, stream: asyncio.StreamReader) -> None:
    """Hand a child's output to the log, line by line; a line without end is cut."""
    rest = b""
    while chunk := await stream.read(MAX_LINE_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            lines.append(rest)
            rest = b""
        for line in lines:
            _say(child, line.decode(errors="replace"))
    if rest:
        _say(child, rest.decode(errors="replace"))


def _say(child: str, line: str) -> None:
    """Log a child's line: as the event that it is where the child logs JSON, else as text."""
    found = re.match(r"<([0-7])>", line)
    text = line[3:] if found else line
    fields = _event(text)
    level = _level(int(found[1])) if found else str(fields.get("level", "info"))
    log_it = getattr(log, level if level in LEVELS else "info")
    if fields:
        own = {name: value for name, value in fields.items() if name not in RESERVED}
        log_it(str(fields["event"]), **{**own, "child": child})
    elif text.strip():
        log_it("child.output", child=child, line=text)


def _level(priority: int) -> str:
    """The log method for a syslog priority."""
    if priority <= 3:
        return "error"
    if priority == 4:
        return "warning"
    return "info" if priority <= 6 else "debug"


def _event(text: str) -> dict[str, Any]:
    """The fields of a log line in JSON; empty for anything else."""
    try:
        fields = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return {}
    return fields if "event" in fields else {}
