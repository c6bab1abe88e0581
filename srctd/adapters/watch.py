"""Watched folders: inotify is the doorbell, the directory listing is the message.

inotify loses events when its queue overflows and hears nothing of writes from other hosts, so an event only says
"look again soon". What is there is what `Watch.list_root` lists; how long it has been as it is, is what `Tracker`
measures on the daemon's own clock. Nothing here opens a file.
"""

import fnmatch
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch

MOST_CANDIDATES = 200_000
"""Files listed of one root; more is a mistake in the configuration, and memory is finite."""
MOST_PROBLEMS = 20
FORGET_SECONDS = 3600.0
"""References that nobody asked for during this time are forgotten."""

# Not "opened" and not "closed without writing": the daemon's own reading would ring its own bell.
_EVENTS: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileClosedEvent,
    FileMovedEvent,
    DirCreatedEvent,
    DirMovedEvent,
]
_TEMPORARY = re.compile(r"\..*|.*(~|\.(part|partial|filepart|tmp|temp|swp))", re.IGNORECASE | re.DOTALL)
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


class Root(Protocol):
    """What must be known of a watched root."""

    @property
    def path(self) -> str:
        """Absolute path."""

    @property
    def patterns(self) -> Sequence[str]:
        """Shell wildcards, compared with a file's name without regard to case."""

    @property
    def depth(self) -> int:
        """Folder levels below the root that are listed; 0: the root's own files only."""


class Candidate(NamedTuple):
    """A file as the listing sees it."""

    path: str
    """Absolute and free of symbolic links."""
    size: int
    mtime_ns: int
    inode: int


class Listing(NamedTuple):
    """What was seen of a root."""

    candidates: tuple[Candidate, ...]
    problems: tuple[str, ...]
    """What could not be looked at or rung for, one sentence each."""


class Observed(NamedTuple):
    """A candidate and how long it has been as it is."""

    candidate: Candidate
    quiet_seconds: float
    """Since size, time or inode were last seen to change, on the caller's clock; 0 at first sight."""
    changed: bool
    """Since the observation before; true at first sight."""


class Watch:
    """The bells and the listings of some roots. Start it first, then list: nothing slips through between."""

    def __init__(self, roots: Sequence[Root], wake: Callable[[], None]) -> None:
        """`wake` is called from a thread, once per root until that root is listed again."""
        self._roots = roots
        self._wake = wake
        self._observer: BaseObserver | None = None
        self._bells: dict[str, tuple[ObservedWatch, tuple[int, int]]] = {}
        self._rung: set[str] = set()
        self._lock = threading.Lock()
        self._hanging = threading.Lock()
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begin to listen. What hinders it is a problem of the root's listings, never an error."""
        # watchdog warns where two folders are made in quick succession and it sees the inner one twice. It does
        # so in the thread that reads inotify, which ends if warnings are errors.
        warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning)
        try:
            self._observer = Observer()
            self._observer.start()
        except OSError:  # no inotify instance is left; every listing says so
            self._observer = None
        for root in self._roots:
            self._hang_bell(root)

    def stop(self) -> None:
        """End a listing that is under way and all threads."""
        self._stopping.set()
        with self._hanging:
            if self._observer is not None:
                self._observer.stop()
                self._observer.join()

    def list_root(self, root: Root) -> Listing:
        """List the matching files of a root as they are now. Blocks as long as the file system does."""
        problem = self._hang_bell(root)
        with self._lock:
            self._rung.discard(root.path)
        walk = _Walk(root, self._stopping)
        candidates = tuple(walk.candidates())
        return Listing(candidates, (*([problem] if problem else []), *walk.problems))

    def ring(self, root: str) -> None:
        """Say that something happened below a root; called from watchdog's thread."""
        with self._lock:
            new = root not in self._rung
            self._rung.add(root)
        if new:
            self._wake()

    def _hang_bell(self, root: Root) -> str:
        """Listen to a root, again if its folder was replaced; return the problem, if there is one."""
        with self._hanging:
            if self._stopping.is_set():
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
        watch = observer.schedule(
            _Bell(self, root.path), root.path, recursive=root.depth > 0, event_filter=_EVENTS
        )
        self._bells[root.path] = watch, identity


class _Bell(FileSystemEventHandler):
    """Rings for one root."""

    def __init__(self, watch: Watch, root: str) -> None:
        self._watch = watch
        self._root = root

    def dispatch(self, event: FileSystemEvent) -> None:
        """Ring, unless the name that is there now is a temporary one."""
        name = os.path.basename(os.fsdecode(event.dest_path or event.src_path))
        if not _TEMPORARY.fullmatch(name):
            self._watch.ring(self._root)


class _Walk:
    """One bounded look through a root."""

    def __init__(self, root: Root, stopping: threading.Event) -> None:
        self.problems: list[str] = []
        self._root = root
        self._top = os.path.realpath(root.path)
        self._stopping = stopping
        self._wanted = re.compile("|".join(map(fnmatch.translate, root.patterns)) or r"\Z.", re.IGNORECASE)
        self._count = 0

    def candidates(self) -> Iterator[Candidate]:
        """Folder by folder, level by level."""
        level = [self._top]
        for depth in range(self._root.depth + 1):
            below: list[str] = []
            for folder in level:
                for entry in self._entries(folder):
                    try:
                        if entry.is_dir(follow_symlinks=False):
                            below.append(entry.path)
                        elif found := self._candidate(entry):
                            yield found
                    except OSError as exc:
                        self._note_error(entry.path, exc)
            level = below if depth < self._root.depth else []

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        """What a folder holds, but for hidden and temporary names."""
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if self._stopping.is_set() or self._count >= MOST_CANDIDATES:
                        return
                    if not _TEMPORARY.fullmatch(entry.name):
                        yield entry
        except OSError as exc:
            self._note_error(folder, exc)

    def _candidate(self, entry: os.DirEntry[str]) -> Candidate | None:
        if not self._wanted.match(entry.name):
            return None
        if _UNPRINTABLE.search(entry.path):
            self._note(f"{entry.path!r}: the name holds control characters or is not UTF-8; not looked at")
            return None
        if entry.is_symlink():
            if not os.path.realpath(entry.path).startswith(self._top + os.sep):
                self._note(f"{entry.path}: a symbolic link, not followed; watch the folder it leads to")
            return None
        if not entry.is_file(follow_symlinks=False):
            return None
        stat = entry.stat(follow_symlinks=False)
        self._count += 1
        if self._count == MOST_CANDIDATES:
            self._note(f"{self._root.path}: more than {MOST_CANDIDATES} files; the rest is not looked at")
        return Candidate(entry.path, stat.st_size, stat.st_mtime_ns, stat.st_ino)

    def _note_error(self, path: str, exc: OSError) -> None:
        """What vanished since its folder was listed is no problem; that the root is not there is one."""
        if isinstance(exc, FileNotFoundError):
            if path == self._top:
                self._note(f"{self._root.path}: no such folder; it is looked for again at every listing")
            return
        shown = repr(path) if _UNPRINTABLE.search(path) else path
        hint = "; let the daemon's user read it" if isinstance(exc, PermissionError) else ""
        self._note(f"{shown}: cannot be looked at: {exc.strerror}{hint}")

    def _note(self, problem: str) -> None:
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(problem)
        elif len(self.problems) == MOST_PROBLEMS:
            self.problems.append(f"{self._root.path}: further problems of this kind")


def look_at(paths: Iterable[str]) -> tuple[Candidate, ...]:
    """The files among `paths` that can be found, links followed."""
    found = []
    for path in paths:
        try:
            stat = os.stat(path)
        except (OSError, ValueError):  # a name with a zero byte is a ValueError
            continue
        found.append(Candidate(path, stat.st_size, stat.st_mtime_ns, stat.st_ino))
    return tuple(found)


class _Seen(NamedTuple):
    signature: tuple[Candidate, ...]
    since: float
    """When it was first seen like this."""
    asked: float
    """When it was last looked at."""


class Tracker:
    """How long files have been as they are. Pure but for `look`, which finds referenced files."""

    def __init__(self, look: Callable[[Iterable[str]], tuple[Candidate, ...]] = look_at) -> None:
        self._look = look
        self._files: dict[str, _Seen] = {}
        self._references: dict[tuple[str, ...], _Seen] = {}

    def observe(self, candidates: Iterable[Candidate], now: float) -> list[Observed]:
        """Compare a whole listing with the one before; files that vanished are forgotten. `now`: monotonic."""
        before, self._files = self._files, {}
        observed = []
        for candidate in candidates:
            seen = before.get(candidate.path)
            changed = seen is None or seen.signature != (candidate,)
            since = now if seen is None or changed else seen.since
            self._files[candidate.path] = _Seen((candidate,), since, now)
            observed.append(Observed(candidate, now - since, changed))
        self._references = {
            paths: seen for paths, seen in self._references.items() if now - seen.asked < FORGET_SECONDS
        }
        return observed

    def quiet_of(self, paths: Sequence[str], now: float) -> float:
        """Seconds since any of these files changed, came or went; 0 the first time they are asked for together."""
        key = tuple(paths)
        signature = self._look(key)
        seen = self._references.get(key)
        since = seen.since if seen and seen.signature == signature else now
        self._references[key] = _Seen(signature, since, now)
        return now - since
