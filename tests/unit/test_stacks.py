import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from scan_files import write_nxtomo
from stack_files import (
    COLUMNS,
    DARKS,
    FLATS,
    FRAMES,
    NAMES,
    PROJECTIONS,
    ROWS,
    counter_frames,
    pixels,
    write_als,
    write_edf,
    write_esrf,
    write_frame,
    write_named,
    write_pages,
    write_parameters,
    write_skyscan,
    write_tomcat,
)

from srctd.core.completion import Rule, State, judge
from srctd.core.errors import ConfigError, ScanUnreadable
from srctd.formats.protocol import ReadOptions
from srctd.formats.reader import index_scan, open_scan, probe

SETTLED = 100.0
KINDS = ("projections", "flats", "darks")
ALL = slice(0, ROWS)


def state(path, quiet=SETTLED):
    return judge(probe(path), quiet, Rule()).state


def holds_every_frame(path, flats=FLATS, darks=DARKS, **options):
    """Whether a scan reads back pixel by pixel; gives its header and angles in degrees."""
    with open_scan(path, **options) as scan:
        for kind, count in (("projections", PROJECTIONS), ("flats", flats), ("darks", darks)):
            expected = np.array([pixels(kind, i) for i in range(count)])
            np.testing.assert_array_equal(scan.read(kind, ALL), expected)
            np.testing.assert_array_equal(scan.read(kind, slice(2, 5), slice(0, None, 2)), expected[::2, 2:5])
        return scan.header, np.degrees(scan.angles())


# --- layouts -----


@pytest.mark.parametrize("layout", NAMES)
def test_roles_follow_from_names(tmp_path, layout):
    path = write_named(tmp_path / "scan", layout)
    header, angles = holds_every_frame(path)
    assert (header.layout, header.format, header.n_rows, header.n_columns) == (layout, "tiff", ROWS, COLUMNS)
    np.testing.assert_allclose(angles, 10 + 15 * np.arange(PROJECTIONS))
    assert state(path) is State.COMPLETE
    seen = probe(path)
    assert seen.frames_found == seen.expectations[0].frames == PROJECTIONS + FLATS + DARKS
    assert seen.usable
    assert f"layout {layout}" in seen.checks[0]


def test_a_counter_is_divided_by_the_log(tmp_path):
    path = write_tomcat(tmp_path / "bone2_")
    header, angles = holds_every_frame(path)
    assert header.layout == "tomcat"
    assert (header.sample, header.energy.value) == ("bone", 25.0)
    np.testing.assert_allclose(angles, 15 * np.arange(PROJECTIONS), atol=1e-9)
    assert state(path) is State.COMPLETE
    assert probe(path).started == "Mon Oct 06 18:51:01 2008"


def test_frames_after_those_in_the_log_are_flat_fields_at_tomcat(tmp_path):
    header, _ = holds_every_frame(write_tomcat(tmp_path / "bone2_", extra_flats=2), flats=FLATS + 2)
    assert header.n_flats == FLATS + 2


def test_flat_fields_between_projections_are_found_under_the_counter(tmp_path):
    write_parameters(tmp_path / "s", flats_every=5, n_flats_between=2)
    order = [("darks", 2), ("flats", 3), ("projections", 5), ("flats", 2), ("projections", 5), ("flats", 2)]
    number = {"darks": 0, "flats": 0, "projections": 0}
    place = 0
    for kind, count in [*order, ("projections", 2)]:
        for _ in range(count):
            write_frame(tmp_path / "s" / f"a{place:04d}.tif", kind, number[kind])
            number[kind] += 1
            place += 1
    header, _ = holds_every_frame(str(tmp_path / "s"), flats=7)
    assert header.layout == "counter"


def test_als_names(tmp_path):
    path = write_als(tmp_path / "a")
    header, angles = holds_every_frame(path)
    assert header.layout == "als832"
    assert angles[-1] == pytest.approx(180.0)
    assert state(path) is State.COMPLETE


def test_esrf_names_and_images_of_the_way_back(tmp_path):
    path = write_esrf(tmp_path / "hair", extra=3)
    header, angles = holds_every_frame(path)
    assert (header.layout, header.format) == ("esrf-edf", "edf")
    assert any("3 frames beyond" in note for note in header.notes)
    np.testing.assert_allclose(angles, 15 * np.arange(PROJECTIONS), atol=1e-9)
    assert not probe(path).end_marks
    (tmp_path / "hair" / "hair.xml").write_text("<tomodb2/>")
    assert [mark.text for mark in probe(path).end_marks] == ["hair.xml is there"]
    (tmp_path / "hair" / "hair.abo").write_text("")
    assert probe(path).aborted == "hair.abo is there"
    with pytest.raises(ScanUnreadable, match="broken off"):
        index_scan(path)
    assert "broken off" in index_scan(path, incomplete=True).header.shortfall.reason


def test_angles_of_edf_files_without_a_log_are_those_of_the_motor(tmp_path):
    header, angles = holds_every_frame(write_esrf(tmp_path / "hair", info=False))
    np.testing.assert_allclose(angles, 15 * np.arange(PROJECTIONS), atol=1e-9)
    assert any("not announced" in note for note in header.notes)


def test_frames_that_a_scanner_has_flat_fielded_have_a_constant_white(tmp_path):
    path = write_skyscan(tmp_path / "tooth")
    with open_scan(path) as scan:
        assert scan.header.layout == "skyscan"
        assert (scan.header.n_flats, scan.header.n_darks) == (1, 0)
        assert np.all(scan.read("flats", ALL) == 57000)
        assert any("air is 57000" in note for note in scan.header.notes)
    assert state(path) is State.COMPLETE
    log = tmp_path / "tooth" / "tooth.log"
    log.write_bytes(log.read_bytes().replace(b"Reference Intensity", b"Something else"))
    with pytest.raises(ScanUnreadable, match="how many counts stand for air"):
        open_scan(path)


def test_reconstructed_slices_are_no_tomography(tmp_path):
    path = write_skyscan(tmp_path / "tooth")
    with open(tmp_path / "tooth" / "tooth.log", "a") as log:
        log.write("[Reconstruction]\nProgram=NRecon\n")
    assert probe(path).foreign
    with pytest.raises(ScanUnreadable, match="reconstructed"):
        index_scan(path)


def test_a_site_adds_its_own_layout(tmp_path):
    write_parameters(tmp_path / "s")
    for kind, letter in (("projections", "p"), ("flats", "f"), ("darks", "d")):
        for number in range(FRAMES[kind]):
            write_frame(tmp_path / "s" / f"{number:03d}{letter}.tif", kind, number)
    with pytest.raises(ScanUnreadable):
        index_scan(str(tmp_path / "s"))
    (tmp_path / "own").mkdir()
    rules = "".join(
        f"[[names]]\nrole = '{kind}'\npattern = '(?P<index>\\d+){kind[0]}\\.tif'\n" for kind in KINDS
    )
    (tmp_path / "own" / "own.toml").write_text("name = 'own'\n" + rules)
    options = ReadOptions(layouts_directory=str(tmp_path / "own"))
    header, _ = holds_every_frame(str(tmp_path / "s"), options=options)
    assert header.layout == "own"
    (tmp_path / "own" / "own.toml").write_text("name = 'own'\n[[names]]\nrole = 'flats'\npattern = 'a(b'\n")
    with pytest.raises(ConfigError, match="no regular expression"):
        index_scan(str(tmp_path / "s"), options=options)


def test_one_of_several_stacks_in_a_folder_is_named_by_its_header_file(tmp_path):
    for name in ("one", "one_more"):
        write_parameters(tmp_path, name=f"{name}.json")
        for place, (kind, number) in enumerate(counter_frames()):
            write_frame(tmp_path / f"{name}_{place:04d}.tif", kind, number)
    for name in ("one", "one_more"):
        header, _ = holds_every_frame(str(tmp_path / f"{name}.json"))
        assert header.layout == "counter"
    assert state(str(tmp_path / "one.json")) is State.COMPLETE


def test_the_only_header_file_stands_for_its_folder(tmp_path):
    write_named(tmp_path / "s", "elettra")
    holds_every_frame(str(tmp_path / "s" / "scan.json"))


# --- files -----


@pytest.mark.parametrize(
    "options", [{"byteorder": ">"}, {"bigtiff": True}, {"compression": "zlib"}, {"rowsperstrip": 3}]
)
def test_tiff_files_of_every_kind(tmp_path, options):
    path = write_named(tmp_path / "s", "kit", **options)
    holds_every_frame(path)
    assert state(path) is State.COMPLETE


@pytest.mark.parametrize("pages", [5, 100])
def test_files_of_many_pages_are_numbered_through(tmp_path, pages):
    write_parameters(tmp_path / "s")
    for kind, count in FRAMES.items():
        for file, first in enumerate(range(0, count, pages)):
            name = NAMES["kit"][kind].format(file)
            write_pages(tmp_path / "s" / name, kind, range(first, min(first + pages, count)))
    holds_every_frame(str(tmp_path / "s"))
    assert state(str(tmp_path / "s")) is State.COMPLETE
    if pages == 5:
        (tmp_path / "s" / "radios" / "image_00001.tif").unlink()
        assert probe(str(tmp_path / "s")).gaps == ((5, 9),)


def test_one_file_of_all_frames(tmp_path):
    write_parameters(tmp_path / "s")
    with tifffile.TiffWriter(tmp_path / "s" / "all.tif") as file:
        for kind, number in counter_frames():
            file.write(pixels(kind, number), photometric="minisblack", metadata=None, contiguous=False)
    header, _ = holds_every_frame(str(tmp_path / "s"))
    assert header.layout == "pages"
    assert len(index_scan(str(tmp_path / "s")).projections) == 1


def test_dark_fields_of_another_type_are_read_without_loss(tmp_path):
    path = write_named(tmp_path / "s", "savu")
    write_frame(tmp_path / "s" / "dark_00001.tiff", "darks", 0.25, dtype="f4")
    with open_scan(path) as scan:
        assert scan.read("projections", ALL).dtype == np.float32
        np.testing.assert_array_equal(scan.read("darks", ALL)[0], pixels("darks", 0.25, "f4"))
        np.testing.assert_array_equal(scan.read("projections", ALL)[3], pixels("projections", 3))


def test_edf_files_of_two_types(tmp_path):
    path = write_esrf(tmp_path / "hair")
    name = tmp_path / "hair" / "darkend0000.edf"
    write_edf(name, "darks", 0, DataType="Float", Size=ROWS * COLUMNS * 4)
    head = name.read_bytes()[: -ROWS * COLUMNS * 2]
    name.write_bytes(head + pixels("darks", 0.5, "<f4").tobytes())
    with open_scan(path) as scan:
        np.testing.assert_array_equal(scan.read("darks", slice(3, 4))[0], pixels("darks", 0.5, "f4")[3:4])
        np.testing.assert_array_equal(scan.read("flats", ALL)[2], pixels("flats", 2))


def test_frames_of_another_size_are_named(tmp_path):
    path = write_named(tmp_path / "s", "kit")
    tifffile.imwrite(
        tmp_path / "s" / "radios" / "image_00004.tif", np.ones((4, 4), "u2"), photometric="minisblack"
    )
    assert state(path) is State.COMPLETE
    with pytest.raises(ScanUnreadable, match=r"image_00004\.tif has 4 x 4 pixels"):
        index_scan(path)


def test_two_files_with_one_number_are_named(tmp_path):
    path = write_named(tmp_path / "s", "kit")
    write_frame(tmp_path / "s" / "radios" / "other_00004.tif", "projections", 4)
    with pytest.raises(ScanUnreadable, match="have the same number"):
        index_scan(path)


# --- still writing, gaps, damage -----


def kit_file(path, number):
    return Path(path) / NAMES["kit"]["projections"].format(number)


def test_a_stack_that_grows_arrives_and_is_complete_with_its_last_frame(tmp_path):
    folder = tmp_path / "s"
    write_parameters(folder)
    assert probe(str(folder)).missing[0].endswith("has no projections yet")
    for kind in ("darks", "flats", "projections"):
        for number in range(FRAMES[kind]):
            assert state(str(folder)) is State.ARRIVING
            write_frame(folder / NAMES["kit"][kind].format(number), kind, number)
    assert state(str(folder)) is State.COMPLETE


def test_gaps_are_listed_and_the_other_frames_keep_their_angles(tmp_path):
    path = write_named(tmp_path / "t", "elettra", skip=(0, 4, 5))
    assert probe(path).gaps == ((0, 0), (4, 5))
    assert state(path, 1000) is State.STALLED
    with pytest.raises(ScanUnreadable, match="9 of 12 projections are there"):
        index_scan(path)
    with open_scan(path, incomplete=True) as scan:
        there = [1, 2, 3, 6, 7, 8, 9, 10, 11]
        np.testing.assert_allclose(np.degrees(scan.angles()), 10 + 15 * np.array(there))
        np.testing.assert_array_equal(scan.read("projections", ALL)[3], pixels("projections", 6))
        assert scan.header.shortfall.gaps == ((0, 0), (4, 5))
        assert scan.header.shortfall.expected == PROJECTIONS


def test_gaps_under_a_counter_are_those_of_projections(tmp_path):
    path = write_tomcat(tmp_path / "bone2_", skip=(1, 7, 8))
    assert probe(path).gaps == ((2, 3),)
    header = index_scan(path, incomplete=True).header
    assert (header.n_projections, header.n_darks) == (10, 1)
    assert "1 of 2 darks are there" in header.shortfall.reason


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}])
def test_files_that_are_cut_short_are_missing_and_left_out(tmp_path, options):
    path = write_named(tmp_path / "s", "kit", **options)
    for number, length in ((3, 0.5), (11, 0)):
        file = kit_file(path, number)
        file.write_bytes(file.read_bytes()[: int(length * file.stat().st_size)])
    seen = probe(path)
    assert sum("image_00003.tif" in sentence for sentence in seen.missing) == 1
    assert sum("image_00011.tif" in sentence for sentence in seen.missing) == 1
    assert not seen.gaps
    assert seen.frames_found == PROJECTIONS + FLATS + DARKS - 2
    index = index_scan(path, incomplete=True)
    np.testing.assert_allclose(np.degrees(index.angles), 10 + 15 * np.delete(np.arange(12), (3, 11)))
    assert index.header.shortfall.gaps == ((3, 3), (11, 11))
    with pytest.raises(ScanUnreadable, match="image_00003"):
        index_scan(path)


@pytest.mark.parametrize("share", [0.5, 0.98])
def test_files_of_full_size_whose_end_was_not_written_are_missing(tmp_path, share):
    path = write_named(tmp_path / "s", "kit")
    file = kit_file(path, 6)
    data = file.read_bytes()
    keep = int(len(data) * share) if share < 0.9 else len(data) - ROWS * COLUMNS // 2
    file.write_bytes(data[:keep] + bytes(len(data) - keep))
    seen = probe(path)
    assert "image_00006.tif ends in zeros" in seen.missing[0]
    assert state(path) is State.ARRIVING
    assert index_scan(path, incomplete=True).header.shortfall.gaps == ((6, 6),)
    file.write_bytes(data)
    assert state(path) is State.COMPLETE


def test_a_blank_frame_is_missing(tmp_path):
    path = write_named(tmp_path / "s", "kit")
    tifffile.imwrite(
        kit_file(path, 11), np.full((ROWS, COLUMNS), 65535, "u2"), photometric="minisblack", metadata=None
    )
    assert "same value everywhere" in probe(path).missing[0]


def test_rows_that_the_detector_never_fills_are_no_damage(tmp_path):
    path = write_named(tmp_path / "s", "kit")
    for file in Path(path).glob("*/*.tif"):
        frame = tifffile.imread(file)
        frame[-3:] = 0
        tifffile.imwrite(file, frame, photometric="minisblack", metadata=None)
    assert state(path) is State.COMPLETE
    assert any("say nothing" in check for check in probe(path).checks)


def test_a_file_that_is_still_being_renamed_is_not_there(tmp_path):
    path = write_named(tmp_path / "s", "kit")
    os.rename(kit_file(path, 11), str(kit_file(path, 11)) + ".part")
    assert state(path) is State.ARRIVING
    assert index_scan(path, incomplete=True).header.n_projections == 11


# --- angles, references, markers -----


def test_unknown_angles_are_refused(tmp_path):
    path = write_named(tmp_path / "s", "kit")
    os.remove(tmp_path / "s" / "scan.json")
    assert "rotation angles" in probe(path).missing[0]
    for incomplete in (False, True):
        with pytest.raises(ScanUnreadable, match="rotation angles"):
            index_scan(path, incomplete=incomplete)


def test_missing_flat_fields_are_refused(tmp_path):
    path = write_named(tmp_path / "s", "kit", frames={**FRAMES, "flats": 0})
    assert any("no flat fields" in sentence for sentence in probe(path).missing)
    with pytest.raises(ScanUnreadable, match="no flat fields"):
        index_scan(path, incomplete=True)


def test_a_list_of_angles_announces_the_projections(tmp_path):
    path = write_named(tmp_path / "s", "savu")
    os.remove(tmp_path / "s" / "scan.json")
    angles = [-5.0] * 5 + [-5.0 + 15 * i for i in range(PROJECTIONS)] + [160.0] * 3
    (tmp_path / "s" / "angles.txt").write_text("\n".join(map(str, angles)))
    _, degrees = holds_every_frame(path)
    np.testing.assert_allclose(degrees, angles[5:-3])
    assert state(path) is State.COMPLETE
    (tmp_path / "s" / NAMES["savu"]["projections"].format(11)).unlink()
    seen = probe(path)
    assert [expected.kind for expected in seen.expectations] == ["list"]
    assert state(path) is State.ARRIVING


def test_marker_files_and_required_files(tmp_path):
    path = write_named(tmp_path / "s[1]", "kit")
    options = ReadOptions(marker_files=("{name}.done",), must_have=("*.current", "/entry/end_time"))
    assert any("*.current" in sentence for sentence in probe(path, options).missing)
    assert not probe(path, options).end_marks
    (tmp_path / "s[1]" / "s[1].done").touch()
    (tmp_path / "s[1]" / "ring.current").touch()
    seen = probe(path, options)
    assert [mark.kind for mark in seen.end_marks] == ["marker file"]
    assert not seen.missing


def test_the_place_in_a_series_is_told_by_a_parameter_file(tmp_path):
    path = write_named(tmp_path / "creep_007", "kit")
    assert index_scan(path).header.series is None
    write_parameters(path, series_member=6, series_members=20)
    series = index_scan(path).header.series
    assert (series.name, series.member, series.members) == ("creep", 6, 20)
    assert series.origin == "scan.json: series_member"


def test_a_scan_of_several_turns_has_members(tmp_path):
    frames = {**FRAMES, "projections": 24}
    path = write_named(tmp_path / "s", "kit", frames=frames)
    write_parameters(tmp_path / "s", n_projections=24, angle_range=720.0)
    assert probe(path).members == 2
    index = index_scan(path, member=1)
    assert (index.header.n_projections, index.header.series.member) == (12, 1)
    assert index.header.angle_first_deg == pytest.approx(370.0)
    with pytest.raises(ScanUnreadable, match="no number 2"):
        index_scan(path, member=2)
    write_parameters(tmp_path / "s", n_projections=24, angle_range=810.0)
    notes = index_scan(path, member=1).header.notes
    assert any("less than a half turn and in no member" in note for note in notes)


# --- the camera's counter -----


def stamped(frame, number):
    digits = f"{number:08d}20260101101112123456"
    frame = frame.copy()
    frame[0, :14] = [int(digits[i : i + 2], 16) for i in range(0, 28, 2)]
    return frame


def write_stamped(folder, lost=(), renumbered=True):
    """A stack with counters; the names of the files run on over frames that were lost, if `renumbered`."""
    path = write_named(folder, "kit")
    for file in Path(path).glob("radios/*"):
        file.unlink()
    there = [i for i in range(PROJECTIONS) if i not in lost]
    for file, number in enumerate(there):
        frame = stamped(pixels("projections", number), 100 + number)
        name = kit_file(path, file if renumbered else number)
        tifffile.imwrite(name, frame, photometric="minisblack", metadata=None)
    return path


def test_counters_without_a_jump_are_a_proof(tmp_path):
    path = write_stamped(tmp_path / "s")
    assert "PCO counters 100 to 111 without a gap" in probe(path).checks
    assert state(path) is State.COMPLETE


@pytest.mark.parametrize("renumbered", [True, False])
def test_frames_that_were_lost_are_found_by_the_counter(tmp_path, renumbered):
    path = write_stamped(tmp_path / "s", lost=(4, 8, 9), renumbered=renumbered)
    assert probe(path).gaps == ((4, 4), (8, 9))
    index = index_scan(path, incomplete=True)
    there = [0, 1, 2, 3, 5, 6, 7, 10, 11]
    np.testing.assert_allclose(np.degrees(index.angles), 10 + 15 * np.array(there))
    assert ("3 frames were dropped" in index.header.shortfall.reason) is renumbered


# --- real data -----


def test_savu_as_tiff_files_is_the_scan_that_its_nexus_file_is(data):
    folder = data / "savu_24737"
    with open_scan(str(folder)) as stack, open_scan(str(folder / "24737_repack.nxs")) as nexus:
        np.testing.assert_allclose(stack.angles(), nexus.angles(), atol=1e-6)
        assert stack.header.layout == "savu"
        for kind in KINDS:
            np.testing.assert_array_equal(stack.read(kind, slice(0, 135)), nexus.read(kind, slice(0, 135)))
    seen = probe(str(folder))
    assert seen.frames_found == 93
    assert judge(seen, SETTLED, Rule()).state is State.COMPLETE


def test_no_parameter_file_is_written_to(tmp_path):
    path = write_named(tmp_path / "s", "kit")
    before = {file: file.stat().st_mtime_ns for file in Path(path).rglob("*")}
    probe(path)
    index_scan(path)
    assert before == {file: file.stat().st_mtime_ns for file in Path(path).rglob("*")}
    assert json.loads((tmp_path / "s" / "scan.json").read_text())["n_projections"] == PROJECTIONS


def test_a_look_at_many_files_opens_few(tmp_path):
    write_parameters(tmp_path / "s", n_projections=5000)
    for kind in ("darks", "flats"):
        for number in range(FRAMES[kind]):
            write_frame(tmp_path / "s" / NAMES["kit"][kind].format(number), kind, number)
    write_frame(kit_file(tmp_path / "s", 0), "projections", 0)
    for number in range(1, 5000):
        os.link(kit_file(tmp_path / "s", 0), kit_file(tmp_path / "s", number))
    seen = probe(str(tmp_path / "s"))
    assert seen.frames_found == 5005
    assert any("5000 files of projections" in check and "32 headers read" in check for check in seen.checks)
    assert any("2000 projections are written" in check for check in seen.checks)
    assert len(index_scan(str(tmp_path / "s")).projections) == 5000


def test_a_folder_without_frames_is_named(tmp_path):
    with pytest.raises(ScanUnreadable, match="no frames"):
        index_scan(str(tmp_path))


def test_a_file_that_may_not_be_read_is_named(tmp_path):
    path = write_named(tmp_path / "s", "kit")
    kit_file(path, 5).unlink()
    kit_file(path, 5).mkdir()
    assert probe(path).gaps == ((5, 5),)


@pytest.mark.parametrize(
    "wanted", [slice(3, 9), slice(None, None, 4), slice(10, 2, -3), slice(7, 7), slice(-2, None)]
)
def test_any_frames_of_runs_are_picked(tmp_path, wanted):
    write_parameters(tmp_path / "s")
    for kind, count in FRAMES.items():
        for file, first in enumerate(range(0, count, 5)):
            name = NAMES["kit"][kind].format(file)
            write_pages(tmp_path / "s" / name, kind, range(first, min(first + 5, count)))
    everything = np.array([pixels("projections", i) for i in range(PROJECTIONS)])
    with open_scan(str(tmp_path / "s")) as scan:
        np.testing.assert_array_equal(scan.read("projections", slice(1, 4), wanted), everything[wanted, 1:4])


@pytest.mark.parametrize(("dtype", "read_as"), [("u1", "uint16"), ("u2", "uint16"), ("f4", "float32")])
def test_the_white_of_a_scanner_fits_the_type_that_is_handed_out(tmp_path, dtype, read_as):
    path = write_skyscan(tmp_path / "tooth")
    for number in range(PROJECTIONS):
        frame = (pixels("projections", number) % 251 + 1).astype(dtype)
        tifffile.imwrite(tmp_path / "tooth" / f"tooth{number:04d}.tif", frame, photometric="minisblack")
    with open_scan(path) as scan:
        assert np.all(scan.read("flats", ALL) == 57000)
        assert scan.read("projections", ALL).dtype == read_as == scan.header.dtype


@pytest.mark.parametrize("name", ["n_projections", "flats_every"])
def test_absurd_counts_are_refused(tmp_path, name):
    path = write_named(tmp_path / "s", "kit")
    write_parameters(tmp_path / "s", **{"n_flats_between": 1, name: 10**8})
    assert probe(path).frames_found is not None
    with pytest.raises(ScanUnreadable, match="which no acquisition takes"):
        index_scan(path)


def test_no_projections_announced(tmp_path):
    path = write_named(tmp_path / "s", "kit")
    write_parameters(tmp_path / "s", n_projections=0)
    probe(path)
    with pytest.raises(ScanUnreadable):
        index_scan(path)


def test_a_damaged_frame_beyond_those_announced_is_no_gap(tmp_path):
    path = write_tomcat(tmp_path / "bone2_", extra_flats=2)
    file = tmp_path / "bone2_" / "tif" / "bone2_0019.tif"
    file.write_bytes(file.read_bytes()[:200])
    seen = probe(path)
    assert not seen.gaps
    assert len(seen.missing) == 1


@pytest.mark.parametrize("length", [0, 100, 600])
@pytest.mark.parametrize("presized", [False, True])
def test_edf_files_that_are_not_written_yet(tmp_path, length, presized):
    path = write_esrf(tmp_path / "hair")
    file = tmp_path / "hair" / "hair0005.edf"
    data = file.read_bytes()
    file.write_bytes(data[:length] + bytes(len(data) - length if presized else 0))
    seen = probe(path)
    assert any("hair0005.edf" in sentence for sentence in seen.missing)
    assert index_scan(path, incomplete=True).header.shortfall.gaps == ((5, 5),)


def test_edf_files_of_many_images(tmp_path):
    path = write_esrf(tmp_path / "hair")
    files = [tmp_path / "hair" / f"hair{number:04d}.edf" for number in range(PROJECTIONS)]
    images = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    for file, first in zip(files, range(0, PROJECTIONS, 5), strict=False):
        file.write_bytes(b"".join(images[first : first + 5]))
    holds_every_frame(path)


def test_pixels_of_edf_files_may_be_padded(tmp_path):
    path = write_esrf(tmp_path / "hair")
    for file in (tmp_path / "hair").glob("*.edf"):
        data = file.read_bytes()
        file.write_bytes(data.replace(b"Size = 320 ;", b"Size = 512 ;") + bytes(192))
    holds_every_frame(path)


# --- what is no file ---


def test_pipes_are_not_waited_for_and_names_that_are_no_text_are_left_out(tmp_path):
    path = write_named(tmp_path / "scan", "elettra")
    os.mkfifo(tmp_path / "scan" / "tomo_0099.tif")
    os.mkfifo(tmp_path / "scan" / "notes.log")
    for name in (b"tomo_\xff_0098.tif", b"line\nbreak.json"):
        Path(os.fsdecode(os.fsencode(path) + b"/" + name)).write_bytes(b"{}")
    holds_every_frame(path)


def test_a_raw_file_beside_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "scan.raw")
    assert not probe(str(tmp_path)).readable


def test_an_hdf5_file_that_is_a_pipe_or_leads_to_one(tmp_path):
    os.mkfifo(tmp_path / "pipe.nxs")
    write_nxtomo(tmp_path / "scan.nxs", data=h5py.ExternalLink("pipe.nxs", "/data"))
    for name in ("pipe.nxs", "scan.nxs"):
        assert "pipe.nxs is no regular file but a pipe" in probe(str(tmp_path / name)).problem
