"""The hidden folders on shared storage in which copies grow: whose they are, and which nobody needs any more.

Several daemons may share a storage. Each leaves its identity in the folders it makes, and touches no others.
"""

import errno
import os
import uuid
from contextlib import suppress
from pathlib import Path

from srctd.adapters import sync
from srctd.core.errors import HoldError

OWNER = ".owner.part"
"""Goes when the finished folder appears (`sync.publish` sweeps what is called so)."""


def identity(state_directory: Path) -> str:
    """What tells this daemon from others: made at the first start, kept in its state directory."""
    path = state_directory / "identity"
    with suppress(FileNotFoundError):
        if known := path.read_text(encoding="ascii").strip():
            return known
    made = uuid.uuid4().hex
    sync.write_atomic(path, made.encode())
    return made


def claim(part: Path, owner: str) -> None:
    """Make a part, or go on in one that this daemon made; raises `HoldError` for another daemon's.

    Until it appears under its name only the daemon's user may enter it: what is in it belongs to the scan's user
    already, who could put links there for the daemon to write through.
    """
    found = _owner(part) or _made_by(part, owner)
    if found != owner:
        raise HoldError(
            f"{part} is the unfinished copy of another srctd, with the identity {found}",
            hint="if that one is gone for good, remove the folder, then release the scan",
        )
    _close_to_others(part)


def _made_by(part: Path, owner: str) -> str:
    """Make a part that has no owner; return who has it then, because another daemon may do so at the same time."""
    made = part.with_name(f"{part.name}-{owner}")
    sync.make_folder(made, top=part.parent)
    sync.write_atomic(made / OWNER, owner.encode())
    try:
        made.rename(part)
    except OSError as exc:
        if exc.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise sync.storage_error(exc, f"{part} cannot be made") from exc
        sync.remove_folder(made)
        if found := _owner(part):
            return found
        sync.write_atomic(part / OWNER, owner.encode())
    return owner


def _close_to_others(part: Path) -> None:
    """Raises `HoldError` where a link has the part's name, and the errors of storage."""
    try:
        folder = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with suppress(PermissionError):  # its file system keeps no modes, and no owners either
                os.fchmod(folder, 0o700)
        finally:
            os.close(folder)
    except OSError as exc:
        raise sync.storage_error(exc, f"{part} cannot be closed to others") from exc


def mine(shared: str, owner: str) -> list[Path]:
    """All parts that a daemon has made and not finished."""
    try:
        return [part for part in Path(shared).glob("*/.*.part") if _owner(part) == owner]
    except OSError as exc:
        raise sync.storage_error(exc, f"{shared} cannot be looked through") from exc


def scan_of(part: Path) -> str:
    """The identifier of the scan whose copy grows in a part."""
    return part.name.removeprefix(".").removesuffix(".part")


def _owner(part: Path) -> str:
    """The identity of the daemon that made a part; empty if there is none."""
    try:
        return (part / OWNER).read_text(encoding="ascii").strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as exc:
        raise sync.storage_error(exc, f"{part / OWNER} cannot be read") from exc
