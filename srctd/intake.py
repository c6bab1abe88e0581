"""From directory listings to scans with a verdict: list, see what changed, probe, judge, hand over.

The doorbell (inotify) only shortens the wait; every decision rests on the listing. Files are opened when nothing
changed between two looks, never locked, and not again until something changes or time alone can change the verdict.
"""

import asyncio
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec
import structlog

from srctd.adapters import sync
from srctd.adapters.listing import Listed, Listing, References
from srctd.adapters.watch import FileSystem, Watch, file_system
from srctd.config import Config, WatchSection
from srctd.copies import Copies
from srctd.core import completion
from srctd.core.completion import Message, Probe, Rule, State, Verdict
from srctd.core.errors import HoldError, SourceChanged, SrctdError
from srctd.core.lifecycle import Completed, Scan, SeenAgain, Status, Step, Superseded
from srctd.core.scan import FileEntry, Manifest, SourceFiles, scan_id, task_name
from srctd.core.series import series_of
from srctd.engine import Engine
from srctd.formats.content import content_digest
from srctd.formats.isolated import IsolatedReader
from srctd.formats.protocol import ReadOptions
from srctd.messages import Messages
from srctd.taskfolder import part_folder, task_folder

log = structlog.get_logger()

SHORTEST_PAUSE_SECONDS = 0.02
ROUND_SECONDS = 1.0
"""After so long a round is broken off and the folders are listed again: there may be something newer."""
DEBOUNCE_SECONDS = 0.1
"""A detector that writes 1,000 files a second rings as often; a look serves them all."""
PROBE_COST = 10.0
"""A scan is probed again after so many times what a probe of it takes, or after `PROBE_PAUSE_SECONDS`."""
PROBE_PAUSE_SECONDS = 5.0
FINAL = frozenset({State.COMPLETE, State.INCOMPLETE_USABLE, State.ABORTED, State.STALLED})
"""Verdicts with which a scan enters; new data brings it back as a new revision."""


@dataclass(kw_only=True)
class Arrival:
    """Files that are no scan with a verdict yet, or no scan at all."""

    listed: Listed
    root: str
    first_seen_at: float
    """UTC timestamp."""
    changed_at: float
    """Monotonic: when the listing first saw the files as they are."""
    pause_seconds: float = 0.0
    """The longest time between two changes."""
    quiet_seconds: float = 0.0
    probed: Probe | None = None
    probe_allowed_at: float = 0.0
    """Monotonic: a scan that changes all the while is not read all the while."""
    probe_again_at: float = 0.0
    """Monotonic; a piece that is missing may come without a change of these files."""
    verdict: Verdict | None = None

    @property
    def path(self) -> str:
        """What is opened: a file or a folder."""
        return self.listed.path

    @property
    def files(self) -> int:
        """How many there are."""
        return self.listed.files

    @property
    def bytes(self) -> int:
        """Of all files."""
        return self.listed.bytes

    @property
    def foreign(self) -> bool:
        """Whether it was found to be no tomography."""
        return self.verdict is not None and self.verdict.state is State.FOREIGN

    def see(self, listed: Listed, looked_at: float) -> bool:
        """Take note of a look at the files; return whether they had changed."""
        changed = listed.fingerprint != self.listed.fingerprint
        if changed:
            self.pause_seconds = max(self.pause_seconds, looked_at - self.changed_at)
            self.changed_at = looked_at
            self.probed = None
        self.listed = listed
        self.quiet_seconds = max(0.0, looked_at - self.changed_at)
        return changed


@dataclass(kw_only=True)
class Site:
    """A watched root with what is known of it."""

    root: WatchSection
    listing: Listing
    rule: Rule
    options: ReadOptions
    system: FileSystem
    bell_problem: str = ""
    only: str = ""
    """Of a scan that was submitted from elsewhere: the one path that is meant."""
    problems: tuple[str, ...] = field(default=())

    def groups(self) -> list[Listed]:
        """What may be scans, the newest first: a thousand old ones must not keep it waiting."""
        groups = self.listing.groups.values()
        meant = [listed for listed in groups if self.only in ("", listed.path, listed.folder)]
        return sorted(meant, key=lambda listed: -listed.newest_ns)


class Intake:
    """Watches the roots and tells the engine of scans that are complete, or will not become so."""

    def __init__(
        self, config: Config, engine: Engine, reader: IsolatedReader, copies: Copies, messages: Messages
    ) -> None:
        self.arrivals: dict[str, Arrival] = {}
        self._config = config
        self._engine = engine
        self._reader = reader
        self._copies = copies
        self._messages = messages
        self._references = References()
        self._bell = asyncio.Event()
        self._pieces: dict[str, tuple[str, ...]] = {}  # held scan's path -> files it waits for
        self._stopping = threading.Event()
        self.sites = [self._site(root) for root in config.watch]

    def _site(self, root: WatchSection, only: str = "") -> Site:
        system = file_system(root.path)
        rule = msgspec.structs.replace(
            root.rule, settle_seconds=max(root.settle_seconds, system.cache_seconds)
        )
        limit = os.path.dirname(only) if only else ""
        return Site(
            root=root,
            listing=Listing(root, self._stopping, limit),
            rule=rule,
            options=root.read_options(self._config.formats),
            system=system,
            only=only,
        )

    async def run_forever(self) -> None:
        """Watch first, then list, and list again: whenever the bell rings, a verdict may change, or time is up."""
        loop = asyncio.get_running_loop()

        def ring() -> None:
            loop.call_soon_threadsafe(self._bell.set)

        watch = Watch(self._config.watch, ring)
        await asyncio.to_thread(watch.start)
        await asyncio.to_thread(self._reader.start)
        for path in await self._messages.load():
            self._follow(path)
        try:
            while True:
                self._bell.clear()
                began = time.monotonic()
                pause = await self._round(watch)
                took = time.monotonic() - began
                try:
                    async with asyncio.timeout(pause):
                        await self._bell.wait()
                    await asyncio.sleep(max(DEBOUNCE_SECONDS, 2 * took))
                except TimeoutError:
                    pass
        finally:
            self._stopping.set()
            await asyncio.to_thread(watch.stop)

    async def told(self, path: str, message: Message) -> None:
        """An acquisition says that its scan at a path ended; the next look takes it into account."""
        await self._messages.put(path, message)
        self._follow(path)
        self._bell.set()

    def _follow(self, path: str) -> None:
        """Look at a path that was told of, also if it lies below no watched root."""
        for site in self.sites:
            if sync.inside(path, site.root.path) and site.only in ("", path):
                site.listing.look_at_once(path)
                return
        top = path if os.path.isdir(path) else os.path.dirname(path)
        self.sites.append(self._site(msgspec.structs.replace(self._config.watch[0], path=top), path))

    # --- looking ------------------------------------------------------------------------------------------

    async def _round(self, watch: Watch) -> float:
        """Look once at every root; return the longest pause until the next look."""
        rung = watch.rung()
        present: set[str] = set()
        pause = min(site.root.listing_seconds for site in self.sites)
        until = time.monotonic() + ROUND_SECONDS
        for site in list(self.sites):
            await self._list(site, watch, rung)
            groups = site.groups()
            present.update(listed.path for listed in groups)
            for listed in groups:
                if time.monotonic() > until:
                    return 0.0
                if not self._is_known(listed):
                    pause = min(pause, await self._look_at(listed, site))
                elif self._messages.about(listed.path):
                    await self._messages.drop(listed.path)
            pause = min(pause, max(site.listing.seconds_to_next(time.monotonic()), SHORTEST_PAUSE_SECONDS))
        self.arrivals = {path: arrival for path, arrival in self.arrivals.items() if path in present}
        self._pieces = {path: pieces for path, pieces in self._pieces.items() if path in present}
        self.sites = [site for site in self.sites if not site.only or self._messages.about(site.only)]
        return pause

    async def _list(self, site: Site, watch: Watch, rung: set[str]) -> None:
        """List what is due below a root; note what keeps it from being watched or listed."""
        if not site.only:
            site.bell_problem = await asyncio.to_thread(watch.listen, site.root)
        site.listing.busy = {path for path, arrival in self.arrivals.items() if not arrival.foreign}
        await asyncio.to_thread(site.listing.look, rung, time.monotonic())
        problems = (*filter(None, (site.bell_problem,)), *site.listing.problems)
        if problems != site.problems:
            for sentence in problems:
                log.warning("watch.problem", root=site.root.path, reason=sentence)
        site.problems = problems

    def _is_known(self, listed: Listed) -> bool:
        """Whether there is nothing to be found out: no scan at all, or one that entered as it is."""
        arrival = self.arrivals.get(listed.path)
        if arrival is not None and arrival.foreign and arrival.listed.fingerprint == listed.fingerprint:
            return True
        known = self._engine.holding(listed.path, listed.fingerprint)
        if known is None:
            return False
        waits = known.held is Step.CHECK
        return not waits and self.arrivals.pop(listed.path, None) is None

    async def _look_at(self, listed: Listed, site: Site) -> float:
        """Judge one group of files; return after how many seconds a look may say something new."""
        path = listed.path
        known = self._engine.holding(path, listed.fingerprint)
        if known and not await self._piece_came(known, site):
            self.arrivals.pop(path, None)
            return site.root.listing_seconds
        looked_at = site.listing.looked_at(listed)
        arrival = self.arrivals.get(path)
        if arrival is None:
            arrival = Arrival(
                listed=listed, root=site.root.path, first_seen_at=time.time(), changed_at=looked_at
            )
            self.arrivals[path] = arrival
            log.info("scan.arriving", path=path)
        if arrival.see(listed, looked_at):
            self._copies.abandon(self._next_id(path))
        half = site.rule.settle_seconds / 2
        if arrival.quiet_seconds < half and arrival.probed is None:
            site.listing.look_again(listed, arrival.changed_at + half)
            return half - arrival.quiet_seconds
        wait = arrival.probe_allowed_at - time.monotonic()
        if arrival.probed is None and wait > 0:
            return wait
        return await self._judge(arrival, site)

    async def _piece_came(self, known: Scan, site: Site) -> bool:
        """Whether an external file, for want of which a scan is held, is there now."""
        if known.held is not Step.CHECK:
            self._pieces.pop(known.path, None)
            return False
        wanted = self._pieces.get(known.path)
        if wanted is None:
            probed = await asyncio.to_thread(self._reader.probe, known.source.main, site.options)
            stalled = msgspec.json.decode(known.verdict, type=Verdict).state is State.STALLED
            came = stalled and probed.readable and not probed.missing
            wanted = probed.references if came else await asyncio.to_thread(_missing, probed.references)
            self._pieces[known.path] = wanted
        return len(await asyncio.to_thread(_missing, wanted)) < len(wanted)

    # --- judging ------------------------------------------------------------------------------------------

    async def _judge(self, arrival: Arrival, site: Site) -> float:
        now = time.monotonic()
        if arrival.probed is None or (arrival.probed.missing and now >= arrival.probe_again_at):
            arrival.probed = await asyncio.to_thread(self._reader.probe, arrival.path, site.options)
            pause = min(PROBE_COST * (time.monotonic() - now), PROBE_PAUSE_SECONDS)
            arrival.probe_allowed_at = time.monotonic() + pause
            arrival.probe_again_at = now + site.root.listing_seconds + pause
        probed = arrival.probed
        if probed.references:
            far = await asyncio.to_thread(self._references.quiet_of, probed.references, now)
            arrival.quiet_seconds = min(arrival.quiet_seconds, far)
        message = self._messages.about(arrival.path)
        believed = completion.with_message(probed, message) if message else probed
        verdict = completion.judge(believed, arrival.quiet_seconds, site.rule, arrival.pause_seconds)
        if arrival.verdict is None or verdict.state is not arrival.verdict.state:
            log.info("scan.judged", path=arrival.path, verdict=str(verdict.state), reason=verdict.reason)
        arrival.verdict = verdict
        if verdict.state in FINAL:
            await self._hand_over(arrival, site)
            return site.root.listing_seconds
        if verdict.nothing_missing:
            await self._copy_ahead(arrival, site)
        if not verdict.recheck_seconds:
            return site.root.listing_seconds
        wait = max(verdict.recheck_seconds - (time.monotonic() - now), SHORTEST_PAUSE_SECONDS)
        site.listing.look_again(arrival.listed, time.monotonic() + wait)
        return wait

    async def _copy_ahead(self, arrival: Arrival, site: Site) -> None:
        """Only the settle time is awaited: copy meanwhile."""
        path = arrival.path
        if sync.inside(path, self._config.storage.shared):
            return
        manifest = await asyncio.to_thread(_manifest, site.listing, arrival)
        if manifest is not None:
            scan = self._next_id(path)
            with suppress(HoldError):  # no such account: the scan will be held at LOGIN, with the sentence
                self._copies.begin(scan, manifest, part_folder(self._config, path, scan))

    # --- handing over -------------------------------------------------------------------------------------

    async def _hand_over(self, arrival: Arrival, site: Site) -> None:
        """Tell the engine, unless the files changed while they were judged."""
        manifest = await asyncio.to_thread(_manifest, site.listing, arrival)
        if manifest is None:
            return
        assert arrival.probed is not None
        try:
            content = await asyncio.to_thread(_content, manifest, arrival.probed.started)
            seen = await self._seen_before(arrival, manifest, content)
        except SrctdError as exc:  # the files changed, or storage is out of reach: at the next look, then
            log.warning("scan.not_compared", path=arrival.path, reason=exc.sentence)
            return
        if not seen:
            await self._enter(arrival, site, manifest, content)
        del self.arrivals[arrival.path]
        self._pieces.pop(arrival.path, None)
        await self._messages.drop(arrival.path)

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
            if not known.done and not known.superseded:
                await self._engine.happen(Superseded(scan=known.id))

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

    def _next_id(self, path: str) -> str:
        """Identifier that files will have as a scan, once it is complete."""
        return scan_id(path, self._next_revision(path))

    def _free_task(self, path: str, now: float) -> str:
        """A task directory's name that no other scan has."""
        taken = {scan.task.split("-m0", 1)[0] for scan in self._engine.scans.values()}
        name = task_name(path, now)
        names = (name if n == 1 else f"{name}-{n}" for n in range(1, len(taken) + 2))
        return next(name for name in names if name not in taken)


def _missing(paths: Sequence[str]) -> tuple[str, ...]:
    return tuple(path for path in paths if not os.path.exists(path))


def _is_text(name: str) -> bool:
    """Whether a name can stand in JSON; the listing sees to that for the files themselves."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _content(manifest: Manifest, started: str) -> str:
    """Digest of the files; of one that is a scan by itself, or of a stack in company, the name does not count."""
    stem = os.path.splitext(manifest.opened)[0]
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
            stat = os.stat(path)
            files[relative] = FileEntry(path=relative, size=stat.st_size, mtime_ns=stat.st_mtime_ns)
    return msgspec.structs.replace(manifest, files=tuple(files.values()))
