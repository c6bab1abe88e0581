"""Reading unproven files in a process of its own, so that no file can stop the daemon.

A copy with holes (parallel transfers write out of order) can send the HDF5 library into an endless loop while it
reads a string (https://github.com/HDFGroup/hdf5/issues/1707), and all other reading in that process waits for it.
So the daemon looks at files elsewhere, under a time limit.
"""

import os
import subprocess
import sys
import threading
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import msgspec

from srctd.core.completion import Probe
from srctd.core.errors import HoldError, NotPermitted, ScanUnreadable
from srctd.core.scan import ScanHeader
from srctd.formats.reader import open_scan, probe


class _Refusal(msgspec.Struct, frozen=True, tag=True):
    """An error of `open_scan`."""

    message: str
    hint: str
    permission: bool


class _Header(msgspec.Struct, frozen=True, tag=True):
    """What `open_scan` found."""

    header: ScanHeader


class _Probed(msgspec.Struct, frozen=True, tag=True):
    """What `probe` found."""

    probe: Probe


_Answer = _Probed | _Header | _Refusal
_PROBE, _HEADER = b"p", b"h"


class IsolatedReader:
    """`probe` and the header of a scan, with the file opened in a helper process; for use from any thread.

    The helper starts with `start` or the first call, is replaced when a file hangs or kills it, and ends with
    `close` or with this process.
    """

    def __init__(self, limit_seconds: float = 30.0) -> None:
        self._limit = limit_seconds
        self._helper: _Helper | None = None
        self._lock = threading.Lock()

    def probe(self, path: str) -> Probe:
        """Look at a scan; a file that hangs or crashes the reader is unreadable, and the sentence says so."""
        answer = self._ask(_PROBE, path)
        if isinstance(answer, _Probed):
            return answer.probe
        return Probe(
            readable=False, problem=f"{path} {answer}: it is damaged, or parts of it are still to come"
        )

    def header(self, path: str) -> ScanHeader:
        """The header of a scan; raises `ScanUnreadable` or `NotPermitted` as `open_scan` does."""
        answer = self._ask(_HEADER, path)
        if isinstance(answer, _Header):
            return answer.header
        if isinstance(answer, _Refusal):
            kind: type[HoldError] = NotPermitted if answer.permission else ScanUnreadable
            raise kind(answer.message, hint=answer.hint)
        raise ScanUnreadable(f"{path} {answer}", hint="it is damaged; copy it again")

    def start(self) -> None:
        """Have the helper ready, so that the first file need not wait for it."""
        with self._lock:
            self._started()

    def _started(self) -> "_Helper":
        if self._helper is None or not self._helper.alive:
            self._close()
            self._helper = _Helper()
        return self._helper

    def _ask(self, what: bytes, path: str) -> "_Answer | str":
        """The helper's answer, or what the file did to it."""
        with self._lock:
            did = f"kept the reader busy for {self._limit:g} s"
            try:
                answer = self._started().ask(what + os.fsencode(path), self._limit)
                if answer is not None:
                    return answer
            except (OSError, EOFError):
                did = "made the reader crash"
            self._close()
            return did

    def close(self) -> None:
        """End the helper, also one that hangs: whoever waits for it is told at once."""
        helper = self._helper
        if helper is not None:
            helper.kill()
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._helper is not None:
            self._helper.end()
            self._helper = None


class _Helper:
    """The process that opens files, and the pipe to it."""

    def __init__(self) -> None:
        self._pipe, theirs = Pipe()
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "srctd.formats.isolated", str(number)], pass_fds=[number]
            )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: bytes, limit_seconds: float) -> _Answer | None:
        """Its answer; None if it takes too long. Raises `OSError` or `EOFError` if it dies."""
        self._pipe.send_bytes(request)
        if not self._pipe.poll(limit_seconds):
            return None
        answer: _Answer = msgspec.json.decode(self._pipe.recv_bytes(), type=_Answer)
        return answer

    def kill(self) -> None:
        """End the process; the pipe then says so."""
        self._process.kill()

    def end(self) -> None:
        """End the process and wait for it."""
        self._process.kill()
        self._process.wait()
        self._pipe.close()


def serve(pipe: Connection) -> None:
    """The helper's loop: a path in, an answer out, until the other end is closed."""
    while True:
        try:
            request = pipe.recv_bytes()
        except EOFError:
            return
        what, path = request[:1], os.fsdecode(request[1:])
        pipe.send_bytes(msgspec.json.encode(_Probed(probe(path)) if what == _PROBE else _read_header(path)))


def _read_header(path: str) -> _Header | _Refusal:
    try:
        with open_scan(path) as reader:
            return _Header(reader.header)
    except HoldError as exc:
        return _Refusal(message=str(exc), hint=exc.hint, permission=isinstance(exc, NotPermitted))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
