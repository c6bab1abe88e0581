"""What people are told of retention: `srctd retention --dry-run`, `srctd status`, `srctd why`, `srctd check`."""

import io
from pathlib import Path

import msgspec
import pytest
from factories import a_scan
from rich.console import Console

from srctd import checkup, terminal, view
from srctd.config import Config, RetentionSection, StorageSection, WatchSection
from srctd.core.dispatch import ScanJobs
from srctd.core.lifecycle import Scan, Status, Step, StepState
from srctd.core.retention import Decision, Disk, Outlook

NO_JOBS = ScanJobs(queued=0, assigned=0, ahead=0, fraction=0.0, first_assigned_at=None)
SYNCED = msgspec.Raw(b'{"input": "/shared/visitors/tooth/input/tooth.h5", "in_place": false}')


def done(**changes: object) -> Scan:
    steps = {step: StepState(status=Status.DONE) for step in Step}
    steps[Step.SYNC] = StepState(status=Status.DONE, result=SYNCED)
    return a_scan(steps=steps, **changes)


@pytest.mark.parametrize(
    ("scan", "source", "sentence"),
    [
        (done(), "there", "Every step is done."),
        (
            done(removal_begun_at=1_800_000_000.0),
            "being removed",
            "The source at /data/detector/tooth.h5 (1 files, 10 bytes) is being removed since "
            "2027-01-15 08:00 UTC; its copy is at /shared/visitors/tooth/input/tooth.h5.",
        ),
        (
            done(removal_begun_at=1.0, source_removed_at=1_800_000_000.0),
            "removed",
            "The source at /data/detector/tooth.h5 (1 files, 10 bytes) was removed on 2027-01-15 08:00 UTC; "
            "its copy is at /shared/visitors/tooth/input/tooth.h5.",
        ),
        (
            done(source_kept="a digest differs"),
            "kept, its copy is damaged",
            "The source at /data/detector/tooth.h5 (1 files, 10 bytes) must not be removed: a digest differs.",
        ),
    ],
)
def test_what_became_of_a_source(scan: Scan, source: str, sentence: str) -> None:
    row = view.scan_row(scan, NO_JOBS)
    assert (row["source"], row["state"], row["reason"]) == (source, "done", scan.source_kept)
    assert view.why(scan, NO_JOBS)[-1] == sentence


def test_why_a_source_that_is_gone_cannot_be_copied_again() -> None:
    matter, instead = view.source_is_gone(done(source_removed_at=1_800_000_000.0))
    assert "was removed on 2027-01-15 08:00 UTC and cannot be checked or copied again" in matter
    assert "/shared/visitors/tooth/input/tooth.h5; name a later step" in instead


def test_the_dry_run_shows_what_goes_and_why_the_rest_stays() -> None:
    goes = Decision(scan="a-1", path="/d/a.h5", files=1, bytes=2_000_000_000, remove=True)
    stays = Decision(
        scan="b-1", path="/d/b.h5", files=1, bytes=0, remove=False, reasons=("held", "too young")
    )
    outlook = Outlook(roots=("/d",), disk=Disk(size=10**10, used=9 * 10**9), decisions=(goes, stays))
    empty = Outlook(roots=("/e", "/f"), disk=Disk(size=10**10, used=0), decisions=())
    answer = view.retention_answer(RetentionSection(), [outlook, empty], ["/g does not say how full it is"])
    shown = io.StringIO()
    Console(file=shown, width=200).print(terminal.retention_view(answer))
    lines = [" ".join(line.split()) for line in shown.getvalue().splitlines()]
    assert lines == [
        "retention is off; if it were on:",
        "! /g does not say how full it is",
        "/d: 90.0 % of 10.0 GB used; removing begins above 80 % and ends at 60 %",
        "remove a-1 2.00 GB",
        "stays b-1 0.00 GB held; too young",
        "/e, /f: 0.0 % of 10.0 GB used; removing begins above 80 % and ends at 60 %",
        "no scans there",
        "not looked at yet: the bytes of the copies; each copy is read in full right before its source goes",
    ]


def test_the_checkup_says_what_is_removed_and_what_keeps_it_from_that(tmp_path: Path) -> None:
    def told(section: RetentionSection) -> list[tuple[bool, str]]:
        config = Config(
            storage=StorageSection(shared=str(tmp_path)),
            watch=(WatchSection(path=str(tmp_path / "none")),),
            retention=section,
        )
        found = ((finding.good, finding.sentence) for finding in checkup.findings(config))
        return [(good, sentence) for good, sentence in found if "remove" in sentence]

    assert told(RetentionSection()) == []
    (_, what), (writable, closed), (posted, nothing) = told(RetentionSection(enabled=True))
    assert "removes sources that are copied, catalogued and done for 168 hours" in what
    assert not writable
    assert closed.endswith(f"may not remove anything from {tmp_path / 'none'}")
    assert not posted
    assert "only what was catalogued may be removed" in nothing
