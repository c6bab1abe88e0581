"""Calls to the Linux kernel that Python's `os` lacks. Where kernel or file system cannot, nothing happens."""

import ctypes
import errno
import fcntl
import os

_CANNOT = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENOTTY})
_NO_CLONE = _CANNOT | {errno.EXDEV, errno.EPERM, errno.EACCES, errno.ETXTBSY, errno.EBADF, errno.EISDIR}
_FICLONE = 0x40049409
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_SYNC_FILE_RANGE_WRITE = 2
_LIBC = ctypes.CDLL(None, use_errno=True)
_OFFSET = ctypes.c_int64


def allocate(descriptor: int, size: int) -> None:
    """Claim the space of a file at once, its size unchanged: a full disk is noticed before the copy, not in it.

    Never by writing zeros, as the C library does where the file system cannot. Raises `OSError`.
    """
    if size:
        _allocate(descriptor, _KEEP_SIZE, 0, size)


def punch_hole(descriptor: int, offset: int, count: int) -> bool:
    """Take the space of a range away: it reads as zeros. False where the file system cannot. Raises `OSError`."""
    return _allocate(descriptor, _KEEP_SIZE | _PUNCH_HOLE, offset, count)


def start_writing_back(descriptor: int, offset: int, count: int) -> None:
    """Let the kernel begin to write a range to the disk, and wait for nothing: less is left to the fsync. Of 0
    bytes: up to the end of the file.

    An error is of no account here: the fsync tells of it.
    """
    if function := getattr(_LIBC, "sync_file_range", None):
        function(descriptor, _OFFSET(offset), _OFFSET(count), _SYNC_FILE_RANGE_WRITE)


def clone(source: int, target: int) -> bool:
    """Let a file share the blocks of another one, as XFS and btrfs can within one file system; False: not here.

    Raises `OSError`.
    """
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as exc:
        if exc.errno in _NO_CLONE:
            return False
        raise
    return True


def _allocate(descriptor: int, mode: int, offset: int, count: int) -> bool:
    if _LIBC.fallocate(descriptor, mode, _OFFSET(offset), _OFFSET(count)) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT:
        return False
    raise OSError(code, os.strerror(code))
