import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srctd.core.anglelist import projection_angles
from srctd.core.errors import ConfigError, ScanUnreadable
from srctd.core.layouts import FRAME_SUFFIXES, HEADER_SUFFIXES, ROLE_FOLDER
from srctd.core.roles import Context, Named, assign, choose, counter_runs, first_number, holes, places
from srctd.formats.layouts import load_layout, load_layouts

COUNTED = Context((), True)


def chosen(names, context):
    found = choose(load_layouts(), names, context)
    return found.layout.name if found else ""


def numbered(pattern, count=20):
    return [pattern.format(i) for i in range(count)]


@pytest.mark.parametrize(
    ("names", "context", "layout"),
    [
        (numbered("radios/i_{:04d}.tif"), COUNTED, "kit"),
        (numbered("a_{:04d}.tif"), COUNTED, "counter"),
        (numbered("a_{:04d}.tif"), Context(), "projections"),
        (numbered("tif/a{:04d}.tif"), Context({"tomcat"}, True), "tomcat"),
        (numbered("a{:04d}.tif"), Context({"skyscan"}), "skyscan"),
        (numbered("hair{:04d}.edf"), Context(), "esrf-edf"),
        (["all.tif"], COUNTED, "pages"),
        ([*numbered("tomo_{:04d}.tif", 100), "overview_1.tif"], COUNTED, "elettra"),
        ([*numbered("p/a_{:03d}.tif"), *numbered("White_Before/a_{:03d}.TIF")], Context(), "folders"),
        ([], Context(), ""),
        (["readme.txt", "scan.h5"], COUNTED, ""),
    ],
)
def test_the_layout_that_fits_best_is_chosen(names, context, layout):
    assert chosen(names, context) == layout


def test_a_prefix_that_ends_in_digits_is_no_part_of_the_number():
    layout = next(layout for layout in load_layouts() if layout.name == "esrf-edf")
    names = ["hair010000.edf", "hair010011.edf"]
    assert [file.number for file in assign(layout, names, Context(prefixes=("hair01",)))] == [0, 11]


def test_runs_of_a_counter():
    counts = {
        "n_projections": 5,
        "n_flats": 2,
        "n_darks": 1,
        "flats_every": 2,
        "n_flats_between": 1,
        "n_darks_after": 1,
    }
    kinds = places(counter_runs(("darks", "flats", "projections", "flats_after", "darks_after"), counts))
    assert "".join(kind[0] for kind, _ in kinds) == "dffppfppfpd"
    assert [number for kind, number in kinds if kind == "flats"] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("numbers", "frames", "usual", "first"),
    [
        ([0, 1, 2], None, None, 0),
        ([1, 2, 3], 5, None, 1),
        ([7, 8, 9], 3, None, 7),
        ([7, 8, 9], 5, None, None),
        ([2, 3], 4, 1, 1),
        ([1, 2, 3], 3, 0, 1),
        ([], 3, None, 0),
    ],
)
def test_the_first_number(numbers, frames, usual, first):
    files = [Named(f"{number}.tif", "projections", number, None, usual) for number in numbers]
    assert first_number(files, frames) == first


@given(st.sets(st.integers(0, 60)), st.integers(0, 61))
def test_holes_and_numbers_are_all_there_is(numbers, end):
    inside = sorted(number for number in numbers if number < end)
    missing = {i for first, last in holes(inside, end) for i in range(first, last + 1)}
    assert missing | set(inside) == set(range(end))
    assert not missing & set(inside)


OF_ROLES = """tif tiff tiffs radios projections flats darks before after ccd pco01 scan_0000 Flat_Before Dark_After
dark-fields flatfield refs whites Tomo 180deg flats_2"""
OF_SCANS = "darkwood scan_0123 sample raw tomography refinement data p1 flat_iron"


@pytest.mark.parametrize("name", OF_ROLES.split())
def test_folders_of_roles(name):
    assert ROLE_FOLDER.fullmatch(name)


@pytest.mark.parametrize("name", OF_SCANS.split())
def test_folders_of_scans(name):
    assert not ROLE_FOLDER.fullmatch(name)


def test_suffixes_are_in_lower_case_and_apart():
    assert not FRAME_SUFFIXES & HEADER_SUFFIXES
    assert all(re.fullmatch(r"\.[a-z]+", suffix) for suffix in FRAME_SUFFIXES | HEADER_SUFFIXES)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name = 'x'\nnames = []", "no rule"),
        ("name = 'x'\n[[names]]\nrole = 'flats'\npattern = 'a'", "no group for the number"),
        ("name = 'x'\n[[names]]\nrole = 'flat'\npattern = 'a'", "flat"),
        ("name = 'x'\nprefix = 1\nnames = []", "unknown key"),
    ],
)
def test_a_mistake_in_a_layout_is_named(tmp_path, text, sentence):
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        load_layout(tmp_path / "x.toml")
    with pytest.raises(ConfigError, match="no such folder"):
        load_layouts(str(tmp_path / "nowhere"))


# --- lists of angles -----


def test_a_list_that_was_announced_or_never_stands_still_is_taken_as_it_is():
    assert projection_angles("a", [0.0, 0.0, 5.0], 3) == (0.0, 0.0, 5.0)
    assert projection_angles("a", [0.0, 1.0, 7.0, 2.0], None) == (0.0, 1.0, 7.0, 2.0)


def test_the_stage_stands_still_while_references_are_taken():
    steps = [2.0 * i for i in range(10)]
    values = [0.001, 0.0, -0.001, *steps[:5], 10.0, 10.0, *steps[5:], 18.001, 18.0]
    assert projection_angles("a", values, None) == tuple(steps)
    assert projection_angles("a", values, 10) == tuple(steps)


@pytest.mark.parametrize(
    ("values", "announced"),
    [
        ([0.0, 0.0, 1.0, 2.0, 9.0], None),
        ([0.0, 0.0, 1.0, 2.0], 4 + 1),
        ([0.0, 1.0, 2.0], 2),
        ([3.0] * 5, None),
        ([], 4),
    ],
)
def test_a_list_that_nothing_explains_is_refused(values, announced):
    with pytest.raises(ScanUnreadable, match=r"angles\.txt has"):
        projection_angles("angles.txt", values, announced)


@given(st.integers(3, 200), st.floats(0.01, 5.0), st.integers(1, 50), st.integers(1, 50), st.booleans())
def test_projections_are_found_between_references(count, step, before, after, back):
    steps = [(-step if back else step) * i for i in range(count)]
    values = [steps[0]] * before + steps + [steps[-1]] * after
    assert projection_angles("a", values, None) == tuple(steps)
