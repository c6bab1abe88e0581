"""The directory listing: what lies below a watched root, folder by folder, as scans.

The listing alone decides what is there; bells (inotify) only make it look sooner. A folder in which something
changed a while ago, or that holds a scan still to be judged, is active and listed every few seconds. A folder at
rest costs one `stat` in that time, and is listed in full every few minutes: a file may be written again without a
sign in its folder. How often a large folder is listed is bounded by what a listing of it costs. Nothing here
opens a file.
"""

import errno
import fnmatch
import os
import re
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import xxhash

from srctd.core.grouping import Group, group, printable, scan_folder, temporary
from srctd.core.scan import FileEntry, Manifest

MOST_FILES = 1_000_000
"""Files of folders that are active at the same time; more is a mistake in the configuration, and memory is
finite."""
MOST_FOLDERS = 200_000
MOST_PROBLEMS = 20
ACTIVE_SECONDS = 60.0
"""So long after its last change a folder stays active: clocks of file systems tick coarsely."""
COST_CHANGING = 5.0
COST_QUIET = 150.0
"""A folder is listed at most every so many times what a listing of it takes: below 1 % of a core while quiet."""
FORGET_SECONDS = 3600.0


class Root(Protocol):
    """What must be known of a watched root."""

    @property
    def path(self) -> str:
        """Absolute path."""

    @property
    def patterns(self) -> Sequence[str]:
        """Shell wildcards of names that are scans or frames, compared without regard to case."""

    @property
    def depth(self) -> int:
        """Folder levels below the root that are listed; 0: the root's own files only."""

    @property
    def listing_seconds(self) -> float:
        """Between two listings of an active folder."""

    @property
    def rest_listing_seconds(self) -> float:
        """Between two full listings of a folder at rest."""


class Stat(NamedTuple):
    """A file as the listing sees it."""

    size: int
    mtime_ns: int
    inode: int


class Listed(NamedTuple):
    """The files of one scan, or of what may become one, as they were seen last."""

    path: str
    """What is opened: a file or a folder. Absolute and free of symbolic links."""
    folder: str
    """What the members' names count from."""
    folders: tuple[str, ...]
    """All folders in which members lie."""
    files: int
    bytes: int
    newest_ns: int
    """Time of the newest file: only good for an order."""
    fingerprint: str
    """Changes with any member's name, size or time."""


class _Folder:
    """What is known of a folder."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.files: dict[str, Stat] | None = None
        """None: at rest, forgotten to save memory."""
        self.signature = b""
        self.folders: tuple[str, ...] = ()
        self.mtime_ns = -1
        self.looked_at = float("-inf")
        self.changed_at = float("-inf")
        self.cost = 0.0
        self.due = float("-inf")


def wanted_names(patterns: Sequence[str]) -> re.Pattern[str]:
    """What matches names that fit one of some shell wildcards, in upper or lower case."""
    return re.compile("|".join(map(fnmatch.translate, patterns)) or r"\Z.", re.IGNORECASE)


class Listing:
    """What lies below one root. Not for several threads at once."""

    def __init__(self, root: Root, stopping: threading.Event | None = None, limit: str = "") -> None:
        """`limit`: the folder above which no scan begins, if that is not the root itself."""
        self.groups: dict[str, Listed] = {}
        """By path."""
        self.problems: tuple[str, ...] = ()
        """What could not be looked at, one sentence each."""
        self.busy: set[str] = set()
        """Paths of groups that are still to be judged; the caller keeps it."""
        self._root = root
        self._top = os.path.realpath(root.path)
        self._limit = os.path.realpath(limit) if limit else ""
        self._stopping = stopping or threading.Event()
        self._wanted = wanted_names(root.patterns)
        self._folders: dict[str, _Folder] = {}
        self._owned: dict[str, set[str]] = {}  # scan's folder -> folders whose files are its
        self._in: dict[str, tuple[Group, ...]] = {}  # scan's folder -> scans
        self._wrong: dict[str, tuple[str, ...]] = {}  # folder -> problems
        self._too_deep: dict[str, str] = {}  # folder -> one below it that is not looked at
        self._sweep_due = float("-inf")

    def look(self, rung: Collection[str], now: float) -> None:
        """Look at what is due, or was rung for (folders). `now`: monotonic. Blocks as long as the file system
        does.
        """
        sweep = now >= self._sweep_due
        if sweep:
            self._sweep_due = now + self._root.listing_seconds
        if self._top not in self._folders:  # where its path leads may have changed while it was away
            self._wrong.pop(self._top, None)
            self._top = os.path.realpath(self._root.path)
        changed: set[str] = set()
        for path in [self._top] if self._top not in self._folders else list(self._folders):
            folder = self._folders.get(path)
            if folder is None and path != self._top:
                continue  # went with the folder around it
            if folder is None or self._is_due(path, folder, path in rung, sweep, now):
                self._list_tree(path, folder.depth if folder else 0, now, changed)
        for owner in changed:
            self._regroup(owner, now)
        self._forget_names(now)
        problems = [sentence for sentences in self._wrong.values() for sentence in sentences]
        if self._too_deep:
            example = next(iter(self._too_deep.values()))
            problems.append(
                f"{self._root.path}: folders more than {self._root.depth} levels below it are not looked at, "
                f"such as {example}; set depth"
            )
        if len(problems) > MOST_PROBLEMS:
            problems[MOST_PROBLEMS:] = [f"{self._root.path}: {len(problems) - MOST_PROBLEMS} problems more"]
        self.problems = tuple(problems)

    def seconds_to_next(self, now: float) -> float:
        """Until something is due."""
        due = min((folder.due for folder in self._folders.values()), default=self._sweep_due)
        return max(0.0, min(due, self._sweep_due) - now)

    def looked_at(self, listed: Listed) -> float:
        """When, monotonic, all folders of a group had been looked at."""
        return min(
            (self._folders[path].looked_at for path in listed.folders if path in self._folders), default=0
        )

    def look_again(self, listed: Listed, at: float) -> None:
        """Have a group's folders listed again at a time, if that is not sooner than their cost allows."""
        for path in listed.folders:
            folder = self._folders.get(path)
            if folder is not None:
                folder.due = min(folder.due, max(at, folder.looked_at + COST_CHANGING * folder.cost))

    def look_at_once(self, path: str) -> None:
        """Have the folder of a file, or a folder, listed at the next look, if it is known."""
        for known in (path, os.path.dirname(path)):
            if known in self._folders:
                self._folders[known].due = float("-inf")
        self._sweep_due = float("-inf")

    def members(self, listed: Listed) -> tuple[str, ...]:
        """Absolute paths of a group's files; may list folders again whose names had been forgotten."""
        owner = self._owner(listed.folder)
        if any(owned.path == listed.path and not owned.members for owned in self._in.get(owner, ())):
            self._regroup(owner, time.monotonic())
        members = [owned.members for owned in self._in.get(owner, ()) if owned.path == listed.path]
        return tuple(f"{folder}/{name}" for folder, name in (members[0] if members else ()))

    def manifest(self, listed: Listed) -> Manifest | None:
        """The files of a group as they are at this moment; None if they are not as listed."""
        entries = []
        for path in self.members(listed):
            try:
                stat = os.stat(path, follow_symlinks=False)
            except OSError:
                return None
            relative = path[len(listed.folder) + 1 :]
            entries.append(FileEntry(path=relative, size=stat.st_size, mtime_ns=stat.st_mtime_ns))
        if not entries or fingerprint(entries) != listed.fingerprint:
            return None
        return Manifest(
            folder=listed.folder, files=tuple(entries), opened=listed.path[len(listed.folder) + 1 :]
        )

    # --- when ---------------------------------------------------------------------------------------------

    def _is_due(self, path: str, folder: _Folder, rung: bool, sweep: bool, now: float) -> bool:
        soonest = folder.looked_at + COST_CHANGING * folder.cost
        if rung or (sweep and self._mtime(path) != folder.mtime_ns):
            folder.due = min(folder.due, soonest)
        return now >= folder.due

    def _set_due(self, path: str, folder: _Folder, now: float) -> None:
        recent = now - folder.changed_at < ACTIVE_SECONDS
        active = recent or any(owned.path in self.busy for owned in self._in.get(self._owner(path), ()))
        often = self._root.listing_seconds if active else self._root.rest_listing_seconds
        costly = COST_CHANGING if folder.changed_at == now else COST_QUIET
        folder.due = now + max(often, costly * folder.cost)

    def _mtime(self, path: str) -> int:
        try:
            return os.lstat(path).st_mtime_ns
        except OSError:
            return -2  # its listing says why

    def _owner(self, folder: str) -> str:
        return scan_folder(folder, self._limit or self._top)

    def _forget_names(self, now: float) -> None:
        """Names and times of folders at rest are not kept: years of scans may lie below a root."""
        for path, folder in self._folders.items():
            quiet = folder.files is not None and now - folder.changed_at > ACTIVE_SECONDS
            if quiet and not any(owned.path in self.busy for owned in self._in.get(self._owner(path), ())):
                folder.files = None
        for owner, groups in self._in.items():
            if groups and all(self._folders[path].files is None for path in self._owned[owner]):
                self._in[owner] = tuple(owned._replace(members=()) for owned in groups)

    # --- what ---------------------------------------------------------------------------------------------

    def _list_tree(self, path: str, depth: int, now: float, changed: set[str]) -> None:
        """List a folder, and those in it that were not known."""
        waiting = [(path, depth)]
        for current, level in waiting:  # grows as it goes
            known = current in self._folders
            if not known and len(self._folders) >= MOST_FOLDERS:
                self._wrong[self._top] = (f"{self._root.path}: more than {MOST_FOLDERS} folders; set depth",)
                return
            below = self._list(current, level, now, changed)
            if below is None:
                self._forget(current, changed)
                continue
            self._too_deep.pop(current, None)
            if level == self._root.depth and below:
                self._too_deep[current] = below[0]
            if level < self._root.depth:
                waiting += [(child, level + 1) for child in below if child not in self._folders]

    def _list(self, path: str, depth: int, now: float, changed: set[str]) -> tuple[str, ...] | None:
        """List one folder; return the folders in it, None if it is not there."""
        began = time.monotonic()
        mtime_ns = self._mtime(path)
        entries = _Entries(path, self._top, self._stopping)
        files = dict(entries.files())
        if entries.gone:
            if path == self._top:
                problem = f"{self._root.path}: no such folder; it is looked for again at every listing"
                self._wrong[path] = (problem,)
            return None
        self._wrong.pop(path, None)
        if entries.problems:
            self._wrong[path] = tuple(entries.problems)
        folder = self._folders.setdefault(path, _Folder(depth))
        signature = _signature(files)
        new = folder.signature != signature
        gone = set(folder.folders) - set(entries.folders)
        folder.files, folder.signature, folder.folders = files, signature, tuple(entries.folders)
        folder.mtime_ns, folder.looked_at = mtime_ns, now
        if new:
            folder.changed_at = now
        owner = self._owner(path)
        self._owned.setdefault(owner, set()).add(path)
        if new:
            changed.add(owner)
        for child in gone:
            self._forget(child, changed)
        folder.cost = time.monotonic() - began
        self._set_due(path, folder, now)
        return folder.folders

    def _forget(self, path: str, changed: set[str]) -> None:
        """A folder is gone, with all below it."""
        waiting = [path]
        for current in waiting:
            folder = self._folders.pop(current, None)
            if folder is None:
                continue
            waiting += folder.folders
            self._too_deep.pop(current, None)
            if current != self._top:
                self._wrong.pop(current, None)
            owner = self._owner(current)
            self._owned[owner].discard(current)
            changed.add(owner)

    def _regroup(self, owner: str, now: float) -> None:
        """Divide the files of a scan's folder anew."""
        for before in self._in.pop(owner, ()):
            self.groups.pop(before.path, None)
        self._wrong.pop(f"{owner}/", None)
        names: dict[str, dict[str, Stat]] = {}
        for path in sorted(self._owned.get(owner, ())):
            if self._folders[path].files is None:
                self._list(path, self._folders[path].depth, now, set())
            names[path] = self._folders[path].files or {}
        if not names:
            self._owned.pop(owner, None)
            return
        groups, problem = group(owner, names, self._wanted.match, self._limit or self._top)
        if problem:
            self._wrong[f"{owner}/"] = (problem,)
        self._in[owner] = tuple(groups)
        for found in groups:
            self.groups[found.path] = _listed(found, names)


class _Entries:
    """One look into a folder."""

    def __init__(self, path: str, top: str, stopping: threading.Event) -> None:
        self.folders: list[str] = []
        self.problems: list[str] = []
        self.gone = False
        self._path, self._top, self._stopping = path, top, stopping

    def files(self) -> Iterator[tuple[str, Stat]]:
        """Files but for temporary names; fills the other attributes."""
        try:
            with _opened(self._path) as descriptor, os.scandir(descriptor) as entries:
                for number, entry in enumerate(entries):
                    if number == MOST_FILES:
                        self._note(f"{self._path}: more than {MOST_FILES} files; the rest is not looked at")
                    if number >= MOST_FILES or self._stopping.is_set():
                        return
                    if not temporary(entry.name):
                        yield from self._file(entry)
        except (FileNotFoundError, NotADirectoryError):  # a symbolic link in its place is no folder either
            self.gone = True
        except OSError as exc:
            self._note_error(self._path, exc)

    def _file(self, entry: os.DirEntry[str]) -> Iterator[tuple[str, Stat]]:
        path = f"{self._path}/{entry.name}"
        if not printable(entry.name):
            self._note(f"{path!r}: the name holds control characters or is not UTF-8; not looked at")
            return
        try:
            if entry.is_file(follow_symlinks=False):
                stat = entry.stat(follow_symlinks=False)
                yield entry.name, Stat(stat.st_size, stat.st_mtime_ns, stat.st_ino)
            elif entry.is_dir(follow_symlinks=False):
                self.folders.append(path)
            elif entry.is_symlink() and not f"{os.path.realpath(path)}/".startswith(f"{self._top}/"):
                self._note(f"{path}: a symbolic link, not followed; watch the folder it leads to")
        except FileNotFoundError:
            return  # it vanished since the folder was listed
        except OSError as exc:
            self._note_error(path, exc)

    def _note_error(self, path: str, exc: OSError) -> None:
        shown = path if printable(path) else repr(path)
        hint = "; let the daemon's user read it" if isinstance(exc, PermissionError) else ""
        self._note(f"{shown}: cannot be looked at: {exc.strerror}{hint}")

    def _note(self, problem: str) -> None:
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(problem)


@contextmanager
def _opened(path: str) -> Iterator[int]:
    """A descriptor of a folder; raises `NotADirectoryError` if a link has taken its place, or one on the way."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.readlink(f"/proc/self/fd/{descriptor}") != path:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        yield descriptor
    finally:
        os.close(descriptor)


class References:
    """How long files outside the listing have been as they are."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, ...], tuple[object, float, float]] = {}  # signature, since, asked

    def quiet_of(self, paths: Sequence[str], now: float) -> float:
        """Seconds since any of these files changed, came or went; 0 the first time they are asked for together.

        `now`: monotonic. What nobody asks for any more is forgotten.
        """
        self._seen = {key: seen for key, seen in self._seen.items() if now - seen[2] < FORGET_SECONDS}
        signature, since, _ = self._seen.get(tuple(paths), (None, now, now))
        found = tuple(map(_stat, paths))
        since = since if found == signature else now
        self._seen[tuple(paths)] = (found, since, now)
        return now - since


def _stat(path: str) -> Stat | None:
    """A file, links followed; None if it cannot be found."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):  # a name with a zero byte is a ValueError
        return None
    return Stat(stat.st_size, stat.st_mtime_ns, stat.st_ino)


def fingerprint(files: Collection[FileEntry]) -> str:
    """32 hexadecimal digits that change with any file's name, size or time."""
    digest = xxhash.xxh3_128()
    for file in sorted(files, key=lambda file: file.path):
        digest.update(f"{file.path}\0{file.size}\0{file.mtime_ns}\n".encode())
    return digest.hexdigest()


def _signature(files: dict[str, Stat]) -> bytes:
    digest = xxhash.xxh3_128()
    for name, stat in sorted(files.items()):
        digest.update(f"{name}\0{stat.size}\0{stat.mtime_ns}\0{stat.inode}\n".encode())
    return digest.digest()


def _listed(found: Group, names: dict[str, dict[str, Stat]]) -> Listed:
    skip = len(found.folder) + 1
    entries = []
    for folder, name in found.members:
        stat = names[folder][name]
        path = f"{folder}/{name}"[skip:]
        entries.append(FileEntry(path=path, size=stat.size, mtime_ns=stat.mtime_ns))
    return Listed(
        path=found.path,
        folder=found.folder,
        folders=tuple(dict.fromkeys(folder for folder, _ in found.members)),
        files=len(entries),
        bytes=sum(entry.size for entry in entries),
        newest_ns=max((entry.mtime_ns for entry in entries), default=0),
        fingerprint=fingerprint(entries),
    )
