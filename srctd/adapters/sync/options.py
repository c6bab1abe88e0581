"""How a scan is copied."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from srctd.core.scan import ReadBack


class Pace(Protocol):
    """How fast the source may be read."""

    def take(self, count: int) -> None:
        """Wait until so many more bytes may be read. An exception ends the copy; the next resumes it."""


class FullSpeed:
    """As fast as it goes."""

    def take(self, count: int) -> None:
        """Wait for nothing."""


Give = Callable[[int], None]
"""Hands a finished file or folder, by its descriptor, over to whom it shall belong, with its modes."""


def keep(_: int) -> None:
    """Leave a file or folder as it was made."""


@dataclass(frozen=True, kw_only=True)
class CopyOptions:
    """How a scan is copied."""

    pace: Pace = field(default_factory=FullSpeed)
    read_back: ReadBack = ReadBack.SAMPLED
    portable_names: bool = True
    give: Give = keep


PLAIN = CopyOptions()
