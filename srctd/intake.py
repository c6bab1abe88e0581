"""From directory listings to scans with a verdict: list, see what changed, probe, judge, hand over.

The doorbell (inotify) only shortens the wait; every decision rests on the listing. Files are opened when nothing
changed between two looks, never locked, and not again until something changes or time alone can change the verdict.
"""

import asyncio
import os
import threading
import time
from collections.abc import Sequence

import msgspec
import structlog

from srctd.adapters import sync
from srctd.adapters.listing import Listed, Listing, References
from srctd.adapters.watch import Watch, file_system
from srctd.arrivals import Arrival, Site
from srctd.config import Config, WatchSection
from srctd.copies import Copies
from srctd.core import completion
from srctd.core.completion import Message, State
from srctd.core.lifecycle import Scan, Step
from srctd.departures import Departures
from srctd.engine import Engine
from srctd.entrance import Entrance
from srctd.formats.isolated import IsolatedReader
from srctd.messages import Messages

log = structlog.get_logger()

SHORTEST_PAUSE_SECONDS = 0.02
ROUND_SECONDS = 1.0
"""After so long a round is broken off and the folders are listed again: there may be something newer."""
DEBOUNCE_SECONDS = 0.1
"""A detector that writes 1,000 files a second rings as often; a look serves them all. A round that took long is
followed by a longer pause, of `ROUND_SECONDS` at most: one slow file must not keep all others waiting."""
PROBE_COST = 10.0
"""A scan is probed again after so many times what a probe of it takes, or after `PROBE_PAUSE_SECONDS`."""
PROBE_PAUSE_SECONDS = 5.0
PROBE_COST_QUIET = 150.0
"""One of which a piece is missing is probed again without a change of its files, which only a link makes sense of;
below 1 % of a core."""
FINAL = frozenset({State.COMPLETE, State.INCOMPLETE_USABLE, State.ABORTED, State.STALLED})
"""Verdicts with which a scan enters; new data brings it back as a new revision."""


class Intake:
    """Watches the roots and tells the engine of scans that are complete, or will not become so."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        reader: IsolatedReader,
        copies: Copies,
        messages: Messages,
        departures: Departures,
    ) -> None:
        self.arrivals: dict[str, Arrival] = {}
        self._config = config
        self._engine = engine
        self._reader = reader
        self._entrance = Entrance(config, engine, copies, messages)
        self._messages = messages
        self._departures = departures
        self._references = References()
        self._bell = asyncio.Event()
        self._pieces: dict[str, tuple[str, ...]] = {}  # held scan's path -> files it waits for
        self._stopping = threading.Event()
        self.sites = [self._site(root) for root in config.watch]

    def _site(self, root: WatchSection, only: str = "") -> Site:
        system = file_system(root.path)
        rule = msgspec.structs.replace(
            root.rule, settle_seconds=max(root.settle_seconds, system.cache_seconds)
        )
        limit = os.path.dirname(only) if only else ""
        return Site(
            root=root,
            listing=Listing(root, self._stopping, limit),
            rule=rule,
            options=root.read_options(self._config.formats),
            system=system,
            only=only,
        )

    async def run_forever(self) -> None:
        """Watch first, then list, and list again: whenever the bell rings, a verdict may change, or time is up."""
        loop = asyncio.get_running_loop()

        def ring() -> None:
            loop.call_soon_threadsafe(self._bell.set)

        watch = Watch(self._config.watch, ring)
        await asyncio.to_thread(watch.start)
        await asyncio.to_thread(self._reader.start)
        for path in await self._messages.load():
            self._follow(path)
        try:
            while True:
                self._bell.clear()
                began = time.monotonic()
                pause = await self._round(watch)
                took = time.monotonic() - began
                try:
                    async with asyncio.timeout(pause):
                        await self._bell.wait()
                    await asyncio.sleep(min(max(DEBOUNCE_SECONDS, 2 * took), ROUND_SECONDS))
                except TimeoutError:
                    pass
        finally:
            self._stopping.set()
            await asyncio.to_thread(watch.stop)

    async def told(self, path: str, message: Message) -> None:
        """An acquisition says that its scan at a path ended; the next look takes it into account."""
        await self._messages.put(path, message)
        self._follow(path)
        self._bell.set()

    def fingerprint_at(self, path: str) -> str | None:
        """What the last look found of a scan's files; None if it found none."""
        listed = (site.listing.groups.get(path) for site in self.sites)
        return next((found.fingerprint for found in listed if found is not None), None)

    def referenced(self) -> dict[str, str]:
        """Files that scans refer to which are still to be judged, with those scans' paths."""
        probes = ((path, arrival.probed) for path, arrival in self.arrivals.items())
        return {file: path for path, probed in probes if probed for file in probed.references}

    def _follow(self, path: str) -> None:
        """Look at a path that was told of, also if it lies below no watched root."""
        for site in self.sites:
            if sync.inside(path, site.root.path) and site.only in ("", path):
                site.listing.look_at_once(path)
                return
        top = path if os.path.isdir(path) else os.path.dirname(path)
        self.sites.append(self._site(msgspec.structs.replace(self._config.watch[0], path=top), path))

    # --- looking ------------------------------------------------------------------------------------------

    async def _round(self, watch: Watch) -> float:
        """Look once at every root; return the longest pause until the next look."""
        rung = watch.rung()
        present: set[str] = set()
        pause = min(site.root.listing_seconds for site in self.sites)
        until = time.monotonic() + ROUND_SECONDS
        left = self._departures.over()
        for site in list(self.sites):
            for folder in self._departures.folders(left):
                site.listing.look_at_once(folder)
            await self._list(site, watch, rung)
            groups = site.groups()
            present.update(listed.path for listed in groups)
            for listed in groups:
                if time.monotonic() > until:
                    return 0.0
                if await self._is_leaving(listed, site):
                    self.arrivals.pop(listed.path, None)
                elif not self._is_known(listed):
                    pause = min(pause, await self._look_at(listed, site))
                elif self._messages.about(listed.path) and listed.path not in self.arrivals:
                    await self._messages.drop(listed.path)  # of what is foreign, `srctd why` shows it
            pause = min(pause, max(site.listing.seconds_to_next(time.monotonic()), SHORTEST_PAUSE_SECONDS))
        for path in [path for path in self.arrivals if path not in present]:
            self._entrance.vanished(path)
            del self.arrivals[path]
        self._departures.forget(left)
        self._pieces = {path: pieces for path, pieces in self._pieces.items() if path in present}
        self.sites = [site for site in self.sites if not site.only or self._messages.about(site.only)]
        return pause

    async def _list(self, site: Site, watch: Watch, rung: set[str]) -> None:
        """List what is due below a root; note what keeps it from being watched or listed."""
        if not site.only:
            site.bell_problem = await asyncio.to_thread(watch.listen, site.root)
        site.listing.busy = {path for path, arrival in self.arrivals.items() if not arrival.foreign}
        await asyncio.to_thread(site.listing.look, rung, time.monotonic())
        problems = (*filter(None, (site.bell_problem,)), *site.listing.problems)
        if problems != site.problems:
            for sentence in problems:
                log.warning("watch.problem", root=site.root.path, reason=sentence)
        site.problems = problems

    async def _is_leaving(self, listed: Listed, site: Site) -> bool:
        """Whether these files are what is left of a source that is being removed."""
        if not self._departures.touch(listed.folders):
            return False
        return self._departures.concern(await asyncio.to_thread(site.listing.members, listed))

    def _is_known(self, listed: Listed) -> bool:
        """Whether there is nothing to be found out: no scan at all, or one that entered as it is."""
        arrival = self.arrivals.get(listed.path)
        if arrival is not None and arrival.foreign and arrival.listed.fingerprint == listed.fingerprint:
            return True
        known = self._engine.holding(listed.path, listed.fingerprint)
        if known is None:
            return False
        waits = known.held is Step.CHECK or self._messages.are_news(known, listed.path)
        return not waits and self.arrivals.pop(listed.path, None) is None

    async def _look_at(self, listed: Listed, site: Site) -> float:
        """Judge one group of files; return after how many seconds a look may say something new."""
        path = listed.path
        known = self._engine.holding(path, listed.fingerprint)
        if known and not (self._messages.are_news(known, path) or await self._piece_came(known, site)):
            self.arrivals.pop(path, None)
            return site.root.listing_seconds
        looked_at = site.listing.looked_at(listed)
        arrival = self.arrivals.get(path)
        if arrival is None:
            arrival = Arrival(
                listed=listed, root=site.root.path, first_seen_at=time.time(), changed_at=looked_at
            )
            self.arrivals[path] = arrival
            log.info("scan.arriving", path=path)
        if arrival.see(listed, looked_at):
            self._entrance.changed(path)
        half = site.rule.settle_seconds / 2
        if arrival.quiet_seconds < half and arrival.probed is None:
            site.listing.look_again(listed, arrival.changed_at + half)
            return half - arrival.quiet_seconds
        wait = arrival.probe_allowed_at - time.monotonic()
        if arrival.probed is None and wait > 0:
            return wait
        return await self._judge(arrival, site)

    async def _piece_came(self, known: Scan, site: Site) -> bool:
        """Whether an external file, for want of which a scan is held, is there now."""
        if known.held is not Step.CHECK:
            self._pieces.pop(known.path, None)
            return False
        wanted = self._pieces.get(known.path)
        if wanted is None:
            probed = await asyncio.to_thread(self._reader.probe, known.source.main, site.options)
            stalled = known.judged.state is State.STALLED
            came = stalled and probed.readable and not probed.missing
            wanted = probed.references if came else await asyncio.to_thread(_missing, probed.references)
            self._pieces[known.path] = wanted
        return bool(wanted) and len(await asyncio.to_thread(_missing, wanted)) < len(wanted)

    # --- judging ------------------------------------------------------------------------------------------

    async def _judge(self, arrival: Arrival, site: Site) -> float:
        now = time.monotonic()
        if arrival.probed is None or (arrival.probed.may_change and now >= arrival.probe_again_at):
            arrival.probed = await asyncio.to_thread(self._reader.probe, arrival.path, site.options)
            took = time.monotonic() - now
            arrival.probe_allowed_at = now + took + min(PROBE_COST * took, PROBE_PAUSE_SECONDS)
            cost = PROBE_COST if arrival.probed.unreachable else PROBE_COST_QUIET
            arrival.probe_again_at = now + max(site.root.listing_seconds, cost * took)
        probed = arrival.probed
        if probed.references:
            far = await asyncio.to_thread(self._references.quiet_of, probed.references, now)
            arrival.quiet_seconds = min(arrival.quiet_seconds, far)
        message = self._messages.about(arrival.path)
        believed = completion.with_message(probed, message) if message else probed
        verdict = completion.judge(believed, arrival.quiet_seconds, site.rule, arrival.pause_seconds)
        if arrival.verdict is None or verdict.state is not arrival.verdict.state:
            log.info("scan.judged", path=arrival.path, verdict=str(verdict.state), reason=verdict.reason)
        arrival.verdict = verdict
        if verdict.state in FINAL:
            if await self._entrance.take_in(arrival, site):
                await self._forget(arrival.path)
            return site.root.listing_seconds
        if verdict.nothing_missing:
            await self._entrance.copy_ahead(arrival, site)
        if not verdict.recheck_seconds:
            return site.root.listing_seconds
        wait = max(verdict.recheck_seconds - (time.monotonic() - now), SHORTEST_PAUSE_SECONDS)
        site.listing.look_again(arrival.listed, time.monotonic() + wait)
        return wait

    async def _forget(self, path: str) -> None:
        """The files at a path have entered as a scan."""
        del self.arrivals[path]
        self._pieces.pop(path, None)
        await self._messages.drop(path)


def _missing(paths: Sequence[str]) -> tuple[str, ...]:
    return tuple(path for path in paths if not os.path.exists(path))
