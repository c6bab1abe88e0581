"""The two query languages, Loopback's (v3) and Mongo's (v3 and v4), read into one tree of conditions.

The tree says nothing of SQL; `store` turns it into a statement. Reading refuses what it does not know: a filter
half understood would answer with the wrong datasets.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from srctd.catalogd.documents import DATES, instant
from srctd.catalogd.problem import Problem


class Test(msgspec.Struct, frozen=True):
    """A comparison of what lies at a path; an array fits where one of its elements does."""

    path: tuple[str, ...]
    operator: str
    """`eq`, `gt`, `gte`, `lt`, `lte`, `regex` or `exists`."""
    value: Any


class Words(msgspec.Struct, frozen=True):
    """Any of the words occurs in any text of the document."""

    words: tuple[str, ...]


class Every(msgspec.Struct, frozen=True):
    """All of them hold."""

    conditions: tuple["Condition", ...] = ()


class Some(msgspec.Struct, frozen=True):
    """One of them holds."""

    conditions: tuple["Condition", ...]


class Not(msgspec.Struct, frozen=True):
    """It does not hold."""

    condition: "Condition"


Condition = Test | Words | Every | Some | Not

EVERYTHING = Every()


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for."""

    where: Condition = EVERYTHING
    include: tuple[str, ...] = ()
    fields: Any = None
    order: str = ""
    """A field; empty: as they came."""
    descending: bool = False
    limit: int = 100
    skip: int = 0


SINGULAR = {
    "proposalId": "proposalIds",
    "sampleId": "sampleIds",
    "instrumentId": "instrumentIds",
    "principalInvestigator": "principalInvestigators",
    "investigator": "principalInvestigators",
}
"""Names of v3: names of the stored document."""

MOST_ALTERNATIVES = 500
"""In one list of a filter; SQLite's limit on the depth of an expression is 1000."""
MOST_LEVELS = 20
"""Of conditions within conditions; SQLite's parser holds a hundred opened parentheses."""

_COMPARISONS = {"eq": "eq", "gt": "gt", "gte": "gte", "lt": "lt", "lte": "lte", "exists": "exists"}
_LOOPBACK = {"inq": "in", "like": "regex", "neq": "ne"}
_WORDS = {*_COMPARISONS, "in", "nin", "ne", "regex"}


def read_v3(text: str | None) -> Query:
    """Read `?filter=` of v3; raises `Problem` 400."""
    given = _object(text, "filter")
    limits = _mapping(given.get("limits"), "limits")
    field, _, direction = str(limits.get("order") or "").partition(":")
    return Query(
        where=read_where(given.get("where"), loopback=True),
        include=tuple(_relation(item) for item in _list(given.get("include"))),
        fields=given.get("fields"),
        order=SINGULAR.get(field, field),
        descending=direction.lower() == "desc",
        limit=_natural(limits, "limit", 100),
        skip=_natural(limits, "skip", 0),
    )


def read_v4(text: str | None) -> Query:
    """Read `?filter=` of v4; raises `Problem` 400."""
    given = _object(text, "filter")
    limits = _mapping(given.get("limits"), "limits")
    for unknown in (given.keys() - {"where", "include", "fields", "limits"}) | (
        limits.keys() - {"limit", "skip", "sort"}
    ):
        raise Problem(400, f"Property {unknown} should not exist in the filter object")
    sort = _mapping(limits.get("sort"), "limits.sort") or {"createdAt": "desc"}
    field, direction = next(iter(sort.items()))
    return Query(
        where=read_where(given.get("where"), loopback=False),
        include=tuple(_relation(item) for item in _list(given.get("include"))),
        fields=given.get("fields"),
        order=str(field),
        descending=str(direction).lower() in ("desc", "-1"),
        limit=_natural(limits, "limit", 10),
        skip=_natural(limits, "skip", 0),
    )


def read_fullquery(fields: str | None, limits: str | None) -> Query:
    """Read `?fields=&limits=` of v3's full query; raises `Problem` 400."""
    conditions: list[Condition] = []
    for name, value in _object(fields, "fields").items():
        if name == "text":
            conditions.append(Words(tuple(str(value).split())))
        elif isinstance(value, list):
            conditions.append(_read_test(name, "in", value))
        elif isinstance(value, dict):
            if unknown := value.keys() - {"begin", "end"}:
                raise Problem(400, f"fields.{name}: {', '.join(sorted(unknown))} is not understood")
            bounds = (("gte", value.get("begin")), ("lte", value.get("end")))
            conditions.extend(_read_test(name, word, bound) for word, bound in bounds if bound is not None)
        elif value is not None:
            conditions.append(_read_test(name, "eq", value))
    page = read_v3(msgspec.json.encode({"limits": _object(limits, "limits")}).decode())
    return msgspec.structs.replace(page, where=Every(tuple(conditions)))


def read_where(where: object, *, loopback: bool, level: int = 0) -> Condition:
    """Read a `where` object; raises `Problem` 400. `loopback`: words without `$` are operators too."""
    _check_level(level)
    conditions: list[Condition] = []
    for name, value in _mapping(where, "where").items():
        word = name.removeprefix("$")
        if word in ("and", "or", "nor") and (loopback or name.startswith("$")):
            parts = tuple(read_where(item, loopback=loopback, level=level + 1) for item in _short(value))
            joined: dict[str, Condition] = {"and": Every(parts), "or": Some(parts), "nor": Not(Some(parts))}
            conditions.append(joined[word])
        elif isinstance(value, dict):
            conditions.append(_read_operators(name, value, loopback, level))
        else:
            conditions.append(_read_test(name, "eq", value))
    return Every(tuple(conditions))


def has_pattern(condition: Condition) -> bool:
    """Whether a regular expression is among the conditions."""
    match condition:
        case Every(conditions) | Some(conditions):
            return any(map(has_pattern, conditions))
        case Not(inner):
            return has_pattern(inner)
        case Test(operator=operator):
            return operator == "regex"
    return False


def project(document: dict[str, Any], fields: object) -> dict[str, Any]:
    """The document with the wanted fields only; the identifier stays. `fields`: a list, or `{name: 0 | 1}`."""
    if not fields:
        return document
    if isinstance(fields, list):
        wanted = {str(name).split(".")[0] for name in fields}
    else:
        chosen = _mapping(fields, "fields")
        wanted = {name.split(".")[0] for name, flag in chosen.items() if flag}
        if not wanted:
            return {name: value for name, value in document.items() if name not in chosen}
    return {name: value for name, value in document.items() if name in wanted | {"pid", "_id"}}


def _read_operators(name: str, operators: dict[str, Any], loopback: bool, level: int) -> Condition:
    _check_level(level)
    options = str(operators.get("$options", operators.get("options", "")))
    conditions: list[Condition] = []
    for word, value in operators.items():
        if word in ("$options", "options"):
            continue
        bare = word.removeprefix("$")
        if word == "$not" and isinstance(value, dict):
            conditions.append(Not(_read_operators(name, value, loopback, level + 1)))
            continue
        if loopback and bare == "ilike":
            bare, options = "like", "i"
        operator = _LOOPBACK.get(bare, bare) if loopback else bare
        if operator not in _WORDS or not (loopback or word.startswith("$")):
            raise Problem(400, f"Property {word} should not exist in the filter object")
        if operator == "regex" and "i" in options:
            value = f"(?i){value}"
        conditions.append(_read_test(name, operator, value))
    return Every(tuple(conditions))


def _read_test(name: str, operator: str, value: Any) -> Condition:
    path = tuple(name.split("."))
    path = (SINGULAR.get(path[0], path[0]), *path[1:])
    if operator in ("in", "nin"):
        some = Some(tuple(_read_test(name, "eq", item) for item in _short(value)))
        return some if operator == "in" else Not(some)
    if operator == "ne":
        return Not(_read_test(name, "eq", value))
    if operator == "regex":
        try:
            re.compile(str(value))
        except re.error as exc:
            raise Problem(400, f"{name}: not a regular expression: {exc}") from exc
        return Test(path, "regex", str(value))
    if isinstance(value, dict | list):
        raise Problem(400, f"{name}: comparing with a whole object or list is not supported")
    if len(path) == 1 and name in DATES and isinstance(value, str):
        value = instant(value) or value
    if isinstance(value, int) and abs(value) >= 2**63:
        value = float(value)  # as SQLite keeps such numbers
    return Test(path, operator, value)


def _object(text: str | None, name: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        given = msgspec.json.decode(text)
    except msgspec.DecodeError as exc:
        raise Problem(400, f"Invalid JSON in {name}: {exc}") from exc
    return _mapping(given, name)


def _mapping(value: object, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Problem(400, f"{name} must be an object")
    return value


def _list(value: object) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _check_level(level: int) -> None:
    if level > MOST_LEVELS:
        raise Problem(400, "nested too deeply")


def _short(value: object) -> list[Any]:
    items = _list(value)
    if len(items) > MOST_ALTERNATIVES:
        raise Problem(400, f"more than {MOST_ALTERNATIVES} alternatives in a filter")
    return items


def _relation(item: object) -> str:
    relation = item.get("relation") if isinstance(item, Mapping) else item
    return known_relation(str(relation))


def known_relation(name: str) -> str:
    """The name of an includable list; raises `Problem` 400."""
    if name not in ("all", "origdatablocks", "attachments"):
        raise Problem(400, f"Provided include field {name!r} is not part of the dataset relations")
    return name


def _natural(limits: Mapping[str, Any], name: str, default: int) -> int:
    value = limits.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).isascii():
        raise Problem(400, f"limits.{name} must be a number")
    if not str(value).isdigit():
        raise Problem(400, f"limits.{name} must not be negative")
    return min(int(value), 2**62)
