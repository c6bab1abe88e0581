"""Reconstruction parameters: every value with its unit and its origin, and which recipe a scan gets.

A *recipe* (``etc/recipes/*.toml``) sets some parameters and says for which scans. The *parameter file* that
lies in the task directory and is handed to the workers holds all of them, resolved.
"""

import difflib
import fnmatch
import hashlib
import math
from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from typing import Any

import msgspec

from srctd.core.errors import ConfigError, HoldError
from srctd.core.labels import sentence
from srctd.core.messages import PreviewResult
from srctd.core.scan import ScanHeader, Shortfall

Value = bool | int | float | str | None


class Origin(StrEnum):
    """Where a parameter's value comes from."""

    DEFAULT = "default"
    RULE = "rule"
    FILE = "file"
    ESTIMATED = "estimated"
    OPERATOR = "operator"
    SPACE = "space"
    """Shared storage was filling up; the source says how much was free."""


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """One resolved parameter."""

    value: Value
    unit: str = ""
    origin: Origin = Origin.DEFAULT
    source: str = ""
    """The recipe's name, the path inside the file, the estimators."""


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a parameter before any scan: type, unit, default, meaning."""

    kind: str
    """`float`, `int`, `bool` or `choice`."""
    default: Value
    doc: str
    unit: str = ""
    choices: tuple[str, ...] = ()
    low: float = float("-inf")
    high: float = float("inf")

    def accept(self, name: str, value: object, where: str) -> Value:
        """Return the value in its own type; raise `ConfigError` naming the place otherwise."""
        if value is None or (value == "auto" and self.default is None):
            return None
        if self.kind == "choice":
            if value in self.choices:
                return str(value)
            raise ConfigError(
                f"{where}: {name} = {value!r} is not one of {', '.join(self.choices)}",
                hint="choose one of them",
            )
        if self.kind == "bool":
            if isinstance(value, bool):
                return value
        elif isinstance(value, int | float) and not isinstance(value, bool):
            number = int(value) if self.kind == "int" else float(value)
            whole = self.kind != "int" or number == value
            if self.low <= number <= self.high and math.isfinite(number) and whole:
                return number
            raise ConfigError(f"{where}: {name} = {value!r} lies outside {self.low:g} to {self.high:g}")
        raise ConfigError(f"{where}: {name} = {value!r} is not of type {self.kind}")


SPECS: dict[str, Spec] = {
    "center": Spec(
        kind="float",
        default=None,
        unit="pixel",
        doc="Column of the rotation axis, 0-based, pixel centers at integers; unset: estimated.",
    ),
    "algorithm": Spec(
        kind="choice",
        default="fourier",
        choices=("fourier",),
        doc="Filtered back-projection; `fourier`: by a non-uniform fast Fourier transform.",
    ),
    "filter": Spec(
        kind="choice",
        default="ram-lak",
        choices=("ram-lak", "shepp-logan", "cosine", "hamming", "hann", "parzen", "sinc2"),
        doc="Ramp filter and its apodisation; `ram-lak` is the exact ramp.",
    ),
    "padding": Spec(
        kind="choice",
        default="edge",
        choices=("edge", "zero"),
        doc="How detector rows are continued beyond the detector before filtering.",
    ),
    "padding_factor": Spec(
        kind="float",
        default=2.0,
        low=1.0,
        high=8.0,
        unit="detector width",
        doc="Width after padding.",
    ),
    "tolerance": Spec(
        kind="float",
        default=1e-4,
        low=1e-6,
        high=1e-2,
        doc="Relative tolerance of the non-uniform Fourier transform.",
    ),
    "ring_removal": Spec(
        kind="choice",
        default="median",
        choices=("none", "median"),
        doc="`median`: columns whose median over the angles stands out of their neighborhood are leveled.",
    ),
    "ring_size": Spec(
        kind="int",
        default=9,
        low=3,
        high=501,
        unit="pixel",
        doc="Neighborhood against which a column is judged; wider stripes than half of it stay.",
    ),
    "ring_threshold": Spec(
        kind="float",
        default=3.0,
        low=0.0,
        high=100.0,
        unit="robust standard deviation",
        doc="Only columns that stand out by more than this are corrected.",
    ),
    "minimum_transmission": Spec(
        kind="float",
        default=1e-4,
        low=1e-9,
        high=1.0,
        doc="Transmission below this is set to it before the logarithm.",
    ),
    "repair_dead_pixels": Spec(
        kind="bool",
        default=True,
        doc="Pixels that never respond or are not finite are interpolated from their neighbors in the row.",
    ),
    "reverse_angles": Spec(
        kind="bool",
        default=False,
        doc="Take the rotation angles with the opposite sign; the wrong sense gives no image.",
    ),
    "first_row": Spec(kind="int", default=None, low=0, unit="pixel", doc="First detector row; unset: 0."),
    "end_row": Spec(kind="int", default=None, low=1, unit="pixel", doc="Row after the last; unset: all."),
    "pixel_size": Spec(
        kind="float",
        default=None,
        low=1e-12,
        unit="m",
        doc="Pixel size at the sample; unset and not in the file: values are per pixel.",
    ),
    "energy": Spec(kind="float", default=None, low=0.0, unit="keV", doc="Photon energy."),
    "distance": Spec(kind="float", default=None, low=0.0, unit="m", doc="Sample to detector."),
    "output_dtype": Spec(
        kind="choice",
        default="float32",
        choices=("float32", "uint16"),
        doc="Of the volume; `uint16`: half as large, value = offset + scale x stored integer.",
    ),
    "output_minimum": Spec(
        kind="float",
        default=None,
        doc="Value stored as 0, in the unit of the volume; unset: found in the preview. `uint16` only.",
    ),
    "output_maximum": Spec(
        kind="float",
        default=None,
        doc="Value stored as 65535, in the unit of the volume; unset: found in the preview. `uint16` only.",
    ),
}

RANGE = ("output_minimum", "output_maximum")


class Match(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which scans a recipe is for; every given pattern must hold (shell wildcards)."""

    path: str = "*"
    instrument: str = "*"
    sample: str = "*"
    proposal: str = "*"
    format: str = "*"


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named set of parameter values for the scans that it matches."""

    name: str
    description: str = ""
    priority: int = 0
    """The matching recipe of the highest priority is taken; equal ones by name."""
    match: Match = Match()
    parameters: dict[str, Any] = {}

    def validated(self, where: str) -> "Recipe":
        """The same recipe with every value checked against `SPECS`; raises `ConfigError`."""
        checked = {
            name: spec_of(name, where).accept(name, value, where) for name, value in self.parameters.items()
        }
        return msgspec.structs.replace(self, parameters=checked)


DEFAULT_RECIPE = Recipe(name="built-in", description="Defaults of the parameters", priority=-1_000_000)


class ParameterFile(msgspec.Struct, frozen=True, kw_only=True):
    """`parameters.json` in a task directory: all that a worker needs to know of a scan."""

    schema: str = "srctd-parameters/1"
    scan: str
    input: str
    """The index of frames that is opened: absolute, or relative to the folder of this file."""
    input_in_place: bool
    """Whether the frames lie where they were found, not in a copy."""
    raw: str = ""
    """Name of the file or folder that holds them."""
    member: int = 0
    """Which of the scans that it holds, counted from 0."""
    format: str
    entry: str
    recipe: str
    parameters: dict[str, Parameter]
    shards: tuple[tuple[int, int], ...] = ()
    """Row ranges (first, end) into which the volume is divided."""
    notes: tuple[str, ...] = ()
    """Degradations that a reader of the result must know."""
    shortfall: Shortfall | None = None
    """What is missing of a scan that was taken all the same."""
    center_confidence: float | None = None
    """0 to 1; None until the axis was estimated, or where a person gave it."""
    software: str = ""

    def value(self, name: str) -> Value:
        """The value of a parameter."""
        return self.parameters[name].value

    def number(self, name: str) -> float:
        """The value of a numeric parameter that must be known."""
        value = self.parameters[name].value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"parameter {name} has no number: {value!r}")
        return float(value)

    def rows(self, n_rows: int) -> tuple[int, int]:
        """Row range (first, end) to reconstruct, within `n_rows`."""
        first, end = self.value("first_row"), self.value("end_row")
        return (int(first) if first is not None else 0, min(int(end) if end is not None else n_rows, n_rows))

    def digest(self) -> str:
        """16 hexadecimal digits that change with anything the volume's bytes depend on, for the same raw data.

        Where files lie makes no difference.
        """
        values = {name: parameter.value for name, parameter in self.parameters.items()}
        gaps = self.shortfall and self.shortfall.gaps
        subject = msgspec.json.encode(
            [self.raw, self.member, self.entry, gaps, self.software, values], order="sorted"
        )
        return hashlib.blake2b(subject, digest_size=8).hexdigest()

    def with_parameter(self, name: str, parameter: Parameter) -> "ParameterFile":
        """A copy with one parameter replaced."""
        return msgspec.structs.replace(self, parameters={**self.parameters, name: parameter})

    def with_estimates(self, found: PreviewResult) -> "ParameterFile":
        """A copy with what a preview found of that which nobody gave: the axis, the range of a 16-bit volume."""
        filled = self
        if self.value("center") is None:
            source = ", ".join(estimate.method for estimate in found.estimates)
            axis = Parameter(value=found.center, unit="pixel", origin=Origin.ESTIMATED, source=source)
            filled = msgspec.structs.replace(
                filled.with_parameter("center", axis), center_confidence=found.center_confidence
            )
        if self.value("output_dtype") != "float32" and found.value_range is not None:
            for name, value in zip(RANGE, found.value_range, strict=True):
                if self.value(name) is None:
                    source = "the preview's slices, widened"
                    bound = Parameter(value=value, unit=found.unit, origin=Origin.ESTIMATED, source=source)
                    filled = filled.with_parameter(name, bound)
        return filled

    def without_estimates(self) -> "ParameterFile":
        """A copy before a preview: what was estimated is unknown again."""
        filled = self
        for name in ("center", *RANGE):
            known = self.parameters[name]
            if known.origin is Origin.ESTIMATED:
                filled = filled.with_parameter(name, Parameter(value=None, unit=known.unit))
        return filled

    def in_sixteen_bit(self, because: str) -> "ParameterFile":
        """A copy whose volume is of 16-bit integers for want of space, unless an operator said otherwise.

        `because`: one sentence, how much was free.
        """
        told = self.parameters["output_dtype"]
        if told.origin is Origin.OPERATOR or told.value == "uint16":
            return self
        smaller = Parameter(value="uint16", origin=Origin.SPACE, source=because)
        note = f"the volume is of 16-bit integers: {because}"
        return msgspec.structs.replace(
            self.with_parameter("output_dtype", smaller), notes=(*self.notes, note)
        )


def spec_of(name: str, where: str) -> Spec:
    """The spec of a parameter; raises `ConfigError` with the nearest known name."""
    if name in SPECS:
        return SPECS[name]
    near = difflib.get_close_matches(name, SPECS, 1)
    raise ConfigError(
        f"{where}: unknown parameter {name!r}",
        hint=f"did you mean {near[0]!r}?" if near else "see etc/recipes",
    )


def choose(recipes: Iterable[Recipe], path: str, header: ScanHeader) -> Recipe:
    """The recipe of the highest priority whose patterns all hold; `DEFAULT_RECIPE` if none does."""
    facts = {
        "path": path,
        "instrument": header.instrument,
        "sample": header.sample,
        "proposal": header.proposal,
        "format": header.format,
    }

    def holds(recipe: Recipe) -> bool:
        return all(fnmatch.fnmatchcase(fact, getattr(recipe.match, name)) for name, fact in facts.items())

    fitting = [recipe for recipe in recipes if holds(recipe)]
    return min(fitting, key=lambda r: (-r.priority, r.name), default=DEFAULT_RECIPE)


def resolve(header: ScanHeader, recipe: Recipe, overrides: Mapping[str, Value]) -> dict[str, Parameter]:
    """All parameters: an operator's override before the file's own value before the recipe before the default.

    The file's own values are physical facts (pixel size, energy, distance), which a recipe may fill in where
    the file is silent, not overrule.
    """
    facts = {"pixel_size": header.pixel_size, "energy": header.energy, "distance": header.distance}
    resolved: dict[str, Parameter] = {}
    for name, spec in SPECS.items():
        fact = facts.get(name)
        if overrides.get(name) is not None:
            given = spec.accept(name, overrides[name], "override")
            resolved[name] = Parameter(value=given, unit=spec.unit, origin=Origin.OPERATOR)
        elif fact is not None:
            resolved[name] = Parameter(
                value=fact.value, unit=fact.unit, origin=Origin.FILE, source=fact.origin
            )
        elif recipe.parameters.get(name) is not None:
            value = recipe.parameters[name]
            resolved[name] = Parameter(value=value, unit=spec.unit, origin=Origin.RULE, source=recipe.name)
        else:
            resolved[name] = Parameter(value=spec.default, unit=spec.unit)
    return resolved


def physics_notes(unknown: Collection[str]) -> tuple[str, ...]:
    """What follows from unknown physics, of `pixel_size`, `energy` and `distance`; one sentence each."""
    notes = []
    if "pixel_size" in unknown:
        notes.append("the pixel size is unknown: values are per pixel, not per metre")
    lacking = [name for name in ("energy", "distance") if name in unknown]
    if lacking:
        verb = "is" if len(lacking) == 1 else "are"
        notes.append(f"{' and '.join(lacking)} {verb} unknown: no phase retrieval")
    return tuple(notes)


def resolved_notes(header: ScanHeader, resolved: Mapping[str, Parameter]) -> tuple[str, ...]:
    """The header's notes, where recipe or operator may have filled in what the file does not say."""
    names = ("pixel_size", "energy", "distance")
    of_the_file = physics_notes([name for name in names if getattr(header, name) is None])
    others = tuple(note for note in header.notes if note not in of_the_file)
    if header.shortfall is not None:
        others = (sentence(header.shortfall), *others)
    return others + physics_notes([name for name in names if resolved[name].value is None])


def parameter_file(
    header: ScanHeader,
    chosen: Recipe,
    overrides: Mapping[str, Value],
    *,
    scan: str,
    input: str,
    input_in_place: bool,
    raw: str,
    member: int,
    software: str,
) -> ParameterFile:
    """All that is known of a scan before its axis and its shards are."""
    resolved = resolve(header, chosen, overrides)
    return ParameterFile(
        scan=scan,
        input=input,
        input_in_place=input_in_place,
        raw=raw,
        member=member,
        format=header.format,
        entry=header.entry,
        recipe=chosen.name,
        parameters=resolved,
        notes=resolved_notes(header, resolved),
        shortfall=header.shortfall,
        software=software,
    )


def fitting_rows(parameters: ParameterFile, path: str, header: ScanHeader) -> tuple[int, int]:
    """Row range (first, end) to reconstruct; raises `HoldError` where rows or axis lie outside the detector."""
    first, end = parameters.rows(header.n_rows)
    if first >= end:
        raise HoldError(
            f"{path}: rows {first} to {end} are none of its {header.n_rows} rows",
            hint="correct first_row and end_row",
        )
    center = None if parameters.value("center") is None else parameters.number("center")
    if center is not None and not 0 <= center <= header.n_columns - 1:
        raise HoldError(
            f"{path}: center = {center:g} lies outside its columns 0 to {header.n_columns - 1}",
            hint="give the column of the rotation axis, or leave it to be estimated",
        )
    return first, end


def parse_setting(text: str) -> tuple[str, Value]:
    """`KEY=VALUE` as given on a command line, checked against `SPECS`."""
    name, separator, raw = text.partition("=")
    if not separator:
        raise ConfigError(f"--set {text}: no '=' in it", hint="write --set KEY=VALUE")
    spec = spec_of(name, f"--set {text}")
    value: object = raw
    if spec.kind in ("int", "float") and raw != "auto":
        try:
            value = int(raw) if spec.kind == "int" else float(raw)
        except ValueError as exc:
            raise ConfigError(f"--set {text}: {raw!r} is not a number") from exc
    elif spec.kind == "bool":
        value = {"true": True, "false": False}.get(raw.lower(), raw)
    return name, spec.accept(name, value, f"--set {text}")
