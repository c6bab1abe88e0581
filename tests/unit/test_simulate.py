import math
import subprocess
import sys
import tracemalloc

import h5py
import msgspec
import numpy as np
import pytest

from srctd.core.completion import Rule, State, judge
from srctd.formats import open_scan, probe
from srctd.sim import Flaws, SimulationSpec, sample, simulate
from srctd.sim.detector import Detector
from srctd.sim.phantom import projection

SMALL = SimulationSpec(rows=12, columns=40, angles=18, flats=3, darks=2, center_offset=2.5, seed=5)
CLEAN = Flaws(noise=False, dead_pixels=0, hot_pixels=0, ring_columns=0)
FORMATS = ("nxtomo", "dataexchange")


def spec_of(**changes):
    return msgspec.structs.replace(SMALL, **changes)


@pytest.mark.parametrize("format_", FORMATS)
def test_the_file_says_what_was_asked_for(tmp_path, format_):
    path = str(tmp_path / "new" / "scan.h5")
    progress = []
    spec = spec_of(format=format_, angle_range_deg=360.0)
    assert simulate(spec, path, on_frame=lambda done, total: progress.append((done, total)))
    assert progress[-1] == (23, 23)
    with open_scan(path) as scan:
        header = scan.header
        assert header.format == format_
        assert (header.n_projections, header.n_flats, header.n_darks) == (18, 3, 2)
        assert header.expected_projections == 18
        assert (header.n_rows, header.n_columns, header.dtype) == (12, 40, "uint16")
        assert (header.angle_first_deg, header.angle_last_deg) == (0, pytest.approx(340))
        assert header.pixel_size.value == pytest.approx(1e-6)
        assert header.energy.value == pytest.approx(25)
        assert header.distance.value == pytest.approx(0.1)
        assert (header.title, header.sample) == (spec.title, spec.sample)
        assert (header.instrument, header.proposal) == (spec.instrument, spec.proposal)
        assert (header.experimenter, header.email) == (spec.experimenter, spec.email)
        assert header.start_time <= header.end_time
        assert header.notes == ()


@pytest.mark.parametrize("format_", FORMATS)
def test_corrected_projections_are_the_phantoms_line_integrals(tmp_path, format_):
    path = str(tmp_path / "scan.h5")
    spec = spec_of(format=format_, flaws=CLEAN, counts=60000.0)
    simulate(spec, path)
    with open_scan(path) as scan:
        dark = scan.read("darks", slice(None)).mean(axis=0)
        flat = scan.read("flats", slice(None)).mean(axis=0) - dark
        measured = -np.log((scan.read("projections", slice(None)) - dark) / flat)
        for i in (0, 7, 17):
            truth = projection(sample(spec.geometry, spec.seed), spec.geometry, scan.angles()[i])
            np.testing.assert_allclose(measured[i], truth, atol=3e-4)


def test_the_same_seed_gives_the_same_frames_and_another_does_not(tmp_path):
    def frames(name, seed):
        simulate(spec_of(seed=seed), str(tmp_path / name))
        with open_scan(str(tmp_path / name)) as scan:
            return scan.read("projections", slice(None))

    first = frames("a.h5", 1)
    np.testing.assert_array_equal(first, frames("b.h5", 1))
    assert (first != frames("c.h5", 2)).mean() > 0.5


def test_noise_dead_and_hot_pixels_and_drifting_columns():
    spec = spec_of(rows=200, columns=100)
    flaws = Flaws(dead_pixels=3, hot_pixels=4, ring_columns=2, ring_strength=0.1)
    detector = Detector(spec.geometry, 20000.0, flaws, 1)
    flat, again = detector.flat(0), detector.flat(1)
    assert (flat[detector.dead] == 0).all()
    assert (flat[detector.hot] == 65535).all()
    assert (len(detector.dead[0]), len(detector.hot[0])) == (3, 4)
    good = (flat > 0) & (flat < 65535)
    difference = (flat.astype(float) - again)[good]
    assert difference.var() == pytest.approx(2 * (flat[good].mean() - 100), rel=0.05)

    empty = detector.projection(np.zeros((200, 100), np.float32), 2)
    drift = np.median(empty / np.maximum(flat, 1.0), axis=0)
    assert np.count_nonzero(np.abs(drift - 1) > 0.01) == 2


def test_few_counts_follow_poissons_law():
    spec = spec_of(rows=200, columns=100)
    detector = Detector(spec.geometry, 4.0, Flaws(dead_pixels=0, hot_pixels=0), 1)
    dark = detector.dark(0).astype(float)
    assert dark.mean() == pytest.approx(100, abs=0.2)
    assert dark.std() == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("presized", [False, True])
def test_an_aborted_scan_never_looks_complete(tmp_path, format_, presized):
    path = str(tmp_path / "scan.h5")
    frames = iter(range(100))
    assert not simulate(spec_of(format=format_, presized=presized), path, stop=lambda: next(frames) >= 12)
    seen = probe(path)
    assert seen.readable
    assert seen.frames_found == 12
    assert not seen.end_marks
    assert seen.missing
    assert judge(seen, 60.0, Rule()).state is State.ARRIVING


WRITER = """
import sys, msgspec
from srctd.sim import SimulationSpec, simulate
spec = msgspec.json.decode(sys.argv[1], type=SimulationSpec)
def pause(done, total):
    if done == 10:
        print("half way", flush=True)
        sys.stdin.readline()
simulate(spec, sys.argv[2], on_frame=pause)
"""


@pytest.mark.parametrize("format_", FORMATS)
def test_a_scan_that_is_being_written_is_arriving_and_its_writer_is_not_disturbed(tmp_path, format_):
    path = str(tmp_path / "scan.h5")
    spec = msgspec.json.encode(spec_of(format=format_)).decode()
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, spec, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout.readline() == "half way\n"
        seen = probe(path)
        assert judge(seen, 60.0, Rule()).state is State.ARRIVING
        writer.communicate("\n", timeout=60)
    assert writer.returncode == 0
    assert judge(probe(path), 60.0, Rule()).state is State.COMPLETE


def test_memory_holds_a_few_frames_whatever_their_number(tmp_path):
    def peak(angles):
        tracemalloc.start()
        simulate(spec_of(rows=64, columns=256, angles=angles), str(tmp_path / "scan.h5"))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(2)
    assert peak(60) < peak(6) * 1.3


def test_angles_leave_out_the_end():
    assert spec_of(angles=4).angles_deg.tolist() == [0, 45, 90, 135]
    assert spec_of().center == pytest.approx(22.0)
    assert math.degrees(spec_of(tilt_deg=0.5).geometry.tilt) == pytest.approx(0.5)


def test_frames_have_a_chunk_each(tmp_path):
    simulate(SMALL, str(tmp_path / "scan.h5"))
    with h5py.File(tmp_path / "scan.h5") as file:
        data = file["entry/data/data"]
        assert data.chunks == (1, 12, 40)
        assert data.maxshape == (None, 12, 40)
