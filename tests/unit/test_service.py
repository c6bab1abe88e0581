"""What systemd is told, heard at a socket of our own."""

import importlib.util
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import needs
import pytest
from structlog.testing import capture_logs

from srctd.adapters.service import STATUS_SECONDS, Service


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(5.0)
        yield sock


@pytest.fixture(params=["own", "library"])
def environment(
    request: pytest.FixtureRequest, systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """NOTIFY_SOCKET, once without and once with systemd-python."""
    variables = {"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": "3000000"}
    if request.param == "own":
        monkeypatch.setitem(sys.modules, "systemd", None)
    else:
        if importlib.util.find_spec("systemd") is None:
            needs.missing("systemd-python is not installed")
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
    return variables


def test_a_life_as_systemd_hears_it(environment: dict[str, str], systemd: socket.socket) -> None:
    service = Service(environment)
    service.ready()
    service.status("2 scans\nunder way")
    service.watchdog()
    service.stopping()
    heard = [systemd.recv(1000) for _ in range(4)]
    assert heard == [b"READY=1", b"STATUS=2 scans under way", b"WATCHDOG=1", b"STOPPING=1"]


def test_a_bad_socket_is_logged_once_and_harms_nothing(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/no/such/socket")
    service = Service({**environment, "NOTIFY_SOCKET": "/no/such/socket"})
    with capture_logs() as lines:
        service.ready()
        service.status("x")
    assert [line["event"] for line in lines] == ["service.notify_failed"]


def test_an_abstract_socket_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "systemd", None)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0srctd-test-{os.getpid()}")
        sock.settimeout(5.0)
        Service({"NOTIFY_SOCKET": f"@srctd-test-{os.getpid()}"}).ready()
        assert sock.recv(100) == b"READY=1"


def test_without_systemd_nothing_is_said() -> None:
    service = Service({})
    with capture_logs() as lines:
        service.ready()
        service.watchdog()
    assert lines == []
    assert service.interval_seconds == STATUS_SECONDS


@pytest.mark.parametrize(
    ("variables", "interval"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, STATUS_SECONDS),
        ({"WATCHDOG_USEC": "120000000"}, STATUS_SECONDS),
        ({"WATCHDOG_USEC": "soon"}, STATUS_SECONDS),
        ({"WATCHDOG_USEC": "0"}, STATUS_SECONDS),
    ],
)
def test_the_watchdog_is_fed_twice_in_its_time(variables: dict[str, str], interval: float) -> None:
    assert Service(variables).interval_seconds == interval


def test_a_watchdog_that_watches_another_process_is_not_fed(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "systemd", None)
    service = Service(
        {"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}
    )
    service.watchdog()
    service.ready()
    assert systemd.recv(100) == b"READY=1"
