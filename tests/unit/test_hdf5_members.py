from itertools import pairwise

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scan_files import frame_values, set_quantity, write_dataexchange, write_nxtomo

from srctd.core.completion import Message, Rule, State, judge, with_message
from srctd.core.errors import ScanUnreadable
from srctd.formats import open_scan, probe
from srctd.formats.reader import index_scan
from srctd.formats.rotations import rotations


def lengths(degrees, period=None):
    return [part.stop - part.start for part in rotations(np.asarray(degrees, float), period)]


@pytest.mark.parametrize(
    ("degrees", "period", "expected"),
    [
        (np.arange(0, 180, 2), None, [90]),
        (np.arange(0, 360, 2), None, [180]),
        (np.arange(0, 540, 2), None, [270]),
        (np.arange(0, 720, 2), None, [180, 180]),
        (np.arange(0, -720, -2), None, [180, 180]),
        (np.arange(30, 30 + 1080, 2), None, [180, 180, 180]),
        (np.arange(0, 900, 2), None, [180, 180, 90]),
        (np.arange(0, 800, 2), None, [180, 180]),
        (np.arange(0, 720, 2), 180.0, [90, 90, 90, 90]),
        (np.arange(0, 360, 2), 180.0, [90, 90]),
        (np.arange(0, 720, 2) % 360, None, [180, 180]),
        (np.tile(np.arange(0, 180, 2), 4), None, [360]),
        (np.concatenate([np.arange(0, 400, 2), np.arange(400, 0, -2)]), None, [400]),
        (np.arange(3) * 300.0, None, [3]),
    ],
)
def test_a_dynamic_scan_is_split_by_the_rule(degrees, period, expected):
    assert lengths(degrees, period) == expected


def test_angles_of_an_encoder_jitter():
    rng = np.random.default_rng(0)
    assert lengths(np.arange(0, 1080, 0.5) + rng.normal(0, 0.05, 2160)) == pytest.approx([720] * 3, abs=2)


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=60))
def test_members_never_overlap_and_never_leave_the_scan(degrees):
    parts = rotations(np.array(degrees))
    ends = [(part.start, part.stop) for part in parts]
    assert ends[0][0] == 0
    assert all(a[1] == b[0] for a, b in pairwise(ends))
    assert ends[-1][1] <= len(degrees)


def test_every_rotation_is_a_member_and_shares_the_references(tmp_path):
    keys = (2, 1, *[0] * 40)
    angles = np.concatenate([[0, 0], np.arange(40) * 18.0])
    path = write_nxtomo(tmp_path / "dynamic.nxs", keys=keys, angles=angles)
    assert probe(path).members == 2
    for member in (0, 1):
        with open_scan(path, member=member) as scan:
            header = scan.header
            assert (header.n_projections, header.n_flats, header.n_darks) == (20, 1, 1)
            assert (header.series.name, header.series.member, header.series.members) == ("dynamic", member, 2)
            assert header.series.origin == "rotation angles"
            first = 2 + 20 * member
            np.testing.assert_array_equal(
                scan.read("projections", slice(None)), frame_values(42)[first : first + 20]
            )
            assert np.degrees(scan.angles()[0]) == pytest.approx(360 * member)
    with pytest.raises(ScanUnreadable, match="holds 2 scans; there is no number 2"):
        index_scan(path, member=2)


def test_the_range_of_a_member_that_the_file_gives_counts(tmp_path):
    path = write_dataexchange(tmp_path / "a.h5", projections=20, theta=np.arange(20) * 18.0)
    assert probe(path).members == 1
    set_quantity(path, "process/acquisition/rotation/range", 180.0)
    assert probe(path).members == 2
    assert index_scan(path, member=1).header.n_projections == 10


def test_entries_of_a_file_are_members_and_lend_their_flats(tmp_path):
    path = write_nxtomo(tmp_path / "series.h5", entry="entry0000")
    write_nxtomo(path, entry="entry0001", keys=(0, 0, 0), mode="a")
    seen = probe(path)
    assert seen.members == 2
    assert seen.frames_found == 12
    assert seen.usable
    header = index_scan(path, member=1).header
    assert (header.entry, header.n_projections, header.n_flats, header.n_darks) == ("/entry0001", 3, 2, 1)
    assert (header.series.name, header.series.member, header.series.members) == ("series", 1, 2)
    assert any("those of /entry0000" in note for note in header.notes)
    with open_scan(path, member=1) as scan:
        np.testing.assert_array_equal(scan.read("flats", slice(None)), frame_values(9)[[1, 7]])
    assert index_scan(path, "entry0000").header.series is None


def test_a_file_of_entries_is_complete_when_each_of_them_is(tmp_path):
    path = write_nxtomo(tmp_path / "series.h5", entry="entry0000")
    write_nxtomo(path, entry="entry0001", end_time="", mode="a")
    set_quantity(path, "entry0001/instrument/detector/tomo_n", 7)
    seen = probe(path)
    assert seen.end_marks == ()
    (expected,) = seen.expectations
    assert expected.frames == 9 + 7 + 5
    with h5py.File(path, "a") as file:
        del file["entry0001/sample/rotation_angle"]
    assert not probe(path).usable
    assert "entry0001/sample/rotation_angle" in probe(path).missing[0]


def test_positions_are_those_of_the_stage_with_a_unit(tmp_path):
    path = write_nxtomo(tmp_path / "a.nxs")
    set_quantity(path, "entry/sample/x_translation", np.full(9, -1.5), "mm")
    set_quantity(path, "entry/sample/y_translation", np.arange(9.0), "mm")
    set_quantity(path, "entry/sample/z_translation", 12.0)
    header = index_scan(path).header
    assert list(header.positions) == ["x"]
    assert header.positions["x"].value == pytest.approx(-1.5e-3)
    assert any("z_translation has no unit" in note for note in header.notes)
    path = write_dataexchange(tmp_path / "a.h5")
    for axis, value in (("x", 0.0), ("z", 3.0)):
        set_quantity(path, f"measurement/instrument/sample_motor_stack/setup/{axis}", value, "mm")
    positions = index_scan(path).header.positions
    assert {axis: position.value for axis, position in positions.items()} == {"x": 0.0, "z": 3e-3}


@pytest.mark.parametrize(
    ("lost", "state", "told"),
    [
        ((400, 440), State.INCOMPLETE_USABLE, "at least 80 projections in each of 3 members"),
        ((400, 500), State.INCOMPLETE_USABLE, "at least 65 projections in each of 3 members"),
        ((400, 620), State.ABORTED, "no gap wider than 44.0 degrees"),
        ((360, 720), State.ABORTED, "no projections with known angles"),
    ],
)
def test_what_one_rotation_lacks_another_does_not_give(tmp_path, lost, state, told):
    degrees = np.arange(0, 1080, 4.0)
    degrees = degrees[(degrees < lost[0]) | (degrees >= lost[1])]
    path = write_nxtomo(
        tmp_path / "dynamic.nxs", keys=(2, 1, *[0] * len(degrees)), angles=[0, 0, *degrees.tolist()]
    )
    seen = with_message(probe(path), Message(aborted="beam lost"))
    verdict = judge(seen, 1000.0, Rule())
    assert verdict.state is state
    assert told in verdict.reason


def test_a_rotation_that_is_not_there_at_all_is_said_to_be_missing(tmp_path):
    degrees = [angle for angle in np.arange(0.0, 1080.0, 4.0).tolist() if not 360 <= angle < 720]
    path = write_nxtomo(tmp_path / "dynamic.nxs", keys=(2, 1, *[0] * len(degrees)), angles=[0, 0, *degrees])
    assert index_scan(path, member=2).header.n_projections == 90
    for incomplete in (False, True):
        with pytest.raises(ScanUnreadable, match="no projection of member 1 of 3 is there"):
            index_scan(path, member=1, incomplete=incomplete)
