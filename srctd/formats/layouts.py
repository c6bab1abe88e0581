"""Layouts of stacks as TOML files: the shipped ones, and those of a site."""

import re
from pathlib import Path

from srctd.core.errors import ConfigError
from srctd.core.roles import Layout
from srctd.toml import load_named, read_toml


def load_layouts(directory: str = "") -> tuple[Layout, ...]:
    """The shipped layouts and those of a folder, which replace shipped ones by name; raises `ConfigError`."""
    return load_named("layouts", directory, load_layout)


def load_layout(file: Path) -> Layout:
    """One layout, checked; raises `ConfigError`."""
    layout = read_toml(file, Layout, keys="see the comments in etc/layouts/*.toml")
    if not layout.names:
        raise ConfigError(f"{file}: names: no rule, so no file would have a role")
    for i, rule in enumerate(layout.names):
        where = f"{file}: names[{i}].pattern"
        try:
            groups = re.compile(rule.pattern.replace("{prefix}", "(?:)")).groupindex
        except re.error as exc:
            raise ConfigError(f"{where} = {rule.pattern!r} is no regular expression: {exc}") from exc
        if rule.role != "unused" and "index" not in groups:
            raise ConfigError(
                f"{where} = {rule.pattern!r} has no group for the number of the frame",
                hint=r"write (?P<index>\d+) where the number stands",
            )
    return layout
