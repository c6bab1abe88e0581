"""The one door to every format: `open_scan` for reading, `probe` for judging, `index_scan` for what workers get."""

import os

import msgspec

from srctd.core.completion import EndMark, Probe
from srctd.core.errors import ScanUnreadable, SrctdError, TransientError
from srctd.core.frames import FrameIndex, is_index
from srctd.formats.dataexchange import find_dataexchange
from srctd.formats.entries import Entries
from srctd.formats.files import links_followed
from srctd.formats.frames import FrameReader, read_index
from srctd.formats.hdf5 import Source, open_for_writing, translated
from srctd.formats.hdf5layouts import find_layout, reference_of
from srctd.formats.nxtomo import find_nexus, find_nxtomo, unfinished_entry
from srctd.formats.protocol import FoundScan, Kind, ReadOptions, ScanReader
from srctd.formats.rawfile import find_raw
from srctd.formats.stack import find_stack

__all__ = ["Kind", "ReadOptions", "ScanReader", "index_scan", "open_scan", "probe"]

LOOKED_FOR = "no NXtomo entry, no group /exchange, no detector with an image key"
SHIPPED = ReadOptions()


def open_scan(
    path: str, entry: str = "", *, options: ReadOptions = SHIPPED, incomplete: bool = False, member: int = 0
) -> ScanReader:
    """Open a scan for reading, without locking it: a file, the folder of a stack, or an index that was made of one.

    `entry` names the group inside an HDF5 file; empty: found. `incomplete` takes what is there. Raises
    `ScanUnreadable` with one sentence naming the file, the value and what to do; `NotPermitted` and
    `StorageUnavailable` where the file cannot be reached.
    """
    if is_index(os.path.basename(path)):
        return FrameReader(read_index(path), os.path.dirname(path))
    index = index_scan(path, entry, options=options, incomplete=incomplete, member=member)
    return FrameReader(index, path if os.path.isdir(path) else os.path.dirname(path))


def index_scan(
    path: str, entry: str = "", *, options: ReadOptions = SHIPPED, incomplete: bool = False, member: int = 0
) -> FrameIndex:
    """Where every frame lies; raises as `open_scan` does."""
    with links_followed(options.links_into):
        return _indexed(path, entry, options, incomplete, member)


def _indexed(path: str, entry: str, options: ReadOptions, incomplete: bool, member: int) -> FrameIndex:
    stack = _find_frame_files(path, options)
    if stack is not None:
        return stack.index(incomplete=incomplete, member=member)
    source = Source(path, options.linked_below)
    try:
        scan = _find(source, entry, options)
        if scan is None:
            raise ScanUnreadable(
                _no_tomography(source, entry), hint="name the group that holds the scan, if there is one"
            )
        return scan.index(incomplete=incomplete, member=member)
    finally:
        source.close()


def probe(path: str, options: ReadOptions = SHIPPED) -> Probe:
    """Look at a scan that may still be written; never raises for what the file's content may be."""
    with links_followed(options.links_into):
        return _probed(path, options)


def _probed(path: str, options: ReadOptions) -> Probe:
    try:
        stack = _find_frame_files(path, options)
        if stack is not None:
            return stack.look()
    except SrctdError as exc:
        return _unreadable(exc)
    writing = open_for_writing(path)
    try:
        source = Source(path, options.linked_below)
    except SrctdError as exc:
        return _unreadable(exc, writing)
    try:
        scan = _find(source, "", options)
        if scan is None:
            return _nothing_found(source, writing)
        with translated(source.path):
            return _with_superblock(scan.look(), writing)
    except SrctdError as exc:
        return _unreadable(exc, writing)
    finally:
        source.close()


def _unreadable(exc: SrctdError, writing: bool | None = None) -> Probe:
    away = isinstance(exc, TransientError)
    return Probe(readable=False, problem=str(exc), unreachable=away, open_for_writing=writing)


def _find_frame_files(path: str, options: ReadOptions) -> FoundScan | None:
    return find_raw(path, options) or find_stack(path, options)


def _find(source: Source, entry: str, options: ReadOptions) -> FoundScan | None:
    with translated(source.path):
        for find in (find_nxtomo, find_dataexchange, find_nexus, find_layout):
            scans = find(source, entry, options)
            if scans:
                return scans[0] if len(scans) == 1 else Entries(scans)
    return None


def _with_superblock(seen: Probe, writing: bool | None) -> Probe:
    """A probe with what the first bytes of the file say of its writer."""
    closed = EndMark(kind="superblock", text="the HDF5 superblock says that the file was closed")
    marks = (*seen.end_marks, closed) if writing is False else seen.end_marks
    return msgspec.structs.replace(seen, end_marks=marks, open_for_writing=writing)


def _no_tomography(source: Source, entry: str = "") -> str:
    known = "" if entry else reference_of(source)
    return known or f"{source.path} holds no tomography{f' at {entry}' if entry else ''}: {LOOKED_FOR}"


def _nothing_found(source: Source, writing: bool | None) -> Probe:
    with translated(source.path):
        begun = unfinished_entry(source)
        if len(source.root) == 0:
            begun = "/"
        problem = _no_tomography(source)
    if begun or writing:
        missing = f"{source.path} has no frames yet ({begun or '/'} was begun and not ended)"
        return Probe(readable=True, missing=(missing,), open_for_writing=writing)
    return Probe(readable=True, foreign=True, problem=problem, open_for_writing=writing)
