"""All frames of an HDF5 scan as one table, whatever data sets they lie in; what follows from it by counting."""

from collections.abc import Sequence
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from srctd.core.frames import Segment

PROJECTION, FLAT, DARK, UNUSED, UNKNOWN = range(5)
"""`UNUSED`: invalid or alignment; `UNKNOWN`: nothing says yet what the frame is."""

MOST_RUNS = 1000

Numbers = NDArray[np.int64]
Mask = NDArray[np.bool_]
Runs = tuple[tuple[int, int], ...]


class Stack(NamedTuple):
    """A data set of frames and how it is found again."""

    data: h5py.Dataset
    file: str
    """Absolute path."""
    place: str


class Table(NamedTuple):
    """One row per frame, in the order of acquisition within each kind; every array has the shape (frames,)."""

    stacks: tuple[Stack, ...]
    stack: Numbers
    """Which of `stacks`."""
    frame: Numbers
    """Position within it."""
    kind: Numbers
    angle: NDArray[np.float64]
    """As the file gives it, in the file's unit; not a number where it gives none."""
    number: Numbers
    """The scan's own number of the frame; -1 for frames that are in no numbered row."""
    projection: Numbers
    """Of a projection: its number from 0, those counted that are not there; else -1."""

    def rows(self, kind: int, there: Mask) -> Numbers:
        """Rows of one kind that are there."""
        return np.flatnonzero((self.kind == kind) & there)


class Columns(NamedTuple):
    """What is known of the frames of one stack: the columns of `Table` with the same names."""

    kind: Numbers
    angle: NDArray[np.float64]
    number: Numbers
    projection: Numbers


def references(kind: int, frames: int) -> Columns:
    """A stack that holds nothing but flats, or darks."""
    none = np.full(frames, -1, np.int64)
    return Columns(np.full(frames, kind, np.int64), np.full(frames, np.nan), none, none)


def projections(angle: NDArray[np.float64], number: Numbers) -> Columns:
    """A stack that holds nothing but projections."""
    return Columns(np.full(len(number), PROJECTION, np.int64), padded(angle, len(number)), number, number)


def padded(values: NDArray[np.float64], frames: int) -> NDArray[np.float64]:
    """Exactly one value per frame: cut, or followed by such as are not numbers."""
    filled = np.full(frames, np.nan)
    filled[: min(frames, len(values))] = values[:frames]
    return filled


def assembled(parts: Sequence[tuple[Stack, Columns]]) -> Table:
    """A table of several stacks, one after the other."""
    lengths = [len(columns.kind) for _, columns in parts]
    every = [references(UNUSED, 0), *(columns for _, columns in parts)]
    return Table(
        stacks=tuple(stack for stack, _ in parts),
        stack=np.repeat(np.arange(len(parts)), lengths),
        frame=np.concatenate([np.empty(0, np.int64), *map(np.arange, lengths)]),
        kind=np.concatenate([columns.kind for columns in every]),
        angle=np.concatenate([columns.angle for columns in every]),
        number=np.concatenate([columns.number for columns in every]),
        projection=np.concatenate([columns.projection for columns in every]),
    )


def holes(numbers: Numbers, end: int | None = None) -> Runs:
    """Runs (first, last) of what is missing in `numbers`, from 0 to the largest, or below `end`; at most 1,000."""
    there = np.unique(numbers[numbers >= 0])
    if end is not None:
        there = np.append(there[there < end], end)
    bounds = np.concatenate([[-1], there]).astype(np.int64)
    gaps = np.flatnonzero(np.diff(bounds) > 1)[:MOST_RUNS]
    return tuple((int(bounds[i]) + 1, int(bounds[i + 1]) - 1) for i in gaps)


def neighbors(table: Table, rows: Numbers) -> list[Numbers]:
    """The rows again, in runs of frames that lie side by side in one stack."""
    if len(rows) == 0:
        return []
    frame, stack = table.frame[rows], table.stack[rows]
    return np.split(rows, np.flatnonzero((np.diff(frame) != 1) | (np.diff(stack) != 0)) + 1)


def segments(table: Table, rows: Numbers) -> tuple[Segment, ...]:
    """Where some frames lie: frames side by side in one stack are one segment."""

    def segment(run: Numbers) -> Segment:
        stack = table.stacks[table.stack[run[0]]]
        first = int(table.frame[run[0]])
        return Segment(container="hdf5", file=stack.file, place=stack.place, first=first, count=len(run))

    return tuple(segment(run) for run in neighbors(table, rows))
