"""Free space on a file system, asked before anything is written."""

import os

from srctd.core.errors import NoSpace, NotPermitted, StorageUnavailable


def free_bytes(path: str | os.PathLike[str]) -> int:
    """Bytes that the daemon may still write below `path`; of its nearest parent, where it does not exist yet.

    Raises `NotPermitted`, `StorageUnavailable`.
    """
    stat = os.statvfs(_existing(path))
    return stat.f_bavail * stat.f_frsize


def require_folder(path: str | os.PathLike[str], what: str) -> None:
    """Raise `StorageUnavailable` unless the folder is there; `what` names it in the sentence.

    It is never made: where a mount is missing, that would fill the disk below it.
    """
    if not os.path.isdir(path):
        raise StorageUnavailable(
            f"{what} = {os.fspath(path)!r} is not there", hint="is the file system mounted?"
        )


def require(path: str | os.PathLike[str], needed: int, reserve: int, what: str) -> None:
    """Raise `NoSpace` unless `needed` bytes fit below `path` and `reserve` bytes stay free after that.

    `what` begins the sentence: what the space is needed for.
    """
    free = free_bytes(path)
    lacking = needed + reserve - free
    if lacking <= 0:
        return
    mount = _mount(_existing(path))
    raise NoSpace(
        f"{what} needs {_gigabytes(needed)} on {mount}, where {_gigabytes(free)} are free"
        f" and {_gigabytes(reserve)} must stay free",
        hint=f"make {_gigabytes(lacking)} more room on {mount}, then release the scan",
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


def _gigabytes(count: int) -> str:
    """`12.3 GB`; three more digits below one gigabyte."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e9:.4f} GB"
