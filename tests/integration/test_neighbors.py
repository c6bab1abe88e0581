"""The daemon and what it does not control: catalogue clients, a full disk, storage that is not mounted."""

import os
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import disks
import needs
import pytest
from pyscicat.client import ScicatClient as Pyscicat
from scitacean import PID, Client
from site_under_test import Site, left_in, running
from tiny_scans import Made, put

from srctd.adapters import sync
from srctd.core.scan import FileEntry, Manifest
from srctd.sim.writer import SimulationSpec, simulate


@pytest.fixture
def small_scan(tmp_path: Path) -> Path:
    path = tmp_path / "made" / "phantom.nxs"
    path.parent.mkdir()
    simulate(SimulationSpec(rows=24, columns=96, angles=90, flats=5, darks=5), str(path))
    return path


def test_pyscicat_and_scitacean_read_back_what_the_daemon_posted(small_scan: Path, tmp_path: Path) -> None:
    with running(Site(tmp_path / "site")) as site:
        shutil.copyfile(small_scan, site.detector / "phantom.nxs")
        scan = site.scan()
        site.catalog()
        url = f"{site.ask('status')['catalog']['url']}/api/v3"
        password = (site.folder / "state" / "catalog.sqlite.password").read_text().strip()

        pyscicat = Pyscicat(url, username="admin", password=password, timeout_seconds=10)
        raw = pyscicat.datasets_get_one(scan["raw_pid"])
        assert (raw["numberOfFiles"], raw["size"]) == (1, small_scan.stat().st_size)
        found = pyscicat.datasets_get_many({"inputDatasets": scan["raw_pid"]})
        assert [dataset["pid"] for dataset in found] == [scan["derived_pid"]]

        scitacean = Client.from_credentials(url=url, username="admin", password=password, allow_http=True)
        dataset = scitacean.get_dataset(PID.parse(scan["derived_pid"]), attachments=True)
        files = {file.remote_path.posix: file for file in dataset.files}
        volume = Path(scan["volume"])
        assert files["output/volume.h5"].size == volume.stat().st_size
        assert dataset.source_folder is not None
        assert dataset.source_folder.posix == scan["folder"]
        assert dataset.attachments is not None
        (picture,) = dataset.attachments
        assert picture.thumbnail is not None
        assert picture.thumbnail.decoded_data() == Path(scan["picture"]).read_bytes()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    with disks.disk(tmp_path, 24) as mount:
        yield mount


def test_a_full_shared_storage_holds_the_scan_before_a_byte_is_written(
    small_scan: Path, tiny_disk: Path, tmp_path: Path
) -> None:
    site = Site(tmp_path / "site")
    site.config.write_text(site.config.read_text().replace(str(site.shared), str(tiny_disk)))
    filler = tiny_disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 12 << 20)
    with running(site):
        shutil.copyfile(small_scan, site.detector / "phantom.nxs")
        held = site.scan("held")
        assert str(tiny_disk) in held["reason"]
        for word in ("needs", "GB", "free"):
            assert word in held["reason"]
        assert left_in(tiny_disk) == {"filler", "lost+found", ".srctd-storage"}
        filler.unlink()
        site.ask("retry", scan=held["scan"])
        site.scan("done")
        assert site.stop() == 0


def test_shared_storage_that_is_not_mounted_only_delays(small_scan: Path, tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    site.shared.rmdir()
    with running(site):
        shutil.copyfile(small_scan, site.detector / "phantom.nxs")
        waiting = site.scan("retrying")
        assert str(site.shared) in waiting["reason"]
        assert "mounted" in waiting["reason"]
        assert not site.shared.exists(), "never made: it would fill the disk below the mount point"
        site.shared.mkdir()
        site.ask("retry", scan=waiting["scan"])
        site.scan("done")

        away = site.shared.rename(tmp_path / "away")
        site.shared.mkdir()  # a mount point whose file system is gone
        shutil.copyfile(small_scan, site.detector / "second.nxs")
        waiting = site.scan("retrying")
        assert "marker" in waiting["reason"]
        assert left_in(site.shared) == set()
        site.shared.rmdir()
        away.rename(site.shared)
        site.ask("retry", scan=waiting["scan"])
        site.scan("done", count=2)


def test_a_catalogue_that_never_answers_does_not_hold_up_the_end(small_scan: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=50) as silent:
        (tmp_path / "password").write_text("secret")
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        catalog = f'url = "{url}"\nusername = "admin"\npassword_file = "{tmp_path}/password"'
        with running(Site(tmp_path / "site", catalog=catalog)) as site:
            shutil.copyfile(small_scan, site.detector / "a.nxs")
            site.until(
                lambda: site.ask("status")["scans"] and "volume" in site.ask("scan", scan="a"),
                "the volume is there",
            )
            assert site.ask("scan", scan="a")["steps"]["register"]["status"] == "running"
            assert site.process
            site.process.terminate()
            site.process.wait(20)  # the grace of this site is 5 s, the client's patience 40 s
            assert site.process.returncode == 0


# --- another daemon on the same storage, with scans of the same names --------------------------------------------

NOTHING_IS_COPIED = "[space]\nstop_below_gigabytes = 1e6\n"


def tasks(site: Site) -> list[str]:
    """Names of task directories by the journal, in the order of the members."""
    with closing(sqlite3.connect(f"file:{site.folder}/state/journal.sqlite?mode=ro", uri=True)) as journal:
        return [task for (task,) in journal.execute("SELECT task FROM scans ORDER BY member")]


def anothers(site: Site, task: str) -> Path:
    """A scan of another daemon, which was faster with this name."""
    other = site.folder / "elsewhere"
    other.mkdir(exist_ok=True)
    (other / "phantom.nxs").write_bytes(b"another")
    at = (other / "phantom.nxs").stat()
    files = (FileEntry(path="phantom.nxs", size=at.st_size, mtime_ns=at.st_mtime_ns),)
    final = site.shared / "visitors" / task
    final.parent.mkdir(exist_ok=True)
    sync.copy(Manifest(folder=str(other), files=files, opened="phantom.nxs"), final.with_name(".other.part"))
    sync.publish(final.with_name(".other.part"), final)
    return final


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("rotations", [1, 2])
def test_a_name_that_another_daemon_has_taken_in_the_same_second_is_left_to_it(
    tmp_path: Path, rotations: int
) -> None:
    site = Site(tmp_path / "site", further=NOTHING_IS_COPIED)
    put(Made(tmp_path)("phantom.nxs", rotations=rotations, angle_range_deg=360.0), site.detector)
    with running(site):
        site.scan("held")
        before = tasks(site)
        assert site.stop() == 0
    assert len(before) == rotations
    taken = [anothers(site, task) for task in before]
    contents = [files_of(folder) for folder in taken]
    site.config.write_text(site.config.read_text().replace(NOTHING_IS_COPIED, ""))
    with running(site):
        site.scan("done", count=rotations)
        base = before[0].removesuffix("-m000")
        assert tasks(site) == [task.replace(base, f"{base}-2") for task in before]
        site.kill()
        site.start()
        found = [site.ask("scan", scan=row["scan"]) for row in site.ask("status")["scans"]]
        assert {Path(scan["folder"]).name for scan in found} == set(tasks(site))
        for scan in found:
            copied = Path(scan["folder"], "input", "phantom.nxs")
            assert copied.read_bytes() == (site.detector / "phantom.nxs").read_bytes()
    assert [files_of(folder) for folder in taken] == contents, "what the other wrote is as it was"
    assert left_in(site.shared / "visitors") == {*before, *tasks(site)}


def test_a_name_that_another_daemon_takes_while_the_copy_grows_is_left_to_it(tmp_path: Path) -> None:
    site = Site(tmp_path / "site", workers=0, watch="copy_megabytes_per_second = 0.2")
    put(Made(tmp_path)("phantom.nxs", columns=256, angles=400), site.detector)  # it takes some seconds
    with running(site):
        (task,) = site.until(lambda: tasks(site), "it has a name")
        taken = anothers(site, task)
        site.copied("phantom.nxs")
        assert tasks(site) == [f"{task}-2"]
        copied = taken.with_name(f"{task}-2") / "input" / "phantom.nxs"
        assert copied.read_bytes() == (site.detector / "phantom.nxs").read_bytes()
        assert (taken / "input" / "phantom.nxs").read_bytes() == b"another"


def test_two_machines_whose_detectors_have_the_same_path(tmp_path: Path) -> None:
    """Each daemon sees its own disk at one and the same place; both copy at once a scan of the same path."""
    needs.root()
    place, shared = tmp_path / "data", tmp_path / "one" / "shared"
    place.mkdir()

    def machine(name: str) -> Site:
        site = Site(tmp_path / name, watch="copy_megabytes_per_second = 5")
        text = site.config.read_text().replace(str(site.detector), str(place))
        site.config.write_text(text.replace(f"{site.folder}/shared", str(shared)))
        mount = f'mount --bind {site.detector} {place} && exec "$0" "$@"'
        site.launcher = ("unshare", "--mount", "sh", "-c", mount)
        return site

    one, other = machine("one"), machine("other")
    with running(one), running(other):
        made = Made(tmp_path)
        sources = [put(made("phantom.nxs", columns=256, angles=120), site.detector) for site in (one, other)]
        for site in (one, other):
            site.until(lambda: len(tasks(site)) == 1, "it has a name")  # noqa: B023
        found = [site.scan("done") for site in (one, other)]
        assert found[0]["scan"] == found[1]["scan"]
        copied = [Path(scan["folder"], "input", "phantom.nxs").read_bytes() for scan in found]
        assert copied == [source.read_bytes() for source in sources]
        assert copied[0] != copied[1]
        assert len(list((shared / "visitors").iterdir())) == 2
        assert [site.stop() for site in (one, other)] == [0, 0]
