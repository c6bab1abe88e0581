"""The commit record of a copy, and the one rename that makes the copy appear."""

import errno
from collections.abc import Iterable
from pathlib import Path

import msgspec

from srctd.adapters.sync.folders import make_folder, remove_folder, sweep, sync_folder, write_atomic
from srctd.adapters.sync.naming import leads_astray
from srctd.adapters.sync.notes import MANIFEST, PROGRESS
from srctd.adapters.sync.options import Give, keep
from srctd.adapters.sync.trouble import storage_error, writing
from srctd.core.errors import DigestMismatch
from srctd.core.scan import FileEntry, Manifest

INPUT = "input"
CHECKSUMS = "manifest.xxh128"


def make_input(part: Path) -> Path:
    """The folder of a copy, made if it is not there; never one that a link leads to."""
    folder = part / INPUT
    with writing(folder):
        if folder.is_symlink():
            folder.unlink()
    make_folder(folder, top=part.parent)
    return folder


def link_input(part: Path, target: str) -> None:
    """Let `part/input` lead to where files are that are not copied. Nothing is ever written through it."""
    remove_folder(part)
    make_folder(part, top=part.parent)
    with writing(part / INPUT):
        (part / INPUT).symlink_to(target, target_is_directory=True)


def write_manifest(part: Path, manifest: Manifest, give: Give = keep) -> None:
    """Write `manifest.xxh128`, which `xxh128sum -c` checks in the folder, and then `manifest.json`."""
    write_checksums(
        part / CHECKSUMS,
        [msgspec.structs.replace(file, path=f"{INPUT}/{file.copied_as}") for file in manifest.files],
        give,
    )
    write_atomic(part / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2), give)


def write_checksums(path: Path, files: Iterable[FileEntry], give: Give = keep) -> None:
    """Write a list that `xxh128sum -c` checks, of files by their names in the list's folder."""
    write_atomic(path, "".join(f"{file.digest}  {file.path}\n" for file in files).encode(), give)


def publish(part: Path, final: Path) -> None:
    """Let a finished folder appear under its name. That it did so before is fine.

    Raises `DigestMismatch` if something else has that name, `NotPermitted`, `StorageUnavailable`.
    """
    with writing(final):
        if final.is_dir() and _same_manifest(part, final):
            remove_folder(part)
            return
        sweep(part)  # a write that was cut short has left its own
        (part / PROGRESS).unlink(missing_ok=True)
        sync_folder(part)
        try:
            part.rename(final)
        except OSError as exc:
            if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise DigestMismatch(
                f"{final} exists and is not the copy of this scan", hint="move it away, then release the scan"
            ) from exc
        sync_folder(final.parent)


def published(final: Path) -> Manifest | None:
    """The manifest of a folder that appeared before; None if it did not.

    Raises `DigestMismatch` for what is no manifest: the file is its owner's, who may have edited it.
    """
    try:
        found = msgspec.json.decode((final / MANIFEST).read_bytes(), type=Manifest)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except msgspec.DecodeError as exc:
        raise DigestMismatch(f"{final / MANIFEST}: no manifest: {exc}", hint="move the folder away") from exc
    except OSError as exc:
        raise storage_error(exc, f"{final / MANIFEST} cannot be read") from exc
    opened = [found.opened] if found.opened else []
    for name in (*opened, *(name for file in found.files for name in (file.path, file.copied_as))):
        if leads_astray(name):
            raise DigestMismatch(
                f"{final / MANIFEST}: {name!r} is no name in a copy", hint="move the folder away"
            )
    return found


def _same_manifest(part: Path, final: Path) -> bool:
    """Whether `final` is what `part` would become; also if there is no `part` any more."""
    there = published(final)
    return there is not None and (not part.exists() or there == published(part))
