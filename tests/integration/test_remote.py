"""Writes from another host, of which inotify says nothing: through a bindfs mount whose backing folder is
written."""

import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import needs
import pytest
from site_under_test import Site, running

from srctd.adapters.listing import Listing
from srctd.adapters.watch import Watch, file_system
from srctd.config import WatchSection
from srctd.formats import open_scan
from srctd.sim import SimulationSpec, simulate


@pytest.fixture
def mounted(tmp_path) -> Iterator[tuple[Path, Path]]:
    """(what the other host writes, what the daemon sees)."""
    needs.root()
    program = needs.program("bindfs")
    backing, mount = tmp_path / "backing", tmp_path / "mount"
    backing.mkdir()
    mount.mkdir()
    done = subprocess.run([program, str(backing), str(mount)], capture_output=True, text=True, check=False)
    if done.returncode:
        needs.missing(f"no FUSE mount: {done.stderr.strip()}")
    try:
        yield backing, mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


def test_the_bell_is_silent_and_the_listing_finds_it_within_its_interval(mounted):
    backing, mount = mounted
    root = WatchSection(path=str(mount), listing_seconds=1.0)
    bell = threading.Event()
    watch, listing = Watch([root], bell.set), Listing(root)
    watch.start()
    try:
        listing.look(watch.rung(), time.monotonic())
        (backing / "scan").mkdir()
        for number in range(20):
            (backing / f"scan/proj_{number:04}.tif").write_bytes(b"frame")
        written = time.monotonic()
        assert not bell.wait(0.5), "inotify hears nothing of it"
        while len(listing.groups) == 0 or listing.groups[f"{mount}/scan"].files < 20:
            assert time.monotonic() - written < 3.0, "found within the listing interval"
            time.sleep(min(0.05, listing.seconds_to_next(time.monotonic())))
            listing.look(watch.rung(), time.monotonic())
    finally:
        watch.stop()


def test_what_is_written_through_the_mount_rings(mounted):
    _, mount = mounted
    bell = threading.Event()
    watch = Watch([WatchSection(path=str(mount))], bell.set)
    watch.start()
    try:
        (mount / "a.h5").write_bytes(b"1")
        assert bell.wait(10.0)
        assert watch.rung() == {str(mount)}
    finally:
        watch.stop()


def test_the_file_system_is_known_as_remote(mounted):
    _, mount = mounted
    system = file_system(str(mount / "scan"))
    assert (system.kind, system.remote) == ("fuse", True)


def test_the_daemon_takes_a_scan_that_another_host_writes(mounted, tmp_path):
    backing, mount = mounted
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "detector").symlink_to(mount)
    spec = SimulationSpec(
        rows=6, columns=24, angles=30, flats=2, darks=2, format="kit", frames_per_second=20.0
    )
    with running(Site(tmp_path / "site", workers=0, catalog="")) as site:
        simulate(spec, str(backing / "scan"))
        site.copied("scan")
        scan = site.until(lambda: submitted(site), "the scan is submitted")
        assert [root["signals"] for root in site.ask("status")["roots"]] == ["listing"]
        assert (site.ask("status")["scans_total"], scan["revision"], scan["incomplete"]) == (1, 1, False)
    with open_scan(f"{scan['folder']}/frames.json") as copy:
        assert (copy.header.n_projections, copy.header.n_flats, copy.header.n_darks) == (30, 2, 2)


def submitted(site):
    scan = site.ask("scan", scan="scan")
    return scan if scan["steps"]["submit"]["status"] == "done" else None
