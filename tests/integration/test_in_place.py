"""Input that lies on shared storage already: it stays where it is, also for its members and for another host."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from site_under_test import Site, running
from ssh_host import Host, other_host

from srctd.core.errors import HoldError
from srctd.sending import _checked
from srctd.sim.spec import Hdf5Options
from srctd.sim.writer import SimulationSpec, simulate

TWO = SimulationSpec(rows=16, columns=64, angles=60, flats=3, darks=3, hdf5=Hdf5Options(entries=2))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with other_host(tmp_path / "host") as host:
        yield host


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by name; folders behind links count."""
    found = {}
    for where, _, names in os.walk(folder, followlinks=True):
        for name in names:
            path = Path(where, name)
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def test_members_share_what_is_left_in_place_and_another_host_gets_all(host: Host, tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    site.config.write_text(site.config.read_text() + host.config())
    raw = site.shared / "raw"
    raw.mkdir()
    with running(site):
        simulate(TWO, str(raw / "two.nxs"))
        before = (raw / "two.nxs").read_bytes()
        command = [sys.executable, "-m", "srctd", "submit", "--endpoint", site.endpoint, str(raw / "two.nxs")]
        subprocess.run(command, check=True, capture_output=True)
        site.scan(count=2)
        scans = [site.ask("scan", scan=row["scan"]) for row in site.ask("status")["scans"]]
        assert [scan["in_place"] for scan in scans] == [True, True]
        leader, member = sorted(Path(scan["folder"]) for scan in scans)
        assert os.readlink(leader / "input") == str(raw)
        assert os.readlink(member / "input") == f"../{leader.name}/input"
        for task in (leader, member):
            there = host.folder / "visitors" / task.name
            for folder in (task, there):
                check = ["xxh128sum", "--quiet", "-c", "manifest.xxh128", "results.xxh128"]
                subprocess.run(check, cwd=folder, check=True)
            assert contents(there) == contents(task)
        assert not (host.folder / "visitors" / leader.name / "input").is_symlink()
        assert os.readlink(host.folder / "visitors" / member.name / "input") == f"../{leader.name}/input"
        assert (raw / "two.nxs").read_bytes() == before
        assert os.listdir(raw) == ["two.nxs"]
        for result in (leader, leader / "output" / "volume.h5", leader / ".hidden.part"):
            command[-1] = str(result)
            result.parent.mkdir(exist_ok=True)
            result.touch()
            told = subprocess.run(command, capture_output=True, text=True, check=False)
            assert "among the results" in told.stderr


def test_a_list_of_files_leads_nowhere_else(tmp_path: Path) -> None:
    """Task folders may belong to their users, who may write what they like into them."""
    task, secret = tmp_path / "task", tmp_path / "secret"
    (task / "output").mkdir(parents=True)
    secret.mkdir()
    (task / "output" / "a").write_text("a")
    (secret / "key").write_text("secret")
    (task / "link").symlink_to(secret / "key")
    (task / "folder").symlink_to(secret)
    listed = task / "results.xxh128"
    listed.write_text(f"{'0' * 32}  output/a\n")
    (file,) = _checked(task, listed, task)
    assert (file.path, file.size, file.digest) == ("output/a", 1, "0" * 32)
    for name in ("link", "folder/key", "../secret/key", str(secret / "key"), "output"):
        listed.write_text(f"{'0' * 32}  {name}\n")
        with pytest.raises(HoldError, match="no regular file of this scan"):
            _checked(task, listed, task)
