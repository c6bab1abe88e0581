import os
import resource
import threading

import numpy as np
import pytest
from scan_files import frame_values, write_nxtomo

from srctd.core.errors import ScanUnreadable
from srctd.formats import open_scan, probe
from srctd.formats.isolated import MOST_MEMORY, NICENESS, IsolatedReader
from srctd.formats.protocol import ReadOptions
from srctd.formats.reader import index_scan


def heap_with_a_hole(tmp_path):
    """A scan in whose string heap a transfer has not written yet: HDF5 reads it for ever."""
    path = write_nxtomo(tmp_path / "hole.nxs")
    data = bytearray((tmp_path / "hole.nxs").read_bytes())
    heap = data.index(b"GCOL")
    data[heap + 16 : heap + 4096] = bytes(4080)
    (tmp_path / "hole.nxs").write_bytes(data)
    return path


def test_the_same_as_the_probe_itself(tmp_path):
    isolated = IsolatedReader()
    try:
        for name in (write_nxtomo(tmp_path / "a.nxs"), str(tmp_path / "gone \n.nxs")):
            assert isolated.probe(name) == probe(name)
    finally:
        isolated.close()


def test_a_header_or_its_refusal_is_the_same_as_without_isolation(tmp_path):
    isolated = IsolatedReader()
    try:
        path = write_nxtomo(tmp_path / "a.nxs")
        with open_scan(path) as reader:
            assert isolated.header(path) == reader.header
        gone = str(tmp_path / "gone.nxs")
        with pytest.raises(ScanUnreadable) as direct:
            open_scan(gone)
        with pytest.raises(ScanUnreadable) as caught:
            isolated.header(gone)
        assert caught.value.sentence == direct.value.sentence
    finally:
        isolated.close()


def test_a_file_that_hangs_the_reader_is_given_up_and_the_next_is_read(tmp_path):
    isolated = IsolatedReader(limit_seconds=3.0)
    try:
        isolated.probe(write_nxtomo(tmp_path / "a.nxs", data=frame_values(9)))
        seen = isolated.probe(heap_with_a_hole(tmp_path))
        assert not seen.readable
        assert "kept the reader busy for 3 s" in seen.problem
        with pytest.raises(ScanUnreadable, match="kept the reader busy for 3 s"):
            isolated.header(str(tmp_path / "hole.nxs"))
        assert isolated.probe(str(tmp_path / "a.nxs")).readable
    finally:
        isolated.close()


def test_a_reader_that_died_is_replaced(tmp_path):
    isolated = IsolatedReader()
    try:
        path = write_nxtomo(tmp_path / "a.nxs")
        assert isolated.probe(path).readable
        first = isolated._helper
        isolated._helper._process.kill()
        isolated._helper._process.wait()
        assert isolated.probe(path).readable
        assert isolated._helper is not first
    finally:
        isolated.close()


def test_a_file_over_which_the_reader_dies_is_unreadable(tmp_path):
    isolated = IsolatedReader(limit_seconds=60.0)
    killer = threading.Timer(0.5, lambda: isolated._helper._process.kill())
    try:
        isolated.probe(write_nxtomo(tmp_path / "a.nxs"))
        killer.start()
        assert "made the reader crash" in isolated.probe(heap_with_a_hole(tmp_path)).problem
        assert isolated.probe(str(tmp_path / "a.nxs")).readable
    finally:
        killer.join()
        isolated.close()


def test_options_members_and_incomplete_scans_pass_through(tmp_path):
    isolated = IsolatedReader()
    try:
        path = write_nxtomo(tmp_path / "a.nxs", keys=(2, 1, *[0] * 40), angles=np.arange(42) * 18.0)
        options = ReadOptions(must_have=("/entry/control/data",))
        assert isolated.probe(path, options) == probe(path, options)
        assert isolated.header(path, member=1).series.member == 1
        assert isolated.index(path, member=1) == index_scan(path, member=1)
        short = write_nxtomo(tmp_path / "b.nxs", keys=(2, 1, 0, 0, 0), angles=[0, 0, 1, 2])
        assert isolated.index(short, incomplete=True) == index_scan(short, incomplete=True)
        with pytest.raises(ScanUnreadable, match="4 rotation angles"):
            isolated.index(short)
    finally:
        isolated.close()


def test_the_helper_lets_everybody_else_go_first(tmp_path):
    isolated = IsolatedReader()
    try:
        isolated.probe(write_nxtomo(tmp_path / "a.nxs"))
        number = isolated._helper._process.pid
        assert os.getpriority(os.PRIO_PROCESS, number) >= min(19, os.nice(0) + NICENESS)
        soft, _ = resource.prlimit(number, resource.RLIMIT_AS)
        assert 0 < soft <= MOST_MEMORY
    finally:
        isolated.close()
