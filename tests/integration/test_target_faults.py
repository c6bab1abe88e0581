"""Shared storage that fails while the real daemon works: every scan ends done, proven, by itself."""

import time
from collections.abc import Iterator
from pathlib import Path

import disks
import faultfs
import proofs
import pytest
from faultfs import FaultFS
from site_under_test import Site, running
from tiny_scans import Made, put

PHASES = {
    "copy": (("create", "write", "fsync"), "/visitors/.{name}.part/input/*"),
    "notes": (("open", "create", "write", "rename"), "/visitors/.{name}.part/*"),
    "publish": (("rename", "fsyncdir"), "/visitors/.{name}.part"),
    "manifest": (("open", "read"), "/visitors/{name}_*/manifest.json"),
    "index": (("create", "write", "fsync", "rename"), "/visitors/{name}/.frames.json*"),
    "input": (("open", "read"), "/visitors/{name}/input/*"),
    "frames": (("open", "read"), "/visitors/{name}/input/*"),
    "list": (("open", "read"), "/visitors/{name}/frames.json"),
    "parameters": (("open", "create", "read", "write"), "/visitors/{name}/*parameters.json*"),
    "preview": (("mkdir", "create", "write", "rename"), "/visitors/{name}/*preview*"),
    "volume": (("mkdir", "create", "write", "fsync", "link"), "/visitors/{name}/.output*"),
    "output": (("open", "read", "rename", "unlink", "rmdir"), "/visitors/{name}/*output*"),
    "record": (("create", "write", "fsync", "rename"), "/visitors/{name}/.record.json*"),
}
"""What of a scan's way fails: operations and paths."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("made"))


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultFS]:
    with faultfs.mounted(tmp_path, "shared") as mounted:
        yield mounted


# --- errors that heal -------------------------------------------------------------------------------------


def test_bursts_of_errors_anywhere_on_the_way(faulty: FaultFS, tmp_path: Path, made: Made) -> None:
    with running(Site(tmp_path, workers=2)) as site:
        sources, faults = [], {}
        for phase, (operations, where) in PHASES.items():
            for error in ("EIO", "ESTALE"):
                name = f"{phase}-{error}"
                pattern = where.format(name=f"*{name}*")
                faults[name] = faulty.fail(error, *operations, pattern=pattern, count=2)
                source = made(name, format="elettra") if phase == "frames" else made(f"{name}.nxs")
                sources.append(put(source, site.detector))
        folders = [site.ends(source.name) for source in sources]
        assert {name for name, fault in faults.items() if faulty.hits(fault) < 2} == set()
        for source, folder in zip(sources, folders, strict=True):
            proofs.check_done(folder, source)
        assert {path.name for path in (site.shared / "visitors").iterdir()} == {f.name for f in folders}
        assert site.stop() == 0


def test_a_storm_of_errors_that_passes(faulty: FaultFS, tmp_path: Path, made: Made) -> None:
    """Any operation may fail, for seconds; nobody is asked when it is over."""
    with running(Site(tmp_path, workers=2)) as site:
        first = put(made("before.nxs"), site.detector)
        proofs.check_done(site.ends(first.name), first)
        storm = [faulty.fail(error, probability=0.05) for error in ("EIO", "ESTALE")]
        sources = [put(made(f"storm-{n}.nxs"), site.detector) for n in range(3)]
        sources.append(put(made("stack", format="elettra"), site.detector))
        site.until(lambda: sum(map(faulty.hits, storm)) > 20, "it is felt")
        until = time.monotonic() + 3
        site.until(lambda: site.ask("status") and time.monotonic() > until, "it passes")
        faulty.heal()
        for source in sources:
            proofs.check_done(site.ends(source.name), source)
        assert site.stop() == 0


# --- a server that does not answer ------------------------------------------------------------------------


def test_storage_that_hangs_keeps_nobody_else(faulty: FaultFS, tmp_path: Path, made: Made) -> None:
    """For seconds no operation ends. Status answers at once, other roots' scans are judged, then all goes on."""
    other = tmp_path / "other"
    other.mkdir()
    watch = f'[[watch]]\npath = "{other}"\nlisting_seconds = 0.5\nsettle_seconds = 0.3'
    with running(Site(tmp_path, workers=2, watch=watch)) as site:
        faulty.fail("hang", "write", pattern="*/.first*.part/input/*", count=1)
        first = put(made("first.nxs"), site.detector)
        site.until(faulty.hanging, "the copy hangs")
        faulty.fail("hang")
        try:
            sources = [put(made(f"later-{n}.nxs"), (site.detector, other)[n % 2]) for n in range(6)]
            judged = {source.name for source in sources}

            def entered() -> bool:
                began = time.monotonic()
                rows = site.ask("status")["scans"]
                assert time.monotonic() - began < 1.0
                return judged <= {Path(row["path"]).name for row in rows}

            site.until(entered, "all are judged", 30)
            put(made("gone.nxs"), other).unlink()
            fresh = put(made("fresh.nxs"), other)
            judged.add(fresh.name)
            site.until(entered, "another as well", 30)
        finally:
            faulty.heal()
        for source in (first, *sources, fresh):
            proofs.check_done(site.ends(source.name), source)
        assert site.stop() == 0


# --- a disk that turns read-only, or full, or goes away ---------------------------------------------------


def test_storage_that_turns_read_only(tmp_path: Path, made: Made) -> None:
    with disks.disk(tmp_path, 32, "shared"), running(Site(tmp_path, workers=1)) as site:
        first = put(made("first.nxs"), site.detector)
        proofs.check_done(site.ends(first.name), first)
        disks.remount(site.shared, "ro")
        second = put(made("second.nxs"), site.detector)
        waiting = site.scan("retrying")
        assert waiting["reason"].count("Read-only file system") == 1
        assert str(site.shared) in site.why(second.name)
        disks.remount(site.shared, "rw")
        proofs.check_done(site.ends(second.name), second)
        assert site.stop() == 0


def test_storage_that_turns_read_only_in_the_middle_of_a_copy(
    faulty: FaultFS, tmp_path: Path, made: Made
) -> None:
    with running(Site(tmp_path, workers=1)) as site:
        faulty.fail("hang", "write", pattern="*/.scan*.part/input/*")
        source = put(made("scan", format="elettra"), site.detector)
        site.until(faulty.hanging, "the copy is under way")
        writing = ("create", "write", "mkdir", "rename", "unlink", "truncate", "utimens", "fallocate")
        faulty.fail("EROFS", *writing)
        faulty.heal("hang-0")
        assert "Read-only" in site.scan("retrying")["reason"]
        faulty.heal()
        proofs.check_done(site.ends(source.name), source)
        assert site.stop() == 0


def test_storage_that_is_full_in_the_middle(faulty: FaultFS, tmp_path: Path, made: Made) -> None:
    """Space was there when it was asked for; somebody else took it."""
    with running(Site(tmp_path, workers=1)) as site:
        for name, pattern in {
            "copy": "/visitors/.copy*.part/input/*",
            "result": "/visitors/result*/.o*",
        }.items():
            fault = faulty.fail("ENOSPC", "write", "fallocate", pattern=pattern)
            source = put(made(f"{name}.nxs"), site.detector)
            stuck = site.reaches(source.name, "held", "retrying")
            assert "No space left on device" in stuck["reason"]
            assert "room" in site.why(source.name) or "space" in site.why(source.name)
            faulty.heal(fault)
            if site.reaches(source.name, "held", "retrying", "running", "done")["state"] == "held":
                site.ask("retry", scan=source.name)
            proofs.check_done(site.ends(source.name), source)
        assert site.stop() == 0


def test_storage_that_is_unmounted_in_the_middle_of_a_copy(tmp_path: Path, made: Made) -> None:
    """Below the mount point nothing is written, whatever the step; mounted again, it goes on."""
    site = Site(tmp_path / "site", workers=1)
    with (
        faultfs.mounted(tmp_path, "store") as faulty,
        disks.plugged(faulty.mount, site.shared),
        running(site),
    ):
        first = put(made("first.nxs"), site.detector)
        proofs.check_done(site.ends(first.name), first)
        for name, pattern in {
            "copy": "*/.copy*.part/input/*",
            "publish": "*/.publish*.part",
            "index": "*/index*/.frames.json*",
            "preview": "*/preview*/*preview*/*",
            "volume": "*/volume*/.output*/*",
            "record": "*/record_*/.record.json*",
        }.items():
            operation = "rename" if name == "publish" else "write"
            hang = faulty.fail("hang", operation, "rename", pattern=pattern)
            source = put(made(name, format="elettra"), site.detector)
            site.until(faulty.hanging, f"{name} is under way")
            disks.unplug(site.shared)
            faulty.heal(hang)
            reason = site.scan("retrying")["reason"]
            assert str(site.shared) in reason
            assert not list(site.shared.iterdir())
            disks.plug(faulty.mount, site.shared)
            site.ask("retry", scan=name)
            proofs.check_done(site.ends(source.name), source)
            assert "Every step is done." in site.why(name)
        disks.unplug(site.shared)
        assert not list(site.shared.iterdir())
        disks.plug(faulty.mount, site.shared)
        assert site.stop() == 0
