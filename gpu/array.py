"""Arrays on host and device: the one door to cupy beside `kernels.device`.

The algorithms ask an array for its own module (``xp``) and so are written once. A machine without cupy never
imports it: an array can only come from cupy where something has imported it already.
"""

import sys
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
"""A numpy array, or a cupy array behind the same interface."""


def array_module(a: object) -> ModuleType:
    """The module whose functions work on `a`: cupy for its arrays, numpy for everything else."""
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(a, cupy.ndarray):
        return cupy
    return np


def to_host(a: Array) -> Array:
    """`a` as a numpy array; copied only from a device."""
    if array_module(a) is np:
        return np.asarray(a)
    host: Array = a.get()  # type: ignore[attr-defined]
    return host


def to_device(a: Array, xp: ModuleType) -> Array:
    """`a` as an array of the module `xp`; copied only where it lies elsewhere."""
    if xp is np:
        return to_host(a)
    there: Array = xp.asarray(a)
    return there
