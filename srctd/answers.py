"""What the control room may ask and tell, one method per command of the control socket."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from srctd import view
from srctd.adapters import sync
from srctd.adapters.control import BadRequest
from srctd.adapters.listing import wanted_names
from srctd.adapters.pool import Pool
from srctd.config import Config, WatchSection
from srctd.core.completion import Message
from srctd.core.grouping import frame_name, scan_folder, temporary
from srctd.core.layouts import ROLE_FOLDER
from srctd.core.lifecycle import READ_THE_SOURCE, Released, Scan, Status, Step, affected
from srctd.core.recipe import parse_setting
from srctd.engine import Engine
from srctd.intake import Intake
from srctd.retention import Retention
from srctd.spacewatch import SpaceWatch

STATUS_SCANS = 50

Answer = dict[str, Any]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What may be asked; unknown fields are ignored."""

    cmd: str
    scan: str = ""
    """Identifier, path or file name."""
    step: Step | None = None
    set: tuple[str, ...] = ()
    """KEY=VALUE each."""
    incomplete: bool = False
    """Take what is there of a scan that is not finished."""
    path: str = ""
    """Of a scan that has ended, absolute."""
    frames: Annotated[int, msgspec.Meta(ge=1, le=100_000_000)] | None = None
    """How many were taken, of all kinds together."""
    aborted: str = ""
    """Why the acquisition was broken off; empty if it was not."""
    limit: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = STATUS_SCANS


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of the daemon that are asked."""

    config: Config
    engine: Engine
    intake: Intake
    pool: Pool
    disks: SpaceWatch
    retention: Retention
    catalog_url: str


class Answers:
    """Reads what the daemon holds in memory, so that a status waits for nothing."""

    def __init__(self, parts: Parts) -> None:
        self.outbox_waiting = 0
        """Documents that the catalogue has not got yet; kept up to date by the daemon."""
        self._config = parts.config
        self._engine = parts.engine
        self._intake = parts.intake
        self._pool = parts.pool
        self._disks = parts.disks
        self._retention = parts.retention
        self._catalog_url = parts.catalog_url
        self._started_at = time.time()
        self._commands: Mapping[str, Callable[[Request], Awaitable[Answer]]] = {
            "status": self._status,
            "scan": self._scan,
            "why": self._why,
            "retry": self._retry,
            "submit": self._submit,
            "retention": self._outlook,
        }

    async def answer(self, fields: dict[str, Any]) -> Answer:
        """Answer one request of the control socket; raises `BadRequest` for what cannot be answered."""
        try:
            request = msgspec.convert(fields, Request)
        except msgspec.ValidationError as exc:
            raise BadRequest(f"the request is not of its form: {exc}") from exc
        if request.cmd not in self._commands:
            raise BadRequest(f"unknown command {request.cmd!r}", hint=f"known: {', '.join(self._commands)}")
        return await self._commands[request.cmd](request)

    async def _status(self, request: Request) -> Answer:
        jobs = self._pool.progress()
        scans = view.newest(self._engine.scans.values(), request.limit)
        section = self._config.catalog
        arrivals = list(self._intake.arrivals.values())
        return {
            "daemon": view.daemon_facts(self._started_at),
            "roots": [
                {
                    "path": site.root.path,
                    "file_system": site.system.kind,
                    "signals": "listing"
                    if site.system.remote or site.bell_problem
                    else "inotify and listing",
                    "problems": list(site.problems),
                }
                for site in self._intake.sites
            ],
            "scans": [
                view.scan_row(scan, jobs.get(scan.id) or self._pool.jobs_of(scan.id)) for scan in scans
            ],
            "scans_total": len(self._engine.scans),
            "arriving": [view.arrival_row(arrival) for arrival in arrivals if not arrival.foreign],
            "foreign_total": sum(arrival.foreign for arrival in arrivals),
            "workers": self._pool.workers(),
            "pool": self._pool.counters(),
            "catalog": {
                "configured": section.embedded or bool(section.url),
                "url": self._catalog_url,
                "waiting": self.outbox_waiting,
            },
            "storage": {"path": self._config.storage.shared, "free_bytes": self._disks.shared_free},
            "disks": self._disks.disks(),
            "retention": {
                "enabled": self._config.retention.enabled,
                "problems": list(self._retention.problems),
            },
        }

    async def _scan(self, request: Request) -> Answer:
        scan = self._named(request)
        return view.scan_details(scan, self._pool.jobs_of(scan.id))

    async def _why(self, request: Request) -> Answer:
        name = request.scan
        for path, arrival in self._intake.arrivals.items():
            if _is_called(path, name):
                return {"scan": path, "sentences": view.why_arriving(arrival)}
        scan = self._named(request)
        return {"scan": scan.id, "sentences": view.why(scan, self._pool.jobs_of(scan.id))}

    async def _retry(self, request: Request) -> Answer:
        scan = self._named(request)
        overrides = dict(parse_setting(setting) for setting in request.set)
        again = request.step or (Step.SUBMIT if overrides else None)
        if scan.superseded:
            raise BadRequest(f"{scan.id} was superseded by a later revision", hint="name that one")
        if request.incomplete and (scan.partial or scan.held is not Step.CHECK):
            raise BadRequest(f"{scan.id} is not held for being incomplete", hint="leave --incomplete out")
        if again is None and scan.done and not scan.source_kept:
            raise BadRequest(f"{scan.id} is done", hint="name a step to do again: --step reconstruct")
        if affected(scan, again) & READ_THE_SOURCE and not scan.source_is_whole:
            gone, instead = view.source_is_gone(scan)
            raise BadRequest(gone, hint=instead)
        busy = [step for step in affected(scan, again) if scan.step(step).status is Status.RUNNING]
        if busy:
            raise BadRequest(
                f"{scan.id}: {', '.join(sorted(busy))} is running", hint="try again when it ended"
            )
        scan = await self._engine.happen(
            Released(scan=scan.id, again=again, overrides=overrides, take_incomplete=request.incomplete)
        )
        return view.scan_row(scan, self._pool.jobs_of(scan.id))

    async def _outlook(self, _: Request) -> Answer:
        outlooks, problems = await self._retention.outlook()
        known = (*problems, *self._retention.problems)
        return view.retention_answer(self._config.retention, outlooks, list(dict.fromkeys(known)))

    async def _submit(self, request: Request) -> Answer:
        path = await asyncio.to_thread(self._place, request.path)
        await self._intake.told(path, Message(frames=request.frames, aborted=request.aborted))
        known = self._engine.at(path)
        return {"path": path, "known": known.id if known else ""}

    def _place(self, path: str) -> str:
        """The real path of a scan; raises `BadRequest` for what cannot be one."""
        if not os.path.isabs(path):
            raise BadRequest(f"{path!r} is no absolute path", hint="name the scan's file or folder in full")
        if not os.path.exists(path):
            raise BadRequest(f"{path} is not there for the daemon", hint="is it mounted on its machine?")
        watched = next((root for root in self._config.watch if sync.inside(path, root.path)), None)
        if not watched and _among_results(path, self._config.storage.shared):
            raise BadRequest(f"{path} lies among the results", hint="`srctd retry` does a scan again")
        root = watched or self._config.watch[0]
        return _scan_meant(os.path.realpath(path), root, os.path.realpath(root.path) if watched else "")

    def _named(self, request: Request) -> Scan:
        """The scan that is meant: by identifier, by path, or by file name; the newest where several fit."""
        name = request.scan
        if (there := self._engine.at(name)) is not None:
            return there
        scans = sorted(self._engine.scans.values(), key=lambda scan: scan.completed_at, reverse=True)
        for scan in scans:
            if name == scan.id or _is_called(scan.path, name):
                return scan
        for scan in scans:  # a copy, or what it was called before
            if any(_is_called(path, name) for path in scan.seen_at):
                return scan
        raise BadRequest(f"no scan {name!r}", hint="`srctd status` lists them")


def _among_results(path: str, shared: str) -> bool:
    """Whether a path is shared storage itself, or lies in a task folder or in a copy that grows."""
    if not sync.inside(path, shared):
        return False
    top = os.path.realpath(shared)
    names = Path(os.path.realpath(path)).relative_to(top).parts
    hidden = any(name.startswith(".") for name in names)
    return not names or hidden or os.path.exists(os.path.join(top, *names[:2], sync.MANIFEST))


def _scan_meant(path: str, root: WatchSection, top: str) -> str:
    """The scan's own path: a frame or a role's folder leads to its folder, a folder with one HDF5 file to that.

    `top`: the watched folder in which it lies, or empty; there it may still come. Raises `BadRequest` where no
    scan, or more than one, is meant.
    """
    if not os.path.isdir(path) and not frame_name(path):
        return path
    folder = scan_folder(path if os.path.isdir(path) else os.path.dirname(path), top or "/")
    try:
        names = os.listdir(folder)
    except OSError as exc:
        raise BadRequest(f"{folder} cannot be looked at: {exc.strerror}") from exc
    if any(frame_name(name) or ROLE_FOLDER.fullmatch(name) for name in names):
        return folder
    wanted = wanted_names(root.patterns)
    files = sorted(name for name in names if wanted.match(name) and not temporary(name))
    if len(files) > 1 or folder == top:
        raise BadRequest(f"{path} is the folder of several scans", hint="name the file or folder of one")
    if not files and not top:
        raise BadRequest(f"{path} holds neither frames nor a file of them", hint="name the scan's own folder")
    return os.path.join(folder, *files)


def _is_called(path: str, name: str) -> bool:
    return name in (path, os.path.basename(path), Path(path).stem)
