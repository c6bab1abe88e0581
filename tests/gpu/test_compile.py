"""Every kernel compiles for the devices it is for, by the compiler that cupy uses; no GPU is needed."""

import ctypes
from importlib.util import find_spec
from pathlib import Path

import needs
import pytest

import gpu.kernels

KERNELS = Path(gpu.kernels.__file__).parent
MACROS = {
    "fourier.cu": [("SLICES=4",), ("SLICES=2",), ("SLICES=1",)],
    "backproject.cu": [("SLICES=4",), ("SLICES=8", "HALF=1")],
    "preprocess.cu": [("COUNT=unsigned short",), ("COUNT=float",)],
    "voxels.cu": [()],
}


def _toolkit() -> Path:
    spec = find_spec("nvidia")
    for place in spec.submodule_search_locations or () if spec else ():
        if (Path(place) / "cu13" / "lib" / "libnvrtc.so.13").exists():
            return Path(place) / "cu13"
    needs.missing("NVRTC is not installed")
    raise AssertionError


@pytest.fixture(scope="module")
def toolkit() -> tuple[ctypes.CDLL, Path]:
    folder = _toolkit()
    for builtins in folder.glob("lib/libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(folder / "lib" / "libnvrtc.so.13")), folder / "include"


def test_every_file_is_compiled_here() -> None:
    assert {path.name for path in KERNELS.glob("*.cu")} == set(MACROS)


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize(("file", "macros"), [(file, m) for file, each in MACROS.items() for m in each])
def test_it_compiles(toolkit, file: str, macros: tuple[str, ...], target: str) -> None:
    nvrtc, include = toolkit
    program = ctypes.c_void_p()
    source = (KERNELS / file).read_bytes()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, file.encode(), 0, None, None) == 0
    options = [f"-arch={target}", "--std=c++17", f"-I{include}", *(f"-D{macro}" for macro in macros)]
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    status = nvrtc.nvrtcCompileProgram(program, len(options), given)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    said = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, said)
    assert status == 0, said.value.decode()
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    assert size.value > 1000
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
