"""The hidden folders on shared storage in which copies grow: whose they are, and which nobody needs any more.

Several daemons may share a storage. Each leaves its identity in the folders it makes, and touches no others.
"""

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
    """Make a part, or go on in one that this daemon made; raises `HoldError` for another daemon's."""
    sync.make_folder(part, top=part.parent)
    found = _owner(part)
    if not found:
        sync.write_atomic(part / OWNER, owner.encode())
    elif found != owner:
        raise HoldError(
            f"{part} is the unfinished copy of another srctd, with the identity {found}",
            hint="if that one is gone for good, remove the folder, then release the scan",
        )


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
