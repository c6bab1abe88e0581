"""CUDA devices: arrays, FFTs and the kernels of this folder, compiled once per process and set of definitions."""

import contextlib
import math
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpu.array import Array
from srctd.core.errors import TransientError

_HERE = Path(__file__).parent
Extent = tuple[int, ...]


class Device(Protocol):
    """What the algorithms need of a device: the GPU, or in tests its emulation on the CPU."""

    xp: ModuleType
    """The module of its arrays: cupy."""

    name: str
    """For people."""

    def launch(self, kernel: "Kernel", threads: Extent, *arguments: Any) -> None:
        """Run a kernel over at least so many threads (x, y, z), in the order of the calls."""

    def transform(self, array: Array, *, axes: Extent, inverse: bool) -> None:
        """Discrete Fourier transform of a complex64 array in place, without a factor."""

    def host_array(self, shape: Extent, dtype: DTypeLike) -> NDArray[Any]:
        """An array on the host, page-aligned, to which the device copies at full speed."""

    def download(self, array: Array, out: NDArray[Any]) -> None:
        """Copy to the host; the copy is there when this returns."""

    def synchronize(self) -> None:
        """Wait for what this thread has asked for."""

    def free_unused(self) -> None:
        """Give memory back that no array holds."""

    @property
    def out_of_memory(self) -> type[Exception]:
        """What is raised where the device's memory does not suffice."""


class Kernel:
    """A kernel in one of the files of this folder, with values for its macros."""

    def __init__(self, file: str, name: str, block: Extent = (256, 1, 1), **macros: int | str) -> None:
        """`block`: threads per block, (x, y, z)."""
        self.file, self.name, self.block, self.macros = file, name, block, macros

    def source(self) -> str:
        """The text of its file."""
        return (_HERE / self.file).read_text()

    def grid(self, threads: Extent) -> Extent:
        """Blocks for at least so many threads."""
        return tuple(math.ceil(n / b) for n, b in zip(threads, self.block, strict=True))


class Cuda:
    """The GPU that is current in this process."""

    def __init__(self) -> None:
        """Raises `ImportError` where cupy is not installed."""
        import cupy  # type: ignore[import-not-found,unused-ignore]
        from cupyx.scipy.fftpack import get_fft_plan  # type: ignore[import-not-found,unused-ignore]

        self.xp: ModuleType = cupy
        self._new_plan = get_fft_plan
        self._plans: dict[tuple[Extent, Extent], Any] = {}
        self.name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
        self.out_of_memory: type[Exception] = cupy.cuda.memory.OutOfMemoryError

    def launch(self, kernel: Kernel, threads: Extent, *arguments: Any) -> None:
        """See `Device`. On the current stream."""
        function = _function(kernel.file, kernel.name, tuple(sorted(kernel.macros.items())))
        function(kernel.grid(threads), kernel.block, tuple(map(_as_c, arguments)))

    def transform(self, array: Array, *, axes: Extent, inverse: bool) -> None:
        """See `Device`. Plans are kept, with their work areas."""
        key = (array.shape, axes)
        if key not in self._plans:
            self._plans[key] = self._new_plan(array, axes=axes)
        cufft = self.xp.cuda.cufft
        self._plans[key].fft(array, array, cufft.CUFFT_INVERSE if inverse else cufft.CUFFT_FORWARD)

    def host_array(self, shape: Extent, dtype: DTypeLike) -> NDArray[Any]:
        """See `Device`."""
        size = math.prod(shape)
        room = self.xp.cuda.alloc_pinned_memory(max(1, size * np.dtype(dtype).itemsize))
        return np.frombuffer(room, dtype, size).reshape(shape)

    def download(self, array: Array, out: NDArray[Any]) -> None:
        """See `Device`."""
        array.get(out=out)  # type: ignore[attr-defined]

    def free_unused(self) -> None:
        """See `Device`."""
        self._plans.clear()
        self.xp.get_default_memory_pool().free_all_blocks()

    def synchronize(self) -> None:
        """See `Device`."""
        self.xp.cuda.get_current_stream().synchronize()


def find(wanted: str) -> Device | None:
    """The device that computes slabs: none for `cpu`, a GPU for `gpu` or `TransientError`, either for `auto`.

    Which one, where there are several, is for CUDA_VISIBLE_DEVICES to say.
    """
    if wanted == "cpu":
        return None
    reason = "cupy is not installed"
    with contextlib.suppress(ImportError):
        import cupy

        try:
            if cupy.cuda.runtime.getDeviceCount():
                return Cuda()
            reason = "there is no device"
        except cupy.cuda.runtime.CUDARuntimeError as exc:
            reason = str(exc)
    if wanted == "gpu":
        raise TransientError(
            f"no GPU can be used: {reason}", hint="pip install 'srctd[gpu]' and a driver, or --device auto"
        )
    return None


def _as_c(value: Any) -> Any:
    """Kernels take int, float and pointers, and double where that is what numpy calls it."""
    if isinstance(value, np.float64):
        return value
    if isinstance(value, bool | int | np.integer):
        return np.int32(value)
    return np.float32(value) if isinstance(value, float | np.floating) else value


@cache
def _module(file: str, macros: tuple[tuple[str, int | str], ...]) -> Any:
    import cupy

    options = (
        "--std=c++17",
        "--extra-device-vectorization",
        *(f"-D{name}={value}" for name, value in macros),
    )
    path = _HERE / file
    return cupy.RawModule(code=f'#line 1 "{path}"\n{path.read_text()}', options=options)


@cache
def _function(file: str, name: str, macros: tuple[tuple[str, int | str], ...]) -> Any:
    return _module(file, macros).get_function(name)
