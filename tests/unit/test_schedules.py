"""Whole acquisitions on a simulated clock: whatever the rhythm, no verdict comes too early, and one comes."""

import math
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from srctd.core.completion import EndMark, Expectation, Probe, Rule, State, coverage, judge

RULE = Rule()
ALL_LOOKS = settings(max_examples=200, deadline=None)
FOREVER = 7200.0
"""Seconds after the last write at which a verdict must have been reached, whatever the pauses were."""


class Change(NamedTuple):
    """What a writer did at some time."""

    at: float
    frames: int
    """Written in all, then."""
    angles: bool
    ended: bool = False
    aborted: bool = False


class Schedule(NamedTuple):
    """One acquisition."""

    frames: int
    """That are to be taken."""
    changes: tuple[Change, ...]
    announced: bool
    marked: bool
    """Whether the end is marked, and whether anybody could tell an abort."""

    @property
    def last(self) -> Change:
        return self.changes[-1]


class Look(NamedTuple):
    at: float
    state: State
    frames: int


def seen_at(schedule: Schedule, change: Change) -> Probe:
    """What a look at the files finds after a change."""
    marks = (EndMark(kind="metadata", text="end_time is there"),) if change.ended and schedule.marked else ()
    text = f"{schedule.frames} frames by the log"
    expected = (Expectation(kind="log", frames=schedule.frames, text=text),) if schedule.announced else ()
    there = [math.pi * i / schedule.frames for i in range(change.frames)] if change.angles else []
    return Probe(
        readable=True,
        frames_found=change.frames,
        expectations=expected,
        end_marks=marks,
        missing=() if change.angles else ("the angles are missing",),
        aborted="the log says so" if change.aborted and schedule.marked else "",
        coverage=coverage(there),
        usable=bool(there),
    )


def looks(schedule: Schedule, interval: float, phase: float) -> list[Look]:
    """A model of the watcher: it lists the folder every `interval` and knows only what its own looks saw."""
    current: Change | None = None
    changed_at = pause = 0.0
    now, told = phase, []
    final: State | None = None
    while now < schedule.last.at + FOREVER:
        latest = [change for change in schedule.changes if change.at <= now][-1:]
        if latest and latest[0] is not current:
            if current is not None:
                pause = max(pause, now - changed_at)
            current, changed_at, final = latest[0], now, None
        if current is not None and final is None:
            verdict = judge(seen_at(schedule, current), now - changed_at, RULE, pause)
            told.append(Look(now, verdict.state, current.frames))
            if verdict.state is not State.ARRIVING:
                final = verdict.state
                if current is schedule.last:
                    break
        now += interval
    return told


@st.composite
def schedules(draw: st.DrawFn, *, announced: bool, marked: bool, may_abort: bool = False) -> Schedule:
    """Steady, or in bursts, with a pause of 30 s somewhere, with angles that come late, or broken off."""
    frames = draw(st.integers(8, 60))
    burst = draw(st.sampled_from([1, 1, 5, 20]))
    taken = draw(st.integers(1, frames - 1)) if may_abort and draw(st.booleans()) else frames
    pause_after = draw(st.none() | st.integers(1, taken))
    late_angles = draw(st.sampled_from([0.0, 0.0, 1.0, 20.0]))
    now, changes, written = 0.0, [], 0
    while written < taken:
        step = min(burst, taken - written)
        now += step * draw(st.floats(0.8, 1.2))
        if pause_after is not None and written < pause_after <= written + step and written:
            now += 30.0
        written += step
        changes.append(Change(now, written, angles=late_angles == 0.0))
    broken_off = taken < frames
    # Frames that are all there and angles that are not: the writer comes back.
    if late_angles:
        now += late_angles
        changes.append(Change(now, written, angles=True))
    if marked:
        now += draw(st.floats(0.0, 10.0))
        changes.append(Change(now, written, angles=True, ended=True, aborted=broken_off))
    return Schedule(frames, tuple(changes), announced, marked)


INTERVALS = st.floats(0.5, 10.0)
PHASES = st.floats(0.0, 5.0)


def check_whole(schedule: Schedule, told: list[Look]) -> None:
    """No early COMPLETE, and COMPLETE in the end."""
    early = [look for look in told if look.state is State.COMPLETE and look.at < schedule.last.at]
    assert not early
    assert told[-1].state is State.COMPLETE
    assert told[-1].frames == schedule.frames


@ALL_LOOKS
@given(schedules(announced=True, marked=True), INTERVALS, PHASES)
def test_announced_and_marked(schedule: Schedule, interval: float, phase: float) -> None:
    told = looks(schedule, interval, phase)
    check_whole(schedule, told)
    assert told[-1].at - schedule.last.at <= RULE.settle_seconds + 2 * interval


@ALL_LOOKS
@given(schedules(announced=True, marked=False), INTERVALS, PHASES)
def test_announced_only(schedule: Schedule, interval: float, phase: float) -> None:
    told = looks(schedule, interval, phase)
    check_whole(schedule, told)
    assert told[-1].at - schedule.last.at <= RULE.stalled_seconds + 2 * interval


@ALL_LOOKS
@given(schedules(announced=False, marked=True), INTERVALS, PHASES)
def test_end_marks_only(schedule: Schedule, interval: float, phase: float) -> None:
    told = looks(schedule, interval, phase)
    check_whole(schedule, told)
    assert told[-1].at - schedule.last.at <= RULE.settle_seconds + 2 * interval


@ALL_LOOKS
@given(schedules(announced=False, marked=False), INTERVALS, PHASES)
def test_neither(schedule: Schedule, interval: float, phase: float) -> None:
    check_whole(schedule, looks(schedule, interval, phase))


@ALL_LOOKS
@given(schedules(announced=True, marked=True, may_abort=True), INTERVALS, PHASES)
def test_broken_off_and_said_so(schedule: Schedule, interval: float, phase: float) -> None:
    told = looks(schedule, interval, phase)
    if schedule.last.frames == schedule.frames:
        check_whole(schedule, told)
    else:
        assert State.COMPLETE not in {look.state for look in told}
        assert told[-1].state in (State.ABORTED, State.INCOMPLETE_USABLE)


@ALL_LOOKS
@given(schedules(announced=True, marked=False, may_abort=True), INTERVALS, PHASES)
def test_broken_off_without_a_word(schedule: Schedule, interval: float, phase: float) -> None:
    told = looks(schedule, interval, phase)
    if schedule.last.frames == schedule.frames:
        check_whole(schedule, told)
    else:
        assert State.COMPLETE not in {look.state for look in told}
        assert told[-1].state in (State.STALLED, State.INCOMPLETE_USABLE)
        assert told[-1].at - schedule.last.at >= RULE.stalled_seconds


def test_a_stalled_scan_that_goes_on_is_judged_anew() -> None:
    first, rest = Change(1.0, 3, angles=True), Change(1000.0, 10, angles=True, ended=True)
    told = looks(Schedule(10, (first, rest), announced=True, marked=True), interval=5.0, phase=0.0)
    states = [look.state for look in told]
    assert State.STALLED in states
    assert states[-1] is State.COMPLETE


def test_a_second_pause_as_long_as_the_first_is_waited_out_even_beyond_the_settle_time() -> None:
    times = [*range(10), *range(70, 80), *range(245, 250)]
    changes = tuple(Change(float(at), i + 1, angles=True) for i, at in enumerate(times))
    told = looks(Schedule(len(times), changes, announced=False, marked=False), interval=5.0, phase=0.0)
    # The first pause of 61 s is longer than any rule could know; after it 165 s more are waited out.
    complete = [look.at for look in told if look.state is State.COMPLETE and look.at > 80]
    assert complete
    assert min(complete) > 250
