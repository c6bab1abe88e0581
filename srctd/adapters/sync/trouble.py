"""What goes wrong with files, as errors that say whether to try again."""

import errno
from collections.abc import Callable
from contextlib import AbstractContextManager
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


class _Translated:
    """Where what goes wrong is told in srctd's own errors; light, for it is entered several times a file."""

    __slots__ = ("_translate", "_what")

    def __init__(self, translate: Callable[[OSError, str], SrctdError], what: str) -> None:
        self._translate = translate
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        if isinstance(exc, OSError):
            raise self._translate(exc, self._what) from exc


def reading(path: str) -> AbstractContextManager[None]:
    """Translate what goes wrong with a file that is read."""
    return _Translated(_reading_error, path)


def writing(path: str | Path, what: str = "written") -> AbstractContextManager[None]:
    """Translate what goes wrong with a file or folder that is written; or with what else is done to it."""
    return _Translated(storage_error, f"{path} cannot be {what}")


def _reading_error(exc: OSError, path: str) -> SrctdError:
    if isinstance(exc, FileNotFoundError):
        return SourceChanged(f"{path} is not there any more", hint="it is looked for again")
    if exc.errno in _UNFIT:
        return ScanUnreadable(
            f"{path} is no regular file, or behind a symbolic link: {exc.strerror}",
            hint="a scan is made of regular files",
        )
    return storage_error(exc, f"{path} cannot be read")
