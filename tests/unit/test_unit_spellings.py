import math
import string

import pint
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srctd.formats.units import ANGLE, CURRENT, ENERGY, LENGTH, TIME, Dimension

KNOWN = [
    (LENGTH, "m metre meter metres METER", 1.0),
    (LENGTH, "mm millimetre millimeters", 1e-3),
    (LENGTH, "um µm μm micron microns micrometre UM", 1e-6),
    (LENGTH, "nm nanometer", 1e-9),
    (LENGTH, "cm", 1e-2),
    (LENGTH, "Å angstrom", 1e-10),
    (ENERGY, "keV KeV kev KEV Kev", 1.0),
    (ENERGY, "eV ev", 1e-3),
    (ENERGY, "MeV", 1e3),
    (ENERGY, "J", 1 / 1.602176634e-16),
    (TIME, "s sec second seconds Sec", 1.0),
    (TIME, "ms msec millisecond", 1e-3),
    (TIME, "us µs usec microseconds", 1e-6),
    (TIME, "min", 60.0),
    (ANGLE, "deg Deg DEG degree degrees ° degs", math.pi / 180),
    (ANGLE, "rad rads radian radians", 1.0),
    (ANGLE, "mrad", 1e-3),
    (CURRENT, "mA", 1.0),
    (CURRENT, "A ampere", 1e3),
]


@pytest.mark.parametrize(
    ("dimension", "spelling", "worth"),
    [(dimension, spelling, worth) for dimension, row, worth in KNOWN for spelling in row.split()],
)
def test_spellings_of_detectors(dimension, spelling, worth):
    assert dimension.factor(spelling) == pytest.approx(worth, rel=1e-12)
    assert dimension.factor(f" {spelling}\t") == dimension.factor(spelling)


@pytest.mark.parametrize("dimension", [LENGTH, ENERGY, TIME, ANGLE, CURRENT])
@pytest.mark.parametrize(
    "spelling",
    [
        "",
        " ",
        "ANP",
        "dB",
        "degC",
        "mdegC",
        "undefined",
        "NaN",
        "counts",
        "pixel",
        "px",
        "%",
        "1",
        "1e3",
        "a.u.",
        "m/s",
        "m**2",
        "\0",
    ],
)
def test_what_is_no_unit_is_unknown(dimension, spelling):
    assert dimension.factor(spelling) is None


@pytest.mark.parametrize(
    ("dimension", "spelling"),
    [
        (LENGTH, "Mm"),
        (LENGTH, "MM"),
        (LENGTH, "PM"),
        (LENGTH, "M"),
        (LENGTH, "ms"),
        (LENGTH, "keV"),
        (TIME, "Ms"),
        (TIME, "S"),
        (TIME, "m"),
        (ENERGY, "MEV"),
        (ENERGY, "EV"),
        (ENERGY, "kV"),
        (CURRENT, "MA"),
        (CURRENT, "ma"),
        (ANGLE, "Mrad"),
        (ANGLE, "MRAD"),
    ],
)
def test_slips_of_the_shift_key_are_not_powers_of_ten(dimension, spelling):
    assert dimension.factor(spelling) is None


def test_the_own_unit_is_worth_exactly_one():
    assert [dimension.factor(dimension.unit) for dimension in (LENGTH, ENERGY, TIME, ANGLE, CURRENT)] == [
        1.0
    ] * 5


REGISTRY: pint.UnitRegistry = pint.UnitRegistry()
PREFIXES = ["", "p", "n", "u", "µ", "m", "c", "k"]
BASES: list[tuple[Dimension, str]] = [
    (LENGTH, "m"),
    (ENERGY, "eV"),
    (TIME, "s"),
    (ANGLE, "rad"),
    (CURRENT, "A"),
]


@given(st.sampled_from(PREFIXES), st.sampled_from(BASES), st.floats(1e-3, 1e6))
def test_what_is_known_agrees_with_pint(prefix, base, value):
    dimension, unit = base
    factor = dimension.factor(prefix + unit)
    if factor is not None:
        there = REGISTRY.Quantity(value, prefix + unit).to(dimension.unit)
        assert value * factor == pytest.approx(there.magnitude, rel=1e-12)
        assert there.to(prefix + unit).magnitude == pytest.approx(value, rel=1e-12)
    else:
        worth = REGISTRY.Quantity(1.0, prefix + unit).to(dimension.unit).magnitude
        assert not dimension.least <= worth <= dimension.most


@given(st.text(alphabet=string.ascii_letters + "µ°/*.^% ", max_size=8))
def test_any_text_is_a_factor_or_none(text):
    for dimension, _ in BASES:
        factor = dimension.factor(text)
        assert factor is None or dimension.least <= factor <= dimension.most
