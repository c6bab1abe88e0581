"""Configuration files: TOML in, typed sections out, or one sentence naming the place of the mistake.

Reading them touches nothing but the files themselves.
"""

import difflib
import itertools
import math
import os
import re
from pathlib import Path

from srctd.config import (
    AccountRule,
    Config,
    RecipesSection,
    RemoteSection,
    RetentionSection,
    SpaceSection,
    WatchSection,
    expanded,
    placeholders,
)
from srctd.core.completion import ALL_ENDS, ANY_EXPECTATION
from srctd.core.errors import ConfigError
from srctd.core.recipe import Recipe
from srctd.toml import etc_folder, read_toml

MOST_PORT = 65535


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
                fields = placeholders(text)
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
