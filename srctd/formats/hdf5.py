"""HDF5 files as a detector leaves them: opened without a lock, followed through links, read with care.

Nothing here ever locks or writes a file. A reader that locks stops the acquisition: the detector's next open for
appending would fail.

Links to other files are followed by `Source` itself and not by HDF5, for three reasons: every file gets opened
without a lock, a file that is missing is named, and the daemon learns which further files belong to the scan.
"""

import glob
import math
import os
import posixpath
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

import h5py
import hdf5plugin  # noqa: F401  (registers the compression filters that detectors write)
import numpy as np
from numpy.typing import NDArray

from srctd.core.errors import NotPermitted, ScanUnreadable, SrctdError
from srctd.formats.files import opened
from srctd.formats.reach import out_of_reach

Node: TypeAlias = h5py.Group | h5py.Dataset

LIBRARY_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError)
"""What h5py raises for a file that is damaged or is being written at this moment."""

LONGEST_LIST = 10_000_000
_LARGEST_LIST_BYTES = 128 << 20
"""Values; more is taken for a damaged header."""

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_WRITING = 1
_FOR_READERS = _WRITING | 4
"""HDF5's mode of one writer and many readers."""
_DEEPEST_LINK = 16


class ExternalMissing(ScanUnreadable):
    """A link leads into a file that is not there."""

    def __init__(self, message: str, target: str) -> None:
        super().__init__(message, hint="bring the file to this place, or restore the link")
        self.target = target


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn what h5py raises inside the block into one sentence about `path`."""
    try:
        yield
    except SrctdError:
        raise
    except LIBRARY_ERRORS as exc:
        raise _translate(path, exc) from exc


def _translate(path: str, exc: BaseException) -> SrctdError:
    away = out_of_reach(path, exc)
    if away is not None:
        return away
    text = str(exc).strip("'\"")
    reason = text[text.rfind("(") + 1 : -1] if text.endswith(")") and "(" in text else text
    if isinstance(exc, PermissionError):
        return NotPermitted(
            f"{path} may not be read by this user", hint="grant the service's group read access"
        )
    if isinstance(exc, FileNotFoundError):
        return ScanUnreadable(f"{path} does not exist", hint="check the path")
    if isinstance(exc, IsADirectoryError):
        return ScanUnreadable(
            f"{path} is a folder with no frames in it (TIFF, EDF) and no log of any",
            hint="name the file or the folder that holds the frames",
        )
    if "truncated file" in text:
        return ScanUnreadable(f"{path} is truncated: {reason}", hint="wait for the writer, or copy it again")
    if "already open for write" in text or "consistency flag" in text:
        return ScanUnreadable(
            f"{path} is marked as open for writing: {reason}",
            hint="wait for the writer; after a crash of the writer run h5clear -s on it",
        )
    return ScanUnreadable(
        f"{path} cannot be read: {reason}", hint="the file is damaged or still being written"
    )


def open_file(path: str, *, linked: bool = False) -> h5py.File:
    """Open for reading, without a lock; raises `ScanUnreadable`, `NotPermitted` or `StorageUnavailable`.

    The chunk cache is off: with it, HDF5 fetches every chunk whole, that is all rows of every frame for a few
    rows wanted. `linked`: an HDF5 link leads there, which has bounds of its own (`Source`), so that a symbolic link
    in the file's place is followed.
    """
    with translated(path), opened(os.path.realpath(path) if linked else path) as number:
        if os.fstat(number).st_size == 0:
            raise ScanUnreadable(f"{path} is empty", hint="wait for the writer")
        if not h5py.is_hdf5(path):
            raise ScanUnreadable(
                f"{path} is not an HDF5 file", hint="it is damaged, or of another format than its name says"
            )
        # A single writer with many readers marks the file, and the mark stays where such a writer has died.
        swmr = (_consistency(number) or 0) & _FOR_READERS == _FOR_READERS
        # HDF5 itself opens by name, not by a descriptor: links in the file count from the folder of that name.
        file = h5py.File(path, "r", locking=False, rdcc_nbytes=0, swmr=swmr)
        if not os.path.samestat(os.fstat(file.id.get_vfd_handle()), os.fstat(number)):
            file.close()
            raise ScanUnreadable(f"{path} was replaced while it was opened", hint="it is looked at again")
        return file


def open_for_writing(path: str) -> bool | None:
    """The superblock's consistency flag; None where the version of the format has none, or on error."""
    try:
        with opened(path) as number:
            flags = _consistency(number)
    except (OSError, ScanUnreadable):
        return None
    return None if flags is None else flags & _WRITING == _WRITING


def has_signature(path: str) -> bool:
    """Whether a file begins as HDF5 does; true already while its writer has it open and nobody can read it."""
    try:
        with opened(path) as number:
            return os.pread(number, len(_SIGNATURE), 0) == _SIGNATURE
    except (OSError, ScanUnreadable):
        return False


def _consistency(number: int) -> int | None:
    """Byte 11 of the superblock since version 2. Raises `OSError`."""
    head = os.pread(number, 12, 0)
    return head[11] if len(head) == 12 and head.startswith(_SIGNATURE) and head[8] >= 2 else None


class Mapped(NamedTuple):
    """Frames `first`... of a virtual data set are `frames` frames of another, from `inner` on."""

    data: h5py.Dataset
    first: int
    inner: int
    frames: int


class Source:
    """An HDF5 file and the files that its links lead to."""

    def __init__(self, path: str, linked_below: Sequence[str] = ("/",)) -> None:
        """`linked_below`: absolute folders in which files may lie that are linked to, besides the file's own."""
        self.path = posixpath.abspath(path)
        self._linked_below = linked_below
        self._contained: set[tuple[str, str]] = (
            set()
        )  # file and data set that a virtual one takes values from
        self._files = {self.path: open_file(self.path)}

    def beside(self, path: str) -> "Source":
        """Another file that belongs to this one by its name; raises as links to it do."""
        self._require_allowed(path, "a file beside it")
        return Source(path, self._linked_below)

    @property
    def root(self) -> h5py.Group:
        """Root group of the main file."""
        return self._files[self.path]["/"]

    def close(self) -> None:
        """Close every file."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def get(self, path: str) -> Node | None:
        """What lies at a path inside the main file; None where nothing does.

        Soft and external links are followed; raises `ExternalMissing` where one leads into a file that is not
        there.
        """
        return self._walk(self.root, posixpath.normpath(path), 0)

    def dataset(self, path: str) -> h5py.Dataset | None:
        """The data set at a path; None where there is none."""
        node = self.get(path)
        return node if isinstance(node, h5py.Dataset) else None

    def group(self, path: str) -> h5py.Group | None:
        """The group at a path; None where there is none."""
        node = self.get(path)
        return node if isinstance(node, h5py.Group) else None

    def references(self, dataset: h5py.Dataset) -> tuple[str, ...]:
        """Absolute paths of the files, other than the main one, in which a data set's values lie.

        Raises `ExternalMissing` for the first that is not there: HDF5 itself would hand out fill values.
        """
        found: dict[str, None] = {}
        self._collect(dataset, found, 0)
        return tuple(name for name in found if name != self.path)

    def mapped(self, dataset: h5py.Dataset) -> Iterator[Mapped]:
        """Which frames of a virtual data set are frames of which other; none for a mapping without bounds."""
        for source in dataset.virtual_sources():
            try:
                first, last = (int(bound[0]) for bound in source.vspace.get_select_bounds())
            except RuntimeError:  # an unlimited selection has no bounds
                continue
            part = source.src_space.get_select_type() == h5py.h5s.SEL_HYPERSLABS
            inner = int(source.src_space.get_select_bounds()[0][0]) if part else 0
            for target in _targets(dataset.file.filename, source.file_name)[:1]:
                piece = self._piece(dataset, target, source.dset_name, _frames_needed(source))
                yield Mapped(piece, first, inner, last - first + 1)

    def _walk(self, start: h5py.Group, path: str, depth: int) -> Node | None:
        if depth > _DEEPEST_LINK:
            raise ScanUnreadable(f"{self.path}: the links at {path} lead in a circle")
        node: Node = start.file["/"] if path.startswith("/") else start
        for name in path.split("/"):
            if name in ("", "."):
                continue
            if not isinstance(node, h5py.Group):
                return None
            link = node.get(name, getlink=True)
            if link is None:
                return None
            following = self._follow(node, name, link, depth)
            if following is None:
                return None
            node = following
        return node

    def _follow(self, group: h5py.Group, name: str, link: object, depth: int) -> Node | None:
        if isinstance(link, h5py.SoftLink):
            return self._walk(group, link.path, depth + 1)
        if isinstance(link, h5py.ExternalLink):
            target = _beside(group.file.filename, link.filename)
            self._require_allowed(target, posixpath.join(group.name, name))
            if not Path(target).exists():
                where = posixpath.join(group.name, name)
                raise ExternalMissing(f"{self.path}: {where} lies in {target}, which does not exist", target)
            return self._walk(self._open(target)["/"], "/" + link.path.lstrip("/"), depth + 1)
        node: Node = group[name]
        if isinstance(node, h5py.Dataset):
            self._require_contained(node)
        return node

    def _require_contained(self, dataset: h5py.Dataset) -> None:
        """Raise `ScanUnreadable` for values that HDF5 itself would fetch from where nothing may be read, or from
        what is no regular file.
        """
        for name, _, _ in dataset.external or ():
            raise ScanUnreadable(
                f"{self.path}: the values of {dataset.name} lie in {name}, which is no HDF5 file",
                hint="write them into an HDF5 file; others are not read",
            )
        if not dataset.is_virtual:
            return
        sources = {(source.file_name, source.dset_name) for source in dataset.virtual_sources()}
        for name, inner in sources:
            for target in _targets(dataset.file.filename, name):
                if (target, inner) in self._contained:
                    continue
                self._contained.add((target, inner))
                self._require_allowed(target, dataset.name)
                if Path(target).exists():
                    self._walk(self._open(target)["/"], "/" + inner.lstrip("/"), 1)

    def _require_allowed(self, target: str, where: str) -> None:
        """Raise `ScanUnreadable` for a file that neither lies beside the main one nor where files may lie.

        Links of the file system do not lead there either, for anyone may make one.
        """
        folders = (posixpath.dirname(self.path), *self._linked_below)
        real = os.path.realpath(target)
        if not any(f"{real}/".startswith(f"{os.path.realpath(folder).rstrip('/')}/") for folder in folders):
            raise ScanUnreadable(
                f"{self.path}: {where} leads to {target}, outside the folders in which this scan's files may lie",
                hint="watch a folder that holds both, or name the other one in linked_folders",
            )

    def _open(self, path: str) -> h5py.File:
        if path not in self._files:
            try:
                self._files[path] = open_file(path, linked=True)
            except ScanUnreadable as exc:
                raise ScanUnreadable(f"{self.path} leads to another file: {exc}", hint=exc.hint) from exc
        return self._files[path]

    def _collect(self, dataset: h5py.Dataset, found: dict[str, None], depth: int) -> None:
        found[posixpath.abspath(dataset.file.filename)] = None
        if not dataset.is_virtual or depth > _DEEPEST_LINK:
            return
        extents: dict[tuple[str, str], int] = {}
        for source in dataset.virtual_sources():
            frames = _frames_needed(source)
            key = (source.file_name, source.dset_name)
            extents[key] = max(extents.get(key, 0), frames)
        for (name, inner), frames in extents.items():
            for target in _targets(dataset.file.filename, name):
                self._collect(self._piece(dataset, target, inner, frames), found, depth + 1)

    def _piece(self, dataset: h5py.Dataset, target: str, inner: str, frames: int) -> h5py.Dataset:
        """The data set `inner` in `target` of which a virtual one takes `frames`; raises `ExternalMissing`."""
        self._require_allowed(target, dataset.name)
        if not Path(target).exists():
            raise ExternalMissing(
                f"{self.path}: {dataset.name} is assembled from {target}, which does not exist", target
            )
        piece = self._walk(self._open(target)["/"], "/" + inner.lstrip("/"), 1)
        there = length(piece) if isinstance(piece, h5py.Dataset) else 0
        if there < frames or not isinstance(piece, h5py.Dataset):
            raise ExternalMissing(
                f"{self.path}: {dataset.name} needs {frames} frames of {inner} in {target}, "
                f"where {there} are",
                target,
            )
        return piece


def _beside(container: str, name: str) -> str:
    """Absolute path of a file that a link in `container` names, by HDF5's own rules.

    Relative names count from the folder of the file that holds the link. An absolute path that is not there is
    looked for by its last part in that folder: so a scan that was moved as a whole stays readable.
    """
    folder = Path(posixpath.abspath(container)).parent
    if Path(name).is_absolute() and not Path(name).exists() and (folder / Path(name).name).exists():
        return str(folder / Path(name).name)
    return posixpath.normpath(str(folder / name))


def _targets(container: str, name: str) -> list[str]:
    """Files that one mapping of a virtual data set names: several if it counts them with `%b`."""
    if name == ".":
        return [posixpath.abspath(container)]
    if "%b" not in name:
        return [_beside(container, name.replace("%%", "%"))]
    pattern = glob.escape(_beside(container, name)).replace("%b", "*")
    return sorted(glob.glob(pattern)) or [_beside(container, name)]


def _frames_needed(mapping: h5py._hl.vds.VDSmap) -> int:
    """Frames that one mapping of a virtual data set takes from its source; 0 where it takes all there are."""
    try:
        if mapping.src_space.get_select_type() == h5py.h5s.SEL_HYPERSLABS:
            return int(mapping.src_space.get_select_bounds()[1][0]) + 1
        first, last = mapping.vspace.get_select_bounds()
    except RuntimeError:  # an unlimited selection has no bounds
        return 0
    return int(last[0]) - int(first[0]) + 1


def length(dataset: h5py.Dataset | None) -> int:
    """Length of the first axis; 0 for a data set without axes, or none."""
    return int(dataset.shape[0]) if dataset is not None and dataset.ndim else 0


def readable_whole(dataset: h5py.Dataset) -> bool:
    """Whether values, and the chunks that have to be decoded for them, are of a size that is read at once.

    A damaged header may claim a string of 2 GB, or a chunk of which ten values are used.
    """
    if dataset.size is None or dataset.size > LONGEST_LIST:
        return False
    largest = max(int(dataset.size), math.prod(dataset.chunks or (1,)))
    return bool(largest * dataset.dtype.itemsize <= _LARGEST_LIST_BYTES)


def numbers(dataset: h5py.Dataset | None) -> NDArray[np.float64]:
    """A list of numbers; empty for anything else, and for one that claims an absurd length."""
    if dataset is None or dataset.ndim != 1 or dataset.dtype.kind not in "uif" or not readable_whole(dataset):
        return np.empty(0)
    return np.asarray(dataset[()], np.float64)


def text(node: Node | None) -> str:
    """A string, however it was written: str or bytes, scalar or one element; empty for anything else."""
    if not isinstance(node, h5py.Dataset) or node.size != 1 or node.dtype.kind not in "SOU":
        return ""
    if not readable_whole(node):
        return ""
    return as_text(node[()])


def as_text(value: object) -> str:
    """The text of an attribute or of a string data set's value."""
    while not isinstance(value, str | bytes) and hasattr(value, "__len__") and len(value) == 1:
        value = value[0]  # type: ignore[index]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip("\0 \t\r\n")
    return value.strip() if isinstance(value, str) else ""


def unit(node: h5py.Dataset) -> str:
    """The unit that an attribute `units` or `unit` gives; empty if none does."""
    return as_text(node.attrs.get("units", "")) or as_text(node.attrs.get("unit", ""))
