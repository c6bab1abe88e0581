"""From detector rows to rows of the volume: read | normalize, remove rings, transform | write, overlapped.

One thread reads the next block while the slabs of this one are computed, with all threads, and another writes the
slab before. The bytes that come out depend on the input and the parameters only: not on slabs, shards or threads.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from gpu import memory
from gpu.engines import DEVICE_SLAB_BYTES, Block, DeviceEngine, Engine, HostEngine, Preparation
from gpu.fourier import FourierFBP, FourierPlan
from gpu.kernels.device import Device
from gpu.volume import ShardWriter, Slab, VolumeSpec, ensure, read_shard
from srctd.core import voxels
from srctd.core.errors import HoldError, StorageUnavailable
from srctd.core.messages import JobResult, RowsJob
from srctd.core.recipe import ParameterFile
from srctd.formats import ScanReader, open_scan

Checkpoint = Callable[[str, float], None]
"""Called between pieces of work with the phase and the fraction of the job that is done; may raise `Canceled`."""


class Canceled(BaseException):
    """The job in hand is given up: the worker was told to leave. No error, so nothing but its runner catches it."""


class Outcome(NamedTuple):
    """A job's result and the seconds that its phases took; phases overlap."""

    result: JobResult
    seconds: dict[str, float]


class Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time inside the block to a phase; each phase is measured by one thread only."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass
class Resources:
    """What a worker may use, and the transform's plan, which it keeps from one shard of a scan to the next."""

    threads: int = 1
    memory_bytes: int | None = None
    """What a job may take; None: this worker's share, by threads, of what is free when the job starts."""
    device: Device | None = None
    """Computes slabs; None: the CPU does."""
    _plan: tuple[object, FourierFBP] | None = field(default=None, repr=False)

    @property
    def device_name(self) -> str:
        """For people."""
        return "cpu" if self.device is None else self.device.name

    def budget(self) -> int:
        """Bytes that a job may take."""
        if self.memory_bytes is not None:
            return self.memory_bytes
        return memory.share_bytes(self.threads)

    def transform(self, parameters: ParameterFile, reader: ScanReader, center: float) -> FourierFBP:
        """The planned transform of a scan, on the CPU."""
        about = ("filter", "padding", "padding_factor", "tolerance", "reverse_angles", "pixel_size")
        key = (parameters.input, parameters.entry, center, *map(parameters.value, about))
        if self._plan is None or self._plan[0] != key:
            self._plan = None  # the old one's buffers go first
            angles = scan_angles(parameters, reader)
            self._plan = (key, FourierFBP(plan_transform(parameters, reader, angles, center), self.threads))
        return self._plan[1]

    def engine(
        self, parameters: ParameterFile, reader: ScanReader, center: float, slab_rows: int
    ) -> Engine[Any]:
        """What computes the slabs of a shard."""
        preparation, scaling = Preparation.of(parameters), voxels.scaling(parameters)
        if self.device is None:
            transform = self.transform(parameters, reader, center)
            return HostEngine(transform, preparation, scaling, slab_rows)
        plan = plan_transform(parameters, reader, scan_angles(parameters, reader), center)
        return DeviceEngine(self.device, plan, preparation, scaling, slab_rows)


def run_rows(job: RowsJob, resources: Resources, checkpoint: Checkpoint) -> Outcome:
    """Reconstruct a shard into the volume; one that is done already is not done again."""
    folder = Path(job.output)
    found = read_shard(folder, job.first, job.end)
    if found is not None:
        return Outcome(found, {})
    clock = Clock()
    parameters = read_parameters(Path(job.parameters))
    checkpoint("plan", 0.0)
    with open_scan(parameters.input, parameters.entry) as reader:
        with clock.phase("plan"):
            center = parameters.value("center")
            if center is None:
                raise HoldError(
                    f"{job.parameters}: the rotation axis is not known", hint="run the preview first"
                )
            volume = ensure(folder, VolumeSpec(parameters, reader.header))
            heights = _heights(job, parameters, reader, resources)
            engine = resources.engine(parameters, reader, float(center), heights.slab)
        with ShardWriter(volume, job.first, job.end) as writer:
            _Stream(reader, engine, clock).run(writer, job, heights, checkpoint)
            checkpoint("write", 1.0)
            with clock.phase("sync"):
                result = writer.finish()
    return Outcome(result, clock.seconds)


def _heights(
    job: RowsJob, parameters: ParameterFile, reader: ScanReader, resources: Resources
) -> memory.Heights:
    header, rows, budget = reader.header, job.end - job.first, resources.budget()
    if resources.device is None:
        padding, threads = parameters.number("padding_factor"), resources.threads
        need = memory.needs(header, padding_factor=padding, threads=threads)
        return memory.heights(need, rows, header.n_columns, budget=budget, threads=threads)
    need = memory.needs_beside_device(header, item_bytes=voxels.item_bytes(parameters))
    return memory.heights(need, rows, header.n_columns, budget=budget, slab_bytes=DEVICE_SLAB_BYTES)


class _Stream:
    """The overlapped stages of one shard."""

    def __init__(self, reader: ScanReader, engine: Engine[Any], clock: Clock) -> None:
        self._reader, self._engine, self._clock = reader, engine, clock

    def run(self, writer: ShardWriter, job: RowsJob, heights: memory.Heights, checkpoint: Checkpoint) -> None:
        written: Future[None] | None = None
        with ThreadPoolExecutor(1, "read") as reading, ThreadPoolExecutor(1, "write") as writing:
            starts = range(job.first, job.end, heights.block)
            following = reading.submit(self._read, starts[0], min(starts[0] + heights.block, job.end))
            for start in starts:
                block = following.result()
                n_rows = min(heights.block, job.end - start)
                after = start + n_rows
                if after < job.end:
                    following = reading.submit(self._read, after, min(after + heights.block, job.end))
                for first in range(0, n_rows, heights.slab):
                    checkpoint("reconstruct", (start + first - job.first) / (job.end - job.first))
                    with self._clock.phase("compute"):
                        slab = self._engine.compute(block, first, min(first + heights.slab, n_rows))
                    if written is not None:
                        written.result()
                    written = writing.submit(self._write, writer, slab)
            if written is not None:
                written.result()

    def _read(self, first: int, end: int) -> Any:
        with self._clock.phase("read"):
            block = read_rows(self._reader, slice(first, end))
        with self._clock.phase("load"):
            return self._engine.load(block)

    def _write(self, writer: ShardWriter, slab: Slab) -> None:
        with self._clock.phase("write"):
            writer.write(slab)


# --- parts that the preview uses as well ------------------------------------------------------------------


def read_parameters(path: Path) -> ParameterFile:
    """The parameter file of a scan, its input in full."""
    try:
        parameters = msgspec.json.decode(path.read_bytes(), type=ParameterFile)
        return msgspec.structs.replace(
            parameters, input=os.path.join(path.absolute().parent, parameters.input)
        )
    except OSError as exc:
        raise StorageUnavailable(f"{path}: {exc.strerror}") from exc
    except msgspec.DecodeError as exc:
        raise HoldError(f"{path} is no parameter file: {exc}", hint="submit the scan again") from exc


def scan_angles(parameters: ParameterFile, reader: ScanReader) -> NDArray[np.float64]:
    """Angles of the projections in the sense of rotation of the parameters, radian."""
    return reader.angles() * (-1.0 if parameters.value("reverse_angles") else 1.0)


def plan_transform(
    parameters: ParameterFile,
    reader: ScanReader,
    angles: NDArray[np.float64],
    center: float,
    binning: int = 1,
) -> FourierPlan:
    """The transform of a scan, or of some of its projections, with columns averaged by `binning`."""
    pixel_size = VolumeSpec(parameters, reader.header).pixel_size
    return FourierPlan(
        angles=angles,
        n_columns=reader.header.n_columns // binning,
        center=(center + 0.5) / binning - 0.5,
        filter_name=str(parameters.value("filter")),
        padding=str(parameters.value("padding")),
        padding_factor=parameters.number("padding_factor"),
        tolerance=parameters.number("tolerance"),
        scale=1.0 / (binning * (pixel_size or 1.0)),
    )


def read_rows(reader: ScanReader, rows: slice, frames: slice = slice(None)) -> Block:
    """Some rows of all flats and darks and of the projections `frames`."""
    return Block(
        reader.read("projections", rows, frames), reader.read("flats", rows), reader.read("darks", rows)
    )
