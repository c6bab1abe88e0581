"""The engine: every end becomes an event, a bug holds one scan, a failing journal ends everything."""

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from factories import a_manifest, a_scan

from srctd.core.errors import CatalogUnavailable, JournalError, ScanUnreadable
from srctd.core.lifecycle import AnyEvent, Completed, Released, Scan, SeenAgain, Status, Step, Superseded
from srctd.engine import Engine, JournalThread
from srctd.services import Work
from srctd.steps import StepFunction


class Found(msgspec.Struct):
    """Any step's result."""

    value: int = 1


class MemoryJournal:
    """Keeps what it is told, or fails when it is told to."""

    def __init__(self) -> None:
        self.topics: list[str] = []
        self.broken = False

    def load(self) -> list[Scan]:
        return []

    def commit(self, scan: Scan, event: AnyEvent, at: float) -> int:
        if self.broken:
            raise JournalError("journal: disk I/O error")
        self.topics.append(f"{event.__struct_config__.tag} {getattr(event, 'step', '')}".strip())
        return len(self.topics)


async def succeed(work: Work) -> Found:
    return Found()


Scenario = Callable[[Engine, MemoryJournal], Awaitable[None]]


def play(
    scenario: Scenario, steps: dict[Step, StepFunction] | None = None, timeout: float = 5.0
) -> MemoryJournal:
    """Run an engine with these steps, the others succeeding, while the scenario plays."""

    async def stage() -> MemoryJournal:
        journal, thread = MemoryJournal(), JournalThread()
        all_steps = dict.fromkeys(Step, succeed) | (steps or {})
        timeouts = dict.fromkeys(Step, timeout)
        services: Any = None
        engine = Engine(journal, thread, services, timeouts, lambda topic, body: None, all_steps)
        task = asyncio.create_task(engine.run_forever())
        try:
            async with asyncio.timeout(20):
                await scenario(engine, journal)
        finally:
            task.cancel()
            ended = await asyncio.gather(task, return_exceptions=True)
            thread.close()
        if isinstance(ended[0], BaseExceptionGroup):
            raise ended[0].exceptions[0]
        return journal

    return asyncio.run(stage())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the engine has no event for each of its states
        await asyncio.sleep(0.001)


def enter(name: str = "s") -> Completed:
    return Completed(scan=name, entered=a_scan(id=name), manifest=a_manifest())


def test_a_scan_runs_through_all_steps_and_each_is_journaled_once() -> None:
    async def scenario(engine: Engine, journal: MemoryJournal) -> None:
        await engine.happen(enter())
        await until(lambda: engine.scans["s"].done)

    journal = play(scenario)
    assert journal.topics[0] == "scan.completed"
    assert sorted(journal.topics[1:]) == sorted(f"step.done {step}" for step in Step)


def test_a_bug_in_a_step_holds_that_scan_alone() -> None:
    async def bug(work: Work) -> Found:
        if work.scan.id == "bad":
            raise ZeroDivisionError("float division")
        return Found()

    async def scenario(engine: Engine, journal: MemoryJournal) -> None:
        await engine.happen(enter("bad"))
        await engine.happen(enter("good"))
        await until(lambda: engine.scans["good"].done and engine.scans["bad"].held is not None)
        assert "internal error in check: ZeroDivisionError" in engine.scans["bad"].step(Step.CHECK).reason

    play(scenario, {Step.CHECK: bug})


def test_a_held_scan_goes_on_when_released() -> None:
    seen: list[int] = []

    async def refuse_once(work: Work) -> Found:
        seen.append(1)
        if len(seen) == 1:
            raise ScanUnreadable("/a.h5 has rank 2", hint="expected 3")
        return Found()

    async def scenario(engine: Engine, journal: MemoryJournal) -> None:
        await engine.happen(enter())
        await until(lambda: engine.scans["s"].held is Step.CHECK)
        assert engine.scans["s"].step(Step.CHECK).reason == "/a.h5 has rank 2 (expected 3)"
        await engine.happen(Released(scan="s"))
        await until(lambda: engine.scans["s"].done)

    play(scenario, {Step.CHECK: refuse_once})


def test_what_is_out_of_reach_is_tried_again_later() -> None:
    async def down(work: Work) -> Found:
        raise CatalogUnavailable("catalogue down")

    async def scenario(engine: Engine, journal: MemoryJournal) -> None:
        await engine.happen(enter())
        await until(lambda: engine.scans["s"].step(Step.REGISTER).status is Status.RETRYING)
        assert engine.scans["s"].held is None
        await until(lambda: engine.scans["s"].step(Step.RECONSTRUCT).status is Status.DONE)

    play(scenario, {Step.REGISTER: down})


def test_a_step_that_takes_too_long_is_ended_and_tried_again() -> None:
    async def hang(work: Work) -> Found:
        await asyncio.Event().wait()
        return Found()

    async def scenario(engine: Engine, journal: MemoryJournal) -> None:
        await engine.happen(enter())
        await until(lambda: engine.scans["s"].step(Step.CHECK).status is Status.RETRYING)
        assert "did not end within 0.05 s" in engine.scans["s"].step(Step.CHECK).reason

    play(scenario, {Step.CHECK: hang}, timeout=0.05)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EROFS, errno.ETIMEDOUT, errno.ENOENT])
def test_what_a_file_system_answers_is_no_bug(code: int) -> None:
    async def answered(work: Work) -> Found:
        raise OSError(code, os.strerror(code), "/shared/visitors")

    async def scenario(engine: Engine, journal: MemoryJournal) -> None:
        await engine.happen(enter())
        await until(lambda: engine.scans["s"].step(Step.CHECK).status is Status.RETRYING)
        state = engine.scans["s"].step(Step.CHECK)
        assert state.reason.startswith(f"/shared/visitors cannot be used in check: {os.strerror(code)}")
        assert state.cause == "StorageUnavailable"

    play(scenario, {Step.CHECK: answered})


def test_a_superseded_scan_stops_where_it_is() -> None:
    started = asyncio.Event()

    async def hang(work: Work) -> Found:
        started.set()
        await asyncio.Event().wait()
        return Found()

    async def scenario(engine: Engine, journal: MemoryJournal) -> None:
        await engine.happen(enter())
        await started.wait()
        await engine.happen(Superseded(scan="s"))
        await until(lambda: not engine.running("s"))
        assert engine.scans["s"].superseded

    play(scenario, {Step.SYNC: hang})


def test_stopping_lets_short_steps_end_and_starts_nothing_more() -> None:
    gate = asyncio.Event()

    async def slow(work: Work) -> Found:
        await gate.wait()
        return Found()

    async def scenario(engine: Engine, journal: MemoryJournal) -> None:
        await engine.happen(enter())
        await until(lambda: Step.SYNC in engine.running("s"))
        stopping = asyncio.create_task(engine.stop(5.0))
        await asyncio.sleep(0)
        gate.set()
        await stopping
        assert "step.done sync" in journal.topics
        assert not engine.running("s")
        assert engine.scans["s"].step(Step.SUBMIT).status is Status.RUNNING, "decided, but not started"

    play(scenario, {Step.SYNC: slow})


def test_a_journal_that_fails_ends_the_engine() -> None:
    async def scenario(engine: Engine, journal: MemoryJournal) -> None:
        await engine.happen(enter())
        journal.broken = True
        await asyncio.sleep(0.2)

    with pytest.raises(JournalError, match="disk I/O error"):
        play(scenario)


def test_scans_are_found_by_path_place_and_content():
    async def scenario(engine: Engine, journal: MemoryJournal) -> None:
        for name, revision, member in (("a", 1, 0), ("b", 2, 0), ("c", 2, 1)):
            scan = a_scan(
                id=name, revision=revision, member=member, content=f"digest{revision}", completed_at=revision
            )
            await engine.happen(Completed(scan=name, entered=scan, manifest=a_manifest()))
        path = "/data/detector/tooth.h5"
        assert [scan.id for scan in engine.newest_at(path)] == ["b", "c"]
        assert engine.at(path).id == "b"
        assert [scan.id for scan in engine.with_content("digest2")] == ["b", "c"]
        assert engine.with_content("") == engine.with_content("other") == []
        assert engine.at("/other") is None
        await engine.happen(SeenAgain(scan="b", path="/other", fingerprint="f"))
        assert engine.at("/other").id == "b"
        assert engine.newest_at("/other") == [], "it is only seen there"
        await engine.happen(Superseded(scan="b"))
        await engine.happen(Superseded(scan="c"))
        assert engine.with_content("digest2") == []

    play(scenario)
