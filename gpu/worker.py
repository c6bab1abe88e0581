"""The worker: takes jobs from the pool, one at a time, and says every second that it lives.

Two sockets: one for jobs and results, used by the main thread only, and one for heartbeats, used by a thread that
beats whatever the main thread computes. A pool that was restarted answers a heartbeat with `WhoAreYou`; the worker
then says hello again, but with empty hands only, that is after the job it has. The job is not lost by that: what it
wrote is found when the shard is given out again.

Told to stop by the pool, it finishes the job in hand; by SIGTERM, or by the end of its parent, it hands the job
back at the next slab.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import structlog
import zmq

from gpu import memory
from gpu.kernels.device import find
from gpu.pipeline import Canceled, Outcome, Resources, run_rows
from gpu.preview import run_preview
from srctd import __version__
from srctd.core.errors import NoSpace, SrctdError, TransientError
from srctd.core.messages import (
    Assign,
    FromWorker,
    Goodbye,
    Heartbeat,
    Hello,
    Job,
    JobDone,
    JobFailed,
    MessageError,
    PreviewJob,
    Stop,
    ToWorker,
    WhoAreYou,
    decode_to_worker,
    encode,
)

log = structlog.get_logger()

BEAT_SECONDS = 1.0
TURN_MILLISECONDS = 200
"""How often an idle worker looks for a signal or its parent's end."""
HELLO_PAUSE_SECONDS = 3.0
"""A `WhoAreYou` that comes sooner after a hello crossed it on the way."""
LINGER_MILLISECONDS = 2000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the command line says."""

    endpoint: str
    name: str
    threads: int = 1
    memory_bytes: int | None = None
    die_with_parent: bool = False
    device: str = "auto"
    """`auto`, `cpu` or `gpu`."""


@dataclass
class State:
    """What the main thread tells the heart, and the heart and the signals tell the main thread."""

    lease: str | None = None
    phase: str = "idle"
    done: float = 0.0
    unknown: threading.Event = field(default_factory=threading.Event)
    """The pool asked who we are."""
    leaving: threading.Event = field(default_factory=threading.Event)
    """A signal came, or the parent is gone."""
    ended: threading.Event = field(default_factory=threading.Event)
    """The heart may stop."""


def main(settings: Settings) -> int:
    """Serve until told to stop; returns the exit status."""
    configure_logs()
    memory.share_heap()
    state = State()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: state.leaving.set())
    with zmq.Context() as context:
        heart = threading.Thread(target=_beat, args=(context, settings, state), name="heart")
        heart.start()
        try:
            with _socket(context, settings.endpoint) as pool:
                Worker(settings, state, pool).serve()
        finally:
            state.ended.set()
            heart.join()
    return 0


class Worker:
    """The main thread's part."""

    def __init__(self, settings: Settings, state: State, pool: zmq.Socket[bytes]) -> None:
        self._settings, self._state, self._pool = settings, state, pool
        self._resources = Resources(
            threads=settings.threads, memory_bytes=settings.memory_bytes, device=find(settings.device)
        )
        self._said_hello = 0.0
        self._ignored = 0

    def serve(self) -> None:
        """Say hello, take jobs until told to stop, say goodbye."""
        log.info(
            "worker.started",
            worker=self._settings.name,
            pid=os.getpid(),
            threads=self._settings.threads,
            device=self._resources.device_name,
        )
        self._say_hello()
        while not self._state.leaving.is_set():
            message = self._receive()
            if isinstance(message, Assign):
                self._state.unknown.clear()  # whoever gives us a job knows us
                self._work(message)
            elif isinstance(message, Stop):
                break
            elif isinstance(message, WhoAreYou) or self._asked():
                self._say_hello()
        self._send(Goodbye(worker=self._settings.name, lease=self._state.lease))
        log.info("worker.stopped", worker=self._settings.name)

    def _asked(self) -> bool:
        """Whether the pool wants to know who we are, and has not heard it since."""
        waited = time.monotonic() - self._said_hello
        return self._state.unknown.is_set() and waited > HELLO_PAUSE_SECONDS

    def _say_hello(self) -> None:
        self._state.unknown.clear()
        self._said_hello = time.monotonic()
        self._send(
            Hello(
                worker=self._settings.name,
                host=socket.gethostname(),
                pid=os.getpid(),
                device=self._resources.device_name,
                threads=self._settings.threads,
                free_bytes=self._resources.budget(),
                version=__version__,
            )
        )

    def _send(self, message: FromWorker) -> None:
        self._pool.send(encode(message))

    def _receive(self) -> ToWorker | None:
        """The next message, or None if none comes within a turn; foreign bytes are counted and ignored."""
        if not self._pool.poll(TURN_MILLISECONDS):
            return None
        try:
            return decode_to_worker(b"".join(self._pool.recv_multipart()))
        except MessageError as exc:
            self._ignored += 1
            log.warning("message.ignored", reason=str(exc), ignored=self._ignored)
            return None

    def _work(self, assign: Assign) -> None:
        """Do a job and send what became of it; a job given up leaves its lease in the state."""
        state = self._state
        state.lease, state.phase, state.done = assign.lease, "start", 0.0
        with structlog.contextvars.bound_contextvars(scan=assign.job.scan, lease=assign.lease):
            log.info("job.started", job=type(assign.job).__name__)
            start = time.perf_counter()
            try:
                answer = self._attempt(assign)
            except Canceled:
                log.info("job.handed_back", phase=state.phase, done=round(state.done, 3))
                return
            seconds = round(time.perf_counter() - start, 3)
            if isinstance(answer, JobFailed):
                log.warning("job.failed", kind=answer.kind, reason=answer.message, seconds=seconds)
            else:
                log.info("job.done", seconds=seconds, phases=answer.seconds, peak_bytes=answer.peak_bytes)
        self._send(answer)
        state.lease, state.phase, state.done = None, "idle", 0.0

    def _attempt(self, assign: Assign) -> JobDone | JobFailed:
        """Do a job; whatever goes wrong with it becomes an answer, and the worker lives on."""
        name, lease = self._settings.name, assign.lease
        try:
            outcome = self._run(assign.job)
        except (TransientError, MemoryError) as exc:
            hint = exc.hint if isinstance(exc, SrctdError) else "give the workers more memory"
            return JobFailed(
                worker=name, lease=lease, kind="transient", message=str(exc) or "no memory", hint=hint
            )
        except NoSpace as exc:
            return JobFailed(worker=name, lease=lease, kind="space", message=str(exc), hint=exc.hint)
        except SrctdError as exc:
            return JobFailed(worker=name, lease=lease, kind="hold", message=str(exc), hint=exc.hint)
        except Exception as exc:
            log.exception("job.crashed")
            return JobFailed(worker=name, lease=lease, kind="bug", message=f"{type(exc).__name__}: {exc}")
        seconds = {phase: round(value, 6) for phase, value in outcome.seconds.items()}
        return JobDone(
            worker=name, lease=lease, result=outcome.result, seconds=seconds, peak_bytes=memory.peak_bytes()
        )

    def _run(self, job: Job) -> Outcome:
        if isinstance(job, PreviewJob):
            return run_preview(job, self._resources, self._checkpoint)
        return run_rows(job, self._resources, self._checkpoint)

    def _checkpoint(self, phase: str, done: float) -> None:
        if self._state.leaving.is_set():
            raise Canceled
        self._state.phase, self._state.done = phase, done


def _beat(context: zmq.Context[zmq.Socket[bytes]], settings: Settings, state: State) -> None:
    """The heart: tell how the main thread is doing, hear whether the pool knows us, watch the parent."""
    parent = os.getppid()
    with _socket(context, settings.endpoint, immediate=True) as pool:
        while not state.ended.wait(BEAT_SECONDS):
            if settings.die_with_parent and os.getppid() != parent:
                state.leaving.set()
            beat = Heartbeat(
                worker=settings.name,
                lease=state.lease,
                phase=state.phase,
                done=state.done,
                free_bytes=memory.available_bytes(),
            )
            with contextlib.suppress(zmq.Again):  # no pool there: it will ask when it is back
                pool.send(encode(beat), zmq.DONTWAIT)
            for message in _waiting(pool):
                if isinstance(message, WhoAreYou):
                    state.unknown.set()


def _waiting(pool: zmq.Socket[bytes]) -> Iterator[ToWorker]:
    while pool.poll(0):
        with contextlib.suppress(MessageError):
            yield decode_to_worker(pool.recv())


def _socket(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, *, immediate: bool = False
) -> zmq.Socket[bytes]:
    """A DEALER on the way to the pool; ZeroMQ connects it again whenever the pool was away.

    What is sent meanwhile waits, or is refused if it should leave at once (`immediate`).
    """
    pool = context.socket(zmq.DEALER)
    pool.setsockopt(zmq.IMMEDIATE, int(immediate))
    pool.setsockopt(zmq.LINGER, LINGER_MILLISECONDS)
    pool.setsockopt(zmq.RECONNECT_IVL, 100)
    pool.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)
    pool.setsockopt(zmq.HEARTBEAT_IVL, 5000)  # a host that vanished is noticed, and connected to again
    pool.setsockopt(zmq.HEARTBEAT_TIMEOUT, 15000)
    pool.connect(endpoint)
    return pool


def configure_logs() -> None:
    """Log to stderr: for people on a terminal, as JSON otherwise."""
    terminal = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
