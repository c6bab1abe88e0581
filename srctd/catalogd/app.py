"""The catalogue as an ASGI application: reads a request, finds its handler, writes the answer.

Handlers are plain functions and run in a thread, because SQLite waits for the disk.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from srctd.catalogd import pages, v3, v4
from srctd.catalogd.auth import Identity, Tokens, create_admin
from srctd.catalogd.problem import Problem, forbidden
from srctd.catalogd.router import Access, Call, Routes
from srctd.catalogd.store import Store
from srctd.core.errors import StorageUnavailable

BODY_BYTES = 16_000_000
"""SciCat's own limit."""
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


def password_file(database: Path) -> Path:
    """Where the administrator's password is left at the first start."""
    return database.with_name(f"{database.name}.password")


def create_app(database: Path, *, public: bool = False, token_seconds: int = 3600) -> Starlette:
    """Open the database, made at the first start together with its administrator, and build the application.

    `public`: everybody who can reach it may read. Meant for the loopback interface, so other host names are refused
    then (a web page elsewhere must not read it through the user's browser).

    Raises
    ------
    StorageUnavailable
        The database cannot be opened.
    ConfigError
        It was written by a newer version.
    """
    store = Store(database)
    create_admin(store, password_file(database))
    desk = _Desk(store, Tokens(store.secret(), token_seconds), public)
    local = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    anywhere = Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=METHODS, allow_headers=["*"])

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        store.close()

    return Starlette(
        routes=[Route("/{path:path}", desk.answer, methods=METHODS)],
        middleware=[local if public else anywhere],
        lifespan=lifespan,
    )


class _Desk:
    """Takes requests."""

    def __init__(self, store: Store, tokens: Tokens, public: bool) -> None:
        self._store = store
        self._tokens = tokens
        self._public = public
        self._routes = Routes()
        for table in (v3.routes, v4.routes, pages.routes):
            self._routes.extend(table)

    async def answer(self, request: Request) -> Response:
        try:
            route, parts = self._routes.find(request.method, request.scope["raw_path"].decode("latin-1"))
            query = parse_qs(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)
            identity = self._identify(request, query)
            self._admit(identity, route.access)
            call = Call(
                store=self._store,
                tokens=self._tokens,
                identity=identity,
                parts=parts,
                query=query,
                body=await _read_body(request),
                merge_patch="merge-patch" in request.headers.get("content-type", ""),
            )
            result = await run_in_threadpool(route.handler, call)
        except Problem as problem:
            return _json(problem.body(), problem.status)
        except StorageUnavailable as exc:
            return _json(Problem(503, str(exc)).body(), 503)
        except RecursionError:
            return _json(Problem(400, "nested too deeply").body(), 400)
        return result if isinstance(result, Response) else _json(result, route.status)

    def _identify(self, request: Request, query: dict[str, list[str]]) -> Identity | None:
        """The caller by `Authorization: Bearer` or `?access_token=`; whatever else is given counts as nobody."""
        header = request.headers.get("authorization")
        given = header if header is not None else f"Bearer {query.get('access_token', [''])[0]}"
        word, _, token = given.replace("Bearer Bearer", "Bearer").strip().partition(" ")
        return self._tokens.read(token.strip()) if word == "Bearer" and token else None

    def _admit(self, identity: Identity | None, access: Access) -> None:
        free = access is Access.ANYBODY or (access is Access.READER and self._public)
        if identity is None and not free:
            raise forbidden()


async def _read_body(request: Request) -> Any:
    chunks: list[bytes] = []
    length = 0
    try:
        async for chunk in request.stream():
            length += len(chunk)
            if length > BODY_BYTES:
                raise Problem(413, f"the body is larger than {BODY_BYTES} bytes")
            chunks.append(chunk)
    except ClientDisconnect as exc:
        raise Problem(400, "the client went away") from exc
    if not length:
        return None
    try:
        return msgspec.json.decode(b"".join(chunks))
    except msgspec.DecodeError as exc:
        raise Problem(400, f"the body is not JSON: {exc}") from exc


def _json(result: Any, status: int) -> Response:
    content = b"" if result is None else msgspec.json.encode(result)
    return Response(content, status_code=status, media_type="application/json")
