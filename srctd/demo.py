"""`srctd demo`: simulator, daemon, workers and catalogue in a fresh folder, and the whole way before your eyes."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.live import Live
from rich.text import Text

from srctd import terminal
from srctd.adapters import control_client
from srctd.core.errors import ConfigError, HoldError, TransientError
from srctd.formats import open_scan
from srctd.sim.spec import FormatName
from srctd.sim.writer import FORMATS

CONFIG = """\
[storage]
shared = {shared}
reserve_gigabytes = 0.1

[[watch]]
path = {detector}
settle_seconds = 1.0
unmarked_settle_seconds = 3.0
unannounced_settle_seconds = 5.0
stalled_seconds = 20.0

[[accounts]]
pattern = "."
account = "demo"
email = "demo@example.com"
proposal = "demo-1"

[daemon]
state_directory = {state}

[pool]
endpoints = ["{endpoint}-pool"]
local_workers = {workers}

[control]
endpoint = "{endpoint}"
feed_endpoint = "{endpoint}-feed"

[catalog]
embedded = true
creation_location = "/srctd/demo"
"""


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What was asked for."""

    folder: str | None
    scan: str | None
    workers: int
    rows: int
    columns: int
    angles: int
    format: FormatName
    keep_serving: bool
    json: bool


def demo(asked: Demo) -> int:
    """Run the demo; return the exit status."""
    folder = Path(asked.folder or tempfile.mkdtemp(prefix="srctd-demo-")).absolute()
    # A socket's path may have 107 bytes at most, a folder's many more.
    with tempfile.TemporaryDirectory(prefix="srctd-") as sockets:
        endpoint = f"ipc://{sockets}/control"
        config = _prepare(folder, endpoint, asked)
        began = time.monotonic()
        with _process("run", "--config", str(config), log=folder / "daemon.log") as daemon:
            _until_up(endpoint, daemon, folder)
            with _detector(asked, folder) as detector:
                row = _follow(endpoint, [daemon, *detector], folder)
            answer = _ask(endpoint, {"cmd": "scan", "scan": row["scan"]})
            url = _ask(endpoint, {"cmd": "status"})["catalog"]["url"]
            _show(_result(answer, url, time.monotonic() - began), folder, asked)
            if asked.keep_serving:
                _serve(daemon, folder)
    return 0 if row["state"] == "done" else 1


def _ask(endpoint: str, request: dict[str, Any]) -> dict[str, Any]:
    return control_client.request(endpoint, request, timeout_seconds=10.0)


def _prepare(folder: Path, endpoint: str, asked: Demo) -> Path:
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty", hint="the demo wants a fresh folder")
    try:
        for name in ("detector", "shared", "state"):
            (folder / name).mkdir(parents=True)
    except OSError as exc:
        raise ConfigError(
            f"{folder} cannot be made: {exc.strerror}", hint="give --dir another folder"
        ) from exc
    config = folder / "srctd.toml"
    quoted = {name: json.dumps(str(folder / name)) for name in ("detector", "shared", "state")}
    config.write_text(CONFIG.format(**quoted, endpoint=endpoint, workers=asked.workers), encoding="utf-8")
    return config


@contextmanager
def _process(*arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command of srctd, told to stop at the end."""
    with log.open("ab") as sink:
        child = subprocess.Popen([sys.executable, "-P", "-m", "srctd", *arguments], stdout=sink, stderr=sink)
    try:
        yield child
    finally:
        child.terminate()
        child.wait(30)


@contextmanager
def _detector(asked: Demo, folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Something writes a scan into the watched folder; the processes, if any, that do."""
    target = folder / "detector"
    if asked.scan:
        _copy_scan(os.path.realpath(asked.scan), target)
        yield []
        return
    size = ("--rows", str(asked.rows), "--columns", str(asked.columns), "--angles", str(asked.angles))
    output = str(target / f"phantom{FORMATS[asked.format].suffix}")
    arguments = ("simulate", *size, "--format", asked.format, output)
    with _process(*arguments, log=folder / "detector.log") as detector:
        yield [detector]


def _copy_scan(path: str, target: Path) -> None:
    """Copy a scan with the files that it refers to, as far as they lie beside or below it."""
    with open_scan(path) as reader:
        files = (path, *reader.header.references)
    folder = os.path.dirname(path)
    for file in reversed(files):
        relative = os.path.relpath(file, folder)
        if not relative.startswith(".."):
            (target / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target / relative)


def _until_up(endpoint: str, daemon: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait until the daemon answers."""
    for _ in range(100):
        try:
            control_client.request(endpoint, {"cmd": "status"}, timeout_seconds=0.3)
        except TransientError:
            _none_failed([daemon], folder)
            continue
        return
    raise TransientError(f"the daemon does not answer; its log is {folder}/daemon.log")


def _none_failed(processes: Sequence[subprocess.Popen[bytes]], folder: Path) -> None:
    for process in processes:
        if process.poll():
            name = "daemon" if process is processes[0] else "detector"
            raise HoldError(
                f"the {name} ended with status {process.returncode}", hint=f"see {folder}/{name}.log"
            )


def _follow(endpoint: str, processes: Sequence[subprocess.Popen[bytes]], folder: Path) -> Mapping[str, Any]:
    """Show the status until the one scan is done or held; return its row."""
    console = terminal.console(stderr=True)
    with Live(Text("starting"), console=console, refresh_per_second=8) as live:
        while True:
            _none_failed(processes, folder)
            status = _ask(endpoint, {"cmd": "status"})
            live.update(terminal.status_view(status))
            row: Mapping[str, Any] | None = next(iter(status["scans"]), None)
            if row and row["state"] in ("done", "held"):
                break
            time.sleep(0.1)
    console.print()
    return row


def _result(answer: Mapping[str, Any], catalog_url: str, seconds: float) -> dict[str, Any]:
    steps = {name: step["seconds"] for name, step in answer["steps"].items()}
    pid = answer.get("derived_pid")
    return {
        "scan": answer["scan"],
        "stage": answer["stage"],
        "state": answer["state"],
        "reason": answer["reason"],
        "volume": answer.get("volume"),
        "picture": answer.get("picture"),
        "center": answer.get("center"),
        "center_confidence": answer.get("center_confidence"),
        "raw_pid": answer.get("raw_pid"),
        "derived_pid": pid,
        "catalog_url": f"{catalog_url}/datasets/{quote(pid, safe='')}" if pid else catalog_url,
        "latency_seconds": answer.get("latency_seconds"),
        "seconds": {**steps, "total": round(seconds, 3)},
    }


def _show(result: Mapping[str, Any], folder: Path, asked: Demo) -> None:
    if asked.json:
        print(json.dumps(result), flush=True)  # noqa: T201
        return
    say = terminal.console().print
    if result["state"] == "held":
        say(f"held     {result['reason']}", markup=False)
        return
    say(f"axis     column {result['center']:.2f}, confidence {result['center_confidence']:.0%}")
    say(f"volume   {result['volume']}", soft_wrap=True)
    say(f"picture  {result['picture']}", soft_wrap=True)
    say(f"catalog  {result['catalog_url']}", soft_wrap=True)
    latency, total = result["latency_seconds"], result["seconds"]["total"]
    say(f"seconds  {latency:.2f} from complete to the first job at a worker, {total:.1f} in all")
    if not asked.keep_serving:
        python, database = sys.executable, folder / "state" / "catalog.sqlite"
        port = result["catalog_url"].split(":")[2].split("/")[0]
        say("the catalogue was stopped with the demo; to look at the entry, start it again:")
        say(f"  {python} -m srctd catalog --database {database} --port {port}", soft_wrap=True)


def _serve(daemon: subprocess.Popen[bytes], folder: Path) -> None:
    """Leave everything running until it is interrupted."""
    say = terminal.console(stderr=True).print
    say(f"serving; put scans into {folder}/detector; Ctrl-C ends it", soft_wrap=True)
    with suppress(KeyboardInterrupt):
        daemon.wait()
