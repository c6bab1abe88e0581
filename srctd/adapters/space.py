"""Free space on a file system, asked before anything is written."""

import errno
import os
import secrets
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from srctd.core.errors import NoSpace, NotPermitted, SrctdError, StorageUnavailable
from srctd.core.permissions import NEW_FILE
from srctd.core.space import Grade, Thresholds, gigabytes, grade, with_margin


class Measured(NamedTuple):
    """A file system at a moment."""

    device: int
    """By which two paths on one file system are known."""
    free: int
    """Bytes that the daemon may still write."""
    total: int
    """Bytes."""
    files: int | None = None
    """How many files the daemon may still make; None: as many as there is room for."""


def measure(path: str | os.PathLike[str]) -> Measured:
    """What is free below `path`; of its nearest parent, where it does not exist yet.

    It may take for ever where a server does not answer. Raises `NotPermitted`, `StorageUnavailable`.
    """
    there = _existing(path)
    try:
        stat = os.statvfs(there)
        device = os.stat(there).st_dev
    except OSError as exc:
        raise StorageUnavailable(f"{there}: {exc.strerror}", hint="check the mount") from exc
    files = stat.f_favail if stat.f_files else None  # btrfs and others keep no table of them
    return Measured(device, stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize, files)


def free_bytes(path: str | os.PathLike[str]) -> int:
    """Bytes that the daemon may still write below `path`; raises as `measure` does."""
    return measure(path).free


def require(path: str | os.PathLike[str], needed: int, reserve: int, what: str) -> None:
    """Raise `NoSpace` unless `needed` bytes fit below `path` and `reserve` bytes stay free after that.

    `what` begins the sentence: what the space is needed for.
    """
    _require_of(free_bytes(path), path, needed, reserve, what)


def _require_of(
    free: int, path: str | os.PathLike[str], needed: int, reserve: int, what: str, promised: int = 0
) -> None:
    lacking = needed + reserve + promised - free
    if lacking <= 0:
        return
    mount = _mount(_existing(path))
    others = f", {gigabytes(promised)} of that are for scans before it," if promised else ""
    raise NoSpace(
        f"{what} needs {gigabytes(needed)} on {mount}, where {gigabytes(free)} are free{others}"
        f" and {gigabytes(reserve)} must stay free",
        hint=f"make {gigabytes(lacking)} more room on {mount}; it then goes on by itself",
        needs=with_margin(needed + reserve),
    )


def _existing(path: str | os.PathLike[str]) -> str:
    """The nearest of a path and its parents that exists."""
    candidate = os.path.abspath(path)
    while True:
        try:
            os.stat(candidate)
        except (FileNotFoundError, NotADirectoryError):
            candidate = os.path.dirname(candidate)
        except PermissionError as exc:
            raise NotPermitted(
                f"{candidate}: the daemon may not look into it",
                hint="let the daemon's user enter the folder",
            ) from exc
        except OSError as exc:
            raise StorageUnavailable(f"{candidate}: {exc.strerror}", hint="check the mount") from exc
        else:
            return candidate


def _mount(path: str) -> str:
    path = os.path.realpath(path)
    while not os.path.ismount(path):
        path = os.path.dirname(path)
    return path


class SharedStorage:
    """Shared storage that may be gone while its mount point is still there.

    The first use leaves a marker file on it and notes the marker's text in the state directory. From then on the
    marker must be found before anything is written: an empty mount point would fill the disk below it, and
    what is written there is hidden once the file system is back.
    """

    MARKER = ".srctd-storage"

    def __init__(self, path: str, note: str, thresholds: Thresholds | None = None) -> None:
        """`note`: the file in the state directory that says which marker belongs to `path`."""
        self.path = path
        self.thresholds = thresholds or Thresholds()
        self.grade = Grade.FULL
        """What may be done, by what was free when it was last asked."""
        self._note = note
        self._first_use = threading.Lock()

    def require(self, needed: int, reserve: int, what: str, promised: int = 0) -> None:
        """As `space.require`, on this storage; raises `StorageUnavailable` as well where it is not there.

        `promised`: what others will still write there.
        """
        self._require_marker()
        _require_of(self._ask().free, self.path, needed, reserve, what, promised)

    def require_files(self, needed: int, what: str, promised: int = 0) -> None:
        """Raise `NoSpace` unless so many files can still be made, and those that were promised to others."""
        free = self._ask().files
        if free is None or needed + promised <= free:
            return
        others = f" and scans before it {promised}," if promised else ""
        raise NoSpace(
            f"{what} needs {needed} files,{others} where {self.path} has {free} free inodes",
            hint=f"remove {needed + promised - free} files there; it then goes on by itself",
            of_files=True,
        )

    def require_for_copy(self, needed: int, reserve: int, what: str, promised: int = 0) -> None:
        """As `require`, for something new, of which nothing is taken any more once storage is almost full."""
        self.require_grade_below(Grade.STOP, what, needed + reserve)
        self.require(needed, reserve, what, promised)

    def require_grade_below(self, limit: Grade, what: str, needed: int) -> Measured:
        """What is free; raises `NoSpace` if so little that as little is done as at a grade, or less.

        `needed`: bytes that will have to be free besides.
        """
        measured = self.measure()
        if self.grade.at_least(limit):
            raise NoSpace(
                f"{what} waits: {self.low_on(measured.free)}",
                hint="make room there; it then goes on by itself",
                needs=max(self.thresholds.left_above(limit), with_margin(needed)),
            )
        return measured

    def low_on(self, free: int) -> str:
        """What the grade is and why, for people."""
        if self.grade is Grade.FULL:
            return f"{gigabytes(free)} are free on {self.path}; {self.grade.sentence}"
        begins, ends = self.thresholds.of(self.grade), self.thresholds.left_at(self.grade)
        below = gigabytes(begins if free < begins else ends)
        return f"{gigabytes(free)} are free on {self.path}, less than {below}; {self.grade.sentence}"

    def measure(self) -> Measured:
        """What is free; `grade` follows. Writes nothing. Raises `StorageUnavailable` where storage is not there."""
        if self._noted() and self._found() != self._noted():
            raise self._gone(f"has no marker {self.MARKER} of this daemon")
        measured = self._ask()
        self.grade = grade(measured.free, self.thresholds, self.grade)
        return measured

    def _ask(self) -> Measured:
        return measure(self.path)

    def _noted(self) -> str:
        """The marker that this storage must have; empty before its first use."""
        marker, _, path = _text_of(self._note).partition(" ")
        return marker if path == self.path else ""

    def make_account(self, account: str, give: Callable[[int], None]) -> None:
        """Make an account's folder, unless it is there; raises as `require` does, and `NoSpace`.

        It is made in the very file system in which the marker was found, whatever is mounted at its path meanwhile,
        and appears when it is handed over by `give`, which takes its descriptor.
        """
        self._require_marker()
        try:
            top = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if not os.access(self.MARKER, os.F_OK, dir_fd=top):
                    raise self._gone(f"has no marker {self.MARKER} of this daemon")
                _make_given(top, account, give)
            finally:
                os.close(top)
        except OSError as exc:
            raise _write_error(os.path.join(self.path, account), exc) from exc

    def _require_marker(self) -> None:
        if not os.path.isdir(self.path):
            raise self._gone("is not there")
        with self._first_use:  # several scans may want storage at once
            if not self._noted():  # or another path than before
                _write_text(self._note, f"{self._mark()} {self.path}")
        if self._found() != self._noted():
            raise self._gone(f"has no marker {self.MARKER} of this daemon")

    def _mark(self) -> str:
        """The text of the marker, which is left unless there is one: of several daemons one is the first."""
        if not self._found():
            _write_text(os.path.join(self.path, self.MARKER), uuid.uuid4().hex, replace=False)
        found = self._found()
        if not found:
            raise StorageUnavailable(
                f"storage.shared = {self.path!r} has an empty marker {self.MARKER}", hint="remove that file"
            )
        return found

    def _found(self) -> str:
        return _text_of(os.path.join(self.path, self.MARKER))

    def _gone(self, how: str) -> StorageUnavailable:
        hint = f"is the file system mounted? If it was replaced for good, remove {self._note}"
        return StorageUnavailable(f"storage.shared = {self.path!r} {how}", hint=hint)


def _make_given(top: int, name: str, give: Callable[[int], None]) -> None:
    """Make a folder in `top` that appears when it is handed over; that it is there is fine: it stays as it is."""
    if os.access(name, os.F_OK, dir_fd=top):
        return
    part = f".{name[:64]}.part-{secrets.token_hex(4)}"
    os.mkdir(part, 0o700, dir_fd=top)
    try:
        descriptor = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
        try:
            give(descriptor)
        finally:
            os.close(descriptor)
        os.rename(part, name, src_dir_fd=top, dst_dir_fd=top)
        os.fsync(top)
    except OSError as exc:
        if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another scan of the account was faster
            raise
    finally:
        with suppress(FileNotFoundError):
            os.rmdir(part, dir_fd=top)


def _text_of(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""
    except OSError as exc:  # not the same as that there is none: another one would be written over it
        raise StorageUnavailable(f"{path} cannot be read: {exc.strerror}", hint="check the mount") from exc


def _write_text(path: str, text: str, *, replace: bool = True) -> None:
    """Write a file that appears whole; unless `replace`, one that is there stays, where file systems can tell."""
    growing = f"{path}.part-{secrets.token_hex(4)}"
    try:
        try:
            with open(growing, "x", encoding="utf-8", opener=partial(os.open, mode=NEW_FILE)) as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            if replace or not _link(growing, path):
                os.replace(growing, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(growing)
    except OSError as exc:
        raise _write_error(path, exc) from exc


def _link(existing: str, path: str) -> bool:
    """Give a file a name, unless something has that name; False where the file system knows no second names."""
    try:
        os.link(existing, path)
    except FileExistsError:
        return True
    except OSError as exc:
        if exc.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            return False
        raise
    return True


def _write_error(path: str, exc: OSError) -> SrctdError:
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"{path} cannot be written: {exc.strerror}", hint="make room there")
    if isinstance(exc, PermissionError):
        return NotPermitted(f"{path} cannot be written", hint="let the daemon's user write there")
    return StorageUnavailable(f"{path} cannot be written: {exc.strerror}", hint="check the mount")
