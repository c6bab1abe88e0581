"""From the text of a log or parameter file to its items, by the syntax that its table of tags names.

Every function takes the text and returns what stands in it; a text that breaks its syntax raises `NotThatSyntax`.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

from srctd.formats.tagtables import Table, Tag

DEEPEST = 20
"""Levels of a JSON or XML file."""
MOST_ITEMS = 100_000
MOST_COLUMNS = 1000
LONGEST_KEY = 500
"""Characters of a line in which a key and its separator are looked for."""
LONGEST_LINE = 2000
"""Characters of a line in which patterns are looked for: damaged files have lines of megabytes."""


class NotThatSyntax(ValueError):
    """The text is not what the table says; the message says why."""


class Item(NamedTuple):
    """One value as the file has it."""

    where: str
    """Section and key, path, or column, verbatim."""
    key: str
    """The same without a unit."""
    value: str
    """Verbatim; of a column line by line."""
    unit: str = ""


def items(text: str, table: Table) -> list[Item]:
    """All items of a text; raises `NotThatSyntax`."""
    if table.syntax == "json":
        found = _from_json(text)
    elif table.syntax == "xml":
        found = _from_xml(text)
    elif table.syntax == "csv":
        found = _from_columns(text, table)
    elif table.syntax == "regex":
        found = iter(())
    else:
        found = _from_lines(text, table)
    listed: list[Item] = []
    for item in found:
        listed.append(_unit_taken_out(item, table.unit_in_key))
        if len(listed) > MOST_ITEMS:
            raise NotThatSyntax(f"more than {MOST_ITEMS:,} values")
    return listed


def searched(lines: Sequence[str], tag: Tag) -> Item | None:
    """What the pattern of a tag without a key finds first in some lines."""
    pattern = re.compile(tag.pattern)
    for number, line in enumerate(lines, 1):
        match = pattern.search(line[:LONGEST_LINE])
        if match is not None:
            return Item(f"line {number}", "", *value_and_unit(match))
    return None


def value_and_unit(match: re.Match[str]) -> tuple[str, str]:
    """The group named `value`, or the first one, and the group named `unit`."""
    groups = match.groupdict()
    value = groups["value"] if "value" in groups else match.group(1)
    return (value or "").strip(), (groups.get("unit") or "").strip()


def _unit_taken_out(item: Item, unit_in_key: str) -> Item:
    if not unit_in_key or item.unit or len(item.key) > LONGEST_KEY:
        return item
    section, slash, leaf = _leaf(item.key)
    match = re.search(unit_in_key, leaf)
    if match is None:
        return item
    return item._replace(key=section + slash + match["key"].strip(), unit=match["unit"].strip())


def _leaf(key: str) -> tuple[str, str, str]:
    """Section and key; a slash within brackets belongs to the key: `Scan Settings/Speed [deg/s]`."""
    cut = key.rfind("/", 0, min((i for i in map(key.find, "[(") if i >= 0), default=len(key)))
    return (key[:cut], "/", key[cut + 1 :]) if cut >= 0 else ("", "", key)


def _from_lines(text: str, table: Table) -> Iterator[Item]:
    section = ""
    read_by_pattern = [re.compile(tag.pattern) for tag in table.tag if not tag.keys]
    for line in _own_lines(text, table):
        begin = line[:LONGEST_KEY]
        begun = re.search(table.section, begin) if table.section else None
        if begun is not None:
            section = (begun.group(1) or "").strip()
        elif not any(pattern.search(line[:LONGEST_LINE]) for pattern in read_by_pattern):
            between = re.search(table.separator, begin)
            key = begin[: between.start()].strip() if between else ""
            where = f"{section}/{key}" if section else key
            if between and key:
                yield Item(where, where, line[between.end() :].strip())


def _own_lines(text: str, table: Table) -> Iterator[str]:
    """Lines without blanks around them that may hold something: no comments, none after the keys have ended."""
    comment = re.compile(table.comment) if table.comment else None
    for line in map(str.strip, text.splitlines()):
        if table.until and re.search(table.until, line[:LONGEST_LINE]):
            return
        if line and not (comment and comment.match(line)):
            yield line


class _Pairs(list[tuple[str, Any]]):
    """A JSON object whose keys may come twice: what contradicts itself must not be hidden by the last word."""


def _from_json(text: str) -> Iterator[Item]:
    try:
        tree = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as exc:
        raise NotThatSyntax(f"not JSON: {exc}") from exc
    if not isinstance(tree, _Pairs):
        raise NotThatSyntax("not a JSON object with keys and values")
    yield from _walked(tree, "", 0)


def _walked(tree: _Pairs, place: str, depth: int) -> Iterator[Item]:
    if depth > DEEPEST:
        raise NotThatSyntax(f"more than {DEEPEST} levels deep")
    for key, value in tree:
        where = f"{place}{key}"
        if not isinstance(value, _Pairs):
            yield Item(where, where, _json_text(value))
            continue
        inside = dict(value)
        if "value" in inside and not isinstance(inside["value"], _Pairs):
            unit = inside.get("unit", inside.get("units", ""))
            yield Item(where, where, _json_text(inside["value"]), unit if isinstance(unit, str) else "")
        else:
            yield from _walked(value, f"{where}/", depth + 1)


def _json_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _from_xml(text: str) -> Iterator[Item]:
    # Entities can make a short file long; no log needs them.
    if re.search(r"<!(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise NotThatSyntax("XML with a document type, which is not read")
    try:
        root = ElementTree.fromstring(re.sub(r"\A\s*<\?xml[^>]*\?>", "", text))
    except (ElementTree.ParseError, ValueError) as exc:
        raise NotThatSyntax(f"not XML: {exc}") from exc
    yield from _elements(root, _plain_name(root), 0)


def _elements(element: ElementTree.Element, place: str, depth: int) -> Iterator[Item]:
    if depth > DEEPEST:
        raise NotThatSyntax(f"more than {DEEPEST} levels deep")
    unit = element.get("unit") or element.get("units") or ""
    if (element.text or "").strip():
        yield Item(place, place, (element.text or "").strip(), unit)
    for name, value in element.items():
        if name not in ("unit", "units"):
            yield Item(f"{place}@{name}", f"{place}@{name}", value)
    for child in element:
        yield from _elements(child, f"{place}/{_plain_name(child)}", depth + 1)


def _plain_name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _from_columns(text: str, table: Table) -> Iterator[Item]:
    rows = _rows(text, table)
    if not rows:
        return
    width = max(map(len, rows))
    if width > MOST_COLUMNS:
        raise NotThatSyntax(f"{width} columns")
    names = rows[0] if table.header else [str(i + 1) for i in range(width)]
    body = rows[1:] if table.header else rows
    for i, name in enumerate(names):
        column = [row[i] if i < len(row) else "" for row in body]
        while column and not column[-1]:
            column.pop()
        if column:
            yield Item(name, name, "\n".join(column))


def _rows(text: str, table: Table) -> list[list[str]]:
    """Fields of the lines."""
    lines = list(_own_lines(text, table))
    if not table.separator:
        return [line.split() for line in lines]
    try:
        read = csv.reader(io.StringIO("\n".join(lines)), delimiter=table.separator, skipinitialspace=True)
        return [[field.strip() for field in row] for row in read]
    except csv.Error as exc:
        raise NotThatSyntax(f"not columns: {exc}") from exc
