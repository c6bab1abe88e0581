"""What a copy notes of its progress, so that the next attempt goes on where it was."""

from contextlib import suppress
from pathlib import Path

import msgspec

from srctd.adapters.sync.trouble import storage_error
from srctd.core.scan import FileEntry

PROGRESS = "progress.jsonl"


def read_progress(part: Path) -> dict[str, FileEntry]:
    """What earlier attempts noted; a line that was cut short is none. Raises the errors of storage."""
    noted: dict[str, FileEntry] = {}
    try:
        lines = (part / PROGRESS).read_bytes().splitlines()
    except FileNotFoundError:
        return noted
    except OSError as exc:
        raise storage_error(exc, f"{part / PROGRESS} cannot be read") from exc
    for line in lines:
        with suppress(msgspec.DecodeError):
            entry = msgspec.json.decode(line, type=FileEntry)
            noted[entry.path] = entry
    return noted
