"""What every format offers, while a scan is looked at and once it is open."""

from types import TracebackType
from typing import Literal, Protocol, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from srctd.core.completion import Probe
from srctd.core.frames import FrameIndex
from srctd.core.scan import ScanHeader

Kind = Literal["projections", "flats", "darks"]


class ReadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a site says of its files. The defaults are the shipped tables and nothing special."""

    tags_directory: str = ""
    """Folder of further tables of tags (`*.toml`), which replace shipped ones by name."""
    layouts_directory: str = ""
    """Folder of further layouts of stacks (`*.toml`), which replace shipped ones by name."""
    must_have: tuple[str, ...] = ()
    """Paths inside an HDF5 file, or names of files beside the frames (wildcards), without which no scan is
    complete."""
    marker_files: tuple[str, ...] = ()
    """Names of files (wildcards; `{name}` is the scan's own) that say that the acquisition ended."""
    end_line: str = ""
    """Regular expression; a line of the log that it is found in says that the acquisition ended."""
    linked_below: tuple[str, ...] = ("/",)
    """Absolute folders in which files lie that an HDF5 file may link to, besides those in its own folder."""
    links_into: str = ""
    """Folder in which the files lie that symbolic links among a stack's files may lead to; none: they are not
    followed."""


class FoundScan(Protocol):
    """A scan that was found at a path and may still be written."""

    def look(self) -> Probe:
        """What is there and what is missing; never raises for what the content may be."""

    def index(self, *, incomplete: bool = False, member: int = 0) -> FrameIndex:
        """All frames, ready for reading; raises `ScanUnreadable` for the first thing that is wrong.

        `incomplete`: take the frames that are there, with their true angles, and say in the header's `shortfall`
        what is missing; what cannot be made good (unknown angles, no flat fields) is refused all the same.
        `member`: which of the scans that the files hold.
        """

    def close(self) -> None:
        """Close every file."""


class ScanReader(Protocol):
    """An open scan. Errors of the file system or the container arrive as `ScanUnreadable`."""

    header: ScanHeader

    def angles(self) -> NDArray[np.float64]:
        """Rotation angle of every projection, radian, shape (n_projections,)."""

    def read(self, kind: Kind, rows: slice, frames: slice = slice(None)) -> NDArray[np.generic]:
        """Detector rows of one kind of frame, shape (n_frames, n_rows, n_columns), in native byte order."""

    def __enter__(self) -> Self:
        """Return the reader itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files."""
