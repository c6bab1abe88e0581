"""The completion verdict: evidence in, verdict out, no clock and no disk."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srctd.core.completion import Probe, Rule, State, judge

RULE = Rule(settle_seconds=2.0, unmarked_settle_seconds=15.0, stalled_seconds=300.0)
WHOLE = {"readable": True, "frames_found": 200, "frames_expected": 200}


def test_with_an_end_marker_a_short_quiet_suffices() -> None:
    probe = Probe(**WHOLE, end_marker="end_time = 2026-11-22T10:00:00", open_for_writing=False)
    waiting = judge(probe, 1.5, RULE)
    assert waiting.state is State.ARRIVING
    assert waiting.recheck_seconds == pytest.approx(0.5)
    verdict = judge(probe, 2.0, RULE)
    assert verdict.state is State.COMPLETE
    assert {item.name: item.speaks_for for item in verdict.evidence}["end marker"] is True


def test_without_an_end_marker_it_takes_longer() -> None:
    assert judge(Probe(**WHOLE), 14.9, RULE).state is State.ARRIVING
    assert judge(Probe(**WHOLE), 15.0, RULE).state is State.COMPLETE


@pytest.mark.parametrize(
    ("probe", "word"),
    [
        (Probe(readable=False, problem="/d/a.h5: truncated file"), "truncated"),
        (Probe(**WHOLE, end_marker="x", missing=("no angles: /exchange/theta is missing",)), "theta"),
        (Probe(**WHOLE, end_marker="x", open_for_writing=True), "open for writing"),
        (Probe(readable=True, frames_found=7, frames_expected=200, end_marker="x"), "7 of 200"),
    ],
)
def test_what_is_missing_keeps_it_arriving_then_stalls_with_the_sentence(probe: Probe, word: str) -> None:
    early = judge(probe, 299.0, RULE)
    assert early.state is State.ARRIVING
    assert early.recheck_seconds == pytest.approx(1.0)
    late = judge(probe, 300.0, RULE)
    assert late.state is State.STALLED
    assert word in late.reason
    assert any(word in piece for piece in late.missing)


def test_what_is_no_tomography_is_foreign_at_once() -> None:
    verdict = judge(Probe(readable=True, foreign=True, problem="/d/a.h5: no image key"), 0.0, RULE)
    assert verdict.state is State.FOREIGN
    assert "no image key" in verdict.reason


@given(
    st.builds(
        Probe,
        readable=st.booleans(),
        problem=st.just("broken"),
        frames_found=st.none() | st.integers(0, 300),
        frames_expected=st.none() | st.integers(0, 300),
        end_marker=st.sampled_from(["", "end_time = x"]),
        open_for_writing=st.sampled_from([None, True, False]),
        missing=st.sampled_from([(), ("theta",)]),
    ),
    st.floats(0, 1000),
)
def test_complete_means_nothing_is_missing_and_the_quiet_was_long_enough(probe: Probe, quiet: float) -> None:
    verdict = judge(probe, quiet, RULE)
    if verdict.state is State.COMPLETE:
        assert probe.readable
        assert not probe.missing
        assert not probe.open_for_writing
        assert quiet >= (2.0 if probe.end_marker else 15.0)
        assert probe.frames_expected is None or (probe.frames_found or 0) >= probe.frames_expected
    else:
        assert verdict.missing
