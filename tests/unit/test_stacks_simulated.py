"""Stacks as the simulated detector writes them, read back against what its camera took."""

import numpy as np
import pytest

from srctd.core.completion import Rule, State, judge
from srctd.formats.reader import open_scan, probe
from srctd.sim.plan import Camera, plan
from srctd.sim.spec import Faults, SimulationSpec, TiffOptions
from srctd.sim.writer import simulate

FORMATS = ("tomcat", "als832", "kit", "elettra", "petra", "australian", "plain", "edf")
SMALL = {"rows": 12, "columns": 32, "angles": 24, "flats": 3, "darks": 2}
ROWS = slice(0, 12)


def written(folder, **options):
    spec = SimulationSpec(**(SMALL | options))
    path = str(folder / spec.format)
    simulate(spec, path)
    return spec, path


def taken(spec, kind, without=()):
    camera = Camera(spec)
    shots = [shot for shot in plan(spec) if shot.kind == kind and shot.of_kind not in without]
    return np.array([camera.take(shot) for shot in shots]), [shot.angle_deg for shot in shots]


def reads_as_taken(spec, path, lost=(), incomplete=False):
    with open_scan(path, incomplete=incomplete) as scan:
        frames, angles = taken(spec, "projection", lost)
        np.testing.assert_array_equal(scan.read("projections", ROWS), frames)
        np.testing.assert_allclose(np.degrees(scan.angles()), angles, atol=1e-4)
        np.testing.assert_array_equal(scan.read("darks", ROWS), taken(spec, "dark")[0])
        flats = scan.read("flats", ROWS)
        ours = taken(spec, "flat")[0]
        np.testing.assert_array_equal(np.sort(flats.sum((1, 2))), np.sort(ours.sum((1, 2))))
        return scan.header


def state(path, quiet=100.0):
    return judge(probe(path), quiet, Rule()).state


@pytest.mark.parametrize("name", FORMATS)
def test_every_stack_reads_as_it_was_taken(tmp_path, name):
    flats = {"als832": {"flats_every": 8}, "australian": {"flats_after": 2}}
    spec, path = written(tmp_path, format=name, **flats.get(name, {"flats_every": 8, "flats_after": 2}))
    assert state(path) is State.COMPLETE
    header = reads_as_taken(spec, path)
    assert header.n_flats == spec.all_flats
    assert header.layout == {"plain": "savu", "edf": "esrf-edf"}.get(name, name)


@pytest.mark.parametrize("options", [{"pages": 5}, {"bigtiff": True}, {"byte_order": "big"}])
def test_kinds_of_tiff_files(tmp_path, options):
    spec, path = written(tmp_path, format="petra", tiff=TiffOptions(**options))
    assert state(path) is State.COMPLETE
    reads_as_taken(spec, path)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("stamps", [False, True])
def test_dropped_frames_leave_the_others_their_angles(tmp_path, name, stamps):
    lost = (3, 11, 12)
    spec, path = written(tmp_path, format=name, pco_stamps=stamps, faults=Faults(drop=lost))
    assert probe(path).gaps == ((3, 3), (11, 12))
    ended = name in ("edf", "tomcat")  # they say so, and 21 projections do not suffice
    assert state(path) is (State.ABORTED if ended else State.ARRIVING)
    header = reads_as_taken(spec, path, lost, incomplete=True)
    assert header.shortfall.gaps == ((3, 3), (11, 12))


@pytest.mark.parametrize("name", ["tomcat", "kit", "edf"])
@pytest.mark.parametrize("arrival", ["truncated", "preallocated", "renamed"])
def test_a_frame_that_did_not_arrive_whole_is_not_taken(tmp_path, name, arrival):
    faults = Faults(abort_after=20, arrival=arrival, finish_after=2)
    spec, path = written(tmp_path, format=name, faults=faults)
    seen = probe(path)
    darks = 0 if name == "edf" else 2
    whole = 20 - darks - 3 - 2
    assert seen.frames_found == 18
    assert len(seen.missing) == (0 if arrival == "renamed" else 2)
    assert bool(seen.aborted) is (name == "edf")
    with open_scan(path, incomplete=True) as scan:
        assert scan.header.n_projections == whole
        frames, _ = taken(spec, "projection", range(whole, 24))
        np.testing.assert_array_equal(scan.read("projections", ROWS), frames)


def test_a_dynamic_scan_has_members(tmp_path):
    spec, path = written(tmp_path, format="kit", rotations=3, angle_range_deg=360.0)
    assert probe(path).members == 3
    frames, _ = taken(spec, "projection")
    for member in range(3):
        with open_scan(path, member=member) as scan:
            np.testing.assert_array_equal(
                scan.read("projections", ROWS), frames[24 * member : 24 * (member + 1)]
            )
            assert scan.header.series.members == 3


def test_a_skyscan_stack_has_no_references_of_its_own(tmp_path):
    spec, path = written(tmp_path, format="skyscan")
    assert state(path) is State.COMPLETE
    with open_scan(path) as scan:
        assert np.all(scan.read("flats", ROWS) == 57000)
        np.testing.assert_allclose(np.degrees(scan.angles()), spec.angles_deg, atol=1e-4)


@pytest.mark.parametrize("name", ["tomcat", "elettra"])
def test_every_state_on_the_way_is_that_of_a_scan_that_arrives(tmp_path, name):
    path, seen = str(tmp_path / name), []

    def look(done, total):
        if done < total:
            seen.append(probe(path))

    simulate(SimulationSpec(**(SMALL | {"format": name, "angles": 8})), path, look)
    found = [probe_.frames_found for probe_ in seen]
    assert found == sorted(found)
    assert all(judge(probe_, 100.0, Rule()).state is State.ARRIVING for probe_ in seen)
    assert state(path) is State.COMPLETE
