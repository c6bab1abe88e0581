"""A private sshd on a loopback port, as another host: own keys, own list of known hosts, nothing in /etc."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import needs

from srctd.core.remote import Target


class Host:
    """The host, its folder, and how to get in."""

    def __init__(self, folder: Path) -> None:
        self._sshd = needs.program("/usr/sbin/sshd")
        needs.program("rsync")
        self.keys = folder / "keys"
        self.folder = folder / 'other host\'s "folder"'
        self.keys.mkdir(parents=True)
        self.folder.mkdir()
        for name in ("host", "user"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.keys / name)]
            subprocess.run(command, check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        public = (self.keys / "host.pub").read_text()
        self.known_hosts = self.keys / "known hosts"
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {public}")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """`options`: more of sshd's, `NAME=VALUE`."""
        Path("/run/sshd").mkdir(exist_ok=True)
        given = {
            "ListenAddress": "127.0.0.1",
            "AuthorizedKeysFile": str(self.keys / "user.pub"),
            "StrictModes": "no",
            "UsePAM": "no",
            "PidFile": "none",
            "SetEnv": "SHLVL=1",  # bash then leaves the start-up files alone of whoever runs the tests
        } | dict(option.split("=", 1) for option in options)
        command = [
            self._sshd,
            "-D",
            "-e",
            "-f",
            "/dev/null",
            "-p",
            str(self.port),
            "-h",
            str(self.keys / "host"),
        ]
        for name, value in given.items():
            command += ["-o", f"{name}={value}"]
        with (self.keys / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, start_new_session=True)
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except ConnectionRefusedError:
                assert self.process.poll() is None, (self.keys / "log").read_text()
            else:
                return

    def children(self) -> list[int]:
        """Process ids of the sessions that sshd serves."""
        assert self.process
        told = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, check=False
        )
        return [int(pid) for pid in told.stdout.split()]

    def cut(self) -> None:
        """SIGKILL to every session."""
        _kill(self.children())

    def stop(self) -> None:
        """SIGKILL to sshd and its sessions."""
        if self.process is not None:
            sessions = self.children()
            self.process.kill()
            self.process.wait()
            _kill(sessions)
            self.process = None

    def target(self, **changes: object) -> Target:
        given = {
            "login": "root@127.0.0.1",
            "folder": str(self.folder),
            "port": self.port,
            "identity_file": str(self.keys / "user"),
            "known_hosts_file": str(self.known_hosts),
        }
        return Target(**{**given, **changes})

    def config(self) -> str:
        """The section [remote] of a configuration."""
        target = str(self.folder).replace('"', '\\"')
        return (
            f'[remote]\ntarget = "root@127.0.0.1:{target}"\nport = {self.port}\n'
            f'identity_file = "{self.keys / "user"}"\nknown_hosts_file = "{self.known_hosts}"\n'
        )


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def other_host(folder: Path) -> Iterator[Host]:
    """A host that is up; gone at the end, whatever happens."""
    needs.root()
    host = Host(folder)
    host.start()
    try:
        yield host
    finally:
        host.stop()
