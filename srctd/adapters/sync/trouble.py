"""What goes wrong with files, as errors that say whether to try again."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from srctd.core.errors import (
    HoldError,
    NoSpace,
    NotPermitted,
    ScanUnreadable,
    SourceChanged,
    SrctdError,
    StorageUnavailable,
)

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_NOT_PERMITTED = frozenset({errno.EACCES, errno.EPERM})
_UNFIT = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.ENAMETOOLONG, errno.EFBIG})


def storage_error(exc: OSError, what: str) -> SrctdError:
    """The error that says whether to try again. `what` begins the sentence: which file could not be what."""
    sentence = f"{what}: {exc.strerror}"
    if exc.errno in _NO_SPACE:
        return NoSpace(sentence, hint="make room on that file system, then release the scan")
    if exc.errno in _NOT_PERMITTED:
        return NotPermitted(sentence, hint="let the daemon's user do it, then release the scan")
    if exc.errno in _UNFIT:
        return HoldError(sentence, hint="correct the name or the folder, then release the scan")
    return StorageUnavailable(sentence, hint="check the mount; it is tried again by itself")


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Translate what goes wrong with a file that is read."""
    try:
        yield
    except FileNotFoundError as exc:
        raise SourceChanged(f"{path} is not there any more", hint="it is looked for again") from exc
    except OSError as exc:
        if exc.errno in _UNFIT:
            raise ScanUnreadable(
                f"{path} is no regular file, or behind a symbolic link: {exc.strerror}",
                hint="a scan is made of regular files",
            ) from exc
        raise storage_error(exc, f"{path} cannot be read") from exc


@contextmanager
def writing(path: Path, what: str = "written") -> Iterator[None]:
    """Translate what goes wrong with a file or folder that is written; or with what else is done to it."""
    try:
        yield
    except OSError as exc:
        raise storage_error(exc, f"{path} cannot be {what}") from exc
