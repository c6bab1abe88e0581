"""Scans that wait for room on shared storage go on by themselves when there is room, the oldest first."""

import math

import structlog

from srctd.core.errors import SrctdError
from srctd.core.lifecycle import Released, Scan
from srctd.core.space import Grade
from srctd.engine import Engine
from srctd.room import Room
from srctd.spacewatch import SpaceWatch

log = structlog.get_logger()


class Releases:
    """Looks whenever shared storage was asked what is free."""

    def __init__(self, engine: Engine, room: Room, watch: SpaceWatch) -> None:
        self._engine = engine
        self._room = room
        self._watch = watch
        self._grade: Grade | None = None  # by which what is held was last tried

    async def run_forever(self) -> None:
        """Until cancelled."""
        while True:
            await self._watch.next_answer()
            try:
                await self._release()
            except SrctdError as exc:  # storage is out of reach: it is asked again
                log.info("space.not_released", reason=exc.sentence)

    async def _release(self) -> None:
        """Every scan for which there is room, one after the other: each is promised what it lacked.

        What a step needs depends on the configuration, which may be another one since the start, and on the grade:
        only the step itself can tell anew. So all are tried once after the start, and after each change of grade.
        """
        anew, self._grade = self._grade is not self._room.grade, self._room.grade
        for scan in self._waiting(anew):
            step = scan.lacks_space
            if step is None:
                continue
            if not anew and not await self._room.may_go_on(scan, scan.step(step).needs_bytes):
                continue
            log.info("space.released", scan=scan.id, step=str(step))
            await self._engine.happen(Released(scan=scan.id, only=step))

    def _waiting(self, anew: bool) -> list[Scan]:
        """Those that are held for want of room, of which so much is free as they needed, or all of them."""
        free = math.inf if anew else self._watch.shared_free or 0
        scans = [scan for scan in self._engine.scans.values() if _fits(scan, free)]
        return sorted(scans, key=lambda scan: (scan.completed_at, scan.member))


def _fits(scan: Scan, free: float) -> bool:
    step = None if scan.superseded else scan.lacks_space
    return step is not None and scan.step(step).needs_bytes <= free
