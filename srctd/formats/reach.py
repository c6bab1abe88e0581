"""What a file system says where it, and not the file, is at fault: it says nothing of the scan."""

import errno
import os

from srctd.core.errors import StorageUnavailable

_PASSING = frozenset(
    getattr(errno, name)
    for name in ("EIO", "ESTALE", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENOTCONN", "ENODEV", "EREMOTEIO")
)


def out_of_reach(path: str, exc: BaseException) -> StorageUnavailable | None:
    """The error that says so; None if the file itself may be what is wrong."""
    if isinstance(exc, OSError) and exc.errno is not None and exc.errno in _PASSING:
        return StorageUnavailable(
            f"{path} cannot be reached now: {os.strerror(exc.errno)}",
            hint="check the disk or the mount; it is tried again by itself",
        )
    return None
