"""Finding the pieces of a scan inside an HDF5 file; each may lie at one of several paths, or be missing."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import h5py
import numpy as np

from srctd.core.errors import HoldError, ScanUnreadable
from srctd.core.scan import Quantity
from srctd.formats.frametable import Stack
from srctd.formats.hdf5 import ExternalMissing, Source, readable_whole, text, unit
from srctd.formats.units import Dimension


class Announced(NamedTuple):
    """A number that the file says of what is to come, and where."""

    frames: int
    origin: str


class Pieces:
    """What was found in a file so far, what was looked for in vain, and what is to be said of it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.missing: list[ScanUnreadable] = []
        self.notes: list[str] = []
        self.references: dict[str, None] = {}
        """Absolute paths of further files that hold part of the data."""
        self.places: dict[h5py.Dataset, str] = {}
        """Paths of the data sets that were found."""

    def find(self, what: str, candidates: Iterable[str]) -> h5py.Dataset | None:
        """The first data set among some paths; if there is none, note in `missing` what was looked for."""
        paths = list(candidates)
        lost: ExternalMissing | None = None
        for path in paths:
            try:
                dataset = self.source.dataset(path)
                if dataset is not None:
                    self.references.update(dict.fromkeys(self.source.references(dataset)))
                    self.places[dataset] = path
                    return dataset
            except ExternalMissing as exc:
                lost = lost or exc
        if lost is not None:
            self.references[lost.target] = None
            self.missing.append(lost)
        else:
            self.missing.append(
                ScanUnreadable(
                    f"{self.source.path} has no {what} ({paths[0]})",
                    hint="it may still be written; it is never assumed",
                )
            )
        return None

    def stack(self, dataset: h5py.Dataset) -> Stack:
        """A data set of the main file."""
        return Stack(dataset, self.source.path, self.places[dataset])

    def first_text(self, candidates: Iterable[str]) -> str:
        """The first string among some paths that is not empty."""
        return next((word for word in map(self.text_at, candidates) if word), "")

    def text_at(self, path: str) -> str:
        """The string at a path; empty where there is none."""
        return text(self.optional(path))

    def quantity(
        self,
        name: str,
        candidates: Iterable[str],
        dimension: Dimension,
        default_unit: str = "",
        *,
        signed: bool = False,
    ) -> Quantity | None:
        """The first value among some paths that is a positive number (`signed`: any number) with a known unit.

        A value that cannot be used is named in the notes. `default_unit` holds where the file gives none and the
        format's own definition says which one is meant; else a value without a unit is not used.
        """
        for path in candidates:
            node = self.optional(path)
            if node is None:
                continue
            value, given = _number(node), unit(node) or default_unit
            scale = dimension.factor(given)
            if value is None or not math.isfinite(value) or (value <= 0 and not signed):
                wanted = "a number" if signed else "a positive number"
                self.notes.append(f"{name} at {path} is not {wanted} and is not used")
            elif scale is None:
                self.notes.append(f"{name} at {path} has {_unit_words(given)} and is not used")
            else:
                return Quantity(value=value * scale, unit=dimension.unit, origin=path)
        return None

    def integer(self, candidates: Iterable[str]) -> Announced | None:
        """The first non-negative whole number among some paths, and its path."""
        for path in candidates:
            node = self.optional(path)
            value = None if node is None else _number(node)
            if value is not None and math.isfinite(value) and value >= 0:
                return Announced(round(value), path)
        return None

    def number(self, candidates: Iterable[str]) -> float | None:
        """The first finite number among some paths."""
        values = (_number(node) for path in candidates if (node := self.optional(path)) is not None)
        return next((value for value in values if value is not None and math.isfinite(value)), None)

    def optional(self, path: str) -> h5py.Dataset | None:
        """A data set that need not be there: one behind a link that leads nowhere counts as absent."""
        try:
            return self.source.dataset(path)
        except HoldError:
            return None


def _number(node: h5py.Dataset) -> float | None:
    """A number, however it was written; of a list the median of those that are numbers."""
    if node.dtype.kind not in "uif":
        try:
            return float(text(node))
        except ValueError:
            return None
    if not readable_whole(node):
        return None
    values = np.asarray(node[()], dtype=np.float64).ravel()
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else None


def _unit_words(given: str) -> str:
    return f"the unknown unit {given!r}" if given else "no unit"
