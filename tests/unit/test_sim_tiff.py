from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from srctd.sim.tiff import TiffPages, encode

ORDERS = {"little": "<", "big": ">"}
DTYPES = st.sampled_from(["uint8", "uint16", "int16", "uint32", "float32", "float64"])


def write_tiff(path, frames, byte_order="little", bigtiff=False):
    """One frame, shape (rows, columns), or a file of many pages, shape (pages, rows, columns)."""
    if frames.ndim == 2:
        Path(path).write_bytes(encode(frames, byte_order, bigtiff))
        return
    with TiffPages(path, byte_order, bigtiff) as pages:
        for frame in frames:
            pages.append(frame)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), order=st.sampled_from(list(ORDERS)), bigtiff=st.booleans())
def test_tifffile_reads_what_was_written(tmp_path_factory, data, order, bigtiff):
    path = tmp_path_factory.getbasetemp() / "any.tif"
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)))
    frames = data.draw(arrays.arrays(data.draw(DTYPES), shape))
    write_tiff(str(path), frames, order, bigtiff)
    with tifffile.TiffFile(path) as file:
        assert (file.byteorder, file.is_bigtiff, len(file.pages)) == (ORDERS[order], bigtiff, shape[0])
        for page, frame in zip(file.pages, frames, strict=True):
            np.testing.assert_array_equal(page.asarray(), frame)
            assert page.is_contiguous
            assert page.dtype == frame.dtype


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bigtiff", [False, True])
def test_one_page(tmp_path, order, bigtiff):
    frame = np.arange(35, dtype=np.uint16).reshape(5, 7)
    write_tiff(str(tmp_path / "a.tif"), frame, order, bigtiff)
    assert (tmp_path / "a.tif").read_bytes() == encode(frame, order, bigtiff)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), frame)


def test_a_growing_file_is_valid_after_every_page(tmp_path):
    frames = np.arange(90, dtype=np.uint16).reshape(10, 3, 3)
    with TiffPages(str(tmp_path / "a.tif")) as pages:
        for count, frame in enumerate(frames, 1):
            pages.append(frame)
            found = tifffile.imread(tmp_path / "a.tif", key=range(count))
            np.testing.assert_array_equal(found.reshape(-1, 3, 3), frames[:count])


def test_frames_in_foreign_byte_order_and_not_contiguous(tmp_path):
    frame = np.arange(24, dtype=">u2").reshape(4, 6)[:, ::2]
    write_tiff(str(tmp_path / "a.tif"), frame)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), frame)
