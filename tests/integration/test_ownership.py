"""Whose copies and results are: of every path below an account's folder, after whole scans by a real daemon."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import needs
import pytest
from site_under_test import Site, running

from srctd.adapters.ownership import Belonging
from srctd.core.errors import NotPermitted
from srctd.sim.writer import SimulationSpec, simulate

SMALL = SimulationSpec(rows=8, columns=48, angles=40, flats=3, darks=3)
CAPABILITIES = "+chown,+fowner,+dac_override"
OWNERSHIP = """
[ownership]
user = "{owner}"
group = "{owner_group}"
folder_mode = "2750"
default_acl = ["group:STAFF:r-x", "user:BACKUP:rwx"]
"""


class People(NamedTuple):
    daemon: str
    owner: str
    backup: str
    group: str
    staff: str


def number(database: str, name: str) -> int:
    """User or group id, asked of the machine and not of Python."""
    done = subprocess.run(["getent", database, name], capture_output=True, check=True)
    return int(done.stdout.split(b":")[2])


@pytest.fixture(scope="module")
def people() -> Iterator[People]:
    """Users and groups of this machine, gone afterwards."""
    needs.root()
    for program in ("useradd", "groupadd", "setpriv", "getfacl"):
        needs.program(program)
    these = People(*(f"srctd{kind}{os.getpid()}" for kind in "dobgs"))
    try:
        for group in (these.group, these.staff):
            subprocess.run(["groupadd", group], check=True)
        for user, groups in ((these.daemon, these.group), (these.owner, these.group), (these.backup, "")):
            subprocess.run(["useradd", "-M", "-N", "-g", "nogroup", "-G", groups, user], check=True)
        yield these
    finally:
        for user in (these.daemon, these.owner, these.backup):
            subprocess.run(["userdel", user], check=False, capture_output=True)
        for group in (these.group, these.staff):
            subprocess.run(["groupdel", group], check=False, capture_output=True)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everybody may enter; pytest's own are closed."""
    folder = Path(tempfile.mkdtemp(prefix="srctd-owner-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def site_of(place: Path, people: People, ownership: str = OWNERSHIP) -> Site:
    site = Site(place, workers=0)
    rules = f"""
[[accounts]]
pattern = "/unknown_"
account = "p-9"
owner = "srctd-nobody-has-this-name"
owner_group = "{people.group}"

[[accounts]]
pattern = "."
account = "p-1"
owner = "{people.owner}"
owner_group = "{people.group}"
"""
    text = site.config.read_text().replace("[[accounts]]", f"{rules}\n[[accounts]]", 1)
    site.config.write_text(text + ownership.replace("STAFF", people.staff).replace("BACKUP", people.backup))
    for path in (place, site.shared, place / "state"):
        os.chown(path, number("passwd", people.daemon), -1)
    return site


def as_user(name: str, capabilities: str = "") -> tuple[str, ...]:
    """What runs a command as a user, with a few rights of root's, or none."""
    rights = ("--inh-caps=-all",)
    if capabilities:
        rights = (f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}")
    return ("setpriv", f"--reuid={name}", "--regid=nogroup", "--init-groups", *rights)


def access_list(path: Path) -> set[str]:
    """What getfacl says, numbers instead of names."""
    done = subprocess.run(["getfacl", "-cpnE", path], capture_output=True, text=True, check=True)
    return set(filter(None, done.stdout.splitlines()))


def check_everything(account: Path, people: People) -> int:
    """Owner, group, mode and list of an account's folder and every path below it; return how many there are."""
    daemon, owner, backup = (number("passwd", name) for name in people[:3])
    group, staff = (number("group", name) for name in people[3:])
    folder_list = {
        *("user::rwx", f"user:{backup}:rwx", "group::r-x", f"group:{staff}:r-x"),
        *("mask::rwx", "other::---"),
    }
    file_list = {
        *("user::rw-", f"user:{backup}:rw-", "group::r--", f"group:{staff}:r--"),
        *("mask::rw-", "other::---"),
    }
    paths = [account, *account.rglob("*")]
    for path in paths:
        status = path.lstat()
        daemons = path == account or path.parent == account
        assert (status.st_uid, status.st_gid) == (daemon if daemons else owner, group), path
        assert not status.st_mode & 0o007, path
        if path.is_dir():
            assert stat.S_IMODE(status.st_mode) == 0o2770, path  # the mask stands where the group's digit was
            assert access_list(path) == folder_list | {f"default:{entry}" for entry in folder_list}, path
        else:
            assert stat.S_ISREG(status.st_mode), path
            assert stat.S_IMODE(status.st_mode) == 0o660, path
            assert access_list(path) == file_list, path
    return len(paths)


def test_everything_belongs_to_whom_it_shall_after_two_runs(people: People, place: Path) -> None:
    """A daemon with three capabilities, a worker as its user without any; another scan belongs to nobody known."""
    site = site_of(place, people)
    site.launcher = as_user(people.daemon, CAPABILITIES)
    simulate(SMALL, str(site.detector / "phantom.nxs"))
    with running(site):
        command = [*as_user(people.daemon), sys.executable, "-m", "gpu", "worker"]
        worker = subprocess.Popen([*command, "--connect", f"ipc://{place}/state/pool.sock", "--name", "w"])
        try:
            done = site.scan()
            task = Path(done["volume"]).parent.parent
            assert check_everything(task.parent, people) >= 13
            site.ask("retry", scan=done["scan"], set=["center=24.0"])
            site.until((task / "record-2.json").exists, "the second run's record")
            again = site.scan()
            assert Path(again["volume"]).parent.name == "output-2"
            assert check_everything(task.parent, people) >= 20
            assert not list(task.rglob(".*"))

            other = SimulationSpec(rows=8, columns=48, angles=40, flats=3, darks=3, seed=5)
            simulate(other, str(site.detector / "unknown_a.nxs"))
            held = site.scan("held")
            assert held["stage"] == "LOGIN"
            assert "account 'p-9'" in held["reason"]
            assert "knows no user 'srctd-nobody-has-this-name'" in held["reason"]
            assert not (site.shared / "p-9").exists()
        finally:
            worker.kill()
            worker.wait()


@pytest.mark.parametrize(
    ("ownership", "words"),
    [
        ('user = "{owner}"\ngroup = "{owner_group}"', ["ownership.user", "CAP_CHOWN"]),
        ('group = "STAFF"', ["ownership.group", "is no member"]),
    ],
)
def test_a_daemon_without_the_right_says_so_at_once(
    people: People, place: Path, ownership: str, words: list[str]
) -> None:
    site = site_of(place, people, f"\n[ownership]\n{ownership}\n")
    for command in ("check", "run"):
        done = subprocess.run(
            [*as_user(people.daemon), sys.executable, "-m", "srctd", command, "--config", str(site.config)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 78, done.stderr
        said = [line for line in (done.stdout + done.stderr).splitlines() if words[0] in line]
        assert len(said) == 1
        assert all(word in said[0] for word in words)


@pytest.fixture
def forgetful(place: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder on a file system that says yes to everything and keeps nothing of it."""
    needs.root()
    mount = place / "mount"
    for folder in (place / "backing", mount):
        folder.mkdir()
    command = [needs.program("bindfs"), request.param, str(place / "backing"), str(mount)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        needs.missing(f"no FUSE mount: {done.stderr.strip()}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


@pytest.mark.parametrize(
    ("forgetful", "words"),
    [
        ("--chmod-ignore", "has mode 0666 after 0640 was set"),
        ("--chown-ignore", "after it was handed over to user 65534"),
        ("--chown-deny", "cannot be handed over to user 65534"),
    ],
    indirect=["forgetful"],
)
def test_what_a_file_system_does_not_keep_is_noticed(forgetful: Path, words: str) -> None:
    path = forgetful / "file"
    path.touch()
    path.chmod(0o640)
    (forgetful.parent / "backing/file").chmod(0o666 if "mode" in words else 0o640)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(NotPermitted, match=words):
            Belonging(user=65534, group=65534, file_mode=0o640, folder_mode=0o750).give(descriptor)
    finally:
        os.close(descriptor)
