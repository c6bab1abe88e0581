"""What is known of the copy of one scan while it grows."""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from srctd.core.scan import FileEntry, Manifest, Owner
from srctd.core.settling import Settled
from srctd.meter import Meter, Stop


class Arriving(NamedTuple):
    """A scan that is being acquired, as its copy needs to know it."""

    scan: str
    folder: str
    """What the names of its files count from."""
    owner: Owner
    expected_bytes: int
    """Of all files when it is complete, as far as somebody said so; else what is there."""


@dataclass
class Growing:
    """The copy of one scan. Only the event loop changes it."""

    part: Path
    folder: str
    owner: Owner
    meter: Meter = field(default_factory=Meter)
    stop: Stop = field(default_factory=Stop)
    task: asyncio.Task[Any] | None = None
    due: dict[str, tuple[FileEntry, int]] = field(default_factory=dict)
    """Settled, but not copied yet: by path, the file and how many bytes of it."""
    under_way: dict[str, tuple[FileEntry, int]] = field(default_factory=dict)
    copied: dict[str, int] = field(default_factory=dict)
    copied_bytes: int = 0
    expected_bytes: int = 0
    ends: Manifest | None = None
    """What is copied ahead, or was: the files as they are when only time is missing."""
    entered: bool = False
    """It got its verdict: it gives its room to nobody."""
    fits: bool = False
    """Whether there was room for all that is expected of it; that room is its own from then on."""
    lost_at: float | None = None
    """Monotonic: when it had to make room."""

    @property
    def following(self) -> bool:
        """Whether it follows an acquisition."""
        return self.ends is None and not self.entered

    @property
    def left_bytes(self) -> int:
        """What it is still going to write."""
        return max(0, self.expected_bytes - self.copied_bytes)

    @property
    def due_bytes(self) -> int:
        """How much of what settled is not copied yet."""
        waiting = self.due | self.under_way
        return sum(upto - self.copied.get(path, 0) for path, (_, upto) in waiting.items())

    def take(self, settled: Settled) -> None:
        """Take note of what has settled."""
        for path in settled.withdrawn:
            self.due.pop(path, None)
            self.under_way.pop(path, None)
            self.copied_bytes -= self.copied.pop(path, 0)
        for file in settled.files:
            self.due[file.path] = (file, settled.upto[file.path])

    def took(self) -> None:
        """What was under way is copied."""
        for path, (_, upto) in self.under_way.items():
            self.copied_bytes += upto - self.copied.get(path, 0)
            self.copied[path] = upto
        self.under_way = {}

    def give_back(self) -> None:
        """What was under way is still due."""
        self.due = self.under_way | self.due
        self.under_way = {}

    def lose(self) -> None:
        """Its folder is removed."""
        self.due, self.under_way, self.copied = {}, {}, {}
        self.copied_bytes, self.fits = 0, False
        self.lost_at = time.monotonic()

    def cancel(self) -> None:
        """End what is done to it; its thread ends at its next block."""
        if self.task is not None:
            self.task.cancel()
