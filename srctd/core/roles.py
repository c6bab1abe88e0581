"""Which files of a stack are projections, flat fields and dark fields: by layouts of names, chosen by evidence.

A layout is data (`etc/layouts/*.toml`). Roles follow from folders or prefixes, or from the place in one counter for
all frames, where a log says how many of each kind were taken.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

FrameKind = Literal["projections", "flats", "darks"]
Role = Literal["projections", "flats", "darks", "counter", "unused"]
Block = Literal["darks", "flats", "projections", "flats_after", "darks_after"]

_STRAY = 0.02
"""Share of the files that may fit no rule of a layout that otherwise fits: a preview, a snapshot."""


class NameRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What files with such names are."""

    role: Role
    """`counter`: frames of all kinds under one counter."""
    pattern: str
    """Regular expression that the whole path within the scan's folder fits, whatever its case. Its group `index` is
    the number of the frame (of the file, where one holds several); `{prefix}` stands for the prefix that the log
    names, for the scan's own name, or else for anything. `at`: projections that were taken before a flat field."""
    first: int | None = None
    """Number of the first frame, usually; None: the lowest that is there, if it is 0 or 1."""


class Layout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the files of a kind of stack are named."""

    name: str
    description: str = ""
    suffixes: tuple[str, ...] = (".tif", ".tiff")
    """Of the frames, in lower case."""
    names: tuple[NameRule, ...]
    """The first rule that a name fits gives it its role."""
    tags: tuple[str, ...] = ()
    """Tables of tags of its log."""
    needs_log: bool = False
    """Whether only the log shows that it is this layout."""
    one_role_suffices: bool = True
    """Whether files of a single role show the layout; else there must be two roles, or its log."""
    rank: int = 2
    """Of several that fit as well, the one with the highest: 2 for a facility's own, 1 for general ones, 0 the last
    resort."""
    order: tuple[Block, ...] = ("darks", "flats", "projections", "flats_after", "darks_after")
    """Of a counter's frames."""
    beyond: Literal["unused", "flats"] = "unused"
    """What frames after the announced ones are: images taken on the way back, or flat fields."""
    announced: tuple[FrameKind, ...] = ("projections", "flats", "darks")
    """Kinds of which the log's number is one of frames in files; elsewhere medians of several may be stored."""
    end_files: tuple[str, ...] = ()
    """Names of files (wildcards; `{name}` is the scan's own) that appear when the acquisition ended."""
    abort_files: tuple[str, ...] = ()
    """Names of files (wildcards) that appear when it was broken off."""


class Named(NamedTuple):
    """A file with its role."""

    name: str
    role: Role
    number: int
    """As in its name; 0 where it has none."""
    at: int | None
    first: int | None
    """Number of the first file of its kind, where the layout says so."""


class Choice(NamedTuple):
    """The layout that fits best."""

    layout: Layout
    why: str


class Context(NamedTuple):
    """What besides the names speaks for a layout."""

    tables: Collection[str] = ()
    """Names of the tables by which logs were read."""
    counted: bool = False
    """Whether a log says how many frames of each kind there are."""
    prefixes: tuple[str, ...] = ()
    """What `{prefix}` may stand for."""


class _Fit(NamedTuple):
    layout: Layout
    roles: Mapping[Role, int]
    stray: int
    by_log: bool

    @property
    def key(self) -> tuple[bool, bool, int, int]:
        there = sum(self.roles.values())
        return self.by_log, self.stray <= _STRAY * there, self.layout.rank, len(self.roles)


def choose(layouts: Sequence[Layout], names: Sequence[str], context: Context) -> Choice | None:
    """The layout that fits the names best, and why; None if none does.

    A layout whose log is there goes first; then those that fit all files, those of a facility before general ones,
    and those that tell most roles apart. Names that differ in their numbers alone are looked at once.
    """
    examples = _examples(names)
    fits = [fit for layout in layouts if (fit := _fit(layout, examples, context)) is not None]
    if not fits:
        return None
    best = max(fits, key=lambda fit: fit.key)
    words = {"counter": "frames under one counter"}
    roles = ", ".join(f"{count} {words.get(role, role)}" for role, count in sorted(best.roles.items()))
    why = (
        f"layout {best.layout.name}: {roles} by their names{', and its log is there' if best.by_log else ''}"
    )
    return Choice(best.layout, why + (f"; {best.stray} files fit no rule" if best.stray else ""))


def _fit(layout: Layout, examples: Sequence[tuple[str, int]], context: Context) -> _Fit | None:
    rules = _compiled(layout, context.prefixes)
    roles: dict[Role, int] = {}
    stray = kinds_of_names = 0
    for name, count in examples:
        found = _match(rules, name) if name.lower().endswith(layout.suffixes) else None
        if found is None:
            stray += count
        elif found[0].role != "unused":
            roles[found[0].role] = roles.get(found[0].role, 0) + count
            kinds_of_names += 1
    by_log = bool(set(layout.tags) & set(context.tables))
    if not roles or (layout.needs_log and not by_log):
        return None
    if "counter" in roles and not (context.counted and kinds_of_names == 1):
        return None
    if not (layout.one_role_suffices or by_log or len(roles) > 1):
        return None
    return _Fit(layout, roles, stray, by_log)


def assign(layout: Layout, names: Iterable[str], context: Context) -> list[Named]:
    """Every file that has a role, by role, number and name."""
    rules = _compiled(layout, context.prefixes)
    files = []
    for name in names:
        found = _match(rules, name) if name.lower().endswith(layout.suffixes) else None
        if found is None or found[0].role == "unused":
            continue
        rule, groups = found
        at = groups.get("at")
        number = int(groups.get("index") or 0)
        files.append(Named(name, rule.role, number, None if at is None else int(at), rule.first))
    return sorted(files, key=lambda file: (file.role, file.number, file.name))


def first_number(files: Sequence[Named], frames: int | None) -> int | None:
    """Number of the first file of a role, as its names count; None where that cannot be told.

    `files` are sorted; `frames`: how many files there should be, if known. Where exactly so many are there, the
    lowest number is the first one, whatever is usual.
    """
    if not files:
        return 0
    usual, lowest, highest = files[0].first, files[0].number, files[-1].number
    if usual is not None and files[0].role == "counter":
        return usual
    if frames is not None and highest - lowest + 1 == frames:
        return lowest
    if usual is not None:
        return usual
    return lowest if frames is None or lowest in (0, 1) else None


class Run(NamedTuple):
    """Frames of one kind in a row under a counter."""

    kind: FrameKind
    frames: int


def counter_runs(order: Sequence[Block], counts: Mapping[str, int]) -> list[Run]:
    """What the frames of a counter are, by the canonical counts of a log.

    Flat fields between the projections come in sets, after every `flats_every` projections but not after the last.
    """
    runs: list[Run] = []
    for block in order:
        if block == "projections":
            runs += _projection_runs(counts)
        else:
            kind: FrameKind = "flats" if block.startswith("flats") else "darks"
            runs.append(Run(kind, counts.get(f"n_{block}", 0)))
    return [run for run in runs if run.frames]


def _projection_runs(counts: Mapping[str, int]) -> Iterable[Run]:
    total, between = counts["n_projections"], counts.get("n_flats_between", 0)
    every = (counts.get("flats_every", 0) if between else 0) or max(total, 1)
    for first in range(0, total, every):
        if first:
            yield Run("flats", between)
        yield Run("projections", min(every, total - first))


def places(runs: Sequence[Run]) -> list[tuple[FrameKind, int]]:
    """Kind of every frame of a counter, and its number among its kind."""
    before: dict[FrameKind, int] = {"projections": 0, "flats": 0, "darks": 0}
    found: list[tuple[FrameKind, int]] = []
    for kind, frames in runs:
        found += [(kind, before[kind] + i) for i in range(frames)]
        before[kind] += frames
    return found


def holes(numbers: Iterable[int], end: int) -> tuple[tuple[int, int], ...]:
    """What is not among some ascending numbers from 0 to before `end`, as runs (first, last)."""
    found: list[tuple[int, int]] = []
    following = 0
    for number in numbers:
        if number > following:
            found.append((following, number - 1))
        following = number + 1
    return (*found, (following, end - 1)) if following < end else tuple(found)


_Rules = list[tuple[NameRule, re.Pattern[str]]]


def _compiled(layout: Layout, prefixes: Sequence[str]) -> _Rules:
    known = "|".join((*(re.escape(prefix) for prefix in prefixes if prefix), ".*?"))
    return [
        (rule, re.compile(rule.pattern.replace("{prefix}", f"(?:{known})"), re.IGNORECASE))
        for rule in layout.names
    ]


def _match(rules: _Rules, name: str) -> tuple[NameRule, Mapping[str, str | None]] | None:
    for rule, pattern in rules:
        found = pattern.fullmatch(name)
        if found:
            return rule, found.groupdict()
    return None


def _examples(names: Sequence[str]) -> list[tuple[str, int]]:
    """One name of those that differ in the numbers of the file alone, and how many there are."""
    found: dict[str, tuple[str, int]] = {}
    for name in names:
        folder, slash, base = name.rpartition("/")
        example, count = found.get(like := folder + slash + _NUMBER.sub("#", base), (name, 0))
        found[like] = (example, count + 1)
    return list(found.values())


_NUMBER = re.compile(r"\d+")
