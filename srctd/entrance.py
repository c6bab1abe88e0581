"""Where a scan enters: known again by its content, or new; with a name of its own, and all its members.

Identity: files with the content of a known scan are that scan, wherever they lie and however often they are copied
or touched; other files at the path of a known one are a new revision of it.
"""

import asyncio
import os
import stat
import time
from contextlib import suppress

import msgspec
import structlog

from srctd.adapters import sync
from srctd.adapters.listing import Listed, Listing
from srctd.arrivals import Arrival, Site
from srctd.config import Config
from srctd.copies import Copies
from srctd.core.errors import HoldError, SourceChanged, SrctdError
from srctd.core.grouping import sole_stem
from srctd.core.lifecycle import Completed, Scan, SeenAgain, Status, Step, Superseded
from srctd.core.scan import FileEntry, Manifest, SourceFiles, scan_id, task_name
from srctd.core.series import series_of
from srctd.engine import Engine
from srctd.formats.content import content_digest
from srctd.messages import Messages
from srctd.taskfolder import owner_of, part_folder, task_folder

log = structlog.get_logger()


class Entrance:
    """Hands scans with a verdict over to the engine."""

    def __init__(self, config: Config, engine: Engine, copies: Copies, messages: Messages) -> None:
        self._config = config
        self._engine = engine
        self._copies = copies
        self._messages = messages
        self._shared = os.path.realpath(config.storage.shared)

    async def copy_ahead(self, arrival: Arrival, site: Site) -> None:
        """Only the settle time is awaited: copy meanwhile."""
        path = arrival.path
        # Asked of the names alone: shared storage may not answer.
        if arrival.copied_ahead or os.path.commonpath([path, self._shared]) == self._shared:
            return
        manifest = await asyncio.to_thread(_manifest, site.listing, arrival)
        if manifest is not None:
            arrival.copied_ahead = True
            scan = scan_id(path, self._next_revision(path))
            with suppress(HoldError):  # no such account: the scan will be held at LOGIN, with the sentence
                part, owner = part_folder(self._config, path, scan), owner_of(path, self._config.accounts)
                self._copies.begin(scan, manifest, part, owner)

    def changed(self, path: str) -> None:
        """Files changed that may be copied ahead."""
        self._copies.abandon(scan_id(path, self._next_revision(path)))

    def vanished(self, path: str) -> None:
        """Files went away that may have been copied ahead."""
        self._discard(path, scan_id(path, self._next_revision(path)))

    def _discard(self, path: str, scan: str) -> None:
        with suppress(HoldError):  # no such account: nothing was copied
            self._copies.discard(scan, part_folder(self._config, path, scan))

    async def take_in(self, arrival: Arrival, site: Site) -> bool:
        """Tell the engine; False if the files changed while they were judged, so that there is nothing to tell."""
        manifest = await asyncio.to_thread(_manifest, site.listing, arrival)
        if manifest is None:
            return False
        assert arrival.probed is not None
        ahead = scan_id(arrival.path, self._next_revision(arrival.path))
        try:
            content = await asyncio.to_thread(_content, manifest, arrival.probed.started)
            seen = await self._seen_before(arrival, manifest, content)
        except SrctdError as exc:  # the files changed, or storage is out of reach: at the next look, then
            log.warning("scan.not_compared", path=arrival.path, reason=exc.sentence)
            return False
        if seen:
            self._discard(arrival.path, ahead)
        else:
            await self._enter(arrival, site, manifest, content)
        return True

    async def _enter(self, arrival: Arrival, site: Site, manifest: Manifest, content: str) -> None:
        """One scan, or one for every member that the files hold; an earlier revision that is not done ends."""
        assert arrival.verdict is not None
        assert arrival.probed is not None
        path, now = arrival.path, time.time()
        await self._supersede(path)
        revision = self._next_revision(path)
        members = max(1, arrival.probed.members)
        leader = scan_id(path, revision)
        task = self._free_task(path, now)
        neighbors = [other for other in site.listing.groups if other != path]
        for member in range(members):
            own = task if members == 1 else f"{task}-m{member:03}"
            scan = Scan(
                id=scan_id(path, revision, member),
                path=path,
                root="" if site.only else arrival.root,
                revision=revision,
                task=own,
                member=member,
                members=members,
                leader=leader if member else "",
                series=series_of(path, neighbors),
                content=content,
                source=_in_short(manifest, arrival.listed),
                completed_at=now,
                verdict=msgspec.Raw(msgspec.json.encode(arrival.verdict)),
            )
            log.info(
                "scan.completed",
                scan=scan.id,
                path=path,
                files=len(manifest.files),
                bytes=manifest.size,
                verdict=str(arrival.verdict.state),
                reason=arrival.verdict.reason,
            )
            await self._engine.happen(Completed(scan=scan.id, entered=scan, manifest=manifest))

    async def _seen_before(self, arrival: Arrival, manifest: Manifest, content: str) -> bool:
        """Whether these very files are a known scan's: renamed, copied or touched. Then that is noted, and all.

        What was copied already is compared in full, by digests.
        """
        path = arrival.path
        twins = self._engine.with_content(content)
        if not twins:
            return False
        twin = twins[0]
        assert arrival.verdict is not None
        if self._messages.are_news(twin, path) and twin.judged.state is not arrival.verdict.state:
            return False  # the same files, but another verdict by what their acquisition said
        if twin.step(Step.SYNC).status is Status.DONE:
            if not await self._same_bytes(twin, manifest):
                return False
        elif path == twin.path:
            return False  # its copy is not made yet: it is begun anew
        left = not self._engine.newest_at(path) and not await asyncio.to_thread(os.path.exists, twin.path)
        moved = _in_short(manifest, arrival.listed) if left else None
        if path != twin.path:
            await self._supersede(path)
        for scan in twins:
            log.info("scan.seen_again", scan=scan.id, path=path)
            await self._engine.happen(
                SeenAgain(scan=scan.id, path=path, fingerprint=arrival.listed.fingerprint, moved=moved)
            )
        return True

    async def _supersede(self, path: str) -> None:
        """The files at a path were replaced: what is not done of the scan that they were ends."""
        for known in self._engine.newest_at(path):
            if not known.published and not known.superseded:
                await self._engine.happen(Superseded(scan=known.id))
                self._discard(known.path, known.id)

    async def _same_bytes(self, scan: Scan, manifest: Manifest) -> bool:
        """Whether files are, byte for byte, those that were copied of a scan."""
        holder = task_folder(self._config, scan)
        proven = await asyncio.to_thread(sync.published, holder)
        if proven is None or proven.size != manifest.size or len(proven.files) != len(manifest.files):
            return False
        try:
            found = await self._copies.digest_in_place(manifest)
        except SourceChanged:
            return False
        return sorted(file.digest for file in found.files) == sorted(file.digest for file in proven.files)

    def _next_revision(self, path: str) -> int:
        """The revision that files at a path get; an identifier is never given twice, though scans may move."""
        known = self._engine.newest_at(path)
        revision = known[0].revision + 1 if known else 1
        while scan_id(path, revision) in self._engine.scans:
            revision += 1
        return revision

    def _free_task(self, path: str, now: float) -> str:
        """A task directory's name that no other scan has."""
        taken = {
            scan.task.rsplit("-m", 1)[0] if scan.members > 1 else scan.task
            for scan in self._engine.scans.values()
        }
        name = task_name(path, now)
        names = (name if n == 1 else f"{name}-{n}" for n in range(1, len(taken) + 2))
        return next(name for name in names if name not in taken)


def _is_text(name: str) -> bool:
    """Whether a name can stand in JSON; the listing sees to that for the files themselves."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _content(manifest: Manifest, started: str) -> str:
    """Digest of the files; of one that is a scan by itself, or of a stack in company, the name does not count."""
    # A stack whose header names it is the same scan before and after others join it in its folder.
    stem = os.path.splitext(manifest.opened)[0] or sole_stem([file.path for file in manifest.files])
    files = [
        (file.path.removeprefix(stem), f"{manifest.folder}/{file.path}", file.size) for file in manifest.files
    ]
    return content_digest(files, started)


def _in_short(manifest: Manifest, listed: Listed) -> SourceFiles:
    return SourceFiles(
        folder=manifest.folder,
        opened=manifest.opened,
        files=len(manifest.files),
        bytes=manifest.size,
        fingerprint=listed.fingerprint,
    )


def _manifest(listing: Listing, arrival: Arrival) -> Manifest | None:
    """The files as they are now; None if they are not as they were judged.

    Referenced files below the scan's folder belong to the scan and are copied with it; others stay where they
    are and are reached by the absolute path that the file names.
    """
    manifest = listing.manifest(arrival.listed)
    if manifest is None:
        return None
    files = {file.path: file for file in manifest.files}
    for path in arrival.probed.references if arrival.probed else ():
        relative = os.path.relpath(path, manifest.folder)
        if relative.startswith("..") or relative in files or not _is_text(relative):
            continue
        with suppress(OSError):
            found = os.stat(path)
            if stat.S_ISREG(found.st_mode):
                files[relative] = FileEntry(path=relative, size=found.st_size, mtime_ns=found.st_mtime_ns)
    return msgspec.structs.replace(manifest, files=tuple(files.values()))
