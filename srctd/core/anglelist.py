"""Lists of angles in which the projections must be found: there may be a line for every frame of any kind."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from srctd.core.errors import ScanUnreadable

_STILL, _SAME = 0.25, 1e-3
"""Shares of a step within which the stage stands still, and within which it surely does."""


def projection_angles(where: str, values: Sequence[float], announced: int | None) -> tuple[float, ...]:
    """The values that belong to projections, in their order; raises `ScanUnreadable` where that cannot be told.

    `announced`: projections by the log, if it says so; as many values as that are taken as they are. In a longer
    list the stage stands still while flat and dark fields are taken: values closer than a quarter of a step are one
    position, and the positions are the projections if they are evenly spaced and as many as announced. Of repeated
    values the last one is the projection's, at the end of the list the first. Where nothing is announced, an uneven
    list in which no value is repeated is taken as it is.
    """
    if values and len(values) == announced:
        return tuple(values)
    step = _step(values)
    positions = _positions(values, _STILL * step)
    found = [run[-1] for run in positions[:-1]] + [run[0] for run in positions[-1:]]
    if _even(found) and announced in (None, len(found)):
        return tuple(found)
    if values and announced is None and len(_positions(values, _SAME * step)) == len(values):
        return tuple(values)
    announcement = f" for {announced} projections" if announced is not None else ""
    raise ScanUnreadable(
        f"{where} has {len(values)} angles at {len(found)} positions{announcement}, and nothing tells which of "
        "them are those of projections",
        hint="give one angle for every projection; a list that is still written grows",
    )


def _step(values: Sequence[float]) -> float:
    """The usual step of a list in which the stage may stand still most of the time."""
    steps = sorted(abs(after - before) for before, after in pairwise(values))
    if not steps:
        return 0.0
    large = steps[(len(steps) - 1) * 19 // 20]
    return median([step for step in steps if step >= 0.1 * large])


def _positions(values: Sequence[float], near: float) -> list[list[float]]:
    """Runs of neighbors that are no further apart than `near`."""
    runs = [[value] for value in values[:1]]
    for before, after in pairwise(values):
        if abs(after - before) > near:
            runs.append([])
        runs[-1].append(after)
    return runs


def _even(values: Sequence[float]) -> bool:
    steps = [after - before for before, after in pairwise(values)]
    if not steps:
        return False
    middle = median(steps)
    return all(0.5 < step / middle < 1.5 for step in steps) if middle else False
