import os
import re
import subprocess
import sys
from pathlib import Path

import fabio
import h5py
import hdf5plugin  # noqa: F401 (registers the filters)
import msgspec
import numpy as np
import pytest
import tifffile
from simulated import SMALL, parameters_of, read_back, tiffs, truth

from srctd.core.errors import ConfigError
from srctd.sim import Faults, Hdf5Options, Series, TiffOptions, simulate
from srctd.sim.check import FEATURES
from srctd.sim.plan import plan
from srctd.sim.skyscan import REFERENCE_INTENSITY
from srctd.sim.writer import FORMATS


def spec_of(format_, **changes):
    return msgspec.structs.replace(SMALL, format=format_, **changes)


def written(tmp_path, spec):
    path = tmp_path / f"scan{FORMATS[spec.format].suffix}"
    assert simulate(spec, str(path))
    return path


def assert_same(spec, path):
    found, expected = read_back(spec, path), truth(spec)
    assert found.keys() == expected.keys()
    for kind, frames in expected.items():
        np.testing.assert_array_equal(found[kind], frames, err_msg=kind)


@pytest.mark.parametrize("format_", [name for name in FORMATS if name != "skyscan"])
def test_every_format_holds_the_same_counts(tmp_path, format_):
    spec = spec_of(format_)
    assert_same(spec, written(tmp_path, spec))


AFTER = [
    name for name in FORMATS if "flats_after" in FORMATS[name].features and name not in ("raw", "australian")
]


@pytest.mark.parametrize("format_", AFTER)
def test_flats_after_the_projections(tmp_path, format_):
    spec = spec_of(format_, flats_after=3)
    assert_same(spec, written(tmp_path, spec))


@pytest.mark.parametrize("format_", ["nxtomo", "kit", "edf", "petra", "plain"])
def test_flats_between_the_projections(tmp_path, format_):
    spec = spec_of(format_, flats_every=4)
    path = written(tmp_path, spec)
    assert_same(spec, path)
    if format_ == "nxtomo":
        with h5py.File(path) as file:
            keys = file["entry/instrument/detector/image_key"][()].tolist()
            angles = file["entry/sample/rotation_angle"][()]
        assert keys == [2] * 2 + [1] * 3 + [0] * 4 + [1] * 3 + [0] * 4 + [1] * 3 + [0]
        assert angles[9:12].tolist() == [80.0] * 3
    if format_ == "edf":
        assert sorted(file.name for file in path.glob("ref0000*")) == [
            "ref0000_0000.edf",
            "ref0000_0004.edf",
            "ref0000_0008.edf",
        ]


@pytest.mark.parametrize("format_", [name for name in FORMATS if "bigtiff" in FORMATS[name].features])
def test_tiff_stacks_in_every_flavor(tmp_path, format_):
    options = TiffOptions(byte_order="big", bigtiff=True)
    path = written(tmp_path, spec_of(format_, tiff=options))
    for file in path.rglob("*.tif*"):
        with tifffile.TiffFile(file) as opened:
            assert (opened.byteorder, opened.is_bigtiff) == (">", True)
    if format_ != "skyscan":
        assert_same(spec_of(format_), path)


@pytest.mark.parametrize("format_", ["kit", "elettra", "petra", "australian", "plain"])
def test_files_of_several_pages(tmp_path, format_):
    spec = spec_of(format_, tiff=TiffOptions(pages=4))
    path = written(tmp_path, spec)
    assert_same(spec, path)
    assert len(list(path.rglob("*.tif*"))) == 3 + 1 + 1


def test_one_file_of_pages_for_every_kind_with_flats_between(tmp_path):
    spec = spec_of("kit", flats_every=4, tiff=TiffOptions(pages=100))
    assert_same(spec, written(tmp_path, spec))


def test_australian_frames_before_and_after(tmp_path):
    spec = spec_of("australian", flats_after=2, darks_after=1)
    path = written(tmp_path, spec)
    expected = truth(spec)
    np.testing.assert_array_equal(tiffs(path, "BG__BEFORE_*.tif"), expected["flat"][:3])
    np.testing.assert_array_equal(tiffs(path, "BG__AFTER_*.tif"), expected["flat"][3:])
    np.testing.assert_array_equal(tiffs(path, "DF__AFTER_*.tif"), expected["dark"][2:])


def test_a_folder_may_be_named_with_a_slash(tmp_path):
    simulate(spec_of("tomcat"), f"{tmp_path}/scan/")
    assert (tmp_path / "scan" / "tif" / "scan0001.tif").exists()


# --- what the logs say ------------------------------------------------------------------------------------


def test_the_tomcat_log_is_there_before_the_frames_and_ends_after_them(tmp_path):
    path = tmp_path / "R108C60_"
    log = path / "tif" / "R108C60_.log"
    seen = []
    spec = spec_of("tomcat", angle_start_deg=45.0)
    simulate(spec, str(path), on_frame=lambda done, total: seen.append(log.read_text()))
    keys = {}
    for line in seen[0].splitlines():
        key, colon, value = line.partition(" : ") if line.startswith("User") else line.partition(": ")
        if colon:
            keys[key.rstrip()] = value
    assert {name: keys[name] for name in keys if "[" in name or "Number" in name} == {
        "Ring current [mA]": "400.650",
        "Beam energy  [keV]": "25.000",
        "Exposure time [ms]": "10",
        "Number of projections": "9",
        "Number of darks": "2",
        "Number of flats": "3",
        "Number of inter-flats": "0",
        "Rot Y min position  [deg]": "45.000",
        "Rot Y max position  [deg]": "205.000",
        "Angular step [deg]": "20.000",
        "Sample In   [um]": "0",
        "Sample Out  [um]": "10000",
    }
    assert (keys["File Prefix"], keys["Flat frequency"], keys["Inner scan flag"]) == ("R108C60_", "0", "0")
    assert (keys["Objective"], keys["Monostripe"], keys["User ID"]) == ("6.50", "Ru/C", "Simulated User")
    assert re.search(
        r"^FAST-TOMO scan of sample ellipsoids started on \w{3} \w{3} \d\d [\d:]{8} \d{4}$", seen[0], re.M
    )
    assert re.search(r"^-+Beamline Settings-+$", seen[0], re.M)
    assert all("Start logging activity...\n" in text and "finished" not in text for text in seen)
    assert log.read_text().endswith(": Scan finished\n")


def test_the_settings_of_the_als(tmp_path):
    path = written(tmp_path, spec_of("als832", flats_every=3))
    lines = dict(line.split(" ", 1) for line in (path / "scan.sct").read_text().splitlines())
    assert lines["-nangles"] == "9"
    assert (lines["-num_bright_field"], lines["-num_dark_fields"], lines["-i0cycle"]) == ("3", "2", "3")
    assert float(lines["-arange"]) == 160
    assert (path / "scanbak_0002_0006.tif").exists()


def test_the_settings_of_the_als_as_attributes(tmp_path):
    path = written(tmp_path, spec_of("als832h5"))
    with h5py.File(path) as file:
        attributes = dict(file["scan"].attrs)
        assert file["scan/scan_0000_0008.tif"].shape == (1, 10, 32)
    assert (attributes["nangles"], attributes["arange"], attributes["num_dark_fields"]) == (
        "9",
        "160.000000",
        "2",
    )


def test_the_angles_that_a_site_adds_to_files_of_the_lnls(tmp_path):
    path = written(tmp_path, spec_of("lnls"))
    with h5py.File(path / "tomo.h5") as file:
        np.testing.assert_allclose(file["angles"][()], SMALL.angles_deg)
        assert file["angles"].attrs["units"] == "degree"


def test_the_esrf_info_file_headers_and_marks(tmp_path):
    path = tmp_path / "bone_"
    spec = spec_of("edf", angle_range_deg=360.0, return_images=5, position_z=2e-3, flats_after=1)
    seen = []
    simulate(spec, str(path), on_frame=lambda done, total: seen.append(os.path.exists(path / "bone_.xml")))
    info = dict(line.split("= ") for line in (path / "bone_.info").read_text().splitlines())
    assert (info["TOMO_N"], info["REF_ON"], info["REF_N"], info["DARK_N"]) == ("9", "9", "3", "2")
    assert (float(info["ScanRange"]), float(info["Energy"]), float(info["Distance"])) == (360, 25, 100)
    assert (float(info["PixelSize"]), info["Dim_1"], info["Dim_2"]) == (1.0, "32", "10")
    assert not any(seen)
    assert (path / "bone_.xml").exists()
    assert not (path / "bone_.abo").exists()
    assert_same(spec, path)
    assert (path / "ref0000_0009.edf").exists()

    image = fabio.open(str(path / "bone_0003.edf"))
    motors = dict(
        zip(image.header["motor_mne"].split(), map(float, image.header["motor_pos"].split()), strict=True)
    )
    assert motors == {"srot": 120.0, "sy": 0.0, "sz": 2.0}
    back = [fabio.open(str(path / f"bone_{9 + k:04d}.edf")).header["motor_pos"].split()[0] for k in range(5)]
    assert back == ["360", "270", "180", "90", "0"]
    assert (path / "bone_0003.edf").read_bytes().index(b"}\n") % 512 == 510


def test_big_endian_edf(tmp_path):
    spec = spec_of("edf", tiff=TiffOptions(byte_order="big"))
    path = written(tmp_path, spec)
    assert fabio.open(str(path / "scan0000.edf")).header["ByteOrder"] == "HighByteFirst"
    assert_same(spec, path)


def test_darks_of_the_esrf_come_last(tmp_path):
    path = tmp_path / "scan"
    assert not simulate(spec_of("edf", faults=Faults(abort_after=12)), str(path))
    assert not list(path.glob("dark*"))
    assert (path / "scan.abo").exists()
    assert not (path / "scan.xml").exists()


def test_skyscan_frames_are_flat_fielded_and_the_log_is_in_windows_bytes(tmp_path):
    spec = spec_of("skyscan")
    path = written(tmp_path, spec)
    data = (path / "scan.log").read_bytes()
    assert "ü".encode("cp1252") in data
    with pytest.raises(UnicodeDecodeError):
        data.decode("utf-8")
    lines = data.decode("cp1252").split("\r\n")
    for line in (
        "[System]",
        "[Acquisition]",
        "Filename Prefix=scan",
        "Number Of Files= 9",
        "Rotation Step (deg)=20.000",
        "Use 360 Rotation=NO",
        "Flat Field Correction=ON",
        "Image Pixel Size (um)=1.000000",
    ):
        assert line in lines
    expected = truth(spec)
    dark = expected["dark"].mean(axis=0)
    light = (expected["projection"] - dark) / np.maximum(expected["flat"].mean(axis=0) - dark, 1e-9)
    good = expected["flat"].min(axis=0) > 1000
    found = tiffs(path, "scan[0-9]*.tif")
    counts = np.clip(light * REFERENCE_INTENSITY, 0, 65535)
    np.testing.assert_allclose(found[:, good], counts[:, good], atol=0.6)


@pytest.mark.parametrize("format_", ["kit", "elettra", "petra", "australian"])
def test_formats_without_a_log_get_a_parameter_file(tmp_path, format_):
    known = parameters_of(written(tmp_path, spec_of(format_, position_x=-1e-3)) / "scan.json")
    assert (known["n_projections"], known["n_flats"], known["n_darks"]) == (9, 3, 2)
    assert (known["angle_start"], known["angle_range"], known["angle_range_unit"]) == (0, 180, "deg")
    assert (known["pixel_size"], known["pixel_size_unit"]) == (1.0, "um")
    assert (known["energy"], known["energy_unit"]) == (25.0, "keV")
    assert (known["distance"], known["distance_unit"]) == (100.0, "mm")
    assert (known["position_x"], known["position_x_unit"]) == (-1.0, "mm")


@pytest.mark.parametrize("syntax", ["json", "ini"])
@pytest.mark.parametrize("order", ["little", "big"])
def test_raw_files(tmp_path, syntax, order):
    spec = spec_of("raw", parameters=syntax, tiff=TiffOptions(byte_order=order))
    assert_same(spec, written(tmp_path, spec))


def test_the_angles_of_a_plain_stack_have_a_line_for_every_frame(tmp_path):
    path = written(tmp_path, spec_of("plain", flats_after=2, angle_start_deg=-88.2))
    angles = np.loadtxt(path / "angles.txt")
    np.testing.assert_allclose(angles[:6], [-88.2] * 6)
    np.testing.assert_allclose(angles[5:14], SMALL.angles_deg - 88.2)
    np.testing.assert_allclose(angles[13:], [71.8] * 3)


# --- HDF5 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["gzip", "bitshuffle", "lz4", "blosc", "zstd"])
@pytest.mark.parametrize("format_", ["nxtomo", "dataexchange", "lnls", "als832h5"])
def test_compressed_frames(tmp_path, format_, compression):
    spec = spec_of(format_, hdf5=Hdf5Options(compression=compression))
    path = written(tmp_path, spec)
    assert_same(spec, path)
    file, place = {
        "nxtomo": (path, "entry/instrument/detector/data"),
        "dataexchange": (path, "exchange/data"),
        "lnls": (path / "tomo.h5", "images"),
        "als832h5": (path, "scan/scan_0000_0000.tif"),
    }[format_]
    with h5py.File(file) as opened:
        assert opened[place].id.get_create_plist().get_nfilters() > 0


@pytest.mark.parametrize("storage", ["external", "virtual"])
@pytest.mark.parametrize("presized", [False, True])
def test_frames_in_other_files(tmp_path, storage, presized):
    spec = spec_of("nxtomo", presized=presized, hdf5=Hdf5Options(storage=storage, parts=4))
    path = written(tmp_path, spec)
    assert_same(spec, path)
    assert len(list(tmp_path.iterdir())) == (2 if storage == "external" else 5)
    with h5py.File(path) as file:
        assert file["entry/data/data"].shape == (14, 10, 32)
        detector = file["entry/instrument/detector"]
        if storage == "external":
            assert isinstance(detector.get("data", getlink=True), h5py.ExternalLink)
        else:
            assert len(detector["data"].virtual_sources()) == 4


SWMR_READER = """
import sys, h5py
with h5py.File(sys.argv[1], "r", libver="latest", swmr=True, locking=False) as file:
    detector = file["entry/instrument/detector"]
    print(detector["data"].shape, detector["image_key"][()].tolist())
"""


def test_a_file_open_to_many_readers(tmp_path):
    path = tmp_path / "scan.nxs"
    spec = spec_of("nxtomo", hdf5=Hdf5Options(swmr=True))
    flags, read = [], []

    def look(done, total):
        flags.append(path.read_bytes()[11])
        if done == 8:
            command = [sys.executable, "-c", SWMR_READER, str(path)]
            read.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert simulate(spec, str(path), on_frame=look)
    assert (flags, read) == ([5] * 14, ["(8, 10, 32) [2, 2, 1, 1, 1, 0, 0, 0]\n"])
    assert path.read_bytes()[11] == 0
    assert_same(spec, path)
    with h5py.File(path) as file:
        assert file["entry/end_time"][()]
        assert file["entry/sample/rotation_angle"].attrs["units"] == "degree"


def test_several_entries_in_a_file(tmp_path):
    spec = spec_of("nxtomo", hdf5=Hdf5Options(entries=3))
    path = written(tmp_path, spec)
    expected = truth(spec)["projection"]
    with h5py.File(path) as file:
        assert sorted(file) == ["entry0000", "entry0001", "entry0002"]
        for number, entry in enumerate(file.values()):
            assert entry["instrument/detector/data"].shape == (14, 10, 32)
            assert entry["end_time"][()]
            own = slice(number * 9, number * 9 + 9)
            np.testing.assert_array_equal(entry["instrument/detector/data"][5:], expected[own])
            np.testing.assert_array_equal(entry["sample/rotation_angle"][5:], spec.angles_deg)


@pytest.mark.parametrize("format_", ["nxtomo", "dataexchange"])
def test_rotations_without_a_stop(tmp_path, format_):
    spec = spec_of(format_, rotations=3)
    path = written(tmp_path, spec)
    assert_same(spec, path)
    with h5py.File(path) as file:
        angles = (
            file["exchange/theta"][()]
            if format_ == "dataexchange"
            else file["entry/sample/rotation_angle"][5:]
        )
    np.testing.assert_allclose(angles, np.arange(27) * 20.0)


def test_an_area_detector_numbers_what_it_was_given(tmp_path):
    spec = spec_of("dataexchange", flats_after=3, faults=Faults(drop=(2, 7)))
    path = written(tmp_path, spec)
    with h5py.File(path) as file:
        ids = file["defaults/NDArrayUniqueId"][()]
        places = file["defaults/HDF5FrameLocation"].asstr()[()]
        assert file["exchange/data"].shape[0] == 7
        assert file["exchange/theta"].shape == (9,)
        assert file["process/acquisition/flat_fields/mode"].asstr()[()] == "Both"
        np.testing.assert_array_equal(
            file["exchange/data"][()], np.delete(truth(spec)["projection"], (2, 7), axis=0)
        )
    assert np.diff(ids).tolist() == [1] * 6 + [2] + [1] * 3 + [2] + [1] * 3
    assert (places[0], places[4], places[5], places[-1]) == (
        "/exchange/data_dark",
        "/exchange/data_white",
        "/exchange/data",
        "/exchange/data_white",
    )


# --- series and positions ---------------------------------------------------------------------------------


def test_a_mosaic_has_positions_in_names_and_metadata(tmp_path):
    series = Series(columns=2, levels=2, step_x=4e-6, step_z=6e-6)
    progress = []
    assert simulate(
        spec_of("nxtomo", series=series),
        str(tmp_path / "m"),
        on_frame=lambda done, total: progress.append((done, total)),
    )
    assert progress == [(done, 56) for done in range(1, 57)]
    names = sorted(path.name for path in (tmp_path / "m").iterdir())
    assert names == ["m_z00_x00.nxs", "m_z00_x01.nxs", "m_z01_x00.nxs", "m_z01_x01.nxs"]
    for name, x, z in zip(names, (-2e-6, 2e-6, -2e-6, 2e-6), (-3e-6, -3e-6, 3e-6, 3e-6), strict=True):
        with h5py.File(tmp_path / "m" / name) as file:
            np.testing.assert_allclose(file["entry/sample/x_translation"][()], [x] * 14)
            np.testing.assert_allclose(file["entry/sample/z_translation"][()], [z] * 14)
            assert file["entry/sample/z_translation"].attrs["units"] == "m"


def test_the_sample_moves_with_the_stage():
    from srctd.sim import Flaws

    clean = Flaws(noise=False, dead_pixels=0, hot_pixels=0, ring_columns=0)
    spec = spec_of("nxtomo", flaws=clean, columns=64)

    def absorbed(**position):
        frames = truth(msgspec.structs.replace(spec, **position))
        return np.log(frames["flat"][0] - 99.0) - np.log(frames["projection"][4] - 99.0)

    home = absorbed()
    moved = absorbed(position_x=5e-6, position_z=2e-6)
    np.testing.assert_allclose(moved[2:, 5:], home[:-2, :-5], atol=2e-3)


def test_repeated_scans_differ_in_noise_alone(tmp_path):
    simulate(spec_of("kit", series=Series(repeats=2)), str(tmp_path / "s"))
    first, second = (tiffs(tmp_path / "s" / f"s_{k:04d}", "radios/*.tif") for k in (0, 1))
    assert (first != second).mean() > 0.5
    good = (first > 0) & (first < 65535)
    assert np.abs(first[good].astype(float) - second[good]).max() < 2000


def test_positions_in_dataexchange(tmp_path):
    path = written(tmp_path, spec_of("dataexchange", position_x=1e-3, position_z=2e-3))
    with h5py.File(path) as file:
        setup = file["measurement/instrument/sample_motor_stack/setup"]
        assert (setup["x"][()], setup["y"][()], setup["y"].attrs["units"]) == (1.0, 2.0, "mm")


# --- the camera -------------------------------------------------------------------------------------------


def test_pco_stamps_count_what_was_triggered(tmp_path):
    spec = spec_of("kit", pco_stamps=True, faults=Faults(drop=(3,)))
    frames = tiffs(written(tmp_path, spec), "radios/*.tif")

    def digits(frame):
        return "".join(f"{pixel & 0xFF:02x}" for pixel in frame[0, :14])

    assert [int(digits(frame)[:8]) for frame in frames] == [6, 7, 8, 10, 11, 12, 13, 14]
    assert digits(frames[0])[8:] == "20260101000000050000"


def test_repeating_frames_saves_computing(tmp_path):
    spec = spec_of("kit", distinct=2)
    frames = tiffs(written(tmp_path, spec), "radios/*.tif")
    np.testing.assert_array_equal(frames[0], frames[4])
    assert (frames[0] != frames[1]).any()


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", FORMATS)
def test_what_a_format_cannot_show_is_refused(tmp_path, format_):
    using = {
        "drop": {"faults": Faults(drop=(1,))},
        "shuffle": {"faults": Faults(shuffle=3)},
        "truncated": {"faults": Faults(arrival="truncated")},
        "preallocated": {"faults": Faults(arrival="preallocated")},
        "renamed": {"faults": Faults(arrival="renamed")},
        "late_seconds": {"faults": Faults(late_seconds=0.01)},
        "presized": {"presized": True},
        "byte_order": {"tiff": TiffOptions(byte_order="big")},
        "bigtiff": {"tiff": TiffOptions(bigtiff=True)},
        "pages": {"tiff": TiffOptions(pages=2)},
        "parameters": {"parameters": "ini"},
        "storage": {"hdf5": Hdf5Options(storage="external")},
        "compression": {"hdf5": Hdf5Options(compression="gzip")},
        "swmr": {"hdf5": Hdf5Options(swmr=True)},
        "entries": {"hdf5": Hdf5Options(entries=2)},
        "flats_every": {"flats_every": 3},
        "flats_after": {"flats_after": 3},
        "darks_after": {"darks_after": 2},
        "return_images": {"return_images": 2},
    }
    assert using.keys() == FEATURES.keys()
    for name, changes in using.items():
        path = tmp_path / name
        if name in FORMATS[format_].features:
            assert simulate(spec_of(format_, **changes), str(path))
            continue
        with pytest.raises(ConfigError, match=f"{format_} is not simulated with {name}"):
            simulate(spec_of(format_, **changes), str(path))
        assert not path.exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": 0}, "rows is 0"),
        ({"flats": -1}, "flats is -1"),
        ({"faults": Faults(drop=(9,))}, "projection 9 is to be dropped and there are 9"),
        ({"faults": Faults(burst=3)}, "bursts need a rate"),
        ({"pco_stamps": True, "columns": 12}, "14 pixels and a row has 12"),
        ({"return_images": 4}, "4 return images"),
        ({"hdf5": Hdf5Options(storage="virtual", swmr=True)}, "storage plain, not virtual"),
        ({"hdf5": Hdf5Options(entries=2, swmr=True)}, "no entry can be added"),
        ({"hdf5": Hdf5Options(entries=2), "faults": Faults(drop=(1,))}, "are for one entry"),
        ({"format": "skyscan", "flats": 0}, "needs flats"),
        ({"format": "kit", "tiff": TiffOptions(pages=2), "faults": Faults(shuffle=2)}, "grow page by page"),
        ({"format": "kit", "tiff": TiffOptions(pages=10**7)}, "need bigtiff"),
        ({"format": "dataexchange", "flats_after": 2}, "3 and 2 differ"),
        ({"format": "als832", "flats_every": 4, "flats_after": 2}, "overwrite each other"),
        ({"format": "dataexchange", "darks_after": 1}, "2 and 1 differ"),
    ],
)
def test_contradictions_are_one_sentence(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        simulate(msgspec.structs.replace(SMALL, **changes), str(tmp_path / "scan"))
    assert list(tmp_path.iterdir()) == []


def test_all_counts_agree():
    spec = spec_of("edf", flats_every=2, flats_after=1, darks_after=4, return_images=3)
    shots = plan(spec)
    kinds = [shot.kind for shot in shots]
    assert len(shots) == spec.frames
    assert kinds.count("flat") == spec.all_flats
    assert kinds.count("dark") == spec.all_darks
    assert [shot.number for shot in shots] == list(range(len(shots)))
    assert Path(FORMATS["edf"].suffix) == Path()
