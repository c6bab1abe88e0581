"""Running the catalogue: as a program of its own, or in a thread of another one."""

import socket
import threading
import time
from pathlib import Path
from types import TracebackType

import uvicorn

from srctd.catalogd.app import create_app
from srctd.core.errors import ConfigError, StorageUnavailable

LOOPBACK = ("127.0.0.1", "localhost")
START_SECONDS = 30.0


def serve(database: Path, host: str = "127.0.0.1", port: int = 8090, *, public: bool = False) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises
    ------
    ConfigError
        The address cannot be bound, or `public` is asked for beyond the loopback interface.
    StorageUnavailable
        The database cannot be opened.
    """
    listener = _listen(host, port, public)
    with listener:
        _server(database, public).run(sockets=[listener])


class BackgroundServer:
    """The catalogue in a thread, as a context manager; `url` is where it answers. Port 0: any free one."""

    def __init__(
        self, database: Path, port: int = 0, *, public: bool = False, token_seconds: int = 3600
    ) -> None:
        self._listener = _listen(LOOPBACK[0], port, public)
        self.url = f"http://{LOOPBACK[0]}:{self._listener.getsockname()[1]}"
        self._server = _server(database, public, token_seconds)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listener]}, name="catalogue", daemon=True
        )

    def __enter__(self) -> "BackgroundServer":
        self._thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise StorageUnavailable(f"the catalogue at {self.url} did not start")
            time.sleep(0.005)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()


def _listen(host: str, port: int, public: bool) -> socket.socket:
    if public and host not in LOOPBACK:
        raise ConfigError(
            f"catalogue: public reading on {host} would show every dataset to the network",
            hint="set host to 127.0.0.1, or public to false",
        )
    try:
        return socket.create_server((host, port))
    except (OSError, OverflowError) as exc:
        raise ConfigError(
            f"catalogue: cannot listen on {host}:{port}: {exc}", hint="choose another port"
        ) from exc


def _server(database: Path, public: bool, token_seconds: int = 3600) -> uvicorn.Server:
    """Requests are not logged: clients put their tokens into query strings."""
    app = create_app(database, public=public, token_seconds=token_seconds)
    config = uvicorn.Config(
        app, access_log=False, log_config=None, server_header=False, timeout_graceful_shutdown=5, ws="none"
    )
    return uvicorn.Server(config)
