"""Canonical names for what logs and parameter files say of a scan, with type and unit.

Tables of tags (`etc/tags/*.toml`) map the names of other programs to these. Values of names that no table knows are
kept verbatim as `unmapped`, never dropped.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec


class Canonical(NamedTuple):
    """What one canonical name stands for."""

    kind: Literal["number", "count", "text", "flag", "numbers"]
    unit: str
    """Inside; of numbers only. Values are converted to it."""
    doc: str


class TagValue(msgspec.Struct, frozen=True, kw_only=True):
    """One value, converted."""

    value: float | int | bool | str | tuple[float, ...]
    unit: str = ""
    origin: str
    """File and tag: `scan.log: Scan Settings/Angular step`."""


class Tagged(msgspec.Struct, frozen=True, kw_only=True):
    """What one log or parameter file says."""

    path: str
    table: str
    """Name of the table of tags by which it was read."""
    values: dict[str, TagValue] = {}
    """By canonical name."""
    unmapped: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    """Values that could not be used and why, one sentence each (an unknown unit, no number, two that
    contradict)."""
    end_line: str = ""
    """The line that says that the acquisition ended, where there is one and it is there."""
    ends: bool = False
    """Whether files of this kind end with such a line, so that it is missing while the scan runs."""

    def number(self, name: str) -> float | None:
        """A numeric value; None if it is not there."""
        found = self.values.get(name)
        if found is None or isinstance(found.value, str | tuple):
            return None
        return float(found.value)


CANONICAL: Mapping[str, Canonical] = {
    # frames
    "n_projections": Canonical("count", "", "projections to be taken"),
    "n_flats": Canonical("count", "", "flat fields before the projections"),
    "n_flats_after": Canonical("count", "", "flat fields after them"),
    "n_darks": Canonical("count", "", "dark fields before the projections"),
    "n_darks_after": Canonical("count", "", "dark fields after them"),
    "flats_every": Canonical("count", "", "projections between two sets of flat fields"),
    "n_flats_between": Canonical("count", "", "flat fields in a set taken between projections"),
    "file_prefix": Canonical("text", "", "what the frames' file names begin with"),
    "first_index": Canonical("count", "", "number of the first frame in its file name"),
    "flat_fielded": Canonical("flag", "", "the frames were divided by the flat field already"),
    "white_level": Canonical("number", "", "counts of air in frames that were divided by the flat field"),
    "reconstructed": Canonical("flag", "", "the files are slices, not projections"),
    # angles
    "angle_start": Canonical("number", "deg", "of the first projection"),
    "angle_end": Canonical("number", "deg", "where the rotation ended"),
    "angle_step": Canonical("number", "deg", "from projection to projection"),
    "angle_range": Canonical("number", "deg", "whole rotation; n_projections steps of range / n_projections"),
    "angles": Canonical("numbers", "deg", "of every frame or every projection"),
    "angle_end_included": Canonical("flag", "", "the last projection is taken at angle_end itself"),
    # raw files
    "n_rows": Canonical("count", "", "detector rows"),
    "n_columns": Canonical("count", "", "detector columns"),
    "dtype": Canonical("text", "", "of a pixel: uint8, uint16, float32..."),
    "bits": Canonical("count", "", "of a pixel, where the type is not named"),
    "byte_order": Canonical("text", "", "little or big"),
    "header_bytes": Canonical("count", "", "before the first frame"),
    # physics
    "pixel_size": Canonical("number", "m", "at the sample"),
    "camera_pixel_size": Canonical("number", "m", "at the camera, unbinned"),
    "magnification": Canonical("number", "", "of the objective"),
    "binning": Canonical("count", "", "camera pixels in one pixel, per side"),
    "energy": Canonical("number", "keV", "of the photons"),
    "distance": Canonical("number", "m", "sample to detector"),
    "source_distance": Canonical("number", "m", "source to sample, where the beam diverges"),
    "exposure_time": Canonical("number", "s", "of a frame"),
    "ring_current": Canonical("number", "mA", "of the storage ring"),
    "position_x": Canonical("number", "m", "of the sample, across the beam"),
    "position_y": Canonical("number", "m", "of the sample, along the beam"),
    "position_z": Canonical("number", "m", "of the sample, along the rotation axis"),
    # words
    "sample": Canonical("text", "", "its name"),
    "title": Canonical("text", "", "of the experiment"),
    "proposal": Canonical("text", "", "its number"),
    "experimenter": Canonical("text", "", "who did it"),
    "email": Canonical("text", "", "of the experimenter"),
    "instrument": Canonical("text", "", "beamline or scanner"),
    "start_time": Canonical("text", "", "of the acquisition, as written"),
    "end_time": Canonical("text", "", "of the acquisition, as written"),
    "series_member": Canonical("count", "", "number of this scan within its series, from 0"),
    "series_members": Canonical("count", "", "scans in the series"),
}
