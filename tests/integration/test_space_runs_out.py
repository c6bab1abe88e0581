"""Shared storage that fills up under the real daemon: nothing half done, and all goes on by itself."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import disks
import faultfs
import h5py
import needs
import numpy as np
import pytest
from site_under_test import Site, left_in, running
from tiny_scans import Made, put

from srctd.adapters import control_client, space
from srctd.sim.writer import SimulationSpec, simulate

MB = 1_000_000
SPEC = SimulationSpec(rows=32, columns=128, angles=90, flats=5, darks=5)
FLOATS = 4 * 32 * 128 * 128
"""Bytes of its volume; the scan itself has 0.8 MB."""


@pytest.fixture(scope="module")
def scan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "phantom.nxs"
    simulate(SPEC, str(path))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Of a site whose shared storage is a file system of 64 MB of its own."""
    needs.root()
    shared = tmp_path / "shared"
    shared.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64000k", "tmpfs", shared]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        needs.missing(f"no tmpfs: {mounted.stderr.strip()}")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "-l", shared], check=True)


class Filler:
    """A file that leaves so much free on a file system."""

    def __init__(self, site: Site) -> None:
        self._path = site.shared / "filler"
        self._path.touch()

    def leave(self, free: int) -> None:
        grow = space.free_bytes(self._path.parent) - free
        with self._path.open("r+b") as file:
            size = os.fstat(file.fileno()).st_size + grow
            file.truncate(min(size, os.fstat(file.fileno()).st_size))
            os.posix_fallocate(file.fileno(), 0, size)


def until_grade(site: Site, grade: str) -> None:
    site.until(lambda: site.ask("status")["disks"][0]["grade"] == grade, f"storage is at {grade!r}")


def reason(site: Site, scan: dict[str, Any]) -> str:
    return "\n".join(site.ask("why", scan=scan["scan"])["sentences"])


class Feed:
    """What a topic told."""

    def __init__(self, site: Site, topic: str) -> None:
        self.told: list[dict[str, Any]] = []
        threading.Thread(target=self._follow, args=(site.feed, topic), daemon=True).start()

    def _follow(self, endpoint: str, topic: str) -> None:
        for _, body in control_client.follow(endpoint, topic):
            self.told.append(body)


def test_a_full_disk_holds_the_scan_before_a_byte_is_written_and_room_lets_it_go_on(
    folder: Path, scan_file: Path
) -> None:
    with running(Site(folder, catalog="")) as site:
        filler = Filler(site)
        filler.leave(10_500_000)  # 10 MB must stay free, the copy needs 0.8 MB, the volume 2.1 MB
        shutil.copyfile(scan_file, site.detector / "phantom.nxs")
        scan = site.scan("held")
        assert scan["steps"]["check"]["status"] == "held"
        assert "needs 0.00" in scan["reason"]
        assert "it then goes on by itself" in scan["reason"]
        assert "It goes on by itself when" in reason(site, scan)
        assert left_in(site.shared) <= {"filler", ".srctd-storage", "visitors"}
        assert not list(site.shared.rglob("*.nxs")), "nothing was copied"

        site.kill()  # what it waits for is in the journal
        site.start()
        assert site.scan("held")["scan"] == scan["scan"]
        filler.leave(20 * MB)
        done = site.scan("done")
        assert Path(done["volume"]).stat().st_size > FLOATS


def test_more_files_than_inodes_hold_the_scan_before_a_byte_is_written(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    made = Made(tmp_path / "made")("stack", format="elettra", angles=90)
    with (
        disks.disk(tmp_path, 64, "shared", options=("-N", "1024")) as shared,
        running(Site(tmp_path, catalog="")) as site,
    ):
        (shared / "filler").mkdir()
        for number in range(os.statvfs(shared).f_ffree - 150):
            (shared / "filler" / str(number)).touch()
        put(made, site.detector)
        scan = site.scan("held")
        assert scan["files"] > 90
        assert scan["steps"]["check"]["status"] == "held"
        assert "free inodes" in scan["reason"]
        assert "it then goes on by itself" in reason(site, scan)
        assert "are free." not in reason(site, scan)
        assert not list(site.shared.rglob("*.tif")), "nothing was copied"
        shutil.rmtree(shared / "filler")
        site.scan("done")


def test_thresholds_that_are_lowered_let_what_waits_go_on(folder: Path, scan_file: Path) -> None:
    with running(Site(folder, catalog="", further="[space]\nstop_below_gigabytes = 0.060")) as site:
        Filler(site).leave(50 * MB)
        until_grade(site, "stop")
        shutil.copyfile(scan_file, site.detector / "phantom.nxs")
        assert "nothing new is copied" in site.scan("held")["reason"]
        assert site.stop() == 0
    site.config.write_text(site.config.read_text().replace("= 0.060", "= 0.020"))
    with running(site):
        site.scan("done")


def test_a_copy_that_is_made_anew_asks_for_room_as_the_first_did(folder: Path, scan_file: Path) -> None:
    with running(Site(folder, catalog="")) as site:
        shutil.copyfile(scan_file, site.detector / "phantom.nxs")
        done = site.scan("done")
        shutil.move(done["folder"], folder / "away")
        filler = Filler(site)
        filler.leave(10_500_000)
        site.ask("retry", scan=done["scan"], step="sync")
        held = site.scan("held")
        assert held["steps"]["sync"]["status"] == "held"
        assert "must stay free" in held["reason"]
        assert not list(site.shared.rglob("*.nxs")), "nothing was copied"
        filler.leave(20 * MB)
        site.scan("done")


def test_previews_are_made_and_reconstructions_wait(folder: Path, scan_file: Path) -> None:
    limits = "[space]\npreviews_only_below_gigabytes = 0.030\nstop_below_gigabytes = 0.020"
    with running(Site(folder, catalog="", further=limits)) as site:
        grades, filler = Feed(site, "space.grade"), Filler(site)
        filler.leave(25 * MB)
        until_grade(site, "previews only")
        shutil.copyfile(scan_file, site.detector / "phantom.nxs")
        scan = site.scan("held")
        steps = {name: step["status"] for name, step in scan["steps"].items()}
        assert (steps["preview"], steps["reconstruct"], steps["register"]) == ("done", "held", "done")
        assert Path(scan["picture"]).is_file()
        assert "previews are made, reconstructions wait for more room" in scan["reason"]
        assert not list(Path(scan["folder"]).glob(".output*")), "not a byte of the volume"

        filler.leave(15 * MB)
        until_grade(site, "stop")
        other = SimulationSpec(rows=8, columns=64, angles=60, flats=2, darks=2, seed=7)
        simulate(other, str(site.detector / "small.nxs"))
        second = site.scan("held", count=2)
        assert Path(second["path"]).name == "small.nxs"
        assert "nothing new is copied" in second["reason"]

        filler.leave(30_500_000)  # more than the threshold, but not by enough
        site.until(lambda: site.ask("scan", scan="small.nxs")["state"] != "held" or None, "it is copied")
        site.until(
            lambda: site.ask("scan", scan="small.nxs")["steps"]["reconstruct"]["status"] == "held", "it waits"
        )
        assert site.ask("scan", scan="phantom.nxs")["steps"]["reconstruct"]["attempts"] == 1, "no flapping"

        filler.leave(45 * MB)
        site.scan("done", count=2)
        site.until(lambda: any(told["grade"] == "full" for told in grades.told), "the feed tells it")
        assert [told["grade"] for told in grades.told][:2] in (
            ["previews only", "stop"],
            ["stop", "previews only"],
        )


def test_as_space_runs_out_a_volume_of_two_workers_is_of_16_bits(folder: Path, scan_file: Path) -> None:
    limits = "[space]\nsixteen_bit_below_gigabytes = 0.040"
    with running(Site(folder, workers=2, further=limits)) as site:
        filler = Filler(site)
        filler.leave(35 * MB)
        until_grade(site, "16-bit")
        shutil.copyfile(scan_file, site.detector / "phantom.nxs")
        small = site.scan("done")
        assert small["dtype"] == "uint16"
        parameters = json.loads(Path(small["parameters"]).read_text())
        told = parameters["parameters"]["output_dtype"]
        assert (told["value"], told["origin"]) == ("uint16", "space")
        assert "are free on" in told["source"]
        assert len(parameters["shards"]) > 1

        site.ask("retry", scan=small["scan"], set=["output_dtype=float32"])
        large = site.until(lambda: done_again(site, small), "done again")
        check_equal(Path(small["volume"]), Path(large["volume"]))

        (derived,) = [d for d in site.catalog().datasets("derived") if d["pid"] == small["derived_pid"]]
        metadata = derived["scientificMetadata"]
        with h5py.File(small["volume"]) as file:
            attributes = dict(file["/entry/data/data"].attrs)
        assert metadata["value_scale"]["value"] == attributes["scale_factor"]
        assert metadata["value_offset"]["value"] == attributes["add_offset"]
        assert metadata["clipped_fraction"]["value"] == small["clipped_fraction"]
        assert "the volume is of 16-bit integers" in metadata["notes"]["value"]
        record = json.loads(Path(small["record"]).read_text())
        assert record["dataset"]["volume"]["scale"] == attributes["scale_factor"]
        assert record["dataset"]["volume"]["dtype"] == "uint16"


def done_again(site: Site, scan: dict[str, Any]) -> dict[str, Any] | None:
    found = site.ask("scan", scan=scan["scan"])
    return found if found["state"] == "done" and found["volume"] != scan["volume"] else None


def check_equal(small: Path, large: Path) -> None:
    """The one is the other within half a step, where it is not clipped."""
    with h5py.File(small) as a, h5py.File(large) as b:
        stored, values = a["/entry/data/data"], b["/entry/data/data"][:].astype(float)
        assert stored.dtype == np.uint16
        scale, offset = stored.attrs["scale_factor"], stored.attrs["add_offset"]
        back = offset + scale * stored[:].astype(float)
    inside = (values >= offset) & (values <= offset + 65535 * scale)
    assert inside.mean() > 0.999
    assert np.abs(back - values)[inside].max() <= 0.5 * scale * (1 + 1e-6)
    assert small.stat().st_size < 0.6 * large.stat().st_size


def test_a_file_system_that_is_full_though_it_seemed_to_have_room_is_waited_for(
    tmp_path: Path, scan_file: Path
) -> None:
    """A quota: what is free says nothing of it."""
    with (
        disks.disk(tmp_path, 64, "shared.backing"),
        faultfs.mounted(tmp_path, "shared") as shared,
        running(Site(tmp_path, catalog="", workers=0)) as site,
    ):
        filler = Filler(site)
        filler.leave(40 * MB)
        shared.fail("EDQUOT", "create", "mkdir", pattern="/visitors/*")
        shutil.copyfile(scan_file, site.detector / "phantom.nxs")
        scan = site.scan("held")
        assert scan["steps"]["sync"]["status"] == "held"
        assert "quota" in scan["reason"].lower()
        assert left_in(site.shared / "visitors") == set()
        shared.heal()
        site.until(lambda: site.ask("status")["storage"]["free_bytes"], "storage is known")
        assert site.ask("scan", scan="phantom.nxs")["state"] == "held", (
            "it would fail again, for all one knows"
        )
        filler.leave(45 * MB)
        site.copied("phantom.nxs")


@contextmanager
def served_by_bindfs(site: Site) -> Iterator[int]:
    """Shared storage through a process that can be stopped; its number."""
    backing = site.folder / "backing"
    backing.mkdir()
    program = needs.program("bindfs")
    server = subprocess.Popen([program, "-f", str(backing), str(site.shared)], stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 10
        while not os.path.ismount(site.shared):
            if server.poll() is not None or time.monotonic() > deadline:
                needs.missing("no FUSE mount")
            time.sleep(0.02)
        yield server.pid
    finally:
        server.send_signal(signal.SIGCONT)
        subprocess.run(["umount", "-l", str(site.shared)], check=False)
        server.terminate()
        server.communicate(timeout=20)


def test_status_answers_while_shared_storage_hangs(tmp_path: Path) -> None:
    needs.root()
    site = Site(tmp_path, catalog="", workers=0)
    with served_by_bindfs(site) as server, running(site):
        before = site.until(lambda: site.ask("status")["storage"]["free_bytes"], "storage is known")
        os.kill(server, signal.SIGSTOP)
        hanging = threading.Thread(target=os.statvfs, args=(site.shared,), daemon=True)
        hanging.start()
        for _ in range(20):
            status = site.ask("status")
            assert status["storage"]["free_bytes"] > 0, "what was last heard"
            time.sleep(0.3)
        assert hanging.is_alive(), "it does hang"
        assert before > 0
        purposes = [disk["purposes"] for disk in status["disks"]]
        assert purposes[0] == ["shared storage"]
        assert purposes[1:] == [["detector", "state"]], "on one disk"
        os.kill(server, signal.SIGCONT)
        hanging.join(20)
        assert not hanging.is_alive()
