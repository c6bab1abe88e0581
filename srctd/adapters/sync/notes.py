"""What a copy notes of its progress, so that the next attempt goes on where it was."""

from contextlib import suppress
from pathlib import Path

import msgspec

from srctd.core.scan import FileEntry

PROGRESS = "progress.jsonl"


def read_progress(part: Path) -> dict[str, FileEntry]:
    """What earlier attempts noted; a line that was cut short is none."""
    noted: dict[str, FileEntry] = {}
    with suppress(FileNotFoundError):
        for line in (part / PROGRESS).read_bytes().splitlines():
            with suppress(msgspec.DecodeError):
                entry = msgspec.json.decode(line, type=FileEntry)
                noted[entry.path] = entry
    return noted
