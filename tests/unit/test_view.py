"""What people are told: scans that have not started, and scans that are taken though incomplete."""

import time
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from factories import a_scan

from srctd import terminal, view
from srctd.core.completion import Coverage, EndMark, Expectation, Probe, Rule, judge
from srctd.core.dispatch import ScanJobs
from srctd.core.lifecycle import Scan, Status, Step, StepState

SHORT = Probe(
    readable=True,
    frames_found=150,
    expectations=(Expectation(kind="log", frames=200, text="200 frames by scan.log"),),
    gaps=((7, 9),),
    coverage=Coverage(projections=140, span_deg=179.0, hole_deg=3.0),
    usable=True,
)
NO_JOBS = ScanJobs(queued=0, assigned=0, ahead=0, fraction=0.0, first_assigned_at=None)


def arriving(probe: Probe | None, quiet: float = 12.0) -> Any:
    return SimpleNamespace(
        path="/d/scan_17",
        root="/d",
        first_seen_at=time.time() - 200,
        verdict=judge(probe, quiet, Rule()) if probe else None,
        probed=probe,
        files=153,
        bytes=12_300_000,
        quiet_seconds=quiet,
    )


def test_why_a_scan_on_a_disk_that_fails_waits() -> None:
    away = Probe(readable=False, problem="a.nxs cannot be reached now: Input/output error", unreachable=True)
    sentences = view.why_arriving(arriving(away))
    assert "cannot be reached now: Input/output error" in sentences[1]
    assert "till then no verdict is final" in sentences[-1]


def finished(probe: Probe, quiet: float = 400.0, **changes: object) -> Scan:
    verdict = msgspec.Raw(msgspec.json.encode(judge(probe, quiet, Rule())))
    return a_scan(verdict=verdict, **changes)


def test_why_a_scan_has_not_started() -> None:
    text = "\n".join(view.why_arriving(arriving(SHORT)))
    assert "/d/scan_17: 153 files, 12.3 MB, first seen 3 min ago." in text
    assert "not complete: frames 7 to 9 are not there" in text
    assert "missing: 150 of 200 announced frames are there (200 frames by scan.log)" in text
    assert "Nothing changed for 12 s; it waits for what is missing, at most 288 s more" in text
    assert "`srctd submit /d/scan_17`" in text


def test_why_a_scan_that_is_whole_waits() -> None:
    whole = msgspec.structs.replace(SHORT, frames_found=200, gaps=())
    assert view.why_arriving(arriving(whole))[-1] == (
        "Nothing changed for 12 s; it starts by itself if nothing changes for 3 s more."
    )


def test_why_of_what_was_not_read_yet_or_is_no_scan() -> None:
    assert "not read yet" in view.why_arriving(arriving(None))[-1]
    foreign = Probe(readable=True, foreign=True, problem="/d/scan_17 holds no tomography")
    told = view.why_arriving(arriving(foreign))
    assert any("holds no tomography" in sentence for sentence in told)
    assert told[-1] == "It is looked at again when it changes."


def test_an_arriving_scan_in_a_list() -> None:
    row = view.arrival_row(arriving(SHORT))
    assert (row["verdict"], row["frames_found"], row["frames_expected"]) == ("ARRIVING", 150, 200)
    assert (row["gaps"], row["files"], row["needed_seconds"]) == ([[7, 9]], 153, 300.0)
    assert msgspec.json.encode(row)
    bare = view.arrival_row(arriving(None))
    assert (bare["reason"], bare["frames_found"]) == ("still changing", None)


def all_done(scan: Scan) -> Scan:
    return msgspec.structs.replace(scan, steps={step: StepState(status=Status.DONE) for step in Step})


def test_an_incomplete_scan_that_was_taken_is_partial_to_the_end() -> None:
    scan = finished(SHORT)
    row = view.scan_row(scan, NO_JOBS)
    assert (row["state"], row["incomplete"]) == ("running", True)
    assert any(
        "its angles suffice; the result is labeled so" in sentence for sentence in view.why(scan, NO_JOBS)
    )
    ended = view.scan_row(all_done(scan), NO_JOBS) | {"boxes": {"CHECK": "partial"}}
    assert ended["state"] == "partial"
    whole = finished(msgspec.structs.replace(SHORT, frames_found=200, gaps=()))
    assert view.scan_row(all_done(whole), NO_JOBS)["state"] == "done"


def test_a_held_scan_says_once_how_to_release_it() -> None:
    aborted = msgspec.structs.replace(
        SHORT, coverage=None, end_marks=(EndMark(kind="log", text="the log ends"),)
    )
    reason = "/d/a is incomplete (`srctd retry s --incomplete` takes what is there)"
    held = {Step.CHECK: StepState(status=Status.HELD, reason=reason)}
    scan = finished(aborted, steps=held)
    told = "\n".join(view.why(scan, NO_JOBS))
    assert told.count("srctd retry") == 1
    taken = finished(aborted, take_incomplete=True)
    assert any("an operator released it" in sentence for sentence in view.why(taken, NO_JOBS))


@pytest.mark.parametrize(
    ("verdict", "words"), [(SHORT, "150/200 frames"), (None, "still changing")], ids=["short", "unread"]
)
def test_the_terminal_shows_how_far_an_arrival_is(verdict: Probe | None, words: str) -> None:
    console = terminal.console()
    with console.capture() as capture:
        console.print(terminal._arriving([view.arrival_row(arriving(verdict))]), width=200)
    assert words in capture.get()


def test_a_partial_box_has_a_mark_and_a_color_of_its_own() -> None:
    text = terminal.boxes({"CHECK": "partial", "DONE": "done"})
    assert text.plain.startswith("~CHECK")
    assert len({str(span.style) for span in text.spans}) == 2
