"""The files of a stack of images: one listing of its folder, with sizes, and nothing opened."""

import os
import posixpath
from collections.abc import Iterator
from typing import NamedTuple

from srctd.core.grouping import printable
from srctd.core.layouts import FRAME_SUFFIXES, HEADER_SUFFIXES, ROLE_FOLDER, TEXT_SUFFIXES
from srctd.formats.files import regular

DEEPEST = 4
"""Levels of folders below the scan's own, each named by a role."""
MOST_HEADERS = 64
"""Files beside the frames that are looked into."""


class StackFile(NamedTuple):
    """A file of a stack."""

    name: str
    """Relative to the scan's folder, with forward slashes."""
    size: int


class Listing(NamedTuple):
    """What lies in a scan's folder."""

    folder: str
    name: str
    """Of the scan: that of its folder, or what the names of its files begin with."""
    frames: tuple[StackFile, ...]
    others: tuple[StackFile, ...]

    @property
    def headers(self) -> list[str]:
        """Names of the files that may describe the scan; those in its own folder first."""
        names = [file.name for file in self.others if _suffix(file.name) in TEXT_SUFFIXES]
        return sorted(names, key=lambda name: (name.count("/"), name))[:MOST_HEADERS]


def list_stack(path: str) -> Listing | None:
    """The files of the stack at a path: its folder, or the header file of one among several; None if it is neither.

    Of a folder in which several header files have frames of their own, a stack is what begins like its header's
    name and like no longer one. Raises `OSError` where the folder cannot be listed.
    """
    path = os.path.abspath(path)
    if os.path.isdir(path):
        return _listing(path, os.path.basename(path), list(_walk(path, "", DEEPEST)))
    stem, suffix = posixpath.splitext(os.path.basename(path))
    if suffix.lower() not in HEADER_SUFFIXES or not os.path.isfile(path):
        return None
    folder = os.path.dirname(path)
    files = list(_walk(folder, "", DEEPEST))
    stems = _stems(files)
    owned = [file for file in files if _owner(file.name, stems) == stem]
    if any(_suffix(file.name) in FRAME_SUFFIXES for file in owned):
        return _listing(folder, stem, owned)
    return _listing(folder, os.path.basename(folder), files)


def _listing(folder: str, name: str, files: list[StackFile]) -> Listing:
    frames: list[StackFile] = []
    others: list[StackFile] = []
    for file in files:
        (frames if _suffix(file.name) in FRAME_SUFFIXES else others).append(file)
    return Listing(folder, name, tuple(sorted(frames)), tuple(sorted(others)))


def _walk(top: str, inside: str, levels: int) -> Iterator[StackFile]:
    """Files of a folder and of those below it that are named by a role; hidden ones are left out."""
    with os.scandir(os.path.join(top, inside)) as entries:
        for entry in entries:
            name = f"{inside}/{entry.name}" if inside else entry.name
            if entry.name.startswith(".") or not printable(entry.name):  # as the listing has it
                continue
            if entry.is_dir(follow_symlinks=False):
                if levels and ROLE_FOLDER.fullmatch(entry.name):
                    yield from _walk(top, name, levels - 1)
                continue
            found = regular(entry.path)
            if found is not None:
                yield StackFile(name, found.st_size)


def _stems(files: list[StackFile]) -> list[str]:
    stems = {posixpath.splitext(file.name)[0] for file in files if _suffix(file.name) in HEADER_SUFFIXES}
    return sorted(stems, key=len, reverse=True)


def _owner(name: str, stems: list[str]) -> str:
    return next((stem for stem in stems if name.startswith(stem)), "")


def _suffix(name: str) -> str:
    dot = name.rfind(".")
    return name[dot:].lower() if dot > name.rfind("/") + 1 else ""
