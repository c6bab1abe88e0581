"""A detector's writer that opens its file again and again, as BLISS and areaDetector do, while the file is read."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from scan_files import write_dataexchange
from site_under_test import Site, running

from srctd.core.errors import SrctdError
from srctd.formats import open_scan, probe
from srctd.formats.isolated import IsolatedReader
from srctd.formats.reader import index_scan
from srctd.sim import SimulationSpec, simulate

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
    return growing_scan(tmp_path / "growing.h5")


def growing_scan(place):
    """A file without an end, whose frames may become more."""
    path = write_dataexchange(place, end_date="")
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


# --- the daemon itself ------------------------------------------------------------------------------------

REOPENED = """
import sys, time
import h5py, numpy as np
path, times = sys.argv[1], int(sys.argv[2])
failed = 0
for n in range(times):
    try:
        with h5py.File(path, "a") as file:  # with HDF5's own locks, as a detector opens it
            if n == times - 1:
                del file["exchange/theta"]
                file["exchange/theta"] = np.linspace(0, 180, file["exchange/data"].shape[0] + 1, endpoint=False)
                file["process/acquisition/end_date"] = "2026-01-01"
            data = file["exchange/data"]
            data.resize(data.shape[0] + 1, axis=0)
            data[-1] = np.full(data.shape[1:], n + 1) + np.arange(data.shape[2])
    except OSError as exc:
        print(exc, file=sys.stderr)
        failed += 1
    time.sleep(0.03)
print(failed)
"""
TIMES = 200


def stat_of_all(top):
    """Everything that a listing can tell of a tree, and its bytes: any access but reading changes some of it."""
    found = {}
    for path in [top, *sorted(top.rglob("*"))]:
        stat = path.lstat()
        bytes_ = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(top))] = (
            stat.st_ino, stat.st_mode, stat.st_nlink, stat.st_uid, stat.st_gid, stat.st_size, stat.st_mtime_ns,
            stat.st_ctime_ns, sorted(os.listxattr(path)), bytes_,
        )  # fmt: skip
    return found


@pytest.mark.timeout(120)
def test_the_daemon_only_ever_reads_what_is_being_written(tmp_path):
    site = Site(tmp_path, workers=0, catalog="", stalled_seconds=20.0)
    path = site.detector / "growing.h5"
    growing_scan(path)
    spec = SimulationSpec(
        rows=6, columns=24, angles=100, flats=4, darks=4, format="tomcat", frames_per_second=25.0
    )
    with running(site):
        writer = subprocess.Popen(
            [sys.executable, "-c", REOPENED, str(path), str(TIMES)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            simulate(spec, str(site.detector / "stack"))
        finally:
            out, problems = writer.communicate(timeout=60)
        assert (int(out), problems) == (0, "")
        before = stat_of_all(site.detector)
        assert (
            len(before) == len((".", "growing.h5", "stack", "stack/tif", "stack/tif/stack.log")) + spec.frames
        )
        site.copied("stack")
        site.copied(path.name)
        assert sorted((Path(row["path"]).name, row["revision"]) for row in site.settled()["scans"]) == [
            ("growing.h5", 1),
            ("stack", 1),
        ]
        assert site.stop() == 0
    assert stat_of_all(site.detector) == before
