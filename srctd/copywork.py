"""Work on copies in threads: one at a time in each folder, and only so many from each disk.

A thread whose storage does not answer keeps its folder, and its place among the copies from its disk, until it is
back; whoever waits for it may give up.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from weakref import WeakValueDictionary

import structlog

from srctd.adapters import sync
from srctd.adapters.pace import Paces
from srctd.config import StorageSection
from srctd.core.errors import SrctdError
from srctd.meter import Counted, Meter, Stop
from srctd.threads import start_copy

log = structlog.get_logger()
T = TypeVar("T")


class Job(NamedTuple):
    """Where one piece of work reads and writes, and by what it is watched and ended."""

    source: str
    """A path on the disk that is read."""
    part: Path | None
    """The folder that is written; None: nothing is."""
    meter: Meter
    stop: Stop
    urgent: bool
    """The scan is complete: it goes before those that are still being acquired."""


class CopyWork:
    """Starts threads that copy, and tasks that wait for them."""

    def __init__(self, storage: StorageSection, paces: Paces) -> None:
        self._storage = storage
        self._paces = paces
        self._locks: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, job: Job, work: Callable[[sync.CopyOptions], T]) -> T:
        """Have a thread do what it takes options for. On cancellation it is left to end at its next block."""

        async def supervised() -> T:
            lock = self._lock(job.part) if job.part else asyncio.Lock()
            async with lock, self._paces.place(job.source, urgent=job.urgent):
                job.stop.check()
                return await asyncio.wrap_future(start_copy(partial(self._in_thread, job, work)))

        try:
            return await asyncio.shield(self.start(supervised()))
        except asyncio.CancelledError:
            job.stop.event.set()
            raise

    async def remove(self, part: Path) -> None:
        """Remove a copy as soon as nobody writes into it."""
        async with self._lock(part):
            with suppress(SrctdError):  # storage is out of reach: so is what would be removed
                await asyncio.wrap_future(start_copy(partial(sync.remove_folder, part)))

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that is kept alive. Its failure is for those who ask for the result; often, nobody does."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _in_thread(self, job: Job, work: Callable[[sync.CopyOptions], T]) -> T:
        pace = Counted(self._paces.pace(job.source, job.stop.event), job.meter, job.stop)
        options = sync.CopyOptions(
            pace=pace, read_back=self._storage.read_back, portable_names=self._storage.portable_names
        )
        job.meter.begin()
        try:
            with self._paces.priority(job.source):
                return work(options)
        finally:
            job.meter.end()

    def _lock(self, part: Path) -> asyncio.Lock:
        """Held by whoever writes into a part, and until that thread has ended."""
        lock = self._locks.get(part)
        if lock is None:
            self._locks[part] = lock = asyncio.Lock()
        return lock

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, SrctdError):
            log.error("copy.bug", exc_info=error)
