"""A scan's folder on shared storage: whose it is, where it lies, and how its files are read and written."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from srctd.adapters import sync
from srctd.adapters.ownership import Belonging
from srctd.config import AccountRule, Config
from srctd.core.errors import HoldError
from srctd.core.lifecycle import Scan, Step
from srctd.core.recipe import ParameterFile
from srctd.core.scan import Owner
from srctd.results import Identified
from srctd.threads import at_storage

T = TypeVar("T")


def task_folder(config: Config, scan: Scan) -> Path:
    """A scan's folder on shared storage; its owner must be known."""
    identified = msgspec.json.decode(scan.step(Step.IDENTIFY).result, type=Identified)
    return Path(config.storage.shared) / identified.owner.account / scan.task


def owner_of(path: str, rules: tuple[AccountRule, ...]) -> Owner:
    """The first rule whose pattern is found in the path decides; without one the account is `unassigned`."""
    for rule in rules:
        found = re.search(rule.pattern, path)
        if not found:
            continue
        fill = {name: value or "" for name, value in found.groupdict().items()}
        account = rule.account.format_map(fill)
        if not re.fullmatch(r"[\w.+@-]+", account) or account.startswith("."):
            raise HoldError(
                f"{path}: account {account!r} by the rule {rule.pattern!r} is no folder name",
                hint="correct the rule in [[accounts]]",
            )
        return Owner(
            account=account,
            owner=rule.owner.format_map(fill) or account,
            owner_group=rule.owner_group.format_map(fill) or account,
            access_groups=tuple(group.format_map(fill) for group in rule.access_groups),
            email=rule.email.format_map(fill),
            proposal=rule.proposal.format_map(fill),
            origin=f"rule {rule.pattern}",
        )
    return Owner(account="unassigned", owner="unassigned", owner_group="unassigned")


async def read_parameters(path: Path) -> ParameterFile:
    """The parameter file of a run; raises the errors of storage."""
    raw = await stored(path.read_bytes)
    return msgspec.json.decode(raw, type=ParameterFile)


async def stored(function: Callable[..., T], *args: object) -> T:
    """Run work on shared storage in a thread; its errors are those of storage."""
    try:
        return await at_storage(function, *args)
    except OSError as exc:
        raise sync.storage_error(exc, f"{exc.filename or 'shared storage'} cannot be used") from exc


async def write_json(path: Path, content: msgspec.Struct, belonging: Belonging) -> None:
    """Write a file for programs and people; it appears whole and handed over."""
    text = msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
    await at_storage(sync.write_atomic, path, text, belonging.give)


def publish_tree(part: Path, final: Path, belonging: Belonging) -> None:
    """Hand over a folder that workers have filled, and let it appear under its name."""
    belonging.give_tree(part)
    sync.replace_folder(part, final)
