"""One frame in a file of its own or among several: its shape and where its pixels lie, whatever the format."""

import os
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from srctd.core.errors import ScanUnreadable
from srctd.formats.files import opened

LARGEST_SIDE = 100_000
"""Detector rows or columns; more is taken for a damaged header."""
MOST_FRAMES = 10_000_000
"""Of one scan."""
LARGEST_FRAME = 1 << 30
"""Bytes of a frame once it is decoded; more is taken for a decompression bomb."""

Rows = NDArray[np.generic]


class CutShort(ScanUnreadable):
    """A file that ends before what its header promises: it is still written, or its copy broke off."""


class Plane(NamedTuple):
    """A frame's pixels within a file."""

    rows: int
    columns: int
    dtype: str
    """numpy's name, with byte order."""
    offset: int | None
    """Byte at which the pixels begin, row by row without gaps; None where they must be decoded."""
    end: int
    """First byte after them."""


def read_piece(path: str, plane: Plane, first: int, end: int) -> Rows:
    """Rows of a frame that lies in one piece, shape (end - first, columns), in native byte order."""
    dtype = np.dtype(plane.dtype)
    line = plane.columns * dtype.itemsize
    raw = read_bytes(path, (plane.offset or 0) + first * line, (end - first) * line)
    rows = np.frombuffer(raw, dtype).reshape(end - first, plane.columns)
    return rows.astype(dtype.newbyteorder("="), copy=False)


def read_bytes(path: str, offset: int, length: int) -> bytes:
    """A piece of a file; raises `CutShort` where it ends before."""
    with opened(path) as number:
        pieces = [os.pread(number, length, offset)]
        while (there := sum(map(len, pieces))) < length:  # Linux reads at most 2 GiB at once
            pieces.append(os.pread(number, length - there, offset + there))
            if not pieces[-1]:
                raise CutShort(f"{path} ends within a frame", hint="wait for the writer, or copy it again")
    return b"".join(pieces) if len(pieces) > 1 else pieces[0]
