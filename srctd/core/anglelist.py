"""Lists of angles in which the projections must be found: such a list may have a line for every frame of any
kind.
"""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from srctd.core.errors import ScanUnreadable


def projection_angles(where: str, values: Sequence[float], announced: int | None) -> tuple[float, ...]:
    """The values that belong to projections, in their order; raises `ScanUnreadable` where that cannot be told.

    `announced`: projections by the log, if it says so. As many values as that are taken as they are, and so is a
    list in which no value is repeated. In a longer one, the stage stands still while flat and dark fields are
    taken: values closer than a quarter of a step are one position, and the positions are the projections if they
    are evenly spaced and as many as announced. Of repeated values the last one is the projection's, at the end of
    the list the first.
    """
    if len(values) == announced:
        return tuple(values)
    positions = _positions(values)
    if len(positions) == len(values):
        if announced is not None:
            raise ScanUnreadable(
                f"{where} has {len(values)} angles, the log announces {announced} projections",
                hint="one of the two is wrong, or the list is still written",
            )
        return tuple(values)
    found = [run[-1] for run in positions[:-1]] + [positions[-1][0]]
    if not _even(found) or announced not in (None, len(found)):
        raise ScanUnreadable(
            f"{where} has {len(values)} angles at {len(found)} positions"
            + (f" for {announced} projections" if announced is not None else "")
            + ", and nothing tells which of them are those of projections",
            hint="give one angle for every projection",
        )
    return tuple(found)


def _positions(values: Sequence[float]) -> list[list[float]]:
    """Runs of neighbors that are closer than a quarter of a step."""
    steps = sorted(abs(after - before) for before, after in pairwise(values))
    if not steps:
        return [list(values)]
    large = steps[(len(steps) - 1) * 19 // 20]
    near = 0.25 * median([step for step in steps if step >= 0.1 * large])
    runs = [[values[0]]]
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
