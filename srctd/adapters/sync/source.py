"""Reading a scan's files: never through a link, never waiting for what is no file."""

import errno
import os
import stat
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import xxhash

from srctd.adapters.sync.options import FullSpeed, Pace
from srctd.adapters.sync.trouble import reading
from srctd.core.errors import ScanUnreadable, SourceChanged, SrctdError
from srctd.core.scan import BLOCK_BYTES, FileEntry
from srctd.formats.files import open_regular

CHUNK_BYTES = 1 << 20
"""Read at once: it is digested while the processor's cache still holds it, and a copy pauses or ends after it."""
FILES_AHEAD = 32
"""So many files are opened, and their beginnings asked for, before it is their turn."""
T = TypeVar("T")


def tick_left(mtime_ns: int) -> float:
    """Seconds until a further change of a file would show in its time; mostly none.

    File systems keep times by ticks: of the kernel's clock, or, where no fraction is kept, of up to two seconds.
    """
    tick = 2.0 if mtime_ns % 1_000_000_000 == 0 else 0.02
    return max(0.0, min(tick, tick - (time.time_ns() - mtime_ns) / 1e9))


def inside(path: str | os.PathLike[str], root: str | os.PathLike[str]) -> bool:
    """Whether a path, links resolved, is `root` or lies below it."""
    top = os.path.realpath(root)
    return os.path.commonpath([os.path.realpath(path), top]) == top


class Ahead(NamedTuple, Generic[T]):
    """A file whose turn it is, open."""

    file: FileEntry
    what: T
    descriptor: int


class Source:
    """The folder of a scan. No link is followed on the way to a file, and nothing but a regular file opened.

    The folder of the last file stays open: a stack has thousands in one.
    """

    def __init__(self, folder: str) -> None:
        """`folder`: absolute, and free of symbolic links when it was listed."""
        self.folder = folder
        self._parent: tuple[str, int] | None = None

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def path(self, name: str) -> str:
        """A file's path."""
        return f"{self.folder}/{name}"

    def open(self, name: str) -> int:
        """A descriptor of a regular file; the caller closes it."""
        path = self.path(name)
        parent, _, last = name.rpartition("/")
        with reading(path):
            return open_regular(path, last, self._enter(parent))

    def check(self, file: FileEntry) -> None:
        """Raise `SourceChanged` if a file is not, any more, what the listing saw."""
        path = self.path(file.path)
        parent, _, last = file.path.rpartition("/")
        with reading(path):
            now = os.stat(last, dir_fd=self._enter(parent), follow_symlinks=False)
        _require_regular(now, path)
        _require_same(now, path, file)

    def ahead(self, files: Iterable[tuple[FileEntry, T]]) -> Iterator[Ahead[T]]:
        """The files one after the other, while the disk fetches those that follow.

        They are not dropped from memory behind the reader: what the detector has just written is looked at by
        others, and pages that were used once are the first that the kernel drops by itself.
        """
        waiting: deque[Ahead[T]] = deque()
        try:
            for file, what in files:
                waiting.append(Ahead(file, what, self.open(file.path)))
                if len(waiting) > 1:
                    will_need(waiting[-1].descriptor, 0, min(file.size, CHUNK_BYTES))
                if len(waiting) > FILES_AHEAD:
                    yield waiting[0]
                    os.close(waiting.popleft().descriptor)
            while waiting:
                yield waiting[0]
                os.close(waiting.popleft().descriptor)
        finally:
            for left in waiting:
                os.close(left.descriptor)

    def _enter(self, parent: str) -> int:
        if self._parent is None or self._parent[0] != parent:
            self._leave()
            self._parent = (parent, self._walk(parent))
        return self._parent[1]

    def _leave(self) -> None:
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None

    def _walk(self, parent: str) -> int:
        """A descriptor of a folder of the scan, reached from the scan's own folder step by step."""
        below = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        descriptor = os.open(self.folder, below)
        try:
            # else a link took the place of a folder on the way
            if os.readlink(f"/proc/self/fd/{descriptor}") != self.folder:
                raise ScanUnreadable(
                    f"{self.folder} leads elsewhere now, through a symbolic link",
                    hint="a scan stays where it was found",
                )
            for word in parent.split("/") if parent else ():
                above = descriptor
                descriptor = os.open(word, below | os.O_NOFOLLOW, dir_fd=above)
                os.close(above)
        except (OSError, SrctdError):
            os.close(descriptor)
            raise
        return descriptor


@contextmanager
def opened(folder: str, name: str) -> Iterator[int]:
    """A descriptor of one file, as `Source.open` gives it."""
    with Source(folder) as source:
        descriptor = source.open(name)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def will_need(descriptor: int, offset: int, count: int) -> None:
    """Let the kernel fetch a range, and wait for nothing."""
    if count > 0:
        os.posix_fadvise(descriptor, offset, count, os.POSIX_FADV_WILLNEED)


def read_block(
    descriptor: int, path: str, into: memoryview, offset: int, pace: Pace, *digests: xxhash.xxh3_128
) -> None:
    """Fill a buffer from a file, and digest it on the way. Raises `SourceChanged` if the file is shorter."""
    filled = 0
    while filled < len(into):
        wanted = min(CHUNK_BYTES, len(into) - filled)
        pace.take(wanted)
        end = filled + wanted
        while filled < end:
            with reading(path):
                count = os.preadv(descriptor, [into[filled:end]], offset + filled)
            if not count:
                raise SourceChanged(
                    f"{path} became shorter than {offset + len(into)} bytes while it was read"
                )
            for digest in digests:
                digest.update(into[filled : filled + count])
            filled += count


def block_lengths(size: int) -> list[tuple[int, int]]:
    """Offset and length of every block of a file."""
    return [(offset, min(BLOCK_BYTES, size - offset)) for offset in range(0, size, BLOCK_BYTES)]


def digested(descriptor: int, path: str, file: FileEntry, pace: Pace, buffer: memoryview) -> FileEntry:
    """A file with its digests. `buffer`: of one block, or as long as the file."""
    whole, blocks = xxhash.xxh3_128(), []
    for offset, length in block_lengths(file.size):
        will_need(descriptor, offset + length, min(BLOCK_BYTES, file.size - offset - length))
        block = xxhash.xxh3_128()
        read_block(descriptor, path, buffer[:length], offset, pace, whole, block)
        blocks.append(block.hexdigest())
    return with_digests(file, whole, blocks)


def with_digests(
    file: FileEntry, whole: xxhash.xxh3_128, blocks: Sequence[str], hole_bytes: int = 0
) -> FileEntry:
    """A file of which all is known. `whole`: of all its blocks, unless there is only one."""
    return FileEntry(
        path=file.path,
        size=file.size,
        mtime_ns=file.mtime_ns,
        stored=file.stored,
        digest=blocks[0] if len(blocks) == 1 else whole.hexdigest(),
        blocks=tuple(blocks) if len(blocks) > 1 else (),
        hole_bytes=hole_bytes,
    )


def check_unchanged(descriptor: int, path: str, file: FileEntry) -> None:
    """Raise `SourceChanged` if a file is not, any more, what the listing saw."""
    with reading(path):
        now = os.fstat(descriptor)
    _require_same(now, path, file)


def holes(descriptor: int, offset: int, length: int) -> list[tuple[int, int]]:
    """Where, within a range of a file that has holes, they are: begin and end, counted from the range's begin.

    Raises `OSError`.
    """
    found, position, end = [], offset, offset + length
    while position < end:
        try:
            data = min(end, os.lseek(descriptor, position, os.SEEK_DATA))
        except OSError as exc:
            if exc.errno != errno.ENXIO:
                raise
            data = end
        if data > position:
            found.append((position - offset, data - offset))
        position = os.lseek(descriptor, data, os.SEEK_HOLE) if data < end else end
    return found


def digest_file(path: Path) -> tuple[str, int]:
    """xxh3-128 (32 hexadecimal digits) and size of a file."""
    with opened(os.path.realpath(path.parent), path.name) as descriptor:
        size = os.fstat(descriptor).st_size
        buffer = memoryview(bytearray(min(size, BLOCK_BYTES)))
        entry = FileEntry(path=path.name, size=size, mtime_ns=0)
        return digested(descriptor, str(path), entry, FullSpeed(), buffer).digest, size


def _require_regular(now: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(now.st_mode):
        raise ScanUnreadable(f"{path} is no regular file", hint="a scan is made of regular files")


def _require_same(now: os.stat_result, path: str, file: FileEntry) -> None:
    if (now.st_size, now.st_mtime_ns) != (file.size, file.mtime_ns):
        raise SourceChanged(
            f"{path} changed: {now.st_size} bytes instead of {file.size}, or another time of writing",
            hint="it is judged and copied anew",
        )
