"""Units as files spell them, turned into those that are used inside: metre, keV, second, radian, milliampere.

The units are pint's. Which of them a spelling means is decided more strictly than pint does, because a value that
is wrong by a power of ten is worse than none: an unknown unit is None, never a guess. What depends on the value
is then unknown, and said so.
"""

from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pint

Reading = tuple[str, str, str]
"""Prefix, unit and plural ending, as pint takes a spelling apart."""

MEANT = {"°": "degree", "rads": "radian", "px": "pixel"}
"""Spellings of detectors that pint does not know, or reads otherwise: `rads` as a dose, `px` as a length."""


class Dimension(NamedTuple):
    """A kind of quantity: the unit used inside, and between which units a detector's can lie."""

    unit: str
    least: float
    most: float
    """What one unit may be worth, in `unit`. A Mm or a MA is a slip of the shift key, by nine powers of ten."""

    def factor(self, spelling: str) -> float | None:
        """What a value in this unit is multiplied by.

        None if the unit is not known, is one of another dimension, or could be several that differ.
        """
        return _factor(self, spelling.strip())


LENGTH = Dimension("m", 1e-13, 1e4)
ENERGY = Dimension("keV", 1e-7, 1e16)
TIME = Dimension("s", 1e-10, 1e5)
ANGLE = Dimension("rad", 1e-10, 10.0)
CURRENT = Dimension("mA", 1e-10, 1e7)
MAGNIFICATION = Dimension("", 1.0, 1.0)
"""A plain factor: of objectives it is written `10`, `10x` or `10 times`."""


@cache
def _registry() -> "pint.UnitRegistry[float]":
    """Made at first use: importing pint and reading its definitions takes a third of a second."""
    import pint

    return pint.UnitRegistry()


@lru_cache(maxsize=1024)
def _factor(dimension: Dimension, spelling: str) -> float | None:
    if not dimension.unit:
        return 1.0 if spelling.lower() in ("", "x", "×", "times") else None
    spelling = MEANT.get(spelling, spelling)
    if not spelling.isprintable() or len(spelling) > 40:
        return None
    exact = _registry().parse_unit_name(spelling)
    if exact:
        worth = _worth(dimension, exact[0])
    else:
        readings = {_worth(dimension, reading) for reading in _whatever_case(spelling)} - {None}
        worth = readings.pop() if len(readings) == 1 else None
    return worth if worth is not None and dimension.least <= worth <= dimension.most else None


def _whatever_case(spelling: str) -> list[Reading]:
    """All readings of a spelling whose exact case means nothing, such as `KEV`; pint heeds the case of prefixes."""
    first, rest = spelling[:1], spelling[1:]
    return [
        reading
        for variant in (spelling, first.swapcase() + rest)
        for reading in _registry().parse_unit_name(variant, case_sensitive=False)
    ]


def _worth(dimension: Dimension, reading: Reading) -> float | None:
    """One unit in the dimension's own; None if it is of another dimension.

    The root units are compared, not the dimensions: counts and percent have none, as radians have none.
    """
    there, own = _in_root_units(reading[0] + reading[1]), _in_root_units(dimension.unit)
    return there[0] / own[0] if there and own and there[1] == own[1] else None


def _in_root_units(name: str) -> tuple[float, object] | None:
    """Factor and root units; None for what no factor converts, such as degrees Celsius and decibels."""
    import pint

    try:
        factor, root = _registry().get_root_units(name)
    except pint.PintError:
        return None
    assert isinstance(factor, int | float)  # pint counts in these unless a registry is told otherwise
    return factor, root
