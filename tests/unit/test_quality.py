"""Measures, and the sentences they lead to."""

import numpy as np
import pytest

from gpu import quality
from srctd.core.messages import Measure
from srctd.core.quality import findings
from srctd.core.scan import Shortfall

SHAPE = (4, 100)


def frames(*, beam: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts of a sample of transmission 0.5 in the middle, in a beam of that strength during the scan."""
    transmission = np.ones((20, *SHAPE))
    transmission[:, :, 30:70] = 0.5
    projections = 100 + 10_000 * beam * transmission
    return (
        projections.astype(np.uint16),
        np.full((4, *SHAPE), 10_100, np.uint16),
        np.full((2, *SHAPE), 100, np.uint16),
    )


def values(measures: tuple[Measure, ...]) -> dict[str, float]:
    return {measure.name: measure.value for measure in measures}


def test_a_good_scan_has_its_measures_and_no_findings() -> None:
    measures = quality.of_frames(*frames())
    seen = values(measures)
    assert seen["flat_counts"] == pytest.approx(10_000)
    assert seen["mean_transmission"] == pytest.approx(0.8)
    assert seen["air_transmission"] == pytest.approx(1.0)
    for name in (
        "air_drift",
        "flat_drift",
        "saturated_fraction",
        "dead_pixel_fraction",
        "not_finite_fraction",
    ):
        assert seen[name] == pytest.approx(0.0, abs=1e-6)
    assert findings(measures) == ()


def test_a_weaker_beam_is_said_in_percent() -> None:
    (sentence,) = findings(quality.of_frames(*frames(beam=0.69)))
    assert sentence.startswith("the beam was 31 % weaker during the scan than in the flat fields")
    assert sentence.endswith("values are relative")


def test_a_stronger_beam() -> None:
    (sentence,) = findings(quality.of_frames(*frames(beam=1.2)))
    assert "20 % stronger" in sentence


def test_drift_during_the_scan_and_between_the_flats() -> None:
    projections, flats, darks = frames()
    fading = projections * np.linspace(1.0, 0.9, 20)[:, None, None]
    flats[-1] = 8_100
    drift = findings(quality.of_frames(fading, flats, darks))
    assert any("flat fields got 20 % weaker" in sentence for sentence in drift)
    assert any("beside the sample got" in sentence and "weaker" in sentence for sentence in drift)


def test_dead_saturated_and_missing_values() -> None:
    projections, flats, darks = frames()
    flats[:, 0, :8] = projections[:, 0, :8] = 0
    projections[:, 1, :5] = 65535
    seen = findings(quality.of_frames(projections, flats, darks[:0]))
    assert any("no dark fields" in sentence for sentence in seen)
    assert any(sentence.startswith("1.2 % of the pixels are saturated") for sentence in seen)
    assert any(sentence.startswith("2 % of the detector pixels do not respond") for sentence in seen)
    broken = projections.astype(np.float32)
    broken[0] = np.nan
    assert values(quality.of_frames(broken, flats, darks))["not_finite_fraction"] == pytest.approx(0.05)


def test_a_detector_that_is_dead_all_over_is_measured_too() -> None:
    projections, flats, darks = frames()
    seen = quality.of_frames(projections, np.zeros_like(flats), darks)
    assert values(seen)["dead_pixel_fraction"] == 1
    assert any("100 %" in sentence for sentence in findings(seen))


def test_the_ring_score_falls_when_stripes_go() -> None:
    rng = np.random.default_rng(0)
    clean = rng.normal(1, 0.01, (2, 64, 80)).astype(np.float32)
    striped = clean + rng.normal(0, 0.1, (2, 1, 80)).astype(np.float32)
    seen = values(quality.of_rings(striped, clean))
    assert seen["ring_score_before"] > 10 * seen["ring_score_after"] > 0
    assert any("rings remain" in s for s in findings(quality.of_rings(striped, striped)))


def test_slices_that_are_not_finite() -> None:
    slices = np.zeros((1, 10, 10), np.float32)
    slices[0, 0, 0] = np.inf
    assert findings(quality.of_slices(slices)) == ("1 % of the reconstructed values are no numbers",)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("axis_confidence", 0.3, "confidence 0.30"),
        ("mean_transmission", 0.01, "only 1 % of the light"),
        ("mean_transmission", 0.995, "is the sample in the beam"),
        ("flat_counts", 50.0, "only 50 counts"),
    ],
)
def test_single_findings(name: str, value: float, words: str) -> None:
    (sentence,) = findings([Measure(name=name, value=value)])
    assert words in sentence


def test_no_measures_no_findings() -> None:
    assert findings([]) == ()


def test_a_missing_range_of_angles_is_said() -> None:
    (sentence,) = findings((Measure(name="angular_coverage", value=0.67),))
    assert "67 % of a half turn" in sentence
    assert findings((Measure(name="angular_coverage", value=0.99),)) == ()


def test_what_is_missing_comes_first() -> None:
    found = findings(
        [Measure(name="dark_frames", value=0)], Shortfall(reason="150 of 180 projections are there")
    )
    assert found[0] == "the scan is incomplete: 150 of 180 projections are there"
    assert len(found) == 2
