"""The control socket and the event feed, asked by plain ZeroMQ sockets and by our own client."""

import asyncio
import contextlib
import itertools
import json
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio

from srctd.adapters.control import MAX_REQUEST_BYTES, BadRequest, Control
from srctd.adapters.control_client import follow, request
from srctd.core.errors import CatalogUnavailable, ConfigError, TransientError

PATIENCE = 20.0


async def handler(asked: dict[str, Any]) -> dict[str, Any]:
    match asked["cmd"]:
        case "status":
            return {"workers": [], "echo": asked.get("echo")}
        case "slow":
            await asyncio.Event().wait()
        case "catalog":
            raise CatalogUnavailable("http://scicat does not answer", hint="wait")
    raise BadRequest(f"unknown command {asked['cmd']!r}", hint="known: status")


@contextlib.asynccontextmanager
async def control(folder: Path) -> AsyncIterator[Control]:
    serving = Control(f"ipc://{folder}/control", f"ipc://{folder}/feed", handler)
    serving.bind()
    task = asyncio.create_task(serving.run_forever())
    try:
        yield serving
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task  # raises what ended it, if anything did
        serving.close()


@contextlib.contextmanager
def client(kind: int, endpoint: str) -> Any:
    with zmq.asyncio.Context() as context, context.socket(kind) as sock:
        sock.setsockopt(zmq.LINGER, 0)
        sock.connect(endpoint)
        yield sock


async def ask(sock: Any, raw: bytes) -> dict[str, Any]:
    await sock.send(raw)
    answer = json.loads(await sock.recv())
    assert isinstance(answer, dict)
    return answer


def play(script: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE):
            await script()

    asyncio.run(bounded())


def test_a_plain_req_socket_is_answered(tmp_path: Path) -> None:
    async def script() -> None:
        async with control(tmp_path) as serving:
            with client(zmq.REQ, serving.endpoint) as sock:
                answer = await ask(sock, b'{"cmd": "status", "echo": "\xc3\xa4"}')
                assert answer == {"ok": True, "workers": [], "echo": "ä"}

    play(script)


@pytest.mark.parametrize(
    "rubbish",
    [
        b"",
        b"\xff\xfe\x00",
        b'{"cmd":"\xff"}',
        b'{"cmd":' + b"[" * 20_000,
        b"[]",
        b'"status"',
        b"{}",
        b'{"cmd": 5}',
        b'{"cmd": "no such"}',
    ],
)
def test_rubbish_is_answered_counted_and_survived(tmp_path: Path, rubbish: bytes) -> None:
    async def script() -> None:
        async with control(tmp_path) as serving:
            with client(zmq.REQ, serving.endpoint) as sock:
                answer = await ask(sock, rubbish)
                assert answer["ok"] is False
                assert answer["error"]["code"] == "bad-request"
                assert answer["error"]["sentence"]
                assert serving.counters()["rubbish"] == 1
                assert (await ask(sock, b'{"cmd": "status"}'))["ok"] is True

    play(script)


def test_messages_without_a_req_envelope_are_counted_and_ignored(tmp_path: Path) -> None:
    async def script() -> None:
        async with control(tmp_path) as serving:
            with client(zmq.DEALER, serving.endpoint) as sock:
                await sock.send(b'{"cmd": "status"}')
                await sock.send_multipart([b"", b"", b"{}"])
                await sock.send_multipart([b"", b'{"cmd": "status"}'])  # what a REQ socket sends
                assert json.loads((await sock.recv_multipart())[1])["ok"] is True
                assert serving.counters()["rubbish"] == 2

    play(script)


def test_an_oversized_request_costs_its_sender_the_connection_only(tmp_path: Path) -> None:
    async def script() -> None:
        async with control(tmp_path) as serving:
            with client(zmq.DEALER, serving.endpoint) as rude, client(zmq.REQ, serving.endpoint) as sock:
                await rude.send_multipart([b"", b" " * (MAX_REQUEST_BYTES + 1)])
                assert (await ask(sock, b'{"cmd": "status"}'))["ok"] is True
                assert serving.counters()["requests"] == 1

    play(script)


def test_bytes_that_are_not_zeromq_are_counted_and_survived(tmp_path: Path) -> None:
    async def script() -> None:
        async with control(tmp_path) as serving:
            _, writer = await asyncio.open_unix_connection(tmp_path / "control")
            writer.write(b"\xff" * 1000)
            with client(zmq.REQ, serving.endpoint) as sock:
                assert (await ask(sock, b'{"cmd": "status"}'))["ok"] is True
            while not serving.counters()["strangers"]:  # noqa: ASYNC110 - counted without an event
                await asyncio.sleep(0.01)
            writer.close()

    play(script)


def test_our_errors_become_sentences(tmp_path: Path) -> None:
    async def script() -> None:
        async with control(tmp_path) as serving:
            with client(zmq.REQ, serving.endpoint) as sock:
                answer = await ask(sock, b'{"cmd": "catalog"}')
                assert answer == {
                    "ok": False,
                    "error": {
                        "code": "catalog-unavailable",
                        "sentence": "http://scicat does not answer (wait)",
                    },
                }

    play(script)


def test_a_request_that_waits_does_not_keep_others_waiting(tmp_path: Path) -> None:
    async def script() -> None:
        async with control(tmp_path) as serving:
            with client(zmq.REQ, serving.endpoint) as slow, client(zmq.REQ, serving.endpoint) as sock:
                await slow.send(b'{"cmd": "slow"}')
                assert (await ask(sock, b'{"cmd": "status"}'))["ok"] is True

    play(script)


def test_the_feed_has_topics_and_a_sequence(tmp_path: Path) -> None:
    async def script() -> None:
        async with control(tmp_path) as serving:
            with client(zmq.SUB, serving.feed_endpoint) as sock:
                sock.setsockopt(zmq.SUBSCRIBE, b"shard.")
                heard = asyncio.ensure_future(sock.recv_multipart())
                while not heard.done():  # nobody is told when a subscription stands
                    serving.publish("scan.completed", {"scan": "a"})
                    serving.publish("shard.done", {"scan": "a", "seconds": 1.5})
                    await asyncio.wait({heard}, timeout=0.02)
                topic, body = heard.result()
                event = json.loads(body)
                assert topic == b"shard.done"
                assert event["sequence"] % 2 == 0  # the event before it was counted, too
                assert (event["scan"], event["seconds"]) == ("a", 1.5)
                assert event["time"].endswith("Z")

    play(script)


def test_publishing_before_the_feed_is_open_or_after_it_closed_does_nothing(tmp_path: Path) -> None:
    serving = Control(f"ipc://{tmp_path}/control", f"ipc://{tmp_path}/feed", handler)
    serving.publish("scan.completed", {})
    serving.close()
    serving.publish("scan.completed", {})


def test_our_own_client_asks_and_listens(tmp_path: Path) -> None:
    async def script() -> None:
        async with control(tmp_path) as serving:
            answer = await asyncio.to_thread(request, serving.endpoint, {"cmd": "status"}, 5.0)
            assert answer["ok"] is True

            heard: list[tuple[str, dict[str, Any]]] = []
            listener = threading.Thread(
                target=lambda: heard.extend(itertools.islice(follow(serving.feed_endpoint, "scan"), 2))
            )
            listener.start()
            while listener.is_alive():
                serving.publish("scan.completed", {"scan": "a"})
                await asyncio.sleep(0.02)
            assert [topic for topic, _ in heard] == ["scan.completed", "scan.completed"]
            assert heard[1][1]["sequence"] == heard[0][1]["sequence"] + 1

    play(script)


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match=r"nobody answers at ipc://.* within 0\.05 s"):
        request(f"ipc://{tmp_path}/nobody", {"cmd": "status"}, timeout_seconds=0.05)
    with pytest.raises(TransientError, match="'nonsense' is no endpoint"):
        request("nonsense", {"cmd": "status"})


def test_something_else_answers(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/other"

    def other() -> None:
        sock.recv()
        sock.send(b"<html>")

    with zmq.Context() as context, context.socket(zmq.REP) as sock:
        sock.bind(endpoint)
        answering = threading.Thread(target=other)
        answering.start()
        with pytest.raises(TransientError, match="is not srctd"):
            request(endpoint, {"cmd": "status"}, timeout_seconds=PATIENCE)
        answering.join()


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [("tcp://*:5590", "no endpoint on this machine alone"), ("ipc:///no/such/folder/x", "cannot be bound")],
)
def test_an_endpoint_that_cannot_be_had_is_a_sentence(endpoint: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Control(endpoint, endpoint, handler).bind()
