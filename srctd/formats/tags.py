"""What a log or parameter file says, under canonical names: the generic mapper.

Nothing here knows a program: the tables of tags do. A value that cannot be used is named in the notes and kept
verbatim among the unmapped; it is never guessed at.
"""

import math
import os
import re
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import msgspec

from srctd.core.errors import ScanUnreadable
from srctd.core.tags import CANONICAL, Canonical, Tagged, TagValue
from srctd.formats import edf
from srctd.formats.files import opened
from srctd.formats.hdf5 import translated
from srctd.formats.protocol import ReadOptions
from srctd.formats.tagsyntax import LONGEST_LINE, Item, NotThatSyntax, items, searched, value_and_unit
from srctd.formats.tagtables import DIMENSIONS, WORD_SYNTAXES, Plain, Table, Tag, load_tables

PART = 2 * 1024**2
"""Bytes at either end of a file that are read: a log may grow for days, what matters stands at its ends."""
LONGEST = 1000
"""Characters of a value that are kept verbatim."""
MOST_UNMAPPED = 500
MOST_SAID = 4
"""Values of one kind that notes name."""
MOST_NUMBERS = 10_000_000
LARGEST_COUNT = 10**9
LONGEST_NUMBER = 200
"""Characters of a number with its unit."""
SAME = 1e-6
"""Two numbers that differ relatively by less say the same."""
FLAGS = {
    "yes": True,
    "no": False,
    "on": True,
    "off": False,
    "true": True,
    "false": False,
    "1": True,
    "0": False,
}
NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![\d.,])\s*(.*)", re.DOTALL)

Value = float | int | bool | str | tuple[float, ...]


class NotUsable(ValueError):
    """A value that says nothing; the message goes on after `... = ...`."""


class _Text(NamedTuple):
    """What was read of a file."""

    text: str
    whole: bool
    note: str = ""


class _Found(NamedTuple):
    """A value with its item."""

    item: Item
    value: Value


def read_tags(path: str, options: ReadOptions) -> Tagged | None:
    """What the file says; None if no table knows it.

    Raises `ConfigError` for a table that is wrong, `ScanUnreadable`, `NotPermitted` or `StorageUnavailable` for a
    file that cannot be reached. What the content may be never raises.
    """
    name = os.path.basename(path)
    candidates = [table for table in load_tables(options.tags_directory) if table.knows(name)]
    if not candidates:
        return None
    head, tail = _ends(path)
    for table in candidates:
        if table.syntax == "edf":
            tagged = _from_edf(path, table)
        elif (read := _decoded(head, tail, table)) is not None and re.search(table.signature, read.text):
            tagged = _from_text(path, read, table, options)
        else:
            tagged = None
        if tagged is not None:
            return tagged
    return None


def read_all(folder: str, names: Iterable[str], options: ReadOptions) -> tuple[Tagged, ...]:
    """What those files of a folder say that a table knows, in their order."""
    read = (read_tags(os.path.join(folder, name), options) for name in names)
    return tuple(tagged for tagged in read if tagged is not None)


def _ends(path: str) -> tuple[bytes, bytes]:
    """The whole of a file and nothing, or its two ends, cut at line breaks."""
    with translated(path), opened(path) as number:
        size = os.fstat(number).st_size
        if size <= 2 * PART:
            return os.pread(number, 2 * PART, 0), b""
        head, tail = os.pread(number, PART, 0), os.pread(number, PART, size - PART)
    return head[: head.rfind(b"\n") + 1] or head, tail[tail.find(b"\n") + 1 :]


def _decoded(head: bytes, tail: bytes, table: Table) -> _Text | None:
    """None for what is no text."""
    wide = head[:2] in (b"\xff\xfe", b"\xfe\xff")
    if b"\0" in head and not wide:
        return None
    for encoding in ("utf-16",) if wide else table.encodings:
        try:
            return _Text((head + tail).decode(encoding), not tail)
        except UnicodeDecodeError:
            continue
    text = (head + tail).decode(table.encodings[-1] if table.encodings else "utf-8", errors="replace")
    return _Text(text, not tail, f"has bytes that are not {' or '.join(table.encodings)}")


def _from_edf(path: str, table: Table) -> Tagged | None:
    try:
        fields = edf.read_header(path).fields
    except ScanUnreadable as exc:
        return Tagged(path=path, table=table.name, notes=(exc.sentence,))
    return _mapped(path, table, [Item(key, key, value) for key, value in fields.items()], [])


def _from_text(path: str, read: _Text, table: Table, options: ReadOptions) -> Tagged:
    notes = [f"{path} {read.note}"] if read.note else []
    listed: list[Item] = []
    if not read.whole and table.syntax not in WORD_SYNTAXES:
        notes.append(f"{path} is larger than {2 * PART:,} bytes and is not read as {table.syntax}")
    else:
        try:
            listed = items(read.text, table)
        except NotThatSyntax as exc:
            notes.append(f"{path} cannot be read by the table {table.name!r}: {exc}")
    if not read.whole and table.syntax in WORD_SYNTAXES:
        notes.append(f"of {path} the first and the last {PART:,} bytes were read")
    lines = read.text.splitlines() if table.syntax in WORD_SYNTAXES else []
    tagged = _mapped(path, table, listed, lines)
    end_line, ends = _end_line(lines, table, options)
    return msgspec.structs.replace(tagged, notes=(*notes, *tagged.notes), end_line=end_line, ends=ends)


def _end_line(lines: Sequence[str], table: Table, options: ReadOptions) -> tuple[str, bool]:
    """The last line that says that the acquisition ended, and whether there must be one before it has."""
    pattern = options.end_line or table.end_line
    if table.syntax not in WORD_SYNTAXES or not pattern:
        return "", False
    logged = lines[_first_with(lines, table.until) :] if table.until else lines
    wanted = re.compile(pattern)
    cut = (line[:LONGEST_LINE].strip() for line in reversed(logged))
    return next(filter(wanted.search, cut), ""), bool(options.end_line) or table.always_ends


def _first_with(lines: Sequence[str], pattern: str) -> int:
    """Index of the first line that a pattern is found in; 0 if there is none."""
    wanted = re.compile(pattern)
    return next((i for i, line in enumerate(lines) if wanted.search(line[:LONGEST_LINE])), 0)


def fixed_by(table: str) -> str:
    """The origin of values that a table holds to be always so."""
    return f"table {table}"


# --- from items to canonical names ---------------------------------------------------------------------------


def _mapped(path: str, table: Table, listed: Sequence[Item], lines: Sequence[str]) -> Tagged:
    name = os.path.basename(path)
    by_key = _by_key(listed, table)
    values: dict[str, TagValue] = {
        canonical: TagValue(value=value, unit=CANONICAL[canonical].unit, origin=fixed_by(table.name))
        for canonical, value in table.fixed.items()
    }
    used = {table.same(item.key) for tag in table.tag for item in _at(by_key, tag.unit_key, table)}
    notes: list[str] = []
    kept: dict[str, str] = {}
    for canonical in dict.fromkeys(tag.name for tag in table.tag):
        found, problems = _all_found(
            [tag for tag in table.tag if tag.name == canonical], by_key, lines, table
        )
        used.update(table.same(item.key) for item in (*(entry.item for entry in found), *problems))
        notes += [
            f"{path}: {item.where} = {_short(item.value)!r} {why} and is not used as {canonical}"
            for item, why in islice(problems.items(), MOST_SAID)
        ]
        _keep(kept, problems)
        if not found:
            continue
        first = found[0]
        if all(same(first.value, other.value) for other in found):
            origin = f"{name}: {' '.join(first.item.where.split())}"
            values[canonical] = TagValue(value=first.value, unit=CANONICAL[canonical].unit, origin=origin)
        else:
            values.pop(canonical, None)
            _keep(kept, [entry.item for entry in found])
            notes.append(f"{path}: {_both(found)} contradict each other and are not used as {canonical}")
    unmapped = _unmapped(by_key, used)
    if len(unmapped) > MOST_UNMAPPED:
        notes.append(f"{path} has {len(unmapped)} values that no table knows; {MOST_UNMAPPED} are kept")
    cut = dict(list(unmapped.items())[:MOST_UNMAPPED])
    return Tagged(path=path, table=table.name, values=values, unmapped=kept | cut, notes=tuple(notes))


def _by_key(listed: Iterable[Item], table: Table) -> dict[str, list[Item]]:
    found: dict[str, list[Item]] = {}
    for item in listed:
        found.setdefault(table.same(item.key), []).append(item)
    return found


def _all_found(
    tags: Sequence[Tag], by_key: dict[str, list[Item]], lines: Sequence[str], table: Table
) -> tuple[list[_Found], dict[Item, str]]:
    """Every value that the file has for a canonical name; and those that cannot be used, with the reason."""
    found: list[_Found] = []
    problems: dict[Item, str] = {}
    for tag in tags:
        for item in _candidates(tag, by_key, lines, table):
            try:
                value = converted(item, tag, CANONICAL[tag.name])
            except NotUsable as exc:
                problems[item] = str(exc)
            else:
                found.append(_Found(item, value))
    return found, problems


def _candidates(tag: Tag, by_key: dict[str, list[Item]], lines: Sequence[str], table: Table) -> list[Item]:
    if not tag.keys:
        item = searched(lines, tag)
        return [item] if item is not None else []
    named = [item for key in tag.keys for item in _at(by_key, key, table) if item.value]
    if tag.unit_key:
        units = _at(by_key, tag.unit_key, table)
        named = [item._replace(unit=item.unit or units[0].value) if units else item for item in named]
    return named


def _at(by_key: dict[str, list[Item]], key: str, table: Table) -> list[Item]:
    """Items under a key; `*/key`: in any section, or in none."""
    if not key.startswith("*/"):
        return by_key.get(table.same(key), [])
    leaf = table.same(key[2:])
    return [item for there, listed in by_key.items() if f"/{there}".endswith(f"/{leaf}") for item in listed]


def converted(item: Item, tag: Tag, meaning: Canonical) -> Value:
    """The value of an item in the unit used inside; raises `NotUsable`."""
    raw, unit = item.value, item.unit
    if tag.pattern and tag.keys:
        match = re.search(tag.pattern, raw[:LONGEST_LINE])
        if match is None:
            raise NotUsable("is not of the form that the table expects")
        raw, own_unit = value_and_unit(match)
        unit = own_unit or unit
    stands_for = {key.strip().lower(): value for key, value in tag.values.items()}
    word: Plain = stands_for.get(raw.strip().lower(), raw)
    if meaning.kind == "text":
        return str(word).strip()[:LONGEST]
    if meaning.kind == "flag":
        return _flag(word)
    if meaning.kind == "numbers":
        return _numbers(str(word), unit or tag.unit, meaning)
    number, own_unit = _number(_single(str(word)))
    if meaning.kind == "count":
        return _count(number, own_unit)
    return _finite(number * _factor(_one_unit(own_unit, unit, meaning) or tag.unit, meaning))


def _flag(word: Plain) -> bool:
    known = FLAGS.get(str(word).strip().lower())
    if known is None:
        raise NotUsable("is neither yes nor no")
    return known


def _single(raw: str) -> str:
    """The one value of a column whose lines agree."""
    lines = {line.strip() for line in raw.splitlines() if line.strip()}
    if len(lines) != 1:
        raise NotUsable(f"is {len(lines)} different values")
    return lines.pop()


def _number(raw: str) -> tuple[float, str]:
    """A number and what stands behind it."""
    match = NUMBER.fullmatch(raw.strip()) if len(raw) <= LONGEST_NUMBER else None
    if match is None:
        raise NotUsable("is no number")
    return _finite(float(match[1])), match[2].strip()


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise NotUsable("is no finite number")
    return number


def _count(number: float, behind: str) -> int:
    if behind or number != int(number) or not 0 <= number <= LARGEST_COUNT:
        raise NotUsable("is no count")
    return int(number)


def _one_unit(behind: str, beside: str, meaning: Canonical) -> str:
    """The unit of a value that may have one behind it and one beside it, if they do not contradict."""
    if behind and beside and _factor(behind, meaning) != _factor(beside, meaning):
        raise NotUsable(f"has the units {beside!r} and {behind!r}")
    return behind or beside


def _factor(unit: str, meaning: Canonical) -> float:
    dimension = DIMENSIONS[meaning.unit]
    worth, own = dimension.factor(unit), dimension.factor(meaning.unit)
    if worth is None or own is None:
        raise NotUsable(f"has the unknown unit {unit!r}" if unit else "has no unit")
    return worth / own


def _numbers(raw: str, unit: str, meaning: Canonical) -> tuple[float, ...]:
    words = re.split(r"[\s,;]+", raw.strip().strip("[]()").strip())
    if len(words) > MOST_NUMBERS:
        raise NotUsable(f"is {len(words):,} numbers")
    factor = _factor(unit, meaning)
    return tuple(_finite(_bare_number(word) * factor) for word in words)


def _bare_number(word: str) -> float:
    try:
        number, behind = _number(word)
    except NotUsable:
        number, behind = 0.0, word
    if behind:
        raise NotUsable(f"holds {_short(word)!r}, which is no number")
    return number


# --- what could not be used --------------------------------------------------------------------------------


def same(one: Value, other: Value) -> bool:
    """Whether two values say the same: numbers up to rounding, words whatever their case."""
    if isinstance(one, str) or isinstance(other, str):
        return str(one).strip().lower() == str(other).strip().lower()
    if isinstance(one, tuple) or isinstance(other, tuple):
        return one == other
    return math.isclose(one, other, rel_tol=SAME, abs_tol=1e-12)


def _both(found: Sequence[_Found]) -> str:
    said = dict.fromkeys(f"{entry.item.where} = {_short(entry.item.value)!r}" for entry in found)
    return " and ".join(islice(said, MOST_SAID))


def _short(value: str, most: int = 60) -> str:
    return value if len(value) <= most else f"{value[: most - 3]}..."


def _unmapped(by_key: dict[str, list[Item]], used: set[str]) -> dict[str, str]:
    """Values of keys that no tag took."""
    kept: dict[str, str] = {}
    for key, listed in by_key.items():
        if key not in used:
            _keep(kept, listed)
    return kept


def _keep(kept: dict[str, str], listed: Iterable[Item]) -> None:
    """Values verbatim; of a key that comes again every one that differs."""
    by_place: dict[str, dict[str, None]] = {}
    for item in listed:
        by_place.setdefault(item.where, {})[item.value] = None
    kept.update((where, _short("; ".join(values), LONGEST)) for where, values in by_place.items())
