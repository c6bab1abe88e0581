"""The one door to every format: `open_scan` for reading, `probe` for judging, `index_scan` for what workers get."""

import os

import msgspec

from srctd.core.completion import Probe
from srctd.core.errors import ScanUnreadable, SrctdError
from srctd.core.frames import INDEX_NAME, FrameIndex
from srctd.formats.dataexchange import find_dataexchange
from srctd.formats.frames import FrameReader, read_index
from srctd.formats.hdf5 import Source, open_for_writing, translated
from srctd.formats.hdf5scan import Hdf5Scan
from srctd.formats.nxtomo import find_nexus, find_nxtomo, unfinished_entry
from srctd.formats.protocol import Kind, ReadOptions, ScanReader
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
    if os.path.basename(path) == INDEX_NAME:
        return FrameReader(read_index(path), os.path.dirname(path))
    index = index_scan(path, entry, options=options, incomplete=incomplete, member=member)
    return FrameReader(index, path if os.path.isdir(path) else os.path.dirname(path))


def index_scan(
    path: str, entry: str = "", *, options: ReadOptions = SHIPPED, incomplete: bool = False, member: int = 0
) -> FrameIndex:
    """Where every frame lies; raises as `open_scan` does."""
    stack = find_stack(path, options)
    if stack is not None:
        return stack.index(incomplete=incomplete, member=member)
    source = Source(path)
    try:
        scan = _find(source, entry)
        if scan is None:
            where = f"{source.path} holds no tomography" + (f" at {entry}" if entry else "")
            raise ScanUnreadable(
                f"{where}: {LOOKED_FOR}", hint="name the group that holds the scan, if there is one"
            )
        return scan.index(incomplete=incomplete, member=member)
    finally:
        source.close()


def probe(path: str, options: ReadOptions = SHIPPED) -> Probe:
    """Look at a scan that may still be written; never raises for what the file's content may be."""
    try:
        stack = find_stack(path, options)
        if stack is not None:
            return stack.look()
    except SrctdError as exc:
        return Probe(readable=False, problem=str(exc))
    writing = open_for_writing(path)
    try:
        source = Source(path)
    except SrctdError as exc:
        return Probe(readable=False, problem=str(exc), open_for_writing=writing)
    try:
        scan = _find(source, "")
        if scan is None:
            return _nothing_found(source, writing)
        with translated(source.path):
            return msgspec.structs.replace(scan.look(), open_for_writing=writing)
    except SrctdError as exc:
        return Probe(readable=False, problem=str(exc), open_for_writing=writing)
    finally:
        source.close()


def _find(source: Source, entry: str) -> Hdf5Scan | None:
    with translated(source.path):
        return find_nxtomo(source, entry) or find_dataexchange(source, entry) or find_nexus(source, entry)


def _nothing_found(source: Source, writing: bool | None) -> Probe:
    with translated(source.path):
        begun = unfinished_entry(source)
        if len(source.root) == 0:
            begun = "/"
    if begun or writing:
        missing = f"{source.path} has no frames yet ({begun or '/'} was begun and not ended)"
        return Probe(readable=True, missing=(missing,), open_for_writing=writing)
    problem = f"{source.path} holds no tomography: {LOOKED_FOR}"
    return Probe(readable=True, foreign=True, problem=problem, open_for_writing=writing)
