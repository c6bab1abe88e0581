"""Retention: sources leave the detectors' disks, one at a time, once they are safe elsewhere. Off by default.

`core.retention` decides whose turn it is. Before a source goes, its copy is read back in full from the storage and
compared with the digests taken when it was written, and every file of the source must be as it was copied. Then the
intention is journaled, the files are removed, and that is journaled.
"""

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import structlog

from srctd.adapters import removal, sync
from srctd.core import retention
from srctd.core.errors import DigestMismatch, HoldError, StorageUnavailable, TransientError
from srctd.core.grouping import frame_name
from srctd.core.lifecycle import Scan, SourceKept, SourceRemovalBegun, SourceRemoved, Status, Step
from srctd.core.retention import Candidate, Disk, Outlook
from srctd.core.scan import Manifest
from srctd.departures import Departures
from srctd.engine import Engine
from srctd.freeing import Freeing
from srctd.intake import Intake
from srctd.services import Services
from srctd.taskfolder import task_folder
from srctd.threads import at_storage

log = structlog.get_logger()
T = TypeVar("T")

LOOK_SECONDS = 20.0
"""For what the dry run looks at; who asks waits a little longer."""
DISK_SECONDS = 3.0
"""A disk that does not say within this time how full it is hangs; nothing is removed from it."""
_FOR_NOW = (TransientError, HoldError)
"""What keeps a source where it is until the next look."""


class _Looked(NamedTuple):
    """One look at a disk."""

    outlook: Outlook
    candidates: Mapping[str, Candidate]
    """By the first member."""

    @property
    def turns(self) -> list[Candidate]:
        """Which sources would go, in this order."""
        going = (decision.scan for decision in self.outlook.decisions if decision.remove)
        return [self.candidates[scan] for scan in going if scan in self.candidates]


class _Sources(NamedTuple):
    """A source and its copy, after everything was looked at but the bytes of the copy."""

    wanted: Manifest
    """What goes of the source."""
    proven: Manifest
    """What was noted when the copy was made."""
    lying: Manifest
    """The copy as it lies there now."""


class Retention:
    """Looks at the detectors' disks from time to time, and says what it would do."""

    def __init__(
        self,
        services: Services,
        engine: Engine,
        intake: Intake,
        departures: Departures,
        last_finished: Callable[[], Awaitable[Mapping[str, float]]],
        publish: Callable[[str, dict[str, Any]], None],
    ) -> None:
        """`last_finished`: when the last step of each scan came to its status, UTC timestamps."""
        self.problems: tuple[str, ...] = ()
        """What kept it from removing what it wanted to, one sentence each."""
        self._services = services
        self._section = services.config.retention
        self._engine = engine
        self._intake = intake
        self._departures = departures
        self._last_finished = last_finished
        self._freeing = Freeing(self._usage, publish)
        self._roots: dict[
            str, str
        ] = {}  # where watched roots were found, links resolved: what they are called
        self._asked: dict[str, asyncio.Future[removal.DiskUsage]] = {}
        self._removing: set[str] = set()  # first roots of disks on their way to the low-water mark
        self._troubles: dict[str, str] = {}  # scan -> why the last attempt came to nothing
        self._proven: set[str] = set()  # of a removal that is stuck the copy is not read again and again
        self._one_at_a_time = asyncio.Lock()  # of those who ask: a look at many files takes disks and threads

    async def load(self) -> None:
        """Take note of what a daemon before this one had begun to remove; call it before the roots are listed."""
        for scan in self._engine.scans.values():
            if scan.removal_begun_at is not None and scan.source_removed_at is None:
                self._departures.begin(scan.id, await self._services.manifest(scan.id))

    async def run_forever(self) -> None:
        """Look at the disks every `check_minutes`, if it is enabled. Canceled, it stops between two files."""
        while self._section.enabled:
            await self._check()
            await asyncio.sleep(60.0 * self._section.check_minutes)

    async def outlook(self) -> tuple[list[Outlook], tuple[str, ...]]:
        """What would be removed now from each disk, and why everything else stays, as if it were enabled; and what
        keeps a disk from being looked at.

        Sources and copies are looked at as before a removal, but no copy is read.
        """
        async with self._one_at_a_time:
            until = time.monotonic() + LOOK_SECONDS
            disks, problems = await self._disks()
            outlooks = []
            for roots in disks:
                try:
                    outlook, unseen = await self._foreseen(roots, until)
                except _FOR_NOW as exc:
                    problems.append(exc.sentence)
                    continue
                outlooks.append(outlook)
                if unseen:
                    problems.append(
                        f"{', '.join(outlook.roots)}: within {LOOK_SECONDS:g} s there was no time to look at the "
                        f"files of {unseen} of the sources that would be removed"
                    )
            return outlooks, tuple(problems)

    async def _foreseen(self, roots: Sequence[str], until: float) -> tuple[Outlook, int]:
        """What becomes of the sources on a disk; and how many of those that go were not looked at in time."""
        troubles: dict[str, str] = {}
        seen: set[str] = set()
        gone: set[str] = set()
        while True:
            looked = await self._look(roots, troubles)
            unseen = [candidate for candidate in looked.turns if candidate.leader.id not in seen]
            if not unseen or time.monotonic() > until:
                return looked.outlook, len(unseen)
            for candidate in unseen:
                if time.monotonic() > until:
                    break
                seen.add(candidate.leader.id)
                try:
                    await self._require_removable(candidate, gone)
                    gone.add(candidate.leader.id)
                except _FOR_NOW as exc:
                    troubles[candidate.leader.id] = exc.sentence

    # --- what and when ------------------------------------------------------------------------------------

    async def _check(self) -> None:
        """Bring every disk that is too full down to the low-water mark, as far as sources may go."""
        self._troubles.clear()
        disks, problems = await self._disks()
        for roots in disks:
            problems += await asyncio.to_thread(unwritable, roots)
            try:
                disk = await self._make_room(roots)
                problems += [disk.in_vain] if disk.in_vain else []
            except _FOR_NOW as exc:
                problems.append(exc.sentence)
        problems += [f"{scan}: {sentence}" for scan, sentence in self._troubles.items()]
        for sentence in problems:
            if sentence not in self.problems:
                log.warning("retention.problem", reason=sentence)
        self.problems = tuple(problems)

    async def _make_room(self, roots: Sequence[str]) -> Disk:
        """Remove one source after the other, and look anew at the disk and the scans in between; return the disk
        as it is in the end.

        Some file systems free space only a while after the files are gone: what was removed counts at once.
        """
        most = None
        while True:
            looked = await self._look(roots, self._troubles, most)
            disk = looked.outlook.disk
            if retention.too_full(disk, self._rule):
                self._removing.add(roots[0])
            else:
                self._removing.discard(roots[0])
            if not looked.turns:
                return disk
            most = disk.used - await self._remove(looked.turns[0])

    async def _look(
        self, roots: Sequence[str], troubles: Mapping[str, str], most: int | None = None
    ) -> _Looked:
        """`troubles`: what stood in the way of a scan's removal. `most`: bytes that are used at most, by what was
        removed since the disk was looked at first.
        """
        usage = await self._usage(roots[0])
        used = usage.used if most is None else min(usage.used, most)
        disk = Disk(
            size=usage.size,
            used=used,
            in_vain=self._freeing.why_stopped(usage),
            removing=roots[0] in self._removing,
        )
        candidates = await self._candidates(roots, troubles)
        decisions = await asyncio.to_thread(retention.plan, candidates, disk, self._rule, time.time())
        outlook = Outlook(roots=tuple(self._roots[root] for root in roots), disk=disk, decisions=decisions)
        return _Looked(outlook, {candidate.leader.id: candidate for candidate in candidates})

    @property
    def _rule(self) -> retention.Rule:
        return retention.Rule(
            minimum_age_seconds=3600.0 * self._section.minimum_age_hours,
            high_water_percent=self._section.high_water_percent,
            low_water_percent=self._section.low_water_percent,
            remote_target=self._services.config.remote.target,
        )

    async def _disks(self) -> tuple[list[list[str]], list[str]]:
        """The watched roots by the disk they lie on; and one sentence for each that cannot be looked at."""
        disks: dict[int, list[str]] = {}
        problems = []
        watched = [root.path for root in self._services.config.watch]
        asked = await asyncio.gather(*map(self._usage, watched), return_exceptions=True)
        for path, usage in zip(watched, asked, strict=True):
            if isinstance(usage, _FOR_NOW):
                problems.append(usage.sentence)
            elif isinstance(usage, BaseException):
                raise usage
            else:
                self._roots[usage.folder] = path
                disks.setdefault(usage.device, []).append(usage.folder)
        return list(disks.values()), problems

    async def _usage(self, root: str) -> removal.DiskUsage:
        """How full a disk is. One that hangs is not asked again before it has answered: it takes a thread."""
        asked = self._asked.pop(root, None) or asyncio.ensure_future(
            asyncio.to_thread(removal.disk_usage, root)
        )
        done, _ = await asyncio.wait([asked], timeout=DISK_SECONDS)
        if not done:
            self._asked[root] = asked
            raise StorageUnavailable(f"{root} does not say how full it is", hint="check the mount")
        return asked.result()

    async def _candidates(self, roots: Sequence[str], troubles: Mapping[str, str]) -> list[Candidate]:
        """All scans whose files lie below some roots, by the files they share, in the order in which they came."""
        finished = await self._last_finished()
        groups: dict[str, list[Scan]] = {}
        for scan in self._engine.scans.values():
            if self._root_of(scan) in roots:
                groups.setdefault(scan.leader or scan.id, []).append(scan)
        return [self._candidate(members, finished, troubles) for members in groups.values()]

    def _candidate(
        self, members: list[Scan], finished: Mapping[str, float], troubles: Mapping[str, str]
    ) -> Candidate:
        members.sort(key=lambda scan: scan.member)
        leader = members[0]
        times = [finished[scan.id] for scan in members if scan.id in finished]
        newest = self._engine.newest_at(leader.path)
        return Candidate(
            members=tuple(members),
            root=self._root_of(leader),
            done_at=max(times) if len(times) == len(members) else None,
            listed=self._intake.fingerprint_at(leader.path),
            newer=newest[0].id if newest and newest[0].revision > leader.revision else "",
            trouble=troubles.get(leader.id, ""),
        )

    def _root_of(self, scan: Scan) -> str:
        """The watched root below which a scan's files lie; empty if they lie elsewhere."""
        folder = f"{scan.source.folder}/"
        return next((root for root in self._roots if folder.startswith(f"{root.rstrip('/')}/")), "")

    # --- one source ---------------------------------------------------------------------------------------

    async def _remove(self, candidate: Candidate) -> int:
        """Remove a source; return the bytes that went. What stands in the way is noted, and the source stays."""
        leader, root = candidate.leader, candidate.root
        try:
            found = await self._require_removable(candidate)
            if not candidate.begun or leader.id not in self._proven:
                await self._prove_copy(leader, found)
                self._proven.add(leader.id)
            if not candidate.begun:
                await asyncio.to_thread(removal.require_removable, found.wanted, root)
            return await self._remove_proven(candidate, found.wanted)
        except DigestMismatch as exc:
            log.error("scan.source_kept", scan=leader.id, path=leader.path, reason=exc.sentence)
            for scan in candidate.members:
                await self._engine.happen(SourceKept(scan=scan.id, reason=exc.sentence))
        except _FOR_NOW as exc:
            self._troubles[leader.id] = exc.sentence
        return 0

    async def _remove_proven(self, candidate: Candidate, wanted: Manifest) -> int:
        """Journal the intention, remove, journal the end."""
        leader = candidate.leader
        if any(self._engine.scans[scan.id] is not scan for scan in candidate.members):
            raise HoldError("something happened to it while its copy was read")
        before = await self._freeing.sample(candidate.root)
        told: dict[str, Any] = {"folder": wanted.folder, "files": len(wanted.files), "bytes": wanted.size}
        for scan in () if candidate.begun else candidate.members:
            begun = await self._engine.happen(SourceRemovalBegun(scan=scan.id, at=time.time(), **told))
            if begun.removal_begun_at is None:
                raise HoldError(f"{scan.id} is being done again")
        self._departures.begin(leader.id, wanted)
        log.info("scan.source_removal_begun", scan=leader.id, path=leader.path, **told)
        removed = await self._stoppable(partial(removal.remove, wanted, candidate.root))
        left = [file.path for file in removed.left]
        size = sum(file.size for file in removed.gone)
        told |= {"files": len(removed.gone), "bytes": size}
        for scan in candidate.members:
            await self._engine.happen(SourceRemoved(scan=scan.id, at=time.time(), **told))
        self._departures.end(leader.id)
        self._proven.discard(leader.id)
        log.info("scan.source_removed", scan=leader.id, path=leader.path, left=left, **told)
        await self._freeing.compare(candidate.root, before, removed.freed)
        return size

    async def _require_removable(self, candidate: Candidate, gone: Set[str] = frozenset()) -> _Sources:
        """Everything that is asked before a source goes, but for the bytes of its copy. The dry run asks the same.

        `gone`: scans whose sources would have gone before. Raises `DigestMismatch` for a copy that is not as it
        was made, one of `_FOR_NOW` for what else stands in the way.
        """
        leader, services = candidate.leader, self._services
        manifest = await services.manifest(leader.id)
        wanted = await self._spare(leader, manifest, gone)
        if not candidate.begun:
            await asyncio.to_thread(removal.require_removable, wanted, candidate.root)
        await at_storage(services.storage.require, 0, 0, f"the copy of {leader.id}")
        with self._damage_told(leader) as holder:
            proven = await at_storage(_recorded, holder, services.storage.path, manifest)
            lying = await at_storage(removal.copy_as_it_lies, proven, holder, sync.INPUT)
        return _Sources(wanted, proven, lying)

    async def _prove_copy(self, leader: Scan, found: _Sources) -> None:
        """Read a copy; raise `DigestMismatch` unless it is as it was made."""
        if self._section.proof == "digests":
            with self._damage_told(leader):
                _require_same(found.proven, await self._stoppable(partial(_read, found.lying)))

    @contextmanager
    def _damage_told(self, leader: Scan) -> Iterator[Path]:
        """Say what to do where a copy, in the folder that this gives, is not as it was made."""
        holder = task_folder(self._services.config, leader)
        try:
            yield holder
        except DigestMismatch as exc:
            hint = (
                f"the source stays; move {holder} away and `srctd retry {leader.id} --step sync` copies it anew, "
                f"or mend it and release the scan by `srctd retry {leader.id}`"
            )
            raise DigestMismatch(f"the copy of {leader.id} is damaged: {exc}", hint=hint) from exc

    async def _stoppable(self, work: Callable[[Callable[[], bool]], T]) -> T:
        """Do work in a thread that asks from time to time whether to stop, as it shall when this is canceled."""
        stopping = threading.Event()
        working = asyncio.ensure_future(asyncio.to_thread(work, stopping.is_set))
        working.add_done_callback(_look_at)
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            stopping.set()
            await asyncio.wait([working], timeout=self._services.config.daemon.stop_grace_seconds)
            raise

    async def _spare(self, leader: Scan, manifest: Manifest, gone: Set[str]) -> Manifest:
        """The manifest without files that other scans need where they are, as flats for several scans.

        Raises `HoldError` if they need a frame, or what is opened: a scan goes as a whole; and as long as it is not
        known what they need. `gone`: scans of which nothing but a copy would be left by then.
        """
        needed = await self._needed(leader, gone)
        going = []
        for file in manifest.files:
            path = f"{manifest.folder}/{file.path}"
            if path not in needed:
                going.append(file)
            elif file.path == manifest.opened or frame_name(file.path):
                raise HoldError(f"{needed[path]} reads {path} where it is")
        return msgspec.structs.replace(manifest, files=tuple(going))

    async def _needed(self, leader: Scan, gone: Set[str]) -> dict[str, str]:
        """Files, by absolute path, that another scan reads where they are, or consists of; and that scan."""
        needed = self._intake.referenced()
        for path, arrival in self._intake.arrivals.items():
            near = _related(arrival.listed.folder, leader.source.folder)
            if near and min(arrival.listed.files, leader.source.files) > 1 and not arrival.foreign:
                raise HoldError(f"{path} arrives in the same folder, and may share files with it")
        for scan in self._engine.scans.values():
            if scan.leader or scan.superseded or scan.path == leader.path:
                continue
            needed.update(dict.fromkeys(_read_from_afar(scan), scan.id))
            there = scan.source_removed_at is None and scan.id not in gone
            if there and _related(scan.source.folder, leader.source.folder):
                needed.update(dict.fromkeys(await self._files_of(scan), scan.id))
        return needed

    async def _files_of(self, scan: Scan) -> list[str]:
        """Absolute paths of a scan's files. Where many scans share a folder, most are one file: nothing is read."""
        if scan.source.files == 1 and scan.source.opened:
            return [scan.source.main]
        manifest = await self._services.manifest(scan.id)
        return [f"{manifest.folder}/{file.path}" for file in manifest.files]


def _look_at(working: asyncio.Future[Any]) -> None:
    """What stands in the way of work at the very end is met again at the next start."""
    if not working.cancelled():
        working.exception()


class _Until(NamedTuple):
    """The pace of a reading that is broken off when it is told to stop."""

    stopping: Callable[[], bool]

    def take(self, _: int) -> None:
        if self.stopping():
            raise StorageUnavailable("the reading of a copy was interrupted")


def _read(lying: Manifest, stopping: Callable[[], bool]) -> Manifest:
    """A copy with the digests of what lies there now. It takes no place from scans that are still to be copied."""
    return sync.digest_in_place(lying, sync.CopyOptions(pace=_Until(stopping)))


def unwritable(roots: Iterable[str]) -> list[str]:
    """Watched roots from which nothing could be removed, in one sentence each. Blocks as their disks do."""
    return [
        f"retention is on, but this user (uid {os.geteuid()}) may not remove anything from {root}"
        for root in roots
        if not removal.writable(root)
    ]


class _Header(msgspec.Struct, frozen=True):
    references: tuple[str, ...] = ()


class _Checked(msgspec.Struct, frozen=True):
    """Of what CHECK found, what counts here: a header is long."""

    header: _Header


def _read_from_afar(scan: Scan) -> Iterable[str]:
    """Files outside of a scan's folder that it reads, and its copy does not hold."""
    checked = scan.step(Step.CHECK)
    if checked.status is not Status.DONE:
        return scan.source.references
    header = msgspec.json.decode(checked.result, type=_Checked).header
    return [path for path in header.references if not path.startswith(f"{scan.source.folder}/")]


def _related(one: str, other: str) -> bool:
    """Whether one folder is the other, or lies in it."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def _recorded(holder: Path, shared: str, judged: Manifest) -> Manifest:
    """What was noted when a scan was copied, with digests.

    Raises `DigestMismatch` if that is not of the files that were judged, `HoldError` if the copy is elsewhere now.
    """
    if not sync.inside(holder, shared):
        raise HoldError(f"{holder} leads out of {shared}, and what lies there was not proven")
    proven = sync.published(holder)
    if proven is None:
        raise DigestMismatch(f"{holder} holds no copy any more")
    if not proven.same_files(judged):
        raise DigestMismatch(f"{holder}: its manifest lists other files than were judged")
    return proven


def _require_same(proven: Manifest, read: Manifest) -> None:
    """Raise `DigestMismatch` unless what was read now has the digests of then."""
    for wanted, found in zip(proven.files, read.files, strict=True):
        if not wanted.digest or found.digest != wanted.digest:
            raise DigestMismatch(
                f"{read.folder}/{found.path} has the digest {found.digest}, "
                f"{wanted.digest or 'none'} was noted"
            )
