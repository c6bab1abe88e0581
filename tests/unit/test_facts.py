"""From canonical tags to the header of a scan: its physics, its words, its angles."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srctd.core.errors import ScanUnreadable
from srctd.core.scan import ScanHeader
from srctd.core.tags import CANONICAL, Tagged, TagValue
from srctd.formats.facts import angles, facts, merged


def tagged(path="a.log", table="own", unmapped=None, notes=(), **values):
    said = {
        name: TagValue(value=value, unit=CANONICAL[name].unit, origin=f"{path}: {name}")
        for name, value in values.items()
    }
    return Tagged(path=path, table=table, values=said, unmapped=unmapped or {}, notes=tuple(notes))


def degrees(n, **values):
    found = angles([tagged(**values)], n)
    return None if found is None else np.degrees(found.radians)


# --- physics -----------------------------------------------------------------------------------------------


def test_every_fact_is_a_field_of_the_header():
    found = facts(
        [
            tagged(
                pixel_size=1e-6,
                energy=20.0,
                distance=0.1,
                exposure_time=0.01,
                sample="bone",
                email="a@b",
                position_x=1e-3,
                position_z=-2e-3,
                unmapped={"Filter": "Al"},
                notes=["something"],
            )
        ]
    )
    assert set(found) <= set(ScanHeader.__struct_fields__)
    assert found["pixel_size"].value == 1e-6
    assert found["pixel_size"].origin == "a.log: pixel_size"
    assert (found["energy"].unit, found["distance"].unit, found["exposure_time"].unit) == ("keV", "m", "s")
    assert (found["sample"], found["email"]) == ("bone", "a@b")
    assert {axis: at.value for axis, at in found["positions"].items()} == {"x": 1e-3, "z": -2e-3}
    assert found["unmapped"] == {"Filter": "Al"}
    assert found["notes"] == ("something",)


def test_what_is_not_said_is_not_there():
    assert set(facts([])) == {"unmapped", "notes"}


def test_pixel_size_through_the_objective():
    at_sample = facts([tagged(camera_pixel_size=6.5e-6, magnification=10.0, binning=2)])["pixel_size"]
    assert at_sample.value == pytest.approx(1.3e-6)
    assert "a.log: camera_pixel_size" in at_sample.origin
    assert "* 2" in at_sample.origin
    assert "/ 10" in at_sample.origin
    plain = facts([tagged(camera_pixel_size=6.5e-6, magnification=10.0)])["pixel_size"]
    assert plain.value == pytest.approx(6.5e-7)
    assert "taken as unbinned" in plain.origin
    unknown = facts([tagged(camera_pixel_size=6.5e-6)])
    assert "pixel_size" not in unknown
    assert "at the camera only" in unknown["notes"][0]
    assert "pixel_size" not in facts([tagged(camera_pixel_size=6.5e-6, magnification=0.0)])
    assert "pixel_size" not in facts([tagged(camera_pixel_size=6.5e-6, magnification=10.0, binning=0)])
    assert facts([tagged(camera_pixel_size=6.5e-6, pixel_size=1e-6)])["pixel_size"].value == 1e-6


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_what_is_not_positive_is_not_used(value):
    found = facts([tagged(energy=value)])
    assert "energy" not in found
    assert f"a.log: energy = {value:g} keV is not positive" in found["notes"][0]


def test_two_files_that_contradict_each_other():
    one, other = tagged(energy=20.0, sample="a", distance=0.1), tagged("b.json", energy=21.0, sample="A")
    found = facts([one, other])
    assert "energy" not in found
    assert (found["sample"], found["distance"].value) == ("a", 0.1)
    assert found["notes"] == (
        "a.log: energy = 20 keV and b.json: energy = 21 keV contradict each other and are not used as energy",
    )


def test_what_a_table_holds_to_be_always_so_gives_way_to_a_file():
    always = Tagged(
        path="a.log",
        table="own",
        values={"camera_pixel_size": TagValue(value=5e-6, unit="m", origin="table own")},
    )
    values, notes = merged([always, tagged("b.json", camera_pixel_size=6.5e-6)])
    assert (values["camera_pixel_size"].value, notes) == (6.5e-6, [])
    assert merged([always])[0]["camera_pixel_size"].value == 5e-6


def test_a_beam_that_diverges_is_said():
    assert "the beam diverges" in facts([tagged(source_distance=0.12)])["notes"][0]


# --- angles ------------------------------------------------------------------------------------------------


def test_start_and_step():
    assert degrees(4, angle_start=10.0, angle_step=0.5) == pytest.approx([10.0, 10.5, 11.0, 11.5])
    assert degrees(3, angle_step=-1.0) == pytest.approx([0.0, -1.0, -2.0])


def test_a_range_is_so_many_steps():
    assert degrees(4, angle_range=180.0) == pytest.approx([0.0, 45.0, 90.0, 135.0])
    assert degrees(5, angle_range=180.0, angle_end_included=True) == pytest.approx([0, 45, 90, 135, 180])
    assert degrees(4, angle_start=-90.0, angle_range=180.0) == pytest.approx([-90.0, -45.0, 0.0, 45.0])


def test_start_and_end():
    found = angles([tagged(angle_start=10.0, angle_end=190.0)], 4)
    assert np.degrees(found.radians) == pytest.approx([10.0, 55.0, 100.0, 145.0])
    assert "one step before the end" in found.assumed[0]
    included = angles([tagged(angle_start=10.0, angle_end=190.0, angle_end_included=True)], 5)
    assert np.degrees(included.radians) == pytest.approx([10.0, 55.0, 100.0, 145.0, 190.0])
    assert included.assumed == ()
    assert degrees(4, angle_start=190.0, angle_end=10.0) == pytest.approx([190.0, 145.0, 100.0, 55.0])


def test_the_step_and_the_end_agree():
    assert degrees(1801, angle_start=0.0, angle_end=180.0, angle_step=0.1)[-1] == pytest.approx(180.0)
    assert degrees(1800, angle_start=0.0, angle_end=180.0, angle_step=0.1)[-1] == pytest.approx(179.9)
    assert degrees(4, angle_start=0.0, angle_end=-180.0, angle_step=45.0)[-1] == pytest.approx(-135.0)


@pytest.mark.parametrize(
    "values",
    [
        {"angle_step": 0.1, "angle_range": 360.0},
        {"angle_step": 0.2, "angle_end": 180.0},
        {"angle_step": 0.0, "angle_range": 180.0},
        {"angle_range": 360.0, "angle_end": 180.0},
    ],
)
def test_what_contradicts_itself_is_refused(values):
    with pytest.raises(ScanUnreadable, match="contradict each other"):
        angles([tagged(**values)], 1800)


def test_a_list_with_one_angle_for_every_projection_goes_first():
    found = angles([tagged(angle_step=1.0), tagged("angles.txt", angles=(5.0, 7.0, 6.0))], 3)
    assert np.degrees(found.radians) == pytest.approx([5.0, 7.0, 6.0])
    assert found.rule == "3 angles of angles.txt: angles"
    other = angles([tagged(angle_step=1.0), tagged("angles.txt", angles=(5.0, 7.0, 6.0))], 4)
    assert np.degrees(other.radians) == pytest.approx([0.0, 1.0, 2.0, 3.0])


def test_unknown_angles_are_none():
    assert angles([], 10) is None
    assert angles([tagged(angle_start=5.0)], 10) is None
    assert angles([tagged(angle_step=1.0)], 0) is None
    assert angles([tagged(angle_step=1.0), tagged("b", angle_step=2.0)], 10) is None


def test_the_rule_and_what_it_assumes_are_said():
    found = angles([tagged(angle_step=0.5)], 10)
    assert found.rule == "from 0 deg in steps of 0.5 deg"
    assert "first angle is not given" in found.assumed[0]
    assert any("first angle" in note for note in facts([tagged(angle_step=0.5, n_projections=10)])["notes"])
    assert facts([tagged(angle_step=0.5, angle_range=90.0, n_projections=10)])["notes"] == ()


@given(
    st.floats(-720, 720),
    st.floats(0.01, 10) | st.floats(-10, -0.01),
    st.integers(2, 500),
    st.booleans(),
)
def test_all_rules_mean_the_same_rotation(start, step, n, included):
    truth = start + step * np.arange(n)
    end = truth[-1] if included else start + step * n
    by_step = degrees(n, angle_start=start, angle_step=step)
    by_end = degrees(n, angle_start=start, angle_end=float(end), angle_end_included=included)
    by_range = degrees(n, angle_start=start, angle_range=float(end - start), angle_end_included=included)
    by_all = degrees(
        n, angle_start=start, angle_step=step, angle_end=float(end), angle_range=float(end - start)
    )
    for found in (by_step, by_end, by_range, by_all):
        assert found == pytest.approx(truth, abs=1e-6)
    assert math.radians(1) * truth == pytest.approx(
        angles([tagged(angle_start=start, angle_step=step)], n).radians
    )
