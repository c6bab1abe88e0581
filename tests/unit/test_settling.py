"""What has most likely settled of a scan that is being acquired."""

from hypothesis import given
from hypothesis import strategies as st

from srctd.core.scan import FileEntry
from srctd.core.settling import GAPS, Settling

BLOCK = 8
PAUSE = 1.0


def settling() -> Settling:
    return Settling(PAUSE, BLOCK)


def file(path: str, size: int, mtime: int = 0) -> FileEntry:
    return FileEntry(path=path, size=size, mtime_ns=mtime)


def test_what_was_there_a_while_ago_is_settled_in_whole_blocks() -> None:
    looks = settling()
    looks.look([file("a.h5", 20, 0)], 0.0)
    assert not looks.due
    looks.look([file("a.h5", 30, 1)], 1.0)
    assert looks.take().upto == {"a.h5": 16}
    looks.look([file("a.h5", 31, 2)], 1.5)
    assert not looks.due, "30 bytes are there for half a second only"
    looks.look([file("a.h5", 100, 3)], 2.0)
    taken = looks.take()
    assert taken.upto == {"a.h5": 24}
    assert [entry.size for entry in taken.files] == [100], "as it was seen last"
    assert not looks.due


def test_a_file_that_is_left_alone_is_settled_as_a_whole() -> None:
    looks = settling()
    looks.look([file("a.h5", 20)], 0.0)
    looks.wait(0.9)
    assert not looks.due
    looks.wait(1.0)
    assert looks.take().upto == {"a.h5": 20}


def test_an_empty_file_is_settled_too() -> None:
    looks = settling()
    looks.look([file("a.done", 0)], 0.0)
    looks.wait(1.0)
    assert looks.take().upto == {"a.done": 0}


def test_a_file_that_makes_pauses_is_given_more_time() -> None:
    looks = settling()
    for second in range(0, 9, 2):
        looks.look([file("a.h5", 10 + second, second)], float(second))
    looks.take()
    looks.wait(8.0 + GAPS * 2.0 - 0.1)
    assert not looks.due
    looks.wait(8.0 + GAPS * 2.0)
    assert looks.take().upto == {"a.h5": 18}


def test_a_frame_is_settled_when_the_next_ones_are_there() -> None:
    looks = settling()
    looks.look([file("a_1.tif", 20)], 0.0)
    looks.look([file("a_1.tif", 20), file("a_2.tif", 5)], 0.1)
    assert looks.take().upto == {"a_1.tif": 20}
    looks.look([file("a_1.tif", 20), file("a_2.tif", 20, 1), file("a_3.tif", 5)], 0.2)
    assert not looks.due, "the second was still written when the third was begun"


def test_a_log_that_comes_after_the_frames_says_nothing_of_them() -> None:
    looks = settling()
    looks.look([file("a.h5", 20)], 0.0)
    looks.look([file("a.h5", 20), file("a.log", 5)], 0.1)
    assert not looks.due


def test_a_file_that_goes_on_is_open_again() -> None:
    looks = settling()
    looks.look([file("a.h5", 20)], 0.0)
    looks.wait(5.0)
    assert looks.take().upto == {"a.h5": 20}
    looks.look([file("a.h5", 33, 1)], 9.0)
    taken = looks.take()
    assert taken.upto == {"a.h5": 16}
    assert not taken.withdrawn
    looks.wait(10.0)
    assert looks.take().upto == {"a.h5": 33}


def test_a_file_written_in_place_settles_when_that_ends() -> None:
    looks = settling()
    for second in range(5):
        looks.look([file("a.raw", 40, second)], float(second))
        assert not looks.due
    looks.wait(5.0)
    looks.wait(4.0 + GAPS)
    assert looks.take().upto == {"a.raw": 40}


def test_what_is_begun_anew_or_gone_is_withdrawn() -> None:
    looks = settling()
    looks.look([file("a", 20), file("b", 20), file("c", 20)], 0.0)
    looks.wait(1.0)
    looks.take()
    looks.look([file("a", 10, 1), file("c", 20, 1)], 2.0)
    taken = looks.take()
    assert taken.withdrawn == {"a", "b", "c"}
    assert taken.upto == {}
    looks.wait(3.0)
    assert looks.take().upto == {"a": 10, "c": 20}


def test_all_of_it_can_be_had_again() -> None:
    looks = settling()
    looks.look([file("a", 20), file("b", 20)], 0.0)
    looks.wait(1.0)
    first = looks.take()
    looks.again()
    assert looks.take() == first


SIZES = st.lists(st.integers(0, 60), min_size=1, max_size=12)


@given(SIZES, st.lists(st.floats(0.05, 3.0), min_size=12, max_size=12), st.booleans())
def test_nothing_settles_that_was_not_there_before(sizes: list[int], steps: list[float], grows: bool) -> None:
    if grows:
        sizes = sorted(sizes)
    looks, at, before, settled = settling(), 0.0, 0, 0
    for number, (size, step) in enumerate(zip(sizes, steps, strict=False)):
        looks.look([file("a.h5", size, number)], at)
        taken = looks.take()
        upto = 0 if taken.withdrawn else taken.upto.get("a.h5", settled)
        assert upto <= before, "more than an earlier look saw"
        assert upto <= size
        assert upto == size or upto % BLOCK == 0
        if grows:
            assert upto >= settled // BLOCK * BLOCK, "less than before, though it only grew"
        settled, before, at = upto, max(before, size), at + step
    looks.wait(at + 100.0)
    assert looks.take().upto.get("a.h5", settled) == sizes[min(len(sizes), len(steps)) - 1]


@given(st.integers(1, 40), st.integers(0, 5))
def test_a_stack_settles_frame_by_frame(frames: int, late: int) -> None:
    """Whatever was handed out, once: every frame as soon as the next one is there, the last ones with time."""
    looks, handed = settling(), []
    for number in range(1, frames + 1):
        looks.look([file(f"f_{n}.tif", 10, n) for n in range(number)], 0.3 * number)
        handed += list(looks.take().upto)
    assert handed == [f"f_{n}.tif" for n in range(frames - 1)]
    looks.wait(0.3 * frames + PAUSE + late)
    handed += list(looks.take().upto)
    assert handed == [f"f_{n}.tif" for n in range(frames)]
