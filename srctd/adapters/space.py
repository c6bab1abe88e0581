"""Free space on a file system, asked before anything is written."""

import errno
import os
import uuid

from srctd.core.errors import NoSpace, NotPermitted, SrctdError, StorageUnavailable


def free_bytes(path: str | os.PathLike[str]) -> int:
    """Bytes that the daemon may still write below `path`; of its nearest parent, where it does not exist yet.

    Raises `NotPermitted`, `StorageUnavailable`.
    """
    stat = os.statvfs(_existing(path))
    return stat.f_bavail * stat.f_frsize


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


class SharedStorage:
    """Shared storage that may be gone while its mount point is still there.

    The first use leaves a marker file on it and notes the marker's text in the state directory. From then on the
    marker must be found before anything is written: an empty mount point would fill the disk below it, and
    what is written there is hidden once the file system is back.
    """

    MARKER = ".srctd-storage"

    def __init__(self, path: str, note: str) -> None:
        """`note`: the file in the state directory that says which marker belongs to `path`."""
        self.path = path
        self._note = note

    def require(self, needed: int, reserve: int, what: str) -> None:
        """As `space.require`, on this storage; raises `StorageUnavailable` as well where it is not there."""
        self._require_marker()
        require(self.path, needed, reserve, what)

    def make_account(self, account: str) -> None:
        """Make an account's folder, unless it is there; raises as `require` does, and `NoSpace`.

        It is made in the very file system in which the marker was found, whatever is mounted at its path meanwhile.
        """
        self._require_marker()
        try:
            top = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if not os.access(self.MARKER, os.F_OK, dir_fd=top):
                    raise self._gone(f"has no marker {self.MARKER} of this daemon")
                os.mkdir(account, dir_fd=top)
                os.fsync(top)
            finally:
                os.close(top)
        except FileExistsError:
            pass
        except OSError as exc:
            raise _write_error(os.path.join(self.path, account), exc) from exc

    def _require_marker(self) -> None:
        if not os.path.isdir(self.path):
            raise self._gone("is not there")
        found = _text_of(os.path.join(self.path, self.MARKER))
        noted = _text_of(self._note).partition(" ")[::2]
        if noted[1] != self.path or not noted[0]:  # the first use, or another path than before
            found = found or self._mark()
            _write_text(self._note, f"{found} {self.path}")
        elif found != noted[0]:
            raise self._gone(f"has no marker {self.MARKER} of this daemon")

    def _mark(self) -> str:
        text = uuid.uuid4().hex
        _write_text(os.path.join(self.path, self.MARKER), text)
        return text

    def _gone(self, how: str) -> StorageUnavailable:
        hint = f"is the file system mounted? If it was replaced for good, remove {self._note}"
        return StorageUnavailable(f"storage.shared = {self.path!r} {how}", hint=hint)


def _text_of(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""
    except OSError as exc:  # not the same as that there is none: another one would be written over it
        raise StorageUnavailable(f"{path} cannot be read: {exc.strerror}", hint="check the mount") from exc


def _write_text(path: str, text: str) -> None:
    try:
        growing = f"{path}.part"
        with open(growing, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(growing, path)
    except OSError as exc:
        raise _write_error(path, exc) from exc


def _write_error(path: str, exc: OSError) -> SrctdError:
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"{path} cannot be written: {exc.strerror}", hint="make room there")
    if isinstance(exc, PermissionError):
        return NotPermitted(f"{path} cannot be written", hint="let the daemon's user write there")
    return StorageUnavailable(f"{path} cannot be written: {exc.strerror}", hint="check the mount")
