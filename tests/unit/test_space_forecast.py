"""When a disk is full, and what is done as it fills up."""

import itertools
import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from srctd.core.space import (
    ALARM_HOURS,
    DELETION,
    Forecast,
    Grade,
    Sample,
    Thresholds,
    alarm,
    forecast,
    grade,
    remembered,
    with_margin,
)

GB = 10**9
HOUR = 3600.0


def filling(rate: float, minutes: int = 120, free: int = 1000 * GB) -> list[Sample]:
    """Samples of a disk, one a minute, to which `rate` bytes per second are written."""
    return [Sample(1_800_000_000.0 + 60 * i, int(free - rate * 60 * i)) for i in range(minutes + 1)]


# --- the forecast -----------------------------------------------------------------------------------------


@given(rate=st.floats(1e6, 1e8), minutes=st.integers(10, 150), free=st.integers(10**12, 10**13))
def test_what_fills_evenly_is_full_when_arithmetic_says(rate: float, minutes: int, free: int) -> None:
    samples = filling(rate, minutes, free)
    hours = samples[-1].free / rate / HOUR
    assume(hours < 700)
    found = forecast(samples)
    assert found is not None
    assert found.hours == pytest.approx(hours, rel=1e-3)
    assert found.over_hours == pytest.approx(minutes / 60)


@given(at=st.integers(1, 119), part=st.floats(2 * DELETION, 2.0))
def test_a_deletion_does_not_change_the_rate(at: int, part: float) -> None:
    rate = 10e6
    before = filling(rate)
    gained = int(part * before[at].free)
    samples = [*before[:at], *(Sample(s.at, s.free + gained) for s in before[at:])]
    found = forecast(samples)
    assert found is not None
    assert found.hours == pytest.approx(samples[-1].free / rate / HOUR, rel=0.02)


@given(st.integers(3, 80), st.integers(0, 1000))
def test_bursts_are_seen_through(minutes_between: int, seed: int) -> None:
    """A scan of 6 GB for every minute between scans, written within one: on average 100 MB/s."""
    phase, free, samples = random.Random(seed).randrange(minutes_between), 5000 * GB, []
    for i in range(181):
        free -= 6 * GB * minutes_between if i % minutes_between == phase else 0
        samples.append(Sample(60.0 * i, free))
    found = forecast(samples)
    assert found is not None
    assert found.hours == pytest.approx(free / 100e6 / HOUR, rel=0.7)


def test_one_large_scan_among_small_ones_is_no_trend() -> None:
    samples = [Sample(s.at, s.free - (200 * GB if i >= 110 else 0)) for i, s in enumerate(filling(1e6, 120))]
    found = forecast(samples)
    assert found is not None
    assert found.hours == pytest.approx(samples[-1].free / 1e6 / HOUR, rel=0.05)


@pytest.mark.parametrize(
    "samples",
    [[], filling(1e7, 0), filling(1e7, 9), filling(0.0), filling(-1e7), filling(1.0)],
    ids=["none", "one", "too short", "still", "emptying", "in a thousand years"],
)
def test_nothing_is_said_of_what_is_not_filling_or_not_known(samples: list[Sample]) -> None:
    assert forecast(samples) is None


def test_a_disk_that_is_cleared_all_the_time_is_judged_by_all_samples() -> None:
    """Every few minutes something is deleted: no stretch in between is long enough."""
    samples = [Sample(60.0 * i, (1000 - i - (40 if i % 4 < 2 else 0)) * GB) for i in range(121)]
    found = forecast(samples)
    assert found is not None
    assert found.hours == pytest.approx(samples[-1].free / GB / 60, rel=0.2)


@given(st.lists(st.tuples(st.floats(0, 3e4), st.integers(0, 10**14)), max_size=40))
def test_any_samples_give_a_time_to_come_or_none(pairs: list[tuple[float, int]]) -> None:
    found = forecast([Sample(at, free) for at, free in sorted(pairs)])
    assert found is None or (found.hours >= 0 and found.over_hours > 0)


def test_of_the_past_only_the_window_is_kept_one_sample_a_minute() -> None:
    samples: tuple[Sample, ...] = ()
    for i in range(5000):
        samples = remembered(samples, Sample(5.0 * i, i))
    assert len(samples) in (180, 181)
    assert {b.at - a.at for a, b in itertools.pairwise(samples)} == {60.0}
    assert samples[-1].at == 12 * (4999 // 12) * 5.0


def test_a_clock_that_was_set_back_begins_anew() -> None:
    assert remembered(tuple(filling(1e6, 5)), Sample(100.0, 7)) == (Sample(100.0, 7),)


def test_the_sentence() -> None:
    assert Forecast(7.2, 2.0).sentence == "full in about 7 h at the rate of the last 2 h"
    assert Forecast(0.4, 0.25).sentence == "full in about 24 min at the rate of the last 15 min"
    assert Forecast(100.0, 3.0).sentence == "full in about 4 days at the rate of the last 3 h"


def test_each_limit_is_told_once() -> None:
    told, before = [], None
    for hours in (100, 30, 23, 20, 25, 23, 5, 7, 5.5, 8, 0.5, 1.2, 0.9, None, 200, 23):
        now = alarm(hours, before)
        if now is not None and (before is None or now < before):
            told.append((hours, now))
        before = now
    assert told == [(23, 24.0), (5, 6.0), (0.5, 1.0), (23, 24.0)]


@given(st.one_of(st.none(), st.floats(0, 1000)), st.sampled_from([None, *ALARM_HOURS]))
def test_an_alarm_is_never_missed(hours: float | None, before: float | None) -> None:
    now = alarm(hours, before)
    for limit in ALARM_HOURS:
        if hours is not None and hours < limit:
            assert now is not None
            assert now <= limit


# --- grades -----------------------------------------------------------------------------------------------

LIMITS = Thresholds(sixteen_bit=300 * GB, previews_only=200 * GB, stop=100 * GB)


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (1000, Grade.FULL),
        (300, Grade.FULL),
        (299, Grade.SIXTEEN_BIT),
        (199, Grade.PREVIEWS_ONLY),
        (99, Grade.STOP),
        (0, Grade.STOP),
    ],
)
def test_less_is_done_as_less_is_free(free: int, expected: Grade) -> None:
    assert grade(free * GB, LIMITS) is expected


def test_a_grade_does_not_flap() -> None:
    seen = [Grade.FULL]
    for free in (310, 299, 301, 299, 310, 299, 316):
        seen.append(grade(free * GB, LIMITS, seen[-1]))
    assert seen == [Grade.FULL, Grade.FULL, *[Grade.SIXTEEN_BIT] * 5, Grade.FULL]


@given(st.integers(0, 10**13), st.sampled_from(list(Grade)))
def test_without_thresholds_everything_is_done(free: int, before: Grade) -> None:
    assert grade(free, Thresholds(), before) is Grade.FULL


@given(st.integers(0, 400 * GB), st.sampled_from(list(Grade)))
def test_what_was_needed_to_leave_a_grade_leaves_it(free: int, before: Grade) -> None:
    found = grade(free, LIMITS, before)
    assert found.at_least(grade(free, LIMITS)), "never more than without memory"
    for limit in (Grade.SIXTEEN_BIT, Grade.PREVIEWS_ONLY, Grade.STOP):
        assert found.at_least(limit) or free >= LIMITS.of(limit)
        assert not grade(LIMITS.left_above(limit), LIMITS, before).at_least(limit)


def test_a_threshold_of_its_own_is_left_above_the_ones_behind_it() -> None:
    assert Thresholds(stop=100 * GB).left_above(Grade.PREVIEWS_ONLY) == 105 * GB
    assert with_margin(100) == 101
