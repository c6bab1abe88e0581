import h5py
import numpy as np
import pytest
from scan_files import COLUMNS, ROWS, frame_values, set_quantity, write_dataexchange, write_nxtomo

from srctd.core.completion import Rule, State, judge
from srctd.core.errors import ScanUnreadable
from srctd.formats import open_scan, probe
from srctd.formats.reader import index_scan


def write_lnls(folder, angles=True, references=("flat_before", "dark_before")):
    path = folder / "tomo.h5"
    values = frame_values(20)
    with h5py.File(path, "w") as file:
        file["images"] = values[:10]
        if angles:
            file["angles"] = np.arange(10) * 18.0
            file["angles"].attrs["units"] = "deg"
    for i, name in enumerate(references):
        with h5py.File(folder / f"tomo_{name}.h5", "w") as file:
            file[f"{name.split('_')[0]}s"] = values[10 + 2 * i : 12 + 2 * i]
    return str(path)


def test_lnls_files_beside_each_other_are_one_scan(tmp_path):
    path = write_lnls(tmp_path, references=("flat_before", "dark_before", "flat_after"))
    seen = probe(path)
    assert (seen.frames_found, seen.usable) == (16, True)
    assert set(seen.references) == {
        str(tmp_path / f"tomo_{name}.h5") for name in ("flat_before", "flat_after", "dark_before")
    }
    with open_scan(path) as scan:
        assert (scan.header.format, scan.header.n_flats, scan.header.n_darks) == ("hdf5", 4, 2)
        np.testing.assert_array_equal(scan.read("flats", slice(None)), frame_values(20)[[10, 11, 14, 15]])
        np.testing.assert_array_equal(scan.read("darks", slice(0, 2)), frame_values(20)[12:14, 0:2])


def test_lnls_without_angles_or_flats_is_refused(tmp_path):
    path = write_lnls(tmp_path, angles=False)
    assert "has no rotation angle" in probe(path).missing[0]
    with pytest.raises(ScanUnreadable, match="no rotation angle"):
        open_scan(path, incomplete=True)
    (tmp_path / "other").mkdir()
    path = write_lnls(tmp_path / "other", references=())
    assert "tomo_flat_before.h5" in probe(path).missing[0]
    assert judge(probe(path), 100.0, Rule()).state is State.ARRIVING


def test_the_flats_of_a_neighbor_are_no_scan(tmp_path):
    write_lnls(tmp_path)
    seen = probe(str(tmp_path / "tomo_flat_before.h5"))
    assert seen.foreign
    assert "holds only flat fields, those of the scan tomo" in seen.problem


def test_images_of_something_else_are_no_scan(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = frame_values(3)
    assert probe(str(tmp_path / "a.h5")).foreign


def write_als(path, projections=10, skipped=(), attributes=None):
    values = frame_values(projections + 4)
    with h5py.File(path, "w") as file:
        group = file.create_group("20130713_seed")
        group.attrs.update(
            {"nangles": "10", "arange": "180.0", "i0cycle": "0"} if attributes is None else attributes
        )
        for k in range(projections):
            if k not in skipped:
                group[f"20130713_seed_0000_{k:04d}.tif"] = values[k : k + 1]
        for j, k in enumerate((0, 9)):
            group[f"20130713_seedbak_{j:04d}_{k:04d}.tif"] = values[projections + j : projections + j + 1]
        group["20130713_seeddrk_0000_0009.tif"] = values[projections + 2 : projections + 3]
    return str(path)


def test_als_images_in_data_sets_of_their_own(tmp_path):
    with open_scan(write_als(tmp_path / "a.h5")) as scan:
        header = scan.header
        assert (header.n_projections, header.n_flats, header.n_darks) == (10, 2, 1)
        np.testing.assert_allclose(np.degrees(scan.angles()), np.linspace(0, 180, 10))
        np.testing.assert_array_equal(scan.read("projections", slice(1, 2)), frame_values(14)[:10, 1:2])
        assert any("nangles - 1" in note for note in header.notes)
    assert probe(str(tmp_path / "a.h5")).expectations[0].frames == 13


def test_als_images_that_are_not_there(tmp_path):
    path = write_als(tmp_path / "a.h5", skipped=(4, 5))
    assert probe(path).gaps == ((4, 5),)
    index = index_scan(path, incomplete=True)
    assert index.header.shortfall.gaps == ((4, 5),)
    assert np.degrees(index.angles[4]) == pytest.approx(120)


def test_als_without_a_range_is_refused(tmp_path):
    path = write_als(tmp_path / "a.h5", attributes={"nangles": 10})
    with pytest.raises(ScanUnreadable, match=r"no rotation angle .*arange"):
        open_scan(path, incomplete=True)


def test_flats_in_a_file_that_a_link_names(tmp_path):
    with h5py.File(tmp_path / "flats.h5", "w") as file:
        file["exchange/data_white"] = frame_values(3)
        file["process/acquisition/end_date"] = "2026-01-01"
    path = write_dataexchange(tmp_path / "a.h5", flats=0)
    with h5py.File(path, "a") as file:
        file["exchange/data_white"] = h5py.ExternalLink("flats.h5", "/exchange/data_white")
    with open_scan(path) as scan:
        assert (scan.header.n_flats, scan.header.references) == (3, (str(tmp_path / "flats.h5"),))
        np.testing.assert_array_equal(scan.read("flats", slice(None)), frame_values(3))
    assert probe(str(tmp_path / "flats.h5")).foreign


# --- variants of NXtomo -----


def test_places_where_esrf_puts_things(tmp_path):
    path = write_nxtomo(tmp_path / "a.nxs", keys=(2, 1, 0, 0, 0, 0))
    detector = "entry/instrument/detector"
    set_quantity(path, f"{detector}/image_key_control", [2, 1, 0, 0, 0, -1])
    set_quantity(path, f"{detector}/x_magnified_pixel_size", 0.7, np.bytes_("um"))
    set_quantity(path, f"{detector}/field_of_view", "Half")
    set_quantity(path, "entry/beam/incident_energy", 19.0)
    with h5py.File(path, "a") as file:
        file["entry/beam/incident_energy"].attrs["unit"] = "keV"
        del file["entry/sample/rotation_angle"].attrs["units"]
        file["entry/sample/rotation_angle"].attrs["unit"] = np.bytes_("degree")
    header = index_scan(path).header
    assert header.n_projections == 3
    assert header.pixel_size.value == pytest.approx(0.7e-6)
    assert header.energy.value == 19.0
    assert any("field of view is half" in note for note in header.notes)
    assert (header.n_rows, header.n_columns) == (ROWS, COLUMNS)
