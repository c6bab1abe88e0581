"""The journal: what it gives back, what it refuses, what a kill leaves."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest
from factories import a_manifest, a_scan, a_source
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srctd.adapters.journal import Journal, OutboxObject, read_clocks
from srctd.core.clock import Reading
from srctd.core.errors import JournalError
from srctd.core.lifecycle import (
    Completed,
    Recovered,
    Released,
    Scan,
    SeenAgain,
    SourceKept,
    SourceRemovalBegun,
    SourceRemoved,
    Status,
    Step,
    StepDone,
    StepFailed,
    Superseded,
    advance,
)

NOW = 1_800_000_000.0
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture
def journal(tmp_path):
    with contextlib.closing(Journal(tmp_path / "journal.sqlite")) as opened:
        yield opened


def entered(journal: Journal, **changes: object) -> Scan:
    event = Completed(scan=str(changes.get("id", "s")), entered=a_scan(**changes), manifest=a_manifest())
    scan, _ = advance(None, event)
    journal.commit(scan, event, NOW)
    return scan


def after(journal: Journal, scan: Scan, event: object) -> Scan:
    scan, _ = advance(scan, event)
    journal.commit(scan, event, NOW)
    return scan


def finished(scan: Scan) -> Scan:
    """The scan as the journal gives it back: without steps that wait or run."""
    kept = (Status.DONE, Status.RETRYING, Status.HELD)
    return msgspec.structs.replace(
        scan, steps={step: state for step, state in scan.steps.items() if state.status in kept}
    )


# --- scans and steps --------------------------------------------------------------------------------------


def test_overrides_and_run_survive(journal):
    scan = entered(journal)
    scan = msgspec.structs.replace(scan, overrides={"center": 3.5}, run=2)
    journal.commit(scan, Released(scan="s"), NOW)
    (found,) = journal.load()
    assert (found.overrides, found.run) == ({"center": 3.5}, 2)


def test_a_scan_comes_back_as_it_was(journal):
    scan = entered(journal, verdict=msgspec.Raw(b'{"state":"COMPLETE"}'), overrides={})
    scan = after(
        journal, scan, StepDone(scan="s", step=Step.CHECK, result=msgspec.Raw(b'{"a":1}'), seconds=1.5)
    )
    scan = after(journal, scan, StepFailed(scan="s", step=Step.IDENTIFY, reason="no reply", retry_at=NOW + 2))
    assert journal.load() == [finished(scan)]


def test_overrides_keep_their_types(journal):
    scan = entered(journal)
    given = {"center": 295.5, "ring_size": 31, "repair_dead_pixels": False, "filter": "hann", "energy": None}
    scan = after(journal, scan, Released(scan="s", overrides=given))
    back = journal.load()[0].overrides
    assert back == given
    assert {name: type(value) for name, value in back.items()} == {k: type(v) for k, v in given.items()}


def test_a_step_that_runs_again_is_no_longer_finished(journal):
    scan = entered(journal)
    scan = after(journal, scan, StepFailed(scan="s", step=Step.CHECK, reason="unreadable", retry_at=None))
    assert journal.load()[0].held is Step.CHECK
    scan = after(journal, scan, Released(scan="s"))
    assert scan.step(Step.CHECK).status is Status.RUNNING
    assert journal.load()[0].steps == {}


def test_want_of_space_is_remembered_with_what_it_needs(journal):
    scan = entered(journal)
    lacking = {"reason": "full", "retry_at": None, "cause": "NoSpace", "needs_bytes": 3 * 10**12}
    after(journal, scan, StepFailed(scan="s", step=Step.CHECK, **lacking))
    (found,) = journal.load()
    assert found.lacks_space is Step.CHECK
    assert found.step(Step.CHECK).needs_bytes == 3 * 10**12


def test_superseded_is_kept(journal):
    scan = entered(journal)
    after(journal, scan, Superseded(scan="s"))
    assert journal.load()[0].superseded


def test_task_names_are_unique(journal):
    entered(journal, task="t1")
    with pytest.raises(JournalError, match=r"UNIQUE constraint failed: scans\.task"):
        entered(journal, id="other", path="/elsewhere.h5", task="t1")
    assert [scan.id for scan in journal.load()] == ["s"]
    assert len(journal.events(0, 10)) == 1, "a commit that failed leaves no event"


def test_an_event_of_an_unknown_scan_is_refused(journal):
    with pytest.raises(JournalError, match="no scan s"):
        journal.commit(a_scan(), Recovered(scan="s"), NOW)


def test_the_time_of_a_finished_step_is_that_of_its_finish(journal, tmp_path):
    scan = entered(journal)
    event = StepDone(scan="s", step=Step.CHECK, result=msgspec.Raw(b"1"), seconds=0.1)
    scan, _ = advance(scan, event)
    journal.commit(scan, event, NOW + 1)
    later = StepDone(scan="s", step=Step.IDENTIFY, result=msgspec.Raw(b"2"), seconds=0.1)
    scan, _ = advance(scan, later)
    journal.commit(scan, later, NOW + 2)
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.sqlite")) as db:
        times = dict(db.execute("SELECT step, finished_at FROM steps").fetchall())
    assert times == {"check": NOW + 1, "identify": NOW + 2}


# --- events -----------------------------------------------------------------------------------------------


def test_events_are_numbered_in_order_and_leave_the_bulk_out(journal):
    scan = entered(journal)
    scan = after(
        journal, scan, StepDone(scan="s", step=Step.CHECK, result=msgspec.Raw(b'{"a":1}'), seconds=1.5)
    )
    bulk = msgspec.json.encode("x" * 100_000)
    scan = after(journal, scan, StepDone(scan="s", step=Step.IDENTIFY, result=msgspec.Raw(bulk), seconds=0.1))
    events = journal.events(0, 10)
    assert [event.topic for event in events] == ["scan.completed", "step.done", "step.done"]
    assert [event.sequence for event in events] == [1, 2, 3]
    bodies = [msgspec.json.decode(event.body) for event in events]
    assert bodies[0] | {"files": 1, "bytes": 10, "path": scan.path} == bodies[0]
    assert [body.get("result") for body in bodies] == [None, {"a": 1}, None]
    assert bytes(journal.load()[0].step(Step.IDENTIFY).result) == bulk
    assert [event.sequence for event in journal.events(1, 1)] == [2]


def test_a_reason_that_quotes_a_broken_file_name_can_be_written(journal):
    scan = entered(journal)
    scan = after(
        journal, scan, StepFailed(scan="s", step=Step.CHECK, reason="no 'a\udcff.h5'", retry_at=None)
    )
    assert journal.load()[0].step(Step.CHECK).reason == "no 'a\\udcff.h5'"


# --- outbox -----------------------------------------------------------------------------------------------


def an_object(key: str, position: int = 0, body: bytes = b"{}") -> OutboxObject:
    return OutboxObject(key, position, "dataset", "pid/1", body)


def test_the_outbox_keeps_the_first_of_a_key_and_the_order(journal):
    entered(journal)
    journal.outbox_put("s", [an_object("raw/files", 1), an_object("raw/dataset", 0), an_object("derived/a")])
    journal.outbox_put("s", [an_object("raw/dataset", 0, b'{"later":1}')])
    rows = journal.outbox("s", "raw/")
    assert [(row.key, row.body, row.posted_at) for row in rows] == [
        ("raw/dataset", b"{}", None),
        ("raw/files", b"{}", None),
    ]
    assert journal.outbox_waiting() == 3


def test_a_prefix_is_no_pattern(journal):
    entered(journal)
    journal.outbox_put("s", [an_object("a_b/x"), an_object("aXb/x")])
    assert [row.key for row in journal.outbox("s", "a_b/")] == ["a_b/x"]


def test_posted_is_noted(journal):
    entered(journal)
    journal.outbox_put("s", [an_object("raw/dataset")])
    journal.outbox_posted("s", "raw/dataset", "remote-7", NOW)
    assert journal.outbox_waiting() == 0
    row = journal.outbox("s", "")[0]
    assert (row.remote_id, row.posted_at) == ("remote-7", NOW)
    with pytest.raises(JournalError, match="holds no 'raw/other'"):
        journal.outbox_posted("s", "raw/other", "remote-8", NOW)


def test_the_outbox_serves_known_scans_only(journal):
    with pytest.raises(JournalError, match="FOREIGN KEY"):
        journal.outbox_put("nobody", [an_object("raw/dataset")])


# --- opening ----------------------------------------------------------------------------------------------


def test_a_journal_survives_reopening(tmp_path):
    with contextlib.closing(Journal(tmp_path / "state" / "j.sqlite")) as journal:
        scan = entered(journal)
    with contextlib.closing(Journal(tmp_path / "state" / "j.sqlite")) as journal:
        assert journal.load() == [finished(scan)]
        assert entered(journal, id="b", path="/b", task="b") is not None
        assert [event.sequence for event in journal.events(0, 9)] == [1, 2]


def test_the_settings_are_what_safety_needs(journal):
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}
    assert {name: journal._db.execute(f"PRAGMA {name}").fetchone()[0] for name in wanted} == wanted


def test_a_second_daemon_is_refused_by_name(tmp_path, journal):
    code = "import sys; from srctd.adapters.journal import Journal; Journal(sys.argv[1])"
    second = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "journal.sqlite")],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 1
    assert f"is held by the process {os.getpid()}" in second.stderr


def test_a_refused_journal_lets_the_lock_go(tmp_path):
    path = tmp_path / "j.sqlite"
    path.write_bytes(b"this is no database" * 100)
    for _ in range(2):
        with pytest.raises(JournalError, match="file is not a database"):
            Journal(path)


def test_a_newer_version_is_refused(tmp_path):
    Journal(tmp_path / "j.sqlite").close()
    with contextlib.closing(sqlite3.connect(tmp_path / "j.sqlite")) as db:
        db.execute("PRAGMA user_version = 7")
    with pytest.raises(JournalError, match="schema version 7, this srctd reads version 3"):
        Journal(tmp_path / "j.sqlite")


def test_the_database_of_another_program_is_left_alone(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "j.sqlite")) as db:
        db.execute("CREATE TABLE theirs (a)")
    with pytest.raises(JournalError, match="another program"):
        Journal(tmp_path / "j.sqlite")


def test_a_damaged_page_is_noticed_at_the_start(tmp_path):
    with contextlib.closing(Journal(tmp_path / "j.sqlite")) as journal:
        for n in range(50):
            entered(journal, id=f"s{n}", path=f"/{n}", task=f"t{n}")
    with (tmp_path / "j.sqlite").open("r+b") as file:
        file.seek(5 * 4096)
        file.write(b"\xff" * 4096)
    with pytest.raises(JournalError, match=r"damaged|malformed"):
        Journal(tmp_path / "j.sqlite")


def test_a_path_that_cannot_be_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match=r"File exists|Not a directory"):
        Journal(tmp_path / "file" / "j.sqlite")


def test_unreadable_json_is_a_sentence(tmp_path):
    with contextlib.closing(Journal(tmp_path / "j.sqlite")) as journal:
        entered(journal)
        journal._db.execute("UPDATE scans SET manifest = '{}', source = '{}'")
        for read in (journal.load, lambda: journal.manifest("s")):
            with pytest.raises(JournalError, match="cannot read"):
                read()


def test_the_list_of_files_is_read_by_itself(journal):
    entered(journal)
    assert journal.manifest("s") == a_manifest()
    with pytest.raises(JournalError, match="no scan other"):
        journal.manifest("other")


def test_where_a_scan_was_seen_again_is_kept(journal):
    scan = entered(journal)
    moved = a_source(folder="/elsewhere")
    event = SeenAgain(scan="s", path="/elsewhere/tooth.h5", fingerprint="f", moved=moved)
    scan, _ = advance(scan, event)
    journal.commit(scan, event, 2.0)
    (back,) = journal.load()
    assert (back.path, back.source) == ("/elsewhere/tooth.h5", moved)
    event = SeenAgain(scan="s", path="/copy/tooth.h5", fingerprint="g")
    scan, _ = advance(scan, event)
    journal.commit(scan, event, 3.0)
    (back,) = journal.load()
    assert back.seen_at == {"/copy/tooth.h5": "g"}
    assert back.is_at("/copy/tooth.h5", "g")
    assert not back.is_at("/copy/tooth.h5", "h")


def test_messages_are_kept_until_they_are_dropped(journal):
    journal.put_message("/d/a", b'{"frames":1}', 1.0)
    journal.put_message("/d/a", b'{"frames":2}', 2.0)
    journal.put_message("/d/b", b"{}", 3.0)
    assert journal.messages() == {"/d/a": (b'{"frames":2}', 2.0), "/d/b": (b"{}", 3.0)}
    journal.drop_message("/d/a")
    assert list(journal.messages()) == ["/d/b"]


# --- kill -------------------------------------------------------------------------------------------------

WRITER = textwrap.dedent(
    """
    import sys
    import msgspec
    from factories import a_manifest, a_scan
    from srctd.adapters.journal import Journal, OutboxObject
    from srctd.core.lifecycle import Completed, Step, StepDone, advance

    journal = Journal(sys.argv[1])
    for n in range(len(journal.load()), 100_000):
        new = a_scan(id=f"s{n}", path=f"/{n}", task=f"t{n}")
        event = Completed(scan=new.id, entered=new, manifest=a_manifest())
        scan, _ = advance(None, event)
        journal.commit(scan, event, float(n))
        for step in (Step.CHECK, Step.IDENTIFY):
            event = StepDone(scan=scan.id, step=step, result=msgspec.Raw(b"%d" % n), seconds=0.0)
            scan, _ = advance(scan, event)
            sequence = journal.commit(scan, event, float(n))
        print(sequence, flush=True)
    """
)


def test_a_killed_writer_leaves_a_consistent_prefix(tmp_path):
    path = tmp_path / "j.sqlite"
    for kill in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, env=ENVIRONMENT
        )
        acknowledged = 0
        for _ in range(2 + 3 * kill):
            acknowledged = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().split(b"\n")
        acknowledged = max([acknowledged, *(int(line) for line in rest[:-1])])
        writer.stdout.close()
        writer.wait()
        with contextlib.closing(Journal(path)) as journal:
            events = journal.events(0, 1_000_000)
            scans = journal.load()
        assert len(events) >= acknowledged, "what was acknowledged is there"
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        told = [(e.scan, msgspec.json.decode(e.body).get("step")) for e in events if e.topic == "step.done"]
        kept = [(scan.id, str(step)) for scan in scans for step in scan.steps]
        assert sorted(kept) == sorted(set(told)), "events and steps tell the same story"
        assert all(state.status is Status.DONE for scan in scans for state in scan.steps.values())


def test_what_became_of_a_source_is_kept_and_every_removal_is_an_event(journal: Journal, tmp_path) -> None:
    scan = entered(journal)
    while not scan.done:
        for step in [step for step in Step if scan.step(step).status is Status.RUNNING]:
            scan = after(journal, scan, StepDone(scan="s", step=step, result=msgspec.Raw(b"{}"), seconds=1.0))
    assert journal.last_finished() == {"s": NOW}
    scan = after(journal, scan, SourceKept(scan="s", reason="a digest differs"))
    scan = after(journal, scan, SourceRemovalBegun(scan="s", at=NOW, folder="/d", files=2, bytes=10))
    scan = after(journal, scan, SourceRemoved(scan="s", at=NOW + 1, folder="/d", files=2, bytes=10))
    assert journal.load() == [scan]
    assert (scan.removal_begun_at, scan.source_removed_at) == (NOW, NOW + 1)
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.sqlite")) as other:
        rows = other.execute("SELECT topic, body FROM events ORDER BY sequence").fetchall()[-3:]
    assert [topic for topic, _ in rows] == [
        *("scan.source_kept", "scan.source_removal_begun", "scan.source_removed"),
    ]
    assert msgspec.json.decode(rows[2][1])["files"] == 2


# --- clocks that are set --------------------------------------------------------------------------------------

HOUR = 3600.0


class Clocks:
    """A machine's clocks, which go on only when they are told to."""

    def __init__(self) -> None:
        self.now = Reading(wall=NOW, running=100.0, boot="first")

    def __call__(self) -> Reading:
        return self.now

    def run(self, hours: float = 0.0, *, set_by: float = 0.0) -> None:
        """Time passes; the clock is set by some hours besides."""
        wall, running, boot = self.now
        self.now = Reading(wall + HOUR * (hours + set_by), running + HOUR * hours, boot)

    def start_again(self, off_hours: float, *, set_by: float = 0.0) -> None:
        """The machine was off for a while; its clock may be wrong when it is on again."""
        self.now = Reading(self.now.wall + HOUR * (off_hours + set_by), 10.0, f"after {self.now}")


class Aging:
    """A journal of scans of which one step is done each, and how old they seem."""

    def __init__(self, path) -> None:
        self.path, self.clocks = path, Clocks()
        self.journal = Journal(path, self.clocks)

    def restart(self) -> None:
        self.journal.close()
        self.journal = Journal(self.path, self.clocks)

    def scan(self, name: str) -> None:
        event = Completed(
            scan=name, entered=a_scan(id=name, path=f"/d/{name}", task=name), manifest=a_manifest()
        )
        scan, _ = advance(None, event)
        self.journal.commit(scan, event, self.clocks.now.wall)
        done = StepDone(scan=name, step=Step.IDENTIFY, result=msgspec.Raw(b"{}"), seconds=1.0)
        self.journal.commit(advance(scan, done)[0], done, self.clocks.now.wall)

    def ages(self) -> dict[str, float]:
        """In hours."""
        finished, now = self.journal.last_finished(), self.clocks.now.wall
        return {name: round((now - at) / HOUR, 3) for name, at in finished.items()}


@pytest.fixture
def aging(tmp_path):
    made = Aging(tmp_path / "journal.sqlite")
    yield made
    made.journal.close()


def test_what_was_done_while_the_clock_stood_back_is_not_old_when_it_is_put_right(aging: Aging) -> None:
    aging.scan("before")
    aging.clocks.run(5)
    aging.clocks.run(0, set_by=-1000)
    aging.scan("during")
    aging.clocks.run(2)
    assert aging.ages() == {"before": 7, "during": 2}
    aging.clocks.run(1, set_by=1000)
    assert aging.ages() == {"before": 8, "during": 3}
    aging.scan("after")
    aging.clocks.run(4)
    assert aging.ages() == {"before": 12, "during": 7, "after": 4}


def test_the_very_next_thing_after_the_clock_was_set_is_of_its_time(aging: Aging) -> None:
    aging.clocks.run(0, set_by=-1000)
    aging.scan("behind")
    aging.clocks.run(1, set_by=1000)
    aging.scan("right")
    aging.clocks.run(1, set_by=1000)
    aging.scan("ahead")
    aging.clocks.run(1, set_by=-1000)
    aging.scan("right again")
    aging.clocks.run(1)
    assert aging.ages() == {"behind": 4, "right": 3, "ahead": 2, "right again": 1}


def test_a_clock_that_stands_ahead_makes_nothing_older(aging: Aging) -> None:
    aging.scan("a")
    aging.clocks.run(3, set_by=40_000)
    assert aging.ages() == {"a": 3}


def test_a_clock_that_starts_wrong_and_is_put_right_makes_nothing_older(aging: Aging) -> None:
    aging.scan("before")
    aging.clocks.run(5)
    assert aging.ages() == {"before": 5}
    aging.clocks.start_again(48, set_by=-47)  # it goes on where it was, as without a battery
    aging.restart()
    aging.scan("during")
    aging.clocks.run(1, set_by=47)
    assert aging.ages() == {"before": 6, "during": 1}, "for how long it was off nothing tells"


def test_where_it_is_not_known_which_start_it_is_nothing_gets_older(
    aging: Aging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("srctd.adapters.journal.BOOT_ID", tmp_path / "hidden" / "boot_id")
    aging.clocks.now = read_clocks()
    assert aging.clocks.now.boot == ""
    aging.scan("a")
    aging.clocks.run(30)
    assert aging.ages() == {"a": 0}


def test_a_restart_of_the_daemon_alone_makes_nothing_younger(aging: Aging) -> None:
    aging.scan("a")
    aging.clocks.run(30)
    aging.restart()
    assert aging.ages() == {"a": 30}


def test_a_clock_that_is_brought_right_gently_was_not_set(aging: Aging) -> None:
    aging.scan("a")
    for _ in range(600):
        aging.clocks.run(1, set_by=-0.0002)
        aging.journal.last_finished()
    assert 599 < aging.ages()["a"] < 600


@given(
    st.lists(
        st.tuples(st.sampled_from(["run", "set", "scan", "look", "off", "restart"]), st.integers(-50, 50)),
        max_size=20,
    )
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_ever_seems_older_than_it_is(tmp_path_factory, happenings) -> None:
    aging = Aging(tmp_path_factory.mktemp("aging") / "journal.sqlite")
    true, begun = 0.0, {}
    for what, hours in happenings:
        match what:
            case "run":
                aging.clocks.run(abs(hours))
                true += abs(hours)
            case "set":
                aging.clocks.run(0, set_by=hours)
            case "scan":
                begun[name := f"s{len(begun)}"] = true
                aging.scan(name)
            case "look":
                aging.journal.last_finished()
            case "off":
                aging.clocks.start_again(abs(hours))
                true += abs(hours)
                aging.restart()
            case "restart":
                aging.restart()
    ages = aging.ages()
    aging.journal.close()
    assert all(ages[name] <= true - begun[name] + 0.001 for name in begun)


def test_a_journal_without_a_reading_of_the_clocks_gets_one(tmp_path) -> None:
    Journal(tmp_path / "j.sqlite").close()
    with contextlib.closing(sqlite3.connect(tmp_path / "j.sqlite")) as other:
        other.execute("DROP TABLE clock")
    with contextlib.closing(Journal(tmp_path / "j.sqlite")) as journal:
        assert journal.last_finished() == {}


def test_scans_are_given_back_in_the_order_in_which_they_came(journal: Journal) -> None:
    for number, name in enumerate("abc"):
        entered(journal, id=name, path=f"/d/{name}", task=name, completed_at=NOW - number)
    assert [scan.id for scan in journal.load()] == ["a", "b", "c"]
