import subprocess
import sys
import time
from itertools import pairwise

import h5py
import numpy as np
import pytest
from scan_files import COLUMNS, ROWS, frame_values, set_quantity, write_dataexchange, write_nxtomo

from srctd.core.completion import Rule, State, judge
from srctd.core.errors import ScanUnreadable
from srctd.formats import open_scan, probe
from srctd.formats.content import SAMPLE_BYTES, SAMPLES, content_digest, sample_offsets
from srctd.formats.protocol import ReadOptions
from srctd.formats.reader import index_scan

DETECTOR = "entry/instrument/detector"


def chunked(path, place, values, written, chunk=1, **compression):
    """Put a data set of full length into a file, of which only some frames are written."""
    with h5py.File(path, "a") as file:
        if place in file:
            del file[place]
        data = file.create_dataset(
            place, values.shape, values.dtype, chunks=(chunk, *values.shape[1:]), **compression
        )
        for i in written:
            data[i] = values[i]
    return path


def scan_with_holes(tmp_path, written, n=90, flats=2):
    keys = (2, *([1] * flats), *([0] * n))
    path = write_nxtomo(tmp_path / "a.nxs", keys=keys, angles=np.arange(len(keys)) * 2.0)
    return chunked(path, f"{DETECTOR}/data", frame_values(len(keys)), written)


# --- what is announced -----


def test_expectations_say_who_announced_what(tmp_path):
    path = write_nxtomo(tmp_path / "a.nxs")
    set_quantity(path, f"{DETECTOR}/tomo_n", 10)
    (expected,) = probe(path).expectations
    assert (expected.kind, expected.frames) == ("metadata", 15)
    assert f"10 projections by /{DETECTOR}/tomo_n" in expected.text


def test_dataexchange_announces_nothing_by_what_is_there(tmp_path):
    path = write_dataexchange(tmp_path / "a.h5")
    set_quantity(path, "process/acquisition/flat_fields/number", 20)
    set_quantity(path, "process/acquisition/flat_fields/mode", "Both")
    assert probe(path).expectations == ()
    set_quantity(path, "process/acquisition/rotation/num_angles", 5)
    (expected,) = probe(path).expectations
    assert expected.frames == 5 + 40 + 1
    assert "40 flat fields by /process/acquisition/flat_fields/number, mode both" in expected.text


def test_angles_of_frames_that_did_not_come_are_an_announcement(tmp_path):
    path = write_dataexchange(tmp_path / "a.h5", theta=np.arange(8.0))
    (expected,) = probe(path).expectations
    assert (expected.kind, expected.frames) == ("list", 8 + 2 + 1)
    assert judge(probe(path), 20.0, Rule()).state is State.ABORTED


# --- what is there -----


def test_holes_in_the_middle_are_listed(tmp_path):
    path = scan_with_holes(tmp_path, [*range(20), *range(23, 60), *range(61, 80)])
    seen = probe(path)
    assert seen.gaps == ((20, 22), (60, 60))
    assert seen.frames_found == 76
    assert "76 of 93 frames have storage" in seen.checks
    assert seen.coverage.projections == 73
    assert seen.coverage.hole_deg == pytest.approx(2 * 13 + 2)
    assert seen.usable


def test_chunks_of_several_frames_that_were_not_filled(tmp_path):
    path = write_nxtomo(tmp_path / "a.nxs", keys=(2, 1, *[0] * 10))
    chunked(path, f"{DETECTOR}/data", frame_values(12), [0, 1, 2, 3, 4, 9, 10], chunk=4)
    seen = probe(path)
    assert seen.gaps == ((5, 8),)  # every chunk was begun, so all have storage; the pixels tell
    assert seen.frames_found == 7


def test_holes_in_flats_of_their_own(tmp_path):
    path = write_dataexchange(tmp_path / "a.h5", flats=4)
    chunked(path, "exchange/data_white", frame_values(4), [0, 3])
    assert f"2 of 4 flat fields in {path} were not written" in probe(path).missing


def test_hundred_thousand_frames_are_looked_at_in_a_second(tmp_path):
    n = 100_000
    path = write_nxtomo(tmp_path / "a.nxs", keys=(2, 1, *[0] * (n - 2)), data=np.zeros((1, 1, 1), np.uint16))
    with h5py.File(path, "a") as file:
        del file[f"{DETECTOR}/data"]
        data = file[DETECTOR].create_dataset("data", (n, ROWS, COLUMNS), np.uint16, chunks=(1, ROWS, COLUMNS))
        data[...] = frame_values(1)[0]
        file["entry/sample/rotation_angle"][...] = np.linspace(0, 180, n)
    started = time.perf_counter()
    seen = probe(path)
    assert time.perf_counter() - started < 3.0  # 0.5 s on an idle machine
    assert (seen.frames_found, seen.gaps) == (n, ())


@pytest.mark.parametrize(
    ("value", "kind", "blank"), [(7, 0, True), (7, 1, False), (0, 1, True), (7, 2, False)]
)
def test_a_projection_is_blank_at_any_value_a_reference_only_at_the_fill_value(tmp_path, value, kind, blank):
    keys = (2, 1, 0, 0, 0)
    values = frame_values(len(keys))
    values[keys.index(kind)] = value
    seen = probe(write_nxtomo(tmp_path / "a.nxs", keys=keys, data=values))
    assert bool(seen.missing) == blank


def test_dark_fields_of_a_photon_counter_are_zero_and_written(tmp_path):
    keys = (2, 2, 1, 0, 0, 0)
    values = frame_values(len(keys))
    values[:2] = 0
    path = write_nxtomo(tmp_path / "a.nxs", keys=keys)
    assert probe(chunked(path, f"{DETECTOR}/data", values, range(6))).missing == ()


def test_what_is_blank_in_storage_made_in_advance_is_no_coverage(tmp_path):
    keys = (2, 1, *[0] * 90)
    values = frame_values(len(keys))
    values[40:] = 0
    path = write_nxtomo(tmp_path / "a.nxs", keys=keys, data=values, angles=np.arange(len(keys)) * 2.0)
    seen = probe(path)
    assert seen.frames_found == 40
    assert seen.coverage.projections == 38
    assert seen.coverage.hole_deg > 100
    header = index_scan(path, incomplete=True).header
    assert header.n_projections == 38
    assert header.shortfall.gaps == ((38, 89),)


def stamp(counter):
    """The first 14 pixels of a frame of a PCO camera."""
    digits = f"{counter:08d}" + "20261125101530" + "000123"
    return [16 * int(a) + int(b) for a, b in zip(digits[::2], digits[1::2], strict=True)]


def stamped_scan(tmp_path, counters, rows=3, columns=20):
    keys = (2, 1, *[0] * len(counters))
    values = frame_values(len(keys), rows, columns) + 500
    for i, counter in enumerate(counters, 2):
        values[i, 0, :14] = stamp(counter)
    return write_nxtomo(tmp_path / "a.nxs", keys=keys, data=values, angles=np.arange(len(keys)) * 2.0)


def test_counters_of_a_pco_camera_show_frames_that_were_dropped(tmp_path):
    seen = probe(stamped_scan(tmp_path, [*range(1, 41), *range(44, 71), *range(72, 100)]))
    assert seen.gaps == ((41, 43), (71, 71))
    header = index_scan(str(tmp_path / "a.nxs"), incomplete=True).header
    assert "counter jumps over 4 frames" in header.shortfall.reason


@pytest.mark.parametrize("counters", [range(1, 96), range(5, 960, 10)])
def test_counters_without_a_jump(tmp_path, counters):
    seen = probe(stamped_scan(tmp_path, list(counters)))
    assert seen.gaps == ()
    assert f"PCO counters {counters[0]} to {counters[-1]} without a gap" in seen.checks


def test_pixels_that_look_like_no_stamp_are_none(tmp_path):
    values = frame_values(9, 3, 20)
    assert not any("PCO" in check for check in probe(write_nxtomo(tmp_path / "a.nxs", data=values)).checks)


# --- marks, and what a site requires -----


def test_the_superblock_of_a_closed_file_is_a_mark_of_its_own(tmp_path):
    path = write_nxtomo(tmp_path / "a.nxs", end_time="")
    copy = str(tmp_path / "b.nxs")
    with h5py.File(path) as source, h5py.File(copy, "w", libver="v108") as target:
        source.copy("entry", target)
    seen = probe(copy)
    assert seen.open_for_writing is False
    assert [mark.kind for mark in seen.end_marks] == ["superblock"]
    with h5py.File(copy, "a", libver="v108"):
        assert probe(copy).open_for_writing is True


@pytest.mark.parametrize(("word", "aborted"), [("SUCCESS", False), ("USER_ABORT", True), ("FAILURE", True)])
def test_the_reason_of_an_end(tmp_path, word, aborted):
    path = write_nxtomo(tmp_path / "a.nxs")
    set_quantity(path, "entry/end_reason", word)
    assert probe(path).aborted == (f"/entry/end_reason = {word}" if aborted else "")


def test_what_a_site_requires_inside_and_beside_the_file(tmp_path):
    path = write_nxtomo(tmp_path / "a.nxs", end_time="")
    options = ReadOptions(must_have=("/entry/control/data", "*.log"), marker_files=("{name}.done",))
    seen = probe(path, options)
    assert len(seen.missing) == 2
    assert "/entry/control/data, which this site requires" in seen.missing[0]
    set_quantity(path, "entry/control/data", [1.0])
    (tmp_path / "a.log").touch()
    (tmp_path / "a.done").touch()
    seen = probe(path, options)
    assert seen.missing == ()
    assert [(mark.kind, mark.text) for mark in seen.end_marks] == [("marker file", "a.done is there")]


def test_a_file_of_flats_alone_is_no_scan_once_it_ended(tmp_path):
    path = write_nxtomo(tmp_path / "flats.nxs", keys=(2, 1, 1), end_time="")
    assert not probe(path).foreign
    set_quantity(path, "entry/end_time", "2026-01-01")
    seen = probe(path)
    assert seen.foreign
    assert "3 flat and dark fields and no projections" in seen.problem


# --- the digest of the content -----


def test_samples_of_a_large_file(tmp_path):
    size = 100 * SAMPLE_BYTES + 17
    offsets = sample_offsets(size)
    assert (len(offsets), offsets[0], offsets[-1]) == (SAMPLES, 0, size - SAMPLE_BYTES)
    path = tmp_path / "a"
    path.write_bytes(bytes(size))
    before = content_digest([("a", str(path), size)], "today")
    assert content_digest([("a", str(path), size)], "tomorrow") != before
    assert content_digest([("b", str(path), size)], "today") != before
    with path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    assert content_digest([("a", str(path), size)], "today") != before


@pytest.mark.parametrize("size", [0, 1, SAMPLE_BYTES, 5 * SAMPLE_BYTES + 3])
def test_small_files_are_read_whole(size):
    offsets = sample_offsets(size)
    assert offsets[0] == 0
    assert offsets[-1] + SAMPLE_BYTES >= size
    assert all(b - a <= SAMPLE_BYTES for a, b in pairwise(offsets))


# --- incomplete scans -----


@pytest.mark.parametrize(
    ("written", "state"),
    [
        (range(93), State.COMPLETE),
        ([*range(40), *range(42, 93)], State.INCOMPLETE_USABLE),
        (range(90), State.INCOMPLETE_USABLE),
        (range(40), State.ABORTED),
    ],
)
def test_what_is_held_of_a_scan_that_ended_with_frames_missing(tmp_path, written, state):
    assert judge(probe(scan_with_holes(tmp_path, written)), 20.0, Rule()).state is state


def test_of_half_a_field_of_view_the_whole_turn_is_needed(tmp_path):
    for step, state in ((2.0, State.ABORTED), (4.1, State.INCOMPLETE_USABLE)):
        path = scan_with_holes(tmp_path, range(91))
        set_quantity(path, "entry/sample/rotation_angle", np.arange(93) * step)
        assert judge(probe(path), 20.0, Rule()).state is State.INCOMPLETE_USABLE
        set_quantity(path, f"{DETECTOR}/field_of_view", "Half")
        assert judge(probe(path), 20.0, Rule()).state is state


def test_the_frames_that_are_there_with_their_own_angles(tmp_path):
    path = scan_with_holes(tmp_path, [*range(20), *range(23, 60), *range(61, 80)])
    with pytest.raises(ScanUnreadable, match="17 of 93 frames were never written"):
        open_scan(path)
    with open_scan(path, incomplete=True) as scan:
        header = scan.header
        there = [*range(3, 20), *range(23, 60), *range(61, 80)]
        assert (header.n_projections, header.n_flats, header.n_darks) == (73, 2, 1)
        np.testing.assert_allclose(np.degrees(scan.angles()), np.array(there) * 2.0)
        np.testing.assert_array_equal(scan.read("projections", slice(None)), frame_values(93)[there])
    assert header.shortfall.gaps == ((17, 19), (57, 57), (77, 89))
    assert header.shortfall.expected == 90
    assert "73 of 90 projections are there" in header.shortfall.reason


def test_lists_that_are_too_short_leave_the_frames_that_have_both(tmp_path):
    path = write_nxtomo(tmp_path / "a.nxs", keys=(2, 1, 0, 0, 0, 0), angles=np.arange(5.0))
    header = index_scan(path, incomplete=True).header
    assert header.n_projections == 3
    assert "5 rotation angles" in header.shortfall.reason
    set_quantity(path, f"{DETECTOR}/image_key", [2, 1, 0, 0])
    index = index_scan(path, incomplete=True)
    assert index.header.n_projections == 2
    np.testing.assert_allclose(np.degrees(index.angles), [2, 3])


def test_a_whole_scan_taken_as_incomplete_lacks_nothing(tmp_path):
    path = write_nxtomo(tmp_path / "a.nxs")
    assert index_scan(path, incomplete=True) == index_scan(path)


def test_what_cannot_be_made_good_is_refused(tmp_path):
    path = scan_with_holes(tmp_path, [0, *range(3, 60)])
    with pytest.raises(ScanUnreadable, match="no flat fields"):
        index_scan(path, incomplete=True)
    assert not probe(path).usable
    path = write_dataexchange(tmp_path / "a.h5", theta=False)
    with pytest.raises(ScanUnreadable, match="no rotation angle"):
        index_scan(path, incomplete=True)


# --- DataExchange: which projection is which -----


def with_ids(path, ids, flats=2, darks=1):
    """areaDetector's numbers of the frames: darks and flats first."""
    before = int(min(ids)) - flats - darks
    places = (
        [b"/exchange/data_dark"] * darks + [b"/exchange/data_white"] * flats + [b"/exchange/data"] * len(ids)
    )
    set_quantity(path, "defaults/NDArrayUniqueId", [*range(before, before + flats + darks), *ids])
    set_quantity(path, "defaults/HDF5FrameLocation", np.array(places, "S256"))
    return path


def nominal(path, num_angles, old_names=False):
    start, step = ("rotation_start", "rotation_step") if old_names else ("start", "step")
    set_quantity(path, f"process/acquisition/rotation/{start}", 10.0)
    set_quantity(path, f"process/acquisition/rotation/{step}", 0.5)
    set_quantity(path, "process/acquisition/rotation/num_angles", num_angles)
    return path


@pytest.mark.parametrize("old_names", [False, True])
def test_nominal_angles_where_the_count_proves_them(tmp_path, old_names):
    path = nominal(write_dataexchange(tmp_path / "a.h5", theta=False), 5, old_names)
    assert "has no rotation angle" in probe(path).missing[0]
    assert probe(path).usable
    with pytest.raises(ScanUnreadable, match="no rotation angle"):
        index_scan(path)
    index = index_scan(path, incomplete=True)
    np.testing.assert_allclose(np.degrees(index.angles), [10, 10.5, 11, 11.5, 12])
    assert "no rotation angle" in index.header.shortfall.reason
    assert any("nominal angles" in note for note in index.header.notes)


def test_nominal_angles_are_refused_where_frames_may_be_lost_anywhere(tmp_path):
    path = nominal(write_dataexchange(tmp_path / "a.h5", theta=False), 6)
    assert not probe(path).usable
    with pytest.raises(ScanUnreadable, match="no rotation angle"):
        index_scan(path, incomplete=True)


def test_nominal_angles_by_the_cameras_numbers(tmp_path):
    path = nominal(write_dataexchange(tmp_path / "a.h5", theta=False), 9)
    with_ids(path, [103, 104, 107, 108, 109])
    seen = probe(path)
    assert seen.gaps == ((2, 3),)
    index = index_scan(path, incomplete=True)
    np.testing.assert_allclose(np.degrees(index.angles), [10, 10.5, 12, 12.5, 13])
    assert index.header.shortfall.gaps == ((2, 3), (7, 8))
    assert not probe(with_ids(path, [103, 104, 107, 108, 119])).usable


def test_angles_of_all_triggers_are_matched_by_the_cameras_numbers(tmp_path):
    path = write_dataexchange(tmp_path / "a.h5", theta=np.arange(8) * 20.0)
    with_ids(path, [50, 51, 54, 55, 57])
    with pytest.raises(ScanUnreadable, match="8 rotation angles"):
        index_scan(path)
    index = index_scan(path, incomplete=True)
    np.testing.assert_allclose(np.degrees(index.angles), [0, 20, 80, 100, 140])


def test_angles_of_the_frames_in_the_file_stay_theirs(tmp_path):
    path = with_ids(write_dataexchange(tmp_path / "a.h5"), [50, 51, 54, 55, 57])
    assert probe(path).gaps == ((2, 3), (6, 6))
    np.testing.assert_allclose(np.degrees(index_scan(path, incomplete=True).angles), np.arange(5) * 30.0)


def test_holes_in_the_files_of_which_frames_are_assembled(tmp_path):
    layout = h5py.VirtualLayout((12, ROWS, COLUMNS), np.uint16)
    for i in range(2):
        name = f"part{i}.h5"
        with h5py.File(tmp_path / name, "w"):
            pass
        written = [0, 1, 2, 5] if i else range(6)
        chunked(tmp_path / name, "data", frame_values(12)[6 * i : 6 * i + 6], written)
        layout[6 * i : 6 * i + 6] = h5py.VirtualSource(name, "data", (6, ROWS, COLUMNS))
    path = write_nxtomo(tmp_path / "a.nxs", keys=(2, 1, *[0] * 10))
    with h5py.File(path, "a") as file:
        del file[f"{DETECTOR}/data"]
        file[DETECTOR].create_virtual_dataset("data", layout)
    seen = probe(path)
    assert (seen.frames_found, seen.gaps) == (10, ((9, 10),))
    assert index_scan(path, incomplete=True).header.shortfall.gaps == ((7, 8),)


SWMR_WRITER = """
import os, sys
import h5py, numpy as np
with h5py.File(sys.argv[1], "a", libver="latest") as file:
    data = file["entry/instrument/detector/data"]
    file.swmr_mode = True
    for i in range(40):
        data[i] = np.arange(24).reshape(4, 6) + i
        data.flush()
    os._exit(9)
"""


def test_a_writer_that_died_leaves_a_scan_that_can_be_taken_as_incomplete(tmp_path):
    older = write_nxtomo(
        tmp_path / "older.nxs", keys=(2, 1, *[0] * 90), angles=np.arange(92) * 2.0, end_time=""
    )
    path = str(tmp_path / "a.nxs")
    with h5py.File(older) as source, h5py.File(path, "w", libver="latest") as target:
        source.copy("entry", target)
        del target[f"{DETECTOR}/data"]
        target[DETECTOR].create_dataset("data", (92, ROWS, COLUMNS), np.uint16, chunks=(1, ROWS, COLUMNS))
    assert subprocess.run([sys.executable, "-c", SWMR_WRITER, path], check=False).returncode == 9
    seen = probe(path)
    assert (seen.readable, seen.open_for_writing, seen.frames_found) == (True, True, 40)
    assert judge(seen, 100.0, Rule()).state is State.ARRIVING
    assert judge(seen, 400.0, Rule()).state is State.STALLED  # 76 of 180 degrees
    with open_scan(path, incomplete=True) as scan:
        assert scan.header.n_projections == 38
        assert scan.read("projections", slice(0, 1)).shape == (38, 1, COLUMNS)
