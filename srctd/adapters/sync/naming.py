"""Names of a scan's files: which are copied at all, and under which name."""

import re
from collections.abc import Mapping, Sequence

import msgspec

from srctd.core.errors import ScanUnreadable
from srctd.core.names import StoredNames
from srctd.core.scan import FileEntry

_NO_TEXT = re.compile("[\ud800-\udfff]")
_NO_LINE = re.compile("[\x00-\x1f\x7f]")
"""What a list of digests, one file a line, cannot name."""


def named(files: Sequence[FileEntry], earlier: Mapping[str, str], *, portable: bool) -> list[FileEntry]:
    """The files with their names in the copy; those that were copied before keep theirs.

    `earlier`: what these were, by path.
    """
    names = StoredNames(earlier, portable=portable)
    stored = ((file, names.of(file.path)) for file in files)
    return [msgspec.structs.replace(file, stored=name if name != file.path else "") for file, name in stored]


def leads_astray(name: str) -> bool:
    """Whether a name is anything but that of a file below a folder."""
    return "\0" in name or any(word in ("", ".", "..") for word in name.split("/"))


def check_names(folder: str, files: Sequence[FileEntry], *, kept: bool) -> None:
    """Raise `ScanUnreadable` unless all names are text and lie below the folder, none twice.

    `kept`: they stay as they are, so that they must fit into a list of digests as well.
    """
    names = [file.path for file in files]
    hint = "rename the file on the detector's side"
    for name in names:
        if leads_astray(name):
            raise ScanUnreadable(f"{folder}: {name!r} is no plain relative name", hint=hint)
        if _NO_TEXT.search(name):
            raise ScanUnreadable(f"{folder}: the name {name!r} is not UTF-8", hint=hint)
        if kept and _NO_LINE.search(name):
            raise ScanUnreadable(f"{folder}: the name {name!r} holds control characters", hint=hint)
    if len(set(names)) < len(names):
        raise ScanUnreadable(f"{folder}: a file is listed twice")
