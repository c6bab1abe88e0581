"""Retention by the real daemon: what is safe elsewhere leaves the detector's disk, and nothing else ever does."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import disks
import faultfs
import h5py
import pytest
from site_under_test import Site, running
from tiny_scans import Made, put

ALWAYS = "high_water_percent = 0.001\nlow_water_percent = 0.0"
"""Every disk is fuller than that: all that may go goes."""


@pytest.fixture
def made(tmp_path: Path) -> Made:
    folder = tmp_path / "made"
    folder.mkdir()
    return Made(folder)


def retention(marks: str = ALWAYS) -> str:
    """The section of the configuration."""
    return f"[retention]\nenabled = true\nminimum_age_hours = 0.0\ncheck_minutes = 0.005\n{marks}\n"


def events(site: Site, topic: str) -> list[dict[str, Any]]:
    """The journal's events of a kind, oldest first. The daemon may be running."""
    with closing(sqlite3.connect(f"file:{site.folder}/state/journal.sqlite?mode=ro", uri=True)) as journal:
        rows = journal.execute("SELECT scan, body FROM events WHERE topic = ? ORDER BY sequence", (topic,))
        return [{"scan": scan, **json.loads(body)} for scan, body in rows]


def decisions(site: Site) -> dict[str, dict[str, Any]]:
    """What the dry run says of each scan, by its file's name."""
    answer = site.ask("retention")
    return {Path(row["path"]).name: row for disk in answer["disks"] for row in disk["scans"]}


def sources(site: Site) -> dict[str, str]:
    """What became of each scan's source, by its file's name."""
    return {Path(row["path"]).name: row["source"] for row in site.ask("status")["scans"]}


def becomes(site: Site, name: str, source: str) -> None:
    """Wait until the source of a scan has come to that."""
    site.until(lambda: sources(site)[name] == source, f"the source of {name} is {source}", 60)


def used(folder: Path) -> tuple[int, int]:
    """Bytes that are used, and that may be used."""
    disk = os.statvfs(folder)
    taken = disk.f_blocks - disk.f_bfree
    return taken * disk.f_frsize, (taken + disk.f_bavail) * disk.f_frsize


def fill(folder: Path, percent: float) -> None:
    """Write a file by which the disk is so full."""
    taken, size = used(folder)
    (folder / "ballast.bin").write_bytes(b"\1" * int(size * percent / 100 - taken))


def test_the_oldest_go_until_the_disk_is_at_the_mark(made: Made, tmp_path: Path) -> None:
    high, low = 60.0, 53.0
    marks = f"high_water_percent = {high}\nlow_water_percent = {low}"
    with disks.disk(tmp_path / "site", 24, "detector") as detector:
        site = Site(tmp_path / "site", further=retention(marks))
        names = [f"s{n}.nxs" for n in range(4)]
        with running(site):
            for name in names:
                put(made(name, rows=8, columns=128, angles=500), detector)  # about 5 % of the disk each
                site.reaches(name, "done", "held")
            assert sources(site) == dict.fromkeys(names, "there")
            assert "removing begins above 60 %" in decisions(site)["s0.nxs"]["reasons"][-1]
            fill(detector, high + 1)
            site.until(lambda: used(detector)[0] <= low / 100 * used(detector)[1], "it is at the mark")
            site.settled()
            taken, size = used(detector)
            left = [name for name in names if (detector / name).exists()]
            assert left == names[-len(left) :], "the oldest first, never the newest"
            one = os.path.getsize(detector / left[0])
            assert taken + one > low / 100 * size, "and no more than has to"
            assert (detector / "ballast.bin").exists()

            gone = names[: -len(left)]
            told = events(site, "scan.source_removed")
            assert [event["scan"].split("-")[0] + ".nxs" for event in told] == gone
            assert [(event["files"], event["bytes"]) for event in told] == [(1, one)] * len(gone)
            assert len(events(site, "scan.source_removal_begun")) == len(gone)
            assert {name for name, state in sources(site).items() if state == "removed"} == set(gone)
            assert "was removed on" in site.why(gone[0])
            assert site.ask("retry", scan=gone[0], step="sync")["error"]["sentence"]
            put(made("s0.nxs"), detector)
            site.until(lambda: (site.row("s0.nxs") or {})["revision"] == 2, "its name is used again")
            site.reaches("s0.nxs", "done", "held")
        with running(site):
            total = site.settled()["scans_total"]
            assert total == len(names) + 1, "what was removed is not missed, what is left is not new"
            assert "already removed on" in decisions(site)[gone[-1]]["reasons"][0]
            dry = [sys.executable, "-m", "srctd", "retention", "--dry-run", "--config", str(site.config)]
            shown = subprocess.run(dry, capture_output=True, text=True, check=True).stdout
            assert "removing begins above 60 % and ends at 53 %" in " ".join(shown.split())
            assert "the newest scan of its root" in " ".join(shown.split())


def test_what_is_not_as_it_was_copied_stays(made: Made, tmp_path: Path) -> None:
    """A scan whose copy is damaged, one whose source was touched, one with foreign files in it, and the newest."""
    site = Site(tmp_path / "site")
    names = ("damaged.nxs", "touched.nxs", "elettra", "newest.nxs")
    with running(site):
        for name in names:
            put(made(name, **({"format": "elettra"} if name == "elettra" else {})), site.detector)
            site.reaches(name, "done", "held")
        copy = Path(site.ask("scan", scan="damaged.nxs")["folder"], "input", "damaged.nxs")
        assert site.stop() == 0
    whole = copy.read_bytes()
    copy.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    os.utime(site.detector / "touched.nxs")
    stack = site.detector / "elettra"
    (stack / "notes.txt~").write_text("by hand")
    (stack / "link.tif").symlink_to(site.detector / "newest.nxs")
    frames = sorted(path for path in stack.rglob("*.tif") if not path.is_symlink())
    os.link(frames[0], tmp_path / "linked.tif")
    config = site.config.read_text()
    site.config.write_text(f"{config}\n{retention()}")
    with running(site):
        becomes(site, "elettra", "removed")
        assert sorted(path.name for path in stack.rglob("*") if not path.is_dir()) == [
            "link.tif",
            "notes.txt~",
        ]
        assert (tmp_path / "linked.tif").exists()
        becomes(site, "damaged.nxs", "kept, its copy is damaged")
        assert "has the digest" in site.why("damaged.nxs")
        assert "changed since it was copied" in decisions(site)["touched.nxs"]["reasons"]
        assert "the newest scan of its root" in decisions(site)["newest.nxs"]["reasons"]
        assert site.settled()["scans_total"] == len(names)
        copy.write_bytes(whole)
        site.ask("retry", scan="damaged.nxs")
        becomes(site, "damaged.nxs", "removed")
        assert sources(site)["touched.nxs"] == sources(site)["newest.nxs"] == "there"
        assert sorted(path.name for path in site.detector.glob("*.nxs")) == ["newest.nxs", "touched.nxs"]


def test_a_removal_that_is_killed_goes_on_and_a_disk_that_hangs_is_said(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    with faultfs.mounted(folder, "detector") as slow:
        site = Site(folder)
        with running(site):
            for name, format_ in (("stack", "elettra"), ("newest.nxs", "nxtomo")):
                put(made(name, format=format_), site.detector)
                site.reaches(name, "done", "held")
            assert site.stop() == 0
        site.config.write_text(f"{site.config.read_text()}\n{retention()}")
        stack = site.detector / "stack"
        begun_with = len(list(stack.rglob("*.tif")))
        slow.fail("delay", "unlink", seconds=0.05)
        for kill in range(1, 4):
            with running(site):
                site.until(
                    lambda kill=kill: len(list(stack.rglob("*.tif"))) <= begun_with - 6 * kill, "files go"
                )
                site.kill()
        assert list(stack.rglob("*.tif"))
        slow.heal()
        with running(site):
            becomes(site, "stack", "removed")
            assert not stack.exists()
            assert site.settled()["scans_total"] == 2, "what was left was no new scan"
            assert (site.detector / "newest.nxs").exists()
            begun, ended = events(site, "scan.source_removal_begun"), events(site, "scan.source_removed")
            assert [event["files"] for event in begun] == [event["files"] for event in ended]
            assert len(begun) == 1
            slow.fail("hang", "statfs")
            site.until(
                lambda: "does not say how full it is" in "".join(site.ask("status")["retention"]["problems"]),
                "the daemon lives and says that the disk hangs",
            )
            slow.heal()
            assert site.stop() == 0


def test_what_a_scan_that_waits_for_room_refers_to_stays(made: Made, tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    first, second = made("a.h5", format="dataexchange"), made("b.h5", format="dataexchange")
    with h5py.File(second, "r+") as file:
        del file["exchange/data_white"]
        file["exchange/data_white"] = h5py.ExternalLink(f"{site.detector}/one/a.h5", "/exchange/data_white")
    text = site.config.read_text()
    for folder in ("one", "two", "three"):
        (site.detector / folder).mkdir()
    with running(site):
        put(first, site.detector / "one")
        site.reaches("a.h5", "done")
        put(made("c.nxs"), site.detector / "three")
        site.reaches("c.nxs", "done")
    site.config.write_text(f"{text}\n[space]\nstop_below_gigabytes = 1e6\n")
    with running(site):
        put(second, site.detector / "two")
        assert site.reaches("b.h5", "held")["steps"]["check"]["status"] == "held"
    site.config.write_text(f"{text}\n[space]\nstop_below_gigabytes = 1e6\n{retention()}")
    with running(site):
        becomes(site, "c.nxs", "removed")
        site.until(lambda: "reads" in decisions(site)["a.h5"]["reasons"][-1], "why it stays is said", 30)
        assert sources(site) == {"a.h5": "there", "b.h5": "there", "c.nxs": "removed"}
    site.config.write_text(text)
    with running(site):
        site.ask("retry", scan=site.row("b.h5")["scan"])
        site.reaches("b.h5", "done")
