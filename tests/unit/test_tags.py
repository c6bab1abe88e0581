"""Tables of tags: what logs and parameter files say, and what is made of values that cannot be used."""

import json
import math
import random
import re
import time

import pytest

from srctd.core.errors import ConfigError, ScanUnreadable
from srctd.core.tags import CANONICAL
from srctd.formats.protocol import ReadOptions
from srctd.formats.tags import PART, read_tags
from srctd.formats.tagtables import load_tables
from srctd.toml import etc_folder

TOMCAT = """User ID : e12345
FAST-TOMO scan of sample R108 C21 started on Mon Oct 06 18:51:01 2008
--------------------Beamline Settings-------------------------
Ring current           [mA]  : 400.38
Beam energy           [keV]  : 19.000
Monostripe                   : W/Si
--------------------Detector Settings-------------------------
Objective                    : 10.00
Scintillator                 : LAG 20um
Exposure time          [ms]  : 100
------------------------Scan Settings-------------------------
Sample folder                : /a:b
File Prefix                  : R108_
Number of projections        : 1501
Number of darks              : 10
Number of flats              : 100
Number of inter-flats        : 0
Inner scan flag              : 0
Flat frequency               : 0
Rot Y min position  [deg]    : 0.000
Rot Y max position  [deg]    : 180.000
Angular step [deg]           : 0.120
Sample In   [um]             : 0
--------------------------------------------------------------
Start logging activity...
Mon Oct 06 18:51:02 2008 : Number of flats : 7
"""
SKYSCAN = (
    "[System]\r\nScanner=Skyscan1172\r\nCamera Pixel Size (um)=  8.7\r\n[User]\r\nUser Name=Pr\xfcfstand\r\n"
    "[Acquisition]\r\nFilename Prefix=im\r\nOptical Axis (line)= 512\r\nObject to Source (mm)=121.5\r\n"
    "Number of Files=  720\r\nNumber Of Rows= 1024\r\nNumber Of Columns= 2048\r\nImage Pixel Size (um)=11.50\r\n"
    "Depth (bits)=16\r\nExposure (ms)=33\r\nRotation Step (deg)=0.500\r\nFlat Field Correction=ON\r\n"
)
SCT = "-nangles 1025\n-arange 180\n-num_bright_field 15\n-i0cycle 0\n-num_dark_fields 10\n-pxsize .00065\n-x y z\n"
INFO = (
    "Energy= 19\nDistance= 40\nPrefix= s1\nScanRange= 180\nTOMO_N= 900\nREF_ON= 450\nREF_N= 21\nDARK_N= 20\n"
    "Dim_1= 2048\nDim_2= 1024\nCount_time= 0.05\nLatency_time (s)= 0\nPixelSize= 6.5\nSrCurrent= 196.2\n"
    "Date= Mon May 04 2009\n"
)


def read(tmp_path, name, text, **options):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_tags(str(path), ReadOptions(**options))


def plain(tagged):
    return {name: value.value for name, value in tagged.values.items()}


def with_table(tmp_path, table):
    """Read options under which the only table is this one."""
    folder = tmp_path / "tables"
    folder.mkdir(exist_ok=True)
    (folder / "own.toml").write_text(table)
    return {"tags_directory": str(folder)}


# --- shipped tables --------------------------------------------------------------------------------------


def test_tomcat(tmp_path):
    tagged = read(tmp_path, "R108_.log", TOMCAT)
    assert tagged.table == "tomcat"
    assert plain(tagged) == {
        "sample": "R108 C21",
        "start_time": "Mon Oct 06 18:51:01 2008",
        "experimenter": "e12345",
        "ring_current": 400.38,
        "energy": 19.0,
        "magnification": 10.0,
        "exposure_time": pytest.approx(0.1),
        "file_prefix": "R108_",
        "n_projections": 1501,
        "n_darks": 10,
        "n_flats": 100,
        "n_flats_between": 0,
        "flats_every": 0,
        "angle_start": 0.0,
        "angle_end": 180.0,
        "angle_step": 0.12,
    }
    assert tagged.values["angle_step"].origin == "R108_.log: Scan Settings/Angular step [deg]"
    assert tagged.values["energy"].unit == "keV"
    assert tagged.unmapped["Beamline Settings/Monostripe"] == "W/Si"
    assert tagged.unmapped["Scan Settings/Sample folder"] == "/a:b"
    assert (tagged.notes, tagged.end_line, tagged.ends) == ((), "", False)


def test_tomcat_end_is_believed_but_waited_for_only_where_a_site_says_so(tmp_path):
    ended = TOMCAT + "Mon Oct 06 19:11:02 2008 : Scan finished\n"
    assert read(tmp_path, "a.log", ended).end_line == "Mon Oct 06 19:11:02 2008 : Scan finished"
    named = TOMCAT.replace("R108 C21", "scan finished")
    assert read(tmp_path, "a.log", named).end_line == ""
    waiting = read(tmp_path, "a.log", TOMCAT, end_line="^END$")
    assert (waiting.end_line, waiting.ends) == ("", True)
    over = read(tmp_path, "a.log", TOMCAT + "END\n", end_line="^END$")
    assert (over.end_line, over.ends) == ("END", True)
    assert not read(tmp_path, "scan.json", '{"n_projections": 5}', end_line="^END$").ends


def test_skyscan_in_the_code_page_of_windows(tmp_path):
    tagged = read(tmp_path, "im.log", SKYSCAN.encode("cp1252"))
    assert tagged.table == "skyscan"
    assert plain(tagged) == {
        "instrument": "Skyscan1172",
        "camera_pixel_size": pytest.approx(8.7e-6),
        "file_prefix": "im",
        "n_projections": 720,
        "n_rows": 1024,
        "n_columns": 2048,
        "bits": 16,
        "pixel_size": pytest.approx(11.5e-6),
        "exposure_time": pytest.approx(0.033),
        "angle_step": 0.5,
        "source_distance": pytest.approx(0.1215),
        "flat_fielded": True,
    }
    assert tagged.unmapped == {"User/User Name": "Prüfstand", "Acquisition/Optical Axis (line)": "512"}
    again = read(tmp_path, "im.log", (SKYSCAN + "[Reconstruction]\r\nFirst Section=0\r\n").encode("cp1252"))
    assert again.values["reconstructed"].value is True
    assert again.unmapped["Reconstruction/First Section"] == "0"


def test_als832(tmp_path):
    tagged = read(tmp_path, "s.sct", SCT)
    assert plain(tagged) == {
        "angle_end_included": True,
        "n_projections": 1025,
        "angle_range": 180.0,
        "n_flats": 15,
        "flats_every": 0,
        "n_darks": 10,
        "pixel_size": pytest.approx(6.5e-7),
    }
    assert tagged.unmapped == {"-x": "y z"}


def test_esrf_info(tmp_path):
    tagged = read(tmp_path, "s1.info", INFO)
    assert plain(tagged) == {
        "energy": 19.0,
        "distance": pytest.approx(0.04),
        "file_prefix": "s1",
        "angle_range": 180.0,
        "n_projections": 900,
        "flats_every": 450,
        "n_flats": 21,
        "n_darks": 20,
        "n_rows": 1024,
        "n_columns": 2048,
        "exposure_time": 0.05,
        "pixel_size": pytest.approx(6.5e-6),
        "ring_current": 196.2,
        "start_time": "Mon May 04 2009",
    }
    assert tagged.unmapped == {"Latency_time (s)": "0"}


@pytest.mark.parametrize("place", ["top", "scan"])
def test_own_names_in_json(tmp_path, place):
    known = {
        "n_projections": 1500,
        "angle_step": 0.12,
        "pixel_size": {"value": 0.65, "unit": "um"},
        "energy": 25,
        "energy_unit": "keV",
        "distance": "12 cm",
        "flat_fielded": False,
        "angles": [0, 0.5, 1.0],
    }
    text = {"scan": known} if place == "scan" else known
    tagged = read(tmp_path, "scan.json", json.dumps(text | {"camera": {"pixel_size": 6.5, "gain": [1, 2]}}))
    assert plain(tagged) == {
        "n_projections": 1500,
        "angle_step": 0.12,
        "pixel_size": pytest.approx(6.5e-7),
        "energy": 25.0,
        "distance": pytest.approx(0.12),
        "flat_fielded": False,
        "angles": (0.0, 0.5, 1.0),
    }
    assert tagged.unmapped == {"camera/pixel_size": "6.5", "camera/gain": "[1, 2]"}


def test_own_names_in_lines(tmp_path):
    text = (
        "[scan]\n; words\nN_Projections = 10\npixel_size = 0.65 um\nenergy = 25\nenergy_unit = keV\nfoo = 1\n"
    )
    tagged = read(tmp_path, "scan.ini", text)
    assert plain(tagged) == {"n_projections": 10, "pixel_size": pytest.approx(6.5e-7), "energy": 25.0}
    assert tagged.unmapped == {"scan/foo": "1"}


def test_lists_of_angles(tmp_path, data):
    tagged = read(tmp_path, "angles.txt", "# degree\n0\n0.5\r\n1e0\n\n-1.5\n")
    assert tagged.values["angles"].value == (0.0, 0.5, 1.0, -1.5)
    assert read(tmp_path, "angles.txt", "0\n1\nno number\n") is None
    table = read(tmp_path, "angles.csv", "frame, Angle [rad], current [mA]\n0, 0, 9\n1, 1.5, 8\n")
    assert table.values["angles"].value == (0.0, pytest.approx(math.degrees(1.5)))
    assert table.unmapped == {"frame": "0\n1", "current [mA]": "9\n8"}
    real = read_tags(str(data / "savu_24737" / "angles.txt"), ReadOptions())
    assert len(real.values["angles"].value) == 111


def test_what_no_table_knows(tmp_path):
    assert read(tmp_path, "a.log", "just words\n") is None
    assert read(tmp_path, "a.unheard-of", TOMCAT) is None
    assert read(tmp_path, "a.log", TOMCAT.encode() + b"\0" * 9) is None
    assert read(tmp_path, "a.log", b"") is None


def test_every_shipped_table_is_right_and_the_example_shows_every_key(tmp_path):
    tables = {table.name: table for table in load_tables()}
    assert {"tomcat", "skyscan", "als832", "esrf-info", "edf-header", "generic-json", "example"} <= set(
        tables
    )
    text = """# sample: bone 12
[Scan]
Number of views = 720
Photon energy = 20
Full turn = yes
Distance = 12
Distance unit = cm
Objective = Plan Apo 10x
Exposure [ms] = 5
acquisition finished
"""
    tagged = read(tmp_path, "a.example-parameters", text)
    assert plain(tagged) == {
        "camera_pixel_size": 6.5e-6,
        "angle_end_included": False,
        "n_projections": 720,
        "energy": 20.0,
        "angle_range": 360.0,
        "distance": pytest.approx(0.12),
        "magnification": 10.0,
        "sample": "bone 12",
    }
    assert tagged.unmapped == {"Scan/Exposure [ms]": "5"}
    assert (tagged.end_line, tagged.ends) == ("acquisition finished", True)
    example = (etc_folder() / "tags" / "example.toml").read_text()
    assert all(word in example for word in ("PITRE", "unit_key", "pattern", "values", "until", "canonical"))


# --- values that cannot be used ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("PixelSize= 6,5", "is no number"),
        ("PixelSize= NaN", "is no number"),
        ("PixelSize= 1e999", "is no finite number"),
        ("PixelSize= 6.5 parsec", "has the unknown unit 'parsec'"),
        ("PixelSize (mm)= 6.5 um", "has the units 'mm' and 'um'"),
        ("PixelSize (keV)= 6.5", "has the unknown unit 'keV'"),
        ("PixelSize= 6.5\nPixelSize= 7.5", "contradict each other"),
    ],
)
def test_a_value_that_cannot_be_used_is_said_and_kept(tmp_path, line, why):
    tagged = read(tmp_path, "a.info", f"TOMO_N= 900\n{line}\n")
    assert plain(tagged) == {"n_projections": 900}
    (note,) = tagged.notes
    assert why in note
    assert "a.info" in note
    raw = [each.partition("=")[2].strip() for each in line.splitlines()]
    assert all(value in note for value in raw)
    assert "; ".join(raw) in tagged.unmapped.values()


def test_counts_and_flags_are_not_guessed(tmp_path):
    tagged = read(tmp_path, "a.info", "TOMO_N= 900.5\nREF_N= -1\nDARK_N= 20.0\n")
    assert plain(tagged) == {"n_darks": 20}
    assert len(tagged.notes) == 2
    odd = read(tmp_path, "scan.ini", "n_projections = 4\nflat_fielded = perhaps\n")
    assert "is neither yes nor no" in odd.notes[0]


def test_the_same_said_twice_is_no_contradiction(tmp_path):
    assert (
        read(tmp_path, "a.info", "TOMO_N= 900\nEnergy= 19\nEnergy (keV)= 19.000\n").values["energy"].value
        == 19.0
    )


def test_json_keys_that_come_twice_contradict(tmp_path):
    tagged = read(tmp_path, "scan.json", '{"n_projections": 5, "n_projections": 6}')
    assert tagged.values == {}
    assert "n_projections = '5' and n_projections = '6' contradict" in tagged.notes[0]


@pytest.mark.parametrize(
    "text",
    [
        '{"n_projections": 5',
        '["n_projections": 5]',
        '{"n_projections": ' + "[" * 100_000,
        '"n_projections": 5',
    ],
)
def test_json_that_is_none(tmp_path, text):
    tagged = read(tmp_path, "scan.json", text)
    assert tagged.values == {}
    assert "JSON" in tagged.notes[0]


def test_several_keys_are_tried_in_order(tmp_path):
    options = with_table(
        tmp_path,
        'name = "own"\nfiles = ["*.own"]\nsyntax = "keyvalue"\n'
        '[[tag]]\nname = "energy"\nkey = ["*/E", "Energy"]\nunit = "keV"\n',
    )
    assert read(tmp_path, "a.own", "Energy: 20\n", **options).values["energy"].origin == "a.own: Energy"
    both = read(tmp_path, "a.own", "E: none\nEnergy: 20\n", **options)
    assert both.values["energy"].value == 20.0
    assert "E = 'none' is no number" in both.notes[0]


def test_xml(tmp_path):
    options = with_table(
        tmp_path,
        'name = "own"\nfiles = ["*.xml"]\nsyntax = "xml"\n'
        '[[tag]]\nname = "energy"\nkey = "scan/energy"\n[[tag]]\nname = "sample"\nkey = "scan/sample@name"\n',
    )
    text = '<?xml version="1.0"?><scan><energy unit="eV">20000</energy><sample name="x"/><n>1</n></scan>'
    tagged = read(tmp_path, "a.xml", text, **options)
    assert plain(tagged) == {"energy": 20.0, "sample": "x"}
    assert tagged.unmapped == {"scan/n": "1"}
    bomb = '<!DOCTYPE a [<!ENTITY b "bbbb">]><scan><energy>&b;</energy></scan>'
    assert "document type" in read(tmp_path, "a.xml", bomb, **options).notes[0]
    assert "not XML" in read(tmp_path, "a.xml", "<scan><energy>", **options).notes[0]


def test_a_huge_log_is_read_at_its_ends(tmp_path):
    middle = b"Mon : something happened\n" * (5 * PART // 25)
    tagged = read(tmp_path, "a.log", TOMCAT.encode() + middle + b"Mon : Scan finished\n")
    assert tagged.values["n_projections"].value == 1501
    assert tagged.end_line == "Mon : Scan finished"
    assert any("the first and the last" in note for note in tagged.notes)
    listed = read(tmp_path, "angles.csv", b"angle [deg]\n" + b"1.25\n" * PART)
    assert listed.values == {}
    assert "is larger than" in listed.notes[0]


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ScanUnreadable, match="does not exist"):
        read_tags(str(tmp_path / "a.log"), ReadOptions())


# --- tables that are wrong ---------------------------------------------------------------------------------

GOOD = 'name = "own"\nfiles = ["*.own"]\nsyntax = "keyvalue"\n'


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('files = ["*.own"]\nsyntax = "ini"', "name"),
        (GOOD + 'separater = "="', "unknown key.*separater.*separator"),
        (GOOD.replace("keyvalue", "yaml"), "syntax"),
        (GOOD + '[[tag]]\nname = "enrgy"\nkey = "E"', r"tag\[0\].name: 'enrgy' is no canonical name"),
        (GOOD + '[[tag]]\nname = "energy"', "has no key"),
        (GOOD + '[[tag]]\nname = "energy"\nkey = "E"\nunit = "mm"', "unit = 'mm' is no unit of energy"),
        (GOOD + '[[tag]]\nname = "energy"\nkey = "E"\npattern = "("', "no regular expression"),
        (GOOD + '[[tag]]\nname = "energy"\npattern = "E"', "needs a group"),
        (GOOD + 'end_line = "["', "end_line = '\\[' is no regular expression"),
        (GOOD + 'encodings = ["utf-9"]', "utf-9"),
        (GOOD + 'unit_in_key = "(.*)(.*)"', "groups named key and unit"),
        (GOOD + "[fixed]\nenergy = true", "fixed.energy = True is no number"),
        (GOOD.replace("keyvalue", "csv") + 'separator = "::"', "one character"),
        (GOOD.replace("keyvalue", "regex") + '[[tag]]\nname = "energy"\nkey = "E"', "has a key"),
    ],
)
def test_a_wrong_table_is_one_sentence_with_its_place(tmp_path, table, said):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, "a.own", "E = 5\n", **with_table(tmp_path, table))
    assert re.search(said, caught.value.sentence)
    assert "own.toml" in caught.value.sentence
    assert "\n" not in caught.value.sentence


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        read(tmp_path, "a.log", TOMCAT, tags_directory=str(tmp_path / "nowhere"))


def test_a_table_that_was_edited_is_read_again(tmp_path):
    options = with_table(tmp_path, GOOD + '[[tag]]\nname = "sample"\nkey = "A"')
    assert plain(read(tmp_path, "a.own", "A=1\nB=2\n", **options)) == {"sample": "1"}
    with_table(tmp_path, GOOD + '[[tag]]\nname = "sample"\nkey = "B"\n')
    assert plain(read(tmp_path, "a.own", "A=1\nB=2\n", **options)) == {"sample": "2"}


# --- anything at all ---------------------------------------------------------------------------------------


def test_no_text_breaks_the_reading(tmp_path):
    draw = random.Random(20261125)
    seeds = [
        ("a.log", TOMCAT.encode()),
        ("a.log", SKYSCAN.encode("cp1252")),
        ("a.sct", SCT.encode()),
        ("a.info", INFO.encode()),
        ("scan.json", b'{"n_projections": 5, "pixel_size": {"value": 1, "unit": "um"}, "angles": [1, 2]}'),
        ("scan.ini", b"[scan]\nn_projections = 5\npixel_size = 1 um\n"),
        ("angles.txt", b"0\n1\n2\n"),
        ("angles.csv", b"angle [deg],b\n1,2\n"),
    ]
    end = time.monotonic() + 5.0
    for _ in range(3000):
        name, seed = draw.choice(seeds)
        tagged = read(tmp_path, name, mutated(draw, seed))
        if tagged is not None:
            for canonical, value in tagged.values.items():
                assert CANONICAL[canonical].kind != "number" or math.isfinite(value.value)
        if time.monotonic() > end:
            break


@pytest.mark.parametrize("line", ["\n", " ", "-", "a ", "1", "[", "= ", "---a ", ": ", "scan of sample "])
def test_no_length_of_damage_takes_for_ever(tmp_path, line):
    damage = (line * (2 * PART // len(line)))[: 2 * PART - 20_000].encode()
    begin = time.monotonic()
    for name, seed in (
        ("a.log", TOMCAT),
        ("b.log", SKYSCAN),
        ("a.info", INFO),
        ("scan.ini", "n_projections = 1\n"),
    ):
        read(tmp_path, name, seed.encode() + damage + b"\n" + seed.encode())
    assert time.monotonic() - begin < 20


def mutated(draw, seed):
    """A text with some of its bytes changed, doubled, cut out or put elsewhere."""
    raw = bytearray(seed)
    for _ in range(draw.randint(1, 12)):
        at, span = draw.randrange(len(raw) + 1), draw.randint(0, 40)
        match draw.randrange(5):
            case 0:
                raw[at : at + 1] = bytes([draw.randrange(256)])
            case 1:
                del raw[at : at + span]
            case 2:
                raw[at:at] = raw[at : at + span]
            case 3:
                raw[at:at] = draw.choice(
                    [b"\xff", b"\n", b":", b"[", b"{", b"1e400", b"-", b"\0", b"NaN", b"(um)"]
                )
            case _:
                other = draw.randrange(len(raw) + 1)
                raw[at:at] = raw[other : other + span]
    return bytes(raw)
