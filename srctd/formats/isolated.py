"""Probing in a process of its own, so that no file can stop the daemon.

A copy with holes (parallel transfers write out of order) can send the HDF5 library into an endless loop while it
reads a string (https://github.com/HDFGroup/hdf5/issues/1707), and all other reading in that process waits for it.
So unfinished files are looked at elsewhere, under a time limit.
"""

import os
import subprocess
import sys
import threading
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import msgspec

from srctd.core.completion import Probe
from srctd.formats.reader import probe


class IsolatedProbe:
    """`probe`, with the file opened in a helper process; may be called from any thread.

    The helper starts with the first call, is replaced when a file hangs or kills it, and ends with `close` or
    with this process.
    """

    def __init__(self, limit_seconds: float = 30.0) -> None:
        self._limit = limit_seconds
        self._helper: _Helper | None = None
        self._lock = threading.Lock()

    def __call__(self, path: str) -> Probe:
        """Look at a scan; a file that hangs or crashes the reader is unreadable, and the sentence says so."""
        with self._lock:
            if self._helper is None or not self._helper.alive:
                self._close()
                self._helper = _Helper()
            what = f"kept the reader busy for {self._limit:g} s"
            try:
                answer = self._helper.ask(path, self._limit)
                if answer is not None:
                    return answer
            except (OSError, EOFError):
                what = "made the reader crash"
            self._close()
        return Probe(
            readable=False, problem=f"{path} {what}: it is damaged, or parts of it are still to come"
        )

    def close(self) -> None:
        """End the helper."""
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
                [sys.executable, "-m", "srctd.formats.isolated", str(number)], pass_fds=[number]
            )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, path: str, limit_seconds: float) -> Probe | None:
        """Its answer; None if it takes too long. Raises `OSError` or `EOFError` if it dies."""
        self._pipe.send_bytes(os.fsencode(path))
        if not self._pipe.poll(limit_seconds):
            return None
        return msgspec.json.decode(self._pipe.recv_bytes(), type=Probe)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._pipe.close()


def serve(pipe: Connection) -> None:
    """The helper's loop: a path in, a probe out, until the other end is closed."""
    while True:
        try:
            path = os.fsdecode(pipe.recv_bytes())
        except EOFError:
            return
        pipe.send_bytes(msgspec.json.encode(probe(path)))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
