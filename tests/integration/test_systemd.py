"""The daemon as a real systemd starts, watches, kills and stops it, in a container over this machine's files."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import needs
import pytest

REPOSITORY = Path(__file__).parents[2]
PYTHON = f"/opt/python/bin/python{sys.version_info.major}.{sys.version_info.minor}"
PATIENCE = 60.0

SITE = f"""\
[Service]
ReadWritePaths=/srv/shared
ExecStart=
ExecStart={PYTHON} -m srctd run --config /etc/srctd/srctd.toml
Environment=PYTHONPATH=/opt/source:/opt/packages LD_LIBRARY_PATH=/opt/python/lib
RestartSec=0.1
WatchdogSec=3
TimeoutAbortSec=5
"""

CONFIG_FILE = "/etc/srctd/srctd.toml"
CONFIG = """\
[storage]
shared = "/srv/shared"
reserve_gigabytes = 0.001
[[watch]]
path = "/srv/detector"
listing_seconds = 0.5
settle_seconds = 0.3
unmarked_settle_seconds = 0.5
unannounced_settle_seconds = 1.0
[daemon]
stop_grace_seconds = 2.0
[pool]
local_workers = 1
threads_per_worker = 1
[catalog]
embedded = true
"""


class Container:
    """A booted systemd, its root an overlay over /: what is changed inside is gone afterwards."""

    def __init__(self, folder: Path) -> None:
        self._layers = folder / "layers"
        self.root = self._layers / "root"
        self._boot_log = folder / "boot.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def prepare(self) -> None:
        self._layers.mkdir()
        _mount("-t", "tmpfs", "-o", "size=512M,mode=755", "tmpfs", self._layers)
        for name in ("upper", "work", "root"):
            (self._layers / name).mkdir()
        layers = f"lowerdir=/,upperdir={self._layers}/upper,workdir={self._layers}/work"
        _mount("-t", "overlay", "overlay", "-o", layers, self.root)
        for target in ("multi-user", "timers", "sysinit", "sockets"):
            for wanted in (self.root / f"etc/systemd/system/{target}.target.wants").glob("*"):
                wanted.unlink()

    def boot(self) -> None:
        machine = f"srctd-test-{os.getpid()}"
        binds = {
            "/opt/python": sys.base_prefix,
            "/opt/packages": sysconfig.get_path("purelib"),
            "/opt/source": REPOSITORY,
        }
        with self._boot_log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *("systemd-nspawn", "-D", self.root, "--boot", "--register=no", "--keep-unit"),
                    *("--private-network", f"--machine={machine}", "--console=pipe", "--resolv-conf=off"),
                    *("--timezone=off", "--link-journal=no"),
                    *(f"--bind-ro={source}:{target}" for target, source in binds.items()),
                    "systemd.unit=multi-user.target",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self._find_leader, "systemd starts")
        until(lambda: self.run("systemctl", "is-system-running") in ("running", "degraded"), "the boot ends")

    def run(self, *command: str) -> str:
        """Run a command inside; return what it says, whatever its exit status."""
        result = subprocess.run(
            ["nsenter", "-t", str(self._leader), *("-m", "-u", "-i", "-n", "-p", "--"), *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return result.stdout.strip()

    def show(self, name: str) -> str:
        """A property of the daemon's unit."""
        return self.run("systemctl", "show", "srctd", "--value", "-p", name)

    def srctd(self, *arguments: str) -> str:
        """The command line tool, inside."""
        environment = ("PYTHONPATH=/opt/source:/opt/packages", "LD_LIBRARY_PATH=/opt/python/lib")
        return self.run("env", *environment, PYTHON, "-m", "srctd", *arguments)

    def journal(self) -> list[dict[str, Any]]:
        """What the daemon logged."""
        lines = self.run("journalctl", "-u", "srctd", "-o", "cat", "--no-pager").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def close(self) -> None:
        if self._process is not None:
            if self._leader:
                self.run("systemctl", "poweroff")
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for place in (self.root, self._layers):
            subprocess.run(["umount", place], capture_output=True, check=False)
        for controller in ("systemd", "unified"):  # of a container without a registered unit they stay
            for name in ("payload", "supervisor"):
                place = f"/sys/fs/cgroup/{controller}/{name}"
                command = ["find", place, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]
                subprocess.run(command, capture_output=True, check=False)

    def _find_leader(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._boot_log.read_text(errors="replace")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        found = [pid for pid in children if Path(f"/proc/{pid}/comm").read_text() == "systemd\n"]
        self._leader = int(found[0]) if found else 0
        return bool(found)


def _mount(*arguments: object) -> None:
    result = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)
    if result.returncode:
        needs.missing(f"mount is not possible: {result.stderr.strip()}")


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.05)
    return value


def install(root: Path) -> None:
    """What an administrator does, before the machine starts."""
    units = REPOSITORY / "units"
    drop_in = root / "etc/systemd/system/srctd.service.d"
    drop_in.mkdir()
    (drop_in / "site.conf").write_text(SITE)
    for unit in (*units.glob("*.service"), *units.glob("*.target")):
        shutil.copy(unit, root / "etc/systemd/system")
    shutil.copy(units / "srctd.sysusers", root / "usr/lib/sysusers.d/srctd.conf")
    shutil.copy(units / "srctd.tmpfiles", root / "usr/lib/tmpfiles.d/srctd.conf")
    config = root / CONFIG_FILE.lstrip("/")
    config.parent.mkdir()
    config.write_text(CONFIG)
    config.chmod(0o640)


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """A machine on which srctd is installed and started."""
    needs.root()
    needs.program("systemd-nspawn")
    machine = Container(tmp_path_factory.mktemp("systemd"))
    try:
        machine.prepare()
        install(machine.root)
        machine.boot()
        machine.run("systemd-sysusers")
        machine.run("systemd-tmpfiles", "--create", "/usr/lib/tmpfiles.d/srctd.conf")
        machine.run("install", "-d", "-o", "srctd", "-g", "srctd", "/srv/shared", "/srv/detector")
        machine.run("chgrp", "srctd", CONFIG_FILE)
        machine.run("systemctl", "start", "srctd.target")
        yield machine
    finally:
        machine.close()


def is_active(container: Container) -> bool:
    return container.show("ActiveState") == "active"


def test_it_is_ready_when_systemd_says_so(container: Container) -> None:
    assert container.run("systemctl", "start", "srctd") == "", container.run("journalctl", "-u", "srctd")
    assert is_active(container)
    status = json.loads(container.srctd("status", "--json", "--config", CONFIG_FILE))
    assert status["ok"] is True
    assert status["daemon"]["pid"] > 1
    until(lambda: "1 workers" in container.show("StatusText"), "the worker joins and systemd hears of it")


def test_the_journal_has_its_events(container: Container) -> None:
    started = next(line for line in container.journal() if line["event"] == "daemon.started")
    assert started["level"] == "info"


def test_it_is_started_again_when_it_was_killed(container: Container) -> None:
    before = container.show("MainPID")
    container.run("kill", "-KILL", before)
    until(lambda: container.show("NRestarts") == "1" and is_active(container), "it is back")
    assert container.show("MainPID") not in (before, "0")


def test_the_watchdog_ends_a_daemon_that_hangs(container: Container) -> None:
    before = container.show("MainPID")
    container.run("kill", "-STOP", before)
    until(lambda: container.show("NRestarts") == "2" and is_active(container), "it is back")
    log = container.run("journalctl", "-u", "srctd", "-o", "cat", "--no-pager")
    assert "Watchdog timeout (limit 3s)!" in log


def test_it_stops_cleanly(container: Container) -> None:
    container.run("systemctl", "stop", "srctd")
    assert container.show("ActiveState") == "inactive"
    assert (container.show("Result"), container.show("ExecMainStatus")) == ("success", "0")
    assert [line["event"] for line in container.journal()][-1] == "daemon.stopped"


def test_a_wrong_configuration_is_not_tried_again(container: Container) -> None:
    config = container.root / CONFIG_FILE.lstrip("/")
    good = config.read_text()
    config.write_text(good + "no_such_key = 1\n")
    container.run("systemctl", "start", "srctd")
    assert (container.show("ActiveState"), container.show("ExecMainStatus")) == ("failed", "78")
    config.write_text(good)
    container.run("systemctl", "start", "srctd")
    assert is_active(container)


def test_a_scan_goes_all_the_way_behind_the_hardening(container: Container) -> None:
    """Files, threads, child processes, sockets and the catalogue: nothing that is needed is forbidden."""
    sizes = ("--rows", "16", "--columns", "64", "--angles", "60")
    container.srctd("simulate", *sizes, "/srv/detector/phantom.h5")

    def finished() -> bool:
        asked = json.loads(container.srctd("status", "--json", "--config", CONFIG_FILE))
        return [scan["state"] for scan in asked.get("scans", [])] == ["done"]

    until(finished, "the scan is done")
    (volume,) = (container.root / "srv/shared").glob("*/phantom_*/output/volume.h5")
    assert volume.stat().st_size > 4 * 16 * 64 * 64
