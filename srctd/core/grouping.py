"""Which files are one scan: from the names in a folder to groups of files.

A scan is a file (HDF5), a folder (a stack of images with its log, in folders by role or not), or, where several
stacks share a folder, the header file of one of them (log, parameter file) with all files whose names begin like
it. Nothing here looks at a disk.
"""

import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from srctd.core.layouts import FRAME_SUFFIXES, HEADER_SUFFIXES, ROLE_FOLDER

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_UNDER_WAY = ("~", ".part", ".partial", ".filepart", ".tmp", ".temp", ".swp")


class Group(NamedTuple):
    """Files that are one scan, or that may become one."""

    path: str
    """What is opened; also the scan's name."""
    folder: str
    """What the names of the members count from."""
    members: tuple[tuple[str, str], ...]
    """(folder, name) of every file, absolute folders, sorted."""


def temporary(name: str) -> bool:
    """Whether a name is that of no file yet: hidden, or of a transfer under way."""
    return name.startswith(".") or name.lower().endswith(_UNDER_WAY)


def printable(name: str) -> bool:
    """Whether a name or path can be shown and sent: no control characters, and UTF-8 on disk."""
    return (name.isascii() and name.isprintable()) or not _UNPRINTABLE.search(name)


def frame_name(name: str) -> bool:
    """Whether a file is, by its name, an image or raw frames."""
    return posixpath.splitext(name)[1].lower() in FRAME_SUFFIXES


def scan_folder(folder: str, top: str) -> str:
    """The folder of the scan whose files a folder holds: up from `tif`, `ccd/pco01`..., never above `top`."""
    while folder != top and ROLE_FOLDER.fullmatch(posixpath.basename(folder)):
        folder = posixpath.dirname(folder)
    return folder


def group(
    folder: str, files: Mapping[str, Collection[str]], wanted: Callable[[str], object], top: str
) -> tuple[list[Group], str]:
    """The scans in a folder and in those below it that are named by a role; with what is wrong, or nothing.

    `files`: names by absolute folder, of `folder` and all whose `scan_folder` it is. `wanted`: whether a name may
    be (part of) a scan; other files only belong to one, as its log, its list of angles or its end marker.
    """
    groups: list[Group] = []
    for holder, names in files.items():
        groups += _single_files(holder, names, wanted)
    holders = [holder for holder, names in files.items() if any(map(frame_name, filter(wanted, names)))]
    if not holders:
        return groups, ""
    # A scan in a folder of its own is named by that; in the watched folder itself only a header can name it.
    several = _by_header(folder, files[folder], 1 if folder == top else 2) if folder in holders else []
    if several:
        return groups + several, _unowned(folder, files[folder], several)
    if folder == top and folder in holders:
        return groups, _unnamed(top, files[top])
    members = [
        (holder, name)
        for holder, names in files.items()
        for name in names
        if frame_name(name) or not wanted(name)
    ]
    return [*groups, Group(folder, folder, tuple(sorted(members)))], ""


def _single_files(folder: str, names: Collection[str], wanted: Callable[[str], object]) -> Iterable[Group]:
    """One group for every file that is a scan by itself, with the files that bear its name: `x.h5.done`,
    `x.log`.
    """
    single = [name for name in names if wanted(name) and not frame_name(name)]
    beside: dict[str, list[str]] = {}
    for name in names if single else ():
        if not wanted(name):
            beside.setdefault(name.split(".", 1)[0], []).append(name)
    for name in single:
        stem = posixpath.splitext(name)[0] + "."
        own = [other for other in beside.get(name.split(".", 1)[0], ()) if other.startswith(stem)]
        yield Group(f"{folder}/{name}", folder, tuple((folder, member) for member in sorted([name, *own])))


def sole_stem(names: Collection[str]) -> str:
    """What the names of all frames in a folder begin with, if one header file is called so; else nothing."""
    frames = [name for name in names if frame_name(name)]
    if not frames:
        return ""
    shared = posixpath.commonprefix([min(frames), max(frames)])
    return max((stem for stem in _headers(names) if shared.startswith(stem)), key=len, default="")


def _headers(names: Collection[str]) -> dict[str, str]:
    """Files that may describe a stack, by their names without the suffix."""
    headers: dict[str, str] = {}
    for name in sorted(names):
        stem, suffix = posixpath.splitext(name)
        if suffix.lower() in HEADER_SUFFIXES:
            headers.setdefault(stem, name)
    return headers


def _by_header(folder: str, names: Collection[str], least: int) -> list[Group]:
    """A group for every header file with frames of its own, if there are at least so many in a folder."""
    headers = _headers(names)
    if len(headers) < least:
        return []
    owned: dict[str, list[str]] = {}
    longest_first = sorted(headers, key=lambda stem: -len(stem))
    for name in sorted(names):
        owner = next((stem for stem in longest_first if name.startswith(stem)), None)
        if owner is not None:
            owned.setdefault(owner, []).append(name)
    scans = {stem: own for stem, own in owned.items() if any(map(frame_name, own))}
    if len(scans) < least:
        return []
    return [
        Group(f"{folder}/{headers[stem]}", folder, tuple((folder, name) for name in own))
        for stem, own in sorted(scans.items())
    ]


def _unowned(folder: str, names: Collection[str], scans: Collection[Group]) -> str:
    owned = {name for scan in scans for _, name in scan.members}
    left = min((name for name in names if frame_name(name) and name not in owned), default="")
    if not left:
        return ""
    return (
        f"{folder}: frames such as {left} belong to none of the header files there; write that scan into a folder "
        "of its own, or a header file with the name that its frames begin with"
    )


def _unnamed(top: str, names: Collection[str]) -> str:
    first = min(name for name in names if frame_name(name))
    return (
        f"{top}: frames such as {first} lie directly in the watched folder, and no header files tell them apart; "
        "write every scan into a folder of its own"
    )
