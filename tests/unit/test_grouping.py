"""Names in folders, divided into scans."""

import re

import pytest

from srctd.core.grouping import group, scan_folder, sole_stem
from srctd.core.series import positions_of, series_of

TOP = "/d"
WANTED = re.compile(r".*\.(h5|nxs|tiff?|edf|raw)", re.IGNORECASE).fullmatch


def grouped(files, folder=None):
    groups, problem = group(folder or next(iter(files)), files, WANTED, TOP)
    return {found.path: [f"{holder}/{name}" for holder, name in found.members] for found in groups}, problem


@pytest.mark.parametrize(
    ("folder", "scan"),
    [
        ("/d/a/tif", "/d/a"),
        ("/d/a/TIF", "/d/a"),
        ("/d/a", "/d/a"),
        ("/d/p05/scan_0002/ccd/pco01", "/d/p05"),
        ("/d/tif", "/d"),
        ("/d", "/d"),
    ],
)
def test_a_role_folder_belongs_to_the_scan_around_it(folder, scan):
    assert scan_folder(folder, TOP) == scan


def test_every_hdf5_file_is_a_scan_with_the_files_of_its_name():
    found, problem = grouped({"/d": ["a.h5", "b.h5", "a.h5.done", "a.log", "ab.log", "notes.txt"]})
    assert found == {"/d/a.h5": ["/d/a.h5", "/d/a.h5.done", "/d/a.log"], "/d/b.h5": ["/d/b.h5"]}
    assert problem == ""


def test_a_stack_has_the_frames_the_log_and_all_in_the_role_folders():
    files = {"/d/s": ["s.log", "flat_1.tiff"], "/d/s/tiffs": ["p_1.tiff", "p_2.tiff", "x.txt"]}
    found, _ = grouped(files)
    assert found == {
        "/d/s": [
            "/d/s/flat_1.tiff",
            "/d/s/s.log",
            "/d/s/tiffs/p_1.tiff",
            "/d/s/tiffs/p_2.tiff",
            "/d/s/tiffs/x.txt",
        ]
    }


def test_an_hdf5_scan_in_the_folder_of_a_stack_is_one_of_its_own():
    found, _ = grouped({"/d/s": ["a_1.tif", "twin.nxs"]})
    assert found == {"/d/s": ["/d/s/a_1.tif"], "/d/s/twin.nxs": ["/d/s/twin.nxs"]}


def test_several_stacks_in_a_folder_are_told_apart_by_their_headers():
    names = ["a.sct", "a_0001.tif", "ab.sct", "ab_0001.tif", "ab_0002.tif", "readme.log"]
    found, _ = grouped({"/d/s": names})
    assert found == {
        "/d/s/a.sct": ["/d/s/a.sct", "/d/s/a_0001.tif"],
        "/d/s/ab.sct": ["/d/s/ab.sct", "/d/s/ab_0001.tif", "/d/s/ab_0002.tif"],
    }


def test_one_header_alone_describes_the_folder():
    found, _ = grouped({"/d/s": ["a.log", "a_1.tif", "config.json", "other_1.tif"]})
    assert list(found) == ["/d/s"]


def test_frames_in_the_watched_folder_itself_are_named_as_a_problem():
    found, problem = grouped({"/d": ["a_1.tif", "b.h5"]})
    assert list(found) == ["/d/b.h5"]
    assert "a_1.tif lie directly in the watched folder" in problem
    assert "a folder of its own" in problem


def test_with_headers_they_are_no_problem():
    found, problem = grouped({"/d": ["a.log", "a1.tif", "b.log", "b1.tif"]})
    assert list(found) == ["/d/a.log", "/d/b.log"]
    assert problem == ""


def test_one_header_is_enough_in_the_watched_folder_itself():
    found, problem = grouped({"/d": ["a.sct", "a_1.tif", "a_2.tif", "notes.log"]})
    assert found == {"/d/a.sct": ["/d/a.sct", "/d/a_1.tif", "/d/a_2.tif"]}
    assert problem == ""


@pytest.mark.parametrize("folder", ["/d", "/d/s"])
def test_frames_that_no_header_owns_are_named_as_a_problem(folder):
    found, problem = grouped({folder: ["a.sct", "a_1.tif", "b.sct", "b_1.tif", "other_1.tif", "other_2.tif"]})
    assert list(found) == [f"{folder}/a.sct", f"{folder}/b.sct"]
    assert problem.startswith(f"{folder}: frames such as other_1.tif belong to none of the header files")


@pytest.mark.parametrize(
    ("names", "stem"),
    [
        (["a.sct", "a_1.tif", "a_2.tif", "notes.txt"], "a"),
        (["a.log", "ab.log", "ab1.tif", "ab2.tif"], "ab"),
        (["a.sct", "a_1.tif", "b_1.tif"], ""),
        (["a.log", "tif/a_1.tif"], ""),
        (["a_1.tif"], ""),
        (["a.sct"], ""),
    ],
)
def test_the_header_that_names_all_frames(names, stem):
    assert sole_stem(names) == stem


def test_a_folder_without_frames_is_no_scan():
    assert grouped({"/d/s": ["notes.txt"], "/d/s/tif": []}) == ({}, "")


def test_series_are_seen_by_their_numbers():
    series = series_of("/d/run_007.h5", ["/d/run_005.h5", "/d/other_1.h5", "/e/run_001.h5", "/d/run_006.tif"])
    assert series is not None
    assert (series.name, series.member, series.members) == ("d/run", 2, None)
    assert series.origin == "names like run_007.h5"
    assert series_of("/moved/d/run_007.h5", ["/moved/d/run_005.h5"]) == series
    assert series_of("/d/run_007.h5", ["/d/run.h5"]) is None
    assert series_of("/d/2026", ["/d/2025"]) is None


def test_tiles_and_heights_are_read_from_names():
    places = positions_of("/d/core_x02_z003.h5")
    assert {axis: quantity.value for axis, quantity in places.items()} == {"column": 2.0, "height": 3.0}
    assert positions_of("/d/max_1.h5") == {}
