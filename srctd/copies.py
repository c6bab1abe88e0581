"""Copies to shared storage: one for each scan, begun while the scan is acquired and ended when it is complete.

While the detector writes, what does not change any more is copied (`follow`). When nothing is missing and only the
settle time is awaited, the copy is ended ahead (`begin`), so that at the verdict it is most often done (`copy`). What
changes meanwhile only costs the time of copying it again: the copy that counts is proven when it ends.

One thread at a time writes into the folder of a copy. A thread whose storage does not answer keeps that folder, and
its place among the copies from its disk, until it is back; whoever waits for it may give up.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar
from weakref import WeakValueDictionary

import structlog

from srctd import parts
from srctd.adapters import sync
from srctd.adapters.pace import Paces
from srctd.adapters.space import SharedStorage
from srctd.config import Config
from srctd.core.errors import NoSpace, SrctdError
from srctd.core.scan import FileEntry, Manifest
from srctd.core.settling import Settled
from srctd.meter import Counted, Figures, Meter, Stop
from srctd.threads import at_storage, start_copy

log = structlog.get_logger()
T = TypeVar("T")

ROOM_SECONDS = 60.0
"""A scan that is being acquired and did not fit is asked for again after so long."""


class Arriving(NamedTuple):
    """A scan that is being acquired, as its copy needs to know it."""

    scan: str
    folder: str
    """What the names of its files count from."""
    part: Path
    expected_bytes: int
    """Of all files when it is complete, as far as somebody said so; else what is there."""


@dataclass
class _Copy:
    """What is known of one scan's copy."""

    part: Path
    folder: str
    meter: Meter = field(default_factory=Meter)
    stop: Stop = field(default_factory=Stop)
    task: asyncio.Task[Any] | None = None
    due: dict[str, tuple[FileEntry, int]] = field(default_factory=dict)
    """Settled, but not copied yet: by path, the file and how many bytes of it."""
    under_way: dict[str, tuple[FileEntry, int]] = field(default_factory=dict)
    copied: dict[str, int] = field(default_factory=dict)
    copied_bytes: int = 0
    expected_bytes: int = 0
    ends: Manifest | None = None
    """What is copied ahead, or was: the files as they are when only time is missing."""
    fits: bool = False
    """Whether there was room for all that is expected of it; that room is its own from then on."""
    lost_at: float | None = None
    """Monotonic: when it had to make room."""

    @property
    def following(self) -> bool:
        """Whether it follows an acquisition."""
        return self.ends is None

    @property
    def left_bytes(self) -> int:
        """What it is still going to write."""
        return max(0, self.expected_bytes - self.copied_bytes)

    def take(self, settled: Settled) -> None:
        """Take note of what has settled."""
        for path in settled.withdrawn:
            self.due.pop(path, None)
            self.under_way.pop(path, None)
            self.copied_bytes -= self.copied.pop(path, 0)
        for file in settled.files:
            self.due[file.path] = (file, settled.upto[file.path])

    def took(self) -> None:
        """What was under way is copied."""
        for path, (_, upto) in self.under_way.items():
            self.copied_bytes += upto - self.copied.get(path, 0)
            self.copied[path] = upto
        self.under_way = {}

    def give_back(self) -> None:
        """What was under way is still due."""
        self.due = self.under_way | self.due
        self.under_way = {}

    def lose(self) -> None:
        """Its folder is removed."""
        self.due, self.under_way, self.copied = {}, {}, {}
        self.copied_bytes, self.fits = 0, False
        self.lost_at = time.monotonic()


class Copies:
    """The copies of all scans."""

    def __init__(self, config: Config, storage: SharedStorage, paces: Paces, identity: str) -> None:
        """`identity`: of this daemon, by which it knows the folders that it made."""
        self._config = config
        self._storage = storage
        self._paces = paces
        self._identity = identity
        self._copies: dict[str, _Copy] = {}
        self._owed: dict[str, int] = {}  # complete scan -> bytes that it was promised
        self._left: dict[str, Path] = {}  # arriving scan -> its copy of before the start
        self._locks: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()
        self._background: set[asyncio.Task[Any]] = set()

    # --- while a scan is acquired -------------------------------------------------------------------------

    def wants(self, scan: str) -> Literal["nothing", "news", "all"]:
        """What `follow` would take now: what settled lately, or everything, or nothing because there is no room."""
        copy = self._copies.get(scan)
        if copy is None or copy.lost_at is None:
            return "news"
        return "nothing" if time.monotonic() - copy.lost_at < ROOM_SECONDS else "all"

    def follow(self, arriving: Arriving, settled: Settled) -> None:
        """Copy what has settled of a scan that is being acquired."""
        copy = self._of(arriving.scan, arriving.folder, arriving.part)
        copy.lost_at = None
        copy.expected_bytes = arriving.expected_bytes
        copy.take(settled)
        idle = copy.task is None or copy.task.done() or not copy.following
        if copy.due and idle:
            copy.ends = None
            copy.task = self._start(self._follow(arriving.scan, copy))

    def begin(self, scan: str, manifest: Manifest, part: Path) -> None:
        """End a scan's copy ahead, unless that is under way or done already."""
        copy = self._of(scan, manifest.folder, part)
        if copy.ends is not None and copy.ends.same_files(manifest):
            return
        self._cancel(copy)
        copy.ends = manifest
        copy.task = self._start(self._end(scan, copy, manifest, ahead=True))

    def abandon(self, scan: str) -> None:
        """The source of a copy that was to be ended ahead changed: it is followed on."""
        copy = self._copies.get(scan)
        if copy is not None and copy.ends is not None:
            self._cancel(copy)
            copy.ends = None

    def discard(self, scan: str) -> None:
        """End a copy and remove it: its source is no scan of its own, or went away."""
        copy = self._copies.pop(scan, None)
        self._owed.pop(scan, None)
        left = self._left.pop(scan, None)
        if copy is not None:
            self._cancel(copy)
            self._start(self._remove(copy.part))
        elif left is not None:
            self._start(self._remove(left))

    # --- when it is complete ------------------------------------------------------------------------------

    def owe(self, scan: str, needed: int) -> None:
        """Leave so many bytes to a complete scan, and not to those that are still being acquired. 0: it has them."""
        if needed:
            self._owed[scan] = needed
        else:
            self._owed.pop(scan, None)

    async def make_room(self) -> None:
        """Remove what was copied of scans that are still being acquired: complete ones come first."""
        following = [copy for copy in self._copies.values() if copy.following and copy.lost_at is None]
        for copy in following:
            self._cancel(copy)
            copy.lose()
        await asyncio.gather(*(self._remove(copy.part) for copy in following))

    async def copy(self, scan: str, manifest: Manifest, part: Path) -> Manifest:
        """The finished copy of a scan: the one that was ended ahead, if it is of these very files, or else now."""
        copy = self._of(scan, manifest.folder, part)
        ended = copy.task if copy.ends is not None and copy.ends.same_files(manifest) else None
        if ended is None:
            self._cancel(copy)
        else:
            await asyncio.wait([ended])
        copy.ends = manifest
        if ended is None or ended.cancelled() or ended.exception() is not None:
            copy.task = self._start(self._end(scan, copy, manifest, ahead=False))
            try:
                proven: Manifest = await asyncio.shield(copy.task)
            except asyncio.CancelledError:
                self._cancel(copy)
                raise
        else:
            proven = ended.result()
        self._copies.pop(scan, None)
        return proven

    async def digest_in_place(self, manifest: Manifest) -> Manifest:
        """The manifest, with digests, of a scan that is not copied."""
        work = partial(sync.digest_in_place, manifest)
        return await self._run(manifest.folder, asyncio.Lock(), Meter(), Stop(), work, urgent=True)

    # --- what is known ------------------------------------------------------------------------------------

    def figures(self, scan: str) -> Figures | None:
        """How a scan's copy gets on; None if nothing is copied of it."""
        copy = self._copies.get(scan)
        return copy.meter.figures() if copy is not None else None

    async def sweep(self, claimed: Callable[[str], bool], arriving: Callable[[str], bool]) -> None:
        """Remove copies that an earlier run of this daemon left, if no scan has a claim to them.

        `claimed`: whether a scan, by its identifier, needs its copy; `arriving`: whether it may turn out not to.
        """

        def needed(scan: str) -> bool:
            return scan in self._copies or claimed(scan) or arriving(scan)

        shared = self._config.storage.shared
        with suppress(SrctdError):  # storage is out of reach: at the next start, then
            for part in await at_storage(parts.mine, shared, self._identity):
                scan = parts.scan_of(part)
                if not needed(scan):
                    log.info("copy.stray_removed", part=str(part))
                    await self._remove(part)
                elif arriving(scan) and scan not in self._copies:
                    self._left[scan] = part

    # --- under way ----------------------------------------------------------------------------------------

    async def _follow(self, scan: str, copy: _Copy) -> None:
        """Copy what is due until nothing is."""
        while copy.due:
            copy.under_way, copy.due = copy.due, {}
            increments = (upto - copy.copied.get(path, 0) for path, (_, upto) in copy.under_way.items())
            copy.meter.expect(copy.copied_bytes, copy.copied_bytes + sum(increments))
            copy.stop = stop = Stop()
            try:
                await self._run(
                    copy.folder, self._lock(copy.part), copy.meter, stop, self._settled(scan, copy), urgent=False
                )
            except NoSpace as exc:
                copy.lose()
                log.warning("copy.no_room", scan=scan, reason=exc.sentence)
                await self._remove(copy.part)
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
                copy.meter.expect(copy.copied_bytes, copy.copied_bytes)
                copy.meter.end()

    def _settled(self, scan: str, copy: _Copy) -> Callable[[sync.CopyOptions], None]:
        """What a thread does to follow: with room for all that is promised, copy what is due."""
        files = tuple(file for file, _ in copy.under_way.values())
        upto = {path: count for path, (_, count) in copy.under_way.items()}
        promised = [other.left_bytes for other in self._copies.values() if other.fits and other is not copy]
        needed = copy.left_bytes + sum(promised) + sum(self._owed.values())
        what = f"{scan}, which is being acquired, beside what was promised to others,"

        def work(options: sync.CopyOptions) -> None:
            self._storage.require(needed, self._config.storage.reserve_bytes, what)
            copy.fits = True
            parts.claim(copy.part, self._identity)
            sync.copy_settled(Manifest(folder=copy.folder, files=files), upto, copy.part, options)

        return work

    async def _end(self, scan: str, copy: _Copy, manifest: Manifest, *, ahead: bool) -> Manifest:
        """The proven copy of a scan's files as they are."""
        copy.stop = Stop()
        copy.meter.expect(copy.copied_bytes, manifest.size)
        began = time.monotonic()

        def work(options: sync.CopyOptions) -> Manifest:
            left = sync.bytes_left(manifest, copy.part)
            copy.meter.base = manifest.size - left
            if ahead:
                self._storage.require(left, self._config.storage.reserve_bytes, manifest.main)
            parts.claim(copy.part, self._identity)
            proven = sync.copy(manifest, copy.part, options)
            seconds = round(time.monotonic() - began, 3)
            log.info("copy.ended", scan=scan, ahead=ahead, bytes=manifest.size, left=left, seconds=seconds)
            return proven

        self._preempt()
        return await self._run(
            copy.folder, self._lock(copy.part), copy.meter, copy.stop, work, urgent=True
        )

    async def _run(
        self,
        folder: str,
        lock: asyncio.Lock,
        meter: Meter,
        stop: Stop,
        work: Callable[[sync.CopyOptions], T],
        *,
        urgent: bool,
    ) -> T:
        """Have a thread do what it takes options for. On cancellation it is left to end at its next block."""

        async def supervised() -> T:
            async with lock, self._paces.place(folder, urgent=urgent):
                stop.check()
                return await asyncio.wrap_future(start_copy(in_thread))

        def in_thread() -> T:
            pace = Counted(self._paces.pace(folder, stop.event), meter, stop)
            storage = self._config.storage
            options = sync.CopyOptions(
                pace=pace, read_back=storage.read_back, portable_names=storage.portable_names
            )
            meter.begin()
            try:
                with self._paces.priority(folder):
                    return work(options)
            finally:
                meter.end()

        try:
            return await asyncio.shield(self._start(supervised()))
        except asyncio.CancelledError:
            stop.event.set()
            raise

    async def _remove(self, part: Path) -> None:
        """Remove a copy as soon as nobody writes into it."""
        async with self._lock(part):
            with suppress(SrctdError):  # storage is out of reach: so is what would be removed
                await asyncio.wrap_future(start_copy(partial(sync.remove_folder, part)))

    def _preempt(self) -> None:
        """Complete scans first: those that are being acquired give their places away at their next block."""
        for copy in self._copies.values():
            if copy.following and copy.under_way:
                copy.stop.preempted = True
                copy.stop.event.set()

    def _cancel(self, copy: _Copy) -> None:
        if copy.task is not None:
            copy.task.cancel()

    def _of(self, scan: str, folder: str, part: Path) -> _Copy:
        self._left.pop(scan, None)
        return self._copies.setdefault(scan, _Copy(part, folder))

    def _lock(self, part: Path) -> asyncio.Lock:
        """Held by whoever writes into a part, and until that thread has ended."""
        lock = self._locks.get(part)
        if lock is None:
            self._locks[part] = lock = asyncio.Lock()
        return lock

    def _start(self, work: Any) -> asyncio.Task[Any]:
        """A task that is kept alive. Its failure is for those who ask for the result; often, nobody does."""
        task: asyncio.Task[Any] = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, SrctdError):
            log.error("copy.bug", exc_info=error)
