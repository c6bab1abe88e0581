"""From directory listings to complete scans: list, see what changed, probe, judge, hand over.

The doorbell (inotify) only shortens the wait; every decision rests on the listing. A file is opened when nothing
changed between two looks, never locked, and not again until something changes or time alone can change the
verdict.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import msgspec
import structlog

from srctd.adapters import sync
from srctd.adapters.watch import Candidate, Listing, Observed, Tracker, Watch
from srctd.config import Config, WatchSection
from srctd.copies import Copies
from srctd.core import completion
from srctd.core.completion import Probe, State, Verdict
from srctd.core.errors import HoldError
from srctd.core.lifecycle import Completed, Scan, Step, Superseded
from srctd.core.scan import FileEntry, Manifest, scan_id, task_name
from srctd.engine import Engine
from srctd.formats.isolated import IsolatedReader
from srctd.steps import part_folder

log = structlog.get_logger()

SHORTEST_PAUSE_SECONDS = 0.02
ROUND_SECONDS = 1.0
"""After so long a round is broken off and the folders are listed again: there may be something newer."""
DEBOUNCE_SECONDS = 0.1
"""A detector that writes 1,000 files a second rings as often; a look serves them all."""


@dataclass(kw_only=True)
class Arrival:
    """A file that is no complete scan yet, or no scan at all."""

    candidate: Candidate
    root: str
    first_seen_at: float
    """UTC timestamp."""
    probed: Probe | None = None
    probe_again_at: float = 0.0
    """Monotonic; a piece that is missing may come without a change of this file."""
    verdict: Verdict | None = None

    @property
    def foreign(self) -> bool:
        """Whether it was found to be no tomography."""
        return self.verdict is not None and self.verdict.state is State.FOREIGN


class Intake:
    """Watches the roots and tells the engine of scans that are complete."""

    def __init__(self, config: Config, engine: Engine, reader: IsolatedReader, copies: Copies) -> None:
        self.arrivals: dict[str, Arrival] = {}
        self.problems: dict[str, tuple[str, ...]] = {}
        """Per root, what keeps it from being watched or listed."""
        self._config = config
        self._roots = config.watch
        self._engine = engine
        self._reader = reader
        self._copies = copies
        self._tracker = Tracker()
        self._bell = asyncio.Event()
        self._pieces: dict[str, tuple[str, ...]] = {}  # held scan's path -> files it waits for

    async def run_forever(self) -> None:
        """Watch first, then list, and list again: whenever the bell rings, a verdict may change, or time is up."""
        loop = asyncio.get_running_loop()

        def ring() -> None:
            loop.call_soon_threadsafe(self._bell.set)

        watch = Watch(self._roots, ring)
        await asyncio.to_thread(watch.start)
        await asyncio.to_thread(self._reader.start)
        try:
            while True:
                self._bell.clear()
                began = time.monotonic()
                pause = await self._round(watch)
                took = time.monotonic() - began
                try:
                    async with asyncio.timeout(pause):
                        await self._bell.wait()
                    await asyncio.sleep(max(DEBOUNCE_SECONDS, 2 * took))
                except TimeoutError:
                    pass
        finally:
            await asyncio.to_thread(watch.stop)

    async def _round(self, watch: Watch) -> float:
        """Look once at every root; return the longest pause until the next look."""
        listings = [(root, await asyncio.to_thread(watch.list_root, root)) for root in self._roots]
        candidates = [candidate for _, listing in listings for candidate in listing.candidates]
        observed = {seen.candidate.path: seen for seen in self._tracker.observe(candidates, time.monotonic())}
        self.arrivals = {path: arrival for path, arrival in self.arrivals.items() if path in observed}
        self._pieces = {path: pieces for path, pieces in self._pieces.items() if path in observed}
        pause = min(root.listing_seconds for root in self._roots)
        until = time.monotonic() + ROUND_SECONDS
        for root, listing in listings:
            self._note_problems(root, listing)
            # A thousand new files must not keep the newest one waiting; file times only set the order.
            for candidate in sorted(listing.candidates, key=lambda candidate: -candidate.mtime_ns):
                if time.monotonic() > until:
                    return 0.0
                pause = min(pause, await self._look_at(observed[candidate.path], root))
        return pause

    def _note_problems(self, root: WatchSection, listing: Listing) -> None:
        if listing.problems != self.problems.get(root.path, ()):
            for sentence in listing.problems:
                log.warning("watch.problem", root=root.path, reason=sentence)
        self.problems[root.path] = listing.problems

    async def _look_at(self, seen: Observed, root: WatchSection) -> float:
        """Judge one file; return after how many seconds a look may say something new."""
        path = seen.candidate.path
        known = self._engine.latest(path)
        same = known is not None and not known.superseded and _unchanged(known, seen.candidate)
        if known and same and not await self._piece_came(known):
            self.arrivals.pop(path, None)
            return root.listing_seconds
        arrival = self.arrivals.get(path)
        if arrival is None:
            arrival = Arrival(candidate=seen.candidate, root=root.path, first_seen_at=time.time())
            self.arrivals[path] = arrival
            log.info("scan.arriving", path=path)
        arrival.candidate = seen.candidate
        if seen.changed:
            arrival.probed = None
            self._copies.abandon(_next_id(path, known))
        half = root.settle_seconds / 2
        if seen.quiet_seconds < half and arrival.probed is None:
            return half - seen.quiet_seconds
        return await self._judge(arrival, seen, root, known)

    async def _piece_came(self, known: Scan) -> bool:
        """Whether an external file, for want of which a scan is held, is there now."""
        if known.held is not Step.CHECK:
            self._pieces.pop(known.path, None)
            return False
        wanted = self._pieces.get(known.path)
        if wanted is None:
            probed = await asyncio.to_thread(self._reader.probe, known.path)
            stalled = msgspec.json.decode(known.verdict, type=Verdict).state is State.STALLED
            came = stalled and probed.readable and not probed.missing
            wanted = probed.references if came else await asyncio.to_thread(_missing, probed.references)
            self._pieces[known.path] = wanted
        return len(await asyncio.to_thread(_missing, wanted)) < len(wanted)

    async def _judge(self, arrival: Arrival, seen: Observed, root: WatchSection, known: Scan | None) -> float:
        now = time.monotonic()
        if arrival.probed is None or (arrival.probed.missing and now >= arrival.probe_again_at):
            arrival.probed = await asyncio.to_thread(self._reader.probe, arrival.candidate.path)
            arrival.probe_again_at = now + root.listing_seconds
        probed = arrival.probed
        quiet = seen.quiet_seconds
        if probed.references:
            quiet = min(quiet, await asyncio.to_thread(self._tracker.quiet_of, probed.references, now))
        verdict = completion.judge(probed, quiet, root.rule)
        if arrival.verdict is None or verdict.state is not arrival.verdict.state:
            log.info(
                "scan.judged", path=arrival.candidate.path, verdict=str(verdict.state), reason=verdict.reason
            )
        arrival.verdict = verdict
        if verdict.state in (State.COMPLETE, State.STALLED):
            await self._hand_over(arrival, verdict, probed, known)
        elif verdict.nothing_missing:
            await self._copy_ahead(arrival, probed, known)
        if not verdict.recheck_seconds:
            return root.listing_seconds
        return max(verdict.recheck_seconds - (time.monotonic() - now), SHORTEST_PAUSE_SECONDS)

    async def _copy_ahead(self, arrival: Arrival, probed: Probe, known: Scan | None) -> None:
        """Only the settle time is awaited: copy meanwhile."""
        path = arrival.candidate.path
        manifest = await asyncio.to_thread(_manifest, arrival.candidate, probed.references)
        if manifest is not None and not sync.inside(path, self._config.storage.shared):
            scan = _next_id(path, known)
            with suppress(HoldError):  # no such account: the scan will be held at LOGIN, with the sentence
                self._copies.begin(scan, manifest, part_folder(self._config, path, scan))

    async def _hand_over(self, arrival: Arrival, verdict: Verdict, probed: Probe, known: Scan | None) -> None:
        """Tell the engine, unless the files changed while they were judged."""
        manifest = await asyncio.to_thread(_manifest, arrival.candidate, probed.references)
        if manifest is None:
            return
        path = arrival.candidate.path
        now = time.time()
        if known and not known.done:
            await self._engine.happen(Superseded(scan=known.id))
        scan = Scan(
            id=_next_id(path, known),
            path=path,
            root=arrival.root,
            revision=_next_revision(known),
            task=self._free_task(path, now),
            manifest=manifest,
            completed_at=now,
            verdict=msgspec.Raw(msgspec.json.encode(verdict)),
        )
        self._pieces.pop(path, None)
        log.info("scan.completed", scan=scan.id, path=path, bytes=manifest.size, reason=verdict.reason)
        del self.arrivals[path]
        await self._engine.happen(Completed(scan=scan.id, entered=scan))

    def _free_task(self, path: str, now: float) -> str:
        """A task directory's name that no other scan has."""
        taken = {scan.task for scan in self._engine.scans.values()}
        name = task_name(path, now)
        names = (name if n == 1 else f"{name}-{n}" for n in range(1, len(taken) + 2))
        return next(name for name in names if name not in taken)


def _missing(paths: Sequence[str]) -> tuple[str, ...]:
    return tuple(path for path in paths if not os.path.exists(path))


def _is_text(name: str) -> bool:
    """Whether a name can stand in JSON; the listing sees to that for the files themselves."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _next_revision(known: Scan | None) -> int:
    return known.revision + 1 if known else 1


def _next_id(path: str, known: Scan | None) -> str:
    """Identifier that a file will have as a scan, once it is complete."""
    return scan_id(path, _next_revision(known))


def _unchanged(scan: Scan, candidate: Candidate) -> bool:
    main = scan.manifest.files[0]
    return (main.size, main.mtime_ns) == (candidate.size, candidate.mtime_ns)


def _manifest(candidate: Candidate, references: Sequence[str]) -> Manifest | None:
    """The files as they are now; None if the main one is not as it was judged.

    Referenced files below the scan's folder belong to the scan and are copied with it; others stay where they
    are and are reached by the absolute path that the file names.
    """
    folder, name = os.path.split(candidate.path)
    files: list[FileEntry] = []
    for path in (candidate.path, *references):
        relative = os.path.relpath(path, folder)
        if relative.startswith("..") or not _is_text(relative):
            continue
        try:
            stat = os.stat(path)
        except OSError:
            if path == candidate.path:
                return None
            continue
        files.append(FileEntry(path=relative, size=stat.st_size, mtime_ns=stat.st_mtime_ns))
    main = files[0]
    same = main.path == name and (main.size, main.mtime_ns) == (candidate.size, candidate.mtime_ns)
    return Manifest(folder=folder, files=tuple(files)) if same else None
