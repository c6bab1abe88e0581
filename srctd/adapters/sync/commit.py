"""The commit record of a copy, and the one rename that makes the copy appear."""

import errno
from pathlib import Path

import msgspec

from srctd.adapters.sync.folders import make_folder, remove_folder, sweep, sync_folder, write_atomic
from srctd.adapters.sync.options import Give, keep
from srctd.adapters.sync.trouble import storage_error, writing
from srctd.core.errors import DigestMismatch
from srctd.core.scan import Manifest

INPUT = "input"
MANIFEST = "manifest.json"
CHECKSUMS = "manifest.xxh128"


def write_manifest(part: Path, manifest: Manifest, prefix: str | None, give: Give = keep) -> None:
    """Write `manifest.xxh128`, which `xxh128sum -c` checks, and then `manifest.json`.

    `prefix` leads from `part` to the files (`input/`); None: they are named by their absolute paths.
    """
    before = f"{manifest.folder}/" if prefix is None else prefix
    lines = "".join(f"{file.digest}  {before}{file.copied_as}\n" for file in manifest.files)
    make_folder(part)
    write_atomic(part / CHECKSUMS, lines.encode(), give)
    write_atomic(part / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2), give)


def publish(part: Path, final: Path) -> None:
    """Let a finished folder appear under its name. That it did so before is fine.

    Raises `DigestMismatch` if something else has that name, `NotPermitted`, `StorageUnavailable`.
    """
    with writing(final):
        if final.is_dir() and _same_manifest(part, final):
            remove_folder(part)
            return
        sweep(part)  # a write that was cut short has left its own
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
    """The manifest of a folder that appeared before; None if it did not."""
    try:
        return msgspec.json.decode((final / MANIFEST).read_bytes(), type=Manifest)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except msgspec.DecodeError as exc:
        raise DigestMismatch(f"{final / MANIFEST}: no manifest: {exc}", hint="move the folder away") from exc
    except OSError as exc:
        raise storage_error(exc, f"{final / MANIFEST} cannot be read") from exc


def _same_manifest(part: Path, final: Path) -> bool:
    """Whether `final` is what `part` would become; also if there is no `part` any more."""
    there = published(final)
    return there is not None and (not part.exists() or there == published(part))
