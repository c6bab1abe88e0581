"""The same scan under another name, at another time, after a restart, is the same scan; another content is not.

No workers: what counts is which scans there are.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import pytest
from site_under_test import Site, running

from srctd.sim.writer import SimulationSpec, simulate


@pytest.fixture
def made(tmp_path: Path) -> Path:
    path = tmp_path / "made" / "phantom.nxs"
    path.parent.mkdir()
    simulate(SimulationSpec(rows=8, columns=64, angles=60, flats=3, darks=3), str(path))
    return path


def a_site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site", workers=0, catalog="")


def seen(site: Site, times: int) -> None:
    """Wait until the daemon has said so often that it saw a scan again."""
    site.until(lambda: site.tail().count("scan.seen_again") >= times, f"seen again {times} times")


def scans(site: Site) -> list[tuple[str, int, str]]:
    rows: list[dict[str, Any]] = site.settled()["scans"]
    return sorted((Path(row["path"]).name, row["revision"], row["state"]) for row in rows)


def test_touched_renamed_copied_and_restarted_it_is_one_scan(made, tmp_path):
    site = a_site(tmp_path)
    here = site.detector / "phantom.nxs"
    with running(site):
        shutil.copyfile(made, here)
        site.copied("phantom.nxs")
        one = [("phantom.nxs", 1, "running")]

        os.utime(here)
        seen(site, 1)
        assert scans(site) == one, "touched"

        here.rename(site.detector / "renamed.nxs")
        seen(site, 2)
        one = [("renamed.nxs", 1, "running")]
        assert scans(site) == one, "renamed"

        (site.detector / "again").mkdir()
        shutil.copyfile(made, site.detector / "again" / "phantom.nxs")
        seen(site, 3)
        assert scans(site) == one, "copied into the watched folder once more"
        shutil.copyfile(made, site.detector / "another.nxs")
        seen(site, 4)
        said = site.ask("why", scan="another.nxs")
        assert said["scan"].startswith("phantom-")
        assert (
            f"The same files were seen at {site.detector / 'again' / 'phantom.nxs'}, " in said["sentences"][1]
        )
    with running(site):
        assert scans(site) == one, "after a restart"
        left = [path.name for path in (site.shared / "visitors").glob(".*.part")]
        assert not left, "copies made ahead of what turned out to be known"
        assert site.ask("why", scan=str(site.detector / "renamed.nxs"))["scan"].startswith("phantom-")


def test_other_content_under_the_same_name_is_a_new_revision(made, tmp_path):
    site = a_site(tmp_path)
    here = site.detector / "phantom.nxs"
    with running(site):
        shutil.copyfile(made, here)
        site.copied("phantom.nxs")
        with h5py.File(made, "r+") as file:
            frames = file["entry/instrument/detector/data"]
            frames[30, 4, 20] = frames[30, 4, 20] + 1  # one pixel, far from every sample that may be taken
        size = here.stat().st_size
        shutil.copyfile(made, here)
        assert here.stat().st_size == size
        site.until(lambda: len(scans(site)) == 2, "a second revision")
        assert scans(site) == [("phantom.nxs", 1, "superseded"), ("phantom.nxs", 2, "running")]


@pytest.mark.parametrize("where", ["day", "."])
def test_stacks_that_follow_each_other_in_one_folder_are_each_one_scan(where, tmp_path):
    site = a_site(tmp_path)
    folder = site.detector / where
    folder.mkdir(exist_ok=True)
    with running(site):
        for number, name in enumerate(("first", "second", "third"), start=1):
            made = tmp_path / "made" / name
            options = SimulationSpec(
                rows=6, columns=48, angles=60, flats=3, darks=2, format="als832", seed=number
            )
            simulate(options, str(made))
            for file in sorted(made.iterdir(), key=lambda file: (file.suffix != ".sct", file.name)):
                shutil.copyfile(file, folder / file.name)
            site.copied(folder.name if name == "first" and where == "day" else f"{name}.sct")
            assert len(scans(site)) == number
        left = site.detector / "day" if where == "day" else site.detector / "first.sct"
        assert {path for path, _, _ in scans(site)} == {left.name, "second.sct", "third.sct"}
        site.until(lambda: len(site.settled()["scans"]) == 3, "three scans")
        assert site.ask("why", scan=str(folder / "first.sct"))["scan"]


def test_a_new_scan_under_the_name_that_another_had_before_it_was_renamed(made, tmp_path):
    site = a_site(tmp_path)
    here = site.detector / "phantom.nxs"
    with running(site):
        shutil.copyfile(made, here)
        site.copied("phantom.nxs")
        here.rename(site.detector / "renamed.nxs")
        seen(site, 1)
        simulate(SimulationSpec(rows=8, columns=64, angles=60, flats=3, darks=3, seed=5), str(here))
        site.until(lambda: len(site.settled()["scans"]) == 2, "a second scan")
        ids = {row["scan"] for row in site.ask("status")["scans"]}
        assert len(ids) == 2


def test_the_copy_of_another_scan_is_not_taken_for_its_own(made, tmp_path):
    """As another daemon may have made under the same name, in the same second, of a file with the same path."""
    with running(Site(tmp_path / "site", catalog="")) as site:
        shutil.copyfile(made, site.detector / "phantom.nxs")
        scan = site.reaches("phantom.nxs", "done")["scan"]
        (record,) = (site.shared / "visitors").glob("[!.]*/manifest.json")
        anothers = record.read_text().replace(f'"size": {made.stat().st_size}', '"size": 12345')
        record.write_text(anothers)
        assert "error" not in site.ask("retry", scan=scan, step="sync")
        own = record.parent.with_name(f"{record.parent.name}-2")
        site.until((own / "input/phantom.nxs").is_file, "a copy under another name")
        site.reaches("phantom.nxs", "done")
        assert site.ask("scan", scan=scan)["folder"] == str(own)
        assert record.read_text() == anothers
