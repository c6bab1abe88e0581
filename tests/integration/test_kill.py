"""SIGKILL at every step: what is there after a restart is what an undisturbed run leaves, once."""

import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash
from site_under_test import Site, left_in, running

from srctd.adapters import control_client
from srctd.core.lifecycle import Step
from srctd.sim.writer import SimulationSpec, simulate

ALL = {
    "input",
    "manifest.json",
    "manifest.xxh128",
    "frames.json",
    "parameters.json",
    "preview",
    "output",
    "record.json",
    "results.xxh128",
}


@pytest.fixture(scope="module")
def scan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "phantom.nxs"
    simulate(SimulationSpec(rows=64, columns=160, angles=120, flats=5, darks=5), str(path))
    return path


@pytest.fixture(scope="module")
def undisturbed(scan_file: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digest of the volume that a run without accidents makes."""
    with running(Site(tmp_path_factory.mktemp("site"), workers=2)) as site:
        shutil.copyfile(scan_file, site.detector / "phantom.nxs")
        return digest(Path(site.scan()["volume"]))


def digest(path: Path) -> str:
    return xxhash.xxh3_128(path.read_bytes()).hexdigest()


class Trap:
    """Does something once, at the first event that fits."""

    def __init__(self, site: Site, topic: str, action: Callable[[dict], None], **fields: str) -> None:
        self.sprung = threading.Event()
        self._arguments = (site.feed, topic, action, fields)
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        feed, topic, action, fields = self._arguments
        for _, body in control_client.follow(feed, topic):
            if all(str(body.get(name)).startswith(value) for name, value in fields.items()):
                action(body)
                self.sprung.set()
                return


def check_nothing_lost_nothing_doubled(site: Site, undisturbed: str) -> None:
    scan = site.scan()
    task = Path(scan["folder"])
    assert left_in(task) == ALL
    assert left_in(task / "output") == {"volume.h5"}
    assert left_in(task.parent) == {task.name}
    assert digest(Path(scan["volume"])) == undisturbed
    catalogue = site.catalog()
    assert [d["pid"] for d in catalogue.datasets("raw")] == [scan["raw_pid"]]
    assert [d["pid"] for d in catalogue.datasets("derived")] == [scan["derived_pid"]]
    assert len(catalogue.parts(scan["raw_pid"], "origdatablocks")) == 1
    assert len(catalogue.parts(scan["derived_pid"], "origdatablocks")) == 1
    assert len(catalogue.parts(scan["derived_pid"], "attachments")) == 1


@pytest.mark.parametrize("topic", ["step.started", "step.done"])
@pytest.mark.parametrize("step", list(Step))
def test_the_daemon_is_killed(
    step: Step, topic: str, scan_file: Path, tmp_path: Path, undisturbed: str
) -> None:
    site = Site(tmp_path, workers=2)
    with running(site):
        trap = Trap(site, topic, lambda body: site.kill(), step=str(step))
        shutil.copyfile(scan_file, site.detector / "phantom.nxs")
        assert trap.sprung.wait(60), site.tail()
    with running(site):
        check_nothing_lost_nothing_doubled(site, undisturbed)


@pytest.mark.parametrize("job", ["the preview", "rows"])
def test_a_worker_is_killed_with_a_job_in_its_hands(
    job: str, scan_file: Path, tmp_path: Path, undisturbed: str
) -> None:
    site = Site(tmp_path, workers=2)

    def kill_worker(body: dict) -> None:
        (pid,) = (w["pid"] for w in site.ask("status")["workers"] if w["name"] == body["worker"])
        os.kill(pid, signal.SIGKILL)

    with running(site):
        trap = Trap(site, "shard.assigned", kill_worker, job=job)
        shutil.copyfile(scan_file, site.detector / "phantom.nxs")
        assert trap.sprung.wait(60), site.tail()
        check_nothing_lost_nothing_doubled(site, undisturbed)


def test_daemon_and_workers_are_killed_again_and_again(
    scan_file: Path, tmp_path: Path, undisturbed: str
) -> None:
    """Each start gets a little further before it is killed; the last one finishes."""
    site = Site(tmp_path, workers=2)
    shutil.copyfile(scan_file, site.detector / "phantom.nxs")
    for step in (Step.CHECK, Step.SYNC, Step.PREVIEW, Step.RECONSTRUCT, Step.PUBLISH):
        with running(site):
            trap = Trap(site, "step.started", lambda body: site.kill(), step=str(step))
            trap.sprung.wait(15)
    with running(site):
        check_nothing_lost_nothing_doubled(site, undisturbed)
