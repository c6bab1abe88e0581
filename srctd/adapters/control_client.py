"""Asking the daemon and listening to it, from any operating system."""

from collections.abc import Iterator
from typing import Any

import msgspec
import zmq

from srctd.core.errors import TransientError
from srctd.core.messages import UNDECODABLE

LISTEN_MILLISECONDS = 250
"""How long a wait lasts before Python sees an interrupt; on Windows it breaks no wait of ZeroMQ."""


def request(endpoint: str, body: dict[str, Any], timeout_seconds: float = 5.0) -> dict[str, Any]:
    """Send one request, return the answer, whether it says `ok` or not.

    Raises `TransientError` when nobody answers in time, or with something other than JSON.
    """
    with zmq.Context() as context, context.socket(zmq.REQ) as sock:
        sock.setsockopt(zmq.LINGER, 0)
        try:
            sock.connect(endpoint)
        except zmq.ZMQError as exc:
            raise TransientError(f"{endpoint!r} is no endpoint: {exc.strerror}") from exc
        sock.send(msgspec.json.encode(body))
        if not sock.poll(round(1000 * timeout_seconds), zmq.POLLIN):
            raise TransientError(
                f"nobody answers at {endpoint} within {timeout_seconds:g} s",
                hint="is the daemon running, and is this its control.endpoint?",
            )
        answer = sock.recv()
    try:
        return msgspec.json.decode(answer, type=dict[str, Any])
    except UNDECODABLE as exc:
        raise TransientError(f"what answers at {endpoint} is not srctd: {exc}") from exc


def follow(feed_endpoint: str, topic: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield topic and body of every event whose topic begins with `topic`, for ever.

    Events are told from the moment on at which the connection stands; `sequence` shows where some were missed.
    """
    with zmq.Context() as context, context.socket(zmq.SUB) as sock:
        sock.setsockopt(zmq.LINGER, 0)
        sock.setsockopt_string(zmq.SUBSCRIBE, topic)
        try:
            sock.connect(feed_endpoint)
        except zmq.ZMQError as exc:
            raise TransientError(f"{feed_endpoint!r} is no endpoint: {exc.strerror}") from exc
        while True:
            if sock.poll(LISTEN_MILLISECONDS, zmq.POLLIN):
                name, body = sock.recv_multipart()
                yield name.decode(), msgspec.json.decode(body, type=dict[str, Any])
