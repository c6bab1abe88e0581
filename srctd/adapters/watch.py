"""Bells: inotify says that something happened in a folder, so that the listing looks there now and not later.

inotify loses events when its queue overflows and hears nothing of writes from other hosts. Nothing is lost with
them: the listing looks again by itself (`adapters/listing.py`).
"""

import os
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch

from srctd.core.grouping import temporary

# Not "opened" and not "closed without writing": the daemon's own reading would ring its own bell.
_EVENTS: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileClosedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
]
_REMOTE = (
    "nfs",
    "cifs",
    "smb",
    "gpfs",
    "lustre",
    "beegfs",
    "ceph",
    "glusterfs",
    "9p",
    "fuse",
    "afs",
    "pvfs",
    "wekafs",
)
MOST_CALLS = 4000
"""Inside each other: the longest path, 4096 bytes, has 2048 levels."""
_CACHE_SECONDS = {"nfs": 60.0, "nfs4": 60.0}
"""Linux's default of `acdirmax` and `acregmax`: so old may be what a client says of a file."""


class Root(Protocol):
    """What must be known of a watched root."""

    @property
    def path(self) -> str:
        """Absolute path."""

    @property
    def depth(self) -> int:
        """Folder levels below the root that are listened to; 0: the root's own files only."""


class FileSystem(NamedTuple):
    """On what a folder lies."""

    kind: str
    """As the kernel names it: `ext4`, `nfs4`, `fuse.sshfs`."""
    remote: bool
    """Whether other hosts may write to it, of which inotify says nothing."""
    cache_seconds: float
    """How old what it says of a file may be."""


class Watch:
    """The bells of some roots. Start it first, then list: nothing slips through between."""

    def __init__(self, roots: Sequence[Root], wake: Callable[[], None]) -> None:
        """`wake` is called from a thread, once until `rung` is asked."""
        self._roots = roots
        self._wake = wake
        self._observer: BaseObserver | None = None
        self._bells: dict[str, tuple[ObservedWatch, tuple[int, int]]] = {}
        self._rung: set[str] = set()
        self._lock = threading.Lock()
        self._hanging = threading.Lock()
        self._stopped = False

    def start(self) -> None:
        """Begin to listen. What hinders it is a problem that `listen` returns, never an error."""
        # watchdog warns where two folders are made in quick succession and it sees the inner one twice. It does
        # so in the thread that reads inotify, which ends if warnings are errors.
        warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning)
        # It goes through folders by `os.walk`, which calls itself once for every level: anybody may make thousands.
        sys.setrecursionlimit(max(sys.getrecursionlimit(), MOST_CALLS))
        try:
            self._observer = Observer()
            self._observer.start()
        except OSError:  # no inotify instance is left; `listen` says so
            self._observer = None
        for root in self._roots:
            self.listen(root)

    def stop(self) -> None:
        """End all threads."""
        with self._hanging:
            self._stopped = True
            if self._observer is not None:
                self._observer.stop()
                self._observer.join()

    def rung(self) -> set[str]:
        """Folders in which something happened since this was asked last."""
        with self._lock:
            rung, self._rung = self._rung, set()
        return rung

    def ring(self, folder: str) -> None:
        """Say that something happened in a folder; called from watchdog's thread."""
        with self._lock:
            first = not self._rung
            self._rung.add(folder)
        if first:
            self._wake()

    def listen(self, root: Root) -> str:
        """Listen to a root, again if its folder was replaced; return the problem, if there is one."""
        with self._hanging:
            if self._stopped:
                return ""
            if self._observer is None:
                return f"{root.path}: no inotify instance is left; changes are noticed by listing only"
            try:
                self._listen(self._observer, root)
            except FileNotFoundError:
                return ""  # the listing says it
            except OSError as exc:
                return f"{root.path}: {exc.strerror}; changes are noticed by listing only"
        return ""

    def _listen(self, observer: BaseObserver, root: Root) -> None:
        stat = os.stat(root.path)
        identity = (stat.st_dev, stat.st_ino)
        if root.path in self._bells:
            watch, folder = self._bells[root.path]
            alive = any(emitter.watch == watch and emitter.is_alive() for emitter in observer.emitters)
            if alive and folder == identity:
                return
            del self._bells[root.path]
            observer.unschedule(watch)
        top = os.path.realpath(root.path)
        watch = observer.schedule(_Bell(self), top, recursive=root.depth > 0, event_filter=_EVENTS)
        self._bells[root.path] = watch, identity


class _Bell(FileSystemEventHandler):
    """Rings for the folders in which a file or folder came, went, or was closed; temporary names are not meant."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def dispatch(self, event: FileSystemEvent) -> None:
        """Ring for both ends of a move."""
        for path in (event.src_path, event.dest_path):
            folder, name = os.path.split(os.fsdecode(path))
            if name and not temporary(name):
                self._watch.ring(folder)


def file_system(path: str, mounts: str = "/proc/self/mountinfo") -> FileSystem:
    """On what a folder lies; an unknown one counts as local."""
    try:
        table = Path(mounts).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return FileSystem("unknown", False, 0.0)
    real = os.path.realpath(path)
    best, found = -1, FileSystem("unknown", False, 0.0)
    for line in table.splitlines():
        before, _, after = line.partition(" - ")
        fields, about = before.split(" "), after.split(" ")
        if len(fields) < 5 or not about[0]:
            continue
        point = fields[4].encode().decode("unicode_escape") if "\\" in fields[4] else fields[4]
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:  # a later mount covers an earlier one
            best, found = len(point), _described(about[0], about[-1])
    return found


def _described(kind: str, options: str) -> FileSystem:
    times = [
        float(word.partition("=")[2])
        for word in options.split(",")
        if word.startswith(("acregmax=", "acdirmax=", "actimeo=")) and word.partition("=")[2].isdigit()
    ]
    uncached = "noac" in options.split(",")
    cache = 0.0 if uncached else max(times, default=_CACHE_SECONDS.get(kind, 0.0))
    return FileSystem(kind, kind.startswith(_REMOTE), cache)
