"""What measures of raw data and result mean, in plain sentences for the people at the beamline.

A sentence says what is off, how far, and what follows from it. No sentence: nothing is off.
"""

from collections.abc import Iterable, Mapping

from srctd.core.labels import sentence
from srctd.core.messages import Measure
from srctd.core.scan import Shortfall

SATURATED = 1e-3
"""Fraction of saturated pixels from which the sample's values suffer, not just a few hot pixels."""
DEAD = 0.01
"""Fraction of dead pixels from which interpolating them shows."""
FAINT = 200.0
"""Counts of the flat field below which photon noise alone exceeds 7 %."""
BEAM = 0.1
"""Relative change of the beam between flat fields and scan from which values are not to be trusted as absolute."""
DRIFT = 0.05
"""Relative change of the beam within the flat fields, or within the scan."""
OPAQUE, CLEAR = 0.03, 0.98
"""Mean transmission below which hardly any light passes, and above which hardly anything absorbs."""
RINGS = 0.02
"""Ring score, in line integrals, from which rings are plain to see."""
COVERED = 0.98
"""Share of the half turn below which a missing range of angles is told."""
CLIPPED = 1e-4
"""Fraction of voxels that a 16-bit volume cannot say, from which it is told; fewer are single hot ones."""
UNSURE = 0.5
"""Confidence in the rotation axis below which somebody should look."""


def findings(measures: Iterable[Measure], shortfall: Shortfall | None = None) -> tuple[str, ...]:
    """Sentences about what the measures show to be off; measures that are not there are passed over.

    `shortfall`: what the scan lacks; it comes first, as everything else may follow from it.
    """
    known = {measure.name: measure.value for measure in measures}
    lacking = (f"the scan is {sentence(shortfall)}",) if shortfall else ()
    return (*lacking, *_of_frames(known), *_of_beam(known), *_of_result(known))


def _of_frames(known: Mapping[str, float]) -> Iterable[str]:
    if known.get("dark_frames", 1) == 0:
        yield "there are no dark fields; the dark field was taken for 0, so values are a little off"
    if (fraction := known.get("saturated_fraction", 0)) > SATURATED:
        yield f"{_percent(fraction)} of the pixels are saturated; expose more briefly, values are wrong there"
    if (fraction := known.get("dead_pixel_fraction", 0)) > DEAD:
        yield f"{_percent(fraction)} of the detector pixels do not respond; they were interpolated"
    if (fraction := known.get("not_finite_fraction", 0)) > 0:
        yield f"{_percent(fraction)} of the raw values are no numbers; they were interpolated"
    if (counts := known.get("flat_counts", FAINT)) < FAINT:
        yield f"the flat field has only {counts:.0f} counts above dark; the slices will be noisy"
    mean = known.get("mean_transmission", 0.5)
    if mean < OPAQUE:
        yield f"only {_percent(mean)} of the light gets through on average; a higher energy would help"
    if mean > CLEAR:
        yield f"{_percent(mean)} of the light gets through on average; is the sample in the beam?"


def _of_beam(known: Mapping[str, float]) -> Iterable[str]:
    if abs(change := known.get("flat_drift", 0)) > DRIFT:
        yield f"the flat fields got {_change(change)} from the first to the last; the beam was not steady"
    air = known.get("air_transmission", 1)
    if air < 1 - BEAM:
        yield (
            f"the beam was {_change(air - 1)} during the scan than in the flat fields, or the sample fills the"
            " field of view; values are relative"
        )
    if air > 1 + BEAM:
        yield f"the beam was {_change(air - 1)} during the scan than in the flat fields; values are relative"
    if abs(change := known.get("air_drift", 0)) > DRIFT:
        yield f"the beam beside the sample got {_change(change)} from the beginning of the scan to its end"


def _of_result(known: Mapping[str, float]) -> Iterable[str]:
    if (covered := known.get("angular_coverage", 1)) < COVERED:
        yield (
            f"the angles cover {_percent(covered)} of a half turn; shapes are distorted and values too low by about"
            " what is missing"
        )
    if known.get("axis_confidence", 1) < UNSURE:
        yield (
            f"the rotation axis is not sure (confidence {known['axis_confidence']:.2f}); compare the strip of trial"
            " slices, and give the axis by hand if another one is sharper"
        )
    if known.get("ring_score_after", 0) > RINGS:
        yield "rings remain in the slices; a wider neighborhood (ring_size) may remove them"
    if (fraction := known.get("finite_fraction", 1)) < 1:
        yield f"{_percent(1 - fraction)} of the reconstructed values are no numbers"
    if (fraction := known.get("clipped_fraction", 0)) > CLIPPED:
        yield (
            f"{_percent(fraction)} of the voxels lie outside the range of the 16-bit volume and were clipped;"
            " give output_minimum and output_maximum if they matter"
        )


def _percent(fraction: float) -> str:
    """`31 %`, `0.4 %`: two digits are enough to judge."""
    value = 100 * fraction
    return f"{value:.0f} %" if value >= 10 else f"{value:.2g} %"


def _change(relative: float) -> str:
    """`31 % weaker`, `8 % stronger`."""
    return f"{_percent(abs(relative))} {'weaker' if relative < 0 else 'stronger'}"
