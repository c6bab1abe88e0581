"""A scan as data: its files, what its header says, to whom it belongs, what became of it."""

import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from itertools import count

import msgspec

BLOCK_BYTES = 8 << 20
"""A file is read, written, compared and, where it is damaged, repaired in blocks of this size."""
LONGEST_NAME = 160
"""Bytes of an input name in that of its task directory; file systems take 255 for all of it."""
_SUFFIX = re.compile(r"(?<=.)\.[A-Za-z]\w*\Z")


class ReadBack(StrEnum):
    """How much of a copy is read back from the storage, caches dropped, and compared."""

    NONE = "none"
    SAMPLED = "sampled"
    FULL = "full"


class Quantity(msgspec.Struct, frozen=True, kw_only=True):
    """A physical value with its unit and the place it was read from."""

    value: float
    unit: str
    origin: str
    """Where it comes from: a path inside the file, a tag, a rule."""


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file of a scan as the listing sees it."""

    path: str
    """Relative to the scan's source folder, with forward slashes."""
    size: int
    mtime_ns: int
    digest: str = ""
    """xxh3-128 as 32 hexadecimal digits; empty until the file was read through."""
    blocks: tuple[str, ...] = ()
    """xxh3-128 of every `BLOCK_BYTES`, the last one shorter; empty for a file of one block or less."""
    stored: str = ""
    """Its name in the copy, where that is another one (`core.names`)."""
    hole_bytes: int = 0
    """Bytes that the source never wrote: they read as zeros, and are holes in the copy as well."""

    @property
    def copied_as(self) -> str:
        """Its name in the copy."""
        return self.stored or self.path


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a scan."""

    folder: str
    """Absolute source folder."""
    files: tuple[FileEntry, ...]
    opened: str = ""
    """What is opened, relative to `folder`: a file; empty: the folder itself, if that is the scan."""

    @property
    def main(self) -> str:
        """Absolute path of what is opened."""
        return f"{self.folder}/{self.opened}" if self.opened else self.folder

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    def copied_to(self, folder: str) -> "Manifest":
        """The copy of these files below a folder, by the names that they have there."""
        names = {file.path: file.copied_as for file in self.files}
        files = (msgspec.structs.replace(file, path=file.copied_as, stored="") for file in self.files)
        opened = names.get(self.opened, self.opened)
        return msgspec.structs.replace(self, folder=folder, files=tuple(files), opened=opened)

    def same_files(self, other: "Manifest") -> bool:
        """Whether both list the same names, sizes and times (digests are not looked at)."""

        def stat(manifest: Manifest) -> list[tuple[str, int, int]]:
            return [(file.path, file.size, file.mtime_ns) for file in manifest.files]

        return self.folder == other.folder and stat(self) == stat(other)


class SourceFiles(msgspec.Struct, frozen=True, kw_only=True):
    """A scan's files in short; the list itself, which may be long, is in the journal."""

    folder: str
    """Absolute."""
    opened: str
    """As in the manifest."""
    files: int
    bytes: int
    fingerprint: str
    """Changes with any file's name, size or time."""
    references: tuple[str, ...] = ()
    """Absolute paths of files outside of the folder that the scan reads as well; they are not copied."""

    @property
    def main(self) -> str:
        """Absolute path of what is opened."""
        return f"{self.folder}/{self.opened}" if self.opened else self.folder


class Shortfall(msgspec.Struct, frozen=True, kw_only=True):
    """What an incomplete scan lacks, where it is taken all the same."""

    reason: str
    """One sentence, for people: what is missing and by what that is known."""
    expected: int | None = None
    """Projections that were announced."""
    gaps: tuple[tuple[int, int], ...] = ()
    """Projections that are not there, as (first, last), counted from 0 in the order of acquisition."""


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """A place in a dynamic series, a mosaic or a stack of heights."""

    name: str
    """The same for all members, wherever they lie: the name of the file, or folder and beginning of the names."""
    member: int
    """Counted from 0, in the order of acquisition."""
    members: int | None = None
    """How many there are; None where nothing says so."""
    origin: str
    """Where it comes from: `rotation angles`, a path inside the file, a pattern of names."""


class ScanHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What a scan says of itself. Frame counts are what is there, not what was announced."""

    format: str
    """`nxtomo`, `dataexchange`, `nexus` (frames and image keys, but no NXtomo entry), `hdf5` (other layouts),
    `tiff`, `edf` or `raw` (stacks of files)."""
    entry: str
    """Path of the group inside the file that holds the scan."""
    n_projections: int
    n_flats: int
    n_darks: int
    n_rows: int
    n_columns: int
    dtype: str
    angle_first_deg: float
    angle_last_deg: float
    expected_projections: int | None = None
    title: str = ""
    sample: str = ""
    instrument: str = ""
    proposal: str = ""
    experimenter: str = ""
    email: str = ""
    start_time: str | None = None
    end_time: str | None = None
    pixel_size: Quantity | None = None
    """At the sample, metre."""
    energy: Quantity | None = None
    """keV."""
    distance: Quantity | None = None
    """Sample to detector, metre."""
    exposure_time: Quantity | None = None
    """Second per frame."""
    references: tuple[str, ...] = ()
    """Absolute paths of further files that hold part of the data (external links, virtual sources)."""
    notes: tuple[str, ...] = ()
    """Degradations in plain sentences: what is unknown and what follows from it."""
    layout: str = ""
    """Of a stack of files: the name of the layout (`tomcat`, `kit`...) by which roles were told apart."""
    shortfall: Shortfall | None = None
    """What is missing, where an incomplete scan was opened as such."""
    series: Series | None = None
    positions: dict[str, Quantity] = {}
    """Where in a mosaic or a stack of heights the scan was taken: `x`, `y`, `z`, metre; or `row`, `column`,
    `height`, a plain count, where only names tell."""
    unmapped: dict[str, str] = {}
    """Values of a log or parameter file that no table of tags knows, verbatim."""

    @property
    def raw_bytes(self) -> int:
        """Bytes of all frames, uncompressed."""
        itemsize = {"uint8": 1, "uint16": 2, "int16": 2, "float64": 8}.get(self.dtype, 4)
        frames = self.n_projections + self.n_flats + self.n_darks
        return frames * self.n_rows * self.n_columns * itemsize


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """To whom a scan belongs, and where each answer came from."""

    account: str
    """First part of the task directory's path."""
    owner: str
    owner_group: str
    access_groups: tuple[str, ...] = ()
    email: str = ""
    proposal: str = ""
    origin: str = "default"


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """A finished volume file."""

    path: str
    """Relative to the task directory."""
    shape: tuple[int, int, int]
    """(n_slices, n_y, n_x)."""
    dtype: str
    unit: str
    """`1/m`, or `1/pixel` where the pixel size is unknown."""
    digest: str
    size: int
    offset: float | None = None
    """Of integers: value = offset + scale x stored integer, in `unit`."""
    scale: float | None = None
    clipped_fraction: float | None = None
    """Part of the voxels whose value lies outside what integers can say, and which hold the nearer end."""


def scan_id(path: str, revision: int, member: int = 0) -> str:
    """Durable identifier of a scan: its file's stem and 8 hexadecimal digits of path, revision and member.

    The same canonical path, revision and member give the same identifier on every start of the daemon.
    """
    word = "".join(c if c.isalnum() or c in "-_" else "_" for c in _stem(path))[:64] or "scan"
    identity = "\0".join((path, str(revision), *([str(member)] if member else ()))).encode()
    return f"{word}-{hashlib.blake2b(identity, digest_size=4).hexdigest()}"


def _stem(path: str) -> str:
    """The last part of a path without its suffix; what follows the point of a number (`0.5mm`) is none."""
    return _SUFFIX.sub("", path.rsplit("/", 1)[-1])


def task_name(path: str, completed_at: float) -> str:
    """Name of the task directory: `<input name>_<timestamp>`, UTC to the second; a long input name is cut."""
    word = "".join(c if c.isalnum() or c in "-_." else "_" for c in _stem(path)).lstrip(".") or "scan"
    word = word.encode()[:LONGEST_NAME].decode(errors="ignore")
    return f"{word}_{datetime.fromtimestamp(completed_at, UTC):%Y%m%dT%H%M%SZ}"


def member_task(task: str, member: int) -> str:
    """Name of the task directory of one of several scans that the files hold."""
    return f"{task}-m{member:03}"


def numbered(name: str) -> Iterator[str]:
    """What may be taken in place of a name that somebody has: `NAME-2`, `NAME-3`, ..."""
    return (f"{name}-{n}" for n in count(2))


def minute_text(timestamp: float) -> str:
    """A time for people: `2026-11-25 20:18 UTC`."""
    return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d %H:%M} UTC"


def utc_text(timestamp: float) -> str:
    """ISO 8601 in UTC with milliseconds, as SciCat writes it."""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
