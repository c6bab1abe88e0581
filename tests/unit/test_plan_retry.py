"""Shards and retries."""

from hypothesis import given
from hypothesis import strategies as st

from srctd.core import plan, retry
from srctd.core.errors import CatalogUnavailable, HoldError


@given(st.integers(0, 50), st.integers(0, 5000), st.integers(0, 64))
def test_shards_cover_every_row_once_and_keep_pairs_together(first: int, rows: int, workers: int) -> None:
    shards = plan.shards(first, first + rows, workers)
    covered = [row for a, b in shards for row in range(a, b)]
    assert covered == list(range(first, first + rows))
    assert all((a - first) % plan.ALIGNMENT == 0 for a, _ in shards)


def test_two_workers_get_about_two_shards_each() -> None:
    assert plan.shards(0, 256, 2) == ((0, 64), (64, 128), (128, 192), (192, 256))
    assert plan.shards(0, 2, 8) == ((0, 2),)


def test_only_transient_errors_are_retried_and_the_pause_grows_to_a_limit() -> None:
    assert retry.decide(HoldError("rank 2"), 0, 100.0, 0.5) is None
    assert retry.decide(ValueError("bug"), 0, 100.0, 0.5) is None
    pauses = [retry.decide(CatalogUnavailable("down"), n, 0.0, 0.5) for n in range(30)]
    assert pauses[0] == retry.FIRST_SECONDS
    assert pauses == sorted(pauses)
    assert pauses[-1] == retry.LONGEST_SECONDS
