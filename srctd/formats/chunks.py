"""What the storage of an HDF5 data set tells before a pixel is read: what is absurd, and what was not written."""

import math
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from srctd.formats.hdf5 import Source
from srctd.formats.planes import LARGEST_SIDE, MOST_FRAMES

LARGEST_CHUNK = 1 << 30
"""Bytes of a frame or a chunk once it is decoded: HDF5 decodes a chunk as a whole, in memory."""
MOST_STORED = 1.25
"""Stored bytes over decoded bytes of a compressed chunk. No filter makes noise longer by more than a few percent;
what is longer decodes into more than the header says."""

_NAMES = {307: "bzip2", 32000: "LZF", 32001: "Blosc", 32004: "LZ4", 32008: "bitshuffle", 32015: "Zstandard"}
_ROOM = 64 * 1024
_HEADERS = 4096
"""Bytes that a compressor may add to a chunk that holds next to nothing."""
_CHECKSUM = 16


class Storage(NamedTuple):
    """What is known of every frame of a data set without reading it; shape (frames,)."""

    written: NDArray[np.bool_]
    """Whether all its chunks have storage."""
    suspicious: NDArray[np.bool_]
    """Whether it has storage and may still be blank: not compressed, or compressed to almost nothing."""


def unsound(dataset: h5py.Dataset) -> str:
    """Why frames cannot be read from a data set, to follow its name; empty if nothing is wrong.

    Nothing but the header is read, so nothing is allocated by what the header claims.
    """
    if dataset.ndim != 3:
        return f"has {dataset.ndim} dimensions, shape {dataset.shape}; expected 3 (frames, rows, columns)"
    if dataset.dtype.kind not in "uif":
        return f"holds values of type {dataset.dtype}; expected numbers"
    frames, rows, columns = dataset.shape
    decoded = rows * columns * dataset.dtype.itemsize
    if frames > MOST_FRAMES or max(rows, columns) > LARGEST_SIDE or decoded > LARGEST_CHUNK:
        return f"claims to be {frames} frames of {rows} x {columns} pixels, which no detector writes"
    if dataset.chunks is not None:
        size = math.prod(dataset.chunks) * dataset.dtype.itemsize
        if len(dataset.chunks) != 3 or not 0 < size <= LARGEST_CHUNK:
            return f"has chunks of {' x '.join(map(str, dataset.chunks))} pixels, which no detector writes"
    return _unknown_filter(dataset)


def _unknown_filter(dataset: h5py.Dataset) -> str:
    created = dataset.id.get_create_plist()
    for i in range(created.get_nfilters()):
        code, _, _, name = created.get_filter(i)
        if not h5py.h5z.filter_avail(code):
            word = _NAMES.get(code) or name.decode("ascii", "replace").strip() or "unnamed"
            return f"is compressed with the filter {code} ({word}), which is not installed here"
    return ""


def stored(source: Source, dataset: h5py.Dataset) -> Storage:
    """`storage`, of a virtual data set by that of the data sets it is assembled from."""
    if not dataset.is_virtual:
        return storage(dataset)
    found = storage(dataset)
    pieces: dict[h5py.Dataset, Storage] = {}
    for data, first, inner, frames in source.mapped(dataset):
        if data.ndim != 3 or data.is_virtual:
            continue
        if data not in pieces:
            pieces[data] = storage(data)
        for whole, part in zip(found, pieces[data], strict=True):
            there = part[inner : inner + frames]
            whole[first : first + len(there)] = there
    return found


def storage(dataset: h5py.Dataset) -> Storage:
    """Which frames have storage. Raises `ValueError` for a compressed chunk that is longer than it can be.

    A contiguous data set gets all its storage at once, so all frames count as written, or none. Holes are found
    chunk by chunk, in about a microsecond each.
    """
    frames = dataset.shape[0]
    if dataset.is_virtual or dataset.external or frames == 0:
        return Storage(np.ones(frames, bool), np.ones(frames, bool))
    if dataset.chunks is None:
        return Storage(*np.full((2, frames), dataset.id.get_storage_size() > 0))
    return _chunked(dataset)


def _chunked(dataset: h5py.Dataset) -> Storage:
    frames = int(dataset.shape[0])
    layer = int(dataset.chunks[0])
    decoded = math.prod(dataset.chunks) * dataset.dtype.itemsize
    filtered = dataset.id.get_create_plist().get_nfilters() > 0
    layers = -(-frames // layer)
    chunks, stored = np.zeros(layers, np.int64), np.zeros(layers, np.int64)
    longest = 0

    def count(chunk: h5py.h5d.StoreInfo) -> None:
        nonlocal longest
        position = chunk.chunk_offset[0] // layer
        if position < layers:
            chunks[position] += 1
            stored[position] += chunk.size
        longest = max(longest, chunk.size)

    dataset.id.chunk_iter(count)
    if filtered and longest > MOST_STORED * decoded + _ROOM:
        raise ValueError(f"a compressed chunk has {longest} bytes, but stands for {decoded}")
    per_layer = math.prod(-(-n // c) for n, c in zip(dataset.shape[1:], dataset.chunks[1:], strict=True))
    written = chunks >= max(per_layer, 1)
    suspicious = written & _may_be_even(stored, decoded * per_layer, per_layer) if filtered else written
    return Storage(*(np.repeat(mask, layer)[:frames] for mask in (written, suspicious)))


def _may_be_even(stored: NDArray[np.int64], decoded: int, chunks: int) -> NDArray[np.bool_]:
    """Whether compressed frames may hold one value alone.

    They take almost no room, or were not compressed at all (a filter that only shuffles, or adds a checksum).
    """
    return (stored < decoded / 50 + _HEADERS * chunks) | (np.abs(stored - decoded) <= _CHECKSUM * chunks)
