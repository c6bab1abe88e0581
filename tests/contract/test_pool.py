"""The pool with real sockets and workers that follow a script."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio

from srctd.adapters.pool import MAX_MESSAGE_BYTES, Pool
from srctd.core.errors import ConfigError, HoldError, ReconstructionFailed, TransientError
from srctd.core.messages import (
    Assign,
    Goodbye,
    Heartbeat,
    Hello,
    Job,
    JobDone,
    JobFailed,
    Message,
    PreviewJob,
    RowsJob,
    RowsResult,
    Stop,
    ToWorker,
    WhoAreYou,
    decode_to_worker,
    encode,
)

LONG = 60.0
"""A lease that does not run out within a test."""
SHORT = 0.3
PATIENCE = 20.0


class Events:
    """What the pool tells, to be awaited."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, topic: str, fields: dict[str, Any]) -> None:
        self.seen.append((topic, fields))
        task = asyncio.get_running_loop().create_task(self._notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def named(self, topic: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.seen if name == topic]

    async def wait(self, topic: str, count: int = 1) -> dict[str, Any]:
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.named(topic)) >= count)
        return self.named(topic)[count - 1]


class Worker:
    """A worker's two sockets; every test plays its part."""

    def __init__(self, context: zmq.asyncio.Context, endpoint: str, name: str) -> None:
        self.name = name
        self.main = context.socket(zmq.DEALER)
        self.pulse = context.socket(zmq.DEALER)
        for sock in (self.main, self.pulse):
            sock.setsockopt(zmq.LINGER, 0)
            sock.connect(endpoint)

    async def hello(self, *, protocol: int = 1, host: str = "here", pid: int = 1) -> None:
        await self.send(
            Hello(
                worker=self.name,
                protocol=protocol,
                host=host,
                pid=pid,
                device="cpu",
                threads=1,
                free_bytes=1,
                version="0",
            )
        )

    async def send(self, message: Message) -> None:
        await self.main.send(encode(message))

    async def beat(self, lease: str | None = None, done: float = 0.5) -> None:
        message = Heartbeat(worker=self.name, lease=lease, phase="read", done=done, free_bytes=1)
        await self.pulse.send(encode(message))

    async def receive(self) -> ToWorker:
        return decode_to_worker(await self.main.recv())

    async def job(self) -> Assign:
        message = await self.receive()
        assert isinstance(message, Assign)
        return message

    async def done(self, lease: str, first: int = 0, end: int = 8) -> None:
        result = RowsResult(first=first, end=end, digest="0" * 32, minimum=0.0, maximum=1.0, mean=0.5)
        await self.send(
            JobDone(worker=self.name, lease=lease, result=result, seconds={"read": 0.1}, peak_bytes=7)
        )

    async def failed(self, lease: str, kind: str) -> None:
        await self.send(
            JobFailed(worker=self.name, lease=lease, kind=kind, message="no flats in x.h5", hint="add flats")
        )

    def vanish(self) -> None:
        self.main.close()
        self.pulse.close()


class Bench:
    """A pool that runs, and workers for it."""

    def __init__(self, pool: Pool, events: Events) -> None:
        self.pool = pool
        self.events = events
        self._context = zmq.asyncio.Context()
        self._workers: list[Worker] = []

    def worker(self, name: str) -> Worker:
        worker = Worker(self._context, self.pool.endpoints[0], name)
        self._workers.append(worker)
        return worker

    def close(self) -> None:
        for worker in self._workers:
            worker.vanish()
        self._context.term()
        self.pool.close()

    async def joined(self, name: str, **fields: Any) -> Worker:
        count = len(self.events.named("worker.joined"))
        worker = self.worker(name)
        await worker.hello(**fields)
        await self.events.wait("worker.joined", count + 1)
        return worker


@contextlib.asynccontextmanager
async def bench(endpoint: str, lease_seconds: float = LONG) -> AsyncIterator[Bench]:
    events = Events()
    pool = Pool([endpoint], lease_seconds=lease_seconds, on_event=events)
    pool.bind()
    serving = asyncio.create_task(pool.run_forever())
    set_up = Bench(pool, events)
    try:
        yield set_up
    finally:
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving  # raises what ended it, if anything did
        set_up.close()


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/pool"


def play(script: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine; one that hangs fails."""

    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE):
            await script()

    asyncio.run(bounded())


def submit(pool: Pool, job: Job, **options: Any) -> asyncio.Task[Any]:
    return asyncio.create_task(pool.run(job, **options))


def rows(first: int = 0, scan: str = "a") -> RowsJob:
    return RowsJob(scan=scan, parameters="/p.json", output="/out", first=first, end=first + 8)


def test_a_job_goes_to_a_worker_and_its_result_comes_back(endpoint: str) -> None:
    async def script() -> None:
        async with bench(endpoint) as b:
            worker = await b.joined("w")
            task = submit(b.pool, rows())
            assign = await worker.job()
            assert assign.job == rows()
            await worker.done(assign.lease)
            done = await task
            assert (done.result.first, done.result.end, done.worker, done.peak_bytes) == (0, 8, "w", 7)
            assert done.seconds == {"read": 0.1}
            assert [topic for topic, _ in b.events.seen] == ["worker.joined", "shard.assigned", "shard.done"]
            assert b.events.named("shard.assigned")[0]["job"] == "rows 0 to 8 of a"
            assert b.pool.counters()["jobs_done"] == 1

    play(script)


def test_jobs_wait_for_the_first_worker_and_previews_go_first(endpoint: str) -> None:
    async def script() -> None:
        async with bench(endpoint) as b:
            first = submit(b.pool, rows())
            preview = submit(b.pool, PreviewJob(scan="b", parameters="/p.json", output="/preview"))
            await asyncio.sleep(0)  # both tasks run up to their wait
            assert b.pool.counters()["queued"] == 2
            worker = b.worker("w")
            await worker.hello()
            assert (await worker.job()).job.scan == "b"
            assert b.pool.jobs_of("a").ahead == 0
            (row,) = b.pool.workers()
            assert (row["scan"], row["job"], row["phase"]) == ("b", "the preview of b", "assigned")
            for task in (first, preview):
                task.cancel()

    play(script)


def test_a_worker_that_dies_silently_loses_its_job_to_another(endpoint: str) -> None:
    async def script() -> None:
        async with bench(endpoint, SHORT) as b:
            dead = await b.joined("dead")
            task = submit(b.pool, rows())
            lost = await dead.job()
            dead.vanish()
            told = await b.events.wait("shard.reassigned")
            assert (told["worker"], told["times_lost"], told["lease"]) == ("dead", 1, lost.lease)
            alive = await b.joined("alive")
            assign = await alive.job()
            assert assign.lease != lost.lease
            await alive.done(assign.lease)
            assert (await task).worker == "alive"
            assert b.events.named("worker.lost")[0] == {"worker": "dead", "reason": "silent"}
            assert b.pool.counters()["expired_leases"] == 1

    play(script)


def test_heartbeats_from_the_second_socket_keep_a_lease(endpoint: str) -> None:
    async def script() -> None:
        async with bench(endpoint, SHORT) as b:
            worker = await b.joined("w")
            task = submit(b.pool, rows())
            assign = await worker.job()
            for _ in range(8):  # longer than two leases
                await asyncio.sleep(SHORT / 3)
                await worker.beat(assign.lease)
            await worker.done(assign.lease)
            assert (await task).worker == "w"
            assert not b.events.named("shard.reassigned")

    play(script)


def test_a_late_result_is_counted_and_ignored(endpoint: str) -> None:
    async def script() -> None:
        async with bench(endpoint, SHORT) as b:
            slow = await b.joined("slow")
            task = submit(b.pool, rows())
            late = await slow.job()
            await b.events.wait("shard.reassigned")
            quick = await b.joined("quick")
            assign = await quick.job()
            await slow.done(late.lease, end=999)
            await (
                slow.hello()
            )  # behind the late result on the same socket: when it joined, the result was seen
            await b.events.wait("worker.joined", 3)
            assert b.pool.counters()["late_results"] == 1
            assert not task.done()
            await quick.done(assign.lease)
            assert (await task).result.end == 8

    play(script)


def test_a_job_that_kills_three_workers_is_poison(endpoint: str) -> None:
    async def script() -> None:
        async with bench(endpoint) as b:
            task = submit(b.pool, rows())
            for number, name in enumerate(("one", "two", "three")):
                worker = await b.joined(name, host=socket.gethostname(), pid=number)
                await worker.job()
                await b.pool.worker_died(number)
            with pytest.raises(HoldError, match="lost 3 times, with the workers one, two, three"):
                await task
            assert b.pool.counters()["queued"] == 0
            assert len(b.events.named("shard.reassigned")) == 2
            assert len(b.events.named("shard.poisoned")) == 1

    play(script)


@pytest.mark.parametrize(
    ("kind", "error", "sentence"),
    [
        ("hold", ReconstructionFailed, "no flats in x.h5 (add flats)"),
        ("transient", TransientError, "no flats in x.h5 (add flats)"),
        ("bug", HoldError, "worker w failed: no flats in x.h5 (add flats)"),
        ("of a later version", HoldError, "worker w failed: no flats in x.h5 (add flats)"),
    ],
)
def test_what_a_worker_reports_is_raised(
    endpoint: str, kind: str, error: type[Exception], sentence: str
) -> None:
    async def script() -> None:
        async with bench(endpoint) as b:
            worker = await b.joined("w")
            task = submit(b.pool, rows())
            await worker.failed((await worker.job()).lease, kind)
            with pytest.raises(error) as caught:
                await task
            assert type(caught.value) is error
            assert caught.value.sentence == sentence  # type: ignore[attr-defined]
            again = submit(b.pool, rows(8))
            await worker.done((await worker.job()).lease)
            await again

    play(script)


def test_rubbish_is_counted_and_the_pool_lives_on(endpoint: str) -> None:
    rubbish: list[list[bytes]] = [
        [b""],
        [b"rubbish"],
        [b"\x81\xa4type\xa5\xff\xff\xff\xff\xff"],
        [b"\x82\xa4type\xa5hello\xa1z" + b"\x91" * 100_000],
        [b"", b"", b""],
        [encode(Stop())],
        [encode(Goodbye(worker="w")), b"one frame too many"],
    ]

    async def script() -> None:
        async with bench(endpoint) as b:
            worker = await b.joined("w")
            for frames in rubbish:
                await worker.main.send_multipart(frames)
            task = submit(b.pool, rows())
            await worker.done((await worker.job()).lease)
            await task
            assert b.pool.counters()["rubbish"] == len(rubbish)

    play(script)


def test_an_oversized_message_costs_the_sender_its_connection_only(endpoint: str) -> None:
    async def script() -> None:
        async with bench(endpoint) as b:
            rude = b.worker("rude")
            await rude.main.send(b"x" * (MAX_MESSAGE_BYTES + 1))
            worker = await b.joined("w")
            task = submit(b.pool, rows())
            await worker.done((await worker.job()).lease)
            await task

    play(script)


def test_bytes_that_are_not_zeromq_do_no_harm() -> None:
    async def script() -> None:
        async with bench("tcp://127.0.0.1:*") as b:
            port = int(b.pool.endpoints[0].rsplit(":", 1)[1])
            for raw in (b"\xff" * 1000, b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 64):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(raw)
                writer.close()
            worker = await b.joined("w")
            task = submit(b.pool, rows())
            await worker.done((await worker.job()).lease)
            await task
            while not b.pool.counters()["strangers"]:  # noqa: ASYNC110 - counted without an event
                await asyncio.sleep(0.01)

    play(script)


def test_a_pool_that_was_started_anew_asks_who_is_there(endpoint: str) -> None:
    async def script() -> None:
        context = zmq.asyncio.Context()
        async with bench(endpoint) as before:
            worker = Worker(context, endpoint, "w")
            await worker.hello()
            cut_short = submit(before.pool, rows())
            old = await worker.job()
            cut_short.cancel()
        async with bench(endpoint) as after:
            await worker.beat(old.lease)
            assert isinstance(decode_to_worker(await worker.pulse.recv()), WhoAreYou)
            assert after.pool.worker_count() == 0
            await worker.done(old.lease)  # nobody knows it any more
            await worker.hello()
            task = submit(after.pool, rows())
            assign = await worker.job()
            assert after.pool.counters()["late_results"] == 1
            await worker.done(assign.lease)
            assert (await task).worker == "w"
        worker.vanish()
        context.term()

    play(script)


def test_canceling_takes_a_job_from_the_queue(endpoint: str) -> None:
    async def script() -> None:
        async with bench(endpoint) as b:
            task, other = submit(b.pool, rows(0)), submit(b.pool, rows(8))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert b.pool.counters()["queued"] == 1
            worker = await b.joined("w")
            assign = await worker.job()
            assert assign.job == rows(8)
            other.cancel()  # the worker has it already: it is left to finish, then it gets the next one
            third = submit(b.pool, rows(16))
            await worker.done(assign.lease)
            assert (await worker.job()).job == rows(16)
            assert b.pool.counters()["late_results"] == 0
            third.cancel()

    play(script)


def test_a_worker_that_says_goodbye_hands_its_job_back(endpoint: str) -> None:
    async def script() -> None:
        async with bench(endpoint) as b:
            leaver, stayer = await b.joined("leaver"), b.worker("stayer")
            task = submit(b.pool, rows())
            assign = await leaver.job()
            await leaver.send(Goodbye(worker="leaver", lease=assign.lease))
            told = await b.events.wait("shard.reassigned")
            assert told["times_lost"] == 0
            await stayer.hello()
            await stayer.done((await stayer.job()).lease)
            assert (await task).worker == "stayer"
            assert b.events.named("worker.left") == [{"worker": "leaver", "reason": "left"}]

    play(script)


def test_an_assignment_to_a_worker_that_is_gone_goes_to_the_next(endpoint: str) -> None:
    async def script() -> None:
        async with bench(endpoint) as b:
            gone = await b.joined("gone")
            gone.vanish()
            while await b.pool._send("gone", WhoAreYou()):  # noqa: ASYNC110 - until ZeroMQ has noticed
                await asyncio.sleep(0.01)
            alive = await b.joined("here")
            first, second = submit(b.pool, rows(0)), submit(b.pool, rows(8))
            for _ in range(2):
                await alive.done((await alive.job()).lease)
            await first
            await second
            assert b.events.named("worker.lost") == [{"worker": "gone", "reason": "unreachable"}]

    play(script)


def test_draining_gives_out_nothing_and_waits_for_what_is_out(endpoint: str) -> None:
    async def script() -> None:
        async with bench(endpoint) as b:
            worker = await b.joined("w")
            task = submit(b.pool, rows(0))
            assign = await worker.job()
            drained = asyncio.create_task(b.pool.drain(grace_seconds=PATIENCE))
            waiting = submit(b.pool, rows(8))
            await worker.done(assign.lease)
            await drained
            assert task.done()
            assert b.pool.counters()["queued"] == 1
            waiting.cancel()

    play(script)


def test_a_worker_of_another_protocol_is_sent_away(endpoint: str) -> None:
    async def script() -> None:
        async with bench(endpoint) as b:
            worker = b.worker("future")
            await worker.hello(protocol=2)
            assert isinstance(await worker.receive(), Stop)
            assert b.pool.worker_count() == 0
            assert b.events.named("worker.refused") == [{"worker": "future", "protocol": 2, "wanted": 1}]

    play(script)


def test_heartbeats_that_came_during_a_pause_of_the_daemon_count(endpoint: str) -> None:
    """A daemon that was stopped longer than a lease hears its workers before it judges them."""

    async def script() -> None:
        async with bench(endpoint, SHORT) as b:
            worker = await b.joined("w")
            task = submit(b.pool, rows())
            assign = await worker.job()
            await worker.beat(assign.lease)
            time.sleep(2 * SHORT)  # noqa: ASYNC251 - as if the process were suspended
            await worker.done(assign.lease)
            assert (await task).worker == "w"

    play(script)


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("tcp://0.0.0.0:5555", "no endpoint on this machine alone"),
        ("ipc:///no/such/folder/pool", "cannot be bound"),
        ("ipc:///" + "x" * 120, "cannot be bound"),
    ],
)
def test_an_endpoint_that_cannot_be_had_is_a_sentence(endpoint: str, reason: str) -> None:
    async def script() -> None:
        Pool([endpoint], lease_seconds=1.0, on_event=lambda topic, fields: None).bind()

    with pytest.raises(ConfigError, match=reason):
        play(script)
