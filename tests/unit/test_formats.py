import math
import os
import re

import h5py
import hdf5plugin
import needs
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

from srctd.core.errors import NotPermitted, ScanUnreadable
from srctd.formats import open_scan
from srctd.formats.units import ANGLE, ENERGY, LENGTH

DETECTOR = "entry/instrument/detector"


def refusal(path, entry=""):
    """The sentence with which a scan is refused."""
    with pytest.raises(ScanUnreadable) as caught:
        open_scan(str(path), entry)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


# --- what is read -----


def test_nxtomo_frames_are_sorted_by_their_image_key(tmp_path):
    values = frame_values(len(KEYS))
    with open_scan(write_nxtomo(tmp_path / "a.nxs")) as scan:
        header = scan.header
        assert (header.format, header.entry) == ("nxtomo", "/entry")
        assert (header.n_projections, header.n_flats, header.n_darks) == (4, 2, 1)
        assert (header.n_rows, header.n_columns, header.dtype) == (ROWS, COLUMNS, "uint16")
        assert (header.title, header.sample) == ("a title", "a sample")
        np.testing.assert_array_equal(scan.read("projections", slice(None)), values[[2, 3, 5, 8]])
        np.testing.assert_array_equal(scan.read("flats", slice(1, 3)), values[[1, 7], 1:3])
        np.testing.assert_array_equal(scan.read("darks", slice(0, 1)), values[[0], 0:1])
        np.testing.assert_allclose(np.degrees(scan.angles()), np.linspace(0, 90, 9)[[2, 3, 5, 8]])
        assert any("2 frames" in note for note in header.notes)


def test_frames_can_be_picked_with_a_step_and_rows_beyond_the_end_are_cut(tmp_path):
    values = frame_values(len(KEYS))
    with open_scan(write_nxtomo(tmp_path / "a.nxs")) as scan:
        np.testing.assert_array_equal(
            scan.read("projections", slice(2, 99), slice(None, None, 2)), values[[2, 5], 2:]
        )
        assert scan.read("projections", slice(3, 3)).shape == (4, 0, COLUMNS)
        with pytest.raises(ValueError, match="step 1"):
            scan.read("projections", slice(None, None, 2))


def test_dataexchange(tmp_path):
    values = frame_values(8)
    with open_scan(write_dataexchange(tmp_path / "a.h5")) as scan:
        assert scan.header.format == "dataexchange"
        assert (scan.header.n_projections, scan.header.n_flats, scan.header.n_darks) == (5, 2, 1)
        np.testing.assert_array_equal(scan.read("projections", slice(1, 2)), values[:5, 1:2])
        np.testing.assert_array_equal(scan.read("flats", slice(None)), values[5:7])
        np.testing.assert_array_equal(scan.read("darks", slice(None)), values[7:])
        assert scan.header.angle_last_deg == pytest.approx(120)


def test_big_endian_and_compressed_frames_arrive_in_native_order(tmp_path):
    path = write_nxtomo(tmp_path / "a.nxs")
    values = frame_values(len(KEYS)).astype(">u2")
    with h5py.File(path, "a") as file:
        del file[f"{DETECTOR}/data"]
        file.create_dataset(f"{DETECTOR}/data", data=values, chunks=(1, ROWS, COLUMNS), **hdf5plugin.LZ4())
    with open_scan(path) as scan:
        block = scan.read("projections", slice(None))
        assert block.dtype == np.uint16
        assert block.dtype.isnative
        np.testing.assert_array_equal(block, values[[2, 3, 5, 8]])


def test_an_entry_inside_an_entry_and_several_of_them(tmp_path):
    path = write_nxtomo(tmp_path / "a.nxs", entry="entry1/tomo_entry")
    write_nxtomo(path, entry="entry2", keys=(1, 0, 0), mode="a")
    with open_scan(path) as scan:
        assert scan.header.entry == "/entry1/tomo_entry"
        assert (scan.header.series.member, scan.header.series.members) == (0, 2)
    with open_scan(path, member=1) as scan:
        assert (scan.header.entry, scan.header.series.member) == ("/entry2", 1)
    with open_scan(path, "entry2") as scan:
        assert scan.header.n_projections == 2
        assert "no dark fields: the dark signal is taken as zero" in scan.header.notes


def test_frames_without_an_nxtomo_entry_are_found_by_search(tmp_path):
    path = str(tmp_path / "a.nxs")
    with h5py.File(path, "w") as file:
        for camera in ("another", "imaging"):
            file[f"entry/instrument/{camera}/image_key"] = [1, 0, 0]
        file["entry/instrument/another/data"] = h5py.ExternalLink("gone.h5", "/data")
        file["entry/instrument/imaging/data"] = frame_values(3)
        file["entry/instrument/theta/value_set"] = h5py.ExternalLink("gone.h5", "/set")
        file["entry/imaging/theta"] = [0.0, 45.0, 90.0]
    with open_scan(path) as scan:
        assert scan.header.format == "nexus"
        assert scan.header.n_projections == 2
        assert any("found by search" in note for note in scan.header.notes)
        np.testing.assert_allclose(np.degrees(scan.angles()), [45, 90])


# --- links to other files -----


def test_external_links_are_followed_and_named(tmp_path):
    (tmp_path / "parts").mkdir()
    with h5py.File(tmp_path / "parts/frames.h5", "w") as file:
        file["data"] = frame_values(len(KEYS))
    path = write_nxtomo(tmp_path / "a.nxs", data=h5py.ExternalLink("parts/frames.h5", "data"))
    with open_scan(path) as scan:
        assert scan.header.references == (str(tmp_path / "parts/frames.h5"),)
        np.testing.assert_array_equal(scan.read("darks", slice(None)), frame_values(len(KEYS))[:1])


def test_an_absolute_link_to_a_moved_file_is_found_beside_the_scan(tmp_path):
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        file["data"] = frame_values(len(KEYS))
    path = write_nxtomo(tmp_path / "a.nxs", data=h5py.ExternalLink("/nowhere/frames.h5", "/data"))
    with open_scan(path) as scan:
        assert scan.header.references == (str(tmp_path / "frames.h5"),)


def test_a_missing_external_file_is_named_in_one_sentence(tmp_path):
    path = write_nxtomo(tmp_path / "a.nxs", data=h5py.ExternalLink("frames.h5", "/data"))
    assert str(tmp_path / "frames.h5") in refusal(path)


def virtual_scan(tmp_path, parts, length):
    """An NXtomo file whose 9 frames are assembled from three files of 3."""
    layout = h5py.VirtualLayout((9, ROWS, COLUMNS), np.uint16)
    for i in range(3):
        layout[3 * i : 3 * i + 3] = h5py.VirtualSource(f"part{i}.h5", "data", (3, ROWS, COLUMNS))
        if i < parts:
            with h5py.File(tmp_path / f"part{i}.h5", "w") as file:
                file["data"] = frame_values(9)[3 * i : 3 * i + length]
    path = write_nxtomo(tmp_path / "a.nxs")
    with h5py.File(path, "a") as file:
        del file[f"{DETECTOR}/data"]
        file[DETECTOR].create_virtual_dataset("data", layout)
    return path


def test_a_virtual_data_set_names_its_sources(tmp_path):
    with open_scan(virtual_scan(tmp_path, parts=3, length=3)) as scan:
        assert scan.header.references == tuple(str(tmp_path / f"part{i}.h5") for i in range(3))
        np.testing.assert_array_equal(scan.read("projections", slice(None)), frame_values(9)[[2, 3, 5, 8]])


@pytest.mark.parametrize(
    ("parts", "length", "named"), [(2, 3, "part2.h5, which does not exist"), (3, 2, "3 frames")]
)
def test_a_virtual_data_set_with_a_gap_is_refused_although_hdf5_reads_it(tmp_path, parts, length, named):
    assert named in refusal(virtual_scan(tmp_path, parts, length))


def test_links_that_lead_in_a_circle_are_refused(tmp_path):
    path = write_nxtomo(tmp_path / "a.nxs", data=h5py.SoftLink("/entry/instrument/detector/data"))
    assert "circle" in refusal(path)


# --- bad input, each with its sentence -----


def test_a_file_that_does_not_exist(tmp_path):
    assert refusal(tmp_path / "a.nxs") == f"{tmp_path / 'a.nxs'} does not exist"


def test_a_truncated_file(tmp_path):
    path = write_nxtomo(tmp_path / "a.nxs")
    size = os.path.getsize(path)
    assert re.search(
        rf"is truncated: .*eof = {size - 100}.*stored_eof = {size}", refusal(truncate(path, size - 100))
    )


def test_files_that_are_not_hdf5(tmp_path):
    (tmp_path / "a.h5").write_text("not at all")
    (tmp_path / "b.h5").write_text("")
    assert "is not an HDF5 file" in refusal(tmp_path / "a.h5")
    assert "is empty" in refusal(tmp_path / "b.h5")
    assert "no frames" in refusal(tmp_path)


def test_a_file_without_permission(tmp_path):
    path = write_nxtomo(tmp_path / "a.nxs")
    os.chmod(path, 0)
    with needs.as_nobody(), pytest.raises(NotPermitted, match="may not be read"):
        open_scan(path)


def test_a_permission_error_of_the_system_is_told_as_such():
    from srctd.formats.hdf5 import translated

    with pytest.raises(NotPermitted, match=r"/a\.h5 may not be read"), translated("/a.h5"):
        raise PermissionError(13, "Permission denied")


def test_wrong_rank(tmp_path):
    path = write_nxtomo(tmp_path / "a.nxs", data=np.ones((len(KEYS), 24), np.uint16))
    assert "/entry/instrument/detector/data has 2 dimensions, shape (9, 24); expected 3" in refusal(path)


def test_no_flats_and_no_projections(tmp_path):
    assert "holds no flat fields" in refusal(write_nxtomo(tmp_path / "a.nxs", keys=(2, 0, 0)))
    assert "holds no flat fields" in refusal(write_dataexchange(tmp_path / "a.h5", flats=0))
    assert "holds no projections" in refusal(write_nxtomo(tmp_path / "b.nxs", keys=(2, 1, 1)))


def test_nan_angles_of_projections_name_the_index(tmp_path):
    angles = np.linspace(0, 90, len(KEYS))
    angles[[0, 5]] = np.nan  # frame 0 is a dark: its angle does not matter
    sentence = refusal(write_nxtomo(tmp_path / "a.nxs", angles=angles))
    assert "1 of 4 angles that are not numbers, the first at index 5 (nan)" in sentence


def test_counts_that_differ_name_both_numbers(tmp_path):
    assert "8 rotation angles" in refusal(write_nxtomo(tmp_path / "a.nxs", angles=np.arange(8.0)))
    sentence = refusal(write_dataexchange(tmp_path / "a.h5", theta=[0, 30, 60, 90]))
    assert "4 rotation angles (/exchange/theta) for 5 frames" in sentence
    path = write_nxtomo(tmp_path / "b.nxs")
    set_quantity(path, f"{DETECTOR}/image_key", [0, 1])
    assert "2 image keys (/entry/instrument/detector/image_key) for 9 frames" in refusal(path)


def test_missing_angles_are_never_assumed(tmp_path):
    assert "has no rotation angle (/exchange/theta)" in refusal(
        write_dataexchange(tmp_path / "a.h5", theta=False)
    )


def test_equal_angles_and_unknown_or_ambiguous_units(tmp_path):
    assert "all 5 angles are 0" in refusal(write_dataexchange(tmp_path / "a.h5", theta=np.zeros(5)))
    path = write_dataexchange(tmp_path / "b.h5", theta=np.linspace(0, math.pi, 5))
    assert "degrees or radians" in refusal(path)
    set_quantity(path, "exchange/theta", np.linspace(0, math.pi, 5), "furlong")
    assert "unknown unit 'furlong'" in refusal(path)
    set_quantity(path, "exchange/theta", np.linspace(0, math.pi, 5), "rad")
    with open_scan(path) as scan:
        assert scan.header.angle_last_deg == pytest.approx(180)


def test_absurd_dimensions_are_refused_before_memory_is_touched(tmp_path):
    path = write_nxtomo(tmp_path / "a.nxs")
    with h5py.File(path, "a") as file:
        del file[f"{DETECTOR}/data"]
        file[DETECTOR].create_dataset("data", (9, 2**40, 2**20), np.uint16, chunks=(1, 64, 64))
    assert "which no detector writes" in refusal(path)


def test_a_file_without_tomography(tmp_path):
    path = str(tmp_path / "a.h5")
    with h5py.File(path, "w") as file:
        file["entry/detector/detector"] = frame_values(3)
    assert "holds no tomography" in refusal(path)
    assert "at no/such" in refusal(path, "no/such")


def test_flats_of_another_size(tmp_path):
    path = write_dataexchange(tmp_path / "a.h5")
    set_quantity(path, "exchange/data_white", np.ones((2, ROWS, COLUMNS + 1), np.uint16))
    assert "has frames of 4 x 7 pixels, the projections of 4 x 6" in refusal(path)


# --- physical facts -----


def test_quantities_with_known_units(tmp_path):
    path = write_nxtomo(tmp_path / "a.nxs")
    set_quantity(path, f"{DETECTOR}/x_pixel_size", [0.65], "µm")
    set_quantity(path, "entry/instrument/monochromator/energy", 25000.0, np.bytes_("eV"))
    set_quantity(path, f"{DETECTOR}/distance", 250, "mm")
    set_quantity(path, "entry/instrument/source/energy", 3.0, "GeV")
    with open_scan(path) as scan:
        header = scan.header
    assert (header.pixel_size.value, header.pixel_size.unit) == (pytest.approx(0.65e-6), "m")
    assert header.pixel_size.origin == f"/{DETECTOR}/x_pixel_size"
    assert (header.energy.value, header.energy.unit) == (pytest.approx(25), "keV")
    assert header.distance.value == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("value", "unit", "note"),
    [
        (math.nan, "undefined", "is not a positive number"),
        (-1.0, "um", "is not a positive number"),
        (np.bytes_("b2017b74-c39d"), None, "is not a positive number"),
        (0.65, "undefined", "unknown unit 'undefined'"),
        (0.65, None, "has no unit"),
    ],
)
def test_quantities_that_cannot_be_used_are_said_and_not_guessed(tmp_path, value, unit, note):
    path = write_nxtomo(tmp_path / "a.nxs")
    set_quantity(path, f"{DETECTOR}/x_pixel_size", value, unit)
    with open_scan(path) as scan:
        header = scan.header
    assert header.pixel_size is None
    assert header.energy is None
    assert any(note in said for said in header.notes)
    assert "the pixel size is unknown: values are per pixel, not per metre" in header.notes
    assert "energy and distance are unknown: no phase retrieval" in header.notes


def test_dataexchange_means_si_where_no_unit_is_given(tmp_path):
    path = write_dataexchange(tmp_path / "a.h5")
    set_quantity(path, "measurement/instrument/monochromator/energy", 4.0e-15)
    set_quantity(path, "measurement/instrument/detector/pixel_size", 6.5, "um")
    with open_scan(path) as scan:
        assert scan.header.energy.value == pytest.approx(24.966, abs=1e-3)
        assert scan.header.pixel_size.value == pytest.approx(6.5e-6)
        assert any("no objective" in note for note in scan.header.notes)
    set_quantity(path, "measurement/instrument/detection_system/objective/name", "5x")
    with open_scan(path) as scan:
        assert scan.header.pixel_size is None
    set_quantity(path, "measurement/instrument/detection_system/objective/magnification", 5.0)
    with open_scan(path) as scan:
        assert scan.header.pixel_size.value == pytest.approx(1.3e-6)
    set_quantity(path, "measurement/instrument/detection_system/objective/resolution", 1.25, "um")
    with open_scan(path) as scan:
        assert scan.header.pixel_size.value == pytest.approx(1.25e-6)


@pytest.mark.parametrize(
    ("dimension", "spelling", "worth"),
    [(LENGTH, "μm", 1e-6), (LENGTH, " mm ", 1e-3), (ENERGY, "KeV", 1), (ANGLE, "Degrees", math.pi / 180)],
)
def test_spellings_of_units(dimension, spelling, worth):
    assert dimension.factor(spelling) == pytest.approx(worth)
    assert dimension.factor("parsec") is None


# --- the detector computer is never harmed -----


def test_reading_takes_no_lock_on_any_file_of_the_scan(tmp_path):
    """A writer must be able to open the scan and what it links to while we read."""
    import fcntl

    with h5py.File(tmp_path / "frames.h5", "w") as file:
        file["data"] = frame_values(len(KEYS))
    path = write_nxtomo(tmp_path / "a.nxs", data=h5py.ExternalLink("frames.h5", "/data"))
    with open_scan(path) as scan:
        scan.read("projections", slice(None))
        for name in (path, tmp_path / "frames.h5"):
            with open(name, "r+b") as writer:
                fcntl.flock(writer, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_few_rows_are_read_without_fetching_whole_frames(tmp_path):
    frames, rows, columns = 40, 400, 500
    path = write_nxtomo(tmp_path / "a.nxs", keys=(1, 2) + (0,) * (frames - 2))
    with h5py.File(path, "a") as file:
        del file[f"{DETECTOR}/data"]
        file[DETECTOR].create_dataset(
            "data", data=np.ones((frames, rows, columns), np.uint16), chunks=(1, rows, columns)
        )
    with open_scan(path) as scan:
        before = bytes_read()
        wanted = scan.read("projections", slice(8, 16)).nbytes
        assert bytes_read() - before < 2 * wanted


def bytes_read():
    with open("/proc/self/io") as file:
        return int(file.readline().split()[1])


def test_averaged_flats_keep_their_fractions(tmp_path):
    path = write_dataexchange(tmp_path / "a.h5")
    set_quantity(path, "exchange/data_white", np.full((1, ROWS, COLUMNS), 1000.5, np.float32))
    with open_scan(path) as scan:
        assert scan.read("flats", slice(0, 1)).max() == 1000.5
        np.testing.assert_array_equal(scan.read("projections", slice(None)), frame_values(5))
        assert scan.header.dtype == "uint16"
