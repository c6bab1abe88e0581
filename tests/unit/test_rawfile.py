"""RAW files: where frames lie by the parameter file beside them, and what is missing."""

import json

import numpy as np
import pytest
from simulated import truth

from srctd.core.errors import ScanUnreadable
from srctd.formats.frames import FrameReader
from srctd.formats.protocol import ReadOptions
from srctd.formats.rawfile import find_raw
from srctd.formats.reader import index_scan, open_scan, probe
from srctd.sim.plan import stamped
from srctd.sim.spec import Faults, SimulationSpec, TiffOptions
from srctd.sim.writer import simulate

SPEC = SimulationSpec(rows=10, columns=32, angles=60, flats=3, darks=2, seed=3, format="raw")
KNOWN = {
    "n_projections": 40,
    "n_flats": 2,
    "n_darks": 1,
    "n_rows": 6,
    "n_columns": 8,
    "dtype": "uint16",
    "byte_order": "little",
    "header_bytes": 0,
    "angle_range": 180,
}
FRAME = 6 * 8 * 2


def simulated(tmp_path, **changed):
    spec = SimulationSpec(**{name: getattr(SPEC, name) for name in SPEC.__struct_fields__} | changed)
    path = str(tmp_path / "scan")
    simulate(spec, path, lambda *_: None, lambda: False)
    return spec, path


def written(tmp_path, frames=43, *, head=b"", tail=b"", pixels="<u2", **changed):
    """A folder with a raw file of random counts; the frames."""
    counts = np.random.default_rng(1).integers(1, 255, (frames, 6, 8)).astype(pixels)
    (tmp_path / "a.raw").write_bytes(head + counts.tobytes() + tail)
    known = {name: value for name, value in (KNOWN | changed).items() if value is not None}
    (tmp_path / "a.json").write_text(json.dumps(known))
    return counts


def refusal(path, **how):
    with pytest.raises(ScanUnreadable) as caught:
        index_scan(str(path), **how)
    assert str(path) in caught.value.sentence
    return caught.value.sentence


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"parameters": "ini", "tiff": TiffOptions(byte_order="big")},
        {"flats_every": 20, "flats_after": 3, "darks_after": 2},
    ],
)
def test_the_frames_are_those_that_were_taken(tmp_path, changed):
    spec, path = simulated(tmp_path, **changed)
    taken = truth(spec)
    with open_scan(path) as scan:
        assert (scan.header.format, scan.header.layout, scan.header.shortfall) == ("raw", "raw", None)
        assert np.degrees(scan.angles()) == pytest.approx(spec.angles_deg)
        for kind, name in (("projections", "projection"), ("flats", "flat"), ("darks", "dark")):
            assert np.array_equal(scan.read(kind, slice(0, 10)), taken[name])
        assert np.array_equal(
            scan.read("projections", slice(3, 5), slice(7, 9)), taken["projection"][7:9, 3:5]
        )
        assert scan.header.pixel_size.value == pytest.approx(spec.pixel_size)
    seen = probe(path)
    assert (seen.frames_found, seen.missing, seen.usable) == (sum(map(len, taken.values())), (), True)
    assert seen.expectations[0].kind == "parameter file"
    assert seen.expectations[0].frames == seen.frames_found


def test_an_index_is_a_few_runs_whatever_the_number_of_frames(tmp_path):
    _, path = simulated(tmp_path, flats_every=20)
    index = index_scan(path)
    assert [segment.count for segment in index.projections] == [20, 20, 20]
    assert [segment.stride for segment in index.projections] == [640] * 3


@pytest.mark.parametrize("opened", ["folder", "parameter file", "raw file"])
def test_what_is_opened(tmp_path, opened):
    counts = written(tmp_path)
    path = {"folder": tmp_path, "parameter file": tmp_path / "a.json", "raw file": tmp_path / "a.raw"}[opened]
    with open_scan(str(path)) as scan:
        assert np.array_equal(scan.read("projections", slice(0, 6)), counts[3:])


def test_several_raw_files_are_told_apart_by_their_names(tmp_path):
    counts = written(tmp_path)
    (tmp_path / "b.raw").write_bytes(b"other")
    (tmp_path / "b.json").write_text(json.dumps(KNOWN | {"n_rows": 7}))
    assert find_raw(str(tmp_path), ReadOptions()) is None
    with open_scan(str(tmp_path / "a.json")) as scan:
        assert np.array_equal(scan.read("darks", slice(0, 6)), counts[:1])


def test_other_frames_make_it_another_kind_of_scan(tmp_path):
    written(tmp_path)
    (tmp_path / "x.tif").write_bytes(b"II")
    assert find_raw(str(tmp_path), ReadOptions()) is None


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float32", "float64"])
def test_types_of_pixels(tmp_path, dtype):
    big = np.dtype(dtype).newbyteorder(">")
    counts = written(tmp_path, head=b"H" * 100, pixels=big, dtype=dtype, byte_order="big", header_bytes=100)
    with open_scan(str(tmp_path)) as scan:
        assert np.array_equal(scan.read("flats", slice(0, 6)), counts[1:3])
        assert scan.header.dtype == dtype


# --- what is not said, or wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["n_projections", "n_rows", "n_columns", "dtype", "byte_order"])
def test_nothing_is_assumed(tmp_path, name):
    written(tmp_path, **{name: None})
    assert f"says {name}" in refusal(tmp_path)
    seen = probe(str(tmp_path))
    assert not seen.readable
    assert f"says {name}" in seen.problem


def test_a_raw_file_without_a_parameter_file(tmp_path):
    written(tmp_path)
    (tmp_path / "a.json").unlink()
    assert "no parameter file beside it says n_projections" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"dtype": "complex64"}, "'complex64' is no type of pixel"),
        ({"dtype": None, "bits": 12}, "= 12 does not tell the type"),
        ({"dtype": None, "bits": 32}, "= 32 does not tell the type"),
        ({"bits": 8}, "contradict each other"),
        ({"byte_order": "middle"}, "'middle' is no byte order"),
        ({"n_rows": 0}, "is no number of detector rows"),
        ({"n_columns": 10**6}, "is no number of detector columns"),
        ({"n_projections": 10**8}, "which no detector takes"),
        ({"n_rows": 5}, "announced frames end at byte"),
        ({"n_flats": 1}, "announced frames end at byte"),
        ({"header_bytes": 10}, "ends within frame 42"),
        ({"angle_range": None}, "rotation angles"),
        ({"n_flats": 0, "n_darks": 3}, "no flat fields"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path, changed, said):
    written(tmp_path, **changed)
    assert said in refusal(tmp_path)


def test_sixteen_bits_are_a_type(tmp_path):
    written(tmp_path, dtype=None, bits=16)
    assert index_scan(str(tmp_path)).dtype == "<u2"


def test_no_header_is_proved_by_the_size(tmp_path):
    written(tmp_path, header_bytes=None)
    assert any("by the size of the file" in note for note in index_scan(str(tmp_path)).header.notes)
    written(tmp_path, frames=30, header_bytes=None)
    assert not probe(str(tmp_path)).usable
    assert "says header_bytes" in refusal(tmp_path, incomplete=True)


# --- what is missing ---------------------------------------------------------------------------------------


def test_a_file_that_grows(tmp_path):
    counts = written(tmp_path, frames=20, tail=b"\1" * (FRAME // 2))
    seen = probe(str(tmp_path))
    assert (seen.frames_found, seen.expectations[0].frames) == (20, 43)
    assert seen.missing == (f"{tmp_path}/a.raw ends within frame 20",)
    refusal(tmp_path)
    index = index_scan(str(tmp_path), incomplete=True)
    assert (index.header.n_projections, index.header.shortfall.gaps) == (17, ((17, 39),))
    with FrameReader(index, str(tmp_path)) as scan:
        assert np.array_equal(scan.read("projections", slice(0, 6)), counts[3:20])


def test_a_file_that_got_its_size_first(tmp_path):
    _, path = simulated(tmp_path, presized=True, faults=Faults(abort_after=25))
    seen = probe(path)
    assert (seen.frames_found, seen.coverage.projections) == (25, 20)
    assert "ends in zeros" in seen.missing[0]
    assert index_scan(path, incomplete=True).header.n_projections == 20


def test_a_hole_keeps_the_angles_of_the_others(tmp_path):
    spec, path = simulated(tmp_path, faults=Faults(drop=(20,)))
    assert "page 25" in refusal(path)
    index = index_scan(path, incomplete=True)
    kept = np.delete(np.arange(60), 20)
    assert np.degrees(index.angles) == pytest.approx(spec.angles_deg[kept])
    assert index.header.shortfall.gaps == ((20, 20),)
    with FrameReader(index, path) as scan:
        assert np.array_equal(scan.read("projections", slice(0, 10)), truth(spec)["projection"][kept])


def test_frames_that_the_camera_lost_would_shift_all_angles(tmp_path):
    spec, path = simulated(tmp_path, columns=64)
    frames = [np.ones((10, 64), np.uint16) + np.arange(64, dtype=np.uint16)] * 65
    stamps = [number if number < 30 else number + 1 for number in range(65)]
    raw = b"".join(
        stamped(frame, number).astype("<u2").tobytes() for frame, number in zip(frames, stamps, strict=True)
    )
    with open(f"{path}/scan.raw", "wb") as file:
        file.write(raw)
    assert "jumps over 1 frames after projection 24" in refusal(path)
    assert spec.frames == 65
