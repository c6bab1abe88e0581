"""Removing the files of a scan from a detector's disk: these files, as they were judged, and nothing else.

Every file is reached from the watched root's own descriptor, folder by folder, without following a link, and is
removed relative to the descriptor of its folder: a folder that is exchanged for a link in between leads nowhere.
Nothing is ever made, renamed or written below the root. A file system cannot remove a file only if it is unchanged;
so each file is looked at immediately before it goes.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import msgspec

from srctd.core.errors import DigestMismatch, HoldError, NotPermitted, SourceChanged, StorageUnavailable
from srctd.core.freeing import MEANINGFUL
from srctd.core.scan import FileEntry, Manifest

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""What answers a name whose file or folder is gone, or has become something else."""
_STAYS = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY, *_NOT_THERE})
"""What answers the removal of a folder that is not empty, is a mount point, or is gone."""


class DiskUsage(NamedTuple):
    """How full the disk below a folder is."""

    folder: str
    """The folder itself, links resolved."""
    device: int
    """The same for all folders on one disk."""
    size: int
    """Bytes that are used or may be used; what is reserved for root is neither."""
    used: int


class Removed(NamedTuple):
    """How far a removal came."""

    gone: tuple[FileEntry, ...]
    """Files that are not there any more."""
    left: tuple[FileEntry, ...]
    """Files that changed, and were left alone."""
    freed: int
    """Bytes of the disk's blocks that were theirs alone, as far as links tell; blocks may be shared besides."""
    finished: bool
    """False: it was told to stop."""


def disk_usage(folder: str) -> DiskUsage:
    """How full a disk is; raises `StorageUnavailable`."""
    real = os.path.realpath(folder)
    with _storage(folder, "cannot be looked at"):
        device, disk = os.stat(real).st_dev, os.statvfs(real)
    used = disk.f_blocks - disk.f_bfree
    return DiskUsage(real, device, (used + disk.f_bavail) * disk.f_frsize, used * disk.f_frsize)


def writable(folder: str) -> bool:
    """Whether this process may remove what lies in a folder."""
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=True)


def require_removable(manifest: Manifest, root: str) -> None:
    """Raise unless every file is there, unchanged, and may be removed.

    `SourceChanged`, `NotPermitted`, `StorageUnavailable`; `HoldError` for files that lie outside of the root or on
    another disk than it, or are nearly all known by further hard links: removing those frees nothing.
    """
    linked: list[FileEntry] = []
    with _opened_root(root) as top:
        device = os.fstat(top).st_dev
        for folder, files in _by_folder(manifest, root):
            shown = f"{root}/{folder}" if folder else root
            with _storage(shown, "cannot be looked at"), _opened_below(top, folder) as holder:
                if holder is None:
                    raise SourceChanged(f"{shown} is not there any more, or is no folder")
                if os.fstat(holder).st_dev != device:
                    raise HoldError(f"{shown} lies on another disk than {root}")
                if not os.access(".", os.W_OK | os.X_OK, dir_fd=holder, effective_ids=True):
                    raise NotPermitted(f"{shown}: this user may not remove anything there")
                for name, file in files:
                    found = _unchanged(holder, name, file)
                    if found is None:
                        raise SourceChanged(
                            f"{shown}/{name} changed since it was copied, or is not there any more"
                        )
                    linked += [file] if found.st_nlink > 1 else []
    kept = sum(file.size for file in linked)
    if linked and manifest.size - kept < MEANINGFUL * manifest.size:
        raise HoldError(
            f"{len(linked)} of its {len(manifest.files)} files, as {manifest.folder}/{linked[0].path}, have "
            f"further hard links: removing it frees {manifest.size - kept} of {manifest.size} bytes",
            hint="remove the other links if room is wanted",
        )


def remove(manifest: Manifest, root: str, stopping: Callable[[], bool] = lambda: False) -> Removed:
    """Remove the files that are unchanged, then the folders of the scan that became empty.

    Files that are gone are fine: somebody was killed while removing them. Files that changed are left: they are not
    this scan's any more. Call `require_removable` before. `stopping` is asked before each file. What is opened goes
    last, so that the scan has its path to the end. The folder around a scan that is a file stays, empty or not:
    the detector may be about to write there. Raises `NotPermitted`, `StorageUnavailable`.
    """
    gone: list[FileEntry] = []
    left: list[FileEntry] = []
    freed = 0
    with _opened_root(root) as top:
        for folder, files in _by_folder(manifest, root):
            with _storage(f"{root}/{folder}", "cannot be removed from"), _opened_below(top, folder) as holder:
                for name, file in files:
                    if stopping():
                        return Removed(tuple(gone), tuple(left), freed, finished=False)
                    size = 0 if holder is None else _removed(holder, name, file)
                    (left if size is None else gone).append(file)
                    freed += size or 0
        for folder in _own_folders(manifest, root):
            _remove_if_empty(top, folder)
    return Removed(tuple(gone), tuple(left), freed, finished=True)


def copy_as_it_lies(proven: Manifest, holder: str | Path, inside: str) -> Manifest:
    """The files of a copy with the times that they have there; their next reading comes from the storage itself.

    What the page cache holds of them would prove nothing. Nor would a link: it may lead to the source. `inside`:
    the folder in `holder` in which they are. Raises `DigestMismatch` for a file that is missing, behind a link, or
    of another size, `StorageUnavailable`.
    """
    holder = os.path.realpath(holder)
    folder = f"{holder}/{inside}"
    copied = [FileEntry(path=file.copied_as, size=file.size, mtime_ns=0) for file in proven.files]
    lying: dict[str, FileEntry] = {}
    with _opened_root(holder) as top:
        for below, files in _by_folder(Manifest(folder=folder, files=tuple(copied)), holder):
            with _storage(f"{holder}/{below}", "cannot be read"), _opened_below(top, below) as opened:
                for name, file in files:
                    found = None if opened is None else _dropped(opened, name)
                    if found is None:
                        raise DigestMismatch(f"{folder}/{file.path} is not there, or is no regular file")
                    if found.st_size != file.size:
                        raise DigestMismatch(
                            f"{folder}/{file.path} has {found.st_size} bytes instead of {file.size}"
                        )
                    lying[file.path] = msgspec.structs.replace(file, mtime_ns=found.st_mtime_ns)
    return Manifest(folder=folder, files=tuple(lying[file.path] for file in copied))


# --- parts ------------------------------------------------------------------------------------------------


def _by_folder(manifest: Manifest, root: str) -> Iterator[tuple[str, list[tuple[str, FileEntry]]]]:
    """(name, file) by folder relative to the root; what is opened comes last."""
    below = _relative(manifest.folder, root)
    placed = []
    for file in manifest.files:
        *folders, name = [*filter(None, [below]), *file.path.split("/")]
        if any(part in ("", ".", "..") for part in (*folders, name)):
            raise HoldError(f"{manifest.folder}: {file.path!r} is no plain relative name")
        placed.append((file.path == manifest.opened, "/".join(folders), name, file))
    placed.sort(key=lambda place: place[:3])
    for (_, folder), files in groupby(placed, key=lambda place: place[:2]):
        yield folder, [(name, file) for _, _, name, file in files]


def _own_folders(manifest: Manifest, root: str) -> list[str]:
    """The folders that are the scan's alone, relative to the root, the innermost first; never the root itself."""
    below = _relative(manifest.folder, root)
    own = set() if manifest.opened else {below}
    for file in manifest.files:
        parts = file.path.split("/")[:-1]
        own.update("/".join([*filter(None, [below]), *parts[: n + 1]]) for n in range(len(parts)))
    return sorted(own - {""}, key=lambda folder: -folder.count("/"))


def _relative(folder: str, root: str) -> str:
    if folder == root:
        return ""
    if not folder.startswith(f"{root}/"):
        raise HoldError(f"{folder} does not lie below {root}")
    return folder[len(root) + 1 :]


@contextmanager
def _opened_root(root: str) -> Iterator[int]:
    with _storage(root, "cannot be opened"):
        descriptor = os.open(root, _FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _opened_below(top: int, folder: str) -> Iterator[int | None]:
    """A folder's descriptor; None if it is not there, or if a link stands in the way."""
    descriptor = os.dup(top)
    try:
        try:
            for part in folder.split("/") if folder else ():
                deeper = os.open(part, _FOLDER, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = deeper
        except OSError as exc:
            if exc.errno not in _NOT_THERE:
                raise
            yield None
        else:
            yield descriptor
    finally:
        os.close(descriptor)


def _unchanged(holder: int, name: str, file: FileEntry) -> os.stat_result | None:
    """What a file is; None if it is not there as it was."""
    try:
        found = os.stat(name, dir_fd=holder, follow_symlinks=False)
    except OSError as exc:
        if exc.errno in _NOT_THERE:
            return None
        raise
    same = (found.st_size, found.st_mtime_ns) == (file.size, file.mtime_ns)
    return found if stat.S_ISREG(found.st_mode) and same else None


def _dropped(holder: int, name: str) -> os.stat_result | None:
    """What a regular file is, the page cache rid of it; None if there is none of the name."""
    try:
        descriptor = os.open(name, _FILE, dir_fd=holder)
    except OSError as exc:
        if exc.errno not in _NOT_THERE:
            raise
        return None
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return found if stat.S_ISREG(found.st_mode) else None


def _removed(holder: int, name: str, file: FileEntry) -> int | None:
    """Remove a file if it is unchanged; return the bytes of blocks that were its alone, None if it stays."""
    found = _unchanged(holder, name, file)
    if found is not None:
        os.unlink(name, dir_fd=holder)
        return 512 * found.st_blocks if found.st_nlink == 1 else 0
    try:
        os.stat(name, dir_fd=holder, follow_symlinks=False)
    except FileNotFoundError:
        return 0
    return None


def _remove_if_empty(top: int, folder: str) -> None:
    around, _, name = folder.rpartition("/")
    with _storage(folder, "cannot be removed"), _opened_below(top, around) as holder:
        if holder is None:
            return
        try:
            os.rmdir(name, dir_fd=holder)
        except OSError as exc:
            if exc.errno not in _STAYS:
                raise


@contextmanager
def _storage(path: str, what: str) -> Iterator[None]:
    """Translate what goes wrong with a disk."""
    try:
        yield
    except PermissionError as exc:
        raise NotPermitted(f"{path} {what}: {exc.strerror}", hint="let the daemon's user do it") from exc
    except OSError as exc:
        raise StorageUnavailable(f"{path} {what}: {exc.strerror}", hint="check the mount") from exc
