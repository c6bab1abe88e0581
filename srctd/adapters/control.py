"""The control room's two sockets: one answers questions, one tells what happens.

Both speak JSON, so a `zmq.REQ` or `zmq.SUB` socket of any language is a client:

* request: one frame, an object with `cmd`, such as ``{"cmd": "status"}``;
* answer: one frame, ``{"ok": true, ...}`` or ``{"ok": false, "error": {"code", "sentence"}}``;
* event: two frames, the topic and an object with `sequence`. A client that misses a number missed an event.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from srctd.core.endpoints import require_local
from srctd.core.errors import ConfigError, SrctdError, TransientError
from srctd.core.messages import UNDECODABLE
from srctd.core.scan import utc_text

MAX_REQUEST_BYTES = 1 << 16
MAX_REQUESTS_AT_ONCE = 64
ANSWER_SECONDS = 30.0
STRANGERS = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class BadRequest(SrctdError):
    """What was asked cannot be understood; a handler raises it for an unknown command or a missing field."""


class Control:
    """Status socket and event feed."""

    def __init__(self, endpoint: str, feed_endpoint: str, handler: Handler) -> None:
        """Touches nothing yet. `handler` is given the request and returns the answer's fields."""
        self._wanted = (require_local(endpoint), require_local(feed_endpoint))
        self._handler = handler
        self._sequence = 0
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._router: zmq.asyncio.Socket | None = None
        self._feed: zmq.Socket[bytes] | None = None
        self._places = asyncio.Semaphore(MAX_REQUESTS_AT_ONCE)
        self._counters = Counter(requests=0, rubbish=0, strangers=0, errors=0)
        self.endpoint = ""
        """Where requests are taken, once bound."""
        self.feed_endpoint = ""
        """Where events are told, once bound."""

    def bind(self) -> None:
        """Open both sockets; raises `ConfigError` naming an endpoint that cannot be bound."""
        self._context = zmq.Context()
        self._router = zmq.asyncio.Context(self._context).socket(zmq.ROUTER)
        self._feed = self._context.socket(zmq.PUB)
        self.endpoint = self._bind(self._router, self._wanted[0])
        self.feed_endpoint = self._bind(self._feed, self._wanted[1])

    async def run_forever(self) -> None:
        """Answer until canceled.

        Every request has a task of its own, so one that waits for the journal does not keep the others
        waiting; a status, which waits for nothing, is answered in the task's first step.
        """
        if self._router is None:
            raise RuntimeError("the control socket is not bound")
        async with asyncio.TaskGroup() as group:
            group.create_task(self._count_strangers(self._router))
            while True:
                frames = await self._router.recv_multipart()
                await self._places.acquire()
                group.create_task(self._serve(frames))

    def publish(self, topic: str, body: dict[str, Any]) -> None:
        """Tell an event to whoever listens; a listener that is too slow misses some."""
        if self._feed is None:
            return
        self._sequence += 1
        event = {"sequence": self._sequence, "time": utc_text(time.time()), **body}
        self._feed.send_multipart([topic.encode(), msgspec.json.encode(event)], zmq.DONTWAIT)

    def counters(self) -> dict[str, int]:
        """What was counted since the start."""
        return dict(self._counters)

    def close(self) -> None:
        """Close both sockets; what was sent last has half a second to leave."""
        if self._router is not None:
            self._router.close()
        if self._feed is not None:
            self._feed.close()
        if self._context is not None:
            self._context.term()
        self._router = self._feed = self._context = None

    def _bind(self, sock: "zmq.Socket[Any]", endpoint: str) -> str:
        sock.setsockopt(zmq.LINGER, 500)
        sock.setsockopt(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
        try:
            sock.bind(endpoint)
        except zmq.ZMQError as exc:
            self.close()
            raise ConfigError(
                f"control endpoint {endpoint!r} cannot be bound: {exc.strerror}",
                hint="is another srctd running, does the folder exist, is the path short (107 bytes)?",
            ) from exc
        return sock.getsockopt_string(zmq.LAST_ENDPOINT)

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

    async def _serve(self, frames: list[bytes]) -> None:
        try:
            match frames:
                case [route, b"", body]:
                    answer = await self._answer(body)
                    if self._router is not None:
                        await self._router.send_multipart([route, b"", msgspec.json.encode(answer)])
                case _:  # no REQ socket: it does not say how it wants to be answered
                    self._counters["rubbish"] += 1
        finally:
            self._places.release()

    async def _answer(self, body: bytes) -> dict[str, Any]:
        self._counters["requests"] += 1
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return {"ok": True, **await self._handler(_decode(body))}
        except BadRequest as exc:
            self._counters["rubbish"] += 1
            return _refusal(exc)
        except SrctdError as exc:
            self._counters["errors"] += 1
            return _refusal(exc)
        except TimeoutError:
            self._counters["errors"] += 1
            return _refusal(TransientError(f"no answer within {ANSWER_SECONDS:g} s", hint="ask again"))


def _decode(body: bytes) -> dict[str, Any]:
    try:
        request = msgspec.json.decode(body, type=dict[str, Any])
    except UNDECODABLE as exc:
        raise BadRequest(f"the request is no JSON object: {exc}", hint='send {"cmd": "status"}') from exc
    if not isinstance(request.get("cmd"), str):
        raise BadRequest("the request has no text `cmd`", hint='send {"cmd": "status"}')
    return request


def _refusal(error: SrctdError) -> dict[str, Any]:
    """`CatalogUnavailable` becomes the code `catalog-unavailable`."""
    code = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(error).__name__).lower()
    return {"ok": False, "error": {"code": code, "sentence": error.sentence}}
