"""Modes and access control lists (chmod(1), acl(5)): as people write them, and as the kernel takes them."""

import re
import struct
from collections.abc import Iterable
from typing import Literal, NamedTuple

Kind = Literal["user", "group"]

NEW_FILE, NEW_FOLDER = 0o660, 0o770
"""What the daemon makes is made with no more than this. Its umask does not suffice: where a folder hands on a list
of access, that takes the umask's place."""
READ_WRITE = 0o6
_SET_GROUP = 0o2000
_WORLD_WRITE = 0o002
_ENTRY = re.compile(r"(user|group):([^:\s]+):([r-][w-][x-])")
_VERSION = struct.pack("<I", 2)
_ROW = struct.Struct("<HHI")
_OWNER, _USER, _OWNING_GROUP, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NOBODY_IN_PARTICULAR = 0xFFFFFFFF


class Entry(NamedTuple):
    """What a user or group may do beyond what the mode says."""

    kind: Kind
    name: str
    permissions: int
    """4 read, 2 write, 1 execute or enter."""


class Granted(NamedTuple):
    """An entry whose name was looked up."""

    kind: Kind
    number: int
    """User or group id."""
    permissions: int


def file_mode(text: str) -> int:
    """The mode of files in octal digits; raises `ValueError` with a sentence for what is no good one."""
    return _sensible("file_mode", text, 0o777, READ_WRITE)


def folder_mode(text: str) -> int:
    """The mode of folders in octal digits; raises `ValueError` with a sentence for what is no good one."""
    return _sensible("folder_mode", text, 0o777 | _SET_GROUP, 0o7)


def _sensible(key: str, text: str, most: int, least: int) -> int:
    """`most`: all bits that may be set; `least`: what the owner, as whom the daemon writes, must have."""
    if not re.fullmatch("0?[0-7]{3,4}", text):
        raise ValueError(f"{key} = {text!r} is no mode; write three or four octal digits")
    mode = int(text, 8)
    if mode & _WORLD_WRITE:
        raise ValueError(f"{key} = {text!r} is world-writable, which nothing may be")
    if mode & ~most:
        raise ValueError(f"{key} = {text!r} sets setuid, setgid or sticky where none is of use")
    if mode >> 6 & least != least:
        raise ValueError(f"{key} = {text!r} shuts out the owner, as whom the daemon writes")
    return mode


def entry(text: str) -> Entry:
    """An entry as `setfacl` takes it, `group:beamline-staff:r-x`; raises `ValueError` with a sentence."""
    found = _ENTRY.fullmatch(text)
    if found is None:
        raise ValueError(
            f"default_acl: {text!r} is no entry such as group:beamline-staff:r-x or user:backup:r-x"
        )
    kind: Kind = "user" if found[1] == "user" else "group"
    return Entry(kind, found[2], sum(4 >> i for i, letter in enumerate(found[3]) if letter != "-"))


def for_files(granted: Iterable[Granted], mode: int) -> tuple[Granted, ...]:
    """The entries of files: who may enter folders may not execute files for that, unless the owner may."""
    most = 0o7 if mode & 0o100 else READ_WRITE
    return tuple(one._replace(permissions=one.permissions & most) for one in granted)


def shown_mode(mode: int, granted: Iterable[Granted]) -> int:
    """What `stat` shows of a file with a mode and entries: the group's digit is the most that any of them has."""
    for one in granted:
        mode |= one.permissions << 3
    return mode


def access_list(mode: int, granted: Iterable[Granted]) -> bytes:
    """The value of `system.posix_acl_access` or `_default`; empty where the mode alone says everything."""
    named = sorted(granted)
    if not named:
        return b""
    owner, group, other = mode >> 6 & 7, mode >> 3 & 7, mode & 7
    mask = shown_mode(mode, named) >> 3 & 7
    rows = [
        (_OWNER, owner, _NOBODY_IN_PARTICULAR),
        *((_USER, one.permissions, one.number) for one in named if one.kind == "user"),
        (_OWNING_GROUP, group, _NOBODY_IN_PARTICULAR),
        *((_GROUP, one.permissions, one.number) for one in named if one.kind == "group"),
        (_MASK, mask, _NOBODY_IN_PARTICULAR),
        (_OTHER, other, _NOBODY_IN_PARTICULAR),
    ]
    return _VERSION + b"".join(_ROW.pack(*row) for row in rows)
