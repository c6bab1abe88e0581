"""What is told and stored of slices on a device; the kernel is in `voxels.cu`."""

import numpy as np

from gpu.array import Array
from gpu.kernels.device import Device, Kernel

_ENCODE = Kernel("voxels.cu", "encode", (256, 1, 1))
_PER_THREAD = 16


def encode(
    device: Device, values: Array, stored: Array, *, offset: float, scale: float, maximum: float
) -> Array:
    """Write the integers that stand for `values` to `stored`, uint16 of the same shape.

    Returns an array of one number, uint32: how many values the integers cannot say.
    """
    clipped: Array = device.xp.zeros(1, np.uint32)
    n = int(values.size)
    device.launch(
        _ENCODE, (-(-n // _PER_THREAD), 1, 1),
        values, stored, clipped, np.float64(offset), np.float64(scale), np.float64(maximum), n,
    )  # fmt: skip
    return clipped
