"""TIFF files of detectors: where the pixels of every page lie, and rows of one page.

Only headers are parsed here, classic and BigTIFF in both byte orders, because a scan has up to 100,000 files and
most of them need nothing else: pixels that are one uncompressed piece are read where they lie. The pages that are
compressed, tiled or in scattered pieces are decoded by tifffile. Structure after TIFF 6.0 (Adobe, 1992) and the
BigTIFF proposal (libtiff).

Nothing in a damaged file leads to anything but `ScanUnreadable`, and no memory is taken for what a header claims
before the claim was held against the size of the file.
"""

import math
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import tifffile

from srctd.core.errors import ScanUnreadable
from srctd.formats.files import opened, stream
from srctd.formats.planes import LARGEST_FRAME, LARGEST_SIDE, CutShort, Plane, Rows, read_piece
from srctd.formats.reach import out_of_reach

MOST_PAGES = 1_000_000

_HEAD = 4096
_MOST_TAGS = 4096
_WIDTH, _LENGTH, _BITS, _COMPRESSION, _FILL, _OFFSETS = 256, 257, 258, 259, 266, 273
_SAMPLES, _ROWS_PER_STRIP, _COUNTS, _TILE_OFFSETS, _TILE_COUNTS, _FORMAT = 277, 278, 279, 324, 325, 339
_NEEDED = frozenset(
    (
        *(_WIDTH, _LENGTH, _BITS, _COMPRESSION, _FILL, _OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _COUNTS),
        *(_TILE_OFFSETS, _TILE_COUNTS, _FORMAT),
    )
)
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
"""struct's letter for the types of a tag that hold sizes and places."""
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}
_DTYPES = frozenset(("u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8"))
_DECODER_ERRORS = (
    *(OSError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError),
    *(RuntimeError, MemoryError, EOFError, struct.error, zlib.error),
)
"""What tifffile and its decoders raise for damaged bytes."""


class _Tag(NamedTuple):
    letter: str
    length: int
    """Number of values."""
    inline: bytes
    """The values themselves where they fit in here, else the place where they lie."""

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return self.length * struct.calcsize("<" + self.letter)


_Tags = dict[int, _Tag]


class _File:
    """An open file whose pieces are read within its bounds."""

    def __init__(self, path: str, number: int) -> None:
        self.path, self._number = path, number
        self.size = os.fstat(number).st_size
        self._head = os.pread(number, _HEAD, 0)
        order = {b"II": "<", b"MM": ">"}.get(self._head[:2])
        if len(self._head) < 8 or not any(self._head):
            raise CutShort(f"{path} has {self.size} bytes and no header yet", hint="wait for the writer")
        if order is None:
            raise ScanUnreadable(f"{path} is no TIFF file: it begins with {self._head[:4]!r}")
        self.order = order
        version = self.unpack("H", 2)[0]
        if version not in (42, 43):
            raise ScanUnreadable(f"{path} is no TIFF file: its version is {version}, not 42 or 43")
        self.big = version == 43

    def piece(self, place: int, length: int) -> bytes:
        """Bytes at a place; raises `CutShort` beyond the end."""
        if place + length > self.size:
            raise CutShort(
                f"{self.path} ends at byte {self.size}, within its header at {place}",
                hint="wait for the writer, or copy it again",
            )
        if place + length <= len(self._head):
            return self._head[place : place + length]
        found = os.pread(self._number, length, place)
        if len(found) < length:
            raise CutShort(f"{self.path} became shorter while it was read", hint="copy it again")
        return found

    def unpack(self, letters: str, place: int) -> tuple[int, ...]:
        """Numbers at a place; raises `CutShort` beyond the end."""
        return struct.unpack(self.order + letters, self.piece(place, struct.calcsize("<" + letters)))

    def values(self, tag: _Tag) -> tuple[int, ...]:
        """All values of a tag; bounded by the size of the file."""
        if len(tag.inline) >= tag.nbytes:
            raw = tag.inline[: tag.nbytes]
        else:
            (place,) = struct.unpack(self.order + ("Q" if self.big else "I"), tag.inline)
            raw = self.piece(place, tag.nbytes)
        return struct.unpack(f"{self.order}{tag.length}{tag.letter}", raw)


def planes(path: str) -> tuple[Plane, ...]:
    """Every page of a file; raises `CutShort` where it ends too early, `ScanUnreadable` for what is no frame."""
    with opened(path) as number:
        file = _File(path, number)
        return tuple(_plane(file, tags, number) for number, tags in enumerate(_directories(file)))


def read_rows(path: str, page: int, first: int, end: int) -> Rows:
    """Rows of one page, shape (end - first, columns), in native byte order; raises `ScanUnreadable`."""
    pages = planes(path)
    if page >= len(pages):
        raise ScanUnreadable(f"{path} has {len(pages)} pages; there is no number {page}")
    return next(pages_rows(path, pages, range(page, page + 1), first, end))


def pages_rows(path: str, pages: Sequence[Plane], wanted: range, first: int, end: int) -> Iterator[Rows]:
    """Rows of some pages, one after the other, each as `read_rows` gives them; the file is opened once.

    `pages`: all pages of the file, as `planes` found them.
    """
    if all(pages[page].offset is not None for page in wanted):
        for page in wanted:
            yield read_piece(path, pages[page], first, end)
        return
    with stream(path) as raw:
        with _decoding(path):
            file = tifffile.TiffFile(raw)
        for page in wanted:
            with _decoding(f"{path} page {page}"):
                decoded = file.pages[page].asarray()
            if decoded.shape != pages[page][:2]:
                raise ScanUnreadable(f"{path} page {page} decodes to the shape {decoded.shape}")
            yield decoded[first:end].astype(decoded.dtype.newbyteorder("="), copy=False)


@contextmanager
def _decoding(where: str) -> Iterator[None]:
    """Turn what damaged bytes do to a decoder into one sentence."""
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except _DECODER_ERRORS as exc:
        away = out_of_reach(where, exc)
        if away is not None:
            raise away from exc
        raise ScanUnreadable(
            f"{where} cannot be decoded: {exc}", hint="the file is damaged or still being written"
        ) from exc


def _directories(file: _File) -> Iterator[_Tags]:
    """The tags of one page after the other."""
    place = file.unpack("Q", 8)[0] if file.big else file.unpack("I", 4)[0]
    seen: set[int] = set()
    while place:
        if place in seen:
            raise ScanUnreadable(f"{file.path}: the chain of its pages leads in a circle at byte {place}")
        if len(seen) >= MOST_PAGES:
            raise ScanUnreadable(f"{file.path} has more than {MOST_PAGES} pages")
        seen.add(place)
        tags, place = _directory(file, place)
        yield tags
    if not seen:
        raise CutShort(f"{file.path} names no first page yet", hint="wait for the writer")


def _directory(file: _File, place: int) -> tuple[_Tags, int]:
    """The tags at a place, and the place of the next page; 0 after the last."""
    count_letter, entry, size_letter = ("Q", "HHQ8s", "Q") if file.big else ("H", "HHI4s", "I")
    (count,) = file.unpack(count_letter, place)
    if count == 0:
        raise CutShort(f"{file.path} has nothing yet where a page begins", hint="wait for the writer")
    if count > _MOST_TAGS:
        raise ScanUnreadable(f"{file.path} claims {count} tags in a page at byte {place}")
    begin, length = place + struct.calcsize("<" + count_letter), count * struct.calcsize("<" + entry)
    raw = file.piece(begin, length + struct.calcsize("<" + size_letter))
    tags = {
        number: _Tag(_INTEGERS[kind], values, inline)
        for number, kind, values, inline in struct.iter_unpack(file.order + entry, raw[:length])
        if number in _NEEDED and kind in _INTEGERS
    }
    return tags, struct.unpack(file.order + size_letter, raw[length:])[0]


def _plane(file: _File, tags: _Tags, number: int) -> Plane:
    where = f"{file.path} page {number}" if number else file.path
    columns, rows = _one(file, tags, _WIDTH, 0), _one(file, tags, _LENGTH, 0)
    if not (0 < rows <= LARGEST_SIDE and 0 < columns <= LARGEST_SIDE):
        raise ScanUnreadable(f"{where} claims {rows} x {columns} pixels, which no detector writes")
    samples = _one(file, tags, _SAMPLES, 1)
    if samples != 1:
        raise ScanUnreadable(
            f"{where} has {samples} samples per pixel: a picture in color is no detector frame"
        )
    bits, kind = _one(file, tags, _BITS, 1), _KINDS.get(_one(file, tags, _FORMAT, 1), "?")
    if f"{kind}{bits // 8}" not in _DTYPES or bits % 8:
        raise ScanUnreadable(
            f"{where} has pixels of {bits} bits ({_format_word(kind)}), which are not read",
            hint="write 8, 16 or 32 bits, or floating point",
        )
    dtype = np.dtype(f"{file.order}{kind}{bits // 8}")
    if rows * columns * dtype.itemsize > LARGEST_FRAME:
        raise ScanUnreadable(f"{where} would decode to {rows * columns * dtype.itemsize} bytes")
    offset, end = _pixels(file, tags, where, (rows, columns, dtype.itemsize))
    return Plane(rows, columns, dtype.str, offset, end)


def _pixels(file: _File, tags: _Tags, where: str, size: tuple[int, int, int]) -> tuple[int | None, int]:
    """The byte at which one uncompressed piece of pixels begins, None if they are not that; and where they end."""
    tiled = _TILE_OFFSETS in tags
    offsets_tag = tags.get(_TILE_OFFSETS if tiled else _OFFSETS)
    counts_tag = tags.get(_TILE_COUNTS if tiled else _COUNTS)
    rows, columns, itemsize = size
    if offsets_tag is None or offsets_tag.length == 0:
        raise CutShort(f"{where} names no place of its pixels yet", hint="wait for the writer")
    offsets = file.values(offsets_tag)
    plain = _one(file, tags, _COMPRESSION, 1) == 1 and not tiled and _one(file, tags, _FILL, 1) == 1
    per_strip = min(max(_one(file, tags, _ROWS_PER_STRIP, rows), 1), rows)
    strip, whole = per_strip * columns * itemsize, rows * columns * itemsize
    regular = plain and len(offsets) == -(-rows // per_strip)
    if regular:  # the counts that some writers give are wrong, and not needed
        counts: tuple[int, ...] = (*(strip,) * (len(offsets) - 1), whole - strip * (len(offsets) - 1))
    elif counts_tag is None or counts_tag.length != len(offsets):
        raise ScanUnreadable(f"{where} does not say how long the pieces of its pixels are")
    else:
        counts = file.values(counts_tag)
    if plain and sum(counts) < whole:
        raise ScanUnreadable(f"{where} has {sum(counts)} bytes for {rows} x {columns} pixels")
    end = max(map(sum, zip(offsets, counts, strict=True)))
    if end > file.size or 0 in offsets or 0 in counts:
        raise CutShort(
            f"{where} ends at byte {file.size}, its header promises pixels up to {end}",
            hint="wait for the writer, or copy it again",
        )
    in_sequence = regular and offsets == tuple(range(offsets[0], offsets[0] + len(offsets) * strip, strip))
    return (offsets[0] if in_sequence else None), end


def _one(file: _File, tags: _Tags, number: int, default: int) -> int:
    tag = tags.get(number)
    if tag is None:
        return default
    if not 0 < tag.length <= 16:
        raise ScanUnreadable(f"{file.path} has {tag.length} values in its tag {number}")
    values = file.values(tag)
    return values[0] if len(set(values)) == 1 else math.prod(values)


def _format_word(kind: str) -> str:
    return {"u": "unsigned", "i": "signed", "f": "floating point"}.get(kind, "of an unknown kind")
