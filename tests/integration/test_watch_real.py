"""The doorbell on a real file system: when it rings, when it must not, and that the listing misses nothing."""

import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from srctd.adapters.listing import Listing
from srctd.adapters.watch import Watch

SOON = 10.0
"""Seconds within which a bell must ring; it rings within milliseconds."""
SILENCE = 0.7
"""Seconds in which a bell that must not ring had time to."""


class Doorstep:
    """A watched root, its bell and its listing."""

    def __init__(self, folder: Path, depth: int = 2) -> None:
        self.folder = folder
        self.root = SimpleNamespace(
            path=str(folder), patterns=("*.h5",), depth=depth, listing_seconds=5.0, rest_listing_seconds=300.0
        )
        self.bell = threading.Event()
        self.rings = 0
        self.watch = Watch([self.root], self.ring)
        self.listing = Listing(self.root)

    def ring(self) -> None:
        self.rings += 1
        self.bell.set()

    def names(self) -> list[str]:
        """List, as the daemon does after a ring; a folder just listed has to wait for a multiple of its cost."""
        self.bell.clear()
        self.problem = self.watch.listen(self.root)
        self.listing.look(self.watch.rung(), time.monotonic())
        while (pause := self.listing.seconds_to_next(time.monotonic())) < 1.0:
            threading.Event().wait(pause)
            self.listing.look((), time.monotonic())
        return sorted(os.path.relpath(path, self.folder) for path in self.listing.groups)

    def names_after_rings(self) -> list[str]:
        """What is there after as many rings as it takes: what happened before may ring late."""
        found: list[str] = []
        while not found:
            assert self.bell.wait(SOON)
            found = self.names()
        return found


@contextmanager
def watching(folder: Path, depth: int = 2) -> Iterator[Doorstep]:
    before = set(threading.enumerate())
    doorstep = Doorstep(folder, depth)
    doorstep.watch.start()
    try:
        yield doorstep
    finally:
        doorstep.watch.stop()
    left = [thread for thread in threading.enumerate() if thread not in before and thread.is_alive()]
    assert left == [], "all threads have ended"


def test_it_rings_for_a_file_that_is_written_and_closed(tmp_path):
    with watching(tmp_path) as doorstep:
        assert doorstep.names() == []
        (tmp_path / "a.h5").write_bytes(b"1")
        assert doorstep.bell.wait(SOON)
        assert doorstep.names() == ["a.h5"]


def test_it_rings_for_a_file_that_is_renamed_into_place_but_not_for_its_growth(tmp_path):
    with watching(tmp_path) as doorstep:
        doorstep.names()
        (tmp_path / ".a.h5.x1").write_bytes(b"1")
        (tmp_path / "a.h5.part").write_bytes(b"1")
        assert not doorstep.bell.wait(SILENCE)
        (tmp_path / "a.h5.part").rename(tmp_path / "a.h5")
        assert doorstep.bell.wait(SOON)
        assert doorstep.names() == ["a.h5"]


def test_it_rings_for_files_moved_in_and_for_hard_links(tmp_path):
    watched = tmp_path / "watched"
    watched.mkdir()
    with watching(watched) as doorstep:
        (tmp_path / "a.h5").write_bytes(b"1")
        doorstep.names()
        os.link(tmp_path / "a.h5", watched / "linked.h5")
        assert doorstep.bell.wait(SOON)
        doorstep.names()
        (tmp_path / "a.h5").rename(watched / "moved.h5")
        assert doorstep.bell.wait(SOON)
        assert doorstep.names() == ["linked.h5", "moved.h5"]


def test_reading_does_not_ring(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"1")
    with watching(tmp_path) as doorstep:
        assert doorstep.names() == ["a.h5"]
        (tmp_path / "a.h5").read_bytes()
        doorstep.names()
        assert not doorstep.bell.wait(SILENCE)


def test_folders_that_come_later_are_listened_to(tmp_path):
    with watching(tmp_path) as doorstep:
        doorstep.names()
        (tmp_path / "day" / "sample").mkdir(parents=True)
        assert doorstep.bell.wait(SOON)
        doorstep.names()
        with (tmp_path / "day/sample/a.h5").open("wb") as file:
            file.write(b"1")
        assert doorstep.names_after_rings() == ["day/sample/a.h5"]


def test_many_events_ring_once_until_the_next_listing(tmp_path):
    with watching(tmp_path) as doorstep:
        doorstep.names()
        for n in range(500):
            (tmp_path / f"{n}.h5").touch()
        assert doorstep.bell.wait(SOON)
        assert not threading.Event().wait(SILENCE)
        assert doorstep.rings == 1
        assert len(doorstep.names()) == 500
        (tmp_path / "one more.h5").touch()
        assert doorstep.bell.wait(SOON)
        assert doorstep.rings == 2


def test_a_root_that_appears_later_gets_its_bell(tmp_path):
    with watching(tmp_path / "mount") as doorstep:
        assert doorstep.names() == []
        (tmp_path / "mount").mkdir()
        assert doorstep.names() == []
        (tmp_path / "mount/a.h5").touch()
        assert doorstep.bell.wait(SOON)


def test_a_root_that_is_replaced_gets_its_bell_again(tmp_path):
    folder = tmp_path / "root"
    for replace in (shutil.rmtree, lambda path: path.rename(tmp_path / "away")):
        folder.mkdir()
        with watching(folder) as doorstep:
            doorstep.names()
            replace(folder)
            doorstep.names()
            folder.mkdir()
            doorstep.names()
            doorstep.bell.clear()
            (folder / "a.h5").touch()
            assert doorstep.names_after_rings() == ["a.h5"]
        shutil.rmtree(folder)


def test_without_inotify_the_listing_goes_on_and_says_so(tmp_path):
    (tmp_path / "a.h5").touch()
    doorstep = Doorstep(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, hard))
    try:
        doorstep.watch.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert doorstep.names() == ["a.h5"]
    assert doorstep.problem == f"{tmp_path}: no inotify instance is left; changes are noticed by listing only"
    doorstep.watch.stop()


@pytest.mark.timeout(60)
def test_nothing_is_missed_while_files_and_folders_come_at_full_speed(tmp_path):
    wanted = [f"scan{n % 40}/{n}.h5" for n in range(1500)]

    def write() -> None:
        for name in wanted:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()

    with watching(tmp_path) as doorstep:
        writer = threading.Thread(target=write)
        writer.start()
        seen: list[str] = doorstep.names()
        while len(seen) < len(wanted):
            doorstep.bell.wait(0.5)  # or the next listing without a ring, as in the daemon
            threading.Event().wait(0.1)  # one listing serves many rings
            seen = doorstep.names()
        writer.join()
        assert seen == sorted(wanted)


@pytest.mark.timeout(120)
def test_sixty_thousand_small_files_at_full_speed_are_all_seen_and_none_twice(tmp_path):
    """inotify's queue overflows on the way (its limit is 16,384 events); that costs nothing but time."""
    count = 60_000
    root = SimpleNamespace(
        path=str(tmp_path), patterns=("*.tif",), depth=2, listing_seconds=1.0, rest_listing_seconds=300.0
    )
    listing = Listing(root)
    bell = threading.Event()
    watch = Watch([root], bell.set)
    (tmp_path / "scan").mkdir()
    write = f"""
import os, sys
for n in range({count}):
    os.close(os.open(f"{tmp_path}/scan/p_{{n:06}}.tif", os.O_WRONLY | os.O_CREAT))
"""
    watch.start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    writer = subprocess.Popen([sys.executable, "-c", write])
    try:
        seen = 0
        while seen < count:
            bell.wait(max(0.02, listing.seconds_to_next(time.monotonic())))
            bell.clear()
            listing.look(watch.rung(), time.monotonic())
            listed = listing.groups.get(f"{tmp_path}/scan")
            assert len(listing.groups) <= 1
            assert listed is None or listed.files >= seen, "none is lost again"
            seen = listed.files if listed else 0
    finally:
        writer.wait()
        watch.stop()
    manifest = listing.manifest(listing.groups[f"{tmp_path}/scan"])
    assert len({file.path for file in manifest.files}) == len(manifest.files) == count
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kilobytes"
