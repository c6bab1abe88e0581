"""What is said of incomplete scans, and the index by which workers read them."""

import pytest
from factories import a_header

from srctd.core.completion import State, Verdict
from srctd.core.frames import FrameIndex, Segment, is_index, rebased
from srctd.core.labels import is_partial, labeled, missing_projections, ranges_text, sentence
from srctd.core.scan import Quantity, Series, Shortfall

CLOSED = "the HDF5 superblock says that the file is open for writing"
NEVER_CLOSED = Verdict(state=State.INCOMPLETE_USABLE, reason="r", evidence=(), missing=(CLOSED,))
WHOLE = Verdict(state=State.COMPLETE, reason="all is there", evidence=())
SERIES = Series(name="/d/fatigue", member=2, origin="names like fatigue_003")


@pytest.mark.parametrize(
    ("state", "by_operator", "partial"),
    [
        (State.COMPLETE, False, False),
        (State.COMPLETE, True, True),
        (State.INCOMPLETE_USABLE, False, True),
        (State.ABORTED, False, False),
        (State.ABORTED, True, True),
        (State.STALLED, False, False),
        (State.STALLED, True, True),
    ],
)
def test_what_is_there_is_taken_where_it_suffices_or_somebody_wants_it(
    state: State, by_operator: bool, partial: bool
) -> None:
    assert is_partial(state, by_operator) is partial


def test_the_readers_own_shortfall_goes_first() -> None:
    known = Shortfall(reason="150 of 180 projections are there", expected=180, gaps=((150, 179),))
    header = labeled(a_header(n_projections=150, shortfall=known), NEVER_CLOSED, partial=True)
    assert header.shortfall is known
    assert sentence(known) == "incomplete: 150 of 180 projections are there"
    assert missing_projections(header) == 30


def test_a_partial_scan_always_has_a_shortfall() -> None:
    header = labeled(a_header(expected_projections=180), NEVER_CLOSED, partial=True)
    assert header.shortfall == Shortfall(reason=CLOSED, expected=180)
    assert labeled(a_header(), WHOLE, partial=False).shortfall is None


def test_names_tell_of_series_and_place_what_the_file_does_not() -> None:
    row = {"row": Quantity(value=1.0, unit="", origin="name")}
    header = labeled(a_header(), WHOLE, partial=False, series=SERIES, positions=row)
    assert (header.series, header.positions) == (SERIES, row)
    own = a_header(series=Series(name="a", member=0, members=3, origin="rotation angles"))
    assert labeled(own, WHOLE, partial=False, series=SERIES).series == own.series


def test_how_many_are_missing() -> None:
    assert missing_projections(a_header()) is None
    gaps = Shortfall(reason="", gaps=((3, 3), (7, 9)))
    assert missing_projections(a_header(shortfall=gaps)) == 4
    assert missing_projections(a_header(shortfall=Shortfall(reason=""))) is None
    assert ranges_text(gaps.gaps) == "3, 7-9"


@pytest.mark.parametrize("name", ["frames.json", "frames-2.json", "frames-13.json"])
def test_an_index_is_known_by_its_name(name: str) -> None:
    assert is_index(name)


@pytest.mark.parametrize(
    "name", ["frames.json.bak", "frames-x.json", "my-frames.json", "frames", "frames2.json"]
)
def test_other_names_are_no_index(name: str) -> None:
    assert not is_index(name)


def index_of(*files: str) -> FrameIndex:
    return FrameIndex(
        header=a_header(n_projections=len(files)),
        dtype="<u2",
        projections=tuple(Segment(container="tiff", file=file) for file in files),
        flats=(Segment(container="constant", value=1.0),),
        angles=tuple(float(i) for i in range(len(files))),
    )


def files_of(index: FrameIndex) -> list[str]:
    return [segment.file for segment in index.projections]


def test_names_count_from_the_folder_where_they_lie_in_it() -> None:
    index = index_of("tif/a.tif", "../input/b.tif", "/elsewhere/c.tif", "/shared/taskful/d.tif")
    moved = rebased(index, "/shared/task/input", "/shared/task")
    assert files_of(moved) == ["input/tif/a.tif", "input/b.tif", "/elsewhere/c.tif", "/shared/taskful/d.tif"]
    assert moved.flats == index.flats


def test_without_a_folder_names_are_full() -> None:
    assert files_of(rebased(index_of("a.tif"), "/data/scan")) == ["/data/scan/a.tif"]
