"""What the HDF5 formats have in common: data sets that grow by one frame at a time, filters, groups, quantities."""

import os
import time
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from srctd.sim.detector import Frame
from srctd.sim.spec import Compression, SimulationSpec

FLUSH_SECONDS = 0.5
PART_PLACE = "entry/data/data"
"""Of the frames in a file that holds nothing else."""


class GrowingDataset:
    """A data set whose first axis grows as values come; what is skipped is never written."""

    def __init__(
        self, group: h5py.Group, name: str, shape: tuple[int, ...], dtype: str, length: int, **layout: Any
    ) -> None:
        self.dataset = group.create_dataset(
            name, (length, *shape), np.dtype(dtype), maxshape=(None, *shape), **layout
        )
        self._flushed = time.monotonic()

    def put(self, place: int, value: NDArray[np.generic] | float) -> None:
        """Write one value; twice a second the file is flushed."""
        if place >= self.dataset.shape[0]:
            self.dataset.resize(place + 1, axis=0)
        self.dataset[place] = value
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.dataset.file.flush()
            self._flushed = time.monotonic()


def frames_dataset(group: h5py.Group, name: str, spec: SimulationSpec, length: int) -> GrowingDataset:
    """A data set of frames, one chunk each; `length` is what it will have in the end."""
    shape = (spec.rows, spec.columns)
    made = GrowingDataset(
        group,
        name,
        shape,
        "uint16",
        length if spec.presized else 0,
        chunks=(1, *shape),
        **filter_arguments(spec.hdf5.compression),
    )
    made.dataset.attrs["units"] = "counts"
    return made


def filter_arguments(compression: Compression) -> dict[str, Any]:
    """What `create_dataset` is told of a compression."""
    if compression == "none":
        return {}
    if compression == "gzip":
        return {"compression": "gzip", "compression_opts": 1}
    plugins = {
        "bitshuffle": hdf5plugin.Bitshuffle,
        "lz4": hdf5plugin.LZ4,
        "blosc": hdf5plugin.Blosc,
        "zstd": hdf5plugin.Zstd,
    }
    return dict(plugins[compression]())


class FrameStore:
    """Where the frames of one detector go: into its file, into one that a link names, or into several ones."""

    def __init__(self, detector: h5py.Group, spec: SimulationSpec, path: str, name: str) -> None:
        self._files: list[h5py.File] = []
        storage, length = spec.hdf5.storage, spec.frames
        if storage == "plain":
            self._length = length
            self._parts = [frames_dataset(detector, "data", spec, length)]
            return
        count = 1 if storage == "external" else spec.hdf5.parts
        self._length = -(-length // count)
        stem, suffix = os.path.splitext(path)
        paths = [f"{stem}_{name}_{part + 1:06d}{suffix}" for part in range(count)]
        self._files = [h5py.File(part, "w") for part in paths]
        lengths = [max(0, min(self._length, length - part * self._length)) for part in range(count)]
        self._parts = [
            frames_dataset(file.create_group("entry/data"), "data", spec, part_length)
            for file, part_length in zip(self._files, lengths, strict=True)
        ]
        names = [os.path.basename(part) for part in paths]
        if storage == "external":
            detector["data"] = h5py.ExternalLink(names[0], PART_PLACE)
        else:
            _virtual(detector, spec, names, lengths)

    def put(self, position: int, frame: Frame) -> None:
        """Write the frame at a position of the whole."""
        part, place = divmod(position, self._length)
        self._parts[part].put(place, frame)

    def close(self) -> None:
        """Close the files of frames."""
        for file in self._files:
            file.close()


def _virtual(detector: h5py.Group, spec: SimulationSpec, names: list[str], lengths: list[int]) -> None:
    """A virtual data set of all parts, in full length: what is not there yet reads as zeros."""
    frame = (spec.rows, spec.columns)
    layout = h5py.VirtualLayout((spec.frames, *frame), np.uint16)
    begin = 0
    for name, length in zip(names, lengths, strict=True):
        source = h5py.VirtualSource(name, PART_PLACE, (length, *frame), np.uint16)
        layout[begin : begin + length] = source
        begin += length
    detector.create_virtual_dataset("data", layout)


def nexus_group(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    """A group with its NeXus class."""
    group = parent.create_group(name)
    group.attrs["NX_class"] = nx_class
    return group


def put_quantity(group: h5py.Group, name: str, value: object, unit: str) -> None:
    """A value with its unit."""
    group[name] = value
    group[name].attrs["units"] = unit
