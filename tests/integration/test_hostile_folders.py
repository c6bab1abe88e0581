"""What somebody may put into a folder that the daemon watches as root: it is refused with a sentence, or harmless.

Nothing outside the watched root may be opened, and nobody may wait for what never answers. A listener for opened
files watches the place outside; that the scans between the traps are done shows that nothing waits.
"""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import needs
import numpy as np
import pytest
from disks import memory
from msgspec.structs import replace
from site_under_test import Site, running
from watchdog.events import FileOpenedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from srctd.sim.writer import SimulationSpec, simulate

SMALL = SimulationSpec(rows=8, columns=48, angles=40, flats=3, darks=3)
FRAMES = "/entry/instrument/detector/data"
LEVELS = 100_000
LONGEST = "n" * 251 + ".nxs"
"""As long as a name may be."""


class Openings(FileSystemEventHandler):
    """What was opened."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    def on_opened(self, event: FileSystemEvent) -> None:
        self.paths.append(os.fsdecode(event.src_path))


@contextmanager
def nothing_opened(folder: Path) -> Iterator[None]:
    """Fail if a file below a folder is opened meanwhile; that the listener hears is proven at the end."""
    heard, observer = Openings(), Observer()
    observer.schedule(heard, str(folder), recursive=True, event_filter=[FileOpenedEvent])
    observer.start()
    try:
        yield
        proof = folder / "proof"
        proof.write_bytes(b"")
        event = observer.event_queue
        while str(proof) not in heard.paths:
            event.join() if event.unfinished_tasks else observer.join(0.01)
    finally:
        observer.stop()
        observer.join()
    assert heard.paths == [str(proof)]


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A folder with a chain of folders in it that no path is long enough to name."""
    with memory(tmp_path / "site" / "detector" / "deep") as top:
        here = os.open(top, os.O_RDONLY)
        for _ in range(LEVELS):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(here)
        yield top


def hostile_files(folder: Path, secret: Path) -> None:
    """Everything that is no frame, under names of frames."""
    (folder / "linked0001.tif").symlink_to(secret / "frame.tif")
    (folder / "shadow0001.tif").symlink_to("/etc/shadow")
    (folder / "round0001.tif").symlink_to("again0001.tif")
    (folder / "again0001.tif").symlink_to("round0001.tif")
    (folder / "tif").symlink_to(secret, target_is_directory=True)
    (folder / "flats").symlink_to("..", target_is_directory=True)
    os.mkfifo(folder / "waits0001.tif")
    os.mkfifo(folder / "waits.log")
    os.mknod(folder / "zero0001.tif", 0o666 | 0o020000, os.makedev(1, 5))
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(folder)  # the path of a socket is short
        try:
            listener.bind("socket0001.tif")
        finally:
            os.chdir(here)
    for name in (b"not utf-8 \xff\xfe.txt", b"two\nlines.txt", b"bell\x07.txt", b"\x1b[2J.txt"):
        (folder / os.fsdecode(name)).write_bytes(b"notes")
    for name in (
        "n" * 251 + ".txt",
        "up\\..\\etc\\passwd.txt",
        "a:b.txt",
        "A:B.txt",
        "con.txt",
        "dot..txt. ",
    ):
        (folder / name).write_bytes(name.encode())


def linked_file(folder: Path, name: str, target: Path) -> None:
    """A scan whose frames lie in another file, by an external link."""
    simulate(SMALL, str(folder / name))
    with h5py.File(folder / name, "r+") as file:
        del file[FRAMES]
        file[FRAMES] = h5py.ExternalLink(str(target), "/entry/data")


def raw_file(folder: Path, name: str, target: Path) -> None:
    """A scan whose frames are bytes of another file, by HDF5's external storage."""
    simulate(SMALL, str(folder / name))
    with h5py.File(folder / name, "r+") as file:
        shape, kind = file[FRAMES].shape, file[FRAMES].dtype
        del file[FRAMES]
        size = int(np.prod(shape)) * kind.itemsize
        file.create_dataset(FRAMES, shape, kind, external=[(str(target), 0, size)])


def test_a_hostile_folder_harms_nobody(tmp_path: Path, deep: Path) -> None:
    needs.root()
    needs.program("xxh128sum")
    secret = tmp_path / "secret"
    secret.mkdir()
    site = Site(tmp_path / "site", stalled_seconds=1.0)
    traps = tmp_path / "made"
    traps.mkdir()
    simulate(SMALL, str(secret / "secret.nxs"))
    (secret / "raw").write_bytes(bytes(1 << 20))
    (secret / "frame.tif").write_bytes(b"II*\0secret")
    os.mkfifo(secret / "pipe.nxs")
    linked_file(traps, "outside.nxs", secret / "secret.nxs")
    linked_file(traps, "pipe.nxs", secret / "pipe.nxs")
    linked_file(traps, "climbs.nxs", Path("../../secret/secret.nxs"))
    raw_file(traps, "stored.nxs", secret / "raw")
    simulate(replace(SMALL, seed=3, title="../../../etc", sample="../../etc/passwd"), str(traps / "odd.nxs"))
    with nothing_opened(secret), running(site):
        os.mkfifo(site.detector / "waits.nxs")
        (site.detector / "link.nxs").symlink_to(secret / "secret.nxs")
        (site.detector / "folder").symlink_to(secret, target_is_directory=True)
        simulate(replace(SMALL, format="skyscan"), str(site.detector / "stack"))
        hostile_files(site.detector / "stack", secret)
        for trap in traps.iterdir():
            shutil.copyfile(trap, site.detector / trap.name)
        simulate(SMALL, str(site.detector / "good.nxs"))
        (site.detector / "good.nxs").rename(site.detector / LONGEST)
        site.ends(LONGEST)
        site.ends("odd.nxs")
        stack = site.ends("stack")
        for name in ("outside.nxs", "pipe.nxs", "climbs.nxs", "stored.nxs"):
            reason = site.reaches(name, "held", "done")
            assert reason["state"] == "held", name
            assert "secret" in reason["reason"], reason["reason"]
            assert reason["reason"].count("\n") == 0
        problems = json.dumps(site.ask("status"))
        simulate(replace(SMALL, seed=9), str(site.detector / "later.nxs"))
        site.ends("later.nxs")
        assert site.stop() == 0
    check_copy(stack)
    assert {path.name for path in site.shared.iterdir()} == {"visitors", ".srctd-storage"}
    for name in ("link.nxs", "folder", "levels below", "control characters"):
        assert name in problems
    assert "by listing only" not in problems


def check_copy(task: Path) -> None:
    """Only regular files and folders, under names that every file system holds; the list of digests holds."""
    for here, folders, files in os.walk(task):
        for name in (*folders, *files):
            path = Path(here, name)
            assert not path.is_symlink()
            assert path.is_dir() or path.is_file()
            assert not set(name) & set('<>:"|?*\\\n\x07\x1b')
            assert name[-1] not in ". "
    manifest = json.loads((task / "manifest.json").read_text())
    stored = {file["path"]: file.get("stored") for file in manifest["files"]}
    assert {"a:b.txt", "A:B.txt", "con.txt", "up\\..\\etc\\passwd.txt", "dot..txt. "} <= set(stored)
    for name in ("a:b.txt", "con.txt", "up\\..\\etc\\passwd.txt"):
        assert (task / "input" / stored[name]).read_text() == name
    assert stored["a:b.txt"].lower() != stored["A:B.txt"].lower()
    assert not [name for name in stored if "linked" in name or "shadow" in name or "waits" in name]
    done = subprocess.run(["xxh128sum", "-c", "manifest.xxh128"], cwd=task, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
