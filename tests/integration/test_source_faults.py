"""A source that is rewritten, shrinks, vanishes or cannot be read while the real daemon copies it.

Every one ends in a state that a sentence explains, nothing wrong is ever published, and a source that is well again
is taken up.
"""

import errno
import os
import shutil
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

from srctd.adapters import sync


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("made"))


@pytest.fixture
def target(tmp_path: Path) -> Iterator[FaultFS]:
    with faultfs.mounted(tmp_path, "shared") as mounted:
        yield mounted


class Copying:
    """A scan whose copy is held in the middle until it is told to go on."""

    def __init__(self, site: Site, target: FaultFS, source: Path, *, judged: bool = True) -> None:
        """`judged`: wait until it is known to be complete."""
        self._target = target
        self._hang = target.fail("hang", "write", pattern=f"*/.{source.stem}*.part/input/*")
        self.path = put(source, site.detector)
        site.until(lambda: target.hits(self._hang), "the copy is under way")
        if judged:
            site.until(
                lambda: (
                    site.row(source.name)
                    and site.ask("scan", scan=str(self.path))["steps"]["sync"]["status"] == "running"
                ),
                "it is complete, and waits for its copy",
            )

    def goes_on(self) -> None:
        self._target.heal(self._hang)


def published(site: Site, stem: str) -> list[Path]:
    """The task folders of a scan in which a copy appeared."""
    return [folder for folder in (site.shared / "visitors").glob(f"{stem}_*") if sync.published(folder)]


@pytest.mark.parametrize("judged", [False, True])
def test_a_source_that_is_rewritten_while_it_is_copied(
    judged: bool, target: FaultFS, tmp_path: Path, made: Made
) -> None:
    """The new content is a new revision; of the old one nothing appears."""
    with running(Site(tmp_path, workers=1)) as site:
        for name, other in {"same": {}, "longer": {"angles": 90}}.items():
            copying = Copying(site, target, made(f"{name}.nxs"), judged=judged)
            first = site.row(f"{name}.nxs")
            put(made(f"{name}.nxs", **other), site.detector)
            copying.goes_on()
            newest = site.until(
                lambda: (row := site.row(copying.path.name)) and row["state"] == "done" and row,  # noqa: B023
                "the new content is done",
            )
            folder = Path(site.ask("scan", scan=newest["scan"])["folder"])
            proofs.check_done(folder, copying.path)
            assert published(site, name) == [folder]
            if judged:
                assert first is not None
                assert site.ask("scan", scan=first["scan"])["state"] == "superseded"
                assert "was rewritten; a later revision goes on" in site.why(first["scan"])
        assert not list((site.shared / "visitors").glob(".*"))
        assert site.stop() == 0


def test_a_source_that_shrinks_while_it_is_copied(target: FaultFS, tmp_path: Path, made: Made) -> None:
    """What is left of it is held with its sentence; whole again, it is a new revision."""
    with running(Site(tmp_path, workers=1)) as site:
        source = made("scan.nxs")
        copying = Copying(site, target, source)
        os.truncate(copying.path, source.stat().st_size // 2)
        copying.goes_on()
        held = site.reaches("scan.nxs", "held")
        assert "scan.nxs" in held["reason"]
        assert "truncated" in site.why("scan.nxs")
        assert published(site, "scan") == []
        whole = put(source, site.detector)
        proofs.check_done(site.ends_at_last("scan.nxs"), whole)
        assert len(published(site, "scan")) == 1
        assert site.stop() == 0


def test_a_source_that_disappears_while_it_is_copied(target: FaultFS, tmp_path: Path, made: Made) -> None:
    """It is missed with a sentence, and taken up where it was when it is back."""
    with running(Site(tmp_path, workers=1)) as site:
        copying = Copying(site, target, made("stack", format="elettra"))
        away = shutil.move(copying.path, tmp_path / "away")
        copying.goes_on()
        missed = site.reaches("stack", "retrying", "held")
        assert missed["state"] == "retrying"
        assert str(copying.path) in missed["reason"]
        assert "is not there any more" in site.why("stack")
        assert published(site, "stack") == []
        shutil.move(away, copying.path)
        proofs.check_done(site.ends("stack"), copying.path)
        assert site.stop() == 0


def test_a_source_that_is_copied_back_is_taken_up(target: FaultFS, tmp_path: Path, made: Made) -> None:
    """The same content with other times, after it had disappeared in the middle."""
    with running(Site(tmp_path, workers=1)) as site:
        source = made("stack", format="elettra")
        copying = Copying(site, target, source)
        shutil.rmtree(copying.path)
        copying.goes_on()
        assert site.reaches("stack", "retrying")
        shutil.copytree(source, copying.path, copy_function=shutil.copyfile)
        proofs.check_done(site.ends_at_last("stack"), copying.path)
        assert len(published(site, "stack")) == 1
        assert not list((site.shared / "visitors").glob(".*"))
        assert site.stop() == 0


def test_a_source_disk_that_fails(tmp_path: Path, made: Made) -> None:
    """Unreadable before it is judged, unreadable in the middle of the copy, and closed to the daemon."""
    with (
        faultfs.mounted(tmp_path, "detector") as disk,
        faultfs.mounted(tmp_path, "shared") as target,
        running(Site(tmp_path, workers=1, stalled_seconds=2)) as site,
    ):
        fault = disk.fail("EIO", "read", pattern="/early*")
        paths = [
            put(made("early.nxs"), site.detector),
            put(made("early", format="elettra"), site.detector),
        ]
        for path in paths:
            site.until(lambda: "put/output error" in site.why(str(path)), "why says so")  # noqa: B023
        until = time.monotonic() + 3
        site.until(lambda: time.monotonic() > until, "longer than scans without news are waited for")
        assert site.ask("status")["scans"] == [], "an unreadable disk says nothing of a scan"
        disk.heal(fault)
        for path in paths:
            proofs.check_done(site.ends(path.name), path)

        for error, state in {"ESTALE": "retrying", "EACCES": "held"}.items():
            name = f"stack{error}"
            copying = Copying(site, target, made(name, format="elettra"))
            fault = disk.fail(error, "open", "read", pattern=f"/{name}/*")
            copying.goes_on()
            stuck = site.reaches(name, "retrying", "held")
            assert (stuck["state"], stuck["steps"]["sync"]["status"]) == (state, state)
            assert f"cannot be read: {os.strerror(getattr(errno, error))}" in site.why(name)
            assert published(site, name) == []
            disk.heal(fault)
            if state == "held":
                site.ask("retry", scan=name)
            proofs.check_done(site.ends(name), copying.path)
        assert site.stop() == 0


def test_a_source_disk_that_is_unplugged(target: FaultFS, tmp_path: Path, made: Made) -> None:
    """In the middle of a copy, and plugged in again; what arrives then is seen."""
    store = tmp_path / "store"
    store.mkdir()
    site = Site(tmp_path, workers=1)
    with disks.plugged(store, site.detector), running(site):
        copying = Copying(site, target, made("stack", format="elettra"))
        disks.unplug(site.detector)
        copying.goes_on()
        missed = site.reaches("stack", "retrying", "held")
        assert missed["state"] == "retrying"
        assert "is not there any more" in site.why("stack")
        assert published(site, "stack") == []
        disks.plug(store, site.detector)
        proofs.check_done(site.ends("stack"), copying.path)
        later = put(made("later.nxs"), site.detector)
        proofs.check_done(site.ends("later.nxs"), later)
        assert site.stop() == 0
