"""The volume file: deterministic, idempotent, filled by byte offset, resumable."""

import threading
import time

import h5py
import numpy as np
import pytest
import xxhash
from factories import a_header

from gpu.volume import DATASET, NAME, ShardWriter, VolumeSpec, ensure, page_aligned, read_shard, stored
from srctd.core import recipe
from srctd.core.errors import HoldError, NoSpace
from srctd.core.recipe import DEFAULT_RECIPE, ParameterFile
from srctd.core.scan import Quantity


def make_header(**changes):
    facts = {
        "n_rows": 10,
        "n_columns": 6,
        "sample": "bead",
        "pixel_size": Quantity(value=2e-6, unit="m", origin="/x"),
        "energy": Quantity(value=19.0, unit="keV", origin="/e"),
    }
    return a_header(**{**facts, **changes})


def make_spec(header=None, **overrides):
    header = header or make_header()
    parameters = ParameterFile(
        scan="bead-01",
        input="/data/bead.h5",
        input_in_place=True,
        format=header.format,
        entry=header.entry,
        recipe="built-in",
        parameters=recipe.resolve(header, DEFAULT_RECIPE, overrides),
        software="srctd 1.2",
    )
    return VolumeSpec(parameters=parameters, header=header)


def slices(n, spec, seed=0):
    return np.random.default_rng(seed).normal(size=(n, *spec.shape[1:])).astype(np.float32)


def test_layout_is_nexus_with_axes_and_units(tmp_path):
    ensure(tmp_path, make_spec(first_row=2, end_row=8))
    with h5py.File(tmp_path / NAME) as file:
        assert file.attrs["default"] == "entry"
        entry = file[file.attrs["default"]]
        data = entry[entry.attrs["default"]]
        assert (data.attrs["NX_class"], data.attrs["signal"], list(data.attrs["axes"])) == (
            "NXdata",
            "data",
            ["z", "y", "x"],
        )
        voxels = data["data"]
        assert (voxels.shape, voxels.dtype, voxels.attrs["units"]) == ((6, 6, 6), np.float32, "1/m")
        assert voxels.chunks is None
        np.testing.assert_allclose(data["z"][:], np.arange(2, 8) * 2e-6)
        np.testing.assert_allclose(data["x"][:], (np.arange(6) - 2.5) * 2e-6)
        assert data["y"].attrs["units"] == "m"
        assert entry["instrument/beam/incident_energy"][()] == 19.0
        assert entry["sample/name"].asstr()[()] == "bead"
        assert entry["reconstruction/version"].asstr()[()] == "1.2"
        assert '"origin":"file"' in entry["reconstruction/parameters/json"].asstr()[()]


def test_values_are_per_pixel_where_the_pixel_size_is_unknown(tmp_path):
    ensure(tmp_path, make_spec(make_header(pixel_size=None)))
    with h5py.File(tmp_path / NAME) as file:
        assert file[DATASET].attrs["units"] == "1/pixel"
        assert file["/entry/data/x"].attrs["units"] == "pixel"


def test_layout_has_the_same_bytes_at_another_time_and_place(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    ensure(tmp_path / "a", make_spec())
    time.sleep(1.1)  # HDF5 time stamps count seconds
    ensure(tmp_path / "b", make_spec())
    assert (tmp_path / "a" / NAME).read_bytes() == (tmp_path / "b" / NAME).read_bytes()


def test_ensure_by_many_at_once_makes_one_file_and_leaves_nothing(tmp_path):
    spec, found = make_spec(), []
    threads = [threading.Thread(target=lambda: found.append(ensure(tmp_path, spec))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_ensure_keeps_rows_that_are_there_and_removes_what_a_dead_worker_left(tmp_path):
    spec = make_spec()
    volume = ensure(tmp_path, spec)
    rows = slices(10, spec)
    with ShardWriter(volume, 0, 10) as writer:
        writer.write(stored(rows, None))
    (tmp_path / f".{NAME}.0123").write_bytes(b"left over")
    assert ensure(tmp_path, spec) == volume
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    with h5py.File(tmp_path / NAME) as file:
        np.testing.assert_array_equal(file[DATASET][:], rows)


def test_rows_land_by_detector_row_and_the_side_car_tells_them(tmp_path):
    spec = make_spec(first_row=1)
    volume = ensure(tmp_path, spec)
    rows = slices(9, spec)
    assert read_shard(tmp_path, 1, 9) is None
    with ShardWriter(volume, 1, 9) as writer:
        writer.write(stored(rows[:3], None))
        writer.write(stored(rows[3:8], None))
        result = writer.finish()
    with ShardWriter(volume, 9, 10) as writer:
        writer.write(stored(rows[8:], None))
        writer.finish()
    with h5py.File(tmp_path / NAME) as file:
        np.testing.assert_array_equal(file[DATASET][:], rows)
    assert result.digest == xxhash.xxh3_128(rows[:8].tobytes()).hexdigest()
    assert (result.minimum, result.maximum) == (rows[:8].min(), rows[:8].max())
    assert result.mean == pytest.approx(rows[:8].mean(dtype=float), rel=1e-12)
    assert read_shard(tmp_path, 1, 9) == result
    assert read_shard(tmp_path, 1, 8) is None


def test_mean_does_not_depend_on_the_slabs(tmp_path):
    spec = make_spec()
    volume, rows, means = ensure(tmp_path, spec), slices(10, spec), set()
    for cut in (1, 4, 10):
        with ShardWriter(volume, 0, 10) as writer:
            for start in range(0, 10, cut):
                writer.write(stored(rows[start : start + cut], None))
            means.add(writer.finish().mean)
    assert len(means) == 1


def test_an_unfinished_shard_has_no_side_car(tmp_path):
    spec = make_spec()
    with ShardWriter(ensure(tmp_path, spec), 0, 10) as writer:
        writer.write(stored(slices(3, spec), None))
        with pytest.raises(ValueError, match="rows 3 to 10"):
            writer.finish()
        with pytest.raises(ValueError, match="exceed"):
            writer.write(stored(slices(8, spec), None))
    assert read_shard(tmp_path, 0, 10) is None


def test_side_cars_without_their_volume_do_not_count(tmp_path):
    spec = make_spec()
    with ShardWriter(ensure(tmp_path, spec), 0, 10) as writer:
        writer.write(stored(slices(10, spec), None))
        writer.finish()
    (tmp_path / NAME).unlink()
    assert read_shard(tmp_path, 0, 10) is None


def test_a_volume_that_cannot_fit_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(NoSpace, match=r"needs 4e\+06 GB more") as caught:
        ensure(tmp_path, make_spec(make_header(n_rows=1000, n_columns=1_000_000)))
    assert "free space" in caught.value.sentence
    assert list(tmp_path.iterdir()) == []


def test_a_volume_of_other_parameters_is_not_written_over(tmp_path):
    ensure(tmp_path, make_spec())
    with pytest.raises(HoldError, match=r"holds \(10, 6, 6\) float32, not the \(4, 6, 6\) float32"):
        ensure(tmp_path, make_spec(end_row=4))


def test_rows_beyond_the_volume_are_refused(tmp_path):
    with pytest.raises(HoldError, match="row 11 is none"):
        ShardWriter(ensure(tmp_path, make_spec()), 8, 11).__enter__()


def test_pages_and_the_odd_rest_after_them_make_the_same_bytes(tmp_path):
    spec = make_spec(make_header(n_rows=9, n_columns=48))  # 2.25 pages a slice
    volume = ensure(tmp_path, spec)
    assert volume.offset % 4096 == 0
    rows = page_aligned((9, 48, 48), np.float32)
    rows[:] = slices(9, spec)
    with ShardWriter(volume, 0, 9) as writer:
        writer.write(stored(rows[:4], None))  # whole pages, from whole pages
        writer.write(stored(rows[4:7], None))  # whole pages and a rest
        writer.write(stored(rows[7:], None))  # off the pages
        assert writer.finish().digest == xxhash.xxh3_128(rows.tobytes()).hexdigest()
    with h5py.File(tmp_path / NAME) as file:
        np.testing.assert_array_equal(file[DATASET][:], rows)
