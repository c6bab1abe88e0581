"""The one door to every format: `open_scan` for reading, `probe` for judging completeness."""

import numpy as np

from srctd.core.completion import Probe
from srctd.core.errors import ScanUnreadable, SrctdError
from srctd.formats.dataexchange import find_dataexchange
from srctd.formats.hdf5 import Source, open_for_writing, translated
from srctd.formats.hdf5scan import Hdf5Scan
from srctd.formats.nxtomo import find_nexus, find_nxtomo, unfinished_entry
from srctd.formats.protocol import Kind, ScanReader

__all__ = ["Kind", "ScanReader", "open_scan", "probe"]

LOOKED_FOR = "no NXtomo entry, no group /exchange, no detector with an image key"


def open_scan(path: str, entry: str = "") -> ScanReader:
    """Open a scan for reading, without locking it.

    `entry` names the group inside an HDF5 file; empty: found. Raises `ScanUnreadable` with one sentence naming
    the file, the value and what to do; `NotPermitted` and `StorageUnavailable` where the file cannot be reached.
    """
    source = Source(path)
    try:
        scan = _find(source, entry)
        if scan is None:
            where = f"{source.path} holds no tomography" + (f" at {entry}" if entry else "")
            raise ScanUnreadable(
                f"{where}: {LOOKED_FOR}", hint="name the group that holds the scan, if there is one"
            )
        return scan.check()
    except BaseException:
        source.close()
        raise


def probe(path: str) -> Probe:
    """Look at a scan that may still be written; never raises for what the file's content may be.

    Reads metadata, and up to three frames where everything else looks complete. What waiting cannot heal (a wrong
    rank, angles that are not numbers) is no obstacle to completeness: `open_scan` will name it.
    """
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
            return _look(scan, writing)
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


def _look(scan: Hdf5Scan, writing: bool | None) -> Probe:
    found, expected = scan.frames_found(), scan.frames_expected()
    missing = [str(problem) for problem in scan.missing] + scan.shortfalls()
    if not missing and found >= (expected or 0):
        missing = _blank_frames(scan)
    return Probe(
        readable=True,
        frames_found=found,
        frames_expected=expected,
        end_marker=scan.end_marker(),
        open_for_writing=writing,
        missing=tuple(missing),
        references=tuple(scan.references),
    )


def _blank_frames(scan: Hdf5Scan) -> list[str]:
    """First, middle and last projection, those of them that hold nothing but the fill value.

    A data set that got its size and its storage in advance reads like that where nothing was written yet.
    """
    stack, indices = scan.frames()["projections"]
    if stack.ndim != 3 or len(indices) == 0 or indices[-1] >= stack.shape[0]:
        return []
    picked = sorted({int(indices[i]) for i in (0, len(indices) // 2, -1)})
    blank = [i for i in picked if np.all(stack[i] == stack.fillvalue)]
    return [
        f"frame {i} of {scan.places[stack]} in {scan.source.path} holds nothing but {stack.fillvalue}"
        for i in blank
    ]
