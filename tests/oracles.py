"""What is computed, written as it is defined: slow, in double precision."""

import numpy as np


def back_projection(rows: np.ndarray, angles: np.ndarray, center: float, n: int) -> np.ndarray:
    """(n_rows, n_angles, length) to (n_rows, n, n), by numpy's interpolation."""
    length = rows.shape[2]
    x = np.arange(n) - (n - 1) / 2
    total = np.zeros((len(rows), n, n))
    for j, angle in enumerate(angles):
        t = x[None] * np.cos(angle) + x[:, None] * np.sin(angle) + center
        for row, image in zip(rows, total, strict=True):
            image += np.interp(t, np.arange(length), row[j], period=length)
    return total
