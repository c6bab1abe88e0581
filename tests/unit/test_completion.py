"""The completion verdict: evidence in, verdict out, no clock and no disk."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from srctd.core.completion import (
    ALL_ENDS,
    PAUSES,
    Coverage,
    EndMark,
    Expectation,
    Message,
    Probe,
    Rule,
    State,
    Usable,
    Verdict,
    coverage,
    gaps_text,
    is_usable,
    judge,
    with_message,
)

RULE = Rule()
END = EndMark(kind="metadata", text="/entry/end_time = 2026-11-22T10:00:00")
ALL_AROUND = Coverage(projections=150, span_deg=179.0, hole_deg=2.0)
HALF = Coverage(projections=90, span_deg=89.0, hole_deg=91.0)


def announced(frames: int, kind: Any = "metadata") -> Expectation:
    return Expectation(kind=kind, frames=frames, text=f"{frames} frames by the {kind}")


def a_probe(**changes: Any) -> Probe:
    """200 of 200 frames, no end mark."""
    return Probe(**{"readable": True, "frames_found": 200, "expectations": (announced(200),), **changes})


SHORT = a_probe(frames_found=150, coverage=ALL_AROUND, usable=True)


def texts(verdict: Verdict) -> dict[str, str]:
    return {item.name: item.text for item in verdict.evidence}


def test_what_a_disk_that_fails_shows_is_never_final() -> None:
    probe = Probe(
        readable=False, problem="scan.nxs cannot be reached now: Input/output error", unreachable=True
    )
    verdict = judge(probe, 1e6, RULE)
    assert verdict.state is State.ARRIVING
    assert verdict.reason == "not complete: scan.nxs cannot be reached now: Input/output error"
    assert probe.may_change
    assert not a_probe().may_change


# --- complete ---------------------------------------------------------------------------------------------


def test_with_an_end_mark_a_short_quiet_suffices() -> None:
    probe = a_probe(end_marks=(END,), open_for_writing=False)
    waiting = judge(probe, 1.5, RULE)
    assert waiting.state is State.ARRIVING
    assert waiting.nothing_missing
    assert waiting.recheck_seconds == pytest.approx(0.5)
    verdict = judge(probe, 2.0, RULE)
    assert verdict.state is State.COMPLETE
    assert verdict.reason == (
        "all announced frames are there, /entry/end_time = 2026-11-22T10:00:00, and nothing changed for 2.0 s"
    )
    assert {item.name: item.speaks_for for item in verdict.evidence}["end marker"] is True


@pytest.mark.parametrize(
    ("probe", "pause", "needed"),
    [
        (a_probe(end_marks=(END,)), 30.0, 2.0),
        (a_probe(), 0.0, 15.0),
        (a_probe(), 30.0, 90.0),
        (a_probe(), 1000.0, 300.0),
        (a_probe(expectations=()), 0.0, 60.0),
        (a_probe(expectations=()), 30.0, 90.0),
        (a_probe(expectations=()), 1000.0, 3000.0),
        (a_probe(frames_found=201), 0.0, 60.0),  # more than announced: more may come
        (a_probe(end_marks=(EndMark(kind="superblock", text="closed"),)), 0.0, 15.0),
    ],
)
def test_the_weaker_the_evidence_the_longer_the_quiet(probe: Probe, pause: float, needed: float) -> None:
    early, late = judge(probe, needed - 0.01, RULE, pause), judge(probe, needed, RULE, pause)
    assert (early.state, late.state) == (State.ARRIVING, State.COMPLETE)
    assert (early.needed_seconds, late.recheck_seconds) == (needed, 0.0)


def test_a_site_decides_which_evidence_it_believes() -> None:
    closed = EndMark(kind="superblock", text="the superblock says closed")
    assert judge(a_probe(end_marks=(closed,)), 5.0, Rule(end_evidence=ALL_ENDS)).state is State.COMPLETE
    verdict = judge(a_probe(end_marks=(END,)), 5.0, Rule(end_evidence=("marker file",)))
    assert verdict.state is State.ARRIVING
    assert "not believed here: /entry/end_time" in texts(verdict)["end marker"]
    unbelieved = judge(SHORT, 60.0, Rule(expectation=("log",)))
    assert unbelieved.state is State.COMPLETE
    assert "200 frames by the metadata" in texts(unbelieved)["frames"]


def test_the_message_counts_and_what_contradicts_it_is_shown() -> None:
    probe = a_probe(expectations=(announced(1801, "log"), announced(200, "message")), end_marks=(END,))
    verdict = judge(probe, 2.0, RULE)
    assert (verdict.state, verdict.frames_expected) == (State.COMPLETE, 200)
    assert "1801 frames by the log" in texts(verdict)["frames"]


def test_of_several_announcements_the_largest_counts() -> None:
    probe = a_probe(expectations=(announced(200), announced(201, "log")), end_marks=(END,))
    assert judge(probe, 14.0, RULE).missing == (
        "200 of 201 announced frames are there (201 frames by the log)",
    )


# --- incomplete -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probe", "word"),
    [
        (Probe(readable=False, problem="/d/a.h5: truncated file"), "truncated"),
        (Probe(readable=False), "cannot be read"),
        (a_probe(end_marks=(END,), missing=("no angles: /exchange/theta is missing",)), "theta"),
        (a_probe(end_marks=(END,), open_for_writing=True), "open for writing"),
        (a_probe(frames_found=7), "7 of 200"),
        (a_probe(gaps=((3, 3), (7, 9))), "3 and 7 to 9"),
        (a_probe(frames_found=0, expectations=()), "no frames"),
        (a_probe(frames_found=None, expectations=()), "no frames"),
    ],
)
def test_what_is_missing_keeps_it_arriving_then_stalls_with_the_sentence(probe: Probe, word: str) -> None:
    early = judge(probe, 299.0, RULE)
    assert early.state is State.ARRIVING
    assert early.recheck_seconds == pytest.approx(1.0)
    assert not early.nothing_missing
    late = judge(probe, 300.0, RULE)
    assert late.state is State.STALLED
    assert word in late.reason
    assert any(word in piece for piece in late.missing)


def test_a_slow_scan_stalls_later() -> None:
    slow = a_probe(frames_found=7)
    assert judge(slow, 500.0, RULE, pause_seconds=200.0).state is State.ARRIVING
    assert judge(slow, 600.0, RULE, pause_seconds=200.0).state is State.STALLED


def test_an_ended_scan_without_all_frames_is_taken_where_the_angles_suffice() -> None:
    ended = replace(SHORT, end_marks=(END,))
    assert judge(ended, 14.9, RULE).state is State.ARRIVING
    verdict = judge(ended, 15.0, RULE)
    assert verdict.state is State.INCOMPLETE_USABLE
    assert verdict.reason == (
        "150 of 200 announced frames are there (200 frames by the metadata); "
        "the 150 projections that are there suffice, with no gap wider than 2.0 degrees"
    )
    assert (verdict.frames_found, verdict.frames_expected) == (150, 200)


def test_without_an_end_it_is_taken_when_nothing_comes_any_more() -> None:
    assert judge(SHORT, 299.0, RULE).state is State.ARRIVING
    assert judge(SHORT, 300.0, RULE).state is State.INCOMPLETE_USABLE


@pytest.mark.parametrize(
    "changes",
    [
        {"coverage": HALF},
        {"coverage": None},
        {"usable": False},
        {"coverage": Coverage(projections=29, span_deg=179.0, hole_deg=6.2)},
    ],
)
def test_too_few_angles_are_not_taken(changes: dict[str, Any]) -> None:
    assert judge(replace(SHORT, **changes), 300.0, RULE).state is State.STALLED
    ended = judge(replace(SHORT, end_marks=(END,), **changes), 15.0, RULE)
    assert ended.state is State.ABORTED
    assert "does not suffice" in ended.reason


def test_a_site_may_take_no_incomplete_scan_at_all() -> None:
    assert judge(SHORT, 300.0, Rule(usable=Usable(projections=0))).state is State.STALLED


def test_what_was_broken_off_is_never_complete() -> None:
    whole = a_probe(aborted="scan.abo", end_marks=(END,), coverage=ALL_AROUND, usable=True)
    assert judge(whole, 14.0, RULE).state is State.ARRIVING
    assert judge(whole, 15.0, RULE).state is State.INCOMPLETE_USABLE
    verdict = judge(a_probe(frames_found=7, aborted="scan.abo"), 15.0, RULE)
    assert verdict.state is State.ABORTED
    assert verdict.reason.startswith("the acquisition was broken off: scan.abo; what is there")


def test_an_end_mark_that_came_before_the_rest_of_a_copy_ends_nothing() -> None:
    half_copied = a_probe(end_marks=(END,), missing=("/d/0150.tif is cut short",))
    assert judge(half_copied, 299.0, RULE).state is State.ARRIVING


def test_what_ended_without_frames_is_left_to_the_reader_to_refuse() -> None:
    assert (
        judge(a_probe(frames_found=0, expectations=(), end_marks=(END,)), 2.0, RULE).state is State.COMPLETE
    )
    assert judge(a_probe(frames_found=0, end_marks=(END,)), 15.0, RULE).state is State.ABORTED


def test_where_an_end_is_demanded_there_is_none_without() -> None:
    strict = Rule(require_end=True)
    assert judge(a_probe(), 299.0, strict).missing == ("nothing says yet that the acquisition ended",)
    assert judge(a_probe(), 300.0, strict).state is State.STALLED
    assert judge(a_probe(coverage=ALL_AROUND, usable=True), 300.0, strict).state is State.INCOMPLETE_USABLE
    assert judge(a_probe(end_marks=(END,)), 2.0, strict).state is State.COMPLETE


def test_what_is_no_tomography_is_foreign_at_once() -> None:
    verdict = judge(Probe(readable=True, foreign=True, problem="/d/a.h5: no image key"), 0.0, RULE)
    assert (verdict.state, verdict.reason) == (State.FOREIGN, "/d/a.h5: no image key")
    assert verdict.missing
    assert not verdict.nothing_missing


# --- what the acquisition itself says ---------------------------------------------------------------------


def test_a_message_ends_a_scan_that_says_nothing_itself() -> None:
    silent = a_probe(expectations=())
    told = with_message(silent, Message(frames=200))
    assert judge(told, 2.0, RULE).state is State.COMPLETE
    assert "srctd submit said that the acquisition ended" in judge(told, 2.0, RULE).reason
    more = with_message(silent, Message(frames=201))
    assert judge(more, 14.0, RULE).state is State.ARRIVING
    assert judge(more, 15.0, RULE).state is State.ABORTED


def test_a_message_breaks_a_scan_off_and_mends_none() -> None:
    broken = with_message(a_probe(), Message(aborted="the shutter is stuck", sender="Bliss"))
    assert broken.aborted == "Bliss said: the shutter is stuck"
    assert judge(broken, 15.0, RULE).state is State.ABORTED
    kept = with_message(a_probe(aborted="scan.abo"), Message())
    assert kept.aborted == "scan.abo"


# --- coverage and words -----------------------------------------------------------------------------------


def test_coverage_goes_around_the_half_circle() -> None:
    assert coverage(()) is None
    one = coverage([0.3])
    assert one is not None
    assert (one.projections, one.span_deg, one.hole_deg) == (1, 0.0, 180.0)
    half = coverage([math.radians(angle) for angle in range(91)])
    assert half is not None
    assert half.hole_deg == pytest.approx(90.0)
    from_both_sides = coverage([math.radians(angle) for angle in (0, 20, 40, 60, 260, 280, 300, 320, 340)])
    assert from_both_sides is not None
    assert from_both_sides.hole_deg == pytest.approx(20.0)
    assert from_both_sides.span_deg == pytest.approx(340.0)


def test_where_both_sides_must_be_seen_a_half_turn_is_a_hole() -> None:
    half = coverage([math.radians(angle) for angle in range(181)], 360.0)
    assert half is not None
    assert half.hole_deg == pytest.approx(180.0)
    whole = coverage([math.radians(angle) for angle in range(0, 360, 2)], 360.0)
    assert whole is not None
    assert whole.hole_deg == pytest.approx(2.0)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=60))
def test_more_angles_never_widen_the_hole(angles: list[float]) -> None:
    fewer, more = coverage(angles[: len(angles) // 2 + 1]), coverage(angles)
    assert fewer is not None
    assert more is not None
    assert more.hole_deg <= fewer.hole_deg + 1e-9
    assert 0 <= more.hole_deg <= 180.0 + 1e-9


def test_gaps_in_words() -> None:
    assert gaps_text(()) == ""
    assert gaps_text(((3, 3),)) == "3"
    assert gaps_text(((3, 3), (7, 9), (12, 12))) == "3, 7 to 9 and 12"
    assert gaps_text([(i, i) for i in range(0, 40, 2)]).endswith("14 and 12 more runs")


# --- properties -------------------------------------------------------------------------------------------

KINDS = st.sampled_from(["metadata", "log", "info", "list", "message"])
PROBES = st.builds(
    Probe,
    readable=st.booleans(),
    problem=st.sampled_from(["", "broken"]),
    foreign=st.booleans(),
    frames_found=st.none() | st.integers(0, 300),
    expectations=st.lists(st.builds(announced, st.integers(0, 300), KINDS), max_size=3).map(tuple),
    end_marks=st.lists(
        st.builds(EndMark, kind=st.sampled_from(ALL_ENDS), text=st.just("ended")), max_size=2
    ).map(tuple),
    aborted=st.sampled_from(["", "", "scan.abo"]),
    open_for_writing=st.sampled_from([None, True, False]),
    gaps=st.sampled_from([(), (), ((3, 5),)]),
    missing=st.sampled_from([(), (), ("theta",)]),
    coverage=st.sampled_from([None, HALF, ALL_AROUND]),
    usable=st.booleans(),
)
RULES = st.builds(
    Rule,
    require_end=st.booleans(),
    usable=st.builds(Usable, projections=st.integers(0, 200), hole_deg=st.floats(1, 180)),
    end_evidence=st.lists(st.sampled_from(ALL_ENDS), unique=True).map(tuple),
    stalled_seconds=st.floats(1, 1000),
)
SECONDS = st.floats(0, 2000)


@given(PROBES, RULES, SECONDS, SECONDS)
def test_complete_means_that_nothing_is_missing(probe: Probe, rule: Rule, quiet: float, pause: float) -> None:
    verdict = judge(probe, quiet, rule, pause)
    assert verdict.evidence
    assert verdict.reason or probe.foreign
    if verdict.state is not State.COMPLETE:
        assert verdict.missing
        return
    assert probe.readable
    assert not any((probe.foreign, probe.missing, probe.gaps, probe.aborted, probe.open_for_writing))
    assert probe.frames_found or any(mark.kind in rule.end_evidence for mark in probe.end_marks)
    assert verdict.frames_expected is None or (probe.frames_found or 0) >= verdict.frames_expected
    assert not rule.require_end or any(mark.kind in rule.end_evidence for mark in probe.end_marks)


@given(PROBES, RULES, SECONDS, SECONDS)
def test_no_verdict_is_final_before_the_quiet_that_its_evidence_demands(
    probe: Probe, rule: Rule, quiet: float, pause: float
) -> None:
    verdict = judge(probe, quiet, rule, pause)
    believed = any(mark.kind in rule.end_evidence for mark in probe.end_marks)
    if verdict.state is State.COMPLETE:
        assert quiet >= (rule.settle_seconds if believed else rule.unmarked_settle_seconds)
        if not believed and verdict.frames_expected is None:
            assert quiet >= max(rule.unannounced_settle_seconds, PAUSES * pause)
    elif verdict.state in (State.STALLED, State.INCOMPLETE_USABLE) and not (believed or probe.aborted):
        assert quiet >= max(rule.stalled_seconds, PAUSES * pause)
    elif verdict.state in (State.ABORTED, State.INCOMPLETE_USABLE):
        assert quiet >= rule.unmarked_settle_seconds
    if verdict.state is State.ABORTED:
        assert believed or probe.aborted


@given(PROBES, RULES, SECONDS, SECONDS)
def test_time_alone_leads_from_arriving_to_one_final_verdict(
    probe: Probe, rule: Rule, quiet: float, pause: float
) -> None:
    verdict = judge(probe, quiet, rule, pause)
    if verdict.state is State.ARRIVING:
        then = judge(probe, quiet + verdict.recheck_seconds + 1e-6, rule, pause)
        assert then.state is not State.ARRIVING
    else:
        assert verdict.recheck_seconds == 0.0
        assert judge(probe, quiet + 100.0, rule, pause).state is verdict.state


@given(PROBES, SECONDS)
def test_more_evidence_never_makes_the_verdict_later(probe: Probe, pause: float) -> None:
    now = judge(probe, 0.0, RULE, pause)
    stronger = [
        replace(probe, end_marks=(*probe.end_marks, END)),
        with_message(probe, Message(frames=probe.frames_found)),
    ]
    if probe.frames_found and not probe.expectations:
        stronger.append(replace(probe, expectations=(announced(probe.frames_found),)))
    for more in stronger:
        assert judge(more, 0.0, RULE, pause).needed_seconds <= now.needed_seconds


@given(PROBES, RULES)
def test_only_what_can_be_opened_is_called_usable(probe: Probe, rule: Rule) -> None:
    if is_usable(probe, rule):
        assert probe.usable
        assert probe.coverage is not None
        assert probe.coverage.projections >= rule.usable.projections > 0
