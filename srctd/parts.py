"""The hidden folders on shared storage in which copies grow, and which of them nobody needs any more.

Several daemons may share a storage, and where their detectors have the same path, each on its machine, they call
their scans alike. Each has its identity in the names of its folders, and touches no others.
"""

import glob
import os
import secrets
from contextlib import suppress
from pathlib import Path

from srctd.adapters import sync


def identity(state_directory: Path) -> str:
    """What tells this daemon from others: made at the first start, kept in its state directory."""
    path = state_directory / "identity"
    with suppress(FileNotFoundError):
        if known := path.read_text(encoding="ascii").strip():
            return known
    made = secrets.token_hex(6)
    sync.write_atomic(path, made.encode())
    return made


class PartFolders:
    """The folders of one daemon."""

    def __init__(self, shared: str, identity: str) -> None:
        """`shared`: the folder with all accounts'."""
        self._shared = Path(shared)
        self._suffix = f".{identity}.part"

    def of(self, account: str, scan: str) -> Path:
        """Where the copy of a scan grows, beside its task folder."""
        return self._shared / account / f".{scan}{self._suffix}"

    def left(self) -> dict[str, Path]:
        """All that are there and not finished, by the identifiers of their scans."""
        try:
            found = [*self._shared.glob(f"*/.*{glob.escape(self._suffix)}")]
        except OSError as exc:
            raise sync.storage_error(exc, f"{self._shared} cannot be looked through") from exc
        return {part.name.removeprefix(".").removesuffix(self._suffix): part for part in found}


def open_part(part: Path) -> None:
    """Make a part, or go on in it.

    Until it appears under its name only the daemon's user may enter it: what is in it belongs to the scan's user
    already, who could put links there for the daemon to write through. Raises `HoldError` where a link has the
    part's name, and the errors of storage.
    """
    sync.make_folder(part, top=part.parent)
    try:
        folder = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with suppress(PermissionError):  # its file system keeps no modes, and no owners either
                os.fchmod(folder, 0o700)
        finally:
            os.close(folder)
    except OSError as exc:
        raise sync.storage_error(exc, f"{part} cannot be closed to others") from exc
