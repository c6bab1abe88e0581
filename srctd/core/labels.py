"""What is said of a scan that is taken though something of it is missing: one wording for every place."""

from collections.abc import Mapping, Sequence

import msgspec

from srctd.core.completion import State, Verdict
from srctd.core.scan import Quantity, ScanHeader, Series, Shortfall

KEYWORD = "incomplete"
"""In the catalogue, and before every sentence on what is missing."""
UNFINISHED = frozenset({State.ABORTED, State.STALLED})
"""Verdicts that hold a scan until the rest arrives or an operator takes what is there."""


def is_partial(state: State, take_incomplete: bool) -> bool:
    """Whether a scan is opened for what is there. `take_incomplete`: an operator wants it, also of a scan that an
    acquisition called complete though its own files promise more.
    """
    return state is State.INCOMPLETE_USABLE or take_incomplete


def labeled(
    header: ScanHeader,
    verdict: Verdict,
    *,
    partial: bool,
    series: Series | None = None,
    positions: Mapping[str, Quantity] | None = None,
) -> ScanHeader:
    """The header with what verdict and names know and the files do not say.

    What the files say goes first. A partial scan always has a shortfall: where the reader finds nothing missing
    (the file was never closed, the acquisition was broken off at the last frame), the verdict's own sentence.
    """
    shortfall = header.shortfall
    if partial and shortfall is None:
        shortfall = Shortfall(
            reason="; ".join(verdict.missing) or verdict.reason, expected=header.expected_projections
        )
    return msgspec.structs.replace(
        header,
        shortfall=shortfall,
        series=header.series or series,
        positions=header.positions or dict(positions or {}),
    )


def sentence(shortfall: Shortfall) -> str:
    """`incomplete: 150 of 200 projections are there`."""
    return f"{KEYWORD}: {shortfall.reason}"


def ranges_text(gaps: Sequence[tuple[int, int]]) -> str:
    """`3, 7-9, 12`: all of them, for programs; people read `completion.gaps_text`."""
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in gaps)


def missing_projections(header: ScanHeader) -> int | None:
    """How many projections are not there; None where nothing says so."""
    shortfall = header.shortfall
    if shortfall is None:
        return None
    if shortfall.expected is not None:
        return max(0, shortfall.expected - header.n_projections)
    return sum(last - first + 1 for first, last in shortfall.gaps) or None
