import itertools
import time

import h5py
import msgspec
import numpy as np
import pytest
import tifffile
from simulated import SMALL, read_back, tiffs, truth

from srctd.sim import Faults, SimulationSpec, simulate
from srctd.sim.writer import FORMATS


def spec_of(format_, **faults):
    return msgspec.structs.replace(SMALL, format=format_, faults=Faults(**faults))


def path_of(tmp_path, spec):
    return tmp_path / f"scan{FORMATS[spec.format].suffix}"


def written(tmp_path, spec):
    path = path_of(tmp_path, spec)
    assert simulate(spec, str(path))
    return path


def as_without_faults(spec):
    return msgspec.structs.replace(spec, faults=Faults())


def snapshots(spec, path, look):
    """What `look` sees after every frame; the scan is written to its end."""
    seen = []
    assert simulate(spec, str(path), on_frame=lambda done, total: seen.append(look()))
    return seen


@pytest.mark.parametrize("format_", FORMATS)
def test_an_aborted_scan_leaves_the_frames_and_no_end(tmp_path, format_):
    spec = spec_of(format_, abort_after=8)
    path = path_of(tmp_path, spec)
    progress = []
    assert not simulate(spec, str(path), on_frame=lambda done, total: progress.append((done, total)))
    assert progress == [(done, 14) for done in range(1, 9)]
    if FORMATS[format_].suffix:
        assert path.exists()
        with h5py.File(path) as file:
            for place in ("entry/end_time", "process/acquisition/end_date", "exchange/theta"):
                assert place not in file
    elif "bigtiff" in FORMATS[format_].features:
        assert len(list(path.rglob("*.tif*"))) == (3 if format_ == "skyscan" else 8)
    assert not (path / "angles.txt").exists()
    assert not (path / "scan.xml").exists()
    assert "finished" not in "".join(log.read_text() for log in path.rglob("*.log"))
    assert (path / "scan.abo").exists() == (format_ == "edf")


def test_stop_breaks_off_as_an_abort_does(tmp_path):
    asked = iter(range(100))
    assert not simulate(spec_of("edf"), str(tmp_path / "scan"), stop=lambda: next(asked) >= 4)
    assert len(list((tmp_path / "scan").glob("*.edf"))) == 4
    assert (tmp_path / "scan" / "scan.abo").exists()


def test_a_scan_aborted_after_its_last_frame_has_no_end_either(tmp_path):
    spec = spec_of("tomcat", abort_after=14)
    path = path_of(tmp_path, spec)
    assert not simulate(spec, str(path))
    assert len(list(path.rglob("*.tif"))) == 14
    assert "finished" not in (path / "tif" / "scan.log").read_text()


@pytest.mark.parametrize(
    "format_", ["tomcat", "als832", "kit", "elettra", "petra", "australian", "plain", "edf"]
)
def test_dropped_frames_leave_a_gap_in_the_numbers(tmp_path, format_):
    whole = written(tmp_path / "whole", spec_of(format_))
    gap = written(tmp_path / "gap", spec_of(format_, drop=(2, 7)))

    def images(folder):
        return {
            path.relative_to(folder): path.stat().st_size
            for path in folder.rglob("*")
            if path.suffix in (".tif", ".tiff", ".edf")
        }

    missing = images(whole).keys() - images(gap).keys()
    assert len(missing) == 2
    assert images(gap).keys() < images(whole).keys()


def test_a_dropped_frame_is_a_hole_in_nxtomo_and_raw_files(tmp_path):
    expected = truth(SMALL)["projection"]
    path = written(tmp_path, spec_of("nxtomo", drop=(4,)))
    with h5py.File(path) as file:
        data = file["entry/instrument/detector/data"]
        assert data.id.get_num_chunks() == 13
        assert not data[9].any()
        np.testing.assert_array_equal(data[10], expected[5])
    raw = np.fromfile(written(tmp_path, spec_of("raw", drop=(4,))) / "scan.raw", "<u2").reshape(14, 10, 32)
    assert not raw[9].any()
    np.testing.assert_array_equal(raw[10:], expected[5:])


@pytest.mark.parametrize("arrival", ["truncated", "preallocated"])
@pytest.mark.parametrize("format_", ["kit", "edf", "tomcat"])
def test_files_are_finished_later(tmp_path, format_, arrival):
    spec = spec_of(format_, arrival=arrival, finish_after=2)
    path = path_of(tmp_path, spec)
    size = {"kit": 774, "tomcat": 774, "edf": 1152}[format_]

    def sizes():
        files = [file for file in path.rglob("*") if file.suffix in (".tif", ".edf")]
        whole = [
            file for file in files if file.stat().st_size == size and file.read_bytes()[-64:] != b"\0" * 64
        ]
        return len(files), len(whole), sum(file.stat().st_size for file in files)

    if format_ == "edf":
        simulate(spec_of("edf"), str(tmp_path / "other"))
        size = (tmp_path / "other" / "other0000.edf").stat().st_size
    seen = snapshots(spec, path, sizes)
    for done, (files, whole, total) in enumerate(seen, 1):
        assert (files, whole) == (done, max(0, done - 2))
        cut = min(done, 2) * (size - size // 2) if arrival == "truncated" else 0
        assert total == files * size - cut
    found, expected = read_back(spec, path), truth(spec)
    for kind, frames in expected.items():
        np.testing.assert_array_equal(found[kind], frames)


def test_an_aborted_file_stays_cut_short(tmp_path):
    spec = spec_of("kit", arrival="truncated", abort_after=9)
    path = path_of(tmp_path, spec)
    assert not simulate(spec, str(path))
    with pytest.raises((ValueError, tifffile.TiffFileError)):
        tifffile.imread(path / "radios" / "image_00003.tif")


def test_temporary_names_of_frames(tmp_path):
    spec = spec_of("plain", arrival="renamed", finish_after=1)
    path = path_of(tmp_path, spec)
    seen = snapshots(spec, path, lambda: (len(list(path.rglob("*.tiff"))), len(list(path.rglob("*.part")))))
    assert seen == [(done - 1, 1) for done in range(1, 15)]
    np.testing.assert_array_equal(read_back(spec, path)["projection"], truth(spec)["projection"])
    assert not list(path.rglob("*.part"))


@pytest.mark.parametrize("format_", ["nxtomo", "dataexchange"])
def test_temporary_names_of_whole_scans(tmp_path, format_):
    spec = spec_of(format_, arrival="renamed")
    path = path_of(tmp_path, spec)
    seen = snapshots(spec, path, lambda: [file.name for file in tmp_path.iterdir()])
    assert seen == [[path.name + ".part"]] * 14
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_half_a_frame_at_the_end_of_a_raw_file(tmp_path):
    spec = spec_of("raw", arrival="truncated")
    path = path_of(tmp_path, spec)
    seen = snapshots(spec, path, lambda: (path / "scan.raw").stat().st_size / 640)
    assert seen == [done - 0.5 for done in range(1, 15)]
    np.testing.assert_array_equal(read_back(spec, path)["projection"], truth(spec)["projection"])


def test_a_presized_raw_file(tmp_path):
    spec = msgspec.structs.replace(spec_of("raw"), presized=True)
    path = path_of(tmp_path, spec)
    seen = snapshots(spec, path, lambda: (path / "scan.raw").stat().st_size)
    assert seen == [14 * 640] * 14


@pytest.mark.parametrize(
    ("format_", "place"), [("tomcat", "tif/scan.log"), ("plain", "angles.txt"), ("edf", "scan.xml")]
)
def test_late_marks_of_stacks(tmp_path, format_, place):
    spec = spec_of(format_, late_seconds=0.4)
    path = path_of(tmp_path, spec)
    times = snapshots(spec, path, time.time)
    assert (path / place).stat().st_mtime - times[-1] >= 0.35


@pytest.mark.parametrize("format_", ["nxtomo", "dataexchange"])
def test_late_metadata_come_by_a_second_open(tmp_path, format_):
    spec = spec_of(format_, late_seconds=0.4)
    path = path_of(tmp_path, spec)
    looks = []

    def look():
        """Asked during the wait: by then the file is closed, and another one may open it."""
        if len(looks) >= 15:
            with h5py.File(path) as file:
                looks.append("exchange/theta" in file or "entry/sample/rotation_angle" in file)
        else:
            looks.append(None)
        return False

    assert simulate(spec, str(path), stop=look)
    assert looks[15:]
    assert not any(looks[15:])
    with h5py.File(path) as file:
        assert "exchange/theta" in file or "entry/sample/rotation_angle" in file
    np.testing.assert_array_equal(read_back(spec, path)["projection"], truth(spec)["projection"])


@pytest.mark.parametrize("format_", FORMATS)
def test_a_rewritten_scan_is_another_one_under_the_same_name(tmp_path, format_):
    first = written(tmp_path / "first", spec_of(format_))
    aborted = spec_of(format_, abort_after=9, rewrite=True)
    progress = []
    path = path_of(tmp_path / "again", aborted)
    assert simulate(aborted, str(path), on_frame=lambda done, total: progress.append((done, total)))
    assert progress[-1] == (9 + 14, 28)
    assert not list(path.rglob("*.abo"))
    if format_ == "skyscan":
        return
    found = read_back(as_without_faults(aborted), path)["projection"]
    assert found.shape == (9, 10, 32)
    assert (found != read_back(as_without_faults(aborted), first)["projection"]).mean() > 0.5


@pytest.mark.parametrize("format_", [name for name in FORMATS if "shuffle" in FORMATS[name].features])
def test_frames_out_of_order_end_where_they_belong(tmp_path, format_):
    spec = spec_of(format_, shuffle=5)
    path = written(tmp_path, spec)
    if format_ != "skyscan":
        np.testing.assert_array_equal(read_back(spec, path)["projection"], truth(spec)["projection"])


def test_frames_arrive_out_of_order_within_a_block_and_a_kind(tmp_path):
    spec = spec_of("kit", shuffle=5)
    path = path_of(tmp_path, spec)
    seen = snapshots(spec, path, lambda: {file.name for file in path.glob("radios/*")})
    order = [(after - before).pop() for before, after in itertools.pairwise(seen[4:])]
    assert order != sorted(order)
    assert set(order[:5]) == {f"image_{k:05d}.tif" for k in range(5)}


def test_the_rate_a_pause_and_bursts(tmp_path):
    def times(**changes):
        spec = msgspec.structs.replace(SMALL, format="kit", distinct=1, **changes)
        began = time.monotonic()
        return [at - began for at in snapshots(spec, tmp_path / "scan", time.monotonic)]

    steady = times(frames_per_second=50.0)
    assert all(at >= k / 50 for k, at in enumerate(steady))
    paused = times(faults=Faults(pause_after=6, pause_seconds=0.5))
    assert paused[6] - paused[5] >= 0.5
    bursts = times(frames_per_second=50.0, faults=Faults(burst=7))
    assert bursts[0] >= 6 / 50
    assert bursts[7] - bursts[6] >= 0.05


def test_a_pause_ends_when_the_scan_is_stopped(tmp_path):
    asked = iter(range(100))
    began = time.monotonic()
    spec = spec_of("kit", pause_after=2, pause_seconds=60.0)
    assert not simulate(spec, str(tmp_path / "scan"), stop=lambda: next(asked) >= 4)
    assert time.monotonic() - began < 10
    assert len(list((tmp_path / "scan").rglob("*.tif"))) == 2


def test_whatever_happens_files_are_closed(tmp_path):
    class Broken(Exception):
        pass

    def fail(done, total):
        if done == 5:
            raise Broken

    for format_ in FORMATS:
        path = path_of(tmp_path, spec_of(format_))
        with pytest.raises(Broken):
            simulate(spec_of(format_), str(path), on_frame=fail)
    with h5py.File(tmp_path / "scan.nxs", "a") as file:
        assert "end_time" not in file["entry"]


def test_a_stack_of_many_small_files_is_written_at_full_speed(tmp_path):
    spec = SimulationSpec(rows=4, columns=16, angles=6000, flats=1, darks=1, distinct=1, format="kit")
    began = time.monotonic()
    assert simulate(spec, str(tmp_path / "scan"))
    assert 6000 / (time.monotonic() - began) > 1000
    assert len(list((tmp_path / "scan" / "radios").iterdir())) == 6000
    assert tiffs(tmp_path / "scan", "radios/image_0599?.tif").shape == (10, 4, 16)
