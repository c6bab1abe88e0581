"""Child processes: kept alive, heard, stopped, and never left behind."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from srctd.adapters import children
from srctd.adapters.children import Children, ChildSpec

PATIENCE = 30.0
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "FIRST_PAUSE_SECONDS", 0.01)


def play(script: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE):
            await script()

    asyncio.run(bounded())


def python(name: str, code: str, **options: Any) -> ChildSpec:
    return ChildSpec(name=name, command=(sys.executable, "-u", "-c", code), **options)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - processes signal no event
        await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs (one that is dead but not yet reaped does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_child_that_dies_is_started_again_and_its_end_is_told() -> None:
    async def script() -> None:
        gone: list[int] = []

        async def on_exit(pid: int) -> None:
            gone.append(pid)

        keeper = Children()
        serving = asyncio.create_task(
            keeper.run_forever([python("w", "import time; time.sleep(100)", on_exit=on_exit)])
        )
        await until(lambda: bool(keeper.pids()))
        first = keeper.pids()["w"]
        os.kill(first, signal.SIGKILL)
        await until(lambda: keeper.pids().get("w", first) != first)
        assert gone == [first]
        second = keeper.pids()["w"]
        await keeper.stop()
        await serving  # returns: all are gone
        assert not alive(second)
        assert keeper.pids() == {}

    with capture_logs() as lines:
        play(script)
    (exited,) = [line for line in lines if line["event"] == "child.exited"]
    assert (exited["child"], exited["status"]) == ("w", -signal.SIGKILL)


def test_what_children_say_is_logged() -> None:
    code = """
import sys
print("plain text")
print("<4>watch out", file=sys.stderr)
print('<6>{"event": "shard.written", "level": "info", "timestamp": "x", "rows": 8}')
print('{"event": "job.crashed", "level": "error"}')
print('<6>["no event"]')
sys.stdout.write("z" * 200_000 + "\\n")
sys.stdout.buffer.write(b"\\xff no newline at the end")
"""

    async def script() -> None:
        keeper = Children()
        serving = asyncio.create_task(keeper.run_forever([python("w", code)]))
        await until(lambda: any(line["event"] == "child.exited" for line in lines))
        await keeper.stop()
        await serving

    with capture_logs() as lines:
        play(script)
    said = [line for line in lines if line["event"] not in ("child.started", "child.exited")]
    plain, warning, event, crash, text, *rest = said
    assert plain == {"event": "child.output", "child": "w", "line": "plain text", "log_level": "info"}
    assert (warning["line"], warning["log_level"]) == ("watch out", "warning")
    assert event == {"event": "shard.written", "rows": 8, "child": "w", "log_level": "info"}
    assert crash == {"event": "job.crashed", "child": "w", "log_level": "error"}
    assert text["line"] == '["no event"]'
    assert sum(line["line"].count("z") for line in rest) >= 200_000
    assert max(len(line["line"]) for line in rest) <= 2 * children.MAX_LINE_BYTES + 1
    assert any("� no newline" in line["line"] for line in rest)


def test_a_child_that_ignores_sigterm_is_killed_after_its_grace() -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(100)"

    async def script() -> None:
        keeper = Children()
        serving = asyncio.create_task(keeper.run_forever([python("w", code, grace_seconds=0.1)]))
        await until(lambda: any(line.get("line") == "up" for line in lines))
        pid = keeper.pids()["w"]
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert not alive(pid)

    with capture_logs() as lines:
        play(script)
    assert [line["child"] for line in lines if line["event"] == "child.killed"] == ["w"]


def test_grandchildren_go_with_their_parent() -> None:
    code = "import subprocess, time; print(subprocess.Popen(['sleep', '100']).pid); time.sleep(100)"

    async def script() -> None:
        keeper = Children()
        serving = asyncio.create_task(keeper.run_forever([python("w", code)]))
        await until(lambda: any("line" in line for line in lines))
        grandchild = int(next(line["line"] for line in lines if "line" in line))
        assert alive(grandchild)
        await keeper.stop()
        await serving
        await until(lambda: not alive(grandchild))

    with capture_logs() as lines:
        play(script)


def test_a_death_is_noticed_while_a_grandchild_holds_the_output() -> None:
    code = "import subprocess; print(subprocess.Popen(['sleep', '100'], start_new_session=True).pid)"

    async def script() -> None:
        keeper = Children()
        serving = asyncio.create_task(keeper.run_forever([python("w", code)]))
        await until(lambda: sum(line["event"] == "child.exited" for line in lines) >= 1)
        await keeper.stop()
        await serving
        for line in lines:
            if "line" in line:
                os.kill(int(line["line"]), signal.SIGKILL)

    with capture_logs() as lines:
        play(script)


def test_a_program_that_is_not_there_is_said_and_tried_again() -> None:
    async def script() -> None:
        keeper = Children()
        spec = ChildSpec(name="ghost", command=("/no/such/program",))
        serving = asyncio.create_task(keeper.run_forever([spec]))
        await until(lambda: sum(line["event"] == "child.exited" for line in lines) >= 2)
        await keeper.stop()
        await serving

    with capture_logs() as lines:
        play(script)
    said = next(line["line"] for line in lines if line["event"] == "child.output")
    assert said == "/no/such/program: cannot be run: No such file or directory"
    pauses = [line["again_in_seconds"] for line in lines if line["event"] == "child.exited"]
    assert pauses[:2] == [0.01, 0.02]


def test_what_systemd_tells_the_daemon_is_not_told_to_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("WATCHDOG_USEC", "1")

    async def script() -> None:
        keeper = Children()
        code = "import os; print(sorted(n for n in os.environ if n in ('NOTIFY_SOCKET', 'WATCHDOG_USEC')))"
        serving = asyncio.create_task(keeper.run_forever([python("w", code)]))
        await until(lambda: any("line" in line for line in lines))
        await keeper.stop()
        await serving

    with capture_logs() as lines:
        play(script)
    assert next(line["line"] for line in lines if "line" in line) == "[]"


DAEMON = """
import asyncio, sys
from srctd.adapters.children import Children, ChildSpec

async def main():
    keeper = Children()
    serving = asyncio.create_task(keeper.run_forever([ChildSpec(name="w", command=("sleep", "100"))]))
    while not keeper.pids():
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3 if sys.argv[1] == "late" else 0)
    print(keeper.pids()["w"], flush=True)
    await serving

asyncio.run(main())
"""


@pytest.mark.parametrize("when", ["early", "late"])
def test_no_child_outlives_a_daemon_that_was_killed(when: str) -> None:
    """`early`: the daemon dies while the child is still on its way to bind itself to it."""
    with subprocess.Popen(
        [sys.executable, "-c", DAEMON, when], stdout=subprocess.PIPE, cwd=REPOSITORY, text=True
    ) as daemon:
        assert daemon.stdout is not None
        child = -1
        for line in daemon.stdout:  # log lines come first
            with contextlib.suppress(ValueError):
                child = int(line)
                break
        daemon.kill()
        daemon.wait()

    async def script() -> None:
        await until(lambda: not alive(child))

    assert child > 0
    play(script)
