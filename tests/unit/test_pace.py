"""How fast copies read: never faster than a limit, never in the detector's way, never standing still."""

import asyncio
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srctd.adapters.pace import (
    CHARGED_BYTES,
    PRIORITIES,
    Gate,
    Paces,
    Places,
    counts,
    device_of,
    fetched_bytes,
    set_io_priority,
)
from srctd.config import WatchSection
from srctd.core.errors import StorageUnavailable
from srctd.core.pace import (
    BURST_SECONDS,
    FLOOR,
    NEGLIGIBLE,
    PRESUMED,
    SHARE,
    Bucket,
    Disk,
    Load,
    filled,
    observed,
    seconds_until,
)

MB = 1e6


class Clock:
    """Time that passes only while something waits, and when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.cancels_at = math.inf

    def __call__(self) -> float:
        return self.now

    def wait(self, timeout: float) -> bool:
        self.now = min(self.now + timeout, max(self.now, self.cancels_at))
        return self.now >= self.cancels_at


# --- a limit ----------------------------------------------------------------------------------------------


@given(
    rate=st.floats(1e3, 1e10),
    takes=st.lists(st.tuples(st.floats(0, 3), st.floats(0, 3)), min_size=1, max_size=20),
)
def test_no_sequence_of_takes_is_faster_than_the_rate(rate: float, takes: list[tuple[float, float]]) -> None:
    clock = Clock()
    began, total = clock.now, 0
    gate = Gate(rate, clock)
    for pause, seconds in takes:
        clock.now += pause
        count = int(seconds * rate)
        gate.take(count, clock)
        total += count
        assert total <= (clock.now - began) * rate * (1 + 1e-9) + 1
    assert gate.passed == total


@given(rate=st.floats(1e3, 1e10), pauses=st.lists(st.floats(0, 1e6), max_size=20))
def test_a_long_pause_saves_no_more_than_a_burst(rate: float, pauses: list[float]) -> None:
    bucket, now = Bucket(0.0, 0.0), 0.0
    for pause in pauses:
        now += pause
        bucket = filled(bucket, rate, 0, now)
        assert bucket.saved <= rate * BURST_SECONDS


@given(rate=st.floats(1e3, 1e10), wanted=st.integers(0, 1 << 40), saved=st.floats(0, 1e9))
def test_after_the_wait_there_is_enough(rate: float, wanted: int, saved: float) -> None:
    bucket = Bucket(saved, 0.0)
    wait = seconds_until(bucket, rate, wanted)
    assert filled(bucket, rate, wanted, wait).saved >= wanted * (1 - 1e-9) or wait == 0


def test_a_clock_that_stands_still_or_runs_back_saves_nothing() -> None:
    assert filled(Bucket(5.0, 10.0), 100.0, 50, 10.0) == Bucket(5.0, 10.0)
    assert filled(Bucket(5.0, 10.0), 100.0, 50, 3.0) == Bucket(5.0, 10.0)


def test_without_a_limit_nothing_waits_and_a_limit_holds_from_when_it_is_set() -> None:
    clock = Clock()
    gate = Gate(clock=clock)
    for _ in range(100):
        gate.take(1 << 30, clock)
    assert clock.now == 1000.0
    gate.rate = 10 * MB
    gate.take(1 << 20, clock)
    assert clock.now == 1000.0, "a burst"
    gate.take(int(20 * MB), clock)
    assert clock.now > 1001.9


def test_who_waits_for_a_slow_rate_goes_on_when_it_rises() -> None:
    clock = Clock()
    gate = Gate(FLOOR, clock)

    class Rising(Clock):
        def wait(self, timeout: float) -> bool:
            clock.now += timeout
            if clock.now > 1003:
                gate.rate = math.inf
            return False

    gate.take(int(1000 * MB), Rising())
    assert clock.now < 1004


def test_who_gives_up_leaves_no_debt() -> None:
    clock = Clock()
    clock.cancels_at = 1000.2
    gate = Gate(MB, clock)
    with pytest.raises(StorageUnavailable, match="interrupted"):
        gate.take(int(500 * MB), clock)
    clock.cancels_at = math.inf
    gate.take(int(MB), clock)
    assert clock.now < 1001.3
    assert gate.passed == int(MB)


def test_threads_get_the_same_and_no_more_than_the_rate_together() -> None:
    rate, piece, seconds = 40 * MB, 1 << 18, 1.0
    gate, stop = Gate(rate), threading.Event()
    taken = [0, 0, 0]

    def read(which: int) -> None:
        while not stop.is_set():
            gate.take(piece, threading.Event())
            taken[which] += piece

    threads = [threading.Thread(target=read, args=(which,)) for which in range(len(taken))]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    assert gate.passed == sum(taken) <= rate * (time.monotonic() - began)
    assert max(taken) - min(taken) <= 4 * piece


def test_a_wait_ends_at_once_when_the_copy_is_canceled() -> None:
    canceled = threading.Event()
    gate, ended = Gate(1.0), threading.Event()

    def read() -> None:
        with pytest.raises(StorageUnavailable):
            gate.take(1 << 30, canceled)
        ended.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert not ended.wait(0.05)
    canceled.set()
    assert ended.wait(5)
    thread.join()


# --- yielding ---------------------------------------------------------------------------------------------


def after(
    disk: Disk, written: float, read: float, configured: float = 500 * MB, fraction: float = 0.5
) -> Disk:
    return observed(disk, Load(1.0, written, read, written + read), configured, fraction)


def test_copies_are_free_while_the_detector_writes_little() -> None:
    assert after(Disk(), 0, 0).allowed == math.inf
    assert after(Disk(), 250 * MB, 0).allowed == math.inf
    assert after(Disk(), 10 * MB, 490 * MB).allowed == math.inf, "a log file is no acquisition"


def test_copies_get_half_of_what_a_busy_detector_leaves() -> None:
    disk = after(Disk(), 340 * MB, 0)
    assert disk.allowed == pytest.approx(SHARE * 160 * MB)
    assert (disk.detector, disk.gives) == (340 * MB, 500 * MB)
    assert after(Disk(), 600 * MB, 0).allowed == FLOOR


def test_the_detector_has_paused_only_when_it_wrote_nothing_for_a_while() -> None:
    disk = after(Disk(), 450 * MB, 0)
    disk = after(disk, 0, 40 * MB)
    assert disk.detector == 225 * MB
    for _ in range(3):
        assert FLOOR < disk.allowed < 500 * MB
        disk = after(disk, 0, 40 * MB)
    disk = after(disk, 0, 40 * MB)
    assert disk.allowed == math.inf


@given(
    loads=st.lists(st.tuples(st.floats(0, 1e11), st.floats(0, 1e11), st.floats(0, 1.2)), max_size=30),
    configured=st.sampled_from([0.0, 500e6]),
    fraction=st.floats(0.01, 1),
)
def test_whatever_happens_copies_get_something_and_no_more_than_is_left(
    loads: list[tuple[float, float, float]], configured: float, fraction: float
) -> None:
    disk = Disk()
    for written, read, busy in loads:
        before = disk
        load = Load(0.5, written, read, written + read, busy)
        disk = observed(disk, load, configured, fraction)
        assert disk.allowed >= FLOOR
        assert disk.most >= max(before.most, PRESUMED)
        assert disk.allowed < max(disk.gives, FLOOR * (1 + 1e-9)) or math.isinf(disk.allowed)
        if disk.detector > max(NEGLIGIBLE, fraction) * disk.gives:
            assert disk.allowed <= max(FLOOR, SHARE * (disk.gives - disk.detector) * (1 + 1e-9))


def run_on_a_disk(gives: Callable[[float, float], float], wants: float, known: float) -> list[float]:
    """What the detector gets of what it wants, while copies take all that they may: one value per second.

    `gives`: what the disk gives for a mix of reads and writes; it serves both alike where that is too little.
    """
    disk, got = Disk(), []
    for _ in range(120):
        asked = min(disk.allowed, 1000 * MB)
        room = gives(wants, asked)
        scale = min(1.0, room / (wants + asked))
        written, read = wants * scale, asked * scale
        busy = min(1.0, (written + read) / room)
        disk = observed(disk, Load(0.5, written / 2, read / 2, (written + read) / 2, busy), known, 0.5)
        got.append(written)
    return got


@pytest.mark.parametrize("known", [0.0, 500 * MB])
@pytest.mark.parametrize("wants", [0.3, 0.6, 0.9, 1.0])
def test_a_detector_that_was_pushed_aside_gets_its_disk_back(known: float, wants: float) -> None:
    got = run_on_a_disk(lambda _w, _r: 500 * MB, wants * 500 * MB, known)
    assert sum(got[-20:]) >= 0.98 * 20 * wants * 500 * MB


@pytest.mark.parametrize("wants", [0.6, 0.9])
def test_so_it_does_on_a_disk_that_suffers_from_the_mix(wants: float) -> None:
    def gives(written: float, read: float) -> float:
        return 200 * MB * (1 - 0.5 * min(written, read) / max(written, read))

    got = run_on_a_disk(gives, wants * 200 * MB, 0.0)
    assert sum(got[-60:]) >= 0.9 * 60 * wants * 200 * MB


def test_a_disk_that_idles_most_of_the_time_gives_more_than_it_was_asked_for() -> None:
    load = Load(1.0, 150 * MB, 0, 150 * MB, busy=0.25)
    disk = observed(Disk(), load, 0.0, 0.5)
    assert disk.most == disk.gives == 600 * MB
    assert disk.allowed == math.inf


# --- places -----------------------------------------------------------------------------------------------


def test_complete_scans_go_first_and_each_kind_in_turn() -> None:
    async def scenario() -> list[str]:
        places, order, all_came = Places(1), [], asyncio.Event()

        async def copy(name: str, urgent: bool) -> None:
            async with places.one(urgent=urgent):
                order.append(name)
                await all_came.wait()

        async with asyncio.TaskGroup() as group:
            for name, urgent in (("a", False), ("b", False), ("c", True), ("d", False), ("e", True)):
                group.create_task(copy(name, urgent))
            await asyncio.sleep(0)
            assert places.waiting == 4
            all_came.set()
        assert places.waiting == 0
        return order

    assert asyncio.run(scenario()) == ["a", "c", "e", "b", "d"]


@given(
    places=st.integers(1, 4),
    copies=st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 12)), max_size=20),
)
def test_no_place_is_lost_or_given_twice(places: int, copies: list[tuple[bool, int, int]]) -> None:
    """Copies of which some are canceled while they wait, when they have just got a place, or while they copy."""

    async def scenario() -> None:
        queue, inside = Places(places), set()

        async def copy(number: int, urgent: bool, steps: int) -> None:
            async with queue.one(urgent=urgent):
                inside.add(number)
                assert len(inside) <= places
                try:
                    for _ in range(steps):
                        await asyncio.sleep(0)
                finally:
                    inside.discard(number)

        tasks = [
            (asyncio.create_task(copy(number, urgent, steps)), lives)
            for number, (urgent, steps, lives) in enumerate(copies)
        ]
        for turn in range(100):
            for task, lives in tasks:
                if turn == lives and lives < 10:
                    task.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(*(task for task, _ in tasks), return_exceptions=True)
        assert all(task.cancelled() or task.exception() is None for task, _ in tasks)
        async with asyncio.timeout(5):  # all places are there again
            for _ in range(places):
                await queue.one(urgent=False).__aenter__()
        assert queue.waiting == 0

    asyncio.run(scenario())


async def until(condition: Callable[[], object]) -> None:
    """Come back when something is so."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  (nothing rings)
            await asyncio.sleep(0.02)


# --- the whole --------------------------------------------------------------------------------------------


def test_two_roots_on_one_disk_share_its_places(tmp_path: Path) -> None:
    roots = [tmp_path / name for name in "ab"]
    for root in roots:
        root.mkdir()

    async def scenario() -> None:
        paces = Paces([WatchSection(path=str(root)) for root in roots], 1, str(tmp_path))
        async with paces.place(f"{roots[0]}/scan", urgent=False):
            other = paces.place(f"{roots[1]}/scan", urgent=True)
            entering = asyncio.create_task(other.__aenter__())
            await until(lambda: paces.facts()[1]["waiting"])
            assert not entering.done()
            assert len({fact["disk"] for fact in paces.facts()}) == 1
        await entering

    asyncio.run(scenario())


def test_a_root_that_is_not_there_has_places_too(tmp_path: Path) -> None:
    root = tmp_path / "gone"

    async def scenario() -> None:
        paces = Paces([WatchSection(path=str(root))], 1, str(tmp_path))
        async with paces.place(f"{root}/scan", urgent=False):
            paces.pace(f"{root}/scan", threading.Event()).take(1 << 20)
        assert paces.facts()[0]["disk"] == str(root)

    asyncio.run(scenario())


def test_a_limit_is_shared_by_all_copies_of_a_root_and_told(tmp_path: Path) -> None:
    paces = Paces([WatchSection(path=str(tmp_path), copy_megabytes_per_second=2.0)], 2, str(tmp_path))

    async def scenario() -> float:
        async with paces.place(str(tmp_path), urgent=True):
            copies = [paces.pace(str(tmp_path), threading.Event()) for _ in range(2)]
            began = time.monotonic()
            await asyncio.gather(*(asyncio.to_thread(copy.take, 500_000) for copy in copies))
            return time.monotonic() - began

    assert asyncio.run(scenario()) >= 0.4
    (fact,) = paces.facts()
    assert fact["limit_bytes_per_second"] == 2_000_000
    assert fact["why"] == "copy_megabytes_per_second"


def test_a_copy_that_was_canceled_takes_nothing_more(tmp_path: Path) -> None:
    async def scenario() -> None:
        paces = Paces([WatchSection(path=str(tmp_path))], 1, str(tmp_path))
        canceled = threading.Event()
        async with paces.place(str(tmp_path), urgent=True):
            pace = paces.pace(str(tmp_path), canceled)
            pace.take(1)
            canceled.set()
            with pytest.raises(StorageUnavailable):
                pace.take(1)

    asyncio.run(scenario())


def test_growth_that_the_listings_see_slows_copies_where_nothing_else_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shared storage lies on the detector's disk: what the device writes is not the detector's alone."""
    monkeypatch.setattr("srctd.adapters.pace.OBSERVE_SECONDS", 0.02)
    monkeypatch.setattr("srctd.adapters.pace.GROWTH_SECONDS", 0.04)
    section = WatchSection(path=str(tmp_path), disk_megabytes_per_second=100.0)
    paces = Paces([section], 1, str(tmp_path))

    async def scenario() -> None:
        watching = asyncio.create_task(paces.run_forever())
        async with paces.place(str(tmp_path), urgent=True):
            await until(lambda: paces.grew(f"{tmp_path}/s.h5", 10_000_000) or paces.facts()[0]["why"])
            assert "the detector writes" in paces.facts()[0]["why"]
            await until(lambda: paces.facts()[0]["limit_bytes_per_second"] is None)
        watching.cancel()

    asyncio.run(scenario())


# --- the kernel -------------------------------------------------------------------------------------------


def test_io_priority_is_the_threads_own_and_given_back(tmp_path: Path) -> None:
    paces = Paces([WatchSection(path=str(tmp_path), io_priority="idle")], 1, str(tmp_path))
    seen = []

    def copy() -> None:
        mine = set_io_priority(PRIORITIES["normal"])
        with paces.priority(f"{tmp_path}/scan"):
            seen.append(set_io_priority(PRIORITIES["idle"]))
            started = threading.Thread(target=lambda: seen.append(set_io_priority(PRIORITIES["idle"])))
            started.start()
            started.join()
        seen.append(set_io_priority(mine))

    thread = threading.Thread(target=copy)
    thread.start()
    thread.join()
    assert seen == [PRIORITIES["idle"], PRIORITIES["idle"], PRIORITIES["normal"]]


def test_without_the_call_a_copy_goes_on_and_it_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    paces = Paces([WatchSection(path=str(tmp_path))], 1, str(tmp_path))
    for _ in range(3):
        with paces.priority(str(tmp_path)):
            pass
    assert capsys.readouterr().out.count("riscv64") == 1


@contextmanager
def block_file(folder: Path, size: int) -> Iterator[int]:
    """A file of which nothing is in the page cache."""
    path = folder / "data"
    path.write_bytes(os.urandom(1 << 20) * (size >> 20))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        yield descriptor
    finally:
        os.close(descriptor)


def test_what_comes_from_the_page_cache_costs_the_disk_nothing(tmp_path: Path) -> None:
    device = device_of(tmp_path.stat().st_dev)
    if device is None or fetched_bytes() is None:
        pytest.skip("no block device below the temporary folder, or no count of what a thread fetches")
    paces = Paces([WatchSection(path=str(tmp_path))], 1, "/proc")
    block = CHARGED_BYTES

    async def scenario(descriptor: int) -> tuple[int, int]:
        async with paces.place(str(tmp_path), urgent=True):
            disk = paces._roots[0].disk
            assert disk is not None

            def read() -> int:
                before, pace = disk.gate.passed, paces.pace(str(tmp_path), threading.Event())
                for number in range(5):
                    pace.take(block)
                    os.pread(descriptor, block, number * block)
                return disk.gate.passed - before

            return await asyncio.to_thread(read), await asyncio.to_thread(read)

    with block_file(tmp_path, 5 * block) as descriptor:
        cold, warm = asyncio.run(scenario(descriptor))
    assert warm == 0
    assert 2 * block <= cold <= 4 * block, "the last block is read after the last charge"
    found = counts(device)
    assert found is not None
    assert found.read > 0
    assert found.busy_seconds > 0
