"""Reading frames by an index: one way for every format.

Rows are read where they lie: whole runs of an HDF5 data set, byte ranges of raw files and of TIFF pages that are
neither compressed nor tiled, whole pages of those that are.
"""

import os
from types import TracebackType
from typing import Self

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from srctd.core.errors import ScanUnreadable
from srctd.core.frames import FrameIndex, Segment
from srctd.formats import tiff
from srctd.formats.chunks import storage, unsound
from srctd.formats.files import stream
from srctd.formats.hdf5 import Source, translated
from srctd.formats.planes import Plane, read_piece
from srctd.formats.protocol import Kind
from srctd.formats.reach import out_of_reach

Rows = NDArray[np.generic]


AGAIN = "`srctd retry SCAN --step submit` indexes its frames anew"
CHANGED = f"the file was changed; {AGAIN}"
"""What to do where a file is not as it was when the index was made."""


def read_index(path: str) -> FrameIndex:
    """An index file; raises `ScanUnreadable`, `StorageUnavailable`."""
    try:
        with stream(path) as file:
            index = msgspec.json.decode(file.read(), type=FrameIndex)
    except (OSError, msgspec.DecodeError) as exc:
        away = out_of_reach(path, exc)
        if away is not None:
            raise away from exc
        raise ScanUnreadable(f"{path} is no index of frames: {exc}", hint=AGAIN) from exc
    return index


class FrameReader:
    """A `ScanReader` on an index."""

    def __init__(self, index: FrameIndex, folder: str) -> None:
        """`folder`: what relative file names count from."""
        self.header = index.header
        self._index = index
        self._folder = folder
        self._dtype = np.dtype(index.dtype)
        self._sources: dict[str, Source] = {}
        self._datasets: dict[tuple[str, str], h5py.Dataset] = {}
        self._pages: dict[str, tuple[Plane, ...]] = {}
        self._alike: dict[tuple[Plane, ...], tuple[Plane, ...]] = {}

    def angles(self) -> NDArray[np.float64]:
        """Rotation angle of every projection, radian, shape (n_projections,)."""
        return np.array(self._index.angles, np.float64)

    def read(self, kind: Kind, rows: slice, frames: slice = slice(None)) -> Rows:
        """Detector rows of one kind of frame, shape (n_frames, n_rows, n_columns), in native byte order.

        `rows` has step 1. Frames that lie side by side in a file are read as one piece.
        """
        segments: tuple[Segment, ...] = getattr(self._index, kind)
        first, end, step = rows.indices(self.header.n_rows)
        if step != 1:
            raise ValueError(f"rows are read with step 1, not {step}")
        pieces = list(_picked(segments, frames))
        shape = (sum(piece.count for piece in pieces), max(0, end - first), self.header.n_columns)
        block = np.empty(shape, self._dtype.newbyteorder("="))
        position = 0
        for piece in pieces:
            into = block[position : position + piece.count]
            if into.size:
                self._read(piece, first, end, into)
            position += piece.count
        return block

    def _read(self, piece: Segment, first: int, end: int, into: Rows) -> None:
        if piece.container == "constant":
            into[...] = piece.value
            return
        path = os.path.join(self._folder, piece.file)
        with translated(path):
            if piece.container == "hdf5":
                frames = np.s_[piece.first : piece.first + piece.count, first:end]
                self._dataset(path, piece.place).read_direct(into, frames)
            elif piece.container == "raw":
                self._read_raw(path, piece, first, end, into)
            else:
                self._read_tiff(path, piece, first, end, into)

    def _dataset(self, path: str, place: str) -> h5py.Dataset:
        if path not in self._sources:
            self._sources[path] = Source(path)
        if (path, place) not in self._datasets:
            self._datasets[path, place] = self._checked(path, place)
        return self._datasets[path, place]

    def _checked(self, path: str, place: str) -> h5py.Dataset:
        """A data set whose header and storage are those of frames like the ones that were indexed.

        The file may be another one than then, or damaged since; what it claims is looked at before it is decoded.
        """
        dataset = self._sources[path].dataset(place)
        if dataset is None:
            raise ScanUnreadable(
                f"{path} has no data set {place}",
                hint=CHANGED,
            )
        wanted = (self.header.n_rows, self.header.n_columns)
        if problem := unsound(dataset) or (
            "" if dataset.shape[1:] == wanted else "has frames of another size"
        ):
            raise ScanUnreadable(
                f"{path}: {place} {problem}",
                hint=CHANGED,
            )
        storage(dataset)
        return dataset

    def _read_raw(self, path: str, piece: Segment, first: int, end: int, into: Rows) -> None:
        dtype = np.dtype(piece.dtype) if piece.dtype else self._dtype
        rows, columns = self.header.n_rows, self.header.n_columns
        frame = rows * columns * dtype.itemsize
        for i in range(piece.count):
            begin = piece.offset + i * (piece.stride or frame)
            into[i] = read_piece(path, Plane(rows, columns, dtype.str, begin, begin + frame), first, end)

    def _read_tiff(self, path: str, piece: Segment, first: int, end: int, into: Rows) -> None:
        pages = self._pages_of(path)
        wanted = range(piece.first, piece.first + piece.count)
        shape = (self.header.n_rows, self.header.n_columns)
        if wanted.stop > len(pages) or any(pages[page][:2] != shape for page in wanted):
            raise ScanUnreadable(
                f"{path} does not hold {piece.count} frames of {shape[0]} x {shape[1]} pixels from page "
                f"{piece.first} on",
                hint=CHANGED,
            )
        for i, rows in enumerate(tiff.pages_rows(path, pages, wanted, first, end)):
            if not np.can_cast(rows.dtype, into.dtype, "safe"):
                raise ScanUnreadable(f"{path} holds {rows.dtype} pixels, the scan {into.dtype}")
            into[i] = rows

    def _pages_of(self, path: str) -> tuple[Plane, ...]:
        """The pages of a file, whose header is read once; files that are alike share one answer."""
        pages = self._pages.get(path)
        if pages is None:
            pages = tiff.planes(path)
            self._pages[path] = pages = self._alike.setdefault(pages, pages)
        return pages

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for source in self._sources.values():
            source.close()
        self._sources.clear()
        self._datasets.clear()


def _picked(segments: tuple[Segment, ...], frames: slice) -> list[Segment]:
    """The runs that a slice of all frames leaves; a scan may have a segment for every frame."""
    ends = np.cumsum([segment.count for segment in segments], dtype=np.int64)
    first, end, step = frames.indices(int(ends[-1]) if len(ends) else 0)
    if step != 1:
        wanted = np.arange(first, end, step)
        holders = np.searchsorted(ends, wanted, "right")
        begins = ends - [segment.count for segment in segments]
        return [_part(segments[k], int(i - begins[k])) for i, k in zip(wanted, holders, strict=True)]
    picked: list[Segment] = []
    for segment, stop in zip(segments, ends.tolist(), strict=True):
        begin = stop - segment.count
        low, high = max(first, begin), min(end, stop)
        if (low, high) == (begin, stop):
            picked.append(segment)
        elif low < high:
            picked.append(_part(segment, low - begin, high - low))
    return picked


def _part(segment: Segment, skip: int, count: int = 1) -> Segment:
    """`count` frames of a segment after the first `skip`; needs a stride for raw frames."""
    return msgspec.structs.replace(
        segment, first=segment.first + skip, offset=segment.offset + skip * segment.stride, count=count
    )
