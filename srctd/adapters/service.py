"""What systemd is told: that the daemon is ready, how it stands, that it lives, that it stops.

Where the process was not started by systemd nothing is told, and nothing here ever fails: a daemon whose
NOTIFY_SOCKET is wrong still reconstructs.
"""

import os
import socket
from collections.abc import Callable, Mapping

import structlog

STATUS_SECONDS = 5.0
"""How often the daemon renews its status line; the watchdog wants it at least twice in its time."""

log = structlog.get_logger()


class Service:
    """The daemon as a systemd unit with Type=notify (sd_notify(3))."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._failed = False
        self._send = _sender(environment.get("NOTIFY_SOCKET", ""))
        self._watchdog_seconds = _watchdog_seconds(environment)

    @property
    def interval_seconds(self) -> float:
        """How often to call `status` and `watchdog`: at least twice in the time that the watchdog grants."""
        return min(STATUS_SECONDS, (self._watchdog_seconds or 2 * STATUS_SECONDS) / 2)

    def ready(self) -> None:
        """The daemon serves."""
        self._notify("READY=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._notify("STATUS=" + text.replace("\n", " "))

    def watchdog(self) -> None:
        """The daemon lives. Only the loop that does the work may call this."""
        if self._watchdog_seconds is not None:
            self._notify("WATCHDOG=1")

    def stopping(self) -> None:
        """The daemon is on its way out."""
        self._notify("STOPPING=1")

    def _notify(self, state: str) -> None:
        if self._send is None:
            return
        try:
            self._send(state)
        except OSError as exc:
            if not self._failed:
                log.warning("service.notify_failed", state=state, reason=str(exc))
            self._failed = True


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    """The watchdog's time, if it watches this very process (sd_watchdog_enabled(3))."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or int(microseconds) == 0:
        return None
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 1e6


def _sender(address: str) -> Callable[[str], object] | None:
    """How to reach systemd: through its own library where that is installed, else by a socket."""
    if not address:
        return None
    try:
        from systemd import daemon
    except ImportError:
        return lambda state: _send(address, state)
    return lambda state: daemon.notify(state)


def _send(address: str, state: str) -> None:
    """One datagram to NOTIFY_SOCKET; a leading @ stands for the abstract name space."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.send(state.encode())
