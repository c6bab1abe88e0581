"""What acquisitions told of their scans, kept until the scans are judged, through restarts."""

import os
import time
from collections.abc import Iterable

import msgspec

from srctd.adapters.journal import Journal
from srctd.core.completion import Message, is_news
from srctd.core.lifecycle import Scan
from srctd.engine import JournalThread

KEPT_SECONDS = 24 * 3600.0
"""A scan of which nothing was seen for so long after it was told of does not come any more."""


class Messages:
    """At most one message for each path."""

    def __init__(self, journal: Journal, thread: JournalThread) -> None:
        self._journal = journal
        self._thread = thread
        self._by_path: dict[str, tuple[Message, float]] = {}

    async def load(self) -> Iterable[str]:
        """Read what the journal has; return the paths."""
        rows = await self._thread.call(self._journal.messages)
        self._by_path = {
            path: (msgspec.json.decode(body, type=Message), at) for path, (body, at) in rows.items()
        }
        for path in [path for path in self._by_path if self._about(path) is None]:
            await self._drop(path)
        return tuple(self._by_path)

    async def put(self, path: str, message: Message) -> None:
        """Keep a message; a later one about the same path replaces it."""
        now = time.time()
        await self._thread.call(self._journal.put_message, path, msgspec.json.encode(message), now)
        self._by_path[path] = message, now

    def about(self, path: str) -> Message | None:
        """What was told of a scan: of its own path, or of a file or folder in it."""
        told = (self._about(told) for told in self._by_path if told == path or told.startswith(path + os.sep))
        return next(filter(None, told), None)

    def are_news(self, known: Scan, path: str) -> bool:
        """Whether something was told of a path that was not known when its scan was judged."""
        message = self.about(path)
        return message is not None and is_news(known.judged, message)

    async def drop(self, path: str) -> None:
        """Forget what was told of a scan that was judged."""
        for told in [told for told in self._by_path if told == path or told.startswith(path + os.sep)]:
            await self._drop(told)

    def _about(self, path: str) -> Message | None:
        message, at = self._by_path[path]
        return message if time.time() - at < KEPT_SECONDS else None

    async def _drop(self, path: str) -> None:
        await self._thread.call(self._journal.drop_message, path)
        del self._by_path[path]
