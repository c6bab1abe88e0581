import random
import struct
import time

import numpy as np
import pytest
import tifffile

from srctd.core.errors import ScanUnreadable
from srctd.formats import tiff
from srctd.formats.planes import CutShort

FRAME = np.arange(24 * 16, dtype=np.uint16).reshape(24, 16)


def write(path, frames, **options):
    tifffile.imwrite(path, frames, photometric="minisblack", **options)
    return str(path)


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "u4", "i4", "f4", "f8"])
def test_pixels_of_every_kind_are_read_where_they_lie(tmp_path, byteorder, bigtiff, dtype):
    frame = FRAME.astype(dtype)
    path = write(tmp_path / "a.tif", frame, byteorder=byteorder, bigtiff=bigtiff)
    (plane,) = tiff.planes(path)
    assert (plane.rows, plane.columns, np.dtype(plane.dtype).name) == (24, 16, frame.dtype.name)
    assert plane.offset is not None
    rows = tiff.read_rows(path, 0, 3, 9)
    assert rows.dtype == frame.dtype
    assert rows.dtype.isnative
    np.testing.assert_array_equal(rows, frame[3:9])


def test_strips_in_sequence_are_one_piece_and_scattered_ones_are_decoded(tmp_path):
    path = write(tmp_path / "strips.tif", FRAME, rowsperstrip=5)
    (plane,) = tiff.planes(path)
    assert plane.offset is not None
    np.testing.assert_array_equal(tiff.read_rows(path, 0, 4, 11), FRAME[4:11])
    data = bytearray((tmp_path / "strips.tif").read_bytes())
    with tifffile.TiffFile(path) as file:
        tag = file.pages[0].tags["StripOffsets"]
        offsets = list(tag.value)
    moved = len(data)
    data += data[offsets[1] : offsets[1] + 5 * 16 * 2]
    struct.pack_into("<I", data, tag.valueoffset + 4, moved)
    (tmp_path / "scattered.tif").write_bytes(data)
    scattered = str(tmp_path / "scattered.tif")
    assert tiff.planes(scattered)[0].offset is None
    np.testing.assert_array_equal(tiff.read_rows(scattered, 0, 4, 11), FRAME[4:11])


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zlib"},
        {"compression": "lzw"},
        {"tile": (16, 16)},
        {"compression": "zlib", "predictor": True, "byteorder": ">"},
    ],
)
def test_compressed_and_tiled_pages_are_decoded(tmp_path, options):
    path = write(tmp_path / "a.tif", np.stack([FRAME, FRAME + 1]), **options)
    assert [plane.offset for plane in tiff.planes(path)] == [None, None]
    np.testing.assert_array_equal(tiff.read_rows(path, 1, 20, 24), FRAME[20:24] + 1)


def test_pages_are_told_apart(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for number in range(5):
            file.write(FRAME + number, photometric="minisblack", contiguous=False)
    path = str(tmp_path / "a.tif")
    assert len(tiff.planes(path)) == 5
    np.testing.assert_array_equal(tiff.read_rows(path, 4, 0, 24), FRAME + 4)
    with pytest.raises(ScanUnreadable, match="no number 5"):
        tiff.read_rows(path, 5, 0, 1)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 40, 300, -1])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_file_that_is_cut_short_is_known_as_such(tmp_path, length, compression):
    path = write(tmp_path / "a.tif", FRAME, compression=compression)
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[:length])
    with pytest.raises(CutShort, match=r"a\.tif"):
        tiff.planes(path)


def test_a_file_that_has_its_size_but_no_header_yet_is_cut_short(tmp_path):
    (tmp_path / "a.tif").write_bytes(bytes(5000))
    with pytest.raises(CutShort, match="no header yet"):
        tiff.planes(str(tmp_path / "a.tif"))


def patched(path, tag, value):
    """The file with another value of a tag."""
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        place = file.pages[0].tags[tag].valueoffset
        letter = {3: "<H", 4: "<I"}[file.pages[0].tags[tag].dtype]
    struct.pack_into(letter, data, place, value)
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize(
    ("tag", "value", "sentence"),
    [
        ("ImageWidth", 1_000_000, "no detector writes"),
        ("ImageLength", 0, "no detector writes"),
        ("ImageLength", 90_000, "768 bytes for 90000 x 16 pixels"),
        ("BitsPerSample", 12, "12 bits"),
        ("SamplesPerPixel", 3, "in color"),
        ("SampleFormat", 6, "of an unknown kind"),
    ],
)
def test_absurd_headers_are_refused_before_memory_is_touched(tmp_path, tag, value, sentence):
    tifffile.imwrite(tmp_path / "a.tif", FRAME.astype("i2"), photometric="minisblack", metadata=None)
    with pytest.raises(ScanUnreadable, match=sentence):
        tiff.planes(patched(tmp_path / "a.tif", tag, value))


def test_a_decompression_bomb_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, FRAME, photometric="minisblack", compression="zlib", metadata=None)
    patched(path, "ImageWidth", 60_000)
    with pytest.raises(ScanUnreadable, match="would decode to 7200000000 bytes"):
        tiff.planes(patched(path, "ImageLength", 60_000))


def test_a_color_picture_is_no_frame(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 5, 3), np.uint8), photometric="rgb")
    with pytest.raises(ScanUnreadable, match="in color"):
        tiff.planes(str(tmp_path / "a.tif"))


def test_pages_in_a_circle_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    write(path, np.stack([FRAME, FRAME]))
    data = bytearray(path.read_bytes())
    first = struct.unpack_from("<I", data, 4)[0]
    second_at = first + 2 + 12 * struct.unpack_from("<H", data, first)[0]
    struct.pack_into("<I", data, second_at, first)
    path.write_bytes(data)
    with pytest.raises(ScanUnreadable, match="in a circle"):
        tiff.planes(str(path))


def test_damaged_bytes_raise_one_sentence_and_nothing_else(tmp_path):
    random.seed(5)
    originals = []
    for i, options in enumerate(
        [{}, {"bigtiff": True}, {"byteorder": ">"}, {"compression": "zlib"}, {"tile": (16, 16)}]
    ):
        write(tmp_path / f"{i}.tif", np.stack([FRAME, FRAME]), **options)
        originals.append((tmp_path / f"{i}.tif").read_bytes())
    path = tmp_path / "damaged.tif"
    refused = read = 0
    deadline = time.monotonic() + 5
    for round_ in range(6000):
        data = bytearray(originals[round_ % len(originals)])
        for _ in range(random.randint(1, 4)):
            data[random.randrange(min(len(data), 600))] = random.choice(
                (0, 1, 2, 127, 128, 255, random.randrange(256))
            )
        path.write_bytes(data[: random.choice((len(data), random.randrange(len(data))))])
        try:
            pages = tiff.planes(str(path))
            for page, plane in enumerate(pages[:3]):
                assert tiff.read_rows(str(path), page, 0, plane.rows).shape == plane[:2]
            read += 1
        except ScanUnreadable as exc:
            refused += "damaged.tif" in str(exc)
        if time.monotonic() > deadline:
            break
    assert refused > 100
    assert read > 10
