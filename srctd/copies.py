"""Copies to shared storage under way; a scan's copy may begin before the scan is known to be complete.

While nothing is missing and only the settle time is awaited, the copy is made ahead: when the verdict comes, it is
most often done. A copy made ahead is proven like any other, and worthless if the source changed meanwhile.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from srctd.adapters import sync
from srctd.adapters.ownership import Ownership
from srctd.adapters.space import SharedStorage
from srctd.core.errors import SrctdError, StorageUnavailable
from srctd.core.scan import Manifest, Owner


class _Ahead(NamedTuple):
    manifest: Manifest
    task: asyncio.Task[Manifest]


class Copies:
    """At most so many copies at once."""

    def __init__(
        self,
        at_once: int,
        storage: SharedStorage,
        reserve_bytes: int,
        ownership: Ownership,
        *,
        portable_names: bool = True,
    ) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._storage = storage
        self._ownership = ownership
        self._portable_names = portable_names
        self._reserve = reserve_bytes
        self._ahead: dict[str, _Ahead] = {}
        self._removals: set[asyncio.Task[None]] = set()

    def begin(self, scan: str, manifest: Manifest, part: Path, owner: Owner) -> None:
        """Copy a scan ahead into its hidden folder, unless that is under way or done already."""
        before = self._ahead.get(scan)
        if before is not None and before.manifest.same_files(manifest):
            return
        self.abandon(scan)
        task = asyncio.create_task(self._copy_ahead(manifest, part, owner, before.task if before else None))
        task.add_done_callback(_look_at)
        self._ahead[scan] = _Ahead(manifest, task)

    def abandon(self, scan: str) -> None:
        """End a copy that is made ahead: its source changed."""
        if scan in self._ahead:
            self._ahead[scan].task.cancel()

    def discard(self, scan: str, part: Path) -> None:
        """End a scan's copy and remove it: its source is no scan of its own, was replaced, or went away.

        Nobody waits for that: it may take as long as storage does not answer.
        """
        ahead = self._ahead.pop(scan, None)
        removal = asyncio.create_task(_remove(ahead.task if ahead else None, part))
        self._removals.add(removal)
        removal.add_done_callback(self._removals.discard)

    async def copy(self, scan: str, manifest: Manifest, part: Path, owner: Owner) -> Manifest:
        """The finished copy of a scan: the one made ahead, if it is of these very files, or a new one."""
        before = self._ahead.pop(scan, None)
        if before is not None:
            same = before.manifest.same_files(manifest)
            if not same:
                before.task.cancel()
            await asyncio.wait([before.task])
            if same and not before.task.cancelled() and before.task.exception() is None:
                return before.task.result()
        async with self._places:
            return await self._copy(manifest, part, owner)

    async def _copy(self, manifest: Manifest, part: Path, owner: Owner) -> Manifest:
        """A copy whose files are handed over as they are finished."""
        belonging = await asyncio.to_thread(self._ownership.of, owner)
        await asyncio.to_thread(self._storage.make_account, part.parent.name, belonging.give_own)
        options = sync.CopyOptions(portable_names=self._portable_names, give=belonging.give)
        return await _interruptible(sync.copy, manifest, part, options=options)

    async def digest_in_place(self, manifest: Manifest) -> Manifest:
        """The manifest, with digests, of a scan that is not copied."""
        async with self._places:
            return await _interruptible(sync.digest_in_place, manifest)

    async def _copy_ahead(
        self, manifest: Manifest, part: Path, owner: Owner, before: asyncio.Task[Manifest] | None
    ) -> Manifest:
        if before is not None:  # two copies must not write into one folder
            await asyncio.wait([before])
        async with self._places:
            await asyncio.to_thread(
                self._storage.require_for_copy, manifest.size, self._reserve, manifest.main
            )
            return await self._copy(manifest, part, owner)


async def _remove(copying: asyncio.Task[Manifest] | None, part: Path) -> None:
    if copying is not None:
        copying.cancel()
        await asyncio.wait([copying])
    with suppress(SrctdError):  # storage is out of reach: so is what would be removed
        await asyncio.to_thread(sync.remove_folder, part)


def _look_at(task: asyncio.Task[Manifest]) -> None:
    """A copy ahead that failed is nobody's failure: the scan's own copy will say what is the matter."""
    if not task.cancelled():
        task.exception()


async def _interruptible(
    function: Callable[..., Manifest],
    manifest: Manifest,
    *args: object,
    options: sync.CopyOptions = sync.PLAIN,
) -> Manifest:
    """Run a copy in a thread; on cancellation it ends at its next block, before this returns."""
    canceled = threading.Event()

    class Interruptible:
        def take(self, _: int) -> None:
            if canceled.is_set():
                raise StorageUnavailable("the copy was interrupted")

    options = replace(options, pace=Interruptible())
    copying = asyncio.ensure_future(asyncio.to_thread(function, manifest, *args, options))
    try:
        return await asyncio.shield(copying)
    except asyncio.CancelledError:
        canceled.set()
        await asyncio.wait([copying])
        copying.exception()  # looked at: it was interrupted
        raise
