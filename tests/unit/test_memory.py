"""Memory arithmetic: what fits, and that pairs of slices stay together."""

import pytest
from factories import a_header

from gpu.memory import Heights, Needs, available_bytes, heights, needs, peak_bytes, share_bytes
from srctd.core.errors import TransientError

NEED = Needs(fixed=1000, per_slab_row=100, per_block_row=50)


def fit(rows, budget, threads=1, n_columns=100_000):
    return heights(NEED, rows, n_columns, budget=budget, threads=threads)


def test_plenty_of_memory_gives_slabs_by_threads_and_a_quarter_of_the_shard_per_block():
    assert fit(512, 10**9) == Heights(slab=8, block=128)
    assert fit(512, 10**9, threads=4) == Heights(slab=32, block=128)


def test_small_slices_are_taken_many_at_once():
    assert fit(1024, 10**9, n_columns=512) == Heights(slab=16, block=256)
    assert fit(24, 10**9, n_columns=16) == Heights(slab=24, block=24)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (1000 + 2 * 150, Heights(slab=2, block=2)),
        (1000 + 7 * 150, Heights(slab=6, block=6)),
        (1000 + 8 * 150, Heights(slab=8, block=8)),
        (1000 + 8 * 100 + 39 * 50, Heights(slab=8, block=32)),
    ],
)
def test_short_memory_gives_less_but_whole_pairs_and_stays_within(budget, expected):
    found = fit(512, budget)
    assert found == expected
    assert NEED.peak(found.slab, found.block) <= budget


@pytest.mark.parametrize("rows", [1, 2, 7, 9, 100])
@pytest.mark.parametrize("budget", [1300, 2000, 5000, 10**6])
def test_any_shard_gets_whole_slabs_in_its_blocks(rows, budget):
    found = fit(rows, budget)
    assert found.slab >= 2
    assert found.slab % 2 == 0
    assert found.block % found.slab == 0


def test_too_little_for_two_rows_is_said_with_both_numbers():
    with pytest.raises(
        TransientError, match=r"two rows need 1\.00 GiB of memory and 0\.50 GiB may be used"
    ) as caught:
        heights(Needs(fixed=2**30 - 300, per_slab_row=100, per_block_row=50), 8, 64, budget=2**29, threads=1)
    assert "more memory" in caught.value.sentence


def test_needs_grow_with_what_they_are_for():
    header = a_header(n_projections=250, n_rows=1007, n_columns=2000)
    one, two = (needs(header, padding_factor=2.0, threads=threads) for threads in (1, 2))
    assert one.per_slab_row == 4 * 250 * 2000 + 8 * 2000**2
    assert one.per_block_row == 2 * 2 * 270 * 2000
    assert two.fixed - one.fixed > 8 * (1.5625 + 1) * 2000**2  # another fine grid and image
    assert needs(header, padding_factor=4.0, threads=1).fixed > one.fixed


def test_what_is_free_is_within_the_machine():
    assert 0 < share_bytes(1) <= share_bytes(10**6) < available_bytes() < 2**50
    assert 2**20 < peak_bytes() < 2**40
