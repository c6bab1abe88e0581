"""What each step found: kept in the journal, read by later steps and by those who ask."""

import msgspec

from srctd.core.messages import PreviewResult, RowsResult
from srctd.core.scan import Owner, ScanHeader, Volume


class Identified(msgspec.Struct, frozen=True, kw_only=True):
    """LOGIN: whose scan it is."""

    owner: Owner
    catalog_reachable: bool | None
    """None: no catalogue is configured."""


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """CHECK: what the header says, and that there is room."""

    header: ScanHeader
    in_place: bool
    bytes_needed: int
    """Of copy and volume."""
    bytes_to_copy: int = 0
    """Of the copy alone."""


class Synced(msgspec.Struct, frozen=True, kw_only=True):
    """SUBMIT: where the input lies, proven."""

    input: str
    """What is opened there."""
    in_place: bool
    """Whether that is the original, or another member's copy."""


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    """SUBMIT: the parameter file."""

    parameters: str
    recipe: str
    shards: tuple[tuple[int, int], ...]


class Previewed(msgspec.Struct, frozen=True, kw_only=True):
    """RUN: axis, pictures, quality."""

    preview: PreviewResult
    picture: str
    """Relative to the task folder."""
    seconds: dict[str, float]


class Reconstructed(msgspec.Struct, frozen=True, kw_only=True):
    """RUN: the volume."""

    volume: Volume
    minimum: float
    maximum: float
    mean: float
    shards: tuple[RowsResult, ...]
    finished_at: float
    """UTC timestamp."""
    seconds: dict[str, float]
    """Summed over the shards, by phase."""


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """DONE: the raw data set."""

    raw_pid: str
    posted: bool


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """DONE: the derived data set and the record."""

    derived_pid: str
    record: str
    posted: bool


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """DONE: a further host has the copy, or the results, proven."""

    target: str
    """`remote.target` of the configuration; empty: no further host was configured."""
    place: str = ""
    """The task folder there, relative to the target's folder."""
    sent_bytes: int = 0
    """What the last attempt had to send."""
