"""Opening a scan's files: regular ones alone, whatever has taken a file's place since it was listed or copied.

A copy belongs to the scan's user, and the detector's folder to whoever writes there: both could put a pipe, which
would be waited for, or a symbolic link to a file that is none of theirs.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import BinaryIO

from srctd.core.errors import ScanUnreadable

_LINKS_INTO: ContextVar[str] = ContextVar("links_into", default="")
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextmanager
def links_followed(into: str) -> Iterator[None]:
    """Inside the block, a symbolic link in a file's place is followed if it leads into this folder; empty: none is.

    For a folder of links that srctd itself has made, to show a copy's files under the scan's own names.
    """
    token = _LINKS_INTO.set(into)
    try:
        yield
    finally:
        _LINKS_INTO.reset(token)


def regular(path: str) -> os.stat_result | None:
    """Size and times of a regular file; None for all else."""
    try:
        found = os.lstat(_followed(path))
    except (FileNotFoundError, NotADirectoryError):  # renamed since it was listed, or a link to nowhere
        return None
    return found if stat.S_ISREG(found.st_mode) else None


@contextmanager
def opened(path: str) -> Iterator[int]:
    """A descriptor of a regular file, as `open_regular` gives it, closed after the block."""
    descriptor = open_regular(path, _followed(path))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def stream(path: str) -> BinaryIO:
    """A regular file as Python's own object, for a library that reads from one; the caller closes it."""
    return open(path, "rb", opener=lambda name, _: open_regular(name, _followed(name)))


def open_regular(path: str, name: str, folder: int | None = None) -> int:
    """A descriptor of a regular file; the caller closes it. Links in the place of folders on the way are followed.

    What has the name is found out before it is opened, and the same is opened then: a pipe would be waited for,
    and some devices do something when they are only opened. `path` is for the sentence, `name` counts from the
    descriptor `folder`. Raises `ScanUnreadable` for what is no regular file, and `OSError`.
    """
    found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        kind = stat.S_IFMT(os.fstat(found).st_mode)
        if kind == stat.S_IFREG:
            return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        exc.filename = path
        raise
    finally:
        os.close(found)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise ScanUnreadable(
        f"{path} is no regular file but {_KINDS.get(kind, 'something else')}",
        hint="put the scan's own file in its place",
    )


def _followed(path: str) -> str:
    """Where the link at a path leads, if it may be followed; else the path itself."""
    into = _LINKS_INTO.get()
    if into and os.path.islink(path):
        real = os.path.realpath(path)
        if real.startswith(f"{os.path.realpath(into)}/"):
            return real
    return path
