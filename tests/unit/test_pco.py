import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srctd.formats import pco

STAMP = [0x00, 0x00, 0x12, 0x34, 0x20, 0x26, 0x11, 0x25, 0x10, 0x15, 0x30, 0x00, 0x01, 0x23]


def test_a_stamp_of_a_camera():
    assert pco.counter(np.array(STAMP, np.uint16)) == 1234


@pytest.mark.parametrize(
    ("pixel", "value"), [(2, 0x1A), (4, 0x19), (6, 0x13), (7, 0x00), (8, 0x24), (0, 0x1234)]
)
def test_pixels_that_are_no_stamp(pixel, value):
    pixels = np.array(STAMP, np.uint16)
    pixels[pixel] = value
    assert pco.counter(pixels) is None


def test_neither_few_pixels_nor_floats_are_a_stamp():
    assert pco.counter(np.array(STAMP[:13], np.uint16)) is None
    assert pco.counter(np.array(STAMP, np.float32)) is None


@given(st.sets(st.integers(1, 998), max_size=8), st.integers(0, 10**6), st.integers(1, 5))
def test_every_frame_that_was_dropped_is_found_with_few_reads(lost, begin, step):
    there = [begin + step * i for i in range(1000) if i not in lost]
    reads = 0

    def read(i):
        nonlocal reads
        reads += 1
        return there[i]

    found = pco.dropped(read, len(there))
    missing = {
        begin + step * k
        for position, count in found
        for k in range((there[position] - begin) // step + 1, (there[position] - begin) // step + 1 + count)
    }
    assert missing == {begin + step * i for i in lost}
    assert reads <= 3 + 11 * max(len(lost), 0) + 2


def test_counters_that_run_backwards_prove_nothing():
    assert pco.dropped([5, 4, 3, 2].__getitem__, 4) is None
    assert pco.dropped([1, 2, None, 4, 5].__getitem__, 5) is None
    assert pco.dropped([1, 2].__getitem__, 2) is None
