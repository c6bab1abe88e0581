"""What the pixels themselves tell: frames that hold nothing, and counters that show frames to be lost."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from srctd.formats import pco
from srctd.formats.chunks import Storage
from srctd.formats.frametable import DARK, FLAT, PROJECTION, Mask, Numbers, Runs, Stack, Table, neighbors

_SLAB_BYTES = 64 << 20


def is_blank(stack: Stack, frame: int, kind: int, *, quick: bool = False) -> bool:
    """Whether every pixel of a frame, or (`quick`) of three of its rows, has the same value.

    A projection is blank whatever the value: a sample is never that even. A flat or a dark field is blank only
    where it holds the data set's fill value.

    One row is read first, so a frame that holds anything costs one row.
    """
    data = stack.data
    row = data[frame, data.shape[1] // 2]
    if not _constant(row):
        return False
    value = row.flat[0]
    if kind != PROJECTION and not np.array_equal(value, data.fillvalue):
        return False
    pieces = _three_rows(stack, frame) if quick else _slabs(stack, frame)
    return all(_constant(piece) and np.array_equal(piece.flat[0], value, equal_nan=True) for piece in pieces)


def _three_rows(stack: Stack, frame: int) -> Iterator[NDArray[np.generic]]:
    rows = stack.data.shape[1]
    for row in sorted({rows // 4, rows // 2, rows * 3 // 4}):
        yield stack.data[frame, row]


def _slabs(stack: Stack, frame: int) -> Iterator[NDArray[np.generic]]:
    """A frame in pieces of bounded size; one piece where a compressed chunk has to be decoded as a whole anyway."""
    data = stack.data
    rows = int(data.shape[1])
    line = int(data.shape[2]) * data.dtype.itemsize
    step = rows if data.chunks else max(1, _SLAB_BYTES // max(line, 1))
    for first in range(0, rows, max(step, 1)):
        yield data[frame, first : first + step]


def _constant(values: NDArray[np.generic]) -> bool:
    return bool(np.all(values == values.flat[0]) or np.all(values != values))


def may_be_blank(table: Table, stores: list[Storage]) -> Mask:
    """Frames whose storage does not prove that something was written.

    Dark fields with a chunk of their own are taken as written: a photon counter's hold nothing but zeros.
    """
    suspicious = np.zeros(len(table.kind), bool)
    for i, store in enumerate(stores):
        mine = table.stack == i
        suspicious[mine] = store.suspicious
        if table.stacks[i].data.chunks is not None:
            suspicious[mine & (table.kind == DARK)] = False
    return suspicious


def first_middle_last(rows: Numbers) -> list[int]:
    """Three rows of a list, or as many as there are."""
    return sorted({int(rows[i]) for i in (0, len(rows) // 2, -1)}) if len(rows) else []


def sampled_blank(table: Table, there: Mask, suspicious: Mask) -> list[int]:
    """Those of the first, middle and last frame of each kind that are blank, as rows of the table."""
    picked = [row for kind in (PROJECTION, FLAT, DARK) for row in first_middle_last(table.rows(kind, there))]
    return [row for row in picked if suspicious[row] and _blank_row(table, row)]


def all_blank(table: Table, there: Mask, suspicious: Mask) -> Mask:
    """Every frame that is blank, by three of its rows: half of a large scan may be, and is not read as a whole."""
    blank = np.zeros(len(table.kind), bool)
    for row in np.flatnonzero(there & suspicious & (table.kind <= DARK)):
        blank[row] = _blank_row(table, int(row), quick=True)
    return blank


def _blank_row(table: Table, row: int, quick: bool = False) -> bool:
    stack = table.stacks[table.stack[row]]
    return is_blank(stack, int(table.frame[row]), int(table.kind[row]), quick=quick)


def counted(table: Table, projections: Numbers) -> tuple[Runs, tuple[str, ...]]:
    """Projections that the camera's own counter proves to be dropped, and what was found good.

    A run is (first, last) in the counter's own numbers. Counters are compared within a run of neighbors in one data
    set, because between two such runs the camera may have been started again.
    """
    runs: list[tuple[int, int]] = []
    checks: list[str] = []
    for rows in neighbors(table, projections):

        def read(i: int, rows: Numbers = rows) -> int | None:
            stack = table.stacks[table.stack[rows[i]]]
            return pco.counter(stack.data[int(table.frame[rows[i]]), 0, : pco.STAMP_PIXELS])

        if read(0) is None:  # the camera writes no counters, or not any more
            break
        jumps = pco.dropped(read, len(rows))
        if jumps is None:
            continue
        if not jumps:
            checks.append(f"PCO counters {read(0)} to {read(len(rows) - 1)} without a gap")
        for position, lost in jumps:
            before = read(position) or 0
            runs.append((before + 1, before + lost))
    return tuple(runs), tuple(checks)
