"""The lifecycle: the table, the one function, the six stages."""

import itertools

import msgspec
import pytest
from factories import a_manifest, a_scan, a_source
from hypothesis import given
from hypothesis import strategies as st

from srctd.core.lifecycle import (
    NEEDS,
    Box,
    Completed,
    Recovered,
    Released,
    RetryDue,
    RunStep,
    Scan,
    SeenAgain,
    SourceKept,
    SourceRemovalBegun,
    SourceRemoved,
    Stage,
    Status,
    Step,
    StepDone,
    StepFailed,
    Superseded,
    WakeStep,
    advance,
    current_stage,
    dependents,
    stages,
)

RESULT = msgspec.Raw(b"{}")


def entered() -> Scan:
    return advance(None, Completed(scan="s", entered=a_scan(), manifest=a_manifest()))[0]


def done(scan: Scan, *steps: Step) -> Scan:
    for step in steps:
        scan, _ = advance(scan, StepDone(scan="s", step=step, result=RESULT, seconds=1.0))
    return scan


def test_a_new_scan_starts_the_steps_that_need_nothing() -> None:
    scan, commands = advance(None, Completed(scan="s", entered=a_scan(), manifest=a_manifest()))
    assert {command.step for command in commands} == {Step.IDENTIFY, Step.CHECK}
    assert scan.step(Step.SYNC).status is Status.WAITING


def test_every_order_of_ends_reaches_done_and_never_runs_a_step_before_its_needs() -> None:
    for order in itertools.permutations(range(3)):
        scan, commands = advance(None, Completed(scan="s", entered=a_scan(), manifest=a_manifest()))
        running = [command.step for command in commands]
        finished: set[Step] = set()
        while running:
            step = running.pop(order[len(finished) % 3] % len(running))
            assert NEEDS[step] <= finished
            finished.add(step)
            scan, commands = advance(scan, StepDone(scan="s", step=step, result=RESULT, seconds=0.0))
            running += [command.step for command in commands]
        assert finished == set(Step)
        assert scan.done


def test_a_transient_failure_waits_and_comes_back() -> None:
    scan, commands = advance(entered(), StepFailed(scan="s", step=Step.CHECK, reason="down", retry_at=5.0))
    assert commands == [WakeStep(scan="s", step=Step.CHECK, at=5.0)]
    assert scan.step(Step.CHECK).status is Status.RETRYING
    scan, commands = advance(scan, RetryDue(scan="s", step=Step.CHECK))
    assert commands == [RunStep(scan="s", step=Step.CHECK)]
    assert scan.step(Step.CHECK).attempts == 1


def test_a_held_step_holds_what_needs_it_and_nothing_else() -> None:
    scan = done(entered(), Step.IDENTIFY)
    scan, commands = advance(scan, StepFailed(scan="s", step=Step.CHECK, reason="rank 2", retry_at=None))
    assert commands == []
    assert scan.held is Step.CHECK
    scan, commands = advance(scan, RetryDue(scan="s", step=Step.CHECK))
    assert commands == []
    scan, commands = advance(scan, Released(scan="s"))
    assert commands == [RunStep(scan="s", step=Step.CHECK)]
    assert scan.step(Step.CHECK).attempts == 0


def test_release_from_a_step_redoes_it_and_all_that_follow() -> None:
    scan = done(entered(), Step.IDENTIFY, Step.CHECK, Step.SYNC, Step.SUBMIT, Step.PREVIEW, Step.RECONSTRUCT)
    scan = done(scan, Step.REGISTER, Step.PUBLISH, Step.SEND, Step.SEND_RESULTS)
    assert scan.done
    scan, commands = advance(scan, Released(scan="s", again=Step.SUBMIT, overrides={"center": 3.0}))
    assert commands == [RunStep(scan="s", step=Step.SUBMIT)]
    assert scan.overrides == {"center": 3.0}
    assert scan.step(Step.REGISTER).status is Status.DONE
    assert scan.step(Step.PUBLISH).status is Status.WAITING
    assert scan.step(Step.SEND).status is Status.DONE
    assert scan.step(Step.SEND_RESULTS).status is Status.WAITING


def test_nothing_waits_for_another_host() -> None:
    assert dependents(Step.SEND) == {Step.SEND_RESULTS}
    order = (Step.IDENTIFY, Step.CHECK, Step.SYNC, Step.SUBMIT, Step.PREVIEW, Step.RECONSTRUCT, Step.REGISTER)
    scan = done(entered(), *order[:3])
    scan, _ = advance(scan, StepFailed(scan="s", step=Step.SEND, reason="down", retry_at=5.0))
    scan = done(scan, *order[3:], Step.PUBLISH)
    assert scan.published
    assert not scan.done
    assert stages(scan, started=True)[Stage.DONE] is Box.CURRENT
    assert scan.step(Step.SEND_RESULTS).status is Status.WAITING
    scan, commands = advance(scan, RetryDue(scan="s", step=Step.SEND))
    assert commands == [RunStep(scan="s", step=Step.SEND)]
    assert done(scan, Step.SEND, Step.SEND_RESULTS).done


def test_published_results_are_never_done_over() -> None:
    order = (Step.IDENTIFY, Step.CHECK, Step.SYNC, Step.SUBMIT, Step.PREVIEW, Step.RECONSTRUCT, Step.REGISTER)
    scan = done(entered(), *order)
    again, _ = advance(scan, Released(scan="s", again=Step.RECONSTRUCT))
    assert again.run == 1, "nothing of the first run was published"
    assert again.step(Step.PREVIEW).status is Status.DONE
    scan = done(scan, Step.PUBLISH)
    again, commands = advance(scan, Released(scan="s", again=Step.RECONSTRUCT))
    assert again.run == 2
    assert commands == [RunStep(scan="s", step=Step.SUBMIT)], "a new run needs a parameter file of its own"
    again, commands = advance(scan, Released(scan="s", again=Step.PUBLISH))
    assert again.run == 1
    assert commands == [RunStep(scan="s", step=Step.PUBLISH)]


def test_nothing_is_done_again_while_it_is_running() -> None:
    scan = done(entered(), Step.IDENTIFY, Step.CHECK, Step.SYNC, Step.SUBMIT)
    assert scan.step(Step.PREVIEW).status is Status.RUNNING
    assert advance(scan, Released(scan="s", again=Step.SUBMIT, overrides={"center": 3.0})) == (scan, [])


def test_an_end_that_comes_twice_or_late_changes_nothing() -> None:
    scan = done(entered(), Step.CHECK)
    again, commands = advance(scan, StepDone(scan="s", step=Step.CHECK, result=RESULT, seconds=9.0))
    assert (again, commands) == (scan, [])
    again, commands = advance(scan, StepFailed(scan="s", step=Step.CHECK, reason="late", retry_at=None))
    assert (again, commands) == (scan, [])


def test_a_superseded_scan_starts_nothing_more() -> None:
    scan, _ = advance(entered(), Superseded(scan="s"))
    scan, commands = advance(scan, StepDone(scan="s", step=Step.CHECK, result=RESULT, seconds=0.0))
    assert commands == []
    _, commands = advance(scan, Recovered(scan="s"))
    assert commands == []


def test_an_event_of_an_unknown_scan_is_an_error() -> None:
    with pytest.raises(ValueError, match="no such scan"):
        advance(None, Recovered(scan="s"))


@given(st.sets(st.sampled_from(list(Step))))
def test_recovery_starts_exactly_what_is_ready(finished: set[Step]) -> None:
    """Whatever subset of steps the journal holds as done (closed under NEEDS), recovery runs the ready rest."""
    closed = {step for step in finished if all(need in finished for need in _all_needs(step))}
    scan = a_scan()
    for step in closed:
        state = msgspec.structs.replace(scan.step(step), status=Status.DONE)
        scan = msgspec.structs.replace(scan, steps={**scan.steps, step: state})
    _, commands = advance(scan, Recovered(scan="s"))
    ready = {step for step in Step if step not in closed and NEEDS[step] <= closed}
    assert {command.step for command in commands} == ready


def _all_needs(step: Step) -> set[Step]:
    return set(NEEDS[step]).union(*(_all_needs(need) for need in NEEDS[step]))


def test_recovery_keeps_a_retry_waiting() -> None:
    scan, _ = advance(entered(), StepFailed(scan="s", step=Step.CHECK, reason="down", retry_at=5.0))
    _, commands = advance(scan, Recovered(scan="s"))
    assert WakeStep(scan="s", step=Step.CHECK, at=5.0) in commands
    assert RunStep(scan="s", step=Step.CHECK) not in commands


def test_dependents_follow_the_table() -> None:
    assert dependents(Step.PREVIEW) == {Step.RECONSTRUCT, Step.PUBLISH, Step.SEND_RESULTS}
    assert dependents(Step.SEND_RESULTS) == frozenset()


def test_the_six_stages_follow_the_steps() -> None:
    scan = entered()
    boxes = stages(scan, started=False)
    assert boxes[Stage.LOGIN] is Box.CURRENT
    assert boxes[Stage.SUBMIT] is Box.WAITING
    assert current_stage(boxes) is Stage.LOGIN

    scan = done(scan, Step.IDENTIFY, Step.CHECK, Step.SYNC, Step.SUBMIT)
    boxes = stages(scan, started=False)
    assert [boxes[stage] for stage in Stage] == [
        Box.DONE,
        Box.DONE,
        Box.DONE,
        Box.CURRENT,
        Box.WAITING,
        Box.WAITING,
    ]
    boxes = stages(scan, started=True)
    assert current_stage(boxes) is Stage.RUN
    assert boxes[Stage.QUEUE] is Box.DONE

    scan = done(scan, Step.PREVIEW, Step.RECONSTRUCT)
    assert current_stage(stages(scan, started=True)) is Stage.DONE
    scan = done(scan, Step.REGISTER, Step.PUBLISH, Step.SEND, Step.SEND_RESULTS)
    assert set(stages(scan, started=True).values()) == {Box.DONE}


def test_a_held_stage_is_the_current_one() -> None:
    scan, _ = advance(entered(), StepFailed(scan="s", step=Step.CHECK, reason="rank 2", retry_at=None))
    boxes = stages(scan, started=False)
    assert boxes[Stage.CHECK] is Box.HELD
    assert current_stage(boxes) is Stage.CHECK


STALLED = msgspec.Raw(b'{"state":"STALLED","reason":"150 of 200 frames are there"}')
USABLE = msgspec.Raw(b'{"state":"INCOMPLETE_USABLE","reason":"150 of 200 frames are there"}')


def test_boxes_of_an_incomplete_scan_are_yellow_where_it_was_found_and_where_it_ends() -> None:
    scan, _ = advance(None, Completed(scan="s", entered=a_scan(verdict=USABLE), manifest=a_manifest()))
    assert scan.partial
    scan = done(scan, Step.IDENTIFY, Step.CHECK, Step.SYNC, Step.SUBMIT)
    boxes = stages(scan, started=True)
    assert (boxes[Stage.CHECK], boxes[Stage.SUBMIT]) == (Box.PARTIAL, Box.DONE)
    assert current_stage(boxes) is Stage.RUN
    scan = done(scan, Step.PREVIEW, Step.RECONSTRUCT, Step.REGISTER, Step.PUBLISH)
    scan = done(scan, Step.SEND, Step.SEND_RESULTS)
    boxes = stages(scan, started=True)
    assert [stage for stage in Stage if boxes[stage] is Box.PARTIAL] == [Stage.CHECK, Stage.DONE]
    assert current_stage(boxes) is Stage.DONE


def test_an_operator_takes_what_is_there() -> None:
    scan, _ = advance(None, Completed(scan="s", entered=a_scan(verdict=STALLED), manifest=a_manifest()))
    scan, _ = advance(scan, StepFailed(scan="s", step=Step.CHECK, reason="incomplete", retry_at=None))
    again, _ = advance(scan, Released(scan="s"))
    assert not again.partial
    taken, commands = advance(scan, Released(scan="s", take_incomplete=True))
    assert taken.partial
    assert RunStep(scan="s", step=Step.CHECK) in commands
    assert not a_scan().partial


# --- seen again -------------------------------------------------------------------------------------------


def test_files_seen_elsewhere_change_nothing_but_what_is_known_of_them():
    scan, commands = advance(entered(), SeenAgain(scan="s", path="/copy/tooth.h5", fingerprint="f"))
    assert commands == []
    assert scan.is_at("/copy/tooth.h5", "f")
    assert scan.is_at(scan.path, scan.source.fingerprint)
    assert not scan.is_at("/copy/tooth.h5", "g")


def test_a_copy_that_failed_because_the_files_were_moved_begins_anew():
    scan = done(entered(), Step.IDENTIFY, Step.CHECK)
    scan, _ = advance(scan, StepFailed(scan="s", step=Step.SYNC, reason="gone", retry_at=None))
    moved = a_source(folder="/elsewhere")
    event = SeenAgain(scan="s", path="/elsewhere/tooth.h5", fingerprint=moved.fingerprint, moved=moved)
    scan, commands = advance(scan, event)
    assert commands == [RunStep(scan="s", step=Step.SYNC)]
    assert (scan.path, scan.source) == ("/elsewhere/tooth.h5", moved)


def test_a_move_after_the_copy_is_noted_and_nothing_is_done_again():
    scan = done(entered(), Step.IDENTIFY, Step.CHECK, Step.SYNC)
    moved = a_source(folder="/elsewhere")
    event = SeenAgain(scan="s", path="/elsewhere/tooth.h5", fingerprint="f", moved=moved)
    after, commands = advance(scan, event)
    assert (after.path, after.source, commands) == ("/elsewhere/tooth.h5", moved, [])
    assert after.steps == scan.steps


def test_the_first_member_leads():
    assert a_scan(leader="x", task="t_20260101T000000Z-m002").leader_task == "t_20260101T000000Z-m000"
    assert a_scan().leader_task == a_scan().task


# --- retention --------------------------------------------------------------------------------------------

BEGUN = SourceRemovalBegun(scan="s", at=1.0, folder="/d", files=1, bytes=10)
REMOVED = SourceRemoved(scan="s", at=2.0, folder="/d", files=1, bytes=10)


def all_done() -> Scan:
    scan = entered()
    while not scan.done:
        scan = done(scan, *(step for step in Step if scan.step(step).status is Status.RUNNING))
    return scan


def test_the_source_of_a_scan_that_is_not_done_cannot_be_removed() -> None:
    again, _ = advance(all_done(), Released(scan="s", again=Step.PREVIEW))
    superseded, _ = advance(all_done(), Superseded(scan="s"))
    for scan in (entered(), again, superseded):
        assert advance(scan, BEGUN)[0].source_is_whole
    begun, commands = advance(all_done(), BEGUN)
    assert (begun.removal_begun_at, begun.source_is_whole, commands) == (1.0, False, [])


def test_without_its_source_a_scan_is_done_again_from_the_copy_alone() -> None:
    begun, _ = advance(all_done(), BEGUN)
    removed, _ = advance(begun, REMOVED)
    assert removed.source_removed_at == 2.0
    for scan in (begun, removed):
        for step in (Step.IDENTIFY, Step.CHECK, Step.SYNC):
            assert advance(scan, Released(scan="s", again=step)) == (scan, []), step
        again, commands = advance(scan, Released(scan="s", again=Step.SUBMIT))
        assert commands == [RunStep(scan="s", step=Step.SUBMIT)]
        assert not again.done


def test_files_that_are_seen_elsewhere_after_their_removal_are_a_source_again() -> None:
    removed, _ = advance(advance(all_done(), BEGUN)[0], REMOVED)
    there = SeenAgain(scan="s", path="/d/put-back.h5", fingerprint="f", moved=a_source(name="put-back.h5"))
    assert advance(removed, there)[0].source_is_whole


def test_a_damaged_copy_is_remembered_until_somebody_released_the_scan() -> None:
    kept, _ = advance(all_done(), SourceKept(scan="s", reason="a digest differs"))
    assert kept.source_kept == "a digest differs"
    released, commands = advance(kept, Released(scan="s"))
    assert (released.source_kept, commands) == ("", [])
