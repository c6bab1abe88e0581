"""Where every frame of a scan lies: what each format is reduced to, so that there is one way to read them all.

A format finds the frames and their angles once; from then on a scan is a `FrameIndex`. The daemon writes it into
the task directory, the workers read rows by it. What is missing is not in it, what was taken twice stands once, and
files that were not copied are named by their absolute paths.
"""

import posixpath
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

from srctd.core.scan import ScanHeader

INDEX_NAME = "frames.json"
"""File name of an index; those of later runs are `frames-2.json`... `open_scan` knows it by this name."""
_INDEX = re.compile(r"frames(-\d+)?\.json")

Container = Literal["hdf5", "tiff", "raw", "constant"]


class Segment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run of frames, one after the other, in one file."""

    container: Container
    file: str = ""
    """Absolute, or relative to the folder of the index, with forward slashes."""
    place: str = ""
    """`hdf5`: path of the data set, shape (frames, rows, columns); links are followed without locking anything."""
    first: int = 0
    """`hdf5`: index of the first frame; `tiff`: the first page."""
    count: int = 1
    """Number of frames."""
    offset: int = 0
    """`raw`: byte at which the first frame begins."""
    stride: int = 0
    """`raw`: bytes from the begin of one frame to that of the next; 0: they touch."""
    dtype: str = ""
    """`raw`: numpy's name of a pixel in this file, where it is not that of the index."""
    value: float = 0.0
    """`constant`: of every pixel. For what is known and was not recorded, such as the white of a scan that the
    scanner has flat-fielded itself."""


class FrameIndex(msgspec.Struct, frozen=True, kw_only=True):
    """All frames of a scan, in the order of acquisition, one kind after the other."""

    schema: str = "srctd-frames/1"
    header: ScanHeader
    """`n_projections`, `n_flats`, `n_darks`, `n_rows`, `n_columns` agree with the segments."""
    dtype: str
    """numpy's name of a pixel in the file, with byte order: `<u2`. `tiff`, `hdf5`: what the reader hands out."""
    projections: tuple[Segment, ...]
    flats: tuple[Segment, ...] = ()
    darks: tuple[Segment, ...] = ()
    angles: tuple[float, ...]
    """Radian, one per projection."""


def count(segments: tuple[Segment, ...]) -> int:
    """Frames in some segments."""
    return sum(segment.count for segment in segments)


def is_index(name: str) -> bool:
    """Whether a file, by its name alone, is an index of frames."""
    return _INDEX.fullmatch(name) is not None


def rebased(
    index: FrameIndex, base: str, folder: str = "", copies: Mapping[str, str] = MappingProxyType({})
) -> FrameIndex:
    """The index with file names that count from `folder` instead of `base`, both absolute.

    Files that do not lie below the folder, or all if none is given, are named in full. `copies`: which file takes
    the place of which, absolute paths both.
    """

    def moved(segment: Segment) -> Segment:
        if not segment.file:
            return segment
        path = posixpath.normpath(posixpath.join(base, segment.file))
        path = copies.get(path, path)
        inside = bool(folder) and path.startswith(folder + "/")
        return msgspec.structs.replace(segment, file=posixpath.relpath(path, folder) if inside else path)

    return msgspec.structs.replace(
        index,
        projections=tuple(map(moved, index.projections)),
        flats=tuple(map(moved, index.flats)),
        darks=tuple(map(moved, index.darks)),
    )
