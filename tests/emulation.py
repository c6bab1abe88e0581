"""The CUDA kernels on the CPU: the same source, compiled with g++ behind a few definitions, thread after thread.

Kernels that need the threads of a block at the same time (`__syncthreads`, shared memory) are not for this.
"""

import ctypes
import hashlib
import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import needs
import numpy as np
import scipy.fft

_SHIM = r"""
#include <algorithm>
#include <cmath>
#include <cstdint>
#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
struct uint3 { unsigned x, y, z; };
static uint3 threadIdx, blockIdx, blockDim, gridDim;
struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
typedef _Float16 __half;
static inline float __ldg(const float *p) { return *p; }
static inline unsigned atomicAdd(unsigned *p, unsigned v) { unsigned old = *p; *p += v; return old; }
using std::min; using std::max;
"""

_SIGNATURE = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\) )?(\w+)\(([^)]*)\)\s*\{')


class Emulated:
    """A `Device` whose arrays are numpy's."""

    xp = np
    name = "emulated"
    out_of_memory = MemoryError

    def launch(self, kernel: Any, threads: tuple[int, ...], *arguments: Any) -> None:
        library = _library(kernel.source(), tuple(sorted(kernel.macros.items())))
        function = getattr(library, f"run_{kernel.name}")
        shape = [ctypes.c_uint(n) for n in (*kernel.grid(threads), *kernel.block)]
        function(*shape, *map(_as_c, arguments))

    def transform(self, array: np.ndarray, *, axes: tuple[int, ...], inverse: bool) -> None:
        done = (
            scipy.fft.ifftn(array, axes=axes, norm="forward") if inverse else scipy.fft.fftn(array, axes=axes)
        )
        array[...] = done

    def host_array(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return np.empty(shape, dtype)

    def download(self, array: np.ndarray, out: np.ndarray) -> None:
        out[...] = array

    def synchronize(self) -> None:
        pass

    def free_unused(self) -> None:
        pass


def _as_c(value: Any) -> Any:
    if value is None:
        return ctypes.c_void_p(None)
    if isinstance(value, np.ndarray):
        assert value.flags.c_contiguous
        return ctypes.c_void_p(value.ctypes.data)
    if isinstance(value, np.float64):
        return ctypes.c_double(value)
    if isinstance(value, int | np.integer):
        return ctypes.c_int(int(value))
    return ctypes.c_float(float(value))


@cache
def _library(source: str, macros: tuple[tuple[str, Any], ...]) -> ctypes.CDLL:
    definitions = "".join(f"#define {name} {value}\n" for name, value in macros)
    runners = "".join(_runner(name, parameters) for name, parameters in _SIGNATURE.findall(source))
    text = _SHIM + definitions + source.replace("#include <cuda_fp16.h>", "") + runners
    folder = Path(tempfile.gettempdir()) / "srctd-emulated-kernels"
    folder.mkdir(exist_ok=True)
    built = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.so"
    if not built.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            code = Path(scratch) / "kernels.cpp"
            code.write_text(text)
            subprocess.run(
                [
                    needs.program("g++"),
                    "-std=c++17",
                    "-O2",
                    "-mfma",
                    "-ffp-contract=off",
                    "-shared",
                    "-fPIC",
                    "-o",
                    f"{scratch}/k.so",
                    str(code),
                ],
                check=True,
            )
            Path(scratch, "k.so").rename(built)
    return ctypes.CDLL(str(built))


def _runner(name: str, parameters: str) -> str:
    names = ", ".join(re.findall(r"(\w+)\s*(?:,|$)", parameters))
    loops = "".join(
        f"for ({index}.{axis} = 0; {index}.{axis} < {limit}.{axis}; ++{index}.{axis}) "
        for index, limit in (("blockIdx", "gridDim"), ("threadIdx", "blockDim"))
        for axis in "zyx"
    )
    return (
        f'extern "C" void run_{name}(unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,'
        f" {parameters}) {{ gridDim = {{gx, gy, gz}}; blockDim = {{bx, by, bz}}; {loops} {name}({names}); }}\n"
    )
