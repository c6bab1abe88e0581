"""The daemon's durable memory: finished steps, events, and the outbox to the catalogue, in one SQLite file.

All SQL of the project is here and in `schema.sql`. Every method is one transaction that is on disk
(`synchronous=FULL`) when it returns. The methods block; call them one at a time, from any one thread.
"""

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import structlog

from srctd.core import clock
from srctd.core.errors import JournalError
from srctd.core.lifecycle import (
    AnyEvent,
    Completed,
    Scan,
    SourceKept,
    Status,
    Step,
    StepDone,
    StepFailed,
    StepState,
)
from srctd.core.scan import Manifest, Series, SourceFiles

log = structlog.get_logger()

SCHEMA_VERSION = 3
APPLICATION_ID = 0x73726374
BUSY_SECONDS = 5.0
LARGEST_RESULT_BYTES = 4096
"""Results beyond this stay out of the events; the steps have them."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_CLOCK = (
    "CREATE TABLE IF NOT EXISTS clock"
    " (id INTEGER PRIMARY KEY CHECK (id = 1), wall REAL NOT NULL, running REAL NOT NULL, boot TEXT NOT NULL) STRICT"
)
"""The last reading of the clocks; journals that were begun without it get it."""
_JOURNALED = frozenset({Status.DONE, Status.RETRYING, Status.HELD})
_COLUMNS = (
    "id, path, root, revision, task, member, members, leader, series, content, source, completed_at, verdict,"
    " seen_at, superseded, overrides, take_incomplete, run,"
    " removal_begun_at, source_removed_at, source_kept"
)
"""Of a scan, without the list of its files."""
_manifests = msgspec.json.Decoder(Manifest)
_overrides = msgspec.json.Decoder(dict[str, bool | int | float | str | None])
_series = msgspec.json.Decoder(Series | None)
_sources = msgspec.json.Decoder(SourceFiles)
_places = msgspec.json.Decoder(dict[str, str])


class JournalEvent(NamedTuple):
    """One row of the append-only event table."""

    sequence: int
    at: float
    """UTC timestamp."""
    scan: str
    topic: str
    body: bytes
    """JSON."""


class OutboxObject(NamedTuple):
    """A document on its way to the catalogue."""

    key: str
    """Unique within the scan."""
    position: int
    """Order of posting within the scan."""
    kind: str
    dataset_pid: str
    body: bytes
    """JSON."""


class OutboxRow(NamedTuple):
    """A document in the outbox, posted or not."""

    scan: str
    key: str
    position: int
    kind: str
    dataset_pid: str
    body: bytes
    remote_id: str | None
    posted_at: float | None
    """UTC timestamp; None: still to be posted."""


def read_clocks() -> clock.Reading:
    """What the clocks of this machine say now."""
    try:
        boot = BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:  # a service may be kept from what is below /proc/sys
        boot = ""
    return clock.Reading(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), boot)


class Journal:
    """The journal file, held by this process alone. Every method may raise `JournalError`."""

    def __init__(
        self, path: str | os.PathLike[str], clocks: Callable[[], clock.Reading] = read_clocks
    ) -> None:
        self._path = Path(path)
        self._clocks = clocks
        self._lock = _locked(self._path)
        try:
            self._db = _opened(self._path)
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Close the file and let another process have it."""
        self._db.close()
        os.close(self._lock)

    # --- scans and steps ----------------------------------------------------------------------------------

    def load(self) -> list[Scan]:
        """All scans, in the order in which they came, with their steps that are done, retrying or held."""
        with self._guarded("read"):
            steps: dict[str, dict[Step, StepState]] = {}
            for row in self._db.execute("SELECT * FROM steps"):
                steps.setdefault(row["scan"], {})[Step(row["step"])] = _step_state(row)
            rows = self._db.execute(f"SELECT {_COLUMNS} FROM scans ORDER BY rowid")
            return [_scan(row, steps.get(row["id"], {})) for row in rows]

    def manifest(self, scan: str) -> Manifest:
        """The files of a scan as they were judged."""
        with self._guarded("read"):
            row = self._db.execute("SELECT manifest FROM scans WHERE id = ?", (scan,)).fetchone()
            if row is None:
                raise JournalError(f"journal {self._path}: no scan {scan}")
            return _manifests.decode(row["manifest"])

    def last_finished(self) -> dict[str, float]:
        """When the last of a scan's steps came to its status: UTC timestamp by scan, by the clock as it goes now.

        Never earlier than it was: time that this machine was not seen to run counts as not passed.
        """
        with self._guarded("read"), self._transaction():
            self._look_at_clocks()
            return dict(self._db.execute("SELECT scan, max(finished_at) FROM steps GROUP BY scan"))

    def commit(self, scan: Scan, event: AnyEvent, at: float) -> int:
        """Make an event (UTC timestamp `at`) and the scan after it durable; return the event's sequence number."""
        with self._guarded("write"), self._transaction():
            if isinstance(event, Completed):
                self._enter(scan, event.manifest)
            self._update(scan, at)
            cursor = self._db.execute(
                "INSERT INTO events (at, scan, topic, body) VALUES (?, ?, ?, ?)",
                (at, event.scan, event.__struct_config__.tag, _event_body(event)),
            )
            self._look_at_clocks()
            assert cursor.lastrowid is not None
            return cursor.lastrowid

    def events(self, after: int, limit: int) -> list[JournalEvent]:
        """At most `limit` events with a sequence number above `after`, in order."""
        with self._guarded("read"):
            rows = self._db.execute(
                "SELECT * FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?", (after, limit)
            )
            return [
                JournalEvent(row["sequence"], row["at"], row["scan"], row["topic"], row["body"].encode())
                for row in rows
            ]

    # --- messages of acquisitions ---------------------------------------------------------------------------

    def messages(self) -> dict[str, tuple[bytes, float]]:
        """What was told of scans that are not judged yet: JSON and UTC timestamp by path."""
        with self._guarded("read"):
            rows = self._db.execute("SELECT path, body, at FROM messages")
            return {row["path"]: (row["body"].encode(), row["at"]) for row in rows}

    def put_message(self, path: str, body: bytes, at: float) -> None:
        """Keep a message (JSON, UTC timestamp `at`); a later one about the same path replaces it."""
        with self._guarded("write"), self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO messages (path, body, at) VALUES (?, ?, ?)", (path, _text(body), at)
            )

    def drop_message(self, path: str) -> None:
        """Forget a message: its scan was judged."""
        with self._guarded("write"), self._transaction():
            self._db.execute("DELETE FROM messages WHERE path = ?", (path,))

    # --- outbox -------------------------------------------------------------------------------------------

    def outbox_put(self, scan: str, objects: Iterable[OutboxObject]) -> None:
        """Add documents of a scan; a key that is there already is left as it is."""
        with self._guarded("write"), self._transaction():
            self._db.executemany(
                "INSERT INTO outbox (scan, key, position, kind, dataset_pid, body) VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (scan, key) DO NOTHING",
                [(scan, *entry) for entry in objects],
            )

    def outbox(self, scan: str, prefix: str) -> list[OutboxRow]:
        """The documents of a scan whose keys begin with `prefix`, in the order of posting."""
        with self._guarded("read"):
            rows = self._db.execute(
                "SELECT scan, key, position, kind, dataset_pid, body, remote_id, posted_at FROM outbox"
                " WHERE scan = ? AND substr(key, 1, ?) = ? ORDER BY position, key",
                (scan, len(prefix), prefix),
            )
            return [OutboxRow(*row) for row in rows]

    def outbox_posted(self, scan: str, key: str, remote_id: str, at: float) -> None:
        """Note that the catalogue has a document, under which name and since when (UTC timestamp)."""
        with self._guarded("write"), self._transaction():
            cursor = self._db.execute(
                "UPDATE outbox SET remote_id = ?, posted_at = ? WHERE scan = ? AND key = ?",
                (remote_id, at, scan, key),
            )
            if cursor.rowcount != 1:
                raise JournalError(f"{self._path}: the outbox holds no {key!r} of scan {scan}")

    def outbox_waiting(self) -> int:
        """How many documents are still to be posted."""
        with self._guarded("read"):
            row = self._db.execute("SELECT count(*) FROM outbox WHERE posted_at IS NULL").fetchone()
            return int(row[0])

    # --- inside -------------------------------------------------------------------------------------------

    @contextmanager
    def _guarded(self, verb: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, msgspec.DecodeError, ValueError) as exc:
            raise JournalError(
                f"journal {self._path}: cannot {verb}: {exc}",
                hint="check the disk it lies on, its space and its permissions",
            ) from exc

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _look_at_clocks(self) -> None:
        """Move the times of steps along if the clock was set since the last look.

        It follows every write, so that of what was written since the last look no more than one row is of the new
        clock. Moved ahead, that row stops at now; moved back, it stays, as only what lies ahead of the clock moves.
        """
        now, before = self._clocks(), self._db.execute("SELECT wall, running, boot FROM clock").fetchone()
        if before is not None and (seconds := clock.set_by(clock.Reading(*before), now)):
            log.warning("clock.set", seconds=round(seconds, 1))
            self._db.execute(
                "UPDATE steps SET finished_at = min(finished_at + ?, ?) WHERE ? > 0 OR finished_at > ?",
                (seconds, now.wall, seconds, now.wall),
            )
        self._db.execute("INSERT OR REPLACE INTO clock (id, wall, running, boot) VALUES (1, ?, ?, ?)", now)

    def _enter(self, scan: Scan, manifest: Manifest) -> None:
        values = (
            *(
                scan.id,
                scan.path,
                scan.root,
                scan.revision,
                scan.task,
                scan.member,
                scan.members,
                scan.leader,
            ),
            *(_json(scan.series), scan.content, _json(scan.source), scan.completed_at),
            *(
                _text(bytes(scan.verdict)),
                _json(scan.seen_at),
                scan.superseded,
                _json(scan.overrides),
                scan.take_incomplete,
                scan.run,
                *_removal(scan),
            ),
        )
        places = ", ".join("?" * (len(values) + 1))
        self._db.execute(
            f"INSERT INTO scans ({_COLUMNS}, manifest) VALUES ({places})"
            " ON CONFLICT (id) DO UPDATE SET manifest = excluded.manifest, verdict = excluded.verdict",
            (*values, _json(manifest)),
        )

    def _update(self, scan: Scan, at: float) -> None:
        """What may change after a scan has entered. Its manifest, which can be long, is written once."""
        cursor = self._db.execute(
            "UPDATE scans SET path = ?, task = ?, source = ?, seen_at = ?, superseded = ?, overrides = ?,"
            " take_incomplete = ?, run = ?, removal_begun_at = ?, source_removed_at = ?, source_kept = ?"
            " WHERE id = ?",
            (
                *(scan.path, scan.task, _json(scan.source), _json(scan.seen_at), scan.superseded),
                *(_json(scan.overrides), scan.take_incomplete, scan.run, *_removal(scan), scan.id),
            ),
        )
        if cursor.rowcount != 1:
            raise JournalError(f"journal {self._path}: no scan {scan.id}")
        kept = {step: state for step, state in scan.steps.items() if state.status in _JOURNALED}
        gone = [(scan.id, step) for step in Step if step not in kept]
        self._db.executemany("DELETE FROM steps WHERE scan = ? AND step = ?", gone)
        self._db.executemany(
            "INSERT INTO steps"
            " (scan, step, status, attempts, reason, cause, needs_bytes, retry_at, result, seconds, finished_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (scan, step) DO UPDATE SET"
            " status = excluded.status, attempts = excluded.attempts, reason = excluded.reason,"
            " cause = excluded.cause, needs_bytes = excluded.needs_bytes, retry_at = excluded.retry_at,"
            " result = excluded.result, seconds = excluded.seconds, finished_at = excluded.finished_at"
            " WHERE (status, attempts, result) <> (excluded.status, excluded.attempts, excluded.result)",
            [(scan.id, step, *_step_values(state), at) for step, state in kept.items()],
        )


# --- opening ----------------------------------------------------------------------------------------------


def _locked(path: Path) -> int:
    """Take the lock beside the journal for the life of the process; return its file descriptor."""
    lock = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as exc:
        raise JournalError(f"{lock}: {exc.strerror}", hint="check daemon.state_directory") from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    except BlockingIOError as exc:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise JournalError(
            f"journal {path} is held by the process {holder}",
            hint="a daemon runs on it already; stop that one first",
        ) from exc
    except OSError as exc:
        os.close(descriptor)
        raise JournalError(f"{lock}: {exc.strerror}", hint="the journal needs a local disk") from exc
    return descriptor


def _opened(path: Path) -> sqlite3.Connection:
    """A connection to a sound journal of this version; an empty file becomes one."""
    try:
        db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as exc:
        raise JournalError(f"journal {path}: {exc}", hint="check daemon.state_directory") from exc
    try:
        db.row_factory = sqlite3.Row
        _prepare(db, path)
    except sqlite3.Error as exc:
        db.close()
        raise JournalError(
            f"journal {path}: {exc}", hint="move the damaged file away or restore it from a backup"
        ) from exc
    except JournalError:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    empty = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise JournalError(f"journal {path}: no write-ahead log here", hint="put it on a local disk")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")
    if empty:
        db.executescript(files("srctd.adapters").joinpath("schema.sql").read_text(encoding="utf-8"))
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise JournalError(f"{path} is a database of another program", hint="name another journal")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version != SCHEMA_VERSION:
        raise JournalError(
            f"journal {path} has schema version {version}, this srctd reads version {SCHEMA_VERSION}",
            hint="start the srctd that wrote it, or move the file away",
        )
    db.execute(_CLOCK)
    damage = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if damage != "ok":
        raise JournalError(
            f"journal {path} is damaged: {damage}", hint="move it away or restore it from a backup"
        )


# --- rows and values --------------------------------------------------------------------------------------


def _scan(row: sqlite3.Row, steps: dict[Step, StepState]) -> Scan:
    return Scan(
        id=row["id"],
        path=row["path"],
        root=row["root"],
        revision=row["revision"],
        task=row["task"],
        member=row["member"],
        members=row["members"],
        leader=row["leader"],
        series=_series.decode(row["series"]),
        content=row["content"],
        source=_sources.decode(row["source"]),
        seen_at=_places.decode(row["seen_at"]),
        completed_at=row["completed_at"],
        verdict=msgspec.Raw(row["verdict"].encode()),
        superseded=bool(row["superseded"]),
        overrides=_overrides.decode(row["overrides"]),
        take_incomplete=bool(row["take_incomplete"]),
        run=row["run"],
        removal_begun_at=row["removal_begun_at"],
        source_removed_at=row["source_removed_at"],
        source_kept=row["source_kept"],
        steps=steps,
    )


def _removal(scan: Scan) -> tuple[float | None, float | None, str]:
    return scan.removal_begun_at, scan.source_removed_at, _printable(scan.source_kept)


def _step_state(row: sqlite3.Row) -> StepState:
    return StepState(
        status=Status(row["status"]),
        attempts=row["attempts"],
        reason=row["reason"],
        cause=row["cause"],
        needs_bytes=row["needs_bytes"],
        retry_at=row["retry_at"],
        result=msgspec.Raw(row["result"].encode()),
        seconds=row["seconds"],
    )


def _step_values(state: StepState) -> tuple[str, int, str, str, int, float | None, str, float]:
    reason, result = _printable(state.reason), _text(bytes(state.result))
    failed = (state.attempts, reason, state.cause, state.needs_bytes, state.retry_at)
    return state.status, *failed, result, state.seconds


def _event_body(event: AnyEvent) -> str:
    """The event as JSON, without what the other tables hold and what may be long."""
    match event:
        case Completed(scan=scan, entered=entered):
            body: dict[str, Any] = {
                "event": event.__struct_config__.tag,
                "scan": scan,
                "path": entered.path,
                "revision": entered.revision,
                "task": entered.task,
                "files": entered.source.files,
                "bytes": entered.source.bytes,
            }
            return _json(body)
        case StepDone(result=result) if len(bytes(result)) > LARGEST_RESULT_BYTES:
            return _json(msgspec.structs.replace(event, result=msgspec.Raw(b"null")))
        case StepFailed(reason=reason) | SourceKept(reason=reason):
            return _json(msgspec.structs.replace(event, reason=_printable(reason)))
    return _json(event)


def _json(value: object) -> str:
    return _text(msgspec.json.encode(value))


def _text(encoded: bytes) -> str:
    return encoded.decode("utf-8")


def _printable(sentence: str) -> str:
    """A sentence may quote a file name that is not UTF-8; it must not keep the journal from being written."""
    return sentence.encode("utf-8", "backslashreplace").decode("utf-8")
