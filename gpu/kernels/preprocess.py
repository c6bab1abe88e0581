"""Line integrals and stripes on a device; the kernels are in `preprocess.cu`."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpu.array import Array
from gpu.kernels.device import Device, Kernel

_COUNTS = {
    "uint8": "unsigned char",
    "int8": "signed char",
    "uint16": "unsigned short",
    "int16": "short",
    "uint32": "unsigned int",
    "int32": "int",
    "float32": "float",
}
"""Types of counts that the kernel takes as they are; any other is rounded to float32 before."""

_WIDE = (256, 1, 1)
_MAD = 1.4826
_MEDIAN_NOISE = 1.2533


class Counts(NamedTuple):
    """Projections on a device and what turns them into line integrals; (..., n_rows, n_columns) all."""

    projections: Array
    dark: Array
    span: Array
    """Mean flat - mean dark."""
    neighbors: tuple[Array | None, Array | None, Array | None]
    """The good columns to the left and right of each, and the right one's share; nothing where all are good."""

    @classmethod
    def of(
        cls,
        device: Device,
        projections: Array,
        dark: Array,
        span: Array,
        bad: NDArray[np.bool_],
        *,
        repair: bool,
    ) -> "Counts":
        """All on the device but `bad`: columns to interpolate, or to set to 0 unless `repair`."""
        if projections.dtype.name not in _COUNTS:
            projections = projections.astype(np.float32)
        none: tuple[Array | None, Array | None, Array | None] = (None, None, None)
        if bad.any():
            left, right, share = (device.xp.asarray(a) for a in _neighbors(bad, repair))
            none = (left, right, share)
        return cls(projections, dark, span, none)


def line_integrals(
    device: Device, counts: Counts, first: int, end: int, minimum_transmission: float
) -> Array:
    """Sinograms (end - first, n_angles, n_columns), float32, of some of the rows; see `gpu.normalize`."""
    n_angles, rows_there, n_columns = counts.projections.shape
    out: Array = device.xp.empty((end - first, n_angles, n_columns), np.float32)
    device.launch(
        _kernel("line_integrals", COUNT=_COUNTS[counts.projections.dtype.name]),
        (n_columns, n_angles, end - first),
        counts.projections, counts.dark, counts.span, *counts.neighbors, out,
        n_angles, rows_there, first, n_columns, float(minimum_transmission),
    )  # fmt: skip
    return out


def stripes(device: Device, sinograms: Array, *, size: int, threshold: float, groups: int) -> Array:
    """Offset of each column that is a stripe, 0 elsewhere, (n_rows, n_columns); see `gpu.stripes`."""
    xp = device.xp
    n_rows, n_angles, n_columns = sinograms.shape
    if n_angles < groups:
        none: Array = xp.zeros((n_rows, n_columns), np.float32)
        return none
    means = xp.empty((n_rows, groups, n_columns), np.float32)
    device.launch(
        _kernel("group_means"), (n_columns, groups, n_rows), sinograms, means, n_angles, n_columns, groups
    )
    over = xp.empty_like(means)
    half = min(size // 2, n_columns - 1)
    device.launch(_kernel("over_neighbors"), (n_columns, n_rows * groups, 1), means, over, n_columns, half)
    offset = xp.empty((n_rows, n_columns), np.float32)
    scatter = xp.empty_like(offset)
    device.launch(
        _kernel("center_and_scatter"), (n_columns, n_rows, 1), over, offset, scatter, n_columns, groups
    )
    own = scatter * np.float32(_MAD * _MEDIAN_NOISE / np.sqrt(groups))
    usual = np.float32(_MAD) * xp.median(xp.abs(offset), axis=1, keepdims=True)
    found: Array = xp.where(
        xp.abs(offset) > np.float32(threshold) * xp.maximum(own, usual), offset, np.float32(0)
    )
    return found


def _kernel(name: str, **macros: str) -> Kernel:
    return Kernel("preprocess.cu", name, _WIDE, **{"COUNT": "float", **macros})


def _neighbors(
    bad: NDArray[np.bool_], repair: bool
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    """Good columns to the left and right of every column, and the right one's share; -1 where there is none."""
    n = bad.shape[1]
    columns = np.broadcast_to(np.arange(n), bad.shape)
    if not repair:
        own = np.where(bad, -1, columns).astype(np.int32)
        return own, own, np.zeros(bad.shape, np.float32)
    left = np.maximum.accumulate(np.where(bad, -1, columns), axis=1)
    right = np.minimum.accumulate(np.where(bad, n, columns)[:, ::-1], axis=1)[:, ::-1]
    left, right = np.where(left < 0, right, left), np.where(right == n, left, right)
    share = np.clip((columns - left) / np.maximum(right - left, 1), 0, 1)
    none = left == n
    return (
        np.where(none, -1, left).astype(np.int32),
        np.where(none, -1, right).astype(np.int32),
        share.astype(np.float32),
    )
