import resource
import struct
import zlib

import h5py
import hdf5plugin
import numpy as np
import pytest
from scan_files import COLUMNS, KEYS, ROWS, frame_values, write_nxtomo

from srctd.core.errors import ScanUnreadable
from srctd.formats import open_scan, probe
from srctd.formats.frames import FrameReader
from srctd.formats.hdf5 import numbers, text
from srctd.formats.reader import index_scan

DETECTOR = "entry/instrument/detector"
SHAPE = (len(KEYS), ROWS, COLUMNS)

FILTERS = {
    "gzip": {"compression": "gzip"},
    "shuffled gzip": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    "LZF": {"compression": "lzf"},
    "bitshuffle": hdf5plugin.Bitshuffle(cname="none"),
    "bitshuffle LZ4": hdf5plugin.Bitshuffle(),
    "bitshuffle Zstandard": hdf5plugin.Bitshuffle(cname="zstd"),
    "LZ4": hdf5plugin.LZ4(),
    "Blosc": hdf5plugin.Blosc(),
    "Blosc2": hdf5plugin.Blosc2(),
    "Zstandard": hdf5plugin.Zstd(),
}


def replaced(path, **how):
    """The frames again, stored another way."""
    with h5py.File(path, "a") as file:
        del file[f"{DETECTOR}/data"]
        stored = {"shape": SHAPE, "dtype": np.uint16, "chunks": (1, ROWS, COLUMNS), **how}
        file.create_dataset(f"{DETECTOR}/data", **stored)
    return path


@pytest.mark.parametrize("name", FILTERS)
def test_every_compression_that_detectors_use_is_read(tmp_path, name):
    path = replaced(write_nxtomo(tmp_path / "a.nxs"), data=frame_values(len(KEYS)), **FILTERS[name])
    seen = probe(path)
    assert (seen.frames_found, seen.gaps, seen.missing) == (9, (), ())
    with open_scan(path) as scan:
        np.testing.assert_array_equal(
            scan.read("projections", slice(1, 3)), frame_values(len(KEYS))[[2, 3, 5, 8], 1:3]
        )


@pytest.mark.parametrize("name", FILTERS)
def test_a_compressed_frame_that_is_blank_is_found(tmp_path, name):
    values = np.random.default_rng(0).integers(1, 60000, (len(KEYS), 64, 64), np.uint16)
    values[[5, 8]] = 0
    path = replaced(
        write_nxtomo(tmp_path / "a.nxs"), data=values, shape=values.shape, chunks=(1, 64, 64), **FILTERS[name]
    )
    assert [sentence.split()[1] for sentence in probe(path).missing] == ["5", "8"]


def refused_everywhere(path, words):
    """A header that is absurd: looking, indexing and reading by an older index say so and allocate nothing."""
    seen = probe(path)
    assert seen.frames_found is None or not seen.readable
    assert not seen.usable
    for incomplete in (False, True):
        with pytest.raises(ScanUnreadable, match=words):
            index_scan(path, incomplete=incomplete)


@pytest.mark.parametrize(
    "shape",
    [(9, 10**9, 10**9), (10**12, ROWS, COLUMNS), (9, 90_000, 90_000), (9, 2**40, 1)],
    ids=["frame", "frames", "bytes", "rows"],
)
def test_sizes_that_no_detector_writes(tmp_path, shape):
    path = replaced(write_nxtomo(tmp_path / "a.nxs"), shape=shape, maxshape=(None, None, None))
    refused_everywhere(path, "which no detector writes")


def test_chunks_that_no_detector_writes(tmp_path):
    from srctd.formats.chunks import unsound

    class Claims:
        """A data set as a damaged header makes it; the library writes none such."""

        ndim, shape, dtype, chunks = 3, (9, 4, 6), np.dtype("<u2"), (1, 2**20, 2**20)

    assert "has chunks of 1 x 1048576 x 1048576 pixels" in unsound(Claims())


def test_a_chunk_that_decodes_into_more_than_it_stands_for(tmp_path):
    path = write_nxtomo(tmp_path / "a.nxs")
    good = index_scan(path)
    replaced(path, data=frame_values(len(KEYS)), compression="gzip")
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
    with h5py.File(path, "a") as file:
        file[f"{DETECTOR}/data"].id.write_direct_chunk((2, 0, 0), bomb)
    refused_everywhere(path, "a compressed chunk has")
    with (
        FrameReader(good, str(tmp_path)) as reader,
        pytest.raises(ScanUnreadable, match="a compressed chunk has"),
    ):
        reader.read("projections", slice(None))


def test_a_file_that_was_replaced_since_it_was_indexed(tmp_path):
    path = write_nxtomo(tmp_path / "a.nxs")
    good = index_scan(path)
    replaced(path, shape=(9, 10**9, 10**9), maxshape=(None, None, None))
    with (
        FrameReader(good, str(tmp_path)) as reader,
        pytest.raises(ScanUnreadable, match="no detector writes"),
    ):
        reader.read("projections", slice(None))
    replaced(path, data=frame_values(len(KEYS), ROWS + 1), shape=(9, ROWS + 1, COLUMNS))
    with (
        FrameReader(good, str(tmp_path)) as reader,
        pytest.raises(ScanUnreadable, match="frames of another size"),
    ):
        reader.read("projections", slice(None))


def test_a_filter_that_is_not_installed(tmp_path):
    path = write_nxtomo(tmp_path / "a.nxs")
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk((1, ROWS, COLUMNS))
    created.set_filter(32123, h5py.h5z.FLAG_OPTIONAL, (1,))
    with h5py.File(path, "a") as file:
        del file[f"{DETECTOR}/data"]
        space = h5py.h5s.create_simple(SHAPE)
        h5py.h5d.create(file[DETECTOR].id, b"data", h5py.h5t.STD_U16LE, space, created)
    refused_everywhere(path, r"filter 32123 .*, which is not installed here")


def test_a_chunk_with_flipped_bits_is_one_sentence(tmp_path):
    path = replaced(write_nxtomo(tmp_path / "a.nxs"), data=frame_values(len(KEYS)), compression="gzip")
    with h5py.File(path, "a") as file:
        file[f"{DETECTOR}/data"].id.write_direct_chunk((2, 0, 0), struct.pack("<8Q", *range(8)))
    with open_scan(path) as scan, pytest.raises(ScanUnreadable) as caught:
        scan.read("projections", slice(None))
    assert str(tmp_path / "a.nxs") in str(caught.value)


@pytest.mark.parametrize("what", ["string", "chunk"])
def test_small_things_that_claim_to_be_huge_are_not_read(tmp_path, what):
    """A string of 1 GB, and ten angles in a chunk of 2 GB: what is decoded counts, not what is wanted."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if what == "string":
            space = h5py.h5s.create(h5py.h5s.SCALAR)
            kind = h5py.h5t.C_S1.copy()
            kind.set_size(1 << 30)
            h5py.h5d.create(file.id, b"a", kind, space)
        else:
            chunks = (1 << 28,)
            file.create_dataset("a", (10,), "f8", maxshape=(None,), chunks=chunks, compression="gzip")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert (text(file["a"]), len(numbers(file["a"]))) == ("", 0)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kilobytes"
