"""Small valid objects for tests."""

from srctd.core.lifecycle import Scan
from srctd.core.scan import FileEntry, Manifest, ScanHeader, SourceFiles


def a_manifest(folder: str = "/data/detector", name: str = "tooth.h5", size: int = 10) -> Manifest:
    return Manifest(folder=folder, files=(FileEntry(path=name, size=size, mtime_ns=1),), opened=name)


def a_source(folder: str = "/data/detector", name: str = "tooth.h5", size: int = 10) -> SourceFiles:
    return SourceFiles(folder=folder, opened=name, files=1, bytes=size, fingerprint=f"{folder}/{name}:{size}")


def a_scan(**changes: object) -> Scan:
    values = {
        "id": "s",
        "path": "/data/detector/tooth.h5",
        "root": "/data/detector",
        "revision": 1,
        "task": "tooth_20261122T120000Z",
        "source": a_source(),
        "completed_at": 1_800_000_000.0,
    }
    return Scan(**{**values, **changes})


def a_header(**changes: object) -> ScanHeader:
    values = {
        "format": "nxtomo",
        "entry": "/entry",
        "n_projections": 180,
        "n_flats": 10,
        "n_darks": 10,
        "n_rows": 16,
        "n_columns": 64,
        "dtype": "uint16",
        "angle_first_deg": 0.0,
        "angle_last_deg": 179.0,
    }
    return ScanHeader(**{**values, **changes})
