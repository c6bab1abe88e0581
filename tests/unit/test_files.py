"""What has taken a file's place is not opened, least of all by a worker in a copy, whose files are the user's."""

import ctypes
import os
import socket

import h5py
import msgspec
import numpy as np
import pytest
from scan_files import COLUMNS, KEYS, ROWS, frame_values, write_nxtomo
from stack_files import write_edf, write_frame, write_named, write_parameters

from srctd.adapters.sync.source import Source
from srctd.core.errors import ScanUnreadable
from srctd.core.frames import INDEX_NAME, rebased
from srctd.formats import open_scan
from srctd.formats.files import opened, regular
from srctd.formats.reader import index_scan
from srctd.sim.writer import SimulationSpec, simulate

pytestmark = pytest.mark.timeout(20)  # whoever opens a pipe waits for ever
IN_OPEN = 0x20


def make_pipe(path, _):
    os.mkfifo(path)


def make_socket(path, _):
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(here)


def make_link(path, other):
    path.symlink_to(other)


def tiff(folder):
    return write_named(folder, "elettra"), folder / "tomo_0003.tif"


def packed_tiff(folder):
    write_parameters(folder)
    path = write_named(folder, "elettra")
    for number, file in enumerate(sorted(folder.glob("tomo*.tif"))):
        write_frame(file, "projections", number, compression="zlib")
    return path, folder / "tomo_0003.tif"


def edf(folder):
    path = write_named(folder, "elettra")
    for file in folder.glob("*.tif"):
        kind = {"t": "projections", "f": "flats", "d": "darks"}[file.name[0]]
        write_edf(file.with_suffix(".edf"), kind, 1)
        file.unlink()
    return path, folder / "tomo_0003.edf"


def raw(folder):
    spec = SimulationSpec(rows=ROWS, columns=COLUMNS, angles=12, flats=2, darks=2, format="raw")
    simulate(spec, str(folder))
    return folder, next(folder.glob("*.raw"))


def hdf5(folder):
    return write_nxtomo(folder / "a.nxs"), folder / "a.nxs"


FRAMES = [tiff, packed_tiff, edf, raw, hdf5]


@pytest.fixture
def copy(tmp_path):
    (tmp_path / "task/input").mkdir(parents=True)
    return tmp_path / "task/input"


def as_a_worker(opened_path, task):
    """The frames of a copy by its index, as workers read them."""
    base = opened_path if os.path.isdir(opened_path) else os.path.dirname(opened_path)
    index = rebased(index_scan(str(opened_path)), str(base), str(task))
    (task / INDEX_NAME).write_bytes(msgspec.json.encode(index))
    return open_scan(str(task / INDEX_NAME))


@pytest.mark.parametrize("make", [make_pipe, make_socket, make_link])
@pytest.mark.parametrize("frames", FRAMES)
def test_a_worker_reads_nothing_but_regular_files_of_a_copy(copy, tmp_path, frames, make):
    path, victim = frames(copy)
    scan = as_a_worker(path, tmp_path / "task")
    victim.rename(tmp_path / victim.name)
    make(victim, tmp_path / victim.name)
    with scan, pytest.raises(ScanUnreadable, match=f"{victim.name} is no regular file but a ") as caught:
        scan.read("projections", slice(0, 2))
    assert "put the scan's own file in its place" in caught.value.sentence


def test_what_hdf5_itself_would_open_is_looked_at_before(copy, tmp_path):
    path = write_nxtomo(copy / "a.nxs")
    with h5py.File(copy / "part.h5", "w") as file:
        file["data"] = frame_values(len(KEYS))
    layout = h5py.VirtualLayout((len(KEYS), ROWS, COLUMNS), np.uint16)
    layout[:] = h5py.VirtualSource("part.h5", "data", (len(KEYS), ROWS, COLUMNS))
    with h5py.File(path, "a") as file:
        del file["entry/instrument/detector/data"]
        file["entry/instrument/detector"].create_virtual_dataset("data", layout)
    scan = as_a_worker(path, tmp_path / "task")
    (copy / "part.h5").unlink()
    os.mkfifo(copy / "part.h5")
    with scan, pytest.raises(ScanUnreadable, match=r"part\.h5 is no regular file but a pipe"):
        scan.read("projections", slice(0, 2))


@pytest.mark.parametrize("frames", FRAMES)
def test_links_of_folders_on_the_way_are_followed(copy, tmp_path, frames):
    """`input` is one where the input was left in place, and a site's mounts may lie behind others."""
    path, _ = frames(copy)
    with as_a_worker(path, tmp_path / "task") as scan:
        wanted = scan.read("projections", slice(0, 2))
    copy.rename(tmp_path / "elsewhere")
    copy.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with open_scan(str(tmp_path / "task" / INDEX_NAME)) as scan:
        assert np.array_equal(scan.read("projections", slice(0, 2)), wanted)


def test_an_hdf5_link_may_lead_to_a_link(tmp_path):
    """It has bounds of its own; the files of one acquisition are often shown elsewhere by links."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "scan").mkdir()
    with h5py.File(tmp_path / "raw/frames.h5", "w") as file:
        file["data"] = frame_values(len(KEYS))
    (tmp_path / "scan/shown.h5").symlink_to("../raw/frames.h5")
    path = write_nxtomo(tmp_path / "scan/a.nxs", data=h5py.ExternalLink("shown.h5", "/data"))
    with as_a_worker(path, tmp_path) as scan:
        assert scan.read("projections", slice(0, 2)).any()


def opens_of(path, function):
    """How often a function opened what lies at a path, as the kernel tells."""
    libc = ctypes.CDLL(None, use_errno=True)
    bell = libc.inotify_init1(os.O_NONBLOCK)
    try:
        assert libc.inotify_add_watch(bell, os.fsencode(path), IN_OPEN) >= 0
        function()
        try:
            return len(os.read(bell, 4096)) // 16
        except BlockingIOError:
            return 0
    finally:
        os.close(bell)


def test_a_pipe_is_not_opened_even_for_a_moment(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"1")

    def copied(name):
        with Source(str(tmp_path)) as source:
            os.close(source.open(name))

    def read(name):
        with opened(str(tmp_path / name)):
            pass

    for how in (copied, read):
        assert opens_of(tmp_path / "file", lambda how=how: how("file")) == 1

        def refused(how=how):
            with pytest.raises(ScanUnreadable, match="pipe is no regular file but a pipe"):
                how("pipe")

        assert opens_of(tmp_path / "pipe", refused) == 0
    assert regular(str(tmp_path / "file"))
    assert regular(str(tmp_path / "pipe")) is None
