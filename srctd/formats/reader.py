"""The one door to every format: `open_scan` for reading, `probe` for judging completeness."""

from types import TracebackType
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from srctd.core.completion import Probe
from srctd.core.scan import ScanHeader

Kind = Literal["projections", "flats", "darks"]


class ScanReader(Protocol):
    """An open scan. Errors of the file system or the container arrive as `ScanUnreadable`."""

    header: ScanHeader

    def angles(self) -> NDArray[np.float64]:
        """Rotation angle of every projection, radian, shape (n_projections,)."""

    def read(self, kind: Kind, rows: slice, frames: slice = slice(None)) -> NDArray[np.generic]:
        """Detector rows of one kind of frame, shape (n_frames, n_rows, n_columns), in the file's dtype."""

    def __enter__(self) -> Self:
        """Return the reader itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""


def open_scan(path: str, entry: str = "") -> ScanReader:
    """Open a scan for reading, without locking it.

    `entry` names the group inside an HDF5 file; empty: found. Raises `ScanUnreadable` with one sentence naming
    the file, the value and what to do.
    """
    raise NotImplementedError


def probe(path: str) -> Probe:
    """Look at a scan that may still be written; never raises for what the file's content may be."""
    raise NotImplementedError
