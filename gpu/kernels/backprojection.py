"""Direct back-projection on a device; the kernel is in `backproject.cu`, its twin for the CPU in `gpu.direct`."""

import numpy as np
from numpy.typing import NDArray

from gpu.array import Array
from gpu.kernels.device import Device, Kernel


def backproject(
    device: Device,
    rows: Array,
    angles: NDArray[np.float64],
    slices: Array,
    *,
    center: float,
    first: tuple[int, int] = (0, 0),
    n: int | None = None,
) -> None:
    """Sum over all angles of the rows' values at every pixel, linearly interpolated.

    Parameters
    ----------
    device
        Where all arrays lie but `angles`.
    rows
        (n_groups, n_angles, length, k), float32 or float16: k filtered rows side by side, periodic in `length`.
    angles
        (n_angles,), radian.
    slices
        (n_rows, n_y, n_x), float32, written: the pixels from `first` on of slices of n x n.
    center
        Column of the axis.
    first
        Column and row of the first pixel that is wanted.
    n
        Side of the whole slices; by default that of `slices`.

    """
    n_groups, n_angles, length, k = rows.shape
    n_rows, n_y, n_x = slices.shape
    views = np.stack([np.cos(angles), np.sin(angles), np.full(n_angles, center % length)], axis=1)
    macros: dict[str, int] = {"SLICES": k} | ({"HALF": 1} if rows.dtype == np.float16 else {})
    device.launch(
        Kernel("backproject.cu", "backproject", (16, 16, 1), **macros),
        (n_x, n_y, n_groups),
        rows, device.xp.asarray(views.astype(np.float32)), slices,
        n_rows, n_angles, length, n or n_x, first[0], first[1], n_x, n_y,
    )  # fmt: skip
