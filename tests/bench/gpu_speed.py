"""Reconstruction on a GPU: every stage by itself, all slices in its memory, and from file to file.

    python tests/bench/gpu_speed.py [--geometry 250x1007x2000] [--files] [--folder DIR]

Prints medians, the part of the device's memory bandwidth (measured by a copy, in the same run) that the stages
which move data reach, updates per second of the direct back-projection, and of the way from file to file how long
writing the same bytes takes. The input is noise about a constant: times do not depend on it.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from small_scans import write_parameters

from gpu.engines import Block, DeviceEngine, Preparation
from gpu.fourier import FourierPlan
from gpu.kernels.backprojection import backproject
from gpu.kernels.device import Cuda, Kernel
from gpu.pipeline import Resources, run_rows
from gpu.volume import DATASET, NAME
from srctd.core.messages import RowsJob
from srctd.core.voxels import Scaling

ROUNDS = 5
PREPARATION = Preparation(0.01, True, True, 31, 3.0)


class Timed(Cuda):
    """A device that takes the time of every kernel and transform."""

    def __init__(self) -> None:
        super().__init__()
        self.milliseconds: dict[str, float] = {}

    def launch(self, kernel: Kernel, threads: tuple[int, ...], *arguments: object) -> None:
        self._take(kernel.name, lambda: super(Timed, self).launch(kernel, threads, *arguments))

    def transform(self, array: object, *, axes: tuple[int, ...], inverse: bool) -> None:
        name = "FFT of rows" if axes == (1,) else "FFT of grids"
        self._take(name, lambda: super(Timed, self).transform(array, axes=axes, inverse=inverse))

    def _take(self, name: str, work: Callable[[], None]) -> None:
        spent = elapsed(self, work)
        self.milliseconds[name] = self.milliseconds.get(name, 0.0) + spent


def elapsed(device: Cuda, work: Callable[[], object]) -> float:
    """Milliseconds on the device."""
    begin, end = device.xp.cuda.Event(), device.xp.cuda.Event()
    begin.record()
    work()
    end.record()
    end.synchronize()
    return float(device.xp.cuda.get_elapsed_time(begin, end))


def median(device: Cuda, work: Callable[[], object]) -> float:
    work()
    return statistics.median(elapsed(device, work) for _ in range(ROUNDS))


def bandwidth(device: Cuda) -> float:
    """Bytes read and written per second by a copy."""
    a = device.xp.zeros(1 << 30, np.uint8)
    b = device.xp.empty_like(a)
    return 2 * a.nbytes / median(device, lambda: device.xp.copyto(b, a)) * 1e3


def stages(n_angles: int, n: int) -> None:
    """Milliseconds per slice of every stage, and what part of the bandwidth it reaches."""
    device = Timed()
    engine, loaded = prepared(device, n_angles, 8, n, Scaling(-1.0, 1e-4))
    engine.compute(loaded, 0, 8)
    device.milliseconds.clear()
    rounds = 5
    for _ in range(rounds):
        engine.compute(loaded, 0, 8)
    most = bandwidth(device)
    length = engine._plan.length
    size = engine._transform._size
    samples, padded, grid = n_angles * n, n_angles * length, size * size
    moved = {  # bytes per slice: a pair shares its complex numbers
        "line_integrals": 2 * samples + 4 * samples,
        "group_means": 4 * samples,
        "pack": 4 * samples + 4 * padded,
        "FFT of rows": 8 * padded,
        "filter_rows": 4 * padded + 4 * padded + padded,
        "FFT of grids": 16 * grid,
        "crop": 4 * n * n + 4 * n * n,
        "encode": 6 * n * n,
    }
    print(
        f"  {n_angles} angles, {n} columns, grid {size}: milliseconds per slice (part of {most / 1e12:.2f} TB/s)"
    )
    for name, spent in device.milliseconds.items():
        each = spent / 8 / rounds
        part = f"  {moved[name] / (each * 1e-3) / most:.2f}" if name in moved else ""
        print(f"    {name:20s} {each:7.4f}{part}")
    print(f"    {'all':20s} {sum(device.milliseconds.values()) / 8 / rounds:7.4f}", flush=True)


def prepared(device: Cuda, n_angles: int, n_rows: int, n: int, scaling: Scaling | None):
    rng = np.random.default_rng(1)
    block = Block(
        rng.integers(1000, 5000, (n_angles, n_rows, n), dtype=np.uint16),
        np.full((10, n_rows, n), 6000, np.uint16),
        np.full((10, n_rows, n), 100, np.uint16),
    )
    plan = FourierPlan(
        angles=np.arange(n_angles) * (np.pi / n_angles), n_columns=n, center=n / 2 + 3.3, filter_name="ram-lak",
        padding="edge", padding_factor=2.0, tolerance=1e-4,
    )  # fmt: skip
    engine = DeviceEngine(device, plan, PREPARATION, scaling, n_rows)
    return engine, engine.load(block)


def resident(n_angles: int, n_rows: int, n: int) -> None:
    """All slices, from counts to float32, from and to the device's memory: seconds of wall clock.

    Where input and output do not fit together, as many rows as do, and the time for all by proportion.
    """
    device = Cuda()
    rows = min(n_rows, 128)
    engine, loaded = prepared(device, n_angles, rows, n, None)
    engine.compute(loaded, 0, min(rows, 8))
    out = device.xp.empty((rows, n, n), np.float32)
    spent = []
    for _ in range(3):
        device.synchronize()
        start = time.perf_counter()
        for _ in range(-(-n_rows // rows)):
            engine.project(loaded, 0, rows, out)
        device.synchronize()
        spent.append((time.perf_counter() - start) * n_rows / (rows * -(-n_rows // rows)))
    print(
        f"  {n_angles} x {n_rows} x {n}: all slices on the device {statistics.median(spent):.3f} s",
        flush=True,
    )


def direct(n_angles: int, n: int) -> None:
    """Updates per second: voxels times angles."""
    device = Cuda()
    angles = np.arange(n_angles) * (np.pi / n_angles)
    for dtype, k in ((np.float32, 4), (np.float16, 8)):
        rows = device.xp.zeros((4, n_angles, 2 * n, k), dtype)
        out = device.xp.empty((4 * k, n, n), np.float32)
        spent = median(
            device, lambda rows=rows, out=out: backproject(device, rows, angles, out, center=n / 2)
        )
        rate = 4 * k * n * n * n_angles / spent * 1e3
        print(
            f"  direct, {np.dtype(dtype).name}: {spent / 4 / k:.3f} ms per slice, {rate / 1e12:.2f}e12 updates/s",
            flush=True,
        )


def files(n_angles: int, n_rows: int, n: int, folder: Path, dtype: str) -> None:
    """From an HDF5 file to a durable volume, and a plain write of as many bytes."""
    path = folder / "scan.h5"
    if not path.exists():
        write_input(path, n_angles, n_rows, n)
    parameters = write_parameters(
        folder / "parameters.json",
        str(path),
        center=n / 2,
        output_dtype=dtype,
        output_minimum=-1e4,
        output_maximum=1e4,
    )
    resources = Resources(threads=len(os.sched_getaffinity(0)), device=Cuda())
    size = n_rows * n * n * (2 if dtype == "uint16" else 4)
    spent, written = [], []
    for turn in range(2):
        out = folder / f"out-{turn}"
        out.mkdir()
        start = time.perf_counter()
        job = RowsJob(scan="s", parameters=parameters, output=str(out), first=0, end=n_rows)
        outcome = run_rows(job, resources, lambda phase, done: None)
        spent.append(time.perf_counter() - start)
        with h5py.File(out / NAME) as file:
            assert file[DATASET].shape == (n_rows, n, n)
        shutil.rmtree(out)
        written.append(plain_write(folder / "plain", size))
        phases = {name: round(seconds, 2) for name, seconds in outcome.seconds.items()}
        print(
            f"  {n_angles} x {n_rows} x {n} to {dtype}: {spent[-1]:.2f} s {phases}; plain {written[-1]:.2f} s",
            flush=True,
        )
    print(f"    ratio to the write {min(spent) / min(written):.2f}")


def plain_write(path: Path, size: int) -> float:
    """Seconds to allocate and write so many bytes past the page cache, 256 MB at a time, durably."""
    import mmap

    piece = mmap.mmap(-1, 256 << 20)
    piece.write(os.urandom(1 << 20) * 256)
    start = time.perf_counter()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
    os.posix_fallocate(handle, 0, size)
    for position in range(0, size - size % 4096, 256 << 20):
        os.pwrite(handle, memoryview(piece)[: min(256 << 20, size - size % 4096 - position)], position)
    os.fsync(handle)
    os.close(handle)
    spent = time.perf_counter() - start
    path.unlink()
    return spent


def write_input(path: Path, n_angles: int, n_rows: int, n: int) -> None:
    """A DataExchange file of noise, as the small scans of the tests."""
    rng = np.random.default_rng(1)
    with h5py.File(path, "w") as file:
        data = file.create_dataset("exchange/data", (n_angles, n_rows, n), np.uint16)
        frame = rng.integers(1000, 5000, (n_rows, n), dtype=np.uint16)
        for i in range(n_angles):
            data[i] = np.roll(frame, 17 * i, axis=1)
        file["exchange/data_white"] = np.full((10, n_rows, n), 6000, np.uint16)
        file["exchange/data_dark"] = np.full((10, n_rows, n), 100, np.uint16)
        file["exchange/theta"] = np.arange(n_angles) * (180 / n_angles)
        file["exchange/theta"].attrs["units"] = "deg"


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--geometry", nargs="+", default=["250x1007x2000", "1800x2048x2048"])
    parser.add_argument("--files", action="store_true", help="from file to file as well")
    parser.add_argument("--folder", help="where files are made")
    options = parser.parse_args()
    print(Cuda().name)
    for geometry in options.geometry:
        n_angles, n_rows, n = map(int, geometry.split("x"))
        stages(n_angles, n)
        direct(n_angles, n)
        resident(n_angles, n_rows, n)
        if options.files:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                for dtype in ("uint16", "float32"):
                    files(n_angles, n_rows, n, Path(folder), dtype)


if __name__ == "__main__":
    main()
