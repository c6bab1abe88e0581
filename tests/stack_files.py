"""Small stacks of image files, written as the facilities do, for tests."""

import json
from pathlib import Path

import numpy as np
import tifffile

ROWS, COLUMNS = 8, 20
PROJECTIONS, FLATS, DARKS = 12, 3, 2
BASE = {"projections": 1000, "flats": 5000, "darks": 100}
COUNTS = {"n_projections": PROJECTIONS, "n_flats": FLATS, "n_darks": DARKS}
TURN = {"angle_start": 10.0, "angle_start_unit": "deg", "angle_range": 180.0, "angle_range_unit": "deg"}


def pixels(kind, number, dtype="u2"):
    """A frame that is different from every other, without a zero in it."""
    ramp = np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) % 97
    return (BASE[kind] + 7 * number + ramp).astype(dtype)


def write_frame(path, kind, number, dtype="u2", **options):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels(kind, number, dtype), photometric="minisblack", metadata=None, **options)


def write_pages(path, kind, numbers, **options):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path, **options) as file:
        for number in numbers:
            file.write(pixels(kind, number), photometric="minisblack", metadata=None, contiguous=False)


def write_edf(path, kind, number, **fields):
    frame = pixels(kind, number)
    header = {
        "ByteOrder": "LowByteFirst", "DataType": "UnsignedShort", "Dim_1": COLUMNS, "Dim_2": ROWS,
        "Size": frame.nbytes, **fields,
    }  # fmt: skip
    text = "{\n" + "".join(f"{key} = {value} ;\n" for key, value in header.items())
    text += " " * (-(len(text) + 2) % 512) + "}\n"
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(text.encode() + frame.astype("<u2").tobytes())


def write_parameters(folder, name="scan.json", **values):
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / name).write_text(json.dumps(COUNTS | TURN | values))


_NAMES = {
    "kit": ("radios/image_{0:05d}.tif", "flats/image_{0:05d}.tif", "darks/image_{0:05d}.tif"),
    "elettra": ("tomo_{1:04d}.tif", "flat_{1}.tif", "dark_{1}.tif"),
    "petra": tuple(f"scan_000{run}/ccd/pco01/ccd_{{0:04d}}.tif" for run in (2, 1, 0)),
    "australian": ("SAMPLE_T_{0:04d}.tif", "BG__BEFORE_{0:02d}.tif", "DF__AFTER_{0:02d}.tif"),
    "savu": ("tiffs/raw_{0:05d}.tiff", "flat_{1:05d}.tiff", "dark_{1:05d}.tiff"),
    "folders": ("Tomo/IMAT_{0:06d}.tif", "Flat_Before/IMAT_{0:06d}.tif", "dark-fields/IMAT_{0:06d}.tif"),
    "words": ("darkwood_{1:03d}.tif", "darkwood_flat_{1:03d}.tif", "darkwood-dark-{1}.tif"),
}
NAMES = {layout: dict(zip(BASE, names, strict=True)) for layout, names in _NAMES.items()}
"""Names by layout; {0} counts from 0, {1} from 1."""
FRAMES = {"projections": PROJECTIONS, "flats": FLATS, "darks": DARKS}


def write_named(folder, layout, skip=(), frames=FRAMES, **options):
    """A stack with a name for every role, and its parameter file."""
    write_parameters(folder)
    for kind, name in NAMES[layout].items():
        for number in range(frames[kind]):
            if kind != "projections" or number not in skip:
                write_frame(Path(folder) / name.format(number, number + 1), kind, number, **options)
    return str(folder)


def counter_frames():
    """Kind and number of every frame under one counter."""
    return [(kind, i) for kind in ("darks", "flats", "projections") for i in range(FRAMES[kind])]


TOMCAT_LOG = """User ID : e12345
FAST-TOMO scan of sample bone started on Mon Oct 06 18:51:01 2008
--------------------------------Beamline Settings-------------------------
Ring current [mA]            : 400.650
Beam energy  [keV]           : 25.000
--------------------------------Detector Settings-------------------------
Objective                    : 10.00
Exposure time [ms]           : 10
--------------------------------Scan Settings-------------------------
Sample folder                : /data/bone
File Prefix                  : bone2_
Number of projections        : 12
Number of darks              : 2
Number of flats              : 3
Number of inter-flats        : 0
Inner scan flag              : 0
Flat frequency               : 0
Rot Y min position  [deg]    : 0.000
Rot Y max position  [deg]    : 165.000
Angular step [deg]           : 15.000
Sample In   [um]             : 0
Sample Out  [um]             : 10000
--------------------------------------------------------------
Start logging activity...
"""


def write_tomcat(folder, skip=(), extra_flats=0):
    (Path(folder) / "tif").mkdir(parents=True, exist_ok=True)
    (Path(folder) / "tif" / "bone2_.log").write_text(TOMCAT_LOG)
    frames = counter_frames() + [("flats", FLATS + i) for i in range(extra_flats)]
    for place, (kind, number) in enumerate(frames):
        if place not in skip:
            write_frame(Path(folder) / "tif" / f"bone2_{place + 1:04d}.tif", kind, number)
    return str(folder)


def write_als(folder):
    folder = Path(folder)
    folder.mkdir()
    (folder / "a.sct").write_text(
        "-nangles 12\n-arange 180.0\n-num_bright_field 3\n-i0cycle 0\n-num_dark_fields 2\n-pxsize 0.00065\n"
    )
    names = {
        "projections": "a_0000_{:04d}.tif",
        "flats": "abak_{:04d}_0000.tif",
        "darks": "adrk_{:04d}_0000.tif",
    }
    for kind, name in names.items():
        for number in range(FRAMES[kind]):
            write_frame(folder / name.format(number), kind, number)
    return str(folder)


def write_esrf(folder, extra=0, info=True):
    folder = Path(folder)
    folder.mkdir()
    name = folder.name
    if info:
        (folder / f"{name}.info").write_text(
            f"Energy= 25\nDistance= 100\nPrefix= {name}\nScanRange= 180\nTOMO_N= 12\nREF_ON= 12\nREF_N= 3\n"
            f"DARK_N= 2\nDim_1= {COLUMNS}\nDim_2= {ROWS}\nPixelSize= 0.65\nDate= Mon Oct 06 18:51:01 2008\n"
        )
    for number in range(FRAMES["flats"]):
        write_edf(folder / f"ref{number:04d}_0000.edf", "flats", number)
    for number in range(PROJECTIONS + extra):
        motors = {"motor_mne": "sx srot", "motor_pos": f"1.5 {number * 15.0:g}"}
        write_edf(folder / f"{name}{number:04d}.edf", "projections", number, **motors)
    for number in range(FRAMES["darks"]):
        write_edf(folder / f"darkend{number:04d}.edf", "darks", number)
    return str(folder)


SKYSCAN_LOG = """[System]
Scanner=SkyScan1272
Camera Pixel Size (um)=7.4
[User]
User Name=Pr\u00fcfstand
[Acquisition]
Filename Prefix=tooth
Number of Files= 12
Object to Source (mm)=50
Image Pixel Size (um)=4.9
Depth (bits)=16
Reference Intensity=57000
Exposure (ms)=1350
Rotation Step (deg)=15.0
Flat Field Correction=ON
Study Date and Time=06 Oct 2008  18h:51m:01s
"""


def write_skyscan(folder):
    folder = Path(folder)
    folder.mkdir()
    (folder / "tooth.log").write_bytes(SKYSCAN_LOG.replace("\n", "\r\n").encode("cp1252"))
    for number in range(PROJECTIONS):
        write_frame(folder / f"tooth{number:04d}.tif", "projections", number)
    return str(folder)
