"""From a request to its handler, by SciCat's rules.

The path is split before it is percent-decoded, because a dataset's identifier has a slash in it (`%2F`). Fixed
segments are matched regardless of case, and a slash at the end does not matter.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any
from urllib.parse import unquote

import msgspec

from srctd.catalogd.auth import Identity, Tokens
from srctd.catalogd.problem import Problem, forbidden
from srctd.catalogd.store import Store


class Access(Enum):
    """Who may call a route."""

    ANYBODY = "anybody"
    READER = "reader"
    """Anybody where the catalogue is public, otherwise whoever is logged in."""
    WRITER = "writer"
    """Whoever is logged in."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One request, as a handler sees it."""

    store: Store
    tokens: Tokens
    identity: Identity | None
    parts: Mapping[str, str]
    """What stood for the `{names}` in the route's path."""
    query: Mapping[str, list[str]]
    body: Any = None
    merge_patch: bool = False

    def one(self, name: str) -> str | None:
        """A query parameter's first value."""
        return next(iter(self.query.get(name, ())), None)

    @property
    def username(self) -> str:
        """Of the caller; routes for writers have one."""
        if self.identity is None:
            raise forbidden()
        return self.identity.username


Handler = Callable[[Call], Any]
"""Returns what is answered as JSON (None: an empty body), or a whole response."""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A handler, and which requests are its own."""

    method: str
    segments: tuple[str, ...]
    handler: Handler
    status: int
    access: Access

    def match(self, method: str, segments: tuple[str, ...]) -> dict[str, str] | None:
        """The parts of a path that this route's `{names}` stand for; None if the request is not its own."""
        if method != self.method or len(segments) != len(self.segments):
            return None
        parts: dict[str, str] = {}
        for pattern, segment in zip(self.segments, segments, strict=True):
            if pattern.startswith("{"):
                parts[pattern[1:-1]] = unquote(segment)
            elif pattern.lower() != segment.lower():
                return None
        return parts


class Routes:
    """A table of routes. Earlier ones win, so fixed names come before `{names}`."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._routes: list[Route] = []

    def add(
        self, method: str, path: str, *, status: int = 200, access: Access = Access.READER
    ) -> Callable[[Handler], Handler]:
        """Decorator: the function handles these requests."""
        segments = tuple(part for part in f"{self._prefix}{path}".split("/") if part)

        def keep(handler: Handler) -> Handler:
            route = Route(method=method, segments=segments, handler=handler, status=status, access=access)
            self._routes.append(route)
            return handler

        return keep

    def extend(self, other: "Routes") -> None:
        """Take over another table's routes."""
        self._routes.extend(other._routes)

    def find(self, method: str, raw_path: str) -> tuple[Route, dict[str, str]]:
        """The route of a request and its parts; raises `Problem` 404."""
        segments = tuple(part for part in raw_path.split("/") if part)
        wanted = "GET" if method == "HEAD" else method
        for route in self._routes:
            parts = route.match(wanted, segments)
            if parts is not None:
                return route, parts
        raise Problem(404, f"Cannot {method} {raw_path}")
