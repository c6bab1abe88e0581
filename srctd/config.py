"""The configuration: TOML in, typed sections out, or one sentence naming the place of the mistake.

Reading it touches nothing but the file itself. Every adapter is given its own section only.
"""

import os
import re
import string
from pathlib import Path
from typing import Literal

import msgspec

from srctd.core.completion import Rule
from srctd.core.errors import ConfigError
from srctd.core.lifecycle import Step
from srctd.core.recipe import Recipe
from srctd.toml import etc_folder, read_toml


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the sections: unknown keys are refused."""


class DaemonSection(Section, frozen=True, kw_only=True):
    """The process itself."""

    state_directory: str = "/var/lib/srctd"
    """Journal, embedded catalogue, sockets. On a local disk."""
    stop_grace_seconds: float = 20.0
    """How long SIGTERM waits for steps that end by themselves."""
    copies_at_once: int = 2
    """Scans that are copied side by side."""
    step_timeout_seconds: dict[Step, float] = {}
    """Longest duration per step; the defaults are in `STEP_TIMEOUTS`."""


class WatchSection(Section, frozen=True, kw_only=True):
    """One watched root."""

    path: str
    patterns: tuple[str, ...] = ("*.h5", "*.hdf5", "*.hdf", "*.nxs", "*.nx")
    depth: int = 4
    """Folder levels below the root that are listed."""
    listing_seconds: float = 5.0
    """Listing interval. Where inotify works a change is noticed at once all the same."""
    settle_seconds: float = Rule().settle_seconds
    unmarked_settle_seconds: float = Rule().unmarked_settle_seconds
    stalled_seconds: float = Rule().stalled_seconds

    @property
    def rule(self) -> Rule:
        """The completion rule of this root."""
        return Rule(
            settle_seconds=self.settle_seconds,
            unmarked_settle_seconds=self.unmarked_settle_seconds,
            stalled_seconds=self.stalled_seconds,
        )


class StorageSection(Section, frozen=True, kw_only=True):
    """Shared storage."""

    shared: str
    reserve_gigabytes: float = 1.0
    """Space that a copy or a volume must leave free."""


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
    watch: tuple[WatchSection, ...]
    accounts: tuple[AccountRule, ...] = ()
    daemon: DaemonSection = DaemonSection()
    recipes: RecipesSection = RecipesSection()
    pool: PoolSection = PoolSection()
    control: ControlSection = ControlSection()
    catalog: CatalogSection = CatalogSection()
    logs: LogsSection = LogsSection()

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
}
"""Seconds. Preview and reconstruct include the time in the queue."""


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


def _check_values(path: str, config: Config) -> None:
    """What types cannot say."""
    absolute: list[tuple[str, str]] = [
        ("storage.shared", config.storage.shared),
        ("daemon.state_directory", config.daemon.state_directory),
        *((f"watch[{i}].path", root.path) for i, root in enumerate(config.watch)),
    ]
    for name, value in absolute:
        if not os.path.isabs(value):
            raise ConfigError(f"{path}: {name} = {value!r} is not an absolute path")
    if not config.watch:
        raise ConfigError(f"{path}: watch is empty", hint="name at least one folder: [[watch]] path = ...")
    shared = os.path.realpath(config.storage.shared)
    for i, root in enumerate(config.watch):
        watched = os.path.realpath(root.path)
        if watched == shared or shared.startswith(watched + os.sep):
            raise ConfigError(
                f"{path}: storage.shared = {shared!r} lies inside watch[{i}].path = {root.path!r}",
                hint="results would be taken for scans; move one of them",
            )
    _positive(path, config)
    for i, rule in enumerate(config.accounts):
        _check_account(f"{path}: accounts[{i}]", rule)
    endpoints = [*config.pool_endpoints, config.control.endpoint, config.control.feed_endpoint]
    for endpoint in endpoints:
        if endpoints.count(endpoint) > 1:
            raise ConfigError(f"{path}: endpoint {endpoint!r} is given twice", hint="each needs its own")


def _check_account(where: str, rule: AccountRule) -> None:
    try:
        known = re.compile(rule.pattern).groupindex
    except re.error as exc:
        raise ConfigError(f"{where}.pattern = {rule.pattern!r} is no regular expression: {exc}") from exc
    for name in ("account", "owner", "owner_group", "access_groups", "email", "proposal"):
        value = getattr(rule, name)
        for text in (value,) if isinstance(value, str) else value:
            try:
                fields = [field for _, field, _, _ in string.Formatter().parse(text) if field is not None]
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
                "settle_seconds",
                "unmarked_settle_seconds",
                "stalled_seconds",
                "depth",
            )
        ]
    for name, value in numbers:
        if not value > 0:
            raise ConfigError(f"{path}: {name} = {value} is not positive")
    if isinstance(config.pool.local_workers, int) and config.pool.local_workers < 0:
        raise ConfigError(f"{path}: pool.local_workers = {config.pool.local_workers} is negative")


def read_secret(path: str, what: str) -> str:
    """The first line of a file that holds a password or token; empty path: empty string."""
    if not path:
        return ""
    expanded = path.replace("$CREDENTIALS_DIRECTORY", os.environ.get("CREDENTIALS_DIRECTORY", ""))
    try:
        return Path(expanded).read_text(encoding="utf-8").strip()
    except OSError as exc:
        raise ConfigError(f"{what} = {path!r} cannot be read: {exc.strerror}") from exc
