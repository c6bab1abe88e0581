"""Who gets the room on shared storage: what was let in is counted on until it is written.

A scan asks once, at CHECK, for its copy and its volume, hours before the last of them is written. What those before
it will still write is not free for it, though the file system says so.
"""

import asyncio
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from srctd.adapters import sync
from srctd.adapters.space import SharedStorage
from srctd.config import Config
from srctd.core.errors import HoldError, NoSpace
from srctd.core.lifecycle import Scan, Status, Step
from srctd.core.space import RESULT_FILES, Grade, with_margin
from srctd.parts import PartFolders
from srctd.results import Checked
from srctd.taskfolder import owner_of, task_folder
from srctd.threads import at_storage

BLOCK = 512
"""Unit of `st_blocks`."""
LEAST_RISE = 1 << 20
"""A file system that was full though it seemed to have room is tried again only with so many bytes more."""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What a scan is going to write."""

    copy_bytes: int = 0
    volume_bytes: int = 0


class Room:
    """Promises of space, made in the event loop, one after the other."""

    def __init__(
        self,
        config: Config,
        storage: SharedStorage,
        parts: PartFolders,
        scans: Callable[[], Iterable[Scan]],
    ) -> None:
        """`scans`: all that there are, now."""
        self._config = config
        self._storage = storage
        self._parts = parts
        self._scans = scans
        self._claims: dict[str, Claim] = {}
        self._one_at_a_time = asyncio.Lock()

    async def claim(self, scan: Scan, wanted: Claim, what: str) -> None:
        """Promise a scan the room for what it is going to write; raises `NoSpace`, and the errors of storage."""
        needed = wanted.copy_bytes + wanted.volume_bytes
        reserve = self._config.storage.reserve_bytes
        async with self._one_at_a_time:
            others = self._promises(but=scan.id)
            try:
                promised = sum(_total(claim) for _, claim in others)
                await at_storage(self._storage.require, needed, reserve, what, promised)
                files = sum(_files(other, claim) for other, claim in others)
                await at_storage(self._storage.require_files, _files(scan, wanted), what, files)
            except NoSpace:  # much of what was promised may be written by now
                left = await at_storage(self._unwritten, others)
                await at_storage(self._storage.require, needed, reserve, what, left)
                files = await at_storage(self._unmade, others)
                own = await at_storage(self._unmade, [(scan, wanted)])
                await at_storage(self._storage.require_files, own, what, files)
            self._claims[scan.id] = wanted

    async def may_go_on(self, scan: Scan, needs: int) -> bool:
        """Whether so much is free for a scan that was held for want of it; if so, it is promised that much."""
        async with self._one_at_a_time:
            others = self._promises(but=scan.id)
            _, free, _, files = await at_storage(self._storage.measure)
            if free < needs or free - await at_storage(self._unwritten, others) < needs:
                return False
            if files is not None and files < await at_storage(self._files_before, scan, others):
                return False
            self._claims[scan.id] = self._wanted_by(scan) or Claim(
                volume_bytes=max(0, needs - self._config.storage.reserve_bytes)
            )
            return True

    async def met(self, scan: Scan, exc: NoSpace) -> NoSpace:
        """The error of a file system that was full in the middle, with what must be free for another try.

        Where enough seems to be free all the same (a quota, or somebody removed something meanwhile), more than
        that must be: the same would only happen again.
        """
        if exc.needs or exc.of_files:
            return exc
        _, free, _, files = await at_storage(self._storage.measure)
        if files is not None and files < await at_storage(self._files_before, scan, []):
            return NoSpace(
                f"{exc}, as {files} inodes are free there",
                hint="remove files there; it then goes on by itself",
                of_files=True,
            )
        left = _total(self._left_of(scan)) + self._config.storage.reserve_bytes
        needs = max(with_margin(left), with_margin(free) + LEAST_RISE)
        return NoSpace(str(exc), hint="make room there; it then goes on by itself", needs=needs)

    @property
    def grade(self) -> Grade:
        """What may be done on shared storage, by what was last free there."""
        return self._storage.grade

    def promised(self) -> int:
        """Bytes that scans were promised, as if nothing of it were written."""
        return sum(_total(claim) for _, claim in self._promises(but=""))

    def _promises(self, but: str) -> list[tuple[Scan, Claim]]:
        """What other scans still write, as if nothing of it were written."""
        alive = {scan.id: scan for scan in self._scans() if not (scan.done or scan.superseded)}
        self._claims = {name: claim for name, claim in self._claims.items() if name in alive}
        found = [(scan, self._left_of(scan)) for name, scan in alive.items() if name != but and not scan.held]
        return [(scan, claim) for scan, claim in found if _total(claim)]

    def _left_of(self, scan: Scan) -> Claim:
        """What a scan writes from the step on at which it is."""
        wanted = self._wanted_by(scan) or Claim()
        copied = scan.step(Step.SYNC).status is Status.DONE
        built = scan.step(Step.RECONSTRUCT).status is Status.DONE
        return Claim(
            copy_bytes=0 if copied else wanted.copy_bytes, volume_bytes=0 if built else wanted.volume_bytes
        )

    def _wanted_by(self, scan: Scan) -> Claim | None:
        """What a scan asked for; after a restart, what its CHECK noted."""
        if scan.id in self._claims or scan.step(Step.CHECK).status is not Status.DONE:
            return self._claims.get(scan.id)
        checked = msgspec.json.decode(scan.step(Step.CHECK).result, type=Checked)
        return Claim(
            copy_bytes=checked.bytes_to_copy, volume_bytes=checked.bytes_needed - checked.bytes_to_copy
        )

    def _unwritten(self, promises: list[tuple[Scan, Claim]]) -> int:
        """Bytes of promises that are not on disk yet; looks there, which takes its time with many files."""
        left = 0
        for scan, claim in promises:
            if claim.copy_bytes:
                left += min(claim.copy_bytes, max(0, scan.source.bytes - self._copied(scan)))
            if claim.volume_bytes:
                left += max(0, claim.volume_bytes - self._built(scan))
        return left

    def _unmade(self, promises: list[tuple[Scan, Claim]]) -> int:
        """Files of promises that are not there yet; looks there."""
        return sum(
            _files(scan, claim) - min(scan.source.files, self._made(scan) if claim.copy_bytes else 0)
            for scan, claim in promises
        )

    def _files_before(self, scan: Scan, others: list[tuple[Scan, Claim]]) -> int:
        """How many files must be possible before a held scan goes on: its own, and those of others."""
        copies = scan.step(Step.SYNC).status is not Status.DONE and not scan.leader
        copies = copies and not sync.inside(scan.path, self._storage.path)
        return self._unmade([*others, (scan, Claim(copy_bytes=int(copies)))])

    def _made(self, scan: Scan) -> int:
        with suppress(HoldError):
            return sum(len(names) for _, _, names in os.walk(self._part(scan)))
        return 0

    def _copied(self, scan: Scan) -> int:
        with suppress(HoldError):  # without an account it is not copied
            return allocated(self._part(scan))
        return 0

    def _part(self, scan: Scan) -> Path:
        return self._parts.of(owner_of(scan.path, self._config.accounts).account, scan.id)

    def _built(self, scan: Scan) -> int:
        if scan.step(Step.IDENTIFY).status is not Status.DONE:
            return 0
        return sum(map(allocated, task_folder(self._config, scan).glob(".output*.part-*")))


def allocated(folder: Path) -> int:
    """Bytes that the files in a folder take on disk; 0 if it is not there."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # it was removed a moment ago
                total += BLOCK * os.lstat(os.path.join(place, name)).st_blocks
    return total


def _total(claim: Claim) -> int:
    return claim.copy_bytes + claim.volume_bytes


def _files(scan: Scan, claim: Claim) -> int:
    """How many files a scan makes, as if none were there."""
    return (scan.source.files if claim.copy_bytes else 0) + RESULT_FILES
