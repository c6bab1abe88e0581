"""Copies to shared storage under way; a scan's copy may begin before the scan is known to be complete.

While nothing is missing and only the settle time is awaited, the copy is made ahead: when the verdict comes, it is
most often done. A copy made ahead is proven like any other, and worthless if the source changed meanwhile.
"""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

from srctd.adapters import sync
from srctd.adapters.space import SharedStorage
from srctd.core.errors import StorageUnavailable
from srctd.core.scan import Manifest


class Copies:
    """At most so many copies at once."""

    def __init__(self, at_once: int, storage: SharedStorage, reserve_bytes: int) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._storage = storage
        self._reserve = reserve_bytes
        self._ahead: dict[str, tuple[Manifest, asyncio.Task[Manifest]]] = {}

    def begin(self, scan: str, manifest: Manifest, part: Path) -> None:
        """Copy a scan ahead into its hidden folder, unless that is under way or done already."""
        before, task = self._ahead.get(scan, (None, None))
        if before is not None and before.same_files(manifest):
            return
        self.abandon(scan)
        ahead = asyncio.create_task(self._copy_ahead(manifest, part, task))
        ahead.add_done_callback(_look_at)
        self._ahead[scan] = (manifest, ahead)

    def abandon(self, scan: str) -> None:
        """End a copy that is made ahead: its source changed."""
        if scan in self._ahead:
            self._ahead[scan][1].cancel()

    async def copy(self, scan: str, manifest: Manifest, part: Path) -> Manifest:
        """The finished copy of a scan: the one made ahead, if it is of these very files, or a new one."""
        before, task = self._ahead.pop(scan, (None, None))
        if before is not None and task is not None:
            same = before.same_files(manifest)
            if not same:
                task.cancel()
            await asyncio.wait([task])
            if same and not task.cancelled() and task.exception() is None:
                return task.result()
        async with self._places:
            return await _interruptible(sync.copy, manifest, part)

    async def digest_in_place(self, manifest: Manifest) -> Manifest:
        """The manifest, with digests, of a scan that is not copied."""
        async with self._places:
            return await _interruptible(sync.digest_in_place, manifest)

    async def _copy_ahead(
        self, manifest: Manifest, part: Path, before: asyncio.Task[Manifest] | None
    ) -> Manifest:
        if before is not None:  # two copies must not write into one folder
            await asyncio.wait([before])
        async with self._places:
            await asyncio.to_thread(self._storage.require, manifest.size, self._reserve, manifest.main)
            return await _interruptible(sync.copy, manifest, part)


def _look_at(task: asyncio.Task[Manifest]) -> None:
    """A copy ahead that failed is nobody's failure: the scan's own copy will say what is the matter."""
    if not task.cancelled():
        task.exception()


async def _interruptible(function: Callable[..., Manifest], *args: object) -> Manifest:
    """Run a copy in a thread; on cancellation it ends at its next block, before this returns."""
    canceled = threading.Event()

    def progress(_: int) -> None:
        if canceled.is_set():
            raise StorageUnavailable("the copy was interrupted")

    copying = asyncio.ensure_future(asyncio.to_thread(function, *args, progress))
    try:
        return await asyncio.shield(copying)
    except asyncio.CancelledError:
        canceled.set()
        await asyncio.wait([copying])
        copying.exception()  # looked at: it was interrupted
        raise
