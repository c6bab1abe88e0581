"""A detector's writer that opens its file again and again, as BLISS and areaDetector do, while the file is read."""

import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from scan_files import write_dataexchange

from srctd.core.errors import SrctdError
from srctd.formats import open_scan, probe
from srctd.formats.isolated import IsolatedReader
from srctd.formats.reader import index_scan

WRITER = """
import sys, time
import h5py, numpy as np
path, seconds = sys.argv[1], float(sys.argv[2])
ends, opened, failed = time.monotonic() + seconds, 0, 0
while time.monotonic() < ends:
    try:
        with h5py.File(path, "a") as file:
            data = file["exchange/data"]
            n = data.shape[0]
            data.resize(n + 1, axis=0)
            data[n] = np.full(data.shape[1:], n % 60000 + 1) + np.arange(data.shape[2])
        opened += 1
    except OSError as exc:
        print(exc, file=sys.stderr)
        failed += 1
print(opened, failed)
"""
SECONDS = 5.0


@pytest.fixture
def growing(tmp_path):
    path = write_dataexchange(tmp_path / "growing.h5", end_date="")
    with h5py.File(path, "a") as file:
        values = file["exchange/data"][()]
        del file["exchange/data"]
        file.create_dataset(
            "exchange/data", data=values, maxshape=(None, *values.shape[1:]), chunks=(1, *values.shape[1:])
        )
    return path


def read_or_refused(path, incomplete):
    """Whether two rows are read, or the refusal names the file."""
    try:
        with open_scan(path, incomplete=incomplete) as scan:
            return scan.read("projections", slice(0, 2)).ndim == 3
    except SrctdError as exc:
        return path in str(exc)


def test_a_writer_never_fails_because_its_file_is_read(growing):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, growing, str(SECONDS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    isolated = IsolatedReader()
    looks = answers = 0
    try:
        while writer.poll() is None:
            looks += 1
            answers += probe(growing).readable
            isolated.probe(growing)
            for incomplete in (False, True):
                assert read_or_refused(growing, incomplete)
            time.sleep(0.002)  # two processors are shared with the writer
    finally:
        isolated.close()
        out, problems = writer.communicate(timeout=60)
    opened, failed = map(int, out.split())
    assert failed == 0, problems
    assert opened > 50
    assert looks > 10
    assert answers > 0


def test_nothing_is_created_beside_a_scan(tmp_path):
    path = write_dataexchange(tmp_path / "a.h5")
    before = {entry.name: entry.stat().st_mtime_ns for entry in tmp_path.iterdir()}
    probe(path)
    index_scan(path, incomplete=True)
    with open_scan(path) as scan:
        np.testing.assert_equal(len(scan.angles()), 5)
    assert {entry.name: entry.stat().st_mtime_ns for entry in tmp_path.iterdir()} == before
