"""Tables of tags (`etc/tags/*.toml`): how a program's log or parameter file is read, and what its names mean.

`etc/tags/example.toml` explains every key.
"""

import fnmatch
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Literal

import msgspec

from srctd.core.errors import ConfigError
from srctd.core.tags import CANONICAL
from srctd.formats.units import ANGLE, CURRENT, ENERGY, LENGTH, MAGNIFICATION, TIME, Dimension
from srctd.toml import etc_folder, read_toml

Syntax = Literal["keyvalue", "ini", "regex", "json", "xml", "csv", "edf"]
WORD_SYNTAXES = ("keyvalue", "ini", "regex")
"""Those that consist of lines a person can read: their end is told by a line."""
Plain = bool | int | float | str

DIMENSIONS: dict[str, Dimension] = {
    "deg": ANGLE,
    "m": LENGTH,
    "keV": ENERGY,
    "s": TIME,
    "mA": CURRENT,
    "": MAGNIFICATION,
}
"""By the units of `CANONICAL`."""

KINDS: dict[str, tuple[type, ...]] = {
    "number": (int, float),
    "count": (int,),
    "text": (str,),
    "flag": (bool,),
    "numbers": (),
}
"""What a fixed value of each kind is; lists stand in files only."""


class _Form(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what a table consists of: unknown keys are refused."""


class Tag(_Form, frozen=True, kw_only=True):
    """Where one canonical name is found."""

    name: str
    """Canonical."""
    key: str | tuple[str, ...] = ()
    """`section/key`, `*/key` for any section or none, a path, a column; several are tried in order. None:
    `pattern` is searched in the whole text."""
    unit: str = ""
    """Of the value, where the file does not say it."""
    unit_key: str = ""
    """Another key, whose value is the unit."""
    pattern: str = ""
    """Regular expression; of the value its first group is taken, or the one named `value`; one named `unit` is
    the unit."""
    values: dict[str, Plain] = {}
    """What words stand for. Words that are not in it are taken as they are."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys, in the order in which they are tried."""
        return (self.key,) if isinstance(self.key, str) else self.key


class Table(_Form, frozen=True, kw_only=True):
    """How the files of one program are read."""

    name: str
    description: str = ""
    files: tuple[str, ...]
    """Wildcards of file names, whatever the case."""
    syntax: Syntax
    signature: str = ""
    """Regular expression that the text must contain, so that a table never reads another program's file."""
    priority: int = 0
    """Of the tables that know a file the one of the highest priority reads it; equal ones by name."""
    encodings: tuple[str, ...] = ("utf-8-sig", "cp1252")
    """Tried in order."""
    separator: str = ""
    """`keyvalue`: regular expression between key and value. `csv`: the character between columns; empty: white
    space."""
    section: str = ""
    """`keyvalue`: regular expression of a line that begins a section, its name in the first group."""
    comment: str = ""
    """Regular expression of what begins a comment line; empty: `;` and `#` in `ini`, none elsewhere."""
    until: str = ""
    """Regular expression of a line, from which on lines are no more keys and values: what is logged follows."""
    header: bool = True
    """`csv`: whether the first line names the columns; else they are `1`, `2`..."""
    unit_in_key: str = ""
    """Regular expression of a key that holds the unit, with groups named `key` and `unit`."""
    ignore_case: bool = True
    """Of keys."""
    ignore_blanks: bool = True
    """Of keys."""
    canonical: bool = False
    """Whether canonical names are keys themselves, outside of all sections or in one named `scan`; their units
    stand under the key with `_unit` behind it."""
    units: dict[str, str] = {}
    """Of such keys: the units of values that have none."""
    end_line: str = ""
    """Regular expression; a line that it is found in says that the acquisition ended."""
    always_ends: bool = True
    """Whether there is always such a line in the end, so that a scan without it is not complete."""
    tag: tuple[Tag, ...] = ()
    fixed: dict[str, Plain] = {}
    """Values, in canonical units, of what is always so and no file says."""

    def knows(self, file_name: str) -> bool:
        """Whether a file of this name may be one of this table's."""
        return any(fnmatch.fnmatchcase(file_name.lower(), pattern.lower()) for pattern in self.files)

    def same(self, key: str) -> str:
        """A key as it is compared."""
        key = re.sub(r"\s+", "", key) if self.ignore_blanks else key.strip()
        return key.lower() if self.ignore_case else key


SEPARATORS = {"keyvalue": r"\s*[=:]\s*", "ini": r"\s*=\s*"}
SECTIONS = {"ini": r"^\s*\[([^\]]*)\]"}
COMMENTS = {"ini": r"[;#]"}


def load_table(file: Path) -> Table:
    """One table, checked, with the defaults of its syntax and its canonical keys filled in; raises
    `ConfigError`.
    """
    table = read_toml(file, Table, keys="see etc/tags/example.toml for all keys")
    table = msgspec.structs.replace(
        table,
        separator=table.separator or SEPARATORS.get(table.syntax, ""),
        section=table.section or SECTIONS.get(table.syntax, ""),
        comment=table.comment or COMMENTS.get(table.syntax, ""),
        tag=(*table.tag, *(_own_names(table) if table.canonical else ())),
    )
    _check(str(file), table)
    return table


def load_tables(directory: str = "") -> tuple[Table, ...]:
    """All tables of a folder, those of the highest priority first; empty: the shipped ones. Raises
    `ConfigError`.
    """
    folder = Path(directory) if directory else etc_folder() / "tags"
    try:
        files = sorted((entry.path, entry.stat().st_mtime_ns) for entry in os.scandir(folder))
    except OSError as exc:
        raise ConfigError(f"{folder}: no such folder of tables of tags: {exc.strerror}") from exc
    return _load_tables(tuple(file for file in files if file[0].endswith(".toml")))


@lru_cache(maxsize=16)
def _load_tables(files: tuple[tuple[str, int], ...]) -> tuple[Table, ...]:
    """By path and time, so that a table that was edited is read again."""
    tables = [load_table(Path(path)) for path, _ in files]
    return tuple(sorted(tables, key=lambda table: (-table.priority, table.name)))


def _own_names(table: Table) -> list[Tag]:
    mapped = {tag.name for tag in table.tag}
    return [
        Tag(name=name, key=place + name, unit=table.units.get(name, ""), unit_key=f"{place}{name}_unit")
        for name in CANONICAL
        if name not in mapped
        for place in ("", "scan/")
    ]


def _check(where: str, table: Table) -> None:
    """What types cannot say."""
    _check_syntax(where, table)
    for name, value in table.fixed.items():
        _check_name(f"{where}: fixed.{name}", name)
        if type(value) not in KINDS[CANONICAL[name].kind]:
            raise ConfigError(f"{where}: fixed.{name} = {value!r} is no {CANONICAL[name].kind}")
    for name, unit in table.units.items():
        _check_name(f"{where}: units.{name}", name)
        _check_unit(f"{where}: units.{name}", unit, name)
    for i, tag in enumerate(table.tag):
        _check_tag(f"{where}: tag[{i}]", tag, table)


def _check_syntax(where: str, table: Table) -> None:
    groups = {"section": 1, "end_line": 0, "separator": 0, "signature": 0, "comment": 0, "until": 0}
    if table.syntax == "csv":
        del groups["separator"]
        if len(table.separator) > 1:
            raise ConfigError(
                f"{where}: separator = {table.separator!r} must be one character in a csv table"
            )
    for field, needed in groups.items():
        _check_pattern(f"{where}: {field}", getattr(table, field), needed)
    if table.unit_in_key:
        known = _check_pattern(f"{where}: unit_in_key", table.unit_in_key, 2)
        if not {"key", "unit"} <= set(known):
            raise ConfigError(
                f"{where}: unit_in_key = {table.unit_in_key!r} needs groups named key and unit",
                hint="write (?P<key>...) and (?P<unit>...)",
            )
    for encoding in table.encodings:
        try:
            b"a".decode(encoding, errors="replace")  # nothing to decode is not looked up
        except LookupError as exc:
            raise ConfigError(f"{where}: encodings names {encoding!r}, which is unknown") from exc


def _check_tag(where: str, tag: Tag, table: Table) -> None:
    _check_name(f"{where}.name", tag.name)
    _check_pattern(f"{where}.pattern", tag.pattern, 1)
    if not tag.keys and (not tag.pattern or table.syntax not in WORD_SYNTAXES):
        raise ConfigError(
            f"{where} ({tag.name}) has no key", hint="name the key under which the value stands"
        )
    if tag.keys and table.syntax == "regex":
        raise ConfigError(f"{where} ({tag.name}) has a key, but the syntax has none", hint="give a pattern")
    _check_unit(f"{where}.unit", tag.unit, tag.name)


def _check_unit(where: str, unit: str, name: str) -> None:
    if unit and DIMENSIONS[CANONICAL[name].unit].factor(unit) is None:
        raise ConfigError(
            f"{where} = {unit!r} is no unit of {name}",
            hint=f"it is converted to {CANONICAL[name].unit or 'a plain number'}",
        )


def _check_name(where: str, name: str) -> None:
    if name not in CANONICAL:
        raise ConfigError(f"{where}: {name!r} is no canonical name", hint=f"known: {', '.join(CANONICAL)}")


def _check_pattern(where: str, pattern: str, groups: int) -> list[str]:
    """The names of the groups of a regular expression that has at least so many."""
    try:
        compiled = re.compile(pattern)
    except re.error as exc:
        raise ConfigError(f"{where} = {pattern!r} is no regular expression: {exc}") from exc
    if pattern and compiled.groups < groups:
        raise ConfigError(f"{where} = {pattern!r} needs a group for what is taken", hint="put it in brackets")
    return list(compiled.groupindex)
