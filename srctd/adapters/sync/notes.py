"""What a copy notes of its progress, so that the next attempt goes on where it was.

The notes are lines of JSON beside the copy, added to and never changed; one that was cut short is none. They say
which block of which file was written, by its digest, and which files were finished: whole, durable, and read back
as far as that is asked for. Notes of another process are no proof. It may have been killed, or the machine lost
power, before what it wrote was durable: what they say is compared with what the copy holds. Notes of this very
process on what it made durable are believed, as long as the copy's size and time are what it gave them. What an
attempt wrote and did not make durable itself, none after it does: where a write-back failed, the kernel tells it
once, forgets the data, and the next fsync succeeds.
"""

import os
import secrets
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from stat import S_ISREG

import msgspec

from srctd.adapters.sync.folders import write_all
from srctd.adapters.sync.trouble import storage_error, writing
from srctd.core.permissions import NEW_FILE
from srctd.core.scan import BLOCK_BYTES, FileEntry, Manifest

PROGRESS = "progress.jsonl"
MANIFEST = "manifest.json"
UNNOTED_BYTES = 128 << 10
"""So much of small files is written before it is noted; a kill costs that."""
FOREIGN = 0
"""The attempts of all other processes."""
_CLOCK_NS = 2_000_000_000
"""The coarsest time of a file that a file system keeps."""


class Note(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line."""

    run: str = ""
    """An attempt of a process begins to note; what follows is its own."""
    file: FileEntry | None = None
    """With a digest: the file is finished. Without: what is said is said of the file as it was then."""
    first: int = -1
    """Index of the first of `file.blocks`, which were written; one without a digest is being written."""
    durable: bool = False
    """What this attempt noted of the file is on the disk."""


@dataclass(frozen=True, slots=True)
class Block:
    """What is known of one block of a copy."""

    digest: str
    size: int
    """Of the source's file when the block was read."""
    mtime_ns: int
    """The same."""
    attempt: int
    """Which attempt wrote it, or read it back; none of this very process: `FOREIGN`."""
    durable: bool = False

    @property
    def proven(self) -> bool:
        """Whether the copy need not be read to know that it holds this."""
        return self.attempt != FOREIGN and self.durable

    def read_of(self, file: FileEntry) -> bool:
        """Whether the source has not changed since."""
        return (self.size, self.mtime_ns) == (file.size, file.mtime_ns)


@dataclass(slots=True)
class Known:
    """What is known of the copy of one file."""

    stored: str = ""
    finished: FileEntry | None = None
    blocks: dict[int, Block] = field(default_factory=dict)
    mine: bool = False
    """This very process made it durable last."""
    size: int = 0
    """Bytes that the copy has at least."""
    mtime_ns: int = 0
    """That the copy was given when it was made durable last."""

    def finished_as(self, file: FileEntry) -> FileEntry | None:
        """The finished file, with its digests, if the source has not changed since."""
        done = self.finished
        if done is None or (done.size, done.mtime_ns) != (file.size, file.mtime_ns):
            return None
        return done

    def holds(self, file: FileEntry) -> int:
        """How many bytes of a file are in the copy, changed since or not."""
        if self.finished_as(file):
            return file.size
        return sum(max(0, min(BLOCK_BYTES, file.size - index * BLOCK_BYTES)) for index in self.blocks)

    def checked(self, stat: os.stat_result) -> "Known":
        """What is left of that in view of what the file system says of the copy."""
        as_left = S_ISREG(stat.st_mode) and stat.st_size >= self.size
        as_left = as_left and abs(stat.st_mtime_ns - self.mtime_ns) <= _CLOCK_NS
        if self.mine and as_left:
            return self
        doubted = {index: replace(block, durable=False) for index, block in self.blocks.items()}
        return replace(self, blocks=doubted, mine=False)

    def take(self, note: Note, file: FileEntry, attempt: int) -> None:
        """Add what a note says of this file."""
        mine = attempt != FOREIGN
        self.stored = file.copied_as
        if file.digest:
            self.finished = file
            digests = file.blocks or ((file.digest,) if file.size else ())
            self.blocks = {
                index: Block(digest, file.size, file.mtime_ns, attempt, durable=True)
                for index, digest in enumerate(digests)
            }
            self.mine, self.size, self.mtime_ns = mine, file.size, file.mtime_ns
        elif note.durable:
            for index, block in self.blocks.items():
                if mine and block.attempt == attempt and not block.durable:
                    self.blocks[index] = replace(block, durable=True)
            self.mine, self.mtime_ns = mine, file.mtime_ns
            self.size = max((i * BLOCK_BYTES + 1 for i, one in self.blocks.items() if one.durable), default=0)
        else:
            self.finished = None
            for index, digest in enumerate(file.blocks, note.first):
                self.blocks.pop(index, None)
                if digest:
                    self.blocks[index] = Block(digest, file.size, file.mtime_ns, attempt)


NOTHING = Known()
"""No note tells of the file. Never changed."""


def read_progress(part: Path) -> dict[str, Known]:
    """What earlier attempts noted, by path. Raises the errors of storage."""
    known: dict[str, Known] = {}
    for entry in _whole(part):
        known.setdefault(entry.path, Known()).take(Note(), entry, FOREIGN)
    decoder = msgspec.json.Decoder(Note)
    attempt = FOREIGN
    for number, line in enumerate(_read(part / PROGRESS).splitlines(), FOREIGN + 1):
        with suppress(msgspec.DecodeError):
            note = decoder.decode(line)
            if note.run:
                attempt = number if note.run == this_run() else FOREIGN
            elif note.file is not None:
                known.setdefault(note.file.path, Known()).take(note, note.file, attempt)
    return known


def _whole(part: Path) -> tuple[FileEntry, ...]:
    """The files of a copy that was finished, by its manifest; its notes may be gone already."""
    data = _read(part / MANIFEST)
    with suppress(msgspec.DecodeError):
        return msgspec.json.decode(data, type=Manifest).files
    return ()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as exc:
        raise storage_error(exc, f"{path} cannot be read") from exc


def this_run() -> str:
    """Tells this process from all others, also from one that it was forked from."""
    return _run_of(os.getpid())


@cache
def _run_of(process: int) -> str:
    return f"{process}-{secrets.token_hex(8)}"


class Notes:
    """The notes of one attempt, while it is made; for several threads."""

    def __init__(self, part: Path) -> None:
        """Raises the errors of storage."""
        self._part = part
        self._lock = threading.Lock()
        self._lines: list[bytes] = []
        self._unnoted = 0
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with writing(part):
            self._descriptor = os.open(part / PROGRESS, flags, NEW_FILE)
        self._add([Note(run=this_run())], 0, before=b"\n")  # ends a line that was cut short

    def written(self, file: FileEntry, index: int, digest: str, count: int) -> None:
        """A block was written."""
        told = _bare(file, (digest,))
        with self._lock:
            self._add([Note(file=told, first=index)], count)

    def overwritten(self, file: FileEntry, index: int) -> None:
        """A block that was noted is about to be written again: what was noted of it does not hold any more."""
        with self._lock:
            self._add([Note(file=_bare(file, ("",)), first=index)], UNNOTED_BYTES)

    def durable(self, file: FileEntry) -> None:
        """All blocks of a file that were noted are on the disk; its copy was given the time of `file`."""
        with self._lock:
            self._add([Note(file=_bare(file), durable=True)], UNNOTED_BYTES)

    def finished(self, files: Iterable[FileEntry]) -> None:
        """Files are whole, durable, and read back."""
        with self._lock:
            self._add([Note(file=file) for file in files], UNNOTED_BYTES)

    def close(self) -> None:
        """Write what was not written yet."""
        try:
            self._add([], UNNOTED_BYTES)
        finally:
            os.close(self._descriptor)

    def _add(self, notes: list[Note], count: int, before: bytes = b"") -> None:
        self._lines += [before, *(msgspec.json.encode(note) + b"\n" for note in notes)]
        self._unnoted += count
        if before or self._unnoted >= UNNOTED_BYTES:
            lines, self._lines, self._unnoted = self._lines, [], 0
            with writing(self._part):
                write_all(self._descriptor, memoryview(b"".join(lines)))


def _bare(file: FileEntry, blocks: tuple[str, ...] = ()) -> FileEntry:
    return FileEntry(
        path=file.path, size=file.size, mtime_ns=file.mtime_ns, stored=file.stored, blocks=blocks
    )
