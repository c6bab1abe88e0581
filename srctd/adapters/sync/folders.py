"""Folders and small files on shared storage: durable, whole or not there, replaced in one step."""

import ctypes
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from srctd.adapters.sync.options import Give, keep
from srctd.adapters.sync.trouble import writing
from srctd.core.errors import SrctdError
from srctd.core.permissions import NEW_FILE, NEW_FOLDER

_NO_EXCHANGE = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


def write_atomic(path: Path, data: bytes, give: Give = keep) -> None:
    """Write a small file that is there, whole, durable and handed over, or as it was before.

    Raises `NoSpace`, `NotPermitted`, `StorageUnavailable`.
    """
    part = path.with_name(f".{path.name}.part-{secrets.token_hex(4)}")
    with writing(path):
        try:
            with created(part, os.O_EXCL) as target:
                write_all(target, memoryview(data))
                give(target)
                os.fsync(target)
            part.replace(path)
        except (OSError, SrctdError):
            part.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def make_folder(path: Path, top: Path | None = None) -> None:
    """Make a folder and the parents it lacks, durably.

    `top` and what is above it must be there: where it is missing, its file system is, and what were made in its
    place would be hidden once that is back.
    """
    with writing(path):
        if path.is_dir():
            return
        if path == top:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        make_folder(path.parent, top)
        path.mkdir(NEW_FOLDER, exist_ok=True)
        sync_folder(path.parent)


def make_inner_folder(top: Path, path: str) -> None:
    """Make a folder within one that is nobody else's; a file or link that is in its way goes.

    It was copied when the source had it there, and is followed by nothing.
    """
    here = top
    with writing(top / path):
        for name in filter(None, path.split("/")):
            parent, here = here, here / name
            with suppress(FileNotFoundError):
                if stat.S_ISDIR(os.lstat(here).st_mode):
                    continue
                here.unlink()
            here.mkdir(NEW_FOLDER)
            sync_folder(parent)


def exchange_names(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where kernel, C library or file system cannot."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    if function(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(one))


def replace_folder(part: Path, final: Path, exchange: Callable[[Path, Path], bool] = exchange_names) -> None:
    """Let a finished folder take a name that an older one may have; the older one is removed.

    Killed anywhere, `final` is the old or the new folder, whole, or (only where the file system cannot exchange
    two names) absent. A remainder is hidden, is not taken for a growing part, and is removed by `sweep`.
    """
    swap = final.with_name(f".{final.name}.part-swap")
    with writing(final):
        sync_folder(part)
        if not final.is_dir():
            part.rename(final)
            sync_folder(final.parent)
            return
        remove_folder(swap)
        part.rename(swap)
        if not exchange(swap, final):
            old = final.with_name(f".{final.name}.part-old")
            remove_folder(old)
            final.rename(old)
            swap.rename(final)
            swap = old
        sync_folder(final.parent)
    shutil.rmtree(swap, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder and all that is in it; that it is not there is fine."""
    with writing(path), suppress(FileNotFoundError):
        shutil.rmtree(path)


def sweep(task: Path) -> tuple[str, ...]:
    """Remove the hidden remainders (`.NAME.part...`) directly in a task folder; return those that would not go.

    A file that somebody still has open keeps its folder on some network file systems; a later sweep gets it.
    """
    with writing(task):
        remainders = sorted(task.glob(".*.part*"))
    for path in remainders:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
    return tuple(path.name for path in remainders if os.path.lexists(path))


def sync_folder(path: Path, give: Give = keep) -> None:
    """Make a folder's names durable, where the file system knows of that; hand it over before."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        give(descriptor)
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def created(path: Path, flags: int) -> Iterator[int]:
    """A descriptor of a file that is written, made if it is not there; a link is not followed."""
    flags |= os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, NEW_FILE)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: memoryview) -> None:
    """Write all of it, however little the file system takes at a time."""
    while data:
        data = data[os.write(descriptor, data) :]
