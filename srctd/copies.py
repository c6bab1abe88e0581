"""Copies to shared storage: one for each scan, begun while the scan is acquired and ended when it is complete.

While the detector writes, what does not change any more is copied (`follow`). When nothing is missing and only
the settle time is awaited, the copy is ended ahead (`begin`): at the verdict it is most often done (`copy`). What
changes meanwhile only costs the time of copying it again: the copy that counts is proven when it ends.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import structlog

from srctd.adapters import sync
from srctd.adapters.ownership import Ownership
from srctd.adapters.pace import Paces
from srctd.adapters.space import SharedStorage
from srctd.config import Config
from srctd.copywork import CopyWork, Job
from srctd.core.errors import NoSpace, SrctdError
from srctd.core.scan import Manifest, Owner
from srctd.core.settling import Settled
from srctd.core.space import RESULT_FILES
from srctd.growing import Arriving, Growing
from srctd.meter import Figures, Meter, Stop
from srctd.parts import PartFolders, open_part
from srctd.threads import at_storage

log = structlog.get_logger()

ROOM_SECONDS = 60.0
"""A scan that is being acquired and did not fit is asked for again after so long."""
SWEEP_SECONDS = 60.0
"""Storage that is out of reach at the start is looked through after so long."""


class Place(NamedTuple):
    """Where copies go, as the daemon was set up."""

    storage: SharedStorage
    ownership: Ownership
    parts: PartFolders


class Copies:
    """The copies of all scans."""

    def __init__(self, config: Config, place: Place, paces: Paces, promised: Callable[[], int]) -> None:
        """`promised`: bytes that complete scans will still write; they are not for those being acquired."""
        self._reserve = config.storage.reserve_bytes
        self._place = place
        self._promised = promised
        self._work = CopyWork(config.storage, paces)
        self._copies: dict[str, Growing] = {}
        self._left: dict[str, Path] = {}  # scan -> its copy of before the start

    # --- while a scan is acquired -------------------------------------------------------------------------

    def wants(self, scan: str) -> Literal["nothing", "news", "all"]:
        """What `follow` would take now: what settled lately, or everything, or nothing because there is no room."""
        copy = self._copies.get(scan)
        if copy is None or copy.lost_at is None:
            return "news"
        return "nothing" if time.monotonic() - copy.lost_at < ROOM_SECONDS else "all"

    def follow(self, arriving: Arriving, settled: Settled) -> None:
        """Copy what has settled of a scan that is being acquired."""
        copy = self._of(arriving.scan, arriving.folder, arriving.owner)
        copy.lost_at = None
        copy.expected_bytes = arriving.expected_bytes
        copy.take(settled)
        idle = copy.task is None or copy.task.done() or not copy.following
        if copy.due and idle:
            copy.ends = None
            copy.task = self._work.start(self._follow(arriving.scan, copy))

    def begin(self, scan: str, manifest: Manifest, owner: Owner) -> None:
        """End a scan's copy ahead, unless that is under way or done already."""
        copy = self._of(scan, manifest.folder, owner)
        if copy.ends is not None and copy.ends.same_files(manifest):
            return
        copy.cancel()
        copy.ends = manifest
        copy.task = self._work.start(self._end(scan, copy, manifest, ahead=True))

    def abandon(self, scan: str) -> None:
        """The source of a copy that was to be ended ahead changed: it is followed on."""
        copy = self._copies.get(scan)
        if copy is not None and copy.ends is not None:
            copy.cancel()
            copy.task = copy.ends = None

    def discard(self, scan: str) -> None:
        """End a copy and remove it: its source is no scan of its own, was replaced, or went away.

        Nobody waits for that: it may take as long as storage does not answer.
        """
        copy = self._copies.pop(scan, None)
        part = self._left.pop(scan, None)
        if copy is not None:
            copy.cancel()
            part = copy.part
        if part is not None:
            log.info("copy.discarded", scan=scan)
            self._work.start(self._work.remove(part))

    # --- when it is complete ------------------------------------------------------------------------------

    def entered(self, scan: str) -> None:
        """A scan got its verdict: what is copied of it makes no room for others any more."""
        if copy := self._copies.get(scan):
            copy.entered = True

    async def make_room(self) -> bool:
        """Remove what was copied of scans that are still being acquired: complete ones come first.

        Returns whether there was anything to remove.
        """
        following = [copy for copy in self._copies.values() if copy.following and copy.lost_at is None]
        for copy in following:
            copy.cancel()
            copy.lose()
        await asyncio.gather(*(self._work.remove(copy.part) for copy in following))
        return bool(following)

    async def copy(self, scan: str, manifest: Manifest, owner: Owner) -> Manifest:
        """The finished copy of a scan: the one that was ended ahead, if it is of these very files, or else now."""
        copy = self._of(scan, manifest.folder, owner)
        copy.entered = True
        ended = copy.task if copy.ends is not None and copy.ends.same_files(manifest) else None
        if ended is None:
            copy.cancel()
        else:
            await asyncio.wait([ended])
        copy.ends = manifest
        if ended is not None and not ended.cancelled() and ended.exception() is None:
            proven: Manifest = ended.result()
        else:
            copy.task = ending = self._work.start(self._end(scan, copy, manifest, ahead=False))
            try:
                proven = await asyncio.shield(ending)
            except asyncio.CancelledError:
                copy.cancel()
                raise
        self._copies.pop(scan, None)
        return proven

    async def digest_in_place(self, manifest: Manifest) -> Manifest:
        """The manifest, with digests, of a scan that is not copied."""
        job = Job(manifest.folder, None, Meter(), Stop(), urgent=True)
        return await self._work.run(job, partial(sync.digest_in_place, manifest))

    # --- what is known ------------------------------------------------------------------------------------

    def figures(self, scan: str) -> Figures | None:
        """How a scan's copy gets on; None if nothing is copied of it."""
        copy = self._copies.get(scan)
        return copy.meter.figures() if copy is not None else None

    async def sweep(self, claims: Callable[[], Callable[[str], bool]]) -> None:
        """Remove copies that an earlier run of this daemon left, if no scan has a claim to them.

        `claims` gives what says so of a scan's identifier, as of the moment.
        """
        while True:
            try:
                found = await at_storage(self._place.parts.left)
                break
            except SrctdError as exc:
                log.info("copy.not_swept", reason=exc.sentence)
                await asyncio.sleep(SWEEP_SECONDS)
        claimed = claims()
        for scan, part in found.items():
            if scan in self._copies:
                continue
            if claimed(scan):
                self._left[scan] = part
            else:
                log.info("copy.stray_removed", part=str(part))
                self._work.start(self._work.remove(part))

    # --- under way ----------------------------------------------------------------------------------------

    async def _follow(self, scan: str, copy: Growing) -> None:
        """Copy what is due until nothing is."""
        while copy.due:
            copy.under_way, copy.due = copy.due, {}
            copy.meter.expect(copy.copied_bytes, copy.copied_bytes + copy.due_bytes)
            copy.stop = stop = Stop()
            job = Job(copy.folder, copy.part, copy.meter, stop, urgent=False)
            try:
                await self._work.run(job, self._settled(scan, copy))
            except NoSpace as exc:
                copy.lose()
                log.warning("copy.no_room", scan=scan, reason=exc.sentence)
                await self._work.remove(copy.part)
            except SrctdError as exc:
                copy.give_back()
                if not stop.preempted:  # it goes on with what settles next, or ends when the scan does
                    log.info("copy.waits", scan=scan, reason=exc.sentence)
                    return
            except asyncio.CancelledError:
                copy.give_back()
                raise
            else:
                copy.took()
                copy.fits = True
                copy.meter.reached(copy.copied_bytes)
                log.debug("copy.followed", scan=scan, bytes=copy.copied_bytes)

    def _settled(self, scan: str, copy: Growing) -> Callable[[sync.CopyOptions], None]:
        """What a thread does to follow: with room for all that is promised, copy what is due."""
        files = tuple(file for file, _ in copy.under_way.values())
        upto = {path: count for path, (_, count) in copy.under_way.items()}
        needed, promised = copy.left_bytes, self._promised_to_others(copy)

        def work(options: sync.CopyOptions) -> None:
            what = f"{scan}, which is being acquired,"
            self._place.storage.require_for_copy(needed, self._reserve, what, promised)
            self._place.storage.require_files(len(files) + RESULT_FILES, what)
            options = self._claimed(copy, options)
            sync.copy_settled(Manifest(folder=copy.folder, files=files), upto, copy.part, options)

        return work

    async def _end(self, scan: str, copy: Growing, manifest: Manifest, *, ahead: bool) -> Manifest:
        """The proven copy of a scan's files as they are."""
        copy.stop = Stop()
        copy.meter.expect(copy.copied_bytes, manifest.size)
        promised = self._promised_to_others(copy)
        began = time.monotonic()

        def work(options: sync.CopyOptions) -> Manifest:
            left = sync.bytes_left(manifest, copy.part)
            copy.meter.reached(manifest.size - left)
            if ahead:  # else room was promised to it
                self._place.storage.require_for_copy(left, self._reserve, manifest.main, promised)
                files = sync.files_left(manifest, copy.part) + RESULT_FILES
                self._place.storage.require_files(files, manifest.main)
            proven = sync.copy(manifest, copy.part, self._claimed(copy, options))
            copy.meter.reached(manifest.size)
            seconds = round(time.monotonic() - began, 3)
            log.info("copy.ended", scan=scan, ahead=ahead, bytes=manifest.size, left=left, seconds=seconds)
            return proven

        self._preempt()
        job = Job(copy.folder, copy.part, copy.meter, copy.stop, urgent=True)
        try:
            return await self._work.run(job, work)
        except SrctdError as exc:
            log.info("copy.not_ended", scan=scan, ahead=ahead, reason=exc.sentence)
            raise

    def _claimed(self, copy: Growing, options: sync.CopyOptions) -> sync.CopyOptions:
        """Make the folder of a copy, or go on in it; how its files are handed over."""
        belonging = self._place.ownership.of(copy.owner)
        self._place.storage.make_account(copy.part.parent.name, belonging.give_own)
        open_part(copy.part)
        return replace(options, give=belonging.give)

    def _promised_to_others(self, copy: Growing) -> int:
        """Bytes that complete scans were promised, and those being acquired for which there was room."""
        others = (other for other in self._copies.values() if other is not copy)
        return self._promised() + sum(other.left_bytes for other in others if other.fits and other.following)

    def _preempt(self) -> None:
        """Complete scans first: those that are being acquired give their places away at their next block."""
        for copy in self._copies.values():
            if copy.following and copy.under_way:
                copy.stop.preempted = True
                copy.stop.event.set()

    def _of(self, scan: str, folder: str, owner: Owner) -> Growing:
        self._left.pop(scan, None)
        part = self._place.parts.of(owner.account, scan)
        return self._copies.setdefault(scan, Growing(part, folder, owner))
