"""`srctd submit`: an acquisition says that its scan has ended. No workers: what counts is the verdict."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import pytest
from site_under_test import Site, running

from srctd.sim.spec import Faults
from srctd.sim.writer import SimulationSpec, simulate

SMALL: dict[str, Any] = {"rows": 6, "columns": 48, "angles": 60, "flats": 3, "darks": 2, "format": "kit"}
FRAMES = 65
END_IS_TOLD = 'require_end = true\nend_evidence = ["message"]'


def a_site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site", workers=0, catalog="", watch=END_IS_TOLD, stalled_seconds=600.0)


def submit(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "srctd", "submit", "--endpoint", site.endpoint, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def why(site: Site, name: str) -> str:
    return "\n".join(site.ask("why", scan=name)["sentences"])


def waiting_for_the_end(site: Site, path: Path) -> None:
    def reached() -> bool:
        rows = site.ask("status")["arriving"]
        return bool(rows) and "acquisition ended" in " ".join((rows[0]["reason"], *rows[0]["missing"]))

    site.until(reached, f"{path} waits for its end")


def test_a_scan_waits_until_it_is_told_of_also_through_a_restart(tmp_path):
    site = a_site(tmp_path)
    path = site.detector / "scan 1"
    simulate(SimulationSpec(**SMALL), str(path))
    with running(site):
        waiting_for_the_end(site, path)
        site.kill()
    with running(site):
        waiting_for_the_end(site, path)
        done = submit(site, str(path), "--frames", str(FRAMES))
        assert done.returncode == 0, done.stderr
        site.kill()
    with running(site):
        site.copied("scan 1")
        said = why(site, "scan 1")
        assert "COMPLETE" in said
        assert "srctd submit" in said
    with running(site):
        assert len(site.settled()["scans"]) == 1


def test_fewer_frames_than_were_taken_are_still_awaited(tmp_path):
    site = a_site(tmp_path)
    path = site.detector / "scan"
    simulate(SimulationSpec(**SMALL), str(path))
    with running(site):
        waiting_for_the_end(site, path)
        submit(site, str(path), "--frames", str(FRAMES + 5))
        site.until(
            lambda: f"of {FRAMES + 5} announced" in why(site, "scan"), "the announced frames are missing"
        )


def test_what_was_broken_off_is_taken_or_held(tmp_path):
    site = a_site(tmp_path)
    late, early = site.detector / "late", site.detector / "early"
    simulate(SimulationSpec(**SMALL, faults=Faults(abort_after=FRAMES - 1)), str(late))
    simulate(SimulationSpec(**SMALL, faults=Faults(abort_after=20)), str(early))
    with running(site):
        for path in (late, early):
            assert submit(site, str(path), "--aborted", "beam lost").returncode == 0
        scan = site.copied("late")
        assert scan["state"] == "running"
        assert "INCOMPLETE_USABLE" in why(site, "late")
        held = site.scan("held")
        assert Path(held["path"]).name == "early"
        assert "beam lost" in held["reason"]


def test_a_scan_from_elsewhere_is_taken_too(tmp_path):
    site = a_site(tmp_path)
    folder, file = tmp_path / "archive" / "old", tmp_path / "archive" / "older.nxs"
    simulate(SimulationSpec(**SMALL), str(folder))
    simulate(SimulationSpec(**{**SMALL, "format": "nxtomo"}), str(file))
    simulate(
        SimulationSpec(**{**SMALL, "format": "nxtomo"}, seed=4), str(tmp_path / "archive" / "not_meant.nxs")
    )
    with running(site):
        for path in (folder, file):
            assert submit(site, str(path)).returncode == 0
        for path in (folder, file):
            assert site.copied(path.name)["path"] == str(path)
        status = site.settled()
        assert len(status["scans"]) == 2
        site.until(lambda: len(site.ask("status")["roots"]) == 1, "only the root is watched again")


@pytest.mark.parametrize(
    ("shot", "first", "told", "then"),
    [
        (30, "STALLED", ["--frames", "30"], "COMPLETE"),
        (FRAMES, "INCOMPLETE_USABLE", [], "COMPLETE"),
        (30, "STALLED", ["--aborted", "beam lost"], "ABORTED"),
    ],
)
def test_what_is_told_after_a_verdict_makes_another_one(tmp_path, shot, first, told, then):
    site = Site(tmp_path / "site", workers=0, catalog="", watch=END_IS_TOLD, stalled_seconds=2.0)
    path = site.detector / "scan"
    with running(site):
        faults = Faults(abort_after=shot) if shot < FRAMES else Faults()
        simulate(SimulationSpec(**SMALL, faults=faults), str(path))
        site.until(lambda: site.settled()["scans"], "it entered")
        assert f"Verdict {first}" in why(site, "scan")
        assert submit(site, str(path), *told).returncode == 0
        site.until(lambda: f"revision 2.\nVerdict {then}" in why(site, "scan"), f"it is {then}")
        if shot == FRAMES:
            assert site.copied("scan")["incomplete"] is False
        else:
            site.until(lambda: site.settled()["scans"][0]["state"] == "held", "the files promise more")
            site.ask("retry", scan=site.settled()["scans"][0]["scan"], incomplete=True)
            assert site.copied("scan")["incomplete"] is True


def test_more_frames_than_there_are_make_a_complete_scan_an_incomplete_one(tmp_path):
    site = Site(tmp_path / "site", workers=0, catalog="", stalled_seconds=2.0)
    path = site.detector / "scan"
    simulate(SimulationSpec(**SMALL), str(path))
    with running(site):
        site.copied("scan")
        assert submit(site, str(path), "--frames", str(FRAMES)).returncode == 0, "nothing new"
        assert submit(site, str(path), "--frames", str(FRAMES + 2)).returncode == 0
        site.until(lambda: "revision 2.\nVerdict INCOMPLETE_USABLE" in why(site, "scan"), "judged anew")


def test_what_is_told_of_and_no_tomography_is_said_to_be_so(tmp_path):
    site = a_site(tmp_path)
    path = tmp_path / "archive" / "notes.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["notes"] = [1, 2]
    with running(site):
        assert submit(site, str(path)).returncode == 0
        site.until(lambda: site.ask("status")["foreign_total"] == 1, "it was looked at")
        assert "FOREIGN" in why(site, str(path))


@pytest.mark.parametrize(
    ("form", "told"),
    [("kit", "radios/image_00003.tif"), ("kit", "radios"), ("kit", "."), ("nxtomo", "."), ("tomcat", "tif")],
)
@pytest.mark.parametrize("where", ["detector", "archive"])
def test_whatever_of_a_scan_is_named_it_is_the_scan_that_is_meant(tmp_path, form, told, where):
    site = a_site(tmp_path)
    folder = site.folder / where / "tomo 1"
    made = folder / "x.nxs" if form == "nxtomo" else folder
    folder.parent.mkdir(exist_ok=True)
    if form == "nxtomo":
        folder.mkdir()
    simulate(SimulationSpec(**{**SMALL, "format": form}), str(made))
    with running(site):
        assert submit(site, str(folder / told)).returncode == 0
        assert site.copied(made.name)["path"] == str(made)
        assert "srctd submit" in why(site, made.name)


def test_a_folder_of_several_scans_or_of_none_is_refused(tmp_path):
    site = a_site(tmp_path)
    several, none = tmp_path / "archive" / "day", tmp_path / "archive"
    several.mkdir(parents=True)
    for name in ("a.nxs", "b.nxs"):
        (several / name).touch()
    with running(site):
        for path, said in (
            (several, "several scans"),
            (none, "neither frames nor"),
            (site.detector, "several scans"),
        ):
            done = submit(site, str(path))
            assert done.returncode == 1
            assert said in done.stderr


@pytest.mark.parametrize(("path", "said"), [("/no/such", "is not there"), ("{shared}", "among the results")])
def test_what_cannot_be_is_refused_in_one_sentence(tmp_path, path, said):
    site = a_site(tmp_path)
    with running(site):
        done = submit(site, path.format(shared=site.shared))
        assert done.returncode == 1
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
