"""How files come to be: whole, cut short at first, in full size but half empty, or under a temporary name."""

import os
from collections import deque
from pathlib import Path
from typing import NamedTuple

from srctd.sim.spec import Faults

TEMPORARY_SUFFIX = ".part"


class _Unfinished(NamedTuple):
    path: str
    data: bytes


class Arrivals:
    """Writes files as the faults want it; holds the content of those that are not finished."""

    def __init__(self, faults: Faults) -> None:
        self._arrival, self._lag = faults.arrival, faults.finish_after
        self._unfinished: deque[_Unfinished] = deque()

    def put(self, path: str, data: bytes) -> None:
        """A further file; finishes those whose time has come."""
        if self._arrival == "whole":
            Path(path).write_bytes(data)
            return
        self._start(path, data)
        self._unfinished.append(_Unfinished(path, data))
        while len(self._unfinished) > self._lag:
            self._finish(self._unfinished.popleft())

    def settle(self) -> None:
        """Finish all files."""
        while self._unfinished:
            self._finish(self._unfinished.popleft())

    def _start(self, path: str, data: bytes) -> None:
        if self._arrival == "renamed":
            Path(path + TEMPORARY_SUFFIX).write_bytes(data)
            return
        with open(path, "wb") as file:
            file.write(data[: len(data) // 2])
            if self._arrival == "preallocated":
                file.truncate(len(data))

    def _finish(self, unfinished: _Unfinished) -> None:
        path, data = unfinished
        if self._arrival == "renamed":
            os.replace(path + TEMPORARY_SUFFIX, path)
            return
        with open(path, "r+b") as file:
            file.seek(len(data) // 2)
            file.write(data[len(data) // 2 :])
