"""The rotation axis, found by estimators that do not share their weaknesses, and how sure they are together.

- *mirror*: a projection and the one half a turn later are mirror images; needs such pairs.
- *fourier*: a half turn continued by its own mirror image makes a full turn only about the right axis; about any
  other, energy appears where a full turn has none, at angular harmonics above radius times frequency (Vo,
  Drakopoulos, Atwood, Reinhard, Opt. Express 22, 19078, 2014, doi:10.1364/OE.22.019078); needs the sample inside
  the field of view.
- *moment*: the center of mass moves on a sinusoid about the axis; needs the same.
- *sharpness*: a wrong axis smears, so trial slices have the highest variance about the right one; decides between
  the candidates of the others and refines the best.

Mirror and fourier compare every position at once: a shift is a phase in Fourier space, so the agreement as a
function of the axis is a Fourier series, summed up by one FFT.

An estimator's score says how well the detector rows agree when each is asked alone.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from gpu.fourier import FourierFBP, FourierPlan
from gpu.geometry import step
from srctd.core.messages import AxisEstimate

RANGE = 0.42
"""The axis is looked for up to this fraction of the width off the middle."""

_WIDTH = 1024
"""Columns are binned to this many at most before the search, which resolves a sixteenth of a bin."""

_SLICE_WIDTH = 320
"""The same for trial slices, whose cost grows with the square."""

_SLICE_ANGLES = 240
"""Trial slices are made from this many angles at most."""

_REACH = 0.35
"""Radius of the sample in detector widths that *fourier* allows for."""

_DETAIL = 0.8
"""Frequency, radian per pixel, around which *mirror* compares; *fourier* uses those below."""

_MISSING = 0.1
"""Fraction of the half turn without which *fourier* abstains."""

_PAIRS = 64
"""Mirror pairs compared at most."""

_CHANGE, _LEVEL = 0.05, 0.2
"""Change and level of the rows' ends, as fractions of the rows' range, at which *fourier* and *moment* lose half of
their score: the sample seems to leave the field of view."""

_OVERSAMPLING = 8

Rows = NDArray[np.float32]
Angles = NDArray[np.float64]


class AxisResult(NamedTuple):
    """The axis and how it was found."""

    center: float
    """Column, pixel centers at integers."""
    confidence: float
    """0 to 1; below 0.5 somebody should look at the strip of trial slices."""
    estimates: tuple[AxisEstimate, ...]


def estimate(sinograms: Rows, angles: Angles) -> AxisResult:
    """Find the column of the rotation axis.

    Parameters
    ----------
    sinograms
        (n_rows, n_angles, n_columns), float32, finite: a few detector rows at different heights.
    angles
        (n_angles,), radian, in any order.

    Returns
    -------
    The axis; the middle of the detector with confidence 0 where no estimator finds anything.

    """
    n_columns = sinograms.shape[2]
    factor = max(1, -(-n_columns // _WIDTH))
    binned = _binned(sinograms, factor)
    rows, inside = _detrended(binned), _inside(binned)
    found = []
    for method, search, trust in (
        ("mirror", _mirror, 1.0),
        ("fourier", _fourier, inside),
        ("moment", _moment, inside),
    ):
        guesses = search(rows, angles) if rows.any() else None
        if guesses is not None:
            together, alone = guesses
            center = (together + 0.5) * factor - 0.5
            score = trust * _agreement(together, alone, rows.shape[2])
            found.append(AxisEstimate(method=method, center=center, score=score))
    sharpest = _sharpest(sinograms, angles, [e.center for e in found if _within(e.center, n_columns)])
    return _fused([*found, *sharpest], n_columns)


def strip(row: Rows, angles: Angles, centers: Sequence[float], *, width: int = 256) -> Rows:
    """Slices of one sinogram (n_angles, n_columns) about several axes, for the eye to compare.

    The sinogram is binned to at most `width` columns. Returns (n_centers, M, M), float32, attenuation per binned
    pixel; the axis is at the middle of each.
    """
    factor = max(1, -(-row.shape[1] // width))
    small = np.ascontiguousarray(_binned(row[None], factor))
    slices = np.empty((len(centers), small.shape[2], small.shape[2]), np.float32)
    for center, image in zip(centers, slices, strict=True):
        transform = _coarse(small, angles, (center + 0.5) / factor - 0.5, "shepp-logan")
        transform.reconstruct(small, image[None])
    return slices


# --- judging -----------------------------------------------------------------------------------------------------


def _fused(found: Sequence[AxisEstimate], n_columns: int) -> AxisResult:
    """The median, weighted by score, of those estimates that lie together and have the most score between them.

    Confidence: their share of all score, times the mean of the probabilities that at least one and that at
    least two of them are right, if each is right with its score as probability. A lone estimate gets half at
    most.
    """
    near = _near(n_columns)
    usable = sorted((e for e in found if _within(e.center, n_columns)), key=lambda e: e.center)
    groups = [[e for e in usable if abs(e.center - one.center) <= near] for one in usable]
    best = max(groups, key=lambda group: sum(e.score for e in group), default=[])
    weight = sum(e.score for e in best)
    if weight < 1e-6:
        return AxisResult((n_columns - 1) / 2, 0.0, tuple(found))
    # The weighted median, between estimates by linear interpolation of the weight below each one's own middle.
    scores = np.array([e.score for e in best])
    center = float(np.interp(weight / 2, np.cumsum(scores) - scores / 2, [e.center for e in best]))
    share = weight / sum(e.score for e in found)
    none = float(np.prod(1 - scores))
    just_one = sum(float(s * np.prod(np.delete(1 - scores, i))) for i, s in enumerate(scores))
    return AxisResult(center, share * (1 - none - just_one / 2), tuple(found))


def _near(n_columns: int) -> float:
    """Estimates closer than this agree, pixel."""
    return max(1.0, 0.004 * n_columns)


def _within(center: float, n_columns: int) -> bool:
    return abs(center - (n_columns - 1) / 2) <= RANGE * n_columns


def _agreement(together: float, alone: NDArray[np.float64], n_columns: int) -> float:
    """1 where the rows, each asked alone, find the same axis as all together; towards 0 where they scatter."""
    scatter = float(np.median(np.abs(alone - together))) if len(alone) > 1 else 0.5 * _near(n_columns)
    return float(1 / (1 + (scatter / _near(n_columns)) ** 2))


# --- preparing ---------------------------------------------------------------------------------------------------


def _binned(rows: Rows, factor: int) -> Rows:
    """Mean over `factor` neighboring columns; a remainder at the right end is dropped."""
    if factor == 1:
        return rows
    n = rows.shape[2] // factor
    binned: Rows = rows[:, :, : n * factor].reshape(*rows.shape[:2], n, factor).mean(axis=3)
    return binned


def _ends(rows: Rows) -> tuple[Rows, Rows]:
    """Mean of the first and of the last hundredth of every row's columns, (n_rows, n_angles, 1) each."""
    k = max(2, rows.shape[2] // 100)
    return rows[:, :, :k].mean(axis=2, keepdims=True), rows[:, :, -k:].mean(axis=2, keepdims=True)


def _detrended(rows: Rows) -> Rows:
    """Rows less the straight line between their ends: a beam that got weaker is no sample."""
    left, right = _ends(rows)
    across = np.linspace(0, 1, rows.shape[2], dtype=np.float32)
    return rows - (left * (1 - across) + right * across)


def _inside(rows: Rows) -> float:
    """1 where the sample stays inside the field of view, towards 0 where it does not; `rows` not detrended.

    Both give it away: ends of the rows that change while the sample turns, and ends far above 0.
    """
    ends = np.concatenate(_ends(rows), axis=2)
    extent = float(np.quantile(rows, 0.99) - np.quantile(rows, 0.01))
    if extent <= 0:
        return 0.0
    change = float(np.median(ends.std(axis=1).max(axis=1))) / extent
    level = float(np.median(np.abs(ends))) / extent
    return 1 / (1 + (change / _CHANGE) ** 2 + (level / _LEVEL) ** 2)


def _half_turn(rows: Rows, angles: Angles) -> tuple[Rows, float]:
    """The first half turn at even steps, interpolated between neighboring angles, and how much of it is missing."""
    order = np.argsort(angles, kind="stable")
    angles = angles[order]
    n = int(np.clip(round(np.pi / max(step(angles), 1e-9)), 2, len(angles)))
    wanted = angles[0] + np.arange(n) * np.pi / n
    after = np.clip(np.searchsorted(angles, wanted), 1, len(angles) - 1)
    before = after - 1
    gap = np.maximum(angles[after] - angles[before], 1e-12)
    share = np.clip((wanted - angles[before]) / gap, 0, 1)[:, None].astype(np.float32)
    even: Rows = rows[:, order[before]] * (1 - share) + rows[:, order[after]] * share
    away = np.minimum(np.abs(angles[before] - wanted), np.abs(angles[after] - wanted))
    return even, float((away > 1.5 * step(angles)).mean())


def _spectrum(rows: Rows) -> tuple[NDArray[np.complex64], NDArray[np.float64], int]:
    """FFT of the rows padded to twice their length, its frequencies in radian per pixel, and that length."""
    length = int(scipy.fft.next_fast_len(2 * rows.shape[2], real=True))
    spectrum = scipy.fft.rfft(rows, n=length, axis=2)
    return spectrum, 2 * np.pi * np.arange(spectrum.shape[2]) / length, length


# --- estimators: the axis of all rows together, and of each row alone --------------------------------------------

Guesses = tuple[float, NDArray[np.float64]]


def _mirror(rows: Rows, angles: Angles) -> Guesses | None:
    """Correlate projections with the mirrored ones half a turn later.

    Angles that stop one step short of a half turn have no such pair, but two that miss it by a step: their features
    lie on either side of where they should, which widens the peak and does not move it much. Farther off: None.
    """
    first, second = _opposite(angles)
    if len(first) == 0:
        return None
    spectrum, omega, length = _spectrum(rows)
    weight = (omega * np.exp(-((omega / _DETAIL) ** 2))) ** 2
    cross = (spectrum[:, first] * spectrum[:, second]).sum(axis=1) * weight
    return _peaks(cross, length, rows.shape[2])


def _opposite(angles: Angles) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """At most `_PAIRS` pairs of projections that are half a turn apart, as nearly as any are, spread over all."""
    turn = 2 * np.pi
    around = np.mod(angles, turn)
    order = np.argsort(around, kind="stable")
    once = around[order]
    several = np.concatenate([once - turn, once, once + turn])
    wanted = np.mod(around + np.pi, turn)
    at = np.searchsorted(several, wanted)
    miss = np.minimum(wanted - several[at - 1], several[at] - wanted).min()
    usual = step(angles)
    if miss > 1.2 * usual:
        return order[:0], order[:0]
    reach = max(miss, 0.5 * usual) + 1e-9
    low = np.searchsorted(several, wanted - reach, side="left")
    pairs = np.cumsum(np.searchsorted(several, wanted + reach, side="right") - low)
    keep = np.linspace(0, pairs[-1] - 1, min(int(pairs[-1]), _PAIRS)).astype(np.intp)
    first = np.searchsorted(pairs, keep, side="right")
    within = keep - np.concatenate([[0], pairs[:-1]])[first]
    return first, order[(low[first] + within) % len(order)]


def _fourier(rows: Rows, angles: Angles) -> Guesses | None:
    """The axis for which a half turn and its mirror image leave the least energy where a full turn has none."""
    half, missing = _half_turn(rows, angles)
    if missing > _MISSING:
        return None
    n = half.shape[1]
    spectrum, omega, length = _spectrum(half)
    reach = _REACH * rows.shape[2]
    used = np.flatnonzero((omega > 0) & (omega < _DETAIL) & (omega * reach < 0.9 * n))
    harmonic = np.fft.fftfreq(2 * n, 1 / (2 * n)).round()
    measured = scipy.fft.fft(spectrum[:, :, used], n=2 * n, axis=1)
    # The mirror image about column 0; about c it comes with the phase exp(-2 i omega c).
    mirrored = np.where(harmonic % 2 == 0, np.float32(1), np.float32(-1))[:, None] * np.conj(
        measured[:, -np.arange(2 * n)]
    )
    empty = np.abs(harmonic)[:, None] > omega[used] * reach + 2
    cross = np.zeros((len(rows), len(omega)), np.complex128)
    cross[:, used] = -(measured * np.conj(mirrored) * empty).sum(axis=1)
    return _peaks(cross, length, rows.shape[2])


def _moment(rows: Rows, angles: Angles) -> Guesses | None:
    """Fit center of mass = center + a cos t + b sin t, row by row."""
    mass = rows.sum(axis=2, dtype=np.float64)
    full = mass.min(axis=1) > 0.5 * mass.max(axis=1)  # the others are empty, or not all of them is seen
    if not full.any():
        return None
    tracks = (rows[full] @ np.arange(rows.shape[2], dtype=np.float64)) / mass[full]
    model = np.stack([np.ones_like(angles), np.cos(angles), np.sin(angles)], axis=1)
    solution = np.linalg.lstsq(model, tracks.T, rcond=None)[0]
    return float(np.median(solution[0])), solution[0]


def _peaks(cross: NDArray[np.complex128], length: int, n_columns: int) -> tuple[float, NDArray[np.float64]]:
    """Columns c within range that maximize the real part of sum cross exp(2 i omega c): all rows, each row."""
    curves = scipy.fft.irfft(np.concatenate([cross.sum(axis=0)[None], cross]), n=length * _OVERSAMPLING)
    unit = 0.5 / _OVERSAMPLING
    first = max(1, int(np.ceil(((n_columns - 1) / 2 - RANGE * n_columns) / unit)))
    end = int(((n_columns - 1) / 2 + RANGE * n_columns) / unit) + 1
    top = np.argmax(curves[:, first:end], axis=1) + first
    each = np.arange(len(curves))
    vertex = _vertex(curves[each, top - 1], curves[each, top], curves[each, top + 1])
    columns = (top + vertex) * unit
    return float(columns[0]), columns[1:]


def _vertex(
    before: NDArray[np.float64], at: NDArray[np.float64], after: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Where a parabola through three equally spaced values around a maximum peaks, -0.5 to 0.5."""
    curvature = before - 2 * at + after
    return np.clip(0.5 * (before - after) / np.where(curvature < 0, curvature, -np.inf), -0.5, 0.5)


def _sharpest(sinograms: Rows, angles: Angles, candidates: Sequence[float]) -> list[AxisEstimate]:
    """Reconstruct trial slices about the candidates, then about the neighborhood of the best.

    Besides the rows' agreement the score counts how often a slice beats those well off to either side.
    """
    factor = max(1, -(-sinograms.shape[2] // _SLICE_WIDTH))
    most = np.sort(np.argsort(-sinograms.std(axis=(1, 2)), kind="stable")[:2])
    thin = np.argsort(angles, kind="stable")[:: -(-len(angles) // _SLICE_ANGLES)]
    small = _binned(sinograms[most][:, thin], factor)
    # What is the same at every angle, rings and all that is round about the axis, says nothing of the axis.
    small = np.ascontiguousarray(small - small.mean(axis=1, keepdims=True))
    starts = sorted({round((c + 0.5) / factor - 0.5, 1) for c in candidates})
    if not starts or not small.any():
        return []
    n = small.shape[2]
    radius = 0.9 * min(min(c, n - 1 - c) for c in starts) - 2
    first = [_variances(small, angles[thin], c, radius).sum() for c in starts]
    best = starts[int(np.argmax(first))]
    offsets = np.array([-8.0, -2.0, -1.0, 0.0, 1.0, 2.0, 8.0])
    alone = np.array(
        [_variances(small, angles[thin], best + d, radius) for d in offsets]
    ).T  # (rows, offsets)
    curves = np.concatenate([alone.sum(axis=0)[None], alone])
    top = np.argmax(curves[:, 2:5], axis=1) + 2
    each = np.arange(len(curves))
    peaks = offsets[top] + _vertex(curves[each, top - 1], curves[each, top], curves[each, top + 1])
    won = float((alone[:, 3:4] > alone[:, [0, -1]]).mean())
    score = won * _agreement(float(peaks[0]), peaks[1:], n)
    return [
        AxisEstimate(method="sharpness", center=(best + float(peaks[0]) + 0.5) * factor - 0.5, score=score)
    ]


def _variances(rows: Rows, angles: Angles, center: float, radius: float) -> NDArray[np.float64]:
    """Variance of each row's slice within a circle about the axis."""
    n = rows.shape[2]
    slices = np.empty((len(rows), n, n), np.float32)
    _coarse(rows, angles, center, "hann").reconstruct(rows, slices)
    x = np.arange(n) - (n - 1) / 2
    inside = x**2 + x[:, None] ** 2 <= max(radius, 4.0) ** 2
    variances: NDArray[np.float64] = slices[:, inside].var(axis=1, dtype=np.float64)
    return variances


def _coarse(rows: Rows, angles: Angles, center: float, filter_name: str) -> FourierFBP:
    return FourierFBP(
        FourierPlan(
            angles=angles,
            n_columns=rows.shape[2],
            center=center,
            filter_name=filter_name,
            padding="edge",
            padding_factor=2.0,
            tolerance=1e-3,
        )
    )
