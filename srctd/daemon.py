"""The daemon: the only place that builds the adapters and wires them."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import structlog

from srctd.adapters import sync
from srctd.adapters.catalog import Catalog, CatalogSettings
from srctd.adapters.children import Children, ChildSpec
from srctd.adapters.control import Control
from srctd.adapters.journal import Journal, OutboxObject
from srctd.adapters.ownership import Ownership
from srctd.adapters.pace import Paces
from srctd.adapters.pool import Pool
from srctd.adapters.remote import Remote
from srctd.adapters.service import Service
from srctd.adapters.space import SharedStorage
from srctd.answers import Answers, Parts
from srctd.catalogd.app import password_file
from srctd.catalogd.auth import ADMIN, create_admin
from srctd.catalogd.store import Store
from srctd.config import STEP_TIMEOUTS, Config, expanded, read_secret
from srctd.configfile import load_recipes
from srctd.copies import Copies, Place
from srctd.core.datasets import CatalogObject
from srctd.core.errors import ConfigError
from srctd.core.remote import Target
from srctd.core.scan import Manifest
from srctd.departures import Departures
from srctd.engine import Engine, JournalThread
from srctd.formats.isolated import IsolatedReader
from srctd.formats.layouts import load_layouts
from srctd.formats.tagtables import load_tables
from srctd.intake import Intake
from srctd.messages import Messages
from srctd.parts import PartFolders, identity
from srctd.releases import Releases
from srctd.retention import Retention
from srctd.room import Room
from srctd.services import Services
from srctd.spacewatch import SpaceWatch

log = structlog.get_logger()

MOST_THREADS = 256
"""For calls that block. One that waits for a dead server keeps its thread, and listing and judging need theirs all
the same; asyncio's own few would soon be used up. A thread is made when no other is idle."""
CLOSED_MASK = 0o027
"""What grows is for the daemon's user and group alone; what is finished gets the modes of [ownership]."""
OUTBOX_SECONDS = 2.0
"""How often the documents that wait for the catalogue are counted."""


class Outbox:
    """The journal's outbox as the steps see it."""

    def __init__(self, journal: Journal, thread: JournalThread) -> None:
        self._journal = journal
        self._thread = thread

    async def put(self, scan: str, objects: Sequence[CatalogObject]) -> None:
        """Add what is not in the list yet."""
        rows = [
            OutboxObject(obj.key, position, obj.kind, obj.dataset_pid, bytes(obj.body))
            for position, obj in enumerate(objects)
        ]
        await self._thread.call(self._journal.outbox_put, scan, rows)

    async def waiting(self, scan: str, prefix: str) -> list[CatalogObject]:
        """What was not posted yet of the keys with a prefix, in order."""
        rows = await self._thread.call(self._journal.outbox, scan, prefix)
        waiting = [
            {"kind": row.kind, "key": row.key, "dataset_pid": row.dataset_pid, "body": msgspec.Raw(row.body)}
            for row in rows
            if row.posted_at is None
        ]
        return msgspec.convert(waiting, list[CatalogObject])

    async def posted(self, scan: str, key: str, remote_id: str) -> None:
        """Note that an object is in the catalogue."""
        await self._thread.call(self._journal.outbox_posted, scan, key, remote_id, time.time())


class Daemon:
    """One running srctd."""

    def __init__(self, config: Config) -> None:
        """Builds everything; raises `ConfigError` or `JournalError`. Nothing runs before `run`."""
        self.config = config
        self._stop = asyncio.Event()
        state = Path(config.daemon.state_directory)
        _make_folder(state, "daemon.state_directory")
        self.journal = Journal(state / "journal.sqlite")
        self._thread = JournalThread()
        self._service = Service()
        self._reader = IsolatedReader()
        self._children = Children()
        self.control = Control(config.control.endpoint, config.control.feed_endpoint, self._answer)
        self.pool = Pool(
            config.pool_endpoints, lease_seconds=config.pool.lease_seconds, on_event=self._pool_event
        )
        self._catalog_url = _embedded_url(config) if config.catalog.embedded else config.catalog.url
        storage = SharedStorage(config.storage.shared, str(state / "storage"), config.space.thresholds)
        ownership = Ownership(config.ownership)
        log.info("daemon.ownership", sentence=ownership.check(config.storage.shared))
        parts = PartFolders(config.storage.shared, identity(state))
        room = Room(config, storage, parts, lambda: self.engine.scans.values())
        self._paces = Paces(config.watch, config.daemon.copies_at_once, config.storage.shared)
        place = Place(storage, ownership, parts)
        copies = Copies(config, place, self._paces, room.promised)
        # A mistake in a table is named now, not at the first scan that needs it.
        load_tables(config.formats.tags_directory)
        load_layouts(config.formats.layouts_directory)
        services = Services(
            config=config,
            recipes=load_recipes(config.recipes),
            pool=self.pool,
            catalog=self._catalog(),
            outbox=Outbox(self.journal, self._thread),
            reader=self._reader,
            storage=storage,
            room=room,
            ownership=ownership,
            copies=copies,
            parts=parts,
            remote=remote_host(config),
            manifest=self._manifest,
            rename=lambda scan: self.engine.rename(scan),
        )
        timeouts = {**STEP_TIMEOUTS, **config.daemon.step_timeout_seconds}
        self.engine = Engine(self.journal, self._thread, services, timeouts, self.control.publish)
        messages, departures = Messages(self.journal, self._thread), Departures()
        self.intake = Intake(config, self.engine, self._reader, copies, messages, departures)
        self.disks = SpaceWatch(storage, _other_places(config), self.control.publish)
        self._releases = Releases(self.engine, room, self.disks)
        self.retention = Retention(
            services, self.engine, self.intake, departures, self._last_finished, self.control.publish
        )
        self.answers = Answers(
            Parts(
                config=config,
                engine=self.engine,
                intake=self.intake,
                pool=self.pool,
                disks=self.disks,
                copies=copies,
                retention=self.retention,
                catalog_url=self._catalog_url,
            )
        )

    async def run(self) -> None:
        """Serve until a signal; raises what ends the process."""
        for endpoint in (*self.config.pool_endpoints, self.config.control.endpoint):
            _refuse_taken(endpoint)
        self.pool.bind()
        self.control.bind()
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="blocking"))
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stop.set)
        scans = await self._thread.call(self.journal.load)
        self.engine.load(scans)
        await self.retention.load()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(work, name=name)
                    for name, work in {
                        "engine": self.engine.run_forever(),
                        "paces": self._paces.run_forever(),
                        "pool": self.pool.run_forever(),
                        "control": self.control.run_forever(),
                        "children": self._children.run_forever(self._child_specs()),
                        "service": self._tell_systemd(),
                        "outbox": self._count_outbox(),
                        "space": self.disks.run_forever(),
                        "releases": self._releases.run_forever(),
                    }.items()
                ]
                first_to_stop = [
                    group.create_task(self.intake.run_forever(), name="intake"),
                    group.create_task(self.retention.run_forever(), name="retention"),
                ]
                log.info("daemon.started", scans=len(self.engine.scans), pool=self.pool.endpoints)
                await self._stop.wait()
                await self._shut_down(first_to_stop)
                for task in tasks:
                    task.cancel()
        finally:
            self.pool.close()
            self.control.close()
            await asyncio.to_thread(self._reader.close)
            self._thread.close()
            self.journal.close()
        log.info("daemon.stopped")

    async def _manifest(self, scan: str) -> Manifest:
        return await self._thread.call(self.journal.manifest, scan)

    async def _last_finished(self) -> dict[str, float]:
        return await self._thread.call(self.journal.last_finished)

    async def _shut_down(self, first: Sequence[asyncio.Task[None]]) -> None:
        """Intake and retention first, then the steps, then the children; the next start does again what is cut
        short.
        """
        self._service.stopping()
        log.info("daemon.stopping", grace_seconds=self.config.daemon.stop_grace_seconds)
        for task in first:
            task.cancel()
        await self.pool.drain()
        await self.engine.stop(self.config.daemon.stop_grace_seconds)
        await self._children.stop()

    def _pool_event(self, topic: str, fields: dict[str, Any]) -> None:
        log.info(topic, **fields)
        self.control.publish(topic, fields)

    async def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        return await self.answers.answer(request)

    async def _tell_systemd(self) -> None:
        """Readiness, one status line, and the watchdog, fed only while this loop lives."""
        self._service.ready()
        while True:
            active = [scan for scan in self.engine.scans.values() if not (scan.done or scan.superseded)]
            held = sum(scan.held is not None for scan in active)
            workers = self.pool.worker_count()
            self._service.status(f"{len(active)} scans under way, {held} held, {workers} workers")
            self._service.watchdog()
            await asyncio.sleep(self._service.interval_seconds)

    async def _count_outbox(self) -> None:
        while True:
            self.answers.outbox_waiting = await self._thread.call(self.journal.outbox_waiting)
            await asyncio.sleep(OUTBOX_SECONDS)

    def _catalog(self) -> Catalog | None:
        section = self.config.catalog
        if section.embedded:
            database = Path(self.config.daemon.state_directory) / "catalog.sqlite"
            username, password = _embedded_account(database)
            return Catalog(CatalogSettings(url=self._catalog_url, username=username, password=password))
        if not section.url:
            return None
        return Catalog(
            CatalogSettings(
                url=section.url,
                username=section.username,
                password=read_secret(section.password_file, "catalog.password_file"),
                token=read_secret(section.token_file, "catalog.token_file"),
                verify=section.verify_tls,
            )
        )

    def _child_specs(self) -> list[ChildSpec]:
        """Local workers and the embedded catalogue."""
        section = self.config.pool
        workers, threads = local_workers(self.config)
        specs = [
            ChildSpec(
                name=f"worker-{n}",
                command=(
                    *(sys.executable, "-P", "-m", "gpu", "worker"),
                    *("--connect", self.pool.endpoints[0]),
                    *("--name", f"{socket.gethostname()}-{n}"),
                    *("--threads", str(threads), "--nice", str(section.worker_nice)),
                ),
                on_exit=self.pool.worker_died,
            )
            for n in range(workers)
        ]
        if self.config.catalog.embedded:
            database = Path(self.config.daemon.state_directory) / "catalog.sqlite"
            port = self._catalog_url.rsplit(":", 1)[1]
            program = (sys.executable, "-P", "-m", "srctd", "catalog")
            command = (*program, "--database", str(database), "--port", port)
            specs.append(ChildSpec(name="catalog", command=command))
        return specs


def remote_host(config: Config) -> Remote | None:
    """The further host that gets copies and results, if there is one."""
    section, modes = config.remote, config.ownership
    if not section.target:
        return None
    target = Target(
        login=section.login,
        folder=section.folder,
        port=section.port,
        identity_file=expanded(section.identity_file),
        known_hosts_file=expanded(section.known_hosts_file),
        file_mode=modes.file_mode,
        folder_mode=modes.folder_mode,
    )
    return Remote(target, config.daemon.copies_at_once)


def local_workers(config: Config) -> tuple[int, int]:
    """Worker processes to start and threads for each."""
    cores = len(os.sched_getaffinity(0))
    wanted = config.pool.local_workers
    workers = max(1, cores // 8) if wanted == "auto" else wanted
    threads = config.pool.threads_per_worker or max(1, cores // max(1, workers))
    return workers, threads


def run(config: Config) -> None:
    """Run the daemon until it is told to stop."""
    os.umask(os.umask(CLOSED_MASK) | CLOSED_MASK)

    async def go() -> None:
        await Daemon(config).run()
        # Everything is journaled and closed. A thread that hangs on a dead server must not keep the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(go())


def _refuse_taken(endpoint: str) -> None:
    """Raise `ConfigError` if somebody serves an ipc endpoint: ZeroMQ would take it away from them."""
    scheme, _, path = endpoint.partition("://")
    if scheme != "ipc":
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        try:
            caller.connect(path)
        except OSError:
            return
    raise ConfigError(f"endpoint {endpoint!r} is served by another process", hint="is another srctd running?")


def _make_folder(path: Path, key: str) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"{key} = {str(path)!r} cannot be made: {exc.strerror}") from exc


def _other_places(config: Config) -> dict[str, str]:
    """Folders besides shared storage whose disks must not fill up."""
    roots = {root.path: "detector" for root in config.watch}
    return {**roots, config.daemon.state_directory: "state"}


def _embedded_url(config: Config) -> str:
    """URL of the embedded catalogue; a free port is chosen once and kept."""
    port = config.catalog.embedded_port
    kept = Path(config.daemon.state_directory) / "catalog.port"
    if not port:
        with contextlib.suppress(OSError, ValueError):
            port = int(kept.read_text(encoding="ascii"))
    if not 0 < port < 65536:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        sync.write_atomic(kept, str(port).encode())
    return f"http://127.0.0.1:{port}"


def _embedded_account(database: Path) -> tuple[str, str]:
    """Account and password of the embedded catalogue, made at the first start."""
    store = Store(database)
    create_admin(store, password_file(database))
    store.close()
    return ADMIN, read_secret(str(password_file(database)), "the embedded catalogue's password")
