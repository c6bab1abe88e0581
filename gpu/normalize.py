"""From detector counts to line integrals: -log((projection - dark) / (flat - dark)).

The sign goes into the fraction, log((flat - dark) / (projection - dark)), which spares a pass over the data; the
lower limit of the transmission becomes one of the counts. Rows are worked on in blocks that stay in cache.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from gpu.array import Array, array_module, to_host
from srctd.core.errors import ReconstructionFailed

WEAK = 0.01
"""A pixel that responds less than this fraction of its row's median is taken for dead: what it says is noise."""

_BLOCK_PIXELS = 1 << 16
"""Pixels worked on at once: 256 KiB of float32, which a core's own cache holds."""

_PROBES = 16
"""Projections looked at to find pixels that may be stuck; those found are then checked in all projections."""


class Sinograms(NamedTuple):
    """Line integrals and what had to be mended for them."""

    sinograms: Array
    """(n_rows, n_angles, n_columns), float32, C-contiguous, finite."""
    repaired_fraction: float
    """Fraction of the detector pixels that are dead or stuck, repaired or not; 0 to 1."""


class Reference:
    """Flat and dark fields of a block of rows, ready to use.

    `dark` and `span` (mean flat - mean dark), float32, shape (n_rows, n_columns); `bad`, bool, the same shape:
    pixels that do not respond, where `span` is 1.
    """

    def __init__(self, flats: Array, darks: Array) -> None:
        """Average the frames, each (n_frames, n_rows, n_columns).

        No darks mean a dark field of 0. Raises `ReconstructionFailed` where there is no flat field.
        """
        xp = array_module(flats)
        if len(flats) == 0:
            raise ReconstructionFailed(
                "the scan has no flat field, so its projections cannot be normalized",
                hint="record flat fields, or name a scan that has them",
            )
        flat = flats.mean(axis=0, dtype=np.float64)
        dark = darks.mean(axis=0, dtype=np.float64) if len(darks) else xp.zeros_like(flat)
        span = flat - dark
        finite = xp.isfinite(span)
        some = xp.where(finite.any(axis=1, keepdims=True), xp.where(finite, span, np.nan), 0)
        floor = WEAK * xp.maximum(xp.nanmedian(some, axis=1, keepdims=True), 0)
        self.bad = ~(finite & (span > floor))
        self.dark = xp.where(self.bad, 0, dark).astype(np.float32)
        self.span = xp.where(self.bad, 1, span).astype(np.float32)


def to_sinograms(
    projections: Array,
    flats: Array,
    darks: Array,
    *,
    minimum_transmission: float,
    repair_dead_pixels: bool,
    workers: int = 1,
) -> Sinograms:
    """Line integrals of a block of detector rows, one sinogram per row.

    Parameters
    ----------
    projections, flats, darks
        (n_frames, n_rows, n_columns), any real dtype; there may be no darks.
    minimum_transmission
        Smaller transmissions are set to it.
    repair_dead_pixels
        Interpolate pixels that never respond, are stuck or not finite linearly between the nearest good ones of
        their row (a row without any gives zeros); otherwise their line integral is 0.
    workers
        Threads; rows are independent, so the result does not depend on it.

    Raises
    ------
    ReconstructionFailed
        There is no flat field.

    """
    xp = array_module(projections)
    n_angles, n_rows, n_columns = projections.shape
    reference = Reference(flats, darks)
    bad = to_host(reference.bad | stuck(projections))
    out = xp.empty((n_rows, n_angles, n_columns), np.float32)
    may_be_infinite = not np.issubdtype(projections.dtype, np.integer)

    def row(r: int) -> None:
        _line_integrals(projections[:, r], reference, r, minimum_transmission, out[r])
        if may_be_infinite:
            _mend_samples(out[r])
        if bad[r].any():
            _mend_columns(out[r], bad[r], repair_dead_pixels)

    if workers > 1 and xp is np:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(row, range(n_rows)))
    else:
        for r in range(n_rows):
            row(r)
    return Sinograms(out, float(bad.mean()) if bad.size else 0.0)


def _line_integrals(frames: Array, reference: Reference, row: int, minimum: float, out: Array) -> None:
    """One row: frames (n_angles, n_columns) to `out`, float32, the same shape."""
    xp = array_module(frames)
    dark, span = reference.dark[row], reference.span[row]
    floor = span * np.float32(minimum)
    height = max(1, _BLOCK_PIXELS // frames.shape[1])
    # Floats that are not finite pass through here and are mended afterwards.
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for first in range(0, len(frames), height):
            block = out[first : first + height]
            xp.subtract(frames[first : first + height], dark, out=block, dtype=np.float32, casting="unsafe")
            xp.maximum(block, floor, out=block)
            xp.divide(span, block, out=block)
            xp.log(block, out=block)


def stuck(projections: Array) -> Array:
    """Pixels with one and the same value in every projection, though both their neighbors in the row vary.

    The neighbors tell a stuck pixel from air in data without noise. Shape (n_rows, n_columns), bool.
    """
    xp = array_module(projections)
    n_angles, n_rows, n_columns = projections.shape
    stuck: Array = xp.zeros((n_rows, n_columns), bool)
    if n_angles < _PROBES or n_columns < 3:
        return stuck
    probes = projections[:: n_angles // _PROBES]
    constant = (probes[1:] == probes[0]).all(axis=0)
    stuck[:, 1:-1] = constant[:, 1:-1] & ~constant[:, :-2] & ~constant[:, 2:]
    rows, columns = xp.nonzero(stuck)
    if len(rows):
        values = projections[:, rows, columns]
        stuck[rows, columns] = (values == values[0]).all(axis=0)
    return stuck


def _mend_columns(sinogram: Array, bad: Array, repair: bool) -> None:
    """Replace bad columns of one sinogram (n_angles, n_columns), in place; `bad` lies on the host."""
    good = np.flatnonzero(~bad)
    wrong = np.flatnonzero(bad)
    if not repair or len(good) == 0:
        sinogram[:, wrong] = 0
        return
    after = np.searchsorted(good, wrong)
    left = good[np.maximum(after - 1, 0)]
    right = good[np.minimum(after, len(good) - 1)]
    share = np.where(right > left, (wrong - left) / np.maximum(right - left, 1), 0).astype(np.float32)
    weight = array_module(sinogram).asarray(share)
    sinogram[:, wrong] = sinogram[:, left] * (1 - weight) + sinogram[:, right] * weight


def _mend_samples(sinogram: Array) -> None:
    """Interpolate single samples that are not finite (NaN or infinite counts) along the row, in place."""
    xp = array_module(sinogram)
    wrong = ~xp.isfinite(sinogram)
    if not wrong.any():
        return
    wrong = to_host(wrong)
    for angle in np.flatnonzero(wrong.any(axis=1)):
        _mend_columns(sinogram[angle : angle + 1], wrong[angle], repair=True)
