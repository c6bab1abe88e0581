"""Who is calling: passwords, tokens, accounts.

Tokens are JSON Web Tokens signed with HMAC-SHA256 (RFC 7519), as SciCat's are: clients read `exp` from them.
"""

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from srctd.catalogd.documents import now
from srctd.catalogd.problem import Problem
from srctd.catalogd.store import Account, Store

ADMIN = "admin"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The caller, as the token says."""

    id: str
    username: str


class _Claims(msgspec.Struct, kw_only=True):
    id: str = msgspec.field(name="_id")
    username: str
    iat: int
    exp: int


class Tokens:
    """Issues and reads tokens. `seconds`: how long one is good for."""

    def __init__(self, secret: bytes, seconds: int) -> None:
        self._secret = secret
        self.seconds = seconds

    def issue(self, account: Account) -> str:
        """A token for an account."""
        issued = int(time.time())
        claims = _Claims(id=account.id, username=account.username, iat=issued, exp=issued + self.seconds)
        signed = b".".join(
            _base64(part) for part in (b'{"alg":"HS256","typ":"JWT"}', msgspec.json.encode(claims))
        )
        return (signed + b"." + _base64(self._sign(signed))).decode()

    def read(self, token: str) -> Identity | None:
        """The caller; None for what is no token of ours; `Problem` 401 for one that has expired."""
        signed, _, signature = token.encode(errors="replace").rpartition(b".")
        if not hmac.compare_digest(signature, _base64(self._sign(signed))):
            return None
        try:
            payload = signed.partition(b".")[2]
            claims = msgspec.json.decode(base64.urlsafe_b64decode(payload + b"=="), type=_Claims)
        except (binascii.Error, msgspec.DecodeError):
            return None
        if claims.exp <= time.time():
            raise Problem(401, "SESSION_EXPIRED")
        return Identity(id=claims.id, username=claims.username)

    def _sign(self, signed: bytes) -> bytes:
        return hmac.digest(self._secret, signed, "sha256")


def log_in(store: Store, tokens: Tokens, body: object) -> dict[str, Any]:
    """SciCat's answer to a login; raises `Problem` 401."""
    given = body if isinstance(body, dict) else {}
    username, password = given.get("username"), given.get("password")
    account = store.account(username) if isinstance(username, str) else None
    expected = account.password if account else _NOBODY
    fits = isinstance(password, str) and _verify(password, expected)
    if account is None or not fits:
        raise Problem(401, "Unauthorized")
    token = tokens.issue(account)
    return {
        "access_token": token,
        "id": token,
        "expires_in": tokens.seconds,
        "ttl": tokens.seconds,
        "created": now(),
        "userId": account.id,
        "user": profile(account),
    }


def profile(account: Account) -> dict[str, Any]:
    """An account as SciCat shows it."""
    return {
        "_id": account.id,
        "id": account.id,
        "username": account.username,
        "email": f"{account.username}@localhost.localdomain",
        "authStrategy": "local",
        "__v": 0,
    }


def create_admin(store: Store, password_file: Path) -> None:
    """Make the administrator's account at the first start, with a random password in a file of mode 0600.

    The file comes first: a start that is killed in between finds it again and uses what it says.
    """
    if store.account(ADMIN) is not None:
        return
    if not password_file.exists():
        _write_private(password_file, secrets.token_urlsafe(24) + "\n")
    password = password_file.read_text().strip()
    store.add_account(
        Account(
            id=str(uuid.uuid4()),
            username=ADMIN,
            password=_hash(password, secrets.token_bytes(16)),
            groups=(ADMIN,),
            created_at=now(),
        )
    )


def _write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600 that appears whole and for good; one that another process made first stays."""
    growing = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    descriptor = os.open(growing, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    with suppress(FileExistsError):
        path.hardlink_to(growing)
    growing.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def _hash(password: str, salt: bytes) -> str:
    """`salt$digest`, both hexadecimal; scrypt (RFC 7914) with 16 MiB."""
    digest = hashlib.scrypt(password.encode(errors="replace"), salt=salt, n=2**14, r=8, p=1)
    return f"{salt.hex()}${digest.hex()}"


def _verify(password: str, expected: str) -> bool:
    salt = bytes.fromhex(expected.partition("$")[0])
    return hmac.compare_digest(_hash(password, salt), expected)


_NOBODY = "00" * 16 + "$" + "00" * 64
"""Checked against where there is no such account, so that the time of the answer does not tell."""


def _base64(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")
