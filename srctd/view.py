"""What is told to people and programs that ask: plain dictionaries, ready for JSON."""

import os
import socket
import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from srctd import __version__
from srctd.arrivals import Arrival
from srctd.config import RetentionSection
from srctd.core.completion import State, Verdict
from srctd.core.dispatch import ScanJobs
from srctd.core.lifecycle import Box, Scan, Stage, Status, Step, current_stage, stages
from srctd.core.retention import Outlook
from srctd.core.scan import minute_text
from srctd.meter import Figures
from srctd.results import Previewed, Published, Reconstructed, Registered, Sent, Submitted, Synced

MOST_PLACES = 5
"""Other places of the same files that are named."""


def scan_row(scan: Scan, jobs: ScanJobs) -> dict[str, Any]:
    """One scan in a list. `jobs`: what the pool knows of its jobs."""
    boxes = stages(scan, started=jobs.started)
    stuck = _stuck(scan)
    return {
        "scan": scan.id,
        "path": scan.path,
        "revision": scan.revision,
        "stage": str(current_stage(boxes)),
        "boxes": {str(stage): str(box) for stage, box in boxes.items()},
        "state": _state(scan, stuck),
        "incomplete": scan.partial,
        "reason": scan.step(stuck).reason if stuck else scan.source_kept,
        "source": _source(scan),
        "progress": 1.0 if boxes[Stage.RUN] is Box.DONE else jobs.fraction,
        "completed_at": scan.completed_at,
    }


def scan_details(scan: Scan, jobs: ScanJobs) -> dict[str, Any]:
    """All that is known of one scan."""
    steps = {
        str(step): {
            "status": str(scan.step(step).status),
            "seconds": round(scan.step(step).seconds, 3),
            "attempts": scan.step(step).attempts,
            "reason": scan.step(step).reason,
            "retry_at": scan.step(step).retry_at,
        }
        for step in Step
    }
    row = scan_row(scan, jobs)
    return {
        **row,
        "steps": steps,
        "bytes": scan.source.bytes,
        "files": scan.source.files,
        "removal_begun_at": scan.removal_begun_at,
        "source_removed_at": scan.source_removed_at,
        **_results(scan),
        **_latency(scan, jobs),
    }


def why(scan: Scan, jobs: ScanJobs) -> list[str]:
    """In plain sentences: what happened to a scan, what it waits for, what to do."""
    sentences = [f"{scan.path}, revision {scan.revision}.", *_elsewhere(scan)]
    if bytes(scan.verdict) != b"null":
        sentences += _verdict_sentences(msgspec.json.decode(scan.verdict, type=Verdict))
    if scan.superseded:
        return [*sentences, "The file was rewritten; a later revision goes on in its place."]
    for step in Step:
        state = scan.step(step)
        if state.status is Status.HELD:
            sentences.append(f"{step}: held. {state.reason}.{_what_next(scan, step)}")
        elif state.status is Status.RETRYING:
            wait = max(0.0, (state.retry_at or 0.0) - time.time())
            sentences.append(f"{step}: failed {state.attempts} times, again in {wait:.0f} s. {state.reason}.")
        elif state.status is Status.RUNNING and jobs.queued and not jobs.assigned:
            sentences.append(f"{step}: waits for a worker, {jobs.ahead} jobs are ahead in the queue.")
        elif state.status is Status.RUNNING:
            sentences.append(f"{step}: running.")
    if scan.partial:
        sentences.append(_partial_sentence(scan))
    if scan.done:
        sentences.append("Every step is done.")
    return [*sentences, *_source_sentences(scan)]


def _source(scan: Scan) -> str:
    """What became of the files that the detector wrote."""
    if scan.source_removed_at is not None:
        return "removed"
    if scan.removal_begun_at is not None:
        return "being removed"
    return "kept, its copy is damaged" if scan.source_kept else "there"


def _source_sentences(scan: Scan) -> list[str]:
    source = f"The source at {scan.source.main} ({scan.source.files} files, {_bytes(scan.source.bytes)})"
    sentences = []
    if scan.source_removed_at is not None:
        at = minute_text(scan.source_removed_at)
        sentences.append(f"{source} was removed on {at}; its copy is at {_copy(scan)}.")
    elif scan.removal_begun_at is not None:
        at = minute_text(scan.removal_begun_at)
        sentences.append(f"{source} is being removed since {at}; its copy is at {_copy(scan)}.")
    if scan.source_kept:
        sentences.append(f"{source} must not be removed: {scan.source_kept}.")
    return sentences


def _copy(scan: Scan) -> str:
    """Where the copy of a scan lies, of one that was copied."""
    return msgspec.json.decode(scan.step(Step.SYNC).result, type=Synced).input


def source_is_gone(scan: Scan) -> tuple[str, str]:
    """Why a step that reads the source cannot be done again, and what can."""
    at = minute_text(scan.source_removed_at or scan.removal_begun_at or 0.0)
    return (
        f"{scan.id}: its source {scan.source.main} was removed on {at} and cannot be checked or copied again",
        f"the proven copy is at {_copy(scan)}; name a later step: --step submit",
    )


def retention_answer(
    section: RetentionSection, outlooks: Sequence[Outlook], problems: list[str]
) -> dict[str, Any]:
    """What would be removed from each disk, and why every other scan stays."""
    return {
        "enabled": section.enabled,
        "minimum_age_hours": section.minimum_age_hours,
        "high_water_percent": section.high_water_percent,
        "low_water_percent": section.low_water_percent,
        "proof": section.proof,
        "problems": problems,
        "disks": [
            {
                "roots": list(outlook.roots),
                "size_bytes": outlook.disk.size,
                "used_bytes": outlook.disk.used,
                "used_percent": round(outlook.disk.percent(), 2),
                "scans": [msgspec.to_builtins(decision) for decision in outlook.decisions],
            }
            for outlook in outlooks
        ],
    }


def _what_next(scan: Scan, step: Step) -> str:
    """How a held step goes on."""
    state = scan.step(step)
    if scan.lacks_space is step and state.needs_bytes:
        return f" It goes on by itself when {_bytes(state.needs_bytes)} are free."
    return (
        ""
        if "srctd retry" in state.reason or scan.lacks_space is step
        else f" `srctd retry {scan.id}` tries it again."
    )


def _elsewhere(scan: Scan) -> list[str]:
    places = sorted(path for path in scan.seen_at if path != scan.path)
    if not places:
        return []
    more = f" and {len(places) - MOST_PLACES} places more" if len(places) > MOST_PLACES else ""
    return [f"The same files were seen at {', '.join(places[:MOST_PLACES])}{more}: one scan."]


def _partial_sentence(scan: Scan) -> str:
    by_whom = "an operator released it" if scan.take_incomplete else "its angles suffice"
    return (
        f"It is incomplete and taken all the same, for {by_whom}; the result is labeled so. "
        "If the rest arrives, a new revision begins by itself."
    )


def why_arriving(arrival: Arrival) -> list[str]:
    """Why a scan that is being written has not started: what is there, what is missing, what it waits for."""
    verdict = arrival.verdict
    noun = "file" if arrival.files == 1 else "files"
    seen = _ago(time.time() - arrival.first_seen_at)
    sentences = [f"{arrival.path}: {arrival.files} {noun}, {_bytes(arrival.bytes)}, first seen {seen} ago."]
    if verdict is None:
        return [*sentences, "It changed a moment ago, so it was not read yet; it is as soon as it is quiet."]
    return [*sentences, *_verdict_sentences(verdict), *_waits_for(arrival, verdict)]


def arrival_row(arrival: Arrival) -> dict[str, Any]:
    """One arriving scan in a list."""
    verdict = arrival.verdict
    return {
        "path": arrival.path,
        "verdict": str(verdict.state) if verdict else "ARRIVING",
        "reason": verdict.reason if verdict else "still changing",
        "missing": list(verdict.missing) if verdict else [],
        "frames_found": verdict.frames_found if verdict else None,
        "frames_expected": verdict.frames_expected if verdict else None,
        "gaps": [list(gap) for gap in verdict.gaps] if verdict else [],
        "files": arrival.files,
        "bytes": arrival.bytes,
        "quiet_seconds": round(arrival.quiet_seconds, 1),
        "needed_seconds": verdict.needed_seconds if verdict else None,
        "first_seen_at": arrival.first_seen_at,
    }


def copy_row(figures: Figures | None) -> dict[str, Any] | None:
    """How the copy of a scan stands; None: nothing is copied of it, or all is."""
    if figures is None:
        return None
    return {
        "bytes": figures.copied,
        "bytes_per_second": round(figures.rate),
        "held_back": figures.held_back,
        "still_seconds": round(figures.still_seconds, 1),
    }


def copy_sentences(figures: Figures | None) -> list[str]:
    """The same for people."""
    if figures is None:
        return []
    copied = f"{_bytes(figures.copied)} of it are copied already"
    if figures.still_seconds:
        return [f"{copied}; for {figures.still_seconds:.0f} s no more was taken: does shared storage answer?"]
    if figures.held_back:
        return [f"{copied}; the copy is held back, for others or for the detector."]
    return [f"{copied}, lately {_bytes(round(figures.rate))} a second."]


def daemon_facts(started_at: float) -> dict[str, Any]:
    """Who answers."""
    return {
        "version": __version__,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "uptime_seconds": round(time.time() - started_at, 1),
    }


def newest(scans: Iterable[Scan], limit: int) -> list[Scan]:
    """The last scans to complete, newest first, and older ones that are not done, as many again."""
    ordered = sorted(scans, key=lambda scan: scan.completed_at, reverse=True)
    undone = [scan for scan in ordered[limit:] if not (scan.done or scan.superseded)]
    return ordered[:limit] + undone[:limit]


def _stuck(scan: Scan) -> Step | None:
    """The step that is held or waits for a retry, if any."""
    return scan.held or next((step for step in Step if scan.step(step).status is Status.RETRYING), None)


def _state(scan: Scan, stuck: Step | None) -> str:
    if scan.superseded:
        return "superseded"
    if scan.held:
        return "held"
    if stuck:
        return "retrying"
    if scan.done:
        return "partial" if scan.partial else "done"
    return "running"


def _verdict_sentences(verdict: Verdict) -> list[str]:
    sentences = [f"Verdict {verdict.state}: {verdict.reason}."]
    sentences += [f"  {evidence.name}: {evidence.text}" for evidence in verdict.evidence]
    sentences += [f"  missing: {piece}" for piece in verdict.missing]
    return sentences


def _waits_for(arrival: Arrival, verdict: Verdict) -> list[str]:
    """What a scan without a final verdict waits for, and what a person may do."""
    if verdict.state is State.FOREIGN:
        return ["It is looked at again when it changes."]
    if arrival.probed is not None and arrival.probed.unreachable:
        return ["It is looked at again and again until the files can be read; till then no verdict is final."]
    quiet = f"Nothing changed for {arrival.quiet_seconds:.0f} s"
    left = max(0.0, verdict.needed_seconds - arrival.quiet_seconds)
    if verdict.nothing_missing:
        return [f"{quiet}; it starts by itself if nothing changes for {left:.0f} s more."]
    then = "it is then taken as incomplete if its angles suffice, and held if they do not"
    return [
        f"{quiet}; it waits for what is missing, at most {left:.0f} s more without a change: {then}.",
        f"If the acquisition is over, `srctd submit {arrival.path}` says so and shortens the wait.",
    ]


def _ago(seconds: float) -> str:
    """`40 s`, `12 min`, `3 h 5 min`."""
    minutes = int(seconds) // 60
    if minutes < 1:
        return f"{max(0, int(seconds))} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _bytes(size: int) -> str:
    """`12.3 MB`, in powers of 1000 as disks are sold."""
    value, unit = float(size), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} bytes" if unit == "bytes" else f"{value:.1f} {unit}"


def _results(scan: Scan) -> dict[str, Any]:
    """What finished steps found, as far as they are."""
    found: dict[str, Any] = {}

    def result(step: Step, kind: Any) -> Any:
        state = scan.step(step)
        return msgspec.json.decode(state.result, type=kind) if state.status is Status.DONE else None

    if synced := result(Step.SYNC, Synced):
        found |= {"input": synced.input, "in_place": synced.in_place}
    if submitted := result(Step.SUBMIT, Submitted):
        folder = os.path.dirname(submitted.parameters)
        found |= {"folder": folder, "parameters": submitted.parameters, "recipe": submitted.recipe}
        if shown := result(Step.PREVIEW, Previewed):
            found |= {
                "picture": os.path.join(folder, shown.picture),
                "center": shown.preview.center,
                "center_confidence": shown.preview.center_confidence,
            }
        if built := result(Step.RECONSTRUCT, Reconstructed):
            found |= {
                "volume": os.path.join(folder, built.volume.path),
                "shape": built.volume.shape,
                "dtype": built.volume.dtype,
                "clipped_fraction": built.volume.clipped_fraction,
            }
    if registered := result(Step.REGISTER, Registered):
        found["raw_pid"] = registered.raw_pid
    if published := result(Step.PUBLISH, Published):
        found |= {"derived_pid": published.derived_pid, "record": published.record}
    if (sent := result(Step.SEND, Sent)) and sent.target:
        found["remote"] = f"{sent.target}/{sent.place}"
    return found


def _latency(scan: Scan, jobs: ScanJobs) -> dict[str, Any]:
    """Seconds from the last change on disk to the first job at a worker, less the settle time."""
    if jobs.first_assigned_at is None or bytes(scan.verdict) == b"null":
        return {}
    verdict = msgspec.json.decode(scan.verdict, type=Verdict)
    lag = verdict.quiet_seconds - verdict.needed_seconds
    first = time.time() - (time.monotonic() - jobs.first_assigned_at)
    return {"latency_seconds": round(first - scan.completed_at + lag, 3)}
