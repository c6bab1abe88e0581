"""Log lines: JSON with a priority for the journal, color for a terminal."""

import io
import json
import logging
import os
import sys
import tempfile
import types
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from srctd.adapters import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[tuple[str, dict[str, Any]]]:
    return [(line[:3], json.loads(line[3:])) for line in stream.getvalue().splitlines()]


def test_events_are_json_lines_with_a_priority() -> None:
    stream = io.StringIO()
    logs.configure("debug", stream=stream, environment={})
    log = structlog.get_logger()
    with structlog.contextvars.bound_contextvars(scan="tooth-1"):
        log.info("file.copied", bytes=7)
    log.debug("a.b")
    log.warning("a.b")
    log.error("a.b")
    (first, fields), *others = lines(stream)
    assert first == "<6>"
    assert fields.pop("timestamp").endswith("Z")
    assert fields == {"event": "file.copied", "bytes": 7, "scan": "tooth-1", "level": "info"}
    assert [priority for priority, _ in others] == ["<7>", "<4>", "<3>"]


def test_less_than_the_level_is_not_logged() -> None:
    stream = io.StringIO()
    logs.configure("warning", stream=stream, environment={})
    structlog.get_logger().info("file.copied")
    logging.getLogger("library").info("unimportant")
    assert stream.getvalue() == ""


def test_libraries_and_warnings_take_the_same_way() -> None:
    stream = io.StringIO()
    logs.configure("info", stream=stream, environment={})
    logging.getLogger("urllib3").warning("retry %d", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)
    (_, first), (_, second) = lines(stream)
    assert first["event"] == "retry 3"
    assert "DeprecationWarning: old thing" in second["event"]


def test_an_exception_and_odd_values_stay_one_line() -> None:
    stream = io.StringIO()
    logs.configure("info", stream=stream, environment={})
    try:
        raise ValueError("two\nlines")
    except ValueError:
        structlog.get_logger().exception("step.failed", error=ValueError("x"), path=b"raw")
    ((priority, fields),) = lines(stream)
    assert priority == "<3>"
    assert "ValueError: two" in fields["exception"]
    assert (fields["error"], fields["path"]) == ("x", "b'raw'")


@pytest.mark.parametrize(("environment", "colored"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_gets_readable_lines(environment: dict[str, str], colored: bool) -> None:
    stream = Terminal()
    logs.configure("info", stream=stream, environment=environment)
    structlog.get_logger().info("file.copied", bytes=7)
    assert "file.copied" in stream.getvalue()
    assert ("\x1b[" in stream.getvalue()) is colored
    assert "{" not in stream.getvalue()


def test_only_the_stream_that_leads_to_the_journal_uses_its_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child inherits JOURNAL_STREAM even where its stderr is a pipe."""

    class JournalHandler(logging.StreamHandler):  # type: ignore[type-arg]
        def __init__(self, SYSLOG_IDENTIFIER: str) -> None:
            super().__init__(journal)

    journal = io.StringIO()
    module = types.ModuleType("systemd.journal")
    module.JournalHandler = JournalHandler  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "systemd", types.ModuleType("systemd"))
    monkeypatch.setitem(sys.modules, "systemd.journal", module)
    with tempfile.TemporaryFile("w+") as stream:
        stat = os.fstat(stream.fileno())
        logs.configure("info", stream=stream, environment={"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"})
        structlog.get_logger().info("to.journal")
        logs.configure("info", stream=stream, environment={"JOURNAL_STREAM": "8:1"})
        structlog.get_logger().info("to.pipe")
        stream.seek(0)
        assert json.loads(journal.getvalue())["event"] == "to.journal"
        assert json.loads(stream.read()[3:])["event"] == "to.pipe"
