"""A whole site in a temporary folder: watched root, shared storage, and the real daemon as a process."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from srctd.adapters import control_client
from srctd.core.errors import TransientError

CONFIG = """\
[storage]
shared = "{folder}/shared"
reserve_gigabytes = 0.01

[[watch]]
path = "{folder}/detector"
listing_seconds = 0.5
settle_seconds = 0.3
unmarked_settle_seconds = {unmarked_settle_seconds}
unannounced_settle_seconds = {unannounced_settle_seconds}
stalled_seconds = {stalled_seconds}
{watch}

[[accounts]]
pattern = "."
account = "visitors"
owner_group = "visitors"
email = "visitor@example.com"
proposal = "p-1"

[daemon]
state_directory = "{folder}/state"
stop_grace_seconds = 5.0

[pool]
local_workers = {workers}
threads_per_worker = 1
lease_seconds = 4.0

[control]
endpoint = "ipc://{folder}/control.sock"
feed_endpoint = "ipc://{folder}/feed.sock"

[catalog]
{catalog}

{further}
"""


class Site:
    """Folders, configuration, and the daemon, which may be killed and started again."""

    def __init__(
        self,
        folder: Path,
        *,
        workers: int = 1,
        catalog: str = "embedded = true",
        stalled_seconds: float = 3.0,
        unmarked_settle_seconds: float = 0.8,
        unannounced_settle_seconds: float = 1.5,
        watch: str = "",
        further: str = "",
    ) -> None:
        """`watch`: further lines of the watched root's section; `further`: further sections."""
        self.folder = folder
        self.detector = folder / "detector"
        self.shared = folder / "shared"
        for path in (self.detector, self.shared, folder / "state"):
            path.mkdir(parents=True, exist_ok=True)
        self.config = folder / "srctd.toml"
        self.config.write_text(
            CONFIG.format(
                folder=folder,
                workers=workers,
                catalog=catalog,
                stalled_seconds=stalled_seconds,
                unmarked_settle_seconds=unmarked_settle_seconds,
                unannounced_settle_seconds=unannounced_settle_seconds,
                watch=watch,
                further=further,
            )
        )
        self.endpoint = f"ipc://{folder}/control.sock"
        self.feed = f"ipc://{folder}/feed.sock"
        self.log = folder / "daemon.log"
        self.launcher: tuple[str, ...] = ()
        """What the daemon's command stands behind: another user, for example."""
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as sink:
            command = [*self.launcher, sys.executable, "-m", "srctd", "run", "--config", str(self.config)]
            self.process = subprocess.Popen(command, stdout=sink, stderr=sink)
        self.until(lambda: self.ask("status"), "the daemon answers")

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; return the exit status."""
        assert self.process
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def ask(self, cmd: str, **fields: Any) -> dict[str, Any]:
        return control_client.request(self.endpoint, {"cmd": cmd, **fields}, timeout_seconds=5.0)

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 120.0) -> Any:
        """Poll until a condition is true; an unanswered question counts as not yet."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if found := condition():
                    return found
            except TransientError:
                assert self.process is not None
                assert self.process.poll() is None, self.tail()
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds} s: {what}\n{self.tail()}")

    def scan(self, state: str = "done", count: int = 1, seconds: float = 120.0) -> dict[str, Any]:
        """Wait until so many scans have a state; return the newest of them in full."""

        def reached() -> dict[str, Any] | None:
            rows = [row for row in self.ask("status")["scans"] if row["state"] == state]
            return self.ask("scan", scan=rows[0]["scan"]) if len(rows) >= count else None

        found: dict[str, Any] = self.until(reached, f"{count} scans {state}", seconds)
        return found

    def copied(self, name: str) -> dict[str, Any]:
        """Wait until a scan was copied; return it in full."""

        def reached() -> dict[str, Any] | None:
            names = [row["scan"] for row in self.ask("status")["scans"] if Path(row["path"]).name == name]
            scan = self.ask("scan", scan=names[0]) if names else None
            return scan if scan and scan["steps"]["sync"]["status"] == "done" else None

        found: dict[str, Any] = self.until(reached, f"{name} was copied")
        return found

    def row(self, name: str) -> dict[str, Any] | None:
        """The newest scan whose path ends in a name, as the status lists it."""
        rows = [row for row in self.ask("status")["scans"] if Path(row["path"]).name == name]
        return max(rows, key=lambda row: (row["completed_at"], row["revision"]), default=None)

    def reaches(self, name: str, *states: str, seconds: float = 120.0) -> dict[str, Any]:
        """Wait until the newest scan of a name has one of these states; return it in full."""

        def reached() -> dict[str, Any] | None:
            row = self.row(name)
            return self.ask("scan", scan=row["scan"]) if row and row["state"] in states else None

        found: dict[str, Any] = self.until(reached, f"{name} is {' or '.join(states)}", seconds)
        return found

    def ends(self, name: str, seconds: float = 120.0) -> Path:
        """Wait until a scan is done, all by itself; return its task folder."""
        found = self.reaches(name, "done", "held", seconds=seconds)
        assert found["state"] == "done", found["reason"]
        return Path(found["folder"])

    def ends_at_last(self, name: str) -> Path:
        """Wait until a scan is done, whatever became of it before; return its task folder."""
        return Path(self.reaches(name, "done")["folder"])

    def why(self, name: str) -> str:
        """All sentences about a scan, by its identifier, path or file name."""
        return "\n".join(self.ask("why", scan=name).get("sentences", ()))

    def settled(self) -> dict[str, Any]:
        """Wait until nothing is arriving any more; return the status."""

        def reached() -> dict[str, Any] | None:
            status = self.ask("status")
            return None if status["arriving"] else status

        found: dict[str, Any] = self.until(reached, "nothing is arriving")
        return found

    def tail(self) -> str:
        return self.log.read_text()[-6000:] if self.log.exists() else ""

    def catalog(self) -> "Catalogue":
        url = self.ask("status")["catalog"]["url"]
        password = (self.folder / "state" / "catalog.sqlite.password").read_text().strip()

        def reached() -> Catalogue | None:
            try:
                return Catalogue(url, "admin", password)
            except requests.ConnectionError:
                return None

        found: Catalogue = self.until(reached, "the catalogue answers")
        return found


class Catalogue:
    """A plain reader of SciCat's API, independent of the daemon's own client."""

    def __init__(self, url: str, username: str, password: str) -> None:
        self.url = url
        self.session = requests.Session()
        login = self.session.post(
            f"{url}/api/v3/auth/login", json={"username": username, "password": password}, timeout=10
        )
        login.raise_for_status()
        self.session.headers["Authorization"] = f"Bearer {login.json()['access_token']}"

    def datasets(self, kind: str) -> list[dict[str, Any]]:
        query = json.dumps({"where": {"type": kind}, "limits": {"limit": 1000}})
        answer = self.session.get(f"{self.url}/api/v3/datasets", params={"filter": query}, timeout=10)
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()
        return found

    def parts(self, pid: str, what: str) -> list[dict[str, Any]]:
        answer = self.session.get(f"{self.url}/api/v3/datasets/{quote(pid, safe='')}/{what}", timeout=10)
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()
        return found


@contextmanager
def running(site: Site) -> Iterator[Site]:
    """The site with its daemon; gone at the end, whatever happens."""
    site.start()
    try:
        yield site
    finally:
        assert site.process
        if site.process.poll() is None:
            site.process.kill()
        site.process.wait()


def arrive(source: Path, target: Path, bytes_per_second: float = 0.0) -> None:
    """Write a file as a slow detector or a slow copy would: in pieces, under its final name."""
    if not bytes_per_second:
        shutil.copyfile(source, target)
        return
    piece = max(1, int(bytes_per_second / 10))
    with source.open("rb") as reader, target.open("wb") as writer:
        while block := reader.read(piece):
            writer.write(block)
            writer.flush()
            time.sleep(len(block) / bytes_per_second)


def left_in(task: Path) -> set[str]:
    """Names in a task folder, hidden ones too."""
    return set(os.listdir(task))
