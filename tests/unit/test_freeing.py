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
        (lambda at: 2 * GB * at - 50 * GB * (at >= 30), 49, 51),
        (lambda at: 1 * GB * at - 50 * GB * (at >= 8), 49, 51),
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

    def remove(self, removed: int, freed: int, times: int = 1) -> str:
        """Why nothing more is removed afterwards."""

        async def go() -> str:
            before = await self.freeing.sample("/data")
            self.used -= freed
            await self.freeing.compare("/data", before, removed)
            self.out_of_reach = False
            return self.why()

        for _ in range(times):
            why = asyncio.run(go())
        return why

    def why(self) -> str:
        return self.freeing.why_stopped(DiskUsage("/data", device=1, size=1000 * GB, used=self.used))


def test_it_stops_when_next_to_nothing_was_freed_and_goes_on_when_less_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = Disk(monkeypatch)
    assert disk.remove(40 * GB, 39 * GB) == ""
    assert disk.remove(40 * GB, 15 * GB) == "", "some is better than nothing"
    assert disk.remove(40 * GB, 1 * GB, times=2) == "", "something else may have been written"
    why = disk.remove(40 * GB, 1 * GB)
    assert why.startswith(
        "/data: removing 120 GB freed 3 GB, as copies or snapshots there share their blocks"
    )
    disk.used += 30 * GB
    assert disk.why() == why
    disk.used -= 9 * GB
    assert disk.why() == why, "the detector comes and goes"
    disk.used -= 2 * GB
    assert disk.why() == ""
    assert [topic for topic, _ in disk.told] == ["retention.stopped", "retention.resumed"]


def test_once_something_was_freed_all_doubt_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    for _ in range(3):
        assert disk.remove(40 * GB, 0, times=2) == ""
        assert disk.remove(40 * GB, 40 * GB) == ""
    assert disk.told == []


def test_small_ones_are_tried_together(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    whys = [disk.remove(GB // 4, 0) for _ in range(15)]
    assert [bool(why) for why in whys] == [False] * 14 + [True]


def test_a_disk_that_was_given_up_is_tried_again_after_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    now = [0.0]
    monkeypatch.setattr(daemons.time, "monotonic", lambda: now[0])
    assert disk.remove(40 * GB, 0, times=3)
    now[0] += daemons.TRIED_AGAIN_SECONDS
    assert disk.why() == ""
    assert disk.remove(40 * GB, 0), "one try is enough then"
    now[0] += daemons.TRIED_AGAIN_SECONDS
    assert disk.remove(40 * GB, 40 * GB) == ""
    assert disk.remove(40 * GB, 0) == "", "it was wrong"
    assert [topic.split(".")[1] for topic, _ in disk.told] == ["stopped", "resumed"] * 2


@pytest.mark.parametrize(
    ("rate", "size", "seconds", "pause", "late"),
    [
        (1.0, 0.15, 0.2, 0.2, 0.0),
        (0.3, 0.5, 2.0, 0.1, 0.0),
        (0.0, 0.15, 0.01, 0.7, 0.5),
        (0.0, 0.15, 0.01, 0.1, 0.0),
        (1.0, 3.0, 1.0, 300.0, 0.0),
        (0.5, 20.0, 5.0, 1.0, 40.0),
    ],
    ids=["written fast", "slow removal", "freed later", "at once", "far apart", "written, freed later"],
)
def test_it_goes_on_where_removing_frees(
    monkeypatch: pytest.MonkeyPatch, rate: float, size: float, seconds: float, pause: float, late: float
) -> None:
    """GB/s that are written, GB of each source, s that its removal takes, s to the next, s until it is free."""
    now, frees = [0.0], list[tuple[float, float]]()

    async def sleep(seconds: float) -> None:
        now[0] += seconds

    async def usage(root: str) -> DiskUsage:
        used = 900 + rate * now[0] - sum(size for at, size in frees if at <= now[0])
        return DiskUsage(root, device=1, size=1000 * GB, used=round(used * GB))

    async def go() -> None:
        freeing = Freeing(usage, lambda topic, body: told.append(topic))
        for _ in range(60):
            before = await freeing.sample("/data")
            await sleep(seconds)
            frees.append((now[0] + late, size))
            await freeing.compare("/data", before, round(size * GB))
            await sleep(pause)

    told = list[str]()
    monkeypatch.setattr(daemons.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(daemons.asyncio, "sleep", sleep)
    asyncio.run(go())
    assert told == []


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
