"""Sources that are being removed: what is left of one meanwhile is no new scan."""

import os
from collections.abc import Iterable
from typing import NamedTuple

from srctd.core.scan import Manifest


class _Leaving(NamedTuple):
    files: frozenset[str]
    folders: frozenset[str]


class Departures:
    """The files that retention has begun to remove, until the listings know that they are gone."""

    def __init__(self) -> None:
        self._leaving: dict[str, _Leaving] = {}
        self._over: set[str] = set()

    def begin(self, scan: str, manifest: Manifest) -> None:
        """From now on files of a manifest may be missing."""
        files = frozenset(f"{manifest.folder}/{file.path}" for file in manifest.files)
        self._leaving[scan] = _Leaving(files, frozenset(map(os.path.dirname, files)))
        self._over.discard(scan)

    def end(self, scan: str) -> None:
        """All that was to be removed is; a listing may still be of before."""
        self._over.add(scan)

    def over(self) -> frozenset[str]:
        """Scans whose removal has ended."""
        return frozenset(self._over)

    def forget(self, scans: Iterable[str]) -> None:
        """The listings were made anew since the removals of these scans ended."""
        for scan in scans:
            self._leaving.pop(scan, None)
            self._over.discard(scan)

    def folders(self, scans: Iterable[str]) -> frozenset[str]:
        """The folders in which the files of some scans lay."""
        return frozenset[str]().union(*(self._leaving[scan].folders for scan in scans))

    def touch(self, folders: Iterable[str]) -> bool:
        """Whether files may leave from one of some folders."""
        asked = frozenset(folders)
        return any(not leaving.folders.isdisjoint(asked) for leaving in self._leaving.values())

    def concern(self, files: Iterable[str]) -> bool:
        """Whether one of some files is about to leave."""
        asked = frozenset(files)
        return any(not leaving.files.isdisjoint(asked) for leaving in self._leaving.values())
