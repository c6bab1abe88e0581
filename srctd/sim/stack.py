"""A folder with a file for every frame, or for every few of them: what the stack formats have in common."""

import os
from abc import ABC, abstractmethod

from srctd.sim.arrivals import Arrivals
from srctd.sim.detector import Frame
from srctd.sim.plan import Shot
from srctd.sim.spec import SimulationSpec
from srctd.sim.tiff import TiffPages, encode

FRAME_FILE_FEATURES = frozenset({"drop", "shuffle", "truncated", "preallocated", "renamed", "byte_order"})
"""What any format with a file to a frame can show."""
TIFF_FEATURES = FRAME_FILE_FEATURES | {"bigtiff"}


class FileStack(ABC):
    """A sink that writes a file for every frame."""

    def __init__(self, spec: SimulationSpec, path: str) -> None:
        self._spec, self._path = spec, path
        self._prefix = os.path.basename(path)
        self._arrivals = Arrivals(spec.faults)
        self._folders: set[str] = set()

    @abstractmethod
    def name(self, shot: Shot) -> str:
        """The file of a frame, relative to the scan's folder."""

    def encode(self, shot: Shot, frame: Frame) -> bytes:  # noqa: ARG002 (other formats have a header that depends on it)
        """The content of the file of a frame."""
        return encode(frame, self._spec.tiff.byte_order, self._spec.tiff.bigtiff)

    def begin(self) -> None:
        """Make the scan's folder."""
        os.makedirs(self._path, exist_ok=True)

    def frame(self, shot: Shot, frame: Frame) -> None:
        """Write a file."""
        self._arrivals.put(self._place(self.name(shot)), self.encode(shot, frame))

    def end(self) -> None:
        """Finish the files that did not arrive whole."""
        self._arrivals.settle()

    def annotate(self) -> None:
        """Most formats have nothing to add."""
        return

    def abort(self) -> None:
        """What did not arrive whole stays as it is."""
        return

    def _place(self, name: str) -> str:
        """The path of a file, whose folder is made when the first one comes."""
        path = os.path.join(self._path, name)
        folder = os.path.dirname(path)
        if folder not in self._folders:
            os.makedirs(folder, exist_ok=True)
            self._folders.add(folder)
        return path


class PagedStack(FileStack):
    """A stack of TIFF files that may hold several pages each, numbered by files then."""

    def __init__(self, spec: SimulationSpec, path: str) -> None:
        super().__init__(spec, path)
        self._open: dict[str, TiffPages] = {}

    def frame(self, shot: Shot, frame: Frame) -> None:
        """Write a file, or add a page to one."""
        options = self._spec.tiff
        if options.pages == 1:
            super().frame(shot, frame)
            return
        file_of = shot._replace(of_kind=shot.of_kind // options.pages, within=shot.within // options.pages)
        name = self.name(file_of)
        if name not in self._open:
            self._open[name] = TiffPages(self._place(name), options.byte_order, options.bigtiff)
        self._open[name].append(frame)
        if (shot.of_kind + 1) % options.pages == 0:
            self._open.pop(name).close()

    def end(self) -> None:
        """Close the files that are not full."""
        super().end()
        self._close()

    def abort(self) -> None:
        """Close the files that are not full."""
        super().abort()
        self._close()

    def _close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()
