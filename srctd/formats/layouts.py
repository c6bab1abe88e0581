"""Layouts of stacks as TOML files: the shipped ones, and those of a site."""

import os
import re
from functools import lru_cache
from pathlib import Path

from srctd.core.errors import ConfigError
from srctd.core.roles import Layout
from srctd.toml import etc_folder, read_toml


def load_layouts(directory: str = "") -> tuple[Layout, ...]:
    """The shipped layouts and those of a folder, which replace shipped ones by name; raises `ConfigError`."""
    folders = [str(etc_folder() / "layouts"), *([directory] if directory else [])]
    layouts: dict[str, Layout] = {}
    for folder in folders:
        layouts.update({layout.name: layout for layout in _load(tuple(_files(folder)))})
    return tuple(layouts.values())


def _files(folder: str) -> list[tuple[str, int]]:
    """TOML files and their times, by which an edited one is read again."""
    try:
        found = [(entry.path, entry.stat().st_mtime_ns) for entry in os.scandir(folder)]
    except OSError as exc:
        raise ConfigError(f"{folder}: no such folder of layouts: {exc.strerror}") from exc
    return sorted(file for file in found if file[0].endswith(".toml"))


@lru_cache(maxsize=16)
def _load(files: tuple[tuple[str, int], ...]) -> tuple[Layout, ...]:
    return tuple(load_layout(Path(path)) for path, _ in files)


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
