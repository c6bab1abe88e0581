"""Where slabs are computed, from detector rows to slices ready to be written: the CPU, by threads, or a device."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpu.array import Array
from gpu.fourier import FourierFBP, FourierPlan
from gpu.kernels import voxels as device_voxels
from gpu.kernels.device import Device
from gpu.kernels.polar import MOST_PAIRS, PolarTransform
from gpu.kernels.preprocess import Counts, line_integrals, stripes
from gpu.normalize import Reference, stuck, to_sinograms
from gpu.stripes import GROUPS, remove_median
from gpu.volume import Slab, page_aligned, stored
from srctd.core.errors import TransientError
from srctd.core.recipe import ParameterFile
from srctd.core.voxels import Scaling

Frames = NDArray[Any]
Sinograms = NDArray[np.float32]
Loaded = TypeVar("Loaded")

DEVICE_SLAB_BYTES = 256 << 20
"""Slices of this size at once on a device: copying them takes far longer than asking for it."""


class Block(NamedTuple):
    """Frames of some neighboring detector rows, each (n_frames, n_rows, n_columns), in the file's type."""

    projections: Frames
    flats: Frames
    darks: Frames

    def rows(self, first: int, end: int) -> "Block":
        """A part of the rows, counted from the block's first."""
        return Block(*(frames[:, first:end] for frames in self))

    def every(self, step: int) -> "Block":
        """A copy of every so many rows, beginning with the first."""
        return self if step == 1 else Block(*(frames[:, ::step].copy() for frames in self))


class Engine(Protocol[Loaded]):
    """Computes the slabs of one shard. Two are in use at once: one is written while the next is computed."""

    def load(self, block: Block) -> Loaded:
        """Bring a block to where it is computed; called by the thread that reads."""

    def compute(self, loaded: Loaded, first: int, end: int) -> Slab:
        """The slices of some rows of a block, counted from its first."""


@dataclass(frozen=True)
class Preparation:
    """What is done to detector rows before they are projected back."""

    minimum_transmission: float
    repair_dead_pixels: bool
    remove_rings: bool
    ring_size: int
    ring_threshold: float

    @classmethod
    def of(cls, parameters: ParameterFile) -> "Preparation":
        """As the parameters say."""
        return cls(
            minimum_transmission=parameters.number("minimum_transmission"),
            repair_dead_pixels=bool(parameters.value("repair_dead_pixels")),
            remove_rings=parameters.value("ring_removal") != "none",
            ring_size=int(parameters.number("ring_size")),
            ring_threshold=parameters.number("ring_threshold"),
        )

    def line_integrals(self, block: Block, threads: int) -> Sinograms:
        """(n_rows, n_angles, n_columns), float32, on the CPU."""
        return to_sinograms(
            *block,
            minimum_transmission=self.minimum_transmission,
            repair_dead_pixels=self.repair_dead_pixels,
            workers=threads,
        ).sinograms

    def without_rings(self, sinograms: Sinograms, threads: int) -> Sinograms:
        """The same sinograms, leveled in place if that is wanted."""
        if not self.remove_rings:
            return sinograms
        return remove_median(sinograms, size=self.ring_size, threshold=self.ring_threshold, workers=threads)


class HostEngine:
    """The CPU, by threads."""

    def __init__(
        self, transform: FourierFBP, preparation: Preparation, scaling: Scaling | None, slab_rows: int
    ) -> None:
        """`scaling`: of stored integers; None where slices are stored as they are."""
        self._transform, self._preparation, self._scaling = transform, preparation, scaling
        shape = (slab_rows, transform.n_columns, transform.n_columns)
        self._slices = [page_aligned(shape, np.float32) for _ in range(2 if scaling is None else 1)]
        self._integers = [page_aligned(shape, np.uint16) for _ in range(0 if scaling is None else 2)]

    def load(self, block: Block) -> Block:
        """See `Engine`."""
        return block

    def compute(self, loaded: Block, first: int, end: int) -> Slab:
        """See `Engine`."""
        preparation, threads = self._preparation, self._transform.threads
        sinograms = preparation.line_integrals(loaded.rows(first, end), threads)
        self._slices.reverse()  # the other one may still be written
        self._integers.reverse()
        slices = self._slices[0][: end - first]
        self._transform.reconstruct(preparation.without_rings(sinograms, threads), slices)
        integers = self._integers[0] if self._integers else None

        def one(row: int) -> Slab:
            some = slice(row, row + 1)
            return stored(slices[some], self._scaling, None if integers is None else integers[some])

        with ThreadPoolExecutor(threads) as pool:
            told = list(pool.map(one, range(len(slices))))
        return Slab.joined(told, slices if integers is None else integers[: len(slices)])


class _OnDevice(NamedTuple):
    """A block on a device."""

    block: Block
    counts: Counts


class DeviceEngine:
    """A GPU. A slice's bytes depend neither on slabs nor on the memory that is free."""

    def __init__(
        self,
        device: Device,
        plan: FourierPlan,
        preparation: Preparation,
        scaling: Scaling | None,
        slab_rows: int,
    ) -> None:
        """Raises `TransientError` if not even two slices fit the device's memory."""
        self._device, self._plan, self._preparation, self._scaling = device, plan, preparation, scaling
        shape = (slab_rows, plan.n_columns, plan.n_columns)
        dtype = np.float32 if scaling is None else np.uint16
        self._out = [device.host_array(shape, dtype) for _ in range(2)]
        self._transform: PolarTransform | None = None
        self._pairs = MOST_PAIRS

    def load(self, block: Block) -> _OnDevice:
        """See `Engine`. The device's memory holds two blocks: what is loaded, and what is computed."""
        device = self._device
        there = Block(*(device.xp.asarray(frames) for frames in block))
        reference = Reference(there.flats, there.darks)
        bad = device.xp.asarray(reference.bad | stuck(there.projections))
        on_host = np.empty(bad.shape, np.bool_)
        device.download(bad, on_host)
        counts = Counts.of(
            device, there.projections, reference.dark, reference.span, on_host,
            repair=self._preparation.repair_dead_pixels,
        )  # fmt: skip
        device.synchronize()
        return _OnDevice(there, counts)

    def compute(self, loaded: _OnDevice, first: int, end: int) -> Slab:
        """See `Engine`."""
        while True:
            try:
                return self._slab(loaded, first, end)
            except self._device.out_of_memory as exc:
                self._take_less(exc)

    def _take_less(self, exc: Exception) -> None:
        self._transform = None
        self._device.free_unused()
        self._pairs //= 2
        if self._pairs == 0:
            n, n_angles = self._plan.n_columns, len(self._plan.angles)
            raise TransientError(
                f"{self._device.name}: two slices of {n} x {n} from {n_angles} angles do not fit its free memory",
                hint="give the worker a device of its own, or run it with --device cpu",
            ) from exc

    def project(self, loaded: _OnDevice, first: int, end: int, slices: Array) -> None:
        """Reconstruct some rows of a block to `slices` (end - first, n, n), float32, on the device."""
        if self._transform is None:
            self._transform = self._plan.on(self._device, self._pairs)
        device, transform, preparation = self._device, self._transform, self._preparation
        for start in range(first, end, transform.rows):
            stop = min(start + transform.rows, end)
            sinograms = line_integrals(device, loaded.counts, start, stop, preparation.minimum_transmission)
            offsets = None
            if preparation.remove_rings:
                offsets = stripes(
                    device, sinograms, size=preparation.ring_size, threshold=preparation.ring_threshold,
                    groups=GROUPS,
                )  # fmt: skip
            transform(sinograms, offsets, slices[start - first : stop - first])

    def _slab(self, loaded: _OnDevice, first: int, end: int) -> Slab:
        n, xp = self._plan.n_columns, self._device.xp
        slices = xp.empty((end - first, n, n), np.float32)
        self.project(loaded, first, end, slices)
        flat = slices.reshape(len(slices), -1)
        minimum, maximum = float(flat.min()), float(flat.max())
        sums = [float(total) for total in flat.sum(axis=1, dtype=np.float64).tolist()]
        clipped, result = 0, slices
        if self._scaling is not None:
            result = xp.empty(slices.shape, np.uint16)
            offset, scale = self._scaling
            outside = device_voxels.encode(
                self._device, slices, result, offset=offset, scale=scale, maximum=self._scaling.maximum
            )
            clipped = int(outside[0])
        self._out.reverse()  # the other one may still be written
        host = self._out[0][: end - first]
        self._device.download(result, host)
        return Slab(host, minimum, maximum, sums, clipped)
