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

from gpu import memory, stripes
from gpu.fourier import FourierFBP
from gpu.normalize import to_sinograms
from gpu.volume import ShardWriter, VolumeSpec, ensure, page_aligned, read_shard
from srctd.core import voxels
from srctd.core.errors import HoldError, StorageUnavailable
from srctd.core.messages import JobResult, RowsJob
from srctd.core.recipe import ParameterFile
from srctd.formats import ScanReader, open_scan

Checkpoint = Callable[[str, float], None]
"""Called between pieces of work with the phase and the fraction of the job that is done; may raise `Canceled`."""

Frames = NDArray[Any]
Sinograms = NDArray[np.float32]


class Canceled(BaseException):
    """The job in hand is given up: the worker was told to leave. No error, so nothing but its runner catches it."""


class Outcome(NamedTuple):
    """A job's result and the seconds that its phases took; phases overlap."""

    result: JobResult
    seconds: dict[str, float]


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
    _plan: tuple[object, FourierFBP] | None = field(default=None, repr=False)

    def budget(self) -> int:
        """Bytes that a job may take."""
        if self.memory_bytes is not None:
            return self.memory_bytes
        return memory.share_bytes(self.threads)

    def transform(self, parameters: ParameterFile, reader: ScanReader, center: float) -> FourierFBP:
        """The planned transform of a scan."""
        about = ("filter", "padding", "padding_factor", "tolerance", "reverse_angles", "pixel_size")
        key = (parameters.input, parameters.entry, center, *map(parameters.value, about))
        if self._plan is None or self._plan[0] != key:
            self._plan = None  # the old one's buffers go first
            angles = scan_angles(parameters, reader)
            self._plan = (key, plan_transform(parameters, reader, angles, center, self.threads))
        return self._plan[1]


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
            transform = resources.transform(parameters, reader, float(center))
        stream = _Stream(reader, parameters, transform, clock)
        with ShardWriter(volume, job.first, job.end) as writer:
            stream.run(writer, job, _heights(job, parameters, reader, resources), checkpoint)
            checkpoint("write", 1.0)
            with clock.phase("sync"):
                result = writer.finish()
    return Outcome(result, clock.seconds)


def _heights(
    job: RowsJob, parameters: ParameterFile, reader: ScanReader, resources: Resources
) -> memory.Heights:
    need = memory.needs(
        reader.header,
        padding_factor=parameters.number("padding_factor"),
        threads=resources.threads,
        sixteen_bit=parameters.value("output_dtype") == voxels.SIXTEEN_BIT,
    )
    return memory.heights(
        need,
        job.end - job.first,
        reader.header.n_columns,
        budget=resources.budget(),
        threads=resources.threads,
    )


class _Stream:
    """The overlapped stages of one shard."""

    def __init__(
        self, reader: ScanReader, parameters: ParameterFile, transform: FourierFBP, clock: Clock
    ) -> None:
        self._reader, self._parameters, self._transform, self._clock = reader, parameters, transform, clock
        self._out: list[NDArray[np.float32]] = []

    def run(self, writer: ShardWriter, job: RowsJob, heights: memory.Heights, checkpoint: Checkpoint) -> None:
        n = self._transform.n_columns
        self._out = [page_aligned((heights.slab, n, n), np.float32) for _ in range(2)]
        written: Future[None] | None = None
        with ThreadPoolExecutor(1, "read") as reading, ThreadPoolExecutor(1, "write") as writing:
            starts = range(job.first, job.end, heights.block)
            following = reading.submit(self._read, starts[0], min(starts[0] + heights.block, job.end))
            for start in starts:
                block = following.result()
                after = start + heights.block
                if after < job.end:
                    following = reading.submit(self._read, after, min(after + heights.block, job.end))
                n_rows = block.projections.shape[1]
                for first in range(0, n_rows, heights.slab):
                    checkpoint("reconstruct", (start + first - job.first) / (job.end - job.first))
                    slices = self._compute(block.rows(first, min(first + heights.slab, n_rows)))
                    if written is not None:
                        written.result()
                    written = writing.submit(self._write, writer, slices)
            if written is not None:
                written.result()

    def _read(self, first: int, end: int) -> Block:
        with self._clock.phase("read"):
            return read_rows(self._reader, slice(first, end))

    def _compute(self, block: Block) -> NDArray[np.float32]:
        with self._clock.phase("preprocess"):
            sinograms = preprocess(block, self._parameters, self._transform.threads)
        with self._clock.phase("transform"):
            self._out.reverse()  # the other one is being written
            slices = self._out[0][: len(sinograms)]
            self._transform.reconstruct(sinograms, slices)
        return slices

    def _write(self, writer: ShardWriter, slices: NDArray[np.float32]) -> None:
        with self._clock.phase("write"):
            writer.write(slices)


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
    threads: int,
    binning: int = 1,
) -> FourierFBP:
    """Plan the transform of a scan, or of some of its projections, with columns averaged by `binning`."""
    pixel_size = VolumeSpec(parameters, reader.header).pixel_size
    return FourierFBP(
        angles,
        reader.header.n_columns // binning,
        center=(center + 0.5) / binning - 0.5,
        filter_name=str(parameters.value("filter")),
        padding=str(parameters.value("padding")),
        padding_factor=parameters.number("padding_factor"),
        tolerance=parameters.number("tolerance"),
        scale=1.0 / (binning * (pixel_size or 1.0)),
        threads=threads,
    )


def read_rows(reader: ScanReader, rows: slice, frames: slice = slice(None)) -> Block:
    """Some rows of all flats and darks and of the projections `frames`."""
    return Block(
        reader.read("projections", rows, frames), reader.read("flats", rows), reader.read("darks", rows)
    )


def preprocess(block: Block, parameters: ParameterFile, threads: int) -> Sinograms:
    """Corrected line integrals without rings, shape (n_rows, n_angles, n_columns)."""
    return remove_rings(normalize(block, parameters, threads), parameters, threads)


def normalize(block: Block, parameters: ParameterFile, threads: int) -> Sinograms:
    """Line integrals, shape (n_rows, n_angles, n_columns)."""
    return to_sinograms(
        *block,
        minimum_transmission=parameters.number("minimum_transmission"),
        repair_dead_pixels=bool(parameters.value("repair_dead_pixels")),
        workers=threads,
    ).sinograms


def remove_rings(sinograms: Sinograms, parameters: ParameterFile, threads: int) -> Sinograms:
    """The same sinograms, leveled in place as the parameters say."""
    if parameters.value("ring_removal") == "none":
        return sinograms
    return stripes.remove_median(
        sinograms,
        size=int(parameters.number("ring_size")),
        threshold=parameters.number("ring_threshold"),
        workers=threads,
    )
