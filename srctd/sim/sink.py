"""What every simulated format offers: somewhere for the frames of one scan to go."""

from collections.abc import Callable, Set
from typing import NamedTuple, Protocol

from srctd.sim.detector import Frame
from srctd.sim.plan import Shot
from srctd.sim.spec import SimulationSpec


class Sink(Protocol):
    """Writes one scan. The calls come in this order; `abort` in place of what is left."""

    def begin(self) -> None:
        """Make folders and files, and write what is known before the first frame."""

    def frame(self, shot: Shot, frame: Frame) -> None:
        """Write one frame, shape (rows, columns)."""

    def end(self) -> None:
        """The last frame is there: finish the files of frames."""

    def annotate(self) -> None:
        """Write what is known at the end only, or what says that the end was reached."""

    def abort(self) -> None:
        """Leave everything as it is, closed, and say so where the format has a way to."""


class Format(NamedTuple):
    """How a format is written and what of a specification it can show."""

    sink: Callable[[SimulationSpec, str], Sink]
    suffix: str
    """Of the file's name; empty: the scan is a folder."""
    features: Set[str]
    """Names of options (`FEATURES` of `srctd.sim.check`) beyond the defaults that it knows."""
    darks_last: bool = False
    """Whether the darks are taken after everything else."""
