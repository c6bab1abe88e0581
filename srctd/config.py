"""The configuration as typed sections, with all defaults. Every adapter is given its own section only."""

import os
import string
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from srctd.core import permissions
from srctd.core.completion import Rule, Usable
from srctd.core.errors import ConfigError
from srctd.core.lifecycle import Step
from srctd.core.scan import ReadBack
from srctd.core.space import Thresholds

if TYPE_CHECKING:
    from srctd.formats.protocol import ReadOptions


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the sections: unknown keys are refused."""


class DaemonSection(Section, frozen=True, kw_only=True):
    """The process itself."""

    state_directory: str = "/var/lib/srctd"
    """Journal, embedded catalogue, sockets. On a local disk."""
    stop_grace_seconds: float = 20.0
    """How long SIGTERM waits for steps that end by themselves."""
    copies_at_once: int = 2
    """Scans that are copied side by side from one disk."""
    step_timeout_seconds: dict[Step, float] = {}
    """Longest duration per step; the defaults are in `STEP_TIMEOUTS`."""


class WatchSection(Section, frozen=True, kw_only=True):
    """One watched root."""

    path: str
    patterns: tuple[str, ...] = (
        *("*.h5", "*.hdf5", "*.hdf", "*.nxs", "*.nx"),
        *("*.tif", "*.tiff", "*.edf", "*.raw"),
    )
    depth: int = 6
    """Folder levels below the root that are listed."""
    listing_seconds: float = 5.0
    """Listing interval. Where inotify works a change is noticed at once all the same."""
    rest_listing_seconds: float = 300.0
    """How often a folder in which nothing changes is listed in full."""
    settle_seconds: float = Rule().settle_seconds
    unmarked_settle_seconds: float = Rule().unmarked_settle_seconds
    unannounced_settle_seconds: float = Rule().unannounced_settle_seconds
    stalled_seconds: float = Rule().stalled_seconds
    end_evidence: tuple[str, ...] = Rule().end_evidence
    """Kinds of end marks that are believed."""
    expectation: tuple[str, ...] = Rule().expectation
    """Kinds of announcements of a number of frames that are believed."""
    require_end: bool = Rule().require_end
    """No scan is complete without an end mark."""
    must_have: tuple[str, ...] = ()
    """Data sets or files without which no scan is complete."""
    marker_files: tuple[str, ...] = ()
    """Files that say that the acquisition ended."""
    end_line: str = ""
    """Regular expression of the log's last line."""
    linked_folders: tuple[str, ...] = ()
    """Further folders in which files may lie that an HDF5 file below this root links to; they are read only."""
    usable_projections: int = Usable().projections
    """Fewest projections of an incomplete scan that is taken; 0: none is."""
    usable_hole_deg: float = Usable().hole_deg
    """Widest gap between angles of an incomplete scan that is taken."""
    copy_while_acquiring: bool = True
    """Copy, while the detector writes the rest, what does not change any more; else nothing before the verdict."""
    copy_megabytes_per_second: float = 0.0
    """Most that is read from this root for copies, 1e6 bytes per second; 0: no limit."""
    io_priority: Literal["normal", "low", "idle"] = "low"
    """Priority of the copies' reading and writing, for I/O schedulers that know of it."""
    disk_megabytes_per_second: float = 0.0
    """What the detector's disk gives; 0: the most that was seen of it."""
    yield_fraction: float = 0.5
    """While the detector writes more than this part of what its disk gives, copies get only what it leaves."""

    @property
    def rule(self) -> Rule:
        """The completion rule of this root."""
        return Rule(
            settle_seconds=self.settle_seconds,
            unmarked_settle_seconds=self.unmarked_settle_seconds,
            unannounced_settle_seconds=self.unannounced_settle_seconds,
            stalled_seconds=self.stalled_seconds,
            end_evidence=self.end_evidence,
            expectation=self.expectation,
            require_end=self.require_end,
            usable=Usable(projections=self.usable_projections, hole_deg=self.usable_hole_deg),
        )

    def read_options(self, formats: "FormatsSection") -> "ReadOptions":
        """How files of this root are read."""
        return msgspec.structs.replace(
            formats.read_options,
            must_have=self.must_have,
            marker_files=self.marker_files,
            end_line=self.end_line,
            linked_below=(self.path, *self.linked_folders),
        )


class FormatsSection(Section, frozen=True, kw_only=True):
    """Where the tables lie by which logs and stacks of files are understood."""

    tags_directory: str = ""
    """Of tables beside those shipped with srctd, which they replace by name."""
    layouts_directory: str = ""
    """Of layouts beside those shipped with srctd, which they replace by name."""

    @property
    def read_options(self) -> "ReadOptions":
        """How files are read of which no watched root says anything."""
        from srctd.formats.protocol import ReadOptions  # brings h5py: `srctd status` shall answer at once

        return ReadOptions(tags_directory=self.tags_directory, layouts_directory=self.layouts_directory)


class StorageSection(Section, frozen=True, kw_only=True):
    """Shared storage."""

    shared: str
    reserve_gigabytes: float = 1.0
    """Space that a copy or a volume must leave free."""
    read_back: ReadBack = ReadBack.SAMPLED
    """How much of a copy is read back from the storage and compared."""
    portable_names: bool = True
    """Names that some file systems cannot hold, or cannot tell apart, are replaced in the copy, and recorded."""

    @property
    def reserve_bytes(self) -> int:
        """The same in bytes."""
        return int(self.reserve_gigabytes * 1e9)


class RemoteSection(Section, frozen=True, kw_only=True):
    """A further host that gets copies and results, over ssh by rsync."""

    target: str = ""
    """`user@host:/absolute/folder`; empty: none."""
    port: int = 22
    identity_file: str = ""
    known_hosts_file: str = ""
    """Hosts that are not in it are refused; empty: that of the daemon's user."""

    @property
    def login(self) -> str:
        """`user@host`."""
        return self.target.partition(":/")[0]

    @property
    def folder(self) -> str:
        """Absolute."""
        return "/" + self.target.partition(":/")[2].rstrip("/")


OWNER_FIELDS = ("account", "owner", "owner_group")


def placeholders(text: str) -> list[str]:
    """What is to be filled in; raises `ValueError` for braces that are none."""
    return [field for _, field, _, _ in string.Formatter().parse(text) if field is not None]


class OwnershipSection(Section, frozen=True, kw_only=True):
    """To whom copies and results belong. `{account}`, `{owner}` and `{owner_group}` are filled in."""

    user: str = ""
    """Empty: the daemon's own."""
    group: str = ""
    """Empty: the daemon's own."""
    file_mode: str = "0640"
    folder_mode: str = "0750"
    default_acl: tuple[str, ...] = ()
    """Entries that folders get, and hand on to what is made in them: `group:beamline-staff:r-x`."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, whatever the scan is."""
        permissions.file_mode(self.file_mode)
        folders = permissions.folder_mode(self.folder_mode)
        entries = [permissions.entry(text) for text in self.default_acl]
        for text in (self.user, self.group, *(entry.name for entry in entries)):
            for field in placeholders(text):
                if field not in OWNER_FIELDS:
                    raise ValueError(f"{text!r}: there is no {field!r}; known: {', '.join(OWNER_FIELDS)}")
        if self.user and not self.group and not folders & 0o005:
            raise ValueError(
                f"user = {self.user!r} could not enter task folders, which stay with the daemon's "
                "user: name the group as well"
            )


class SpaceSection(Section, frozen=True, kw_only=True):
    """What is done as shared storage fills up, by gigabytes (1e9 bytes) that are free there; 0: never."""

    sixteen_bit_below_gigabytes: float = 0.0
    """Volumes are written as 16-bit integers."""
    previews_only_below_gigabytes: float = 0.0
    """Reconstructions wait, previews are made."""
    stop_below_gigabytes: float = 0.0
    """Nothing new is copied."""

    @property
    def thresholds(self) -> Thresholds:
        """The same in bytes."""
        return Thresholds(
            sixteen_bit=int(self.sixteen_bit_below_gigabytes * 1e9),
            previews_only=int(self.previews_only_below_gigabytes * 1e9),
            stop=int(self.stop_below_gigabytes * 1e9),
        )


class RetentionSection(Section, frozen=True, kw_only=True):
    """Removing sources that are safe elsewhere. Off by default: nothing is ever removed."""

    enabled: bool = False
    minimum_age_hours: float = 168.0
    """Since everything about the scan was done."""
    high_water_percent: float = 80.0
    """Removing begins when the detector's disk is fuller than this."""
    low_water_percent: float = 60.0
    """And ends when it is not fuller than this."""
    check_minutes: float = 10.0
    proof: Literal["digests", "sizes"] = "digests"
    """What of the copy is compared right before its source is removed."""


class AccountRule(Section, frozen=True, kw_only=True):
    """Whose scan it is, by its path. Named groups of the pattern may be used as `{name}` in the values."""

    pattern: str
    """Regular expression, searched in the canonical path."""
    account: str
    owner: str = ""
    owner_group: str = ""
    access_groups: tuple[str, ...] = ()
    email: str = ""
    proposal: str = ""


class RecipesSection(Section, frozen=True, kw_only=True):
    """Where recipes lie."""

    directory: str = ""
    """Empty: the recipes shipped with srctd."""


class PoolSection(Section, frozen=True, kw_only=True):
    """The worker pool."""

    endpoints: tuple[str, ...] = ()
    """ZeroMQ endpoints to bind; empty: one ipc socket in the state directory."""
    local_workers: int | Literal["auto"] = "auto"
    """Worker processes that the daemon itself starts; 0: none, they come by themselves."""
    threads_per_worker: int = 0
    """0: the machine's cores divided by the workers."""
    worker_nice: int = 5
    """Niceness of local workers, so that the daemon answers while they compute."""
    lease_seconds: float = 15.0
    """A worker that is silent for so long loses its shard."""


class ControlSection(Section, frozen=True, kw_only=True):
    """Status queries and event feed, ZeroMQ endpoints on loopback or ipc."""

    endpoint: str = "tcp://127.0.0.1:5590"
    feed_endpoint: str = "tcp://127.0.0.1:5591"


class CatalogSection(Section, frozen=True, kw_only=True):
    """The facility's catalogue."""

    embedded: bool = False
    """Start the embedded catalogue and post to it; the other keys of the connection are then ignored."""
    embedded_port: int = 0
    """0: any free port, kept in the state directory."""
    url: str = ""
    """Base URL of SciCat, without /api. Empty and not embedded: nothing is posted."""
    username: str = ""
    password_file: str = ""
    token_file: str = ""
    verify_tls: bool = True
    pid_prefix: str = "srctd"
    """First part of the identifiers that srctd gives its data sets."""
    contact_email: str = ""
    """Where the scan names nobody."""
    access_groups: tuple[str, ...] = ()
    """May read every data set; name the ingest account's own group here, or it cannot see what it created."""
    creation_location: str = "/unknown"
    """Facility and instrument, for raw data sets."""


class LogsSection(Section, frozen=True, kw_only=True):
    """Logging."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(Section, frozen=True, kw_only=True):
    """The whole configuration."""

    storage: StorageSection
    remote: RemoteSection = RemoteSection()
    ownership: OwnershipSection = OwnershipSection()
    space: SpaceSection = SpaceSection()
    retention: RetentionSection = RetentionSection()
    watch: tuple[WatchSection, ...]
    accounts: tuple[AccountRule, ...] = ()
    daemon: DaemonSection = DaemonSection()
    recipes: RecipesSection = RecipesSection()
    formats: FormatsSection = FormatsSection()
    pool: PoolSection = PoolSection()
    control: ControlSection = ControlSection()
    catalog: CatalogSection = CatalogSection()
    logs: LogsSection = LogsSection()

    def read_options(self, root: str) -> "ReadOptions":
        """How files below a watched root are read; of a scan from elsewhere, by what the site says of all."""
        watched = next((section for section in self.watch if section.path == root), None)
        if watched is not None:
            return watched.read_options(self.formats)
        return msgspec.structs.replace(self.formats.read_options, linked_below=())

    def copy_megabytes_per_second(self, root: str) -> float:
        """The limit of copies from a watched root, 1e6 bytes per second; 0, also for scans from elsewhere: none."""
        return next((root_.copy_megabytes_per_second for root_ in self.watch if root_.path == root), 0.0)

    @property
    def pool_endpoints(self) -> tuple[str, ...]:
        """Where the pool binds."""
        return self.pool.endpoints or (f"ipc://{self.daemon.state_directory}/pool.sock",)


STEP_TIMEOUTS = {
    Step.IDENTIFY: 60.0,
    Step.CHECK: 300.0,
    Step.SYNC: 6 * 3600.0,
    Step.SUBMIT: 300.0,
    Step.PREVIEW: 24 * 3600.0,
    Step.RECONSTRUCT: 48 * 3600.0,
    Step.REGISTER: 600.0,
    Step.PUBLISH: 3600.0,
    Step.SEND: 24 * 3600.0,
    Step.SEND_RESULTS: 24 * 3600.0,
}
"""Seconds. Preview, reconstruct and sending include the time in the queue."""


def expanded(path: str) -> str:
    """A path in which systemd's folder of credentials may be named."""
    return path.replace("$CREDENTIALS_DIRECTORY", os.environ.get("CREDENTIALS_DIRECTORY", ""))


def read_secret(path: str, what: str) -> str:
    """The first line of a file that holds a password or token; empty path: empty string."""
    if not path:
        return ""
    try:
        return Path(expanded(path)).read_text(encoding="utf-8").strip()
    except OSError as exc:
        raise ConfigError(f"{what} = {path!r} cannot be read: {exc.strerror}") from exc
