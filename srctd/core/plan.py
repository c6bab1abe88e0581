"""How a volume is divided into shards."""

ALIGNMENT = 8
"""Shards begin at multiples of this row count. Two neighboring slices share one complex transform, so pairs must
never be torn apart: the bytes of the volume are the same however it is divided."""


def shards(first: int, end: int, workers: int, per_worker: int = 2) -> tuple[tuple[int, int], ...]:
    """Row ranges (first, end) that cover `first` to `end`, about `per_worker` for each worker.

    More than one per worker evens out workers of different speed; boundaries are multiples of `ALIGNMENT`
    counted from `first`, so that pairs of slices stay together.
    """
    rows = end - first
    if rows <= 0:
        return ()
    wanted = max(1, workers) * per_worker
    height = -(-rows // wanted)
    height = -(-height // ALIGNMENT) * ALIGNMENT
    return tuple((start, min(start + height, end)) for start in range(first, end, height))
