"""The catalogue, as the daemon posts to it: SciCat's REST API by `requests`. Synchronous; run it in a thread.

Nothing is doubled: each object is looked for before it is posted, on every attempt, because an attempt whose answer
was lost, or that ended in a 500, may have stored it all the same. A dataset is found by its identifier and known by
its marker; SciCat gives file lists and pictures no identifier of the client's, so they are known by what they say.
"""

import re
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import msgspec
import requests
from requests.auth import AuthBase

from srctd.core.datasets import MARKER, CatalogObject
from srctd.core.errors import CatalogRejected, CatalogUnavailable

CONNECT_SECONDS = 5.0
READ_SECONDS = 40.0
"""SciCat needs 30 s to say that its database is down."""
RENEW_AT = 0.8
"""Of a token's life."""

_HEALING = re.compile(r"ECONNREFUSED|Server selection|timed out|not master|PoolClear", re.IGNORECASE)
"""SciCat's refusals that speak of its database, not of the document."""


class CatalogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the catalogue is, and as whom to speak to it."""

    url: str
    """`https://host`, with or without `/api/v3`."""
    username: str = ""
    password: str = ""
    token: str = ""
    """Long-lived; taken instead of a login if given."""
    verify: bool | str = True
    """Check the server's certificate, against the named file of authorities if it is a text."""

    def __repr__(self) -> str:
        return f"CatalogSettings(url={self.url!r}, username={self.username!r})"  # no secret reaches a log


class _Forgotten(Exception):
    """The server does not know us (any more): log in and begin again."""


class _Bearer(AuthBase):
    """Sets the token itself: `requests` would put a password from ~/.netrc over a plain header."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Catalog:
    """Posts objects, one at a time: looking and posting must not interleave.

    Raises
    ------
    CatalogUnavailable
        Down, unreachable, failing in a way that may heal, or its account refuses us: nothing a scan can help.
    CatalogRejected
        It refused the object, in its own words.
    """

    def __init__(self, settings: CatalogSettings) -> None:
        self._settings = settings
        self._base = re.sub(r"(/api(/v\d+)?)?/*$", "", settings.url) + "/api"
        self._session = requests.Session()
        self._session.verify = settings.verify
        self._token = settings.token
        self._renew_at = float("inf") if settings.token else 0.0
        self._lock = threading.Lock()
        self._post_kind: dict[str, Callable[[CatalogObject], str]] = {
            "dataset": self._post_dataset,
            "origdatablock": self._post_block,
            "attachment": self._post_attachment,
        }

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def health(self) -> bool:
        """Whether the catalogue and its database answer; never raises."""
        try:
            answer = self._session.get(
                f"{self._base}/v3/health",
                timeout=(CONNECT_SECONDS, READ_SECONDS),
                allow_redirects=False,
                auth=_Bearer(""),
            )
        except requests.RequestException:
            return False
        return answer.status_code == 200

    def login(self) -> None:
        """Get a token; raises `CatalogUnavailable` also where the account is refused, for every scan is then."""
        settings = self._settings
        if settings.token:
            raise CatalogUnavailable(
                f"{self._base}: the configured token is not accepted",
                hint="put a new one into the token file",
            )
        credentials = {"username": settings.username, "password": settings.password}
        self._token = ""
        answer = self._send("POST", "v3/auth/login", msgspec.json.encode(credentials))
        body = _json(answer)
        token = body.get("access_token") or body.get("id") if isinstance(body, dict) else None
        if not answer.ok or not isinstance(token, str):
            raise CatalogUnavailable(
                f"{self._base}: no login as {settings.username!r}: {answer.status_code} {_words(answer)}",
                hint="check the user name and the password file",
            )
        self._token = token
        seconds = body.get("expires_in")
        lifetime = float(seconds) if isinstance(seconds, int | float) else 3600.0
        self._renew_at = time.monotonic() + RENEW_AT * lifetime

    def post(self, item: CatalogObject) -> str:
        """Post an object unless it is there already, and return its identifier in the catalogue."""
        with self._lock:
            if time.monotonic() >= self._renew_at:
                self.login()
            try:
                return self._post_kind[item.kind](item)
            except _Forgotten:
                # Older servers answer look-ups of an expired token with an empty list: look again, too.
                self.login()
            try:
                return self._post_kind[item.kind](item)
            except _Forgotten as exc:
                raise CatalogRejected(
                    f"{item.key}: the catalogue gives {self._settings.username!r} no right to it: {exc}",
                    hint="the account needs the groups that may create datasets",
                ) from exc

    # --- the three kinds ---

    def _post_dataset(self, item: CatalogObject) -> str:
        pid = item.dataset_pid
        if self._is_there(item):
            return pid
        answer = self._call("POST", "v4/datasets", item.body, (409,))
        if answer.status_code == 409:
            if self._is_there(item):
                return pid
            raise CatalogRejected(f"{item.key}: {_words(answer)}", hint="ask the catalogue's administrator")
        return _identifier(answer, "pid") or pid

    def _is_there(self, item: CatalogObject) -> bool:
        pid = item.dataset_pid
        answer = self._call("GET", f"v4/datasets/{quote(pid, safe='')}", None, (403, 404))
        if answer.status_code == 403:
            return True  # it exists, and this account may not read what it created
        stored = _json(answer)
        if answer.status_code == 404 or not isinstance(stored, dict):
            return False
        mine, theirs = _marker(msgspec.json.decode(item.body)), _marker(stored)
        if mine != theirs:
            raise CatalogRejected(
                f"{item.key}: the catalogue has a dataset {pid} that is not this one (marker {theirs!r})",
                hint="another pid_prefix for this daemon keeps them apart",
            )
        return True

    def _post_block(self, item: CatalogObject) -> str:
        wanted = _files(msgspec.json.decode(item.body))
        return self._post_part(item, "origdatablocks", lambda block: _files(block) == wanted)

    def _post_attachment(self, item: CatalogObject) -> str:
        wanted = msgspec.json.decode(item.body)["caption"]
        return self._post_part(item, "attachments", lambda picture: picture.get("caption") == wanted)

    def _post_part(self, item: CatalogObject, kind: str, same: Callable[[dict[str, Any]], bool]) -> str:
        """Post to a sub-route of the dataset, unless one of those that are listed there is the same."""
        path = f"v3/datasets/{quote(item.dataset_pid, safe='')}/{kind}"
        listed = _json(self._call("GET", path, None))
        for part in listed if isinstance(listed, list) else ():
            if isinstance(part, dict) and same(part):
                return _first_text(part, "_id", "id", "aid")
        return _identifier(self._call("POST", path, item.body), "_id", "id", "aid")

    # --- requests ---

    def _call(
        self, method: str, path: str, body: bytes | msgspec.Raw | None, expected: tuple[int, ...] = ()
    ) -> requests.Response:
        """An answer that is good, or of an expected status; raises for all others."""
        answer = self._send(method, path, None if body is None else bytes(body))
        words = _words(answer)
        if answer.status_code == 401 or (answer.status_code == 403 and words == "Forbidden resource"):
            raise _Forgotten(words)
        if answer.ok or answer.status_code in expected:
            return answer
        raise CatalogRejected(
            f"{method} {self._base}/{path}: {answer.status_code} {words}",
            hint="the words are the catalogue's; once the cause is gone, retry the scan",
        )

    def _send(self, method: str, path: str, body: bytes | None) -> requests.Response:
        """An answer, unless it says that the server is not well; raises `CatalogUnavailable`."""
        url = f"{self._base}/{path}"
        try:
            answer = self._session.request(
                method,
                url,
                data=body,
                headers={"Content-Type": "application/json", "Accept": "application/json"},
                auth=_Bearer(self._token),
                timeout=(CONNECT_SECONDS, READ_SECONDS),
                allow_redirects=False,
            )
        except requests.RequestException as exc:
            raise CatalogUnavailable(f"{url}: {exc}", hint="is the catalogue running and reachable?") from exc
        if answer.is_redirect:
            raise CatalogUnavailable(
                f"{url} redirects to {answer.headers['location']}",
                hint="put the address it redirects to into the url",
            )
        sick = answer.status_code >= 500 or answer.status_code in (408, 425, 429)
        if sick or (answer.status_code == 400 and _HEALING.search(answer.text)):
            raise CatalogUnavailable(f"{url}: {answer.status_code} {_words(answer)}")
        return answer


def _json(answer: requests.Response) -> Any:
    """The answer's body; None for an empty one. Raises `CatalogUnavailable` for one that is no JSON (a proxy's)."""
    if not answer.content:
        return None
    try:
        return msgspec.json.decode(answer.content)
    except msgspec.DecodeError as exc:
        raise CatalogUnavailable(
            f"{answer.url}: the answer is not JSON: {answer.text[:80]!r}",
            hint="is this the address of a SciCat?",
        ) from exc


def _words(answer: requests.Response) -> str:
    """What the server said, at most 500 characters."""
    try:
        body = msgspec.json.decode(answer.content)
    except msgspec.DecodeError:
        body = answer.text
    message = body.get("message", body) if isinstance(body, dict) else body
    if isinstance(message, list):
        message = "; ".join(map(str, message))
    return str(message)[:500]


def _first_text(body: dict[str, Any], *names: str) -> str:
    return next((value for name in names if isinstance(value := body.get(name), str)), "")


def _identifier(answer: requests.Response, *names: str) -> str:
    body = _json(answer)
    return _first_text(body, *names) if isinstance(body, dict) else ""


def _marker(dataset: dict[str, Any]) -> object:
    entry = (dataset.get("scientificMetadata") or {}).get(MARKER)
    return entry.get("value") if isinstance(entry, dict) else entry


def _files(block: dict[str, Any]) -> list[tuple[object, ...]]:
    """What makes a file list this one; servers add fields of their own to every file."""
    files = block.get("dataFileList") or []
    return [(block.get("size"),), *((file["path"], file["size"], file.get("chk")) for file in files)]
