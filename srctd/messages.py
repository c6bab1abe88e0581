"""What acquisitions told of their scans, kept until the scans are judged, through restarts."""

import os
import time
from collections.abc import Iterable

import msgspec

from srctd.adapters.journal import Journal
from srctd.core.completion import Message
from srctd.engine import JournalThread


class Messages:
    """At most one message for each path."""

    def __init__(self, journal: Journal, thread: JournalThread) -> None:
        self._journal = journal
        self._thread = thread
        self._by_path: dict[str, Message] = {}

    async def load(self) -> Iterable[str]:
        """Read what the journal has; return the paths."""
        rows = await self._thread.call(self._journal.messages)
        self._by_path = {path: msgspec.json.decode(body, type=Message) for path, body in rows.items()}
        return tuple(self._by_path)

    async def put(self, path: str, message: Message) -> None:
        """Keep a message; a later one about the same path replaces it."""
        await self._thread.call(self._journal.put_message, path, msgspec.json.encode(message), time.time())
        self._by_path[path] = message

    def about(self, path: str) -> Message | None:
        """What was told of a scan: of its own path, of a file in its folder, or of the folder around it."""
        if path in self._by_path:
            return self._by_path[path]
        inside = (told for told in self._by_path if told.startswith(path + os.sep))
        return next((self._by_path[told] for told in inside), None)

    async def drop(self, path: str) -> None:
        """Forget what was told of a scan that was judged."""
        for told in [told for told in self._by_path if told == path or told.startswith(path + os.sep)]:
            await self._thread.call(self._journal.drop_message, told)
            del self._by_path[told]
