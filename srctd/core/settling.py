"""Which bytes of a scan that is still being acquired will most likely not change any more.

That is a guess, from successive looks at sizes and times, and it may be wrong: it only decides what is copied
early, and what changes all the same is copied again when the scan is complete.

A file is settled as a whole once it was left alone for long enough, or once its like has begun after it, as in a
stack of frames. Of a file that grows, what was there some time ago is settled, in whole blocks.
"""

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from srctd.core.scan import BLOCK_BYTES, FileEntry

GAPS = 3.0
"""A file that made pauses may make another: it must be left alone for so many times the longest of them."""


class Settled(NamedTuple):
    """What has settled since this was asked last."""

    files: tuple[FileEntry, ...]
    """As they were seen last."""
    upto: dict[str, int]
    """How many bytes of each are settled, by path; its size: the whole file."""
    withdrawn: frozenset[str]
    """Files that are gone, or changed in what was settled of them."""


@dataclass
class _Moving:
    """A file that is not settled as a whole."""

    changed_at: float
    seen: list[tuple[float, int]] = field(default_factory=list)
    """Earlier looks since when it only grew: time and size, both rising."""
    longest_gap: float = 0.0
    """Between two changes."""
    changes: int = 0


class Settling:
    """The files of one scan, look after look. A look costs what has changed, and a glance at every file."""

    def __init__(self, pause_seconds: float, block_bytes: int = BLOCK_BYTES) -> None:
        """`pause_seconds`: what was left alone for so long is settled."""
        self._pause = pause_seconds
        self._block = block_bytes
        self._files: dict[str, FileEntry] = {}
        self._upto: dict[str, int] = {}
        self._moving: dict[str, _Moving] = {}
        self._appeared: dict[str, float] = {}  # suffix -> when the last file of it was seen first
        self._due: set[str] = set()
        self._withdrawn: set[str] = set()

    @property
    def due(self) -> bool:
        """Whether something settled, or is settled no more, since `take`."""
        return bool(self._due or self._withdrawn)

    def look(self, files: Iterable[FileEntry], at: float) -> None:
        """Take note of all files as they are now. `at`: seconds on a clock that never goes back."""
        gone = set(self._files)
        for file in files:
            gone.discard(file.path)
            before = self._files.get(file.path)
            if before is None:
                self._appeared[_suffix(file.path)] = at
                self._moving[file.path] = _Moving(changed_at=at, seen=[(at, file.size)])
            elif (before.size, before.mtime_ns) != (file.size, file.mtime_ns):
                self._changed(before, file, at)
            self._files[file.path] = file
        for path in gone:
            del self._files[path]
            self._moving.pop(path, None)
            self._withdraw(path)
        self.wait(at)

    def wait(self, at: float) -> None:
        """Nothing changed since the last look: what is settled by that?"""
        for path in [path for path, moving in self._moving.items() if self._settle(path, moving, at)]:
            del self._moving[path]

    def take(self) -> Settled:
        """What has settled since the last call."""
        upto = {path: self._upto[path] for path in self._due}
        withdrawn = frozenset(self._withdrawn - self._due)
        settled = Settled(tuple(self._files[path] for path in upto), upto, withdrawn)
        self._due, self._withdrawn = set(), set()
        return settled

    def again(self) -> None:
        """Whoever took what settled has lost it: `take` gives all of it once more."""
        self._due = set(self._upto)

    def _changed(self, before: FileEntry, file: FileEntry, at: float) -> None:
        closed = file.path not in self._moving
        moving = self._moving.setdefault(file.path, _Moving(changed_at=at, seen=[(at, before.size)]))
        if moving.changes:
            moving.longest_gap = max(moving.longest_gap, at - moving.changed_at)
        moving.changes += 1
        moving.changed_at = at
        if file.size > before.size:
            moving.seen.append((at, file.size))
            self._lower(file.path, self._whole_blocks(before.size))
            return
        moving.seen = [(at, file.size)]  # what is there says nothing of what comes
        if file.size < before.size or closed:
            self._withdraw(file.path)  # begun anew

    def _settle(self, path: str, moving: _Moving, at: float) -> bool:
        """Note how much of a file is settled; return whether all of it is."""
        size = self._files[path].size
        quiet = at - moving.changed_at
        followed = quiet > 0 and self._appeared.get(_suffix(path), moving.changed_at) > moving.changed_at
        if followed or quiet >= max(self._pause, GAPS * moving.longest_gap):
            self._raise(path, size)
            return True
        old = [seen for seen in moving.seen if at - seen[0] >= self._pause]
        if old:
            self._raise(path, self._whole_blocks(old[-1][1]))
            moving.seen = moving.seen[len(old) - 1 :]
        return False

    def _whole_blocks(self, size: int) -> int:
        return size // self._block * self._block

    def _raise(self, path: str, upto: int) -> None:
        # An empty file is settled by being there: 0 bytes of it are all.
        if upto > self._upto.get(path, 0) or (not self._files[path].size and path not in self._upto):
            self._upto[path] = upto
            self._due.add(path)

    def _lower(self, path: str, upto: int) -> None:
        """A file that had settled as a whole goes on: its last block changes with that."""
        if upto < self._upto.get(path, 0):
            self._withdraw(path)
            if upto:
                self._upto[path] = upto
                self._due.add(path)

    def _withdraw(self, path: str) -> None:
        if self._upto.pop(path, None) is not None:
            self._withdrawn.add(path)
            self._due.discard(path)


def _suffix(path: str) -> str:
    return posixpath.splitext(path)[1]
