from pathlib import Path

import h5py
import numpy as np
import pytest
from scan_files import (
    COLUMNS,
    KEYS,
    ROWS,
    frame_values,
    set_quantity,
    truncate,
    write_dataexchange,
    write_nxtomo,
)

from srctd.core.completion import Rule, State, expected_frames, judge
from srctd.core.errors import ScanUnreadable
from srctd.formats import open_scan, probe
from srctd.formats.hdf5 import open_for_writing

DETECTOR = "entry/instrument/detector"
SETTLED = 60.0
"""Longer than both settle times, shorter than the time to be called stalled."""


def verdict(path):
    """State of a scan that has not changed for a minute."""
    return judge(probe(str(path)), SETTLED, Rule()).state


def ends(seen):
    """What says that the acquisition ended."""
    return [mark.text for mark in seen.end_marks]


def counts(path):
    """Frames found and frames expected."""
    seen = probe(str(path))
    expected = expected_frames(seen, Rule())
    return seen.frames_found, expected.frames if expected else None


def without(path, *places):
    """The same file without some of its data sets."""
    with h5py.File(path, "a") as file:
        for place in places:
            del file[place]
    return path


# --- complete -----


@pytest.mark.parametrize("marked", [True, False])
def test_whole_files_are_complete_with_or_without_an_end_marker(tmp_path, marked):
    seen = probe(write_nxtomo(tmp_path / "a.nxs", end_time="2026-01-01" if marked else ""))
    assert (seen.frames_found, seen.expectations) == (9, ())
    assert ends(seen) == (["/entry/end_time = 2026-01-01"] if marked else [])
    assert verdict(tmp_path / "a.nxs") is State.COMPLETE
    seen = probe(write_dataexchange(tmp_path / "a.h5", end_date="2026-01-01" if marked else ""))
    assert (seen.frames_found, seen.expectations) == (8, ())
    assert verdict(tmp_path / "a.h5") is State.COMPLETE


def test_the_end_of_the_entry_around_counts(tmp_path):
    path = write_nxtomo(tmp_path / "a.nxs", entry="entry1/tomo_entry", end_time="")
    set_quantity(path, "entry1/end_time", ["2026-01-01"])
    assert ends(probe(path)) == ["/entry1/end_time = 2026-01-01"]


def test_an_unfinished_gda_scan_has_no_end_though_its_field_is_there(tmp_path):
    path = write_nxtomo(tmp_path / "a.nxs", end_time="")
    set_quantity(path, "entry/end_time", np.bytes_(b"\0" * 8))
    assert ends(probe(path)) == []
    set_quantity(path, "entry/diamond_scan/scan_finished", 0)
    set_quantity(path, "entry/end_time", "2026-01-01")
    assert ends(probe(path)) == []
    set_quantity(path, "entry/diamond_scan/scan_finished", [1])
    assert ends(probe(path)) == ["/entry/end_time = 2026-01-01", "/entry/diamond_scan/scan_finished = 1"]


# --- what waiting cannot heal is left to the reader, which names it -----


@pytest.mark.parametrize(
    "wrong",
    [
        {"data": np.ones((len(KEYS), 24), np.uint16)},
        {"angles": np.full(len(KEYS), np.nan)},
        {"keys": (2, 0, 0)},
    ],
    ids=["rank", "nan", "no flats"],
)
def test_a_wrong_but_finished_scan_is_complete_and_refused_by_the_reader(tmp_path, wrong):
    path = write_nxtomo(tmp_path / "a.nxs", **wrong)
    seen = probe(path)
    assert seen.readable
    assert seen.missing == ()
    assert verdict(path) is State.COMPLETE
    with pytest.raises(ScanUnreadable):
        open_scan(path)


# --- what may still come -----


def test_data_sets_that_are_not_there_yet(tmp_path):
    path = without(write_nxtomo(tmp_path / "a.nxs", end_time=""), "entry/sample/rotation_angle")
    assert "has no rotation angle" in probe(path).missing[0]
    without(path, f"{DETECTOR}/image_key", f"{DETECTOR}/data")
    assert len(probe(path).missing) == 3
    assert verdict(path) is State.ARRIVING


def test_missing_theta_is_waited_for_even_after_the_end_date(tmp_path):
    path = write_dataexchange(tmp_path / "a.h5", theta=False)
    assert ends(probe(path))
    assert verdict(path) is State.ARRIVING


def test_a_missing_external_file_is_named_as_missing_and_as_a_reference(tmp_path):
    path = write_nxtomo(tmp_path / "a.nxs", data=h5py.ExternalLink("frames.h5", "/data"))
    seen = probe(path)
    assert "frames.h5, which does not exist" in seen.missing[0]
    assert seen.references == (str(tmp_path / "frames.h5"),)
    assert verdict(path) is State.ARRIVING
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        file["data"] = frame_values(len(KEYS))
    assert verdict(path) is State.COMPLETE


def test_fewer_frames_than_the_file_announces(tmp_path):
    path = write_nxtomo(tmp_path / "a.nxs")
    set_quantity(path, f"{DETECTOR}/tomo_n", 10)
    assert counts(path) == (9, 15)
    assert verdict(path) is State.ABORTED  # the end is marked

    path = write_dataexchange(tmp_path / "a.h5", **{"process/acquisition/rotation/num_angles": 5})
    assert verdict(path) is State.COMPLETE
    set_quantity(path, "process/acquisition/flat_fields/number", 2)
    set_quantity(path, "process/acquisition/flat_fields/mode", "Both")
    assert counts(path) == (8, 10)
    assert verdict(path) is State.ABORTED


@pytest.mark.parametrize("short", ["sample/rotation_angle", "instrument/detector/image_key"])
def test_lists_that_lag_behind_the_frames_until_the_end_is_marked(tmp_path, short):
    path = write_nxtomo(tmp_path / "a.nxs", end_time="")
    set_quantity(path, f"entry/{short}", np.linspace(0, 90, 8))
    assert "for 9 frames" in probe(path).missing[0]
    set_quantity(path, f"entry/{short}", np.linspace(0, 90, 12))
    assert counts(path) == (9, 12)
    assert probe(path).expectations[0].kind == "list"
    assert verdict(path) is State.ARRIVING


def test_chunks_that_were_not_written(tmp_path):
    path = without(write_nxtomo(tmp_path / "a.nxs"), f"{DETECTOR}/data")
    with h5py.File(path, "a") as file:
        shape = (len(KEYS), ROWS, COLUMNS)
        data = file[DETECTOR].create_dataset("data", shape, np.uint16, chunks=(1, ROWS, 3))
        data[:4] = frame_values(4)
    assert counts(path) == (4, 9)
    assert verdict(path) is State.ABORTED
    assert verdict(without(path, "entry/end_time")) is State.ARRIVING


def test_frames_that_have_storage_but_were_not_written(tmp_path):
    values = frame_values(len(KEYS))
    values[5:] = 0
    path = write_nxtomo(tmp_path / "a.nxs", data=values)
    assert probe(path).missing == (
        f"frame 5 of /{DETECTOR}/data in {path} holds nothing but 0",
        f"frame 8 of /{DETECTOR}/data in {path} holds nothing but 0",
        f"frame 7 of /{DETECTOR}/data in {path} holds nothing but 0",
    )
    assert counts(path) == (6, 9)  # one of those that are there is marked as an alignment image
    values[5:, 0, 0] = 1
    assert verdict(write_nxtomo(tmp_path / "b.nxs", data=values)) is State.COMPLETE


def test_a_truncated_file_may_still_grow(tmp_path):
    path = truncate(write_nxtomo(tmp_path / "a.nxs"), 4000)
    seen = probe(path)
    assert not seen.readable
    assert "truncated" in seen.problem
    assert verdict(path) is State.ARRIVING


def test_the_superblock_tells_of_a_writer(tmp_path):
    path = str(tmp_path / "a.h5")
    with h5py.File(path, "w", libver="latest") as file:
        assert open_for_writing(path) is True
        assert not probe(path).readable
        file["x"] = 1
    assert open_for_writing(path) is False
    with h5py.File(path, "w", libver="earliest"):
        pass
    assert open_for_writing(path) is None
    assert open_for_writing(str(tmp_path / "gone")) is None


# --- what is no scan -----


def test_a_file_without_tomography_is_foreign(tmp_path):
    path = str(tmp_path / "a.h5")
    with h5py.File(path, "w") as file:
        file["entry/detector/detector"] = frame_values(3)
    seen = probe(path)
    assert seen.foreign
    assert "no NXtomo entry" in seen.problem


def test_a_file_that_was_just_begun_is_not_foreign(tmp_path):
    path = str(tmp_path / "a.h5")
    with h5py.File(path, "w") as file:
        pass
    assert verdict(path) is State.ARRIVING
    with h5py.File(path, "a") as file:
        file.create_group("entry").attrs["NX_class"] = "NXentry"
        file["entry/start_time"] = "2026-01-01"
    assert verdict(path) is State.ARRIVING
    set_quantity(path, "entry/end_time", "2026-01-01")
    assert verdict(path) is State.FOREIGN


def test_files_that_cannot_be_opened(tmp_path):
    (tmp_path / "text.h5").write_text("no")
    for name in ("text.h5", "gone.h5", "."):
        seen = probe(str(tmp_path / name))
        assert not seen.readable
        assert str(tmp_path) in seen.problem


@pytest.mark.parametrize("tail", ["cut off", "zeros"])
def test_a_file_that_has_not_arrived_to_its_end_never_raises(tmp_path, tail):
    """A copy that grows, or that got its size in advance: there is a sentence, or a scan to look at."""
    whole = Path(write_nxtomo(tmp_path / "a.nxs")).read_bytes()
    half = tmp_path / "half.nxs"
    for arrived in range(16, len(whole), 331):
        half.write_bytes(whole[:arrived] + bytes(len(whole) - arrived if tail == "zeros" else 0))
        seen = probe(str(half))
        assert seen.readable or str(half) in seen.problem
        if tail == "cut off":
            assert judge(seen, SETTLED, Rule()).state is State.ARRIVING
