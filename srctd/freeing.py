"""Whether removing sources frees their disk: retention must not remove them all for nothing."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog

from srctd.adapters.removal import DiskUsage
from srctd.core import freeing
from srctd.core.errors import StorageUnavailable
from srctd.core.freeing import MEANINGFUL, Sample

log = structlog.get_logger()

WAIT_SECONDS = 60.0
"""For file systems that free later; btrfs does so with its next transaction, after 30 s at most."""
ENOUGH_TRIALS = 3
"""So many in a row must have freed next to nothing."""
TRIED_AGAIN_SECONDS = 3600.0
"""A verdict that was wrong after all must not let a disk fill up."""
_LONGEST_TRIAL = 600.0
_LONGEST_PAUSE = 5.0


@dataclass
class _InVain:
    """A disk on which removing sources freed next to nothing."""

    reason: str
    since: float
    """Seconds of a monotonic clock."""
    most_used: int
    """Since then."""
    less: float
    """Bytes by which the use must fall from there before it is tried again."""


@dataclass
class _Trial:
    """What was removed from a disk since it last showed whether that frees it."""

    before: Sample
    removed: int = 0


@dataclass
class _Doubt:
    """Trials in a row after which nothing more was free."""

    trials: int = 0
    removed: int = 0
    freed: float = 0.0


class Freeing:
    """Compares how full disks become with what was removed from them."""

    def __init__(
        self,
        usage: Callable[[str], Awaitable[DiskUsage]],
        publish: Callable[[str, dict[str, Any]], None],
    ) -> None:
        """`usage`: how full the disk below a folder is; may raise `StorageUnavailable`."""
        self._usage = usage
        self._publish = publish
        self._trials: dict[int, _Trial] = {}  # by device, as the others
        self._doubts: dict[int, _Doubt] = {}
        self._in_vain: dict[int, _InVain] = {}

    def why_stopped(self, usage: DiskUsage) -> str:
        """Why nothing more is to be removed from a disk; empty: it may.

        Forgotten once its use clearly fell. After `TRIED_AGAIN_SECONDS` one trial more may be made.
        """
        stopped = self._in_vain.get(usage.device)
        if stopped is None:
            return ""
        stopped.most_used = max(stopped.most_used, usage.used)
        if stopped.most_used - usage.used >= stopped.less:
            self._doubts.pop(usage.device, None)
        elif time.monotonic() - stopped.since < TRIED_AGAIN_SECONDS:
            return stopped.reason
        del self._in_vain[usage.device]
        log.info("retention.resumed", path=usage.folder)
        self._publish("retention.resumed", {"path": usage.folder})
        return ""

    async def sample(self, root: str) -> Sample:
        """How full a disk is, right before something is removed."""
        return Sample(time.monotonic(), (await self._usage(root)).used)

    async def compare(self, root: str, before: Sample, removed: int) -> None:
        """Note whether removing so many bytes freed the disk. Waits as long as it does not show."""
        samples, pause = list[Sample](), 0.25
        while True:
            try:
                usage = await self._usage(root)
            except StorageUnavailable:
                return  # retention meets that itself
            if not samples:
                trial = self._trial(usage.device, before)
                trial.removed += removed
                if not freeing.tells(trial.removed, usage.size):
                    return
            samples.append(Sample(time.monotonic(), usage.used))
            freed = freeing.freed(trial.before, samples)
            if freed >= MEANINGFUL * trial.removed:
                self._forget(usage.device)
                return
            if samples[-1].at - samples[0].at >= WAIT_SECONDS:
                self._doubt(usage, trial.removed, freed)
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _trial(self, device: int, before: Sample) -> _Trial:
        """Small sources are tried together, if they go soon after each other: else too much else is written."""
        trial = self._trials.get(device)
        if trial is None or before.at - trial.before.at > _LONGEST_TRIAL:
            trial = self._trials[device] = _Trial(before)
        return trial

    def _forget(self, device: int) -> None:
        del self._trials[device]
        self._doubts.pop(device, None)

    def _doubt(self, usage: DiskUsage, removed: int, freed: float) -> None:
        """What was written beside may have hidden once what was freed, but not time after time."""
        del self._trials[usage.device]
        doubt = self._doubts.setdefault(usage.device, _Doubt())
        doubt.trials += 1
        doubt.removed += removed
        doubt.freed += max(0.0, freed)
        if doubt.trials < ENOUGH_TRIALS:
            return
        reason = (
            f"{usage.folder}: removing {doubt.removed / 1e9:.3g} GB freed {doubt.freed / 1e9:.3g} GB, as copies or "
            "snapshots there share their blocks: nothing more is removed until less of that disk is used, or for "
            f"another try in {TRIED_AGAIN_SECONDS / 60:g} minutes"
        )
        self._in_vain[usage.device] = _InVain(reason, time.monotonic(), usage.used, MEANINGFUL * removed)
        told = {
            "path": usage.folder,
            "bytes": doubt.removed,
            "freed_bytes": round(doubt.freed),
            "reason": reason,
        }
        log.warning("retention.stopped", **told)
        self._publish("retention.stopped", told)
