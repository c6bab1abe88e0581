"""Whether removing files freed their disk, beside all else that happens there."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from srctd import freeing as daemons
from srctd.adapters.removal import DiskUsage
from srctd.core.errors import StorageUnavailable
from srctd.core.freeing import Sample, freed, tells
from srctd.freeing import Freeing

GB = 10**9


def after(use: Callable[[float], float]) -> list[Sample]:
    """What is heard in a minute after the removal began at 0 s with 0 bytes."""
    return [Sample(at, round(use(at))) for at in (1, 2, 4, 8, 15, 30, 45, 60)]


@pytest.mark.parametrize(
    ("use", "least", "most"),
    [
        (lambda at: -50 * GB, 50, 50),
        (lambda at: 0, 0, 0),
        (lambda at: 2 * GB * at, -0.1, 0.1),
        (lambda at: 2 * GB * at - 50 * GB, 49, 51),
        (lambda at: 2 * GB * at - 50 * GB * (at >= 30), 20, 51),
        (lambda at: 1 * GB * at - 50 * GB * (at >= 8), 40, 60),
        (lambda at: 10 * GB * min(at, 5), -40, 5),
    ],
    ids=["at once", "not", "not, but written", "at once, written", "late", "soon, written", "not, a burst"],
)
def test_what_was_freed_is_seen_beside_what_is_written(
    use: Callable[[float], float], least: float, most: float
) -> None:
    assert least <= freed(Sample(0, 0), after(use)) / GB <= most


def test_little_is_told_by_little() -> None:
    assert not tells(10**6, 10**12)
    assert tells(2 << 30, 10**15)
    assert tells(10**6, 10**7)


class Disk:
    """A disk that says what it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, wait: float = 0.0) -> None:
        monkeypatch.setattr(daemons, "WAIT_SECONDS", wait)
        self.used, self.told, self.out_of_reach = 900 * GB, list[tuple[str, dict[str, Any]]](), False
        self.later: list[int] = []
        self.freeing = Freeing(self.usage, lambda topic, body: self.told.append((topic, body)))

    async def usage(self, root: str) -> DiskUsage:
        if self.out_of_reach:
            raise StorageUnavailable("it hangs")
        if self.later:
            self.used = self.later.pop(0)
        return DiskUsage(root, device=1, size=1000 * GB, used=self.used)

    def remove(self, removed: int, freed: int) -> str:
        """Why nothing more is removed afterwards."""

        async def go() -> str:
            before = await self.freeing.sample("/data")
            self.used -= freed
            await self.freeing.compare("/data", before, removed)
            self.out_of_reach = False
            return self.why()

        return asyncio.run(go())

    def why(self) -> str:
        return self.freeing.why_stopped(DiskUsage("/data", device=1, size=1000 * GB, used=self.used))


def test_it_stops_when_next_to_nothing_was_freed_and_goes_on_when_less_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = Disk(monkeypatch)
    assert disk.remove(40 * GB, 39 * GB) == ""
    assert disk.remove(40 * GB, 15 * GB) == "", "some is better than nothing"
    why = disk.remove(40 * GB, 1 * GB)
    assert why.startswith("/data: removing 40 GB freed 1 GB, as copies or snapshots there share their blocks")
    disk.used += 30 * GB
    assert disk.why() == why
    disk.used -= 9 * GB
    assert disk.why() == why, "the detector comes and goes"
    disk.used -= 2 * GB
    assert disk.why() == ""
    assert [topic for topic, _ in disk.told] == ["retention.stopped", "retention.resumed"]


def test_small_ones_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    whys = [disk.remove(GB // 4, 0) for _ in range(5)]
    assert [bool(why) for why in whys] == [False] * 4 + [True]


def test_a_file_system_that_frees_later_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, wait=5.0)
    disk.later = [900 * GB] * 3 + [860 * GB]
    assert disk.remove(40 * GB, 0) == ""
    assert disk.told == []


def test_what_holds_no_blocks_of_its_own_and_a_disk_that_hangs_tell_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = Disk(monkeypatch)
    assert disk.remove(0, 0) == ""

    async def go() -> None:
        before = await disk.freeing.sample("/data")
        disk.out_of_reach = True
        await disk.freeing.compare("/data", before, 40 * GB)

    asyncio.run(go())
    assert disk.why() == ""
