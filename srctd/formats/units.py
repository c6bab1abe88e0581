"""Units as files spell them, turned into those that are used inside: metre, keV, second, radian.

An unknown unit is None, never a guess: what depends on the value is then unknown, and said so.
"""

import math
from typing import NamedTuple


class Dimension(NamedTuple):
    """A kind of quantity: the unit used inside, and what one unit of each spelling is worth in it."""

    unit: str
    worth: dict[str, float]

    def factor(self, spelling: str) -> float | None:
        """What a value in this unit is multiplied by; None if the unit is not known."""
        return self.worth.get(spelling.strip().lower().replace("µ", "u").replace("μ", "u"))


def _table(rows: dict[str, float]) -> dict[str, float]:
    return {spelling: worth for row, worth in rows.items() for spelling in row.split()}


_KEV_PER_JOULE = 1.0 / 1.602176634e-16

LENGTH = Dimension(
    "m",
    _table(
        {
            "m meter metre meters metres": 1.0,
            "cm centimeter centimetre": 1e-2,
            "mm millimeter millimetre millimeters millimetres": 1e-3,
            "um micron microns micrometer micrometre micrometers micrometres": 1e-6,
            "nm nanometer nanometre nanometers nanometres": 1e-9,
        }
    ),
)
ENERGY = Dimension("keV", _table({"kev": 1.0, "ev": 1e-3, "j joule joules": _KEV_PER_JOULE}))
TIME = Dimension(
    "s", _table({"s sec second seconds": 1.0, "ms millisecond milliseconds": 1e-3, "us microseconds": 1e-6})
)
ANGLE = Dimension(
    "rad",
    _table({"deg degs degree degrees °": math.pi / 180, "rad rads radian radians": 1.0, "mrad": 1e-3}),
)
