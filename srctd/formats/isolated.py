"""Reading unproven files in a process of its own, so that no file can stop the daemon.

A copy with holes (parallel transfers write out of order) can send the HDF5 library into an endless loop while it
reads a string (https://github.com/HDFGroup/hdf5/issues/1707), and all other reading in that process waits for it.
So the daemon looks at files elsewhere, under a time limit.
"""

import os
import resource
import subprocess
import sys
import threading
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import msgspec

from srctd.core.completion import Probe
from srctd.core.errors import NotPermitted, ScanUnreadable, SrctdError, StorageUnavailable
from srctd.core.frames import FrameIndex
from srctd.core.scan import ScanHeader
from srctd.formats.protocol import ReadOptions
from srctd.formats.reader import index_scan, probe

NICENESS = 10
"""Of the helper: where the detector writes on the same machine, it comes first. The kernel derives the priority of
reads and writes from the same number."""
INCOMPLETE_PATIENCE = 10
"""Of an incomplete scan the helper reads a piece of every frame, so it gets more time."""
MOST_MEMORY = 4 << 30
"""Bytes the helper may map, or half of the machine's memory if that is less: a compressed chunk that decodes into
more than its header says fails in the helper alone."""


class _Look(msgspec.Struct, frozen=True, tag=True):
    """Ask for a probe. Paths are latin-1 texts of their bytes: a name on disk need not be UTF-8."""

    path: str
    options: ReadOptions


class _Index(msgspec.Struct, frozen=True, tag=True):
    """Ask for an index."""

    path: str
    options: ReadOptions
    incomplete: bool
    member: int
    header_only: bool


class _Refusal(msgspec.Struct, frozen=True, tag=True):
    """An error of `index_scan`."""

    message: str
    hint: str
    kind: str


class _Header(msgspec.Struct, frozen=True, tag=True):
    """What `index_scan` found, without the frames."""

    header: ScanHeader


class _Indexed(msgspec.Struct, frozen=True, tag=True):
    """What `index_scan` found."""

    index: FrameIndex


class _Probed(msgspec.Struct, frozen=True, tag=True):
    """What `probe` found."""

    probe: Probe


_Request = _Look | _Index
_Answer = _Probed | _Header | _Indexed | _Refusal
_REFUSALS: dict[str, type[SrctdError]] = {
    kind.__name__: kind for kind in (NotPermitted, ScanUnreadable, StorageUnavailable)
}
_SHIPPED = ReadOptions()


class IsolatedReader:
    """`probe` and the header of a scan, with the file opened in a helper process; for use from any thread.

    The helper starts with `start` or the first call, is replaced when a file hangs or kills it, and ends with
    `close` or with this process.
    """

    def __init__(self, limit_seconds: float = 30.0) -> None:
        self._limit = limit_seconds
        self._helper: _Helper | None = None
        self._lock = threading.Lock()

    def probe(self, path: str, options: ReadOptions = _SHIPPED) -> Probe:
        """Look at a scan; a file that hangs or crashes the reader is unreadable, and the sentence says so."""
        answer = self._ask(_Look(_sent(path), options), self._limit)
        if isinstance(answer, _Probed):
            return answer.probe
        if isinstance(answer, _Refusal):
            return Probe(readable=False, problem=answer.message)
        return Probe(
            readable=False, problem=f"{path} {answer}: it is damaged, or parts of it are still to come"
        )

    def header(
        self, path: str, options: ReadOptions = _SHIPPED, *, incomplete: bool = False, member: int = 0
    ) -> ScanHeader:
        """The header of a scan; raises `ScanUnreadable`, `NotPermitted` or `StorageUnavailable`."""
        answer = self._indexed(path, options, incomplete, member, header_only=True)
        if isinstance(answer, _Header):
            return answer.header
        raise ScanUnreadable(f"{path} was answered with {type(answer).__name__}")

    def index(
        self, path: str, options: ReadOptions = _SHIPPED, *, incomplete: bool = False, member: int = 0
    ) -> FrameIndex:
        """Where every frame lies; raises as `header` does."""
        answer = self._indexed(path, options, incomplete, member, header_only=False)
        if isinstance(answer, _Indexed):
            return answer.index
        raise ScanUnreadable(f"{path} was answered with {type(answer).__name__}")

    def _indexed(
        self, path: str, options: ReadOptions, incomplete: bool, member: int, *, header_only: bool
    ) -> _Answer:
        request = _Index(_sent(path), options, incomplete, member, header_only)
        answer = self._ask(request, self._limit * (INCOMPLETE_PATIENCE if incomplete else 1))
        if isinstance(answer, str):
            raise ScanUnreadable(f"{path} {answer}", hint="it is damaged; copy it again")
        if isinstance(answer, _Refusal):
            error = _REFUSALS.get(answer.kind, ScanUnreadable)
            raise error(answer.message, hint=answer.hint)
        return answer

    def start(self) -> None:
        """Have the helper ready, so that the first file need not wait for it."""
        with self._lock:
            self._started()

    def _started(self) -> "_Helper":
        if self._helper is None or not self._helper.alive:
            self._close()
            self._helper = _Helper()
        return self._helper

    def _ask(self, request: _Request, limit_seconds: float) -> "_Answer | str":
        """The helper's answer, or what the file did to it."""
        with self._lock:
            did = f"kept the reader busy for {limit_seconds:g} s"
            try:
                answer = self._started().ask(request, limit_seconds)
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

    def ask(self, request: _Request, limit_seconds: float) -> _Answer | None:
        """Its answer; None if it takes too long. Raises `OSError` or `EOFError` if it dies."""
        self._pipe.send_bytes(msgspec.json.encode(request))
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


def _sent(path: str) -> str:
    return os.fsencode(path).decode("latin-1")


def _received(path: str) -> str:
    return os.fsdecode(path.encode("latin-1"))


def serve(pipe: Connection) -> None:
    """The helper's loop: a request in, an answer out, until the other end is closed."""
    while True:
        try:
            request = msgspec.json.decode(pipe.recv_bytes(), type=_Request)
        except EOFError:
            return
        pipe.send_bytes(_encoded(_answer(request), request.path))


def _encoded(answer: _Answer, path: str) -> bytes:
    """The answer as JSON; a refusal where it holds a name that is no UTF-8, as a damaged link's."""
    try:
        return msgspec.json.encode(answer)
    except UnicodeEncodeError:
        text = f"{ascii(_received(path))[1:-1]} names a file or a group with bytes that are no UTF-8"
        refusal = _Refusal(message=text, hint="it is damaged; copy it again", kind=ScanUnreadable.__name__)
        return msgspec.json.encode(refusal)


def _answer(request: _Request) -> _Answer:
    path = _received(request.path)
    try:
        if isinstance(request, _Look):
            return _Probed(probe(path, request.options))
        index = index_scan(
            path, options=request.options, incomplete=request.incomplete, member=request.member
        )
        return _Header(index.header) if request.header_only else _Indexed(index)
    except SrctdError as exc:
        return _Refusal(message=str(exc), hint=exc.hint, kind=type(exc).__name__)


def _step_back() -> None:
    """Let everybody else go first, and bound what a file can make this process allocate."""
    os.nice(NICENESS)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = min(MOST_MEMORY, machine // 2)
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))


if __name__ == "__main__":
    _step_back()
    serve(Connection(int(sys.argv[1])))
