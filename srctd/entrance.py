"""Where a scan enters: known again by its content, or new; with a name of its own, and all its members.

Identity: files with the content of a known scan are that scan, wherever they lie and however often they are copied
or touched; other files at the path of a known one are a new revision of it.
"""

import asyncio
import os
import stat
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from itertools import chain
from typing import NamedTuple

import msgspec
import structlog

from srctd.adapters import sync
from srctd.adapters.listing import Listing
from srctd.arrivals import Arrival, Site
from srctd.config import Config
from srctd.copies import Copies
from srctd.core.errors import HoldError, ScanUnreadable, SourceChanged, SrctdError
from srctd.core.grouping import sole_stem
from srctd.core.lifecycle import Completed, Scan, SeenAgain, Status, Step, Superseded
from srctd.core.scan import FileEntry, Manifest, SourceFiles, member_task, numbered, scan_id, task_name
from srctd.core.series import series_of
from srctd.engine import Engine
from srctd.formats.content import content_digest
from srctd.growing import Arriving
from srctd.messages import Messages
from srctd.taskfolder import owner_of, task_folder
from srctd.threads import at_storage

log = structlog.get_logger()


class _Comparison(NamedTuple):
    """Of files with those of a scan that was copied: under way, or done."""

    asked: tuple[str, Manifest]
    task: asyncio.Task[bool]


class Entrance:
    """Hands scans with a verdict over to the engine."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        copies: Copies,
        messages: Messages,
        wake: Callable[[], None],
    ) -> None:
        """`wake` is called when `take_in`, asked again, would say more."""
        self._config = config
        self._wake = wake
        self._comparing: dict[str, _Comparison] = {}
        self._engine = engine
        self._copies = copies
        self._messages = messages

    def follow(self, arrival: Arrival) -> None:
        """Files are still being written: copy what has settled of them."""
        settling, path = arrival.settling, arrival.path
        scan = self._scan_at(path)
        wanted = self._copies.wants(scan)
        if settling is None or wanted == "nothing":
            return
        if wanted == "all":
            settling.again()
        with suppress(HoldError):  # no such account: the scan will be held at LOGIN, with the sentence
            owner = owner_of(path, self._config.accounts)
            expected = max(arrival.expected_bytes, arrival.bytes)
            arriving = Arriving(scan, arrival.listed.folder, owner, expected)
            self._copies.follow(arriving, settling.take())
            arrival.scan = scan

    async def copy_ahead(self, arrival: Arrival, site: Site) -> None:
        """Only the settle time is awaited: end the copy meanwhile."""
        path = arrival.path
        if arrival.copied_ahead or not site.follows:
            return
        manifest = await asyncio.to_thread(_manifest, site.listing, arrival)
        if manifest is not None:
            arrival.copied_ahead = True
            scan = self._scan_at(path)
            with suppress(HoldError):  # no such account: the scan will be held at LOGIN, with the sentence
                self._copies.begin(scan, manifest, owner_of(path, self._config.accounts))
                arrival.scan = scan

    def changed(self, path: str) -> None:
        """Files changed of which a copy may have been ended ahead."""
        self._copies.abandon(self._scan_at(path))

    def vanished(self, path: str) -> None:
        """Files went away, or turned out to be no scan, of which something may have been copied."""
        self._copies.discard(self._scan_at(path))
        if compared := self._comparing.pop(path, None):
            compared.task.cancel()

    async def sweep(self, arriving: Callable[[], Collection[str]]) -> None:
        """Remove copies of an earlier run that no scan needs. `arriving`: paths of all that may become one."""

        def needed() -> Callable[[str], bool]:
            arrivals = frozenset(self._scan_at(path) for path in arriving())
            return lambda scan: scan in arrivals or self._goes_on(scan)

        await self._copies.sweep(needed)

    def _goes_on(self, scan: str) -> bool:
        """Whether a scan is known whose copy is not published yet."""
        known = self._engine.scans.get(scan)
        return known is not None and not known.superseded and known.step(Step.SYNC).status is not Status.DONE

    async def take_in(self, arrival: Arrival, site: Site) -> bool:
        """Tell the engine; False if the files changed while they were judged, so that there is nothing to tell."""
        manifest = await asyncio.to_thread(_manifest, site.listing, arrival)
        if manifest is None:
            return False
        assert arrival.probed is not None
        ahead = self._scan_at(arrival.path)
        try:
            content = await asyncio.to_thread(_content, manifest, arrival.probed.started)
            seen = await self._seen_before(arrival, manifest, content)
        except SrctdError as exc:  # the files changed, or storage is out of reach: at the next look, then
            log.warning("scan.not_compared", path=arrival.path, reason=exc.sentence)
            return False
        if seen is None:
            return False
        if seen:
            self._copies.discard(ahead)
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
        self._copies.entered(leader)
        task = self._free_task(path, now)
        neighbors = [other for other in site.listing.groups if other != path]
        for member in range(members):
            own = task if members == 1 else member_task(task, member)
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
                source=_in_short(manifest, arrival),
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

    async def _seen_before(self, arrival: Arrival, manifest: Manifest, content: str) -> bool | None:
        """Whether these very files are a known scan's: renamed, copied or touched. Then that is noted, and all.

        What was copied already is compared in full, by digests. None: that takes its time.
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
            same = self._compared(path, twin, manifest)
            if not same:
                return same
        elif path == twin.path:
            return False  # its copy is not made yet: it is begun anew
        left = not self._engine.newest_at(path) and not await asyncio.to_thread(os.path.exists, twin.path)
        moved = _in_short(manifest, arrival) if left else None
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
                self._copies.discard(known.id)

    def _compared(self, path: str, twin: Scan, manifest: Manifest) -> bool | None:
        """Whether files are a twin's, byte for byte; None while that is being found out.

        It may take as long as a copy, or for ever where storage does not answer: nobody else waits for it. Raises
        what went wrong.
        """
        asked = (twin.id, manifest)
        before = self._comparing.get(path)
        if before is None or before.asked != asked:
            if before is not None:
                before.task.cancel()
            task = asyncio.create_task(self._same_bytes(twin, manifest))
            task.add_done_callback(lambda _: self._wake())
            self._comparing[path] = _Comparison(asked, task)
            return None
        if not before.task.done():
            return None
        del self._comparing[path]
        return before.task.result()

    async def _same_bytes(self, scan: Scan, manifest: Manifest) -> bool:
        """Whether files are, byte for byte, those that were copied of a scan."""
        holder = task_folder(self._config, scan)
        proven = await at_storage(sync.published, holder)
        if proven is None or proven.size != manifest.size or len(proven.files) != len(manifest.files):
            return False
        try:
            found = await self._copies.digest_in_place(manifest)
        except SourceChanged:
            return False
        return sorted(file.digest for file in found.files) == sorted(file.digest for file in proven.files)

    def _scan_at(self, path: str) -> str:
        """The identifier that files at a path will have as a scan."""
        return scan_id(path, self._next_revision(path))

    def _next_revision(self, path: str) -> int:
        """The revision that files at a path get; an identifier is never given twice, though scans may move."""
        known = self._engine.newest_at(path)
        revision = known[0].revision + 1 if known else 1
        while scan_id(path, revision) in self._engine.scans:
            revision += 1
        return revision

    def _free_task(self, path: str, now: float) -> str:
        """A task directory's name that no other scan has."""
        taken, name = self._engine.tasks(), task_name(path, now)
        return next(free for free in chain([name], numbered(name)) if free not in taken)


def _is_text(name: str) -> bool:
    """Whether a name can stand in JSON; the listing sees to that for the files themselves."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _content(manifest: Manifest, started: str) -> str:
    """Digest of the files; of one that is a scan by itself, or of a stack in company, the name does not count.

    Empty where one is no regular file any more: the scan is known by nothing, and held at SYNC with the sentence.
    """
    # A stack whose header names it is the same scan before and after others join it in its folder.
    stem = os.path.splitext(manifest.opened)[0] or sole_stem([file.path for file in manifest.files])
    files = [
        (file.path.removeprefix(stem), f"{manifest.folder}/{file.path}", file.size) for file in manifest.files
    ]
    try:
        return content_digest(files, started)
    except ScanUnreadable as exc:
        log.warning("scan.not_known_by_content", path=manifest.main, reason=exc.sentence)
        return ""


def _in_short(manifest: Manifest, arrival: Arrival) -> SourceFiles:
    references = arrival.probed.references if arrival.probed else ()
    return SourceFiles(
        folder=manifest.folder,
        opened=manifest.opened,
        files=len(manifest.files),
        bytes=manifest.size,
        fingerprint=arrival.listed.fingerprint,
        references=tuple(path for path in references if not path.startswith(f"{manifest.folder}/")),
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
