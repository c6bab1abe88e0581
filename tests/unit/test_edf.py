"""The header of EDF files, compared with fabio's reading, damaged, and at random."""

import random
import time

import fabio
import numpy as np
import pytest

from srctd.core.errors import ScanUnreadable
from srctd.formats.edf import BLOCK, LONGEST_HEADER, read_header
from srctd.formats.protocol import ReadOptions
from srctd.formats.tags import read_tags

FIELDS = {
    "HeaderID": "EH:000001:000000:000000",
    "ByteOrder": "LowByteFirst",
    "DataType": "UnsignedShort",
    "Dim_1": "6",
    "Dim_2": "4",
    "Size": "48",
    "count_time": "0.05",
    "title": "a } brace ; and = more",
    "motor_mne": "srot sy sz",
    "motor_pos": "12.5 -0.001 3e2",
    "counter_mne": "srcur",
    "counter_pos": "196.25",
}


def header(fields):
    text = "{\n" + "".join(f"{key} = {value} ;\n" for key, value in fields.items())
    return (text + " " * (-(len(text) + 2) % BLOCK) + "}\n").encode()


def write(path, *, pixels=None, **changed):
    fields = {key: value for key, value in (FIELDS | changed).items() if value is not None}
    path.write_bytes(header(fields) + (np.arange(24, dtype="<u2").tobytes() if pixels is None else pixels))
    return str(path)


def test_a_header(tmp_path):
    found = read_header(write(tmp_path / "a.edf"))
    assert found[1:] == (BLOCK, 4, 6, "<u2")
    assert found.nbytes == 48
    assert found.fields["title"] == "a } brace ; and = more"
    assert found.fields["motor/srot"] == "12.5"
    assert found.fields["motor/sz"] == "3e2"
    assert found.fields["counter/srcur"] == "196.25"


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
def test_what_fabio_writes(tmp_path, dtype):
    path = str(tmp_path / "a.edf")
    images = [np.arange(12).reshape(3, 4).astype(dtype) + i for i in range(3)]
    written = fabio.edfimage.EdfImage(data=images[0], header={"motor_mne": "a b", "motor_pos": "1 2"})
    for image in images[1:]:
        written.append_frame(data=image)
    written.write(path)
    raw = (tmp_path / "a.edf").read_bytes()
    for i, image in enumerate(images):
        found = read_header(path, i)
        there = np.frombuffer(raw, found.dtype, found.rows * found.columns, found.offset)
        assert np.array_equal(there.reshape(found.rows, found.columns), image)
        with fabio.open(path) as opened:
            assert np.array_equal(opened.get_frame(i).data, image)
    assert read_header(path).fields["motor/b"] == "2"
    with pytest.raises(ScanUnreadable, match="has 3 images, not 4"):
        read_header(path, 3)


def test_high_byte_first_is_read_as_fabio_does(tmp_path):
    path = write(tmp_path / "a.edf", pixels=np.arange(24, dtype=">u2").tobytes(), ByteOrder="HighByteFirst")
    assert read_header(path).dtype == ">u2"
    with fabio.open(path) as opened:
        assert np.array_equal(opened.data, np.arange(24).reshape(4, 6))


def test_a_file_still_written_has_a_header_already(tmp_path):
    path = write(tmp_path / "a.edf", pixels=b"")
    found = read_header(path)
    assert found.offset + found.nbytes == BLOCK + 48


def test_a_long_header(tmp_path):
    path = write(tmp_path / "a.edf", comment="x" * 20_000)
    assert read_header(path).offset % BLOCK == 0
    assert read_header(path).offset > 20_000


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"Dim_1": "0"}, "Dim_1 = '0'"),
        ({"Dim_1": "-5"}, "Dim_1 = '-5'"),
        ({"Dim_2": "1e9"}, "Dim_2 = '1e9'"),
        ({"Dim_2": "99999999999999999999"}, "Dim_2"),
        ({"Dim_2": None}, "Dim_2 = ''"),
        ({"DataType": "Complex"}, "unknown DataType 'Complex'"),
        ({"ByteOrder": "Middle"}, "ByteOrder = 'Middle'"),
        ({"ByteOrder": None}, "ByteOrder = ''"),
        ({"Compression": "gzip"}, "compressed"),
        ({"Dim_3": "7"}, "Dim_3 = '7'"),
    ],
)
def test_a_header_that_is_wrong(tmp_path, changed, said):
    with pytest.raises(ScanUnreadable) as caught:
        read_header(write(tmp_path / "a.edf", **changed))
    assert said in caught.value.sentence
    assert "a.edf" in caught.value.sentence


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", b"{", b"{\nDim_1 = 5 ;\n", b"{" + b" " * (LONGEST_HEADER + 9)]
)
def test_what_is_no_header(tmp_path, content):
    (tmp_path / "a.edf").write_bytes(content)
    with pytest.raises(ScanUnreadable):
        read_header(str(tmp_path / "a.edf"))
    tagged = read_tags(str(tmp_path / "a.edf"), ReadOptions())
    assert tagged.values == {}
    assert len(tagged.notes) == 1


def test_tags_of_a_header(tmp_path):
    tagged = read_tags(write(tmp_path / "a.edf"), ReadOptions())
    assert {name: value.value for name, value in tagged.values.items()} == {
        "n_rows": 4,
        "n_columns": 6,
        "ring_current": 196.25,
        "exposure_time": 0.05,
    }
    assert tagged.unmapped["motor/srot"] == "12.5"


def test_no_bytes_break_the_reading(tmp_path):
    draw = random.Random(20261125)
    seed = header(FIELDS) + bytes(48) + header(FIELDS) + bytes(48)
    path = tmp_path / "a.edf"
    end = time.monotonic() + 2.5
    for _ in range(2000):
        raw = bytearray(seed)
        for _ in range(draw.randint(1, 8)):
            at, span = draw.randrange(len(raw) + 1), draw.randint(0, 60)
            if draw.random() < 0.4:
                raw[at : at + 1] = bytes([draw.randrange(256)])
            elif draw.random() < 0.5:
                del raw[at : at + span]
            else:
                raw[at:at] = draw.choice([b"}\n", b"{", b";\n", b"=", b"9" * span, raw[at : at + span]])
        path.write_bytes(raw)
        for image in (0, 1):
            try:
                found = read_header(str(path), image)
            except ScanUnreadable:
                continue
            assert 0 < found.rows <= 100_000
            assert 0 < found.offset <= len(raw)
        if time.monotonic() > end:
            break
