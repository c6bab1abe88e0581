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
_LONGEST_PAUSE = 5.0


@dataclass
class _InVain:
    """A disk on which removing sources freed next to nothing."""

    reason: str
    most_used: int
    """Since then."""
    less: float
    """Bytes by which the use must fall from there before it is tried again."""


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
        self._small: dict[
            int, tuple[int, float]
        ] = {}  # bytes removed and freed that told nothing yet, by device
        self._in_vain: dict[int, _InVain] = {}

    def why_stopped(self, usage: DiskUsage) -> str:
        """Why nothing more is to be removed from a disk; empty: it may. Forgotten once its use clearly fell."""
        stopped = self._in_vain.get(usage.device)
        if stopped is None:
            return ""
        stopped.most_used = max(stopped.most_used, usage.used)
        if stopped.most_used - usage.used >= stopped.less:
            del self._in_vain[usage.device]
            log.info("retention.resumed", path=usage.folder)
            self._publish("retention.resumed", {"path": usage.folder})
            return ""
        return stopped.reason

    async def sample(self, root: str) -> Sample:
        """How full a disk is, right before something is removed."""
        return Sample(time.monotonic(), (await self._usage(root)).used)

    async def compare(self, root: str, before: Sample, removed: int) -> None:
        """Note whether removing so many bytes freed the disk. Waits as long as it does not show."""
        removed_earlier, freed_earlier, samples, pause = 0, 0.0, list[Sample](), 0.25
        while True:
            try:
                usage = await self._usage(root)
            except StorageUnavailable:
                return  # retention meets that itself
            if not samples:
                removed_earlier, freed_earlier = self._small.pop(usage.device, (0, 0.0))
            samples.append(Sample(time.monotonic(), usage.used))
            all_removed = removed + removed_earlier
            freed = freeing.freed(before, samples) + freed_earlier
            if all_removed == 0 or freed >= MEANINGFUL * all_removed:
                return
            if not freeing.tells(all_removed, usage.size):
                self._small[usage.device] = all_removed, freed
                return
            if samples[-1].at - samples[0].at >= WAIT_SECONDS:
                self._stop(usage, all_removed, max(0.0, freed))
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _stop(self, usage: DiskUsage, removed: int, freed: float) -> None:
        reason = (
            f"{usage.folder}: removing {removed / 1e9:.3g} GB freed {freed / 1e9:.3g} GB, as copies or snapshots "
            "there share their blocks: nothing more is removed until less of that disk is used or srctd is "
            "started again"
        )
        self._in_vain[usage.device] = _InVain(reason, usage.used, MEANINGFUL * removed)
        told = {"path": usage.folder, "bytes": removed, "freed_bytes": round(freed), "reason": reason}
        log.warning("retention.stopped", **told)
        self._publish("retention.stopped", told)
