"""From what logs and parameter files say to what the header of a scan says: its physics, its words, its angles.

A scan may have several such files. Where two of them say different things, the value is unknown, and both are
named.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from srctd.core.errors import ScanUnreadable
from srctd.core.scan import Quantity
from srctd.core.tags import Tagged, TagValue
from srctd.formats.tags import fixed_by, same

QUANTITIES = ("energy", "distance", "exposure_time")
WORDS = ("title", "sample", "instrument", "proposal", "experimenter", "email", "start_time", "end_time")
AXES = {"x": "position_x", "y": "position_y", "z": "position_z"}
AGREE = 0.5
"""Two rules agree on the angles if they differ by less than so many steps at the far end."""


class Angles(NamedTuple):
    """The angle of every projection that was announced, and by which rule it is known."""

    radians: tuple[float, ...]
    rule: str
    """In a few words."""
    assumed: tuple[str, ...] = ()
    """What the rule takes for granted that nothing says, one sentence each."""


def merged(tagged: Sequence[Tagged]) -> tuple[dict[str, TagValue], list[str]]:
    """Values by canonical name, those left out that two files contradict each other in; and a note on each of
    these.
    """
    values: dict[str, TagValue] = {}
    notes: list[str] = []
    names = dict.fromkeys(name for file in tagged for name in file.values)
    for name in names:
        there = [(file, file.values[name]) for file in tagged if name in file.values]
        # What a table holds to be always so gives way to what a file says.
        read = [value for file, value in there if value.origin != fixed_by(file.table)]
        said = read or [value for _, value in there]
        if all(same(said[0].value, value.value) for value in said):
            values[name] = said[0]
        else:
            both = " and ".join(f"{value.origin} = {_words(value)}" for value in said[:4])
            notes.append(f"{both} contradict each other and are not used as {name}")
    return values, notes


def facts(tagged: Sequence[Tagged]) -> dict[str, object]:
    """Fields of `ScanHeader` that describe the measurement; those that nothing is known of are not in it.

    `notes` says what could not be used and why, `unmapped` keeps what no table knows.
    """
    values, notes = merged(tagged)
    found: dict[str, object] = {}
    for name in QUANTITIES:
        if name in values:
            _keep(found, name, _positive(name, values[name], notes))
    _keep(found, "pixel_size", _pixel_size(values, notes))
    found.update((name, str(values[name].value)) for name in WORDS if name in values)
    positions = {axis: _quantity(values[name]) for axis, name in AXES.items() if name in values}
    if positions:
        found["positions"] = positions
    if "source_distance" in values:
        at = values["source_distance"]
        notes.append(
            f"the beam diverges ({at.origin} = {_words(at)}); it is reconstructed as if it were parallel"
        )
    notes += _assumed_angles(tagged, values)
    found["unmapped"] = {key: value for file in reversed(tagged) for key, value in file.unmapped.items()}
    found["notes"] = tuple(dict.fromkeys([*(note for file in tagged for note in file.notes), *notes]))
    return found


def angles(tagged: Sequence[Tagged], n_projections: int) -> Angles | None:
    """The angle of every announced projection, radian; None if nothing says it.

    In this order: a list with one angle per projection; start and step; start and end, or range. What else is
    said must agree: raises `ScanUnreadable` if it does not.
    """
    values, _ = merged(tagged)
    listed = values.get("angles")
    if listed is not None and isinstance(listed.value, tuple) and len(listed.value) == n_projections:
        return Angles(_radians(listed.value), f"{n_projections} angles of {listed.origin}")
    numbers = {name: value for name, value in values.items() if name.startswith("angle_")}
    if n_projections < 1 or not {"angle_step", "angle_range", "angle_end"} & set(numbers):
        return None
    start = _degrees(numbers["angle_start"]) if "angle_start" in numbers else 0.0
    assumed = (
        [] if "angle_start" in numbers else ["the first angle is not given: the volume is turned as a whole"]
    )
    step, how = _step(numbers, _span(numbers, start, n_projections), n_projections)
    if not {"angle_step", "angle_range", "angle_end_included"} & set(numbers):
        assumed.append("the last projection is taken to be one step before the end of the rotation")
    turned = start + step * np.arange(n_projections)
    return Angles(_radians(turned.tolist()), f"from {start:g} deg {how}", tuple(assumed))


def _assumed_angles(tagged: Sequence[Tagged], values: dict[str, TagValue]) -> tuple[str, ...]:
    """What the rule for the angles takes for granted; a contradiction is named where they are asked for."""
    announced = values.get("n_projections")
    if announced is None or not isinstance(announced.value, int):
        return ()
    try:
        known = angles(tagged, announced.value)
    except ScanUnreadable:
        return ()
    return known.assumed if known else ()


# --- physics -----------------------------------------------------------------------------------------------


def _keep(found: dict[str, object], name: str, value: object) -> None:
    if value is not None:
        found[name] = value


def _quantity(value: TagValue) -> Quantity:
    assert not isinstance(value.value, str | tuple)  # a number, by the kind of its canonical name
    return Quantity(value=float(value.value), unit=value.unit, origin=value.origin)


def _positive(name: str, value: TagValue, notes: list[str]) -> Quantity | None:
    quantity = _quantity(value)
    if quantity.value > 0:
        return quantity
    notes.append(f"{value.origin} = {_words(value)} is not positive and is not used as {name}")
    return None


def _pixel_size(values: dict[str, TagValue], notes: list[str]) -> Quantity | None:
    """At the sample: as it is given, or the camera's, through binning and magnification."""
    if "pixel_size" in values:
        return _positive("pixel_size", values["pixel_size"], notes)
    if "camera_pixel_size" not in values:
        return None
    camera = _positive("camera_pixel_size", values["camera_pixel_size"], notes)
    if "magnification" not in values:
        notes.append(f"the pixel size is known at the camera only ({values['camera_pixel_size'].origin})")
        return None
    magnification = _positive("magnification", values["magnification"], notes)
    binning = _positive("binning", values["binning"], notes) if "binning" in values else None
    if camera is None or magnification is None or ("binning" in values and binning is None):
        return None
    factor = 1.0 if binning is None else binning.value
    binned = f" * {factor:g} ({binning.origin})" if binning else ", taken as unbinned"
    return Quantity(
        value=camera.value * factor / magnification.value,
        unit=camera.unit,
        origin=f"{camera.value:g} m ({camera.origin}){binned} / {magnification.value:g} ({magnification.origin})",
    )


# --- angles, degree ------------------------------------------------------------------------------------------


def _span(numbers: dict[str, TagValue], start: float, n_projections: int) -> float | None:
    """The whole rotation with its sign; None if only the step is known."""
    ranged, ended = numbers.get("angle_range"), numbers.get("angle_end")
    if ended is None:
        return None if ranged is None else _degrees(ranged)
    span = _degrees(ended) - start
    if ranged is not None:
        slack = AGREE * abs(span) / n_projections + 1e-9
        # The end may be the angle of the last projection, one step before the range is over.
        short = abs(_degrees(ranged)) - abs(span)
        if not -slack <= short <= 2 * abs(span) / max(1, n_projections - 1) + slack:
            raise _contradiction(numbers, ("angle_range", "angle_start", "angle_end"))
    return span


def _step(numbers: dict[str, TagValue], span: float | None, n_projections: int) -> tuple[float, str]:
    given = numbers.get("angle_step")
    included = numbers.get("angle_end_included")
    if given is not None:
        step = _degrees(given)
        if span is None:
            return step, f"in steps of {step:g} deg"
        step = math.copysign(step, span) if span else step
        steps = abs(span / step) if step else math.inf
        if not n_projections - 1 - AGREE <= steps <= n_projections + AGREE:
            raise _contradiction(
                numbers, ("angle_step", "angle_range", "angle_start", "angle_end"), n_projections
            )
        return step, f"in steps of {step:g} deg"
    assert span is not None  # one of the three is there
    if included is not None and included.value:
        return span / max(1, n_projections - 1), f"over {span:g} deg with the last projection at the end"
    return span / n_projections, f"over {span:g} deg in {n_projections} steps, the end not taken"


def _contradiction(
    numbers: dict[str, TagValue], names: Sequence[str], n_projections: int | None = None
) -> ScanUnreadable:
    said = " and ".join(
        f"{numbers[name].origin} = {_words(numbers[name])}" for name in names if name in numbers
    )
    count = f" for {n_projections} projections" if n_projections else ""
    return ScanUnreadable(
        f"{said} contradict each other{count}", hint="correct the file; angles are never assumed"
    )


def _degrees(value: TagValue) -> float:
    assert not isinstance(value.value, str | tuple)  # a number, by the kind of its canonical name
    return float(value.value)


def _radians(degrees: Sequence[float]) -> tuple[float, ...]:
    return tuple(math.radians(angle) for angle in degrees)


def _words(value: TagValue) -> str:
    """A value with its unit, for people."""
    if isinstance(value.value, tuple):
        return f"{len(value.value)} numbers"
    plain = f"{value.value:g}" if isinstance(value.value, float) else str(value.value)
    return f"{plain} {value.unit}".strip()
