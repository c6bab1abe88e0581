"""Whose source may go: never one that something would be lost with, never the newest, the oldest first."""

from collections.abc import Sequence

import msgspec
import pytest
from factories import a_scan, a_source
from hypothesis import given
from hypothesis import strategies as st

from srctd.core.lifecycle import Scan, Status, Step, StepState
from srctd.core.retention import Candidate, Decision, Disk, Rule, plan, too_full
from srctd.core.scan import scan_id

NOW = 1_900_000_000.0
DAY = 86400.0
HOST = "user@host:/data"
RULE = Rule(minimum_age_seconds=7 * DAY, high_water_percent=80, low_water_percent=60, remote_target=HOST)
FULL = Disk(size=1000, used=900)
RESULTS = {
    Step.SYNC: {"input": "/shared/a/input/tooth.h5", "in_place": False},
    Step.REGISTER: {"raw_pid": "srctd/1", "posted": True},
    Step.SEND: {"target": HOST},
}


def steps(**changes: StepState) -> dict[Step, StepState]:
    """Everything done, but for the changes."""
    done = {
        step: StepState(status=Status.DONE, result=msgspec.Raw(msgspec.json.encode(RESULTS.get(step))))
        for step in Step
    }
    return {**done, **{Step(name): state for name, state in changes.items()}}


def found(step: Step, **values: object) -> dict[str, StepState]:
    """A step that is done and found something else."""
    result = msgspec.json.encode({**RESULTS[step], **values})
    return {str(step): StepState(status=Status.DONE, result=msgspec.Raw(result))}


def scan(name: str = "a", *, day: float = 0.0, size: int = 10, member: int = 0, **changes: object) -> Scan:
    """A scan that is done, copied, catalogued and sent; completed so many days after the first."""
    path = f"/data/detector/{name}.h5"
    values: dict[str, object] = {
        "id": scan_id(path, 1, member),
        "path": path,
        "member": member,
        "completed_at": NOW - 100 * DAY + day * DAY,
        "source": a_source(name=f"{name}.h5", size=size),
        "steps": steps(),
    }
    return a_scan(**{**values, **changes})


def candidate(*members: Scan, **changes: object) -> Candidate:
    """The files of scans, as they were copied, done for long."""
    values: dict[str, object] = {
        "members": members,
        "root": "/data/detector",
        "done_at": NOW - 30 * DAY,
        "listed": members[0].source.fingerprint,
    }
    return Candidate(**{**values, **changes})


NEWEST = candidate(scan("newest", day=99))


def reasons(of: Candidate, rule: Rule = RULE, disk: Disk = FULL) -> tuple[str, ...]:
    """Why the files of a scan stay, where a newer one is there as well."""
    return next(d for d in plan([of, NEWEST], disk, rule, NOW) if d.scan == of.leader.id).reasons


def gone(decisions: Sequence[Decision]) -> list[str]:
    return [decision.path.rsplit("/", 1)[1] for decision in decisions if decision.remove]


def test_what_is_safe_elsewhere_goes():
    assert reasons(candidate(scan())) == ()


@pytest.mark.parametrize(
    ("stays", "why"),
    [
        (candidate(scan(steps=steps(publish=StepState()))), "not done yet: publish is waiting"),
        (
            candidate(scan(steps=steps(register=StepState(status=Status.RETRYING, attempts=3, reason="busy")))),
            "not catalogued yet: tried 3 times, busy",
        ),
        (
            candidate(scan(steps=steps(sync=StepState(status=Status.HELD, reason="it differs")))),
            "held at SYNC: it differs",
        ),
        (candidate(scan(steps=steps(**found(Step.SYNC, in_place=True)))), "in place: there is no other copy"),
        (
            candidate(scan(steps=steps(**found(Step.REGISTER, posted=False)))),
            "not catalogued: its raw data set was posted to no catalogue",
        ),
        (
            candidate(scan(steps=steps(**found(Step.SEND, target="")))),
            f"not sent to {HOST}: it was done before that was configured",
        ),
        (candidate(scan(source_kept="a digest differs")), "kept: a digest differs"),
        (candidate(scan(), trouble="the disk is read-only"), "the disk is read-only"),
        (candidate(scan(), done_at=NOW - 3 * DAY), "done 3 days ago, must be 7 days"),
        (candidate(scan(), done_at=NOW + DAY), "done 0 hours ago, must be 7 days"),
        (candidate(scan(), done_at=None), "it is not known since when it is done"),
        (candidate(scan(), listed="other"), "changed since it was copied"),
        (candidate(scan(), listed=None), "not found at the last look"),
        (candidate(scan(id="other")), "moved or renamed since it was judged"),
        (candidate(scan(), newer="a-2"), "superseded by a-2: its files are the newer revision's"),
        (candidate(scan(superseded=True)), "superseded by a later revision"),
        (candidate(scan(members=2)), "only 1 of the 2 scans in the file are known"),
        (candidate(scan(source_removed_at=NOW), listed=None), "already removed on 2030-03-17 17:46 UTC"),
        (candidate(scan(source_removed_at=NOW)), "what lies there was put there since"),
    ],
)  # fmt: skip
def test_what_would_be_lost_stays_and_it_is_said_why(stays: Candidate, why: str):
    assert why in "\n".join(reasons(stays))


def test_without_a_further_host_nothing_need_be_there():
    rule = msgspec.structs.replace(RULE, remote_target="")
    assert reasons(candidate(scan(steps=steps(**found(Step.SEND, target="")))), rule) == ()


def test_a_file_goes_when_all_its_members_are_done():
    first = scan("many", members=2)
    second = scan(
        "many", member=1, members=2, leader=first.id, steps=steps(**found(Step.SYNC, in_place=True))
    )
    both = candidate(first, second)
    assert gone(plan([both, NEWEST], FULL, RULE, NOW)) == ["many.h5", "many.h5"]
    waits = msgspec.structs.replace(second, steps=steps(publish=StepState()))
    decisions = plan([candidate(first, waits), NEWEST], FULL, RULE, NOW)
    assert not gone(decisions)
    assert decisions[0].reasons == (f"member of a file whose other member {second.id} is not done",)


def test_the_oldest_go_down_to_the_low_mark_and_no_further():
    several = [candidate(scan(name, day=day, size=100)) for day, name in enumerate("abcde")]
    decisions = plan(several, FULL, RULE, NOW)
    assert gone(decisions) == ["a.h5", "b.h5", "c.h5"], "from 90 to 60 percent"
    assert decisions[3].reasons == ("the older ones bring the disk down to 60.0 %, removing ends at 60 %",)


def test_the_oldest_and_the_newest_are_told_by_the_order_in_which_they_came():
    several = [candidate(scan(name, day=-day, size=100)) for day, name in enumerate("abcd")]
    decisions = plan(several, FULL, RULE, NOW)
    assert gone(decisions) == ["a.h5", "b.h5", "c.h5"], "though the clock went back all the while"
    assert "the newest scan of its root" in decisions[3].reasons


def test_between_the_marks_removing_goes_on_but_does_not_begin():
    several = [candidate(scan(name, day=day, size=100)) for day, name in enumerate("abc")]
    disk = Disk(size=1000, used=700)
    assert gone(plan(several, disk, RULE, NOW)) == []
    assert gone(plan(several, msgspec.structs.replace(disk, removing=True), RULE, NOW)) == ["a.h5"]


def test_the_newest_of_every_root_stays_and_one_that_is_not_there_is_none():
    here, there = candidate(scan("here")), candidate(scan("there"), root="/data/other")
    assert gone(plan([here, there], FULL, RULE, NOW)) == []
    lost = candidate(scan("lost", day=50), listed=None)
    assert gone(plan([here, lost], FULL, RULE, NOW)) == [], "somebody else removed the newer one"


def test_what_was_begun_is_ended_first_though_there_is_room():
    begun = candidate(scan("b", day=5, removal_begun_at=NOW - 60), listed="what is left")
    empty = Disk(size=1000, used=10)
    assert gone(plan([candidate(scan("a")), begun, NEWEST], empty, RULE, NOW)) == ["b.h5"]
    (alone,) = plan([begun], empty, RULE, NOW)
    assert "its disk may not be mounted" in alone.reasons[0]
    damaged = candidate(scan("b", day=5, removal_begun_at=NOW - 60, source_kept="a digest differs"))
    assert gone(plan([damaged, NEWEST], FULL, RULE, NOW)) == []


def test_a_disk_without_a_size_is_not_full():
    assert not too_full(Disk(size=0, used=0), RULE)


# --- properties -------------------------------------------------------------------------------------------

STATUS = st.sampled_from(
    [Status.DONE, Status.DONE, Status.DONE, Status.WAITING, Status.HELD, Status.RETRYING]
)


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    """Scans in all states, of one disk."""
    several = []
    for number in range(draw(st.integers(0, 7))):
        often = st.sampled_from([True, True, True, False])
        changed = {
            **found(Step.SYNC, in_place=not draw(often)),
            **found(Step.REGISTER, posted=draw(often)),
            **found(Step.SEND, target=draw(st.sampled_from([HOST, HOST, HOST, ""]))),
        }
        step = draw(st.sampled_from(list(Step)))
        if (status := draw(STATUS)) is not Status.DONE:
            changed[str(step)] = StepState(status=status, reason="no")
        one = scan(
            f"s{number}",
            day=draw(st.integers(0, 50)),
            size=draw(st.integers(0, 400)),
            steps=steps(**changed),
            superseded=not draw(often),
            source_kept=draw(st.sampled_from(["", "", "", "damaged"])),
            removal_begun_at=draw(st.sampled_from([None, None, None, NOW])),
            source_removed_at=draw(st.sampled_from([None, None, None, NOW])),
        )
        several.append(
            candidate(
                one,
                root=draw(st.sampled_from(["/data/detector", "/data/other"])),
                done_at=draw(st.sampled_from([NOW - 30 * DAY, NOW - 30 * DAY, NOW - DAY, None])),
                listed=draw(st.sampled_from([one.source.fingerprint] * 3 + ["other", None])),
            )
        )
    return several


@given(candidates(), st.integers(0, 1000), st.booleans())
def test_nothing_is_ever_lost(several: list[Candidate], used: int, removing: bool):
    disk = Disk(size=1000, used=used, removing=removing)
    by_id = {one.leader.id: one for one in several}
    decisions = plan(several, disk, RULE, NOW)
    assert sorted(decision.scan for decision in decisions) == sorted(by_id), "every scan is decided on"
    assert all(decision.remove != bool(decision.reasons) for decision in decisions), (
        "and it is said why it stays"
    )
    going = [by_id[decision.scan] for decision in decisions if decision.remove]
    for one in going:
        leader = one.leader
        assert leader.done
        assert not leader.superseded
        assert not leader.source_kept
        assert leader.source_removed_at is None
        for step, key, value in (
            (Step.SYNC, "in_place", False),
            (Step.REGISTER, "posted", True),
            (Step.SEND, "target", HOST),
        ):
            assert msgspec.json.decode(leader.step(step).result)[key] == value
        assert any(
            other.root == one.root and other.listed is not None and other.leader.source_is_whole
            for other in several
            if other not in going
        ), "the disk is there, and keeps a scan"
        if not one.begun:
            assert one.done_at is not None
            assert NOW - one.done_at >= RULE.minimum_age_seconds
            assert one.listed == leader.source.fingerprint
            assert any(
                other.root == one.root and other.listed is not None
                for other in several[several.index(one) + 1 :]
                if other not in going
            ), "a newer one stays"


@given(candidates(), st.integers(0, 1000), st.booleans())
def test_the_oldest_first_and_no_more_than_has_to(several: list[Candidate], used: int, removing: bool):
    disk = Disk(size=1000, used=used, removing=removing)
    by_id = {one.leader.id: one for one in several}
    going = [by_id[d.scan] for d in plan(several, disk, RULE, NOW) if d.remove]
    chosen = [one for one in going if not one.begun]
    assert going == [one for one in going if one.begun] + chosen
    assert chosen == [one for one in several if one in chosen]
    if chosen:
        assert too_full(disk, RULE)
        before_the_last = sum(one.leader.source.bytes for one in going[:-1])
        assert disk.percent(before_the_last) > RULE.low_water_percent
    elif not too_full(disk, RULE):
        assert all(one.begun for one in going)
