"""Measures on raw frames, sinograms and slices. What they mean for people is said by `srctd.core.quality`."""

from collections.abc import Sequence

import numpy as np

from gpu.array import Array
from gpu.normalize import Reference
from gpu.stripes import offsets
from srctd.core.messages import Measure

AIR_WIDTH = 0.02
"""Fraction of the columns at either side where air is looked for."""

RING_SIZE = 9
"""Neighborhood of the ring score, pixel."""


OUTLIERS = 1e-4
"""Part of the voxels at either end that do not count for the span of a slice: single hot ones."""


def of_frames(projections: Array, flats: Array, darks: Array) -> tuple[Measure, ...]:
    """Measures of raw frames, each (n_frames, n_rows, n_columns), in the order of the scan; some are enough.

    Raises `ReconstructionFailed` where there is no flat field.
    """
    reference = Reference(flats, darks)
    good = ~reference.bad
    measures = {
        "flat_frames": (float(len(flats)), ""),
        "dark_frames": (float(len(darks)), ""),
        "dead_pixel_fraction": (float(reference.bad.mean()), ""),
        "saturated_fraction": (max(_saturated(projections), _saturated(flats)), ""),
        "not_finite_fraction": (float((~np.isfinite(projections)).mean()), ""),
    }
    if good.any():
        measures["flat_counts"] = (float(np.median(reference.span[good])), "count")
        level = np.nanmean(flats[:, good] - reference.dark[good], axis=1)
        measures["flat_drift"] = (float(level[-1] / level[0] - 1), "")
        # Pixel by pixel the transmission of a dead pixel is nothing; its weight is 0.
        with np.errstate(invalid="ignore"):
            transmission = (projections - reference.dark) / reference.span
        transmission = np.where(good & np.isfinite(transmission), transmission, np.nan)
        measures["mean_transmission"] = (float(np.nanmean(transmission)), "")
        air = _air(transmission)
        if len(air):
            tenth = max(1, len(air) // 10)
            measures["air_transmission"] = (float(np.median(air)), "")
            measures["air_drift"] = (float(np.mean(air[-tenth:]) / np.mean(air[:tenth]) - 1), "")
    return tuple(Measure(name=name, value=value, unit=unit) for name, (value, unit) in measures.items())


def of_rings(before: Array, after: Array) -> tuple[Measure, ...]:
    """How much columns of sinograms stand out of their neighbors, before and after the removal of rings.

    Sinograms (n_rows, n_angles, n_columns). Root mean square of the offsets, in line integrals.
    """
    return (
        Measure(name="ring_score_before", value=ring_score(before)),
        Measure(name="ring_score_after", value=ring_score(after)),
    )


def of_slices(slices: Array) -> tuple[Measure, ...]:
    """Fraction of finite values in slices of any shape."""
    return (Measure(name="finite_fraction", value=float(np.isfinite(slices).mean())),)


def span(slices: Sequence[Array]) -> tuple[float, float]:
    """From where to where values of slices reach, but for one in ten thousand at either end; zeros without any."""
    values = np.concatenate([one[np.isfinite(one)] for one in slices])
    low, high = np.quantile(values, (OUTLIERS, 1 - OUTLIERS)) if len(values) else (0.0, 0.0)
    return float(low), float(high)


def ring_score(sinograms: Array) -> float:
    """Root mean square over all columns of what stands out at every angle, in line integrals."""
    standing = [np.median(offsets(sinogram, RING_SIZE), axis=0) for sinogram in sinograms]
    return float(np.sqrt(np.mean(np.square(standing))))


def _saturated(frames: Array) -> float:
    """Fraction of pixels at the largest value their type can hold; 0 for floats, where it is unknown."""
    if not np.issubdtype(frames.dtype, np.integer):
        return 0.0
    return float((frames == np.iinfo(frames.dtype).max).mean())


def _air(transmission: Array) -> Array:
    """Transmission beside the sample, per projection: of the brighter side, the median over rows and columns."""
    width = max(2, round(AIR_WIDTH * transmission.shape[2]))
    sides = [transmission[:, :, :width], transmission[:, :, -width:]]
    known = [side for side in sides if np.isfinite(side).any(axis=(1, 2)).all()]
    if not known:
        return np.empty(0)
    air: Array = np.max([np.nanmedian(side, axis=(1, 2)) for side in known], axis=0)
    return air
