"""The worker pool over ZeroMQ: one ROUTER socket, to which every worker comes with two DEALER sockets.

The first one says hello, takes jobs and brings results; heartbeats come from a thread with the second one, so
that a worker that computes still lives. What is decided is decided by `srctd.core.dispatch`; here it is sent,
received and awaited.
"""

import asyncio
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from srctd.core.dispatch import Dispatcher, Lease, Loss, QueuedJob, ScanJobs, describe, poison_error
from srctd.core.endpoints import require_local
from srctd.core.errors import ConfigError, HoldError, NoSpace, ReconstructionFailed, TransientError
from srctd.core.messages import (
    PROTOCOL,
    Assign,
    FromWorker,
    Goodbye,
    Heartbeat,
    Hello,
    Job,
    JobDone,
    JobFailed,
    JobResult,
    MessageError,
    Stop,
    ToWorker,
    WhoAreYou,
    decode_from_worker,
    encode,
)

MAX_MESSAGE_BYTES = 1 << 20
MESSAGES_PER_TURN = 1000
"""As many as the socket holds for one worker: after a pause, all heartbeats are heard before a lease expires."""
TURNS_PER_LEASE = 10
STRANGERS = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
COUNTED = ("rubbish", "strangers", "late_results", "expired_leases", "jobs_done", "jobs_failed")

OnEvent = Callable[[str, dict[str, Any]], None]


class JobOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a job."""

    result: JobResult
    seconds: Mapping[str, float]
    """By phase, as the worker measured."""
    peak_bytes: int
    worker: str


class Pool:
    """Jobs in, outcomes out; workers come and go."""

    def __init__(self, endpoints: Sequence[str], *, lease_seconds: float, on_event: OnEvent) -> None:
        """Touches nothing yet. `on_event` is told `worker.*` and `shard.*` topics with their fields."""
        self._wanted = [require_local(endpoint) for endpoint in endpoints]
        self._lease_seconds = lease_seconds
        self._on_event = on_event
        self._dispatcher = Dispatcher(session=secrets.token_hex(4), lease_seconds=lease_seconds)
        self._waiters: dict[int, asyncio.Future[JobOutcome]] = {}
        self._routes: dict[str, bytes] = {}  # worker -> routing id of the socket that said hello
        self._counters = Counter(dict.fromkeys(COUNTED, 0))
        self._draining = False
        self._host = socket.gethostname()
        self._context: zmq.asyncio.Context | None = None
        self._socket: zmq.asyncio.Socket | None = None
        self.endpoints: list[str] = []
        """Where workers connect, once bound."""

    # --- for the steps ------------------------------------------------------------------------------------

    def worker_count(self) -> int:
        """How many workers there are now."""
        return len(self._dispatcher.workers)

    async def run(self, job: Job, *, priority: int = 0) -> JobOutcome:
        """Have a job done by some worker, however often workers are lost over it.

        Larger `priority` goes first. Cancellation takes the job from the queue; a worker that has it already is
        left to finish.

        Raises `ReconstructionFailed` where the scan is at fault, `TransientError` where trying again may help,
        `HoldError` where the worker's program is at fault or the job was lost too often.
        """
        queued = self._dispatcher.submit(job, priority=priority, now=time.monotonic())
        waiter: asyncio.Future[JobOutcome] = asyncio.get_running_loop().create_future()
        self._waiters[queued.id] = waiter
        try:
            await self._assign()
            return await waiter
        finally:
            del self._waiters[queued.id]
            self._dispatcher.cancel(queued)

    # --- for the daemon -----------------------------------------------------------------------------------

    def bind(self) -> None:
        """Open the socket; raises `ConfigError` naming an endpoint that cannot be bound."""
        self._context = zmq.asyncio.Context()
        sock = self._context.socket(zmq.ROUTER)
        sock.setsockopt(zmq.LINGER, 500)
        sock.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        sock.setsockopt(zmq.ROUTER_MANDATORY, 1)  # what is sent to a worker that is gone is not dropped
        self._socket = sock
        for endpoint in self._wanted:
            try:
                sock.bind(endpoint)
            except zmq.ZMQError as exc:
                self.close()
                raise ConfigError(
                    f"pool endpoint {endpoint!r} cannot be bound: {exc.strerror}",
                    hint="is another srctd running, does the folder exist, is the path short (107 bytes)?",
                ) from exc
            self.endpoints.append(sock.getsockopt_string(zmq.LAST_ENDPOINT))

    async def run_forever(self) -> None:
        """Serve the workers until canceled."""
        pause = round(1000 * self._lease_seconds / TURNS_PER_LEASE)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._count_strangers(self._open))
            while True:
                await self._open.poll(pause)
                await (
                    self._receive()
                )  # also when the pause is over: what came meanwhile is heard before judging
                self._expire()
                await self._assign()

    async def drain(self, grace_seconds: float = 0.0) -> None:
        """Give out no more jobs; wait up to `grace_seconds` for those that workers have in hand."""
        self._draining = True
        held = {lease.job.id for lease in self._dispatcher.leases.values()}
        waiters = [waiter for job, waiter in self._waiters.items() if job in held]
        if waiters:
            await asyncio.wait(waiters, timeout=grace_seconds)

    async def worker_died(self, pid: int) -> None:
        """A worker process on this machine is known to be gone: its job need not wait for the lease."""
        for worker in list(self._dispatcher.workers.values()):
            if worker.pid == pid and worker.host == self._host:
                self._lost(worker.name, "died")
        await self._assign()

    def close(self) -> None:
        """Close the socket; what was sent last has half a second to leave."""
        if self._context is not None:
            self._context.destroy()
            self._context = self._socket = None

    # --- for the status -----------------------------------------------------------------------------------

    def progress(self) -> dict[str, ScanJobs]:
        """How the jobs of every scan stand that has any."""
        return self._dispatcher.progress()

    def jobs_of(self, scan: str) -> ScanJobs:
        """How the jobs of one scan stand; also after the last one is done."""
        return self._dispatcher.jobs_of(scan)

    def workers(self) -> list[dict[str, Any]]:
        """One row for each worker, ready for JSON."""
        now = time.monotonic()
        return [self._worker_row(name, now) for name in sorted(self._dispatcher.workers)]

    def counters(self) -> dict[str, int]:
        """What was counted since the start, and how many jobs wait."""
        return {**self._counters, "queued": len(self._dispatcher.queue)}

    def _worker_row(self, name: str, now: float) -> dict[str, Any]:
        worker = self._dispatcher.workers[name]
        lease = self._dispatcher.leases[worker.lease] if worker.lease else None
        return {
            "name": name,
            "host": worker.host,
            "pid": worker.pid,
            "device": worker.device,
            "threads": worker.threads,
            "free_bytes": worker.free_bytes,
            "phase": worker.phase,
            "scan": lease.job.job.scan if lease else None,
            "job": describe(lease.job.job) if lease else None,
            "done": worker.done,
            "seen_seconds_ago": round(now - worker.last_seen, 3),
        }

    # --- receiving ----------------------------------------------------------------------------------------

    @property
    def _open(self) -> zmq.asyncio.Socket:
        if self._socket is None:
            raise RuntimeError("the pool is not bound")
        return self._socket

    async def _receive(self) -> None:
        """Take what has come, up to a bound."""
        for _ in range(MESSAGES_PER_TURN):
            try:
                frames: list[bytes] = await self._open.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            try:
                route, payload = frames
                message = decode_from_worker(payload)
            except (ValueError, MessageError):
                self._counters["rubbish"] += 1
            else:
                await self._handle(route, message)

    async def _count_strangers(self, sock: zmq.asyncio.Socket) -> None:
        """Count connections that do not speak ZeroMQ: their bytes never become messages."""
        monitor: zmq.asyncio.Socket = sock.get_monitor_socket(STRANGERS)
        try:
            while True:
                await monitor.recv_multipart()
                self._counters["strangers"] += 1
        finally:
            sock.disable_monitor()
            monitor.close()

    async def _handle(self, route: bytes, message: FromWorker) -> None:
        match message:
            case Hello():
                await self._welcome(route, message)
            case Heartbeat():
                if not self._dispatcher.beat(message, time.monotonic()):
                    await self._send_to(route, WhoAreYou())
            case JobDone() | JobFailed():
                self._answered(message)
            case Goodbye():
                self._lost(message.worker, "left", blame=False)

    async def _welcome(self, route: bytes, hello: Hello) -> None:
        if hello.protocol != PROTOCOL:
            self._on_event(
                "worker.refused",
                {"worker": hello.worker, "protocol": hello.protocol, "wanted": PROTOCOL},
            )
            await self._send_to(route, Stop())
            return
        losses = self._dispatcher.join(hello, time.monotonic())
        self._routes[hello.worker] = route
        self._on_event(
            "worker.joined",
            {"worker": hello.worker, "host": hello.host, "pid": hello.pid, "device": hello.device},
        )
        self._reassign(losses)

    def _answered(self, message: JobDone | JobFailed) -> None:
        lease = self._dispatcher.finish(message.lease, message.worker)
        if lease is None:
            self._counters["late_results"] += 1
            return
        waiter = self._waiters.get(lease.job.id)
        seconds = round(time.monotonic() - lease.granted_at, 3)
        if isinstance(message, JobDone):
            self._counters["jobs_done"] += 1
            self._on_event("shard.done", {**_fields(lease), "seconds": seconds})
            outcome = JobOutcome(
                result=message.result,
                seconds=message.seconds,
                peak_bytes=message.peak_bytes,
                worker=message.worker,
            )
            if waiter is not None and not waiter.done():
                waiter.set_result(outcome)
            return
        self._counters["jobs_failed"] += 1
        self._on_event("shard.failed", {**_fields(lease), "kind": message.kind, "reason": message.message})
        self._fail(lease.job, _error(message))

    # --- losing -------------------------------------------------------------------------------------------

    def _expire(self) -> None:
        silent, losses = self._dispatcher.expire(time.monotonic())
        for worker in silent:
            self._routes.pop(worker.name, None)
            self._on_event("worker.lost", {"worker": worker.name, "reason": "silent"})
        self._counters["expired_leases"] += len(losses)
        self._reassign(losses)

    def _lost(self, worker: str, reason: str, *, blame: bool = True) -> None:
        """A worker is gone; `reason` is `left`, `died` or `unreachable`."""
        if worker not in self._dispatcher.workers:
            return
        losses = self._dispatcher.leave(worker, time.monotonic(), blame=blame)
        self._routes.pop(worker, None)
        topic = "worker.left" if reason == "left" else "worker.lost"
        self._on_event(topic, {"worker": worker, "reason": reason})
        self._reassign(losses)

    def _reassign(self, losses: list[Loss]) -> None:
        """Tell of jobs that are in the queue again, and fail those that are poison."""
        for loss in losses:
            fields = {**_fields(loss.lease), "times_lost": len(loss.job.lost_with)}
            if loss.poison:
                self._on_event("shard.poisoned", fields)
                self._fail(loss.job, poison_error(loss.job))
            else:
                self._on_event("shard.reassigned", fields)

    def _fail(self, job: QueuedJob, error: Exception) -> None:
        waiter = self._waiters.get(job.id)
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)

    # --- sending ------------------------------------------------------------------------------------------

    async def _assign(self) -> None:
        """Give out what can be given out; a worker that turns out to be gone is lost at once."""
        if self._draining:
            return
        while leases := self._dispatcher.assign(time.monotonic()):
            for lease in leases:
                if await self._send(lease.worker, Assign(lease=lease.id, job=lease.job.job)):
                    waited = round(lease.granted_at - lease.job.queued_at, 3)
                    self._on_event("shard.assigned", {**_fields(lease), "waited_seconds": waited})
                else:
                    self._lost(lease.worker, "unreachable", blame=False)

    async def _send(self, worker: str, message: ToWorker) -> bool:
        route = self._routes.get(worker)
        return route is not None and await self._send_to(route, message)

    async def _send_to(self, route: bytes, message: ToWorker) -> bool:
        """Whether the peer is there and could take the message."""
        try:
            await self._open.send_multipart([route, encode(message)], zmq.DONTWAIT)
        except zmq.ZMQError as exc:
            if exc.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            return False
        return True


def _error(message: JobFailed) -> Exception:
    match message.kind:
        case "transient":
            return TransientError(message.message, hint=message.hint)
        case "space":
            return NoSpace(message.message, hint=message.hint)
        case "hold":
            return ReconstructionFailed(message.message, hint=message.hint)
    return HoldError(f"worker {message.worker} failed: {message.message}", hint=message.hint)


def _fields(lease: Lease) -> dict[str, Any]:
    """What every `shard.*` event tells."""
    job = lease.job.job
    return {"scan": job.scan, "job": describe(job), "worker": lease.worker, "lease": lease.id}
