"""Which ZeroMQ endpoints may be bound: this machine's own only, as long as messages are not encrypted."""

import ipaddress

from srctd.core.errors import ConfigError


def require_local(endpoint: str) -> str:
    """Return an endpoint that only this machine can reach; raises `ConfigError` for any other."""
    scheme, _, rest = endpoint.partition("://")
    if scheme == "ipc" and rest:
        return endpoint
    host, _, port = rest.rpartition(":")
    if scheme == "tcp" and port and _is_loopback(host.strip("[]")):
        return endpoint
    raise ConfigError(
        f"{endpoint!r} is no endpoint on this machine alone",
        hint="use ipc:///path or tcp://127.0.0.1:port; messages are neither encrypted nor authenticated yet",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
