"""A process that copies, to be killed: `python tests/copy_forge.py` forks a child for every order on stdin.

The forge has everything imported, so that a child copies at once. An order is one line of JSON, `Order`; the answer
is one line of JSON, `Outcome`.
"""

import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

import msgspec

from srctd.adapters import sync
from srctd.core.errors import SrctdError
from srctd.core.scan import Manifest, ReadBack


class Order(msgspec.Struct, kw_only=True):
    """What the child does, and when it dies."""

    part: str
    final: str
    seen: list[tuple[Manifest, dict[str, int]]] = []
    """What the detector had written and what of it was settled, one after the other."""
    whole: Manifest | None = None
    """The finished scan: it is copied and published."""
    kill_after: float | None = None
    """Seconds."""
    read_back: ReadBack = ReadBack.SAMPLED


class Outcome(msgspec.Struct, kw_only=True):
    """What became of the child."""

    killed: bool
    sentence: str
    """Of the error that ended the copy; empty: none."""
    cause: str
    """The error's class."""
    written: int
    """Bytes that the child handed to the kernel."""
    seconds: float


def copy(order: Order) -> None:
    """Copy as the daemon does: what is settled, then the scan; then let it appear."""
    part, options = Path(order.part), sync.CopyOptions(read_back=order.read_back)
    for seen, settled in order.seen:
        sync.copy_settled(seen, settled, part, options)
    if order.whole is not None:
        if sync.published(Path(order.final)) is None:
            sync.copy(order.whole, part, options)
        sync.publish(part, Path(order.final))


def carry_out(order: Order) -> Outcome:
    """Fork, kill, count, reap."""
    reader, writer = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _live(order, writer)
    os.close(writer)
    timer = threading.Timer(order.kill_after or 1e6, os.kill, (child, signal.SIGKILL))
    timer.start()
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # it stays a zombie: nobody else gets its number
    timer.cancel()
    timer.join()
    seconds = time.monotonic() - began
    written = next(
        int(line[7:]) for line in Path(f"/proc/{child}/io").read_text().splitlines() if "wchar" in line
    )
    _, status = os.waitpid(child, 0)
    with open(reader, encoding="utf-8") as file:
        cause, _, sentence = file.read().partition("\n")
    killed = os.WIFSIGNALED(status)
    return Outcome(
        killed=killed, sentence=sentence, cause="" if killed else cause, written=written, seconds=seconds
    )


def _live(order: Order, writer: int) -> None:
    said = ""
    try:
        copy(order)
    except SrctdError as exc:
        said = f"{type(exc).__name__}\n{exc.sentence}"
    except BaseException:  # noqa: BLE001 - told to the test, which fails
        said = f"bug\n{traceback.format_exc()}"
    os.write(writer, said.encode())
    os._exit(0)


def main() -> None:
    """Serve orders until stdin ends."""
    for line in sys.stdin.buffer:
        outcome = carry_out(msgspec.json.decode(line, type=Order))
        sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
