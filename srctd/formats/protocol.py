"""What every format offers once a scan is open."""

from types import TracebackType
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

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
