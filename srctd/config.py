"""The configuration: TOML in, typed sections out, or one sentence naming the place of the mistake.

Reading it touches nothing but the file itself. Every adapter is given its own section only.
"""

import difflib
import itertools
import math
import os
import re
import string
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from srctd.core import permissions
from srctd.core.completion import ALL_ENDS, ANY_EXPECTATION, Rule, Usable
from srctd.core.errors import ConfigError
from srctd.core.lifecycle import Step
from srctd.core.recipe import Recipe
from srctd.core.scan import ReadBack
from srctd.core.space import Thresholds
from srctd.toml import etc_folder, read_toml

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
    """Copy what does not change any more while the detector still writes the rest."""
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


def _placeholders(text: str) -> list[str]:
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
            for field in _placeholders(text):
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


MOST_PORT = 65535

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


def load(path: str) -> Config:
    """Read a configuration file; raises `ConfigError` with the place of the first mistake."""
    config = read_toml(
        Path(path), Config, unreadable="give --config FILE", keys="see etc/srctd.toml for all keys"
    )
    _check_values(path, config)
    return config


def load_recipes(section: RecipesSection) -> tuple[Recipe, ...]:
    """All recipes of a folder, checked; raises `ConfigError`."""
    folder = Path(section.directory) if section.directory else etc_folder() / "recipes"
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder of recipes", hint="set recipes.directory")
    return tuple(load_recipe(file) for file in sorted(folder.glob("*.toml")))


def load_recipe(file: Path) -> Recipe:
    """One recipe, checked; raises `ConfigError`."""
    return read_toml(file, Recipe).validated(str(file))


def _check_roots(path: str, config: Config) -> None:
    """Nothing is written below a watched root, and every scan is judged by the rules of one."""
    inside = {
        "storage.shared": (config.storage.shared, "results would be taken for scans; move one of them"),
        "daemon.state_directory": (
            config.daemon.state_directory,
            "nothing is ever written below a watched folder; keep the state elsewhere",
        ),
    }
    for i, root in enumerate(config.watch):
        for name, (folder, hint) in inside.items():
            if _lies_in(folder, root.path):
                where = f"watch[{i}].path = {root.path!r}"
                raise ConfigError(f"{path}: {name} = {folder!r} lies inside {where}", hint=hint)
        for j, other in enumerate(config.watch):
            if i != j and _lies_in(root.path, other.path):
                raise ConfigError(
                    f"{path}: watch[{i}].path = {root.path!r} lies inside watch[{j}].path = {other.path!r}",
                    hint="a scan there would be judged by two rules; watch each folder once",
                )


def _lies_in(path: str, folder: str) -> bool:
    real, top = os.path.realpath(path), os.path.realpath(folder)
    return f"{real}/".startswith(f"{top.rstrip('/')}/")


def _check_values(path: str, config: Config) -> None:
    """What types cannot say."""
    absolute: list[tuple[str, str]] = [
        ("storage.shared", config.storage.shared),
        ("daemon.state_directory", config.daemon.state_directory),
        *((f"watch[{i}].path", root.path) for i, root in enumerate(config.watch)),
        *(
            (f"watch[{i}].linked_folders", name)
            for i, root in enumerate(config.watch)
            for name in root.linked_folders
        ),
    ]
    optional = {
        "tags_directory": config.formats.tags_directory,
        "layouts_directory": config.formats.layouts_directory,
    }
    absolute += [(f"formats.{name}", value) for name, value in optional.items() if value]
    for name, value in absolute:
        if not os.path.isabs(value):
            raise ConfigError(f"{path}: {name} = {value!r} is not an absolute path")
    if not config.watch:
        raise ConfigError(f"{path}: watch is empty", hint="name at least one folder: [[watch]] path = ...")
    _check_roots(path, config)
    _check_remote(f"{path}: remote", config.remote)
    _positive(path, config)
    _check_space(path, config.space)
    _check_retention(path, config.retention)
    for i, root in enumerate(config.watch):
        _check_evidence(f"{path}: watch[{i}]", root)
        _check_pace(f"{path}: watch[{i}]", root)
    for i, rule in enumerate(config.accounts):
        _check_account(f"{path}: accounts[{i}]", rule)
    endpoints = [*config.pool_endpoints, config.control.endpoint, config.control.feed_endpoint]
    for endpoint in endpoints:
        if endpoints.count(endpoint) > 1:
            raise ConfigError(f"{path}: endpoint {endpoint!r} is given twice", hint="each needs its own")


def _check_space(path: str, section: SpaceSection) -> None:
    """What fills up further has a lower threshold; those that are 0 do not count."""
    named = {
        name: getattr(section, name)
        for name in ("sixteen_bit_below_gigabytes", "previews_only_below_gigabytes", "stop_below_gigabytes")
    }
    for name, value in named.items():
        if not 0 <= value < math.inf:
            raise ConfigError(f"{path}: space.{name} = {value} is no amount of space")
    used = [(name, value) for name, value in named.items() if value]
    for (name, value), (after, lower) in itertools.pairwise(used):
        if lower > value:
            raise ConfigError(
                f"{path}: space.{after} = {lower:g} is more than space.{name} = {value:g}",
                hint="as space runs out, less is done: each threshold is at most the one before",
            )


def _check_remote(where: str, remote: RemoteSection) -> None:
    """The further host."""
    # Neither ssh nor rsync may take it for an option, or the folder for one of another host.
    if remote.target and not re.fullmatch(
        r"(?:[\w.][\w.+-]*@)?(?:\w[\w.-]*|\[[0-9A-Fa-f:.]+(?:%\w+)?\]):/[^\x00-\x1f\x7f]*", remote.target
    ):
        raise ConfigError(
            f"{where}.target = {remote.target!r} is no place on a host",
            hint='write "user@host:/absolute/folder"',
        )
    if not 0 < remote.port <= MOST_PORT:
        raise ConfigError(f"{where}.port = {remote.port} is no port")
    for name in ("identity_file", "known_hosts_file"):
        value = getattr(remote, name)
        if value and not os.path.isabs(expanded(value)):
            raise ConfigError(f"{where}.{name} = {value!r} is not an absolute path")


def _check_evidence(where: str, root: WatchSection) -> None:
    """What a root says of the end of its scans."""
    for key, known in (("end_evidence", ALL_ENDS), ("expectation", ANY_EXPECTATION)):
        for kind in getattr(root, key):
            if kind not in known:
                near = difflib.get_close_matches(kind, known, 1)
                raise ConfigError(
                    f"{where}.{key}: unknown kind {kind!r}",
                    hint=f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}",
                )
    if root.settle_seconds > root.unmarked_settle_seconds:
        raise ConfigError(
            f"{where}.settle_seconds = {root.settle_seconds:g} is longer than "
            f"unmarked_settle_seconds = {root.unmarked_settle_seconds:g}",
            hint="an end mark must not make a scan wait longer",
        )
    if not 0 < root.usable_hole_deg <= 180:
        raise ConfigError(f"{where}.usable_hole_deg = {root.usable_hole_deg:g} lies outside 0 to 180")
    if root.usable_projections < 0:
        raise ConfigError(f"{where}.usable_projections = {root.usable_projections} is negative")
    try:
        re.compile(root.end_line)
    except re.error as exc:
        raise ConfigError(f"{where}.end_line = {root.end_line!r} is no regular expression: {exc}") from exc
    if root.require_end and not root.end_evidence:
        raise ConfigError(
            f"{where}.require_end = true, but end_evidence = [] believes nothing",
            hint="no scan would ever be complete; name what says that one ended",
        )
    _check_names(where, root)


def _check_names(where: str, root: WatchSection) -> None:
    """Names and wildcards of files."""
    if not root.patterns:
        raise ConfigError(
            f"{where}.patterns is empty", hint="no file would be a scan; leave it out, or name some"
        )
    for name in root.patterns:
        if not name or "/" in name:
            raise ConfigError(
                f"{where}.patterns: {name!r} is no file name", hint='write it without folders: "*.tif"'
            )
    beside = [("must_have", name) for name in root.must_have if not name.startswith("/")]
    for key, name in (*(("marker_files", name) for name in root.marker_files), *beside):
        if not name or re.search(r"[{}]", name.replace("{name}", "")) or "/" in name:
            raise ConfigError(
                f"{where}.{key}: {name!r} is no file name",
                hint="only {name} is filled in, and * and ?"
                + ("; a path inside the HDF5 file begins with /" if key == "must_have" else ""),
            )


def _check_pace(where: str, root: WatchSection) -> None:
    """How fast a root is copied from."""
    for key in ("copy_megabytes_per_second", "disk_megabytes_per_second"):
        rate = getattr(root, key)
        if not 0 <= rate < math.inf:
            raise ConfigError(f"{where}.{key} = {rate:g} is no rate", hint="0 stands for none")
    if not 0 < root.yield_fraction <= 1:
        raise ConfigError(f"{where}.yield_fraction = {root.yield_fraction:g} lies outside 0 to 1")


def _check_retention(path: str, section: RetentionSection) -> None:
    """What could remove too much."""
    low, high = section.low_water_percent, section.high_water_percent
    if not 0 <= low < high <= 100:
        raise ConfigError(
            f"{path}: retention.low_water_percent = {low:g} and high_water_percent = {high:g} are no marks",
            hint="removing begins above the high one and ends at the low one: 0 <= low < high <= 100",
        )
    if not 0 <= section.minimum_age_hours < math.inf:
        hours = section.minimum_age_hours
        raise ConfigError(f"{path}: retention.minimum_age_hours = {hours:g} is no length of time")
    if not 0 < section.check_minutes < math.inf:
        minutes = section.check_minutes
        raise ConfigError(f"{path}: retention.check_minutes = {minutes:g} is no length of time")


def _check_account(where: str, rule: AccountRule) -> None:
    try:
        known = re.compile(rule.pattern).groupindex
    except re.error as exc:
        raise ConfigError(f"{where}.pattern = {rule.pattern!r} is no regular expression: {exc}") from exc
    for name in ("account", "owner", "owner_group", "access_groups", "email", "proposal"):
        value = getattr(rule, name)
        for text in (value,) if isinstance(value, str) else value:
            try:
                fields = _placeholders(text)
            except ValueError as exc:
                raise ConfigError(f"{where}.{name} = {text!r}: {exc}", hint="write {{ for a brace") from exc
            for field in fields:
                if field not in known:
                    raise ConfigError(
                        f"{where}.{name} = {text!r}: the pattern has no group {field!r}",
                        hint=f"known: {', '.join(known) or 'none'}",
                    )


def _positive(path: str, config: Config) -> None:
    numbers: list[tuple[str, float]] = [
        ("pool.lease_seconds", config.pool.lease_seconds),
        ("daemon.stop_grace_seconds", config.daemon.stop_grace_seconds),
        ("daemon.copies_at_once", config.daemon.copies_at_once),
    ]
    numbers += [
        (f"daemon.step_timeout_seconds.{k}", v) for k, v in config.daemon.step_timeout_seconds.items()
    ]
    for i, root in enumerate(config.watch):
        numbers += [
            (f"watch[{i}].{name}", getattr(root, name))
            for name in (
                "listing_seconds",
                "rest_listing_seconds",
                "settle_seconds",
                "unmarked_settle_seconds",
                "unannounced_settle_seconds",
                "stalled_seconds",
                "depth",
            )
        ]
    for name, value in numbers:
        if not value > 0:
            raise ConfigError(f"{path}: {name} = {value} is not positive")
        if math.isinf(value):
            raise ConfigError(f"{path}: {name} = {value} is no length of time", hint="write a large number")
    reserve = config.storage.reserve_gigabytes
    if not 0 <= reserve < math.inf:
        raise ConfigError(f"{path}: storage.reserve_gigabytes = {reserve} is no amount of space")
    workers = config.pool.local_workers
    counts = {
        "pool.local_workers": 0 if workers == "auto" else workers,
        "pool.threads_per_worker": config.pool.threads_per_worker,
    }
    for name, value in counts.items():
        if value < 0:
            raise ConfigError(f"{path}: {name} = {value} is negative")
    if not 0 <= config.catalog.embedded_port <= MOST_PORT:
        raise ConfigError(f"{path}: catalog.embedded_port = {config.catalog.embedded_port} is no port")


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
