"""`srctd check`: what the daemon would do with a configuration, and what stands in its way."""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass

from srctd.adapters import space
from srctd.adapters.ownership import Ownership
from srctd.config import Config, WatchSection, read_secret
from srctd.configfile import load_recipes
from srctd.core.endpoints import require_local
from srctd.core.errors import SrctdError
from srctd.core.space import Grade
from srctd.daemon import local_workers, remote_host
from srctd.formats.layouts import load_layouts
from srctd.formats.tagtables import load_tables
from srctd.retention import unwritable


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    good: bool
    sentence: str


def findings(config: Config) -> Iterator[Finding]:
    """Everything that can be said without changing anything; raises `ConfigError` for what cannot work."""
    for endpoint in (*config.pool_endpoints, config.control.endpoint, config.control.feed_endpoint):
        require_local(endpoint)
    for root in config.watch:
        yield _folder(root.path, f"watches {root.path} for {', '.join(root.patterns)}", os.R_OK | os.X_OK)
        yield Finding(True, _rule(root))
    yield _folder(config.storage.shared, f"writes to {config.storage.shared}", os.W_OK | os.X_OK)
    if os.path.isdir(config.storage.shared):
        free = space.free_bytes(config.storage.shared) / 1e9
        reserve = config.storage.reserve_gigabytes
        yield Finding(free > reserve, f"  {free:.1f} GB free there, {reserve:g} GB are kept free")
        yield from _space(config, free)
    yield Finding(True, f"  {Ownership(config.ownership).check(config.storage.shared)}")
    yield from _remote(config)
    yield from _retention(config)
    yield from _people(config)
    workers, threads = local_workers(config)
    yield Finding(
        True, f"starts {workers} local workers of {threads} threads" if workers else "starts no workers"
    )
    for recipe in load_recipes(config.recipes):
        yield Finding(True, f"recipe {recipe.name}, priority {recipe.priority}: {recipe.description}")
    tables, layouts = (
        load_tables(config.formats.tags_directory),
        load_layouts(config.formats.layouts_directory),
    )
    yield Finding(True, f"reads logs by {len(tables)} tables of tags, stacks by {len(layouts)} layouts")
    yield _catalog(config)


def _space(config: Config, free_gigabytes: float) -> Iterator[Finding]:
    """What is done as shared storage fills up."""
    thresholds = config.space.thresholds
    for grade in Grade:
        if limit := thresholds.of(grade) / 1e9:
            yield Finding(free_gigabytes >= limit, f"  below {limit:g} GB free: {grade.sentence}")


def _rule(root: WatchSection) -> str:
    """When a scan of a root is complete, and what becomes of one that is not."""
    without = "never without"
    if not root.require_end:
        without = (
            f"{root.unmarked_settle_seconds:g} s without, {root.unannounced_settle_seconds:g} s if nobody says "
            "how many frames are to come"
        )
    taken = "held"
    if root.usable_projections:
        taken = (
            f"taken if {root.usable_projections} projections leave no gap wider than "
            f"{root.usable_hole_deg:g} degrees, else held"
        )
    return (
        f"  complete: unchanged for {root.settle_seconds:g} s with an end mark, {without}; "
        f"incomplete for {root.stalled_seconds:g} s: {taken}"
    )


def _folder(path: str, what: str, mode: int) -> Finding:
    if not os.path.isdir(path):
        return Finding(False, f"{what}: there is no such folder")
    if not os.access(path, mode):
        return Finding(False, f"{what}: this user (uid {os.getuid()}) is not permitted to")
    return Finding(True, what)


def _remote(config: Config) -> Iterator[Finding]:
    host = remote_host(config)
    if host is None:
        return
    for path in (host.target.identity_file, host.target.known_hosts_file):
        if path and not os.access(path, os.R_OK):
            yield Finding(
                False, f"{path} of [remote] is not there, or closed to this user (uid {os.getuid()})"
            )
    try:
        good, found = asyncio.run(host.describe())
    except SrctdError as exc:
        yield Finding(False, exc.sentence)
    else:
        yield Finding(good, f"sends to {host.target.name}: {found}")


def _people(config: Config) -> Iterator[Finding]:
    if not config.accounts:
        yield Finding(True, "every scan belongs to the account 'unassigned': there are no [[accounts]]")
    for rule in config.accounts:
        yield Finding(True, f"scans whose path has {rule.pattern} belong to {rule.account}")


def _retention(config: Config) -> Iterator[Finding]:
    """What is removed from the watched folders, and what keeps it from being removed."""
    section = config.retention
    if not section.enabled:
        return
    yield Finding(
        True,
        f"removes sources that are copied, catalogued and done for {section.minimum_age_hours:g} hours, while "
        f"their disk is above {section.high_water_percent:g} %, down to {section.low_water_percent:g} %",
    )
    for sentence in unwritable(root.path for root in config.watch):
        yield Finding(False, sentence)
    if not (config.catalog.embedded or config.catalog.url):
        yield Finding(False, "retention is on, but only what was catalogued may be removed: nothing ever is")


def _catalog(config: Config) -> Finding:
    section = config.catalog
    if section.embedded:
        return Finding(True, "starts the embedded catalogue and posts to it")
    if section.url:
        read_secret(section.password_file, "catalog.password_file")
        read_secret(section.token_file, "catalog.token_file")
        return Finding(True, f"posts to {section.url} as {section.username or 'the holder of a token'}")
    return Finding(False, "posts to no catalogue: catalog.url is empty and catalog.embedded is false")
