"""The catalogue's database: all SQL is here.

SQLite in WAL mode, every answer to a post follows its fsync. One connection behind a lock: statements are short,
and a lock is simpler than a pool.
"""

import re
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import msgspec

from srctd.catalogd.documents import Document, attachment_fingerprint, block_fingerprint
from srctd.catalogd.filters import Condition, Every, Not, Query, Some, Test, Words
from srctd.catalogd.problem import Problem
from srctd.core.errors import ConfigError, StorageUnavailable

Table = Literal["dataset", "origdatablock", "attachment"]

SCHEMA_VERSION = 1


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """Who may log in."""

    id: str
    username: str
    password: str
    """Hash."""
    groups: tuple[str, ...]
    created_at: str


class Store:
    """The database, behind verbs. Raises `StorageUnavailable` where SQLite cannot do its work."""

    def __init__(self, path: Path) -> None:
        path.touch(mode=0o600)
        self._path = path
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
        self._connection.create_function("regexp", 2, _matches, deterministic=True)
        with self._lock, self._translated():
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA foreign_keys = ON")
        self._create_tables()

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()

    def ping(self) -> None:
        """Raise `StorageUnavailable` unless the database answers."""
        with self._reading() as connection:
            connection.execute("SELECT 1 FROM setting").fetchone()

    # --- settings and accounts ---

    def secret(self) -> bytes:
        """The key that signs tokens; made at first use, so that tokens outlive a restart."""
        with self._writing() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO setting VALUES ('token_secret', ?)", (secrets.token_bytes(32),)
            )
            row = connection.execute("SELECT value FROM setting WHERE name = 'token_secret'").fetchone()
        return bytes(row[0])

    def account(self, username: str) -> Account | None:
        """The account of that name."""
        with self._reading() as connection:
            row = connection.execute("SELECT * FROM account WHERE username = ?", (username,)).fetchone()
        if row is None:
            return None
        groups = msgspec.json.decode(row[3], type=tuple[str, ...])
        return Account(id=row[0], username=row[1], password=row[2], groups=groups, created_at=row[4])

    def add_account(self, account: Account) -> None:
        """Add an account, unless one of that name exists."""
        groups = msgspec.json.encode(account.groups).decode()
        row = (account.id, account.username, account.password, groups, account.created_at)
        with self._writing() as connection:
            connection.execute("INSERT OR IGNORE INTO account VALUES (?, ?, ?, ?, ?)", row)

    # --- documents ---

    def insert_dataset(self, document: Document) -> None:
        """Add a dataset; `Problem` 409 if its identifier is taken."""
        pid = document["pid"]
        with self._writing() as connection:
            cursor = connection.execute(
                "INSERT INTO dataset (id, document) VALUES (?, ?) ON CONFLICT DO NOTHING",
                (pid, _encode(document)),
            )
            if cursor.rowcount == 0:
                raise Problem(409, f"A dataset with pid {pid} already exists!")

    def update_dataset(self, pid: str, change: Callable[[Document], Document]) -> Document:
        """Replace a dataset by what `change` makes of it; `Problem` 404 if there is none."""
        with self._writing() as connection:
            document = change(self._existing(connection, pid))
            connection.execute("UPDATE dataset SET document = ? WHERE id = ?", (_encode(document), pid))
        return document

    def insert_block(self, pid: str, block: Document) -> Document:
        """Add a file list and count its files in; the same list again is answered with the one that is there."""
        n_files = len(block["dataFileList"])
        with self._writing() as connection:
            dataset = self._existing(connection, pid)
            block = {**block, "datasetId": pid, **_inherited(dataset)}
            fingerprint = block_fingerprint(block)
            connection.execute(
                "INSERT INTO origdatablock VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (block["_id"], pid, fingerprint, block["size"], n_files, _encode(block)),
            )
            total = "SELECT sum(size), sum(n_files) FROM origdatablock WHERE dataset_id = ?"
            dataset["size"], dataset["numberOfFiles"] = connection.execute(total, (pid,)).fetchone()
            connection.execute("UPDATE dataset SET document = ? WHERE id = ?", (_encode(dataset), pid))
            return self._twin(connection, "origdatablock", pid, fingerprint)

    def insert_attachment(self, attachment: Document) -> Document:
        """Add a picture; the same one again is answered with the one that is there."""
        pid, aid = attachment["datasetId"], attachment["aid"]
        with self._writing() as connection:
            attachment = {**attachment, **_inherited(self._existing(connection, pid))}
            fingerprint = attachment_fingerprint(attachment)
            taken = connection.execute(
                "SELECT 1 FROM attachment WHERE id = ? AND (dataset_id, fingerprint) <> (?, ?)",
                (aid, pid, fingerprint),
            )
            if taken.fetchone():
                raise Problem(409, f"An attachment with aid {aid} already exists!")
            connection.execute(
                "INSERT INTO attachment VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (aid, pid, fingerprint, _encode(attachment)),
            )
            return self._twin(connection, "attachment", pid, fingerprint)

    def get(self, table: Table, identifier: str) -> Document | None:
        """One document."""
        with self._reading() as connection:
            row = connection.execute(f"SELECT document FROM {table} WHERE id = ?", (identifier,)).fetchone()
        return None if row is None else _decode(row[0])

    def of_dataset(self, table: Table, pid: str) -> list[Document]:
        """All file lists or pictures of a dataset, in the order they came."""
        statement = f"SELECT document FROM {table} WHERE dataset_id = ? ORDER BY rowid"
        with self._reading() as connection:
            rows = connection.execute(statement, (pid,)).fetchall()
        return [_decode(row[0]) for row in rows]

    def pictures(self, pid: str) -> list[tuple[str, str]]:
        """Identifier and caption of a dataset's pictures, in the order they came."""
        statement = (
            "SELECT id, json_extract(document, '$.caption') FROM attachment WHERE dataset_id = ? "
            "AND json_type(document, '$.thumbnail') IS NOT NULL ORDER BY rowid"
        )
        with self._reading() as connection:
            return connection.execute(statement, (pid,)).fetchall()

    def find(self, table: Table, query: Query) -> list[Document]:
        """The documents that a query asks for, in its order and within its limits."""
        where, arguments = _sql(query.where)
        order = "rowid"
        if query.order == "createdAt" and table == "dataset":
            order = "created_at" + (" DESC, rowid DESC" if query.descending else ", rowid")
        elif query.order:
            order = "json_extract(document, ?)" + (" DESC, rowid DESC" if query.descending else ", rowid")
            arguments.append(_json_path(tuple(query.order.split("."))))
        statement = f"SELECT document FROM {table} WHERE {where} ORDER BY {order} LIMIT ? OFFSET ?"
        with self._reading() as connection:
            rows = connection.execute(statement, (*arguments, query.limit, query.skip)).fetchall()
        return [_decode(row[0]) for row in rows]

    def count(self, table: Table, condition: Condition) -> int:
        """How many documents fulfil a condition."""
        where, arguments = _sql(condition)
        with self._reading() as connection:
            row = connection.execute(f"SELECT count(*) FROM {table} WHERE {where}", arguments).fetchone()
        return int(row[0])

    # --- inside ---

    def _create_tables(self) -> None:
        with self._writing() as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise ConfigError(
                    f"{self._path}: the catalogue was written by a newer version (schema {version})",
                    hint="install that version again, or name another database",
                )
            if version == 0:
                script = files("srctd.catalogd").joinpath("schema.sql").read_text()
                for statement in script.split(";\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    @staticmethod
    def _existing(connection: sqlite3.Connection, pid: str) -> Document:
        row = connection.execute("SELECT document FROM dataset WHERE id = ?", (pid,)).fetchone()
        if row is None:
            raise Problem(404, f"dataset: {pid} not found")
        return _decode(row[0])

    @staticmethod
    def _twin(connection: sqlite3.Connection, table: Table, pid: str, fingerprint: str) -> Document:
        statement = f"SELECT document FROM {table} WHERE dataset_id = ? AND fingerprint = ?"
        return _decode(connection.execute(statement, (pid, fingerprint)).fetchone()[0])

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._translated():
            yield self._connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.rollback()
                raise
            self._connection.execute("COMMIT")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            raise StorageUnavailable(f"{self._path}: {exc}", hint="is its disk full or gone?") from exc


def _encode(document: Document) -> str:
    return msgspec.json.encode(document).decode()


def _decode(text: str) -> Document:
    return msgspec.json.decode(text, type=dict[str, Any])


def _inherited(dataset: Document) -> Document:
    """File lists and pictures belong to whom their dataset belongs."""
    return {"ownerGroup": dataset["ownerGroup"], "accessGroups": dataset["accessGroups"]}


def _matches(pattern: str, text: object) -> bool:
    return isinstance(text, str) and re.search(pattern, text) is not None


# --- conditions as SQL --------------------------------------------------------------------------------------

_SYMBOLS = {"eq": "=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<=", "regex": "REGEXP"}
_ELEMENT = "EXISTS (SELECT 1 FROM json_each(document, ?) AS e WHERE {})"
_WORD = "EXISTS (SELECT 1 FROM json_tree(document) AS t WHERE t.type = 'text' AND instr(lower(t.atom), ?))"


def _sql(condition: Condition) -> tuple[str, list[Any]]:
    match condition:
        case Every(conditions) if not conditions:
            return "1", []
        case Some(conditions) if not conditions:
            return "0", []
        case Every(conditions) | Some(conditions):
            parts = [_sql(part) for part in conditions]
            word = " AND " if isinstance(condition, Every) else " OR "
            joined = word.join(text for text, _ in parts)
            return f"({joined})", [argument for _, arguments in parts for argument in arguments]
        case Not(inner):
            text, arguments = _sql(inner)
            return f"NOT {text}", arguments
        case Words(words):
            return "(" + (" OR ".join([_WORD] * len(words)) or "1") + ")", [word.lower() for word in words]
        case Test():
            return _test_sql(condition)


def _test_sql(test: Test) -> tuple[str, list[Any]]:
    """An array fits where an element does; values of different types never fit; null fits what is not there."""
    path, value = _json_path(test.path), test.value
    if test.operator == "exists":
        return f"(json_type(document, ?) IS {'NOT NULL' if value else 'NULL'})", [path]
    if value is None:
        return "(NOT " + _ELEMENT.format("e.type <> 'null'") + ")", [path]
    if isinstance(value, bool):
        return _ELEMENT.format("e.type = ?"), [path, "true" if value else "false"]
    kinds = "('text')" if isinstance(value, str) else "('integer', 'real')"
    return _ELEMENT.format(f"e.type IN {kinds} AND e.atom {_SYMBOLS[test.operator]} ?"), [path, value]


def _json_path(path: tuple[str, ...]) -> str:
    if any('"' in part or not part for part in path):
        raise Problem(400, f"{'.'.join(path)!r} is not the name of a field")
    return "$" + "".join(f'."{part}"' for part in path)
