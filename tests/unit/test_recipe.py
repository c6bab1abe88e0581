"""Recipes and parameters: which recipe, which value, from where."""

import msgspec
import pytest
from factories import a_header

from srctd.core.errors import ConfigError, HoldError
from srctd.core.recipe import (
    DEFAULT_RECIPE,
    SPECS,
    Match,
    Origin,
    ParameterFile,
    Recipe,
    choose,
    fitting_rows,
    parameter_file,
    parse_setting,
    physics_notes,
    resolve,
    resolved_notes,
)
from srctd.core.scan import Quantity, Shortfall

BONE = Recipe(name="bone", priority=5, match=Match(sample="bone*"), parameters={"filter": "hann"})
PLAIN = Recipe(name="plain", priority=0, parameters={"filter": "cosine", "pixel_size": 1e-6})


def a_parameter_file() -> ParameterFile:
    return ParameterFile(
        scan="s",
        input="/a.h5",
        input_in_place=False,
        format="nxtomo",
        entry="/entry",
        recipe="plain",
        parameters=resolve(a_header(), PLAIN, {}),
    )


def test_the_matching_recipe_of_the_highest_priority_is_taken() -> None:
    assert choose((PLAIN, BONE), "/d/a.h5", a_header(sample="bone 7")) is BONE
    assert choose((PLAIN, BONE), "/d/a.h5", a_header(sample="wood")) is PLAIN
    assert choose((BONE,), "/d/a.h5", a_header(sample="wood")) is DEFAULT_RECIPE


def test_every_parameter_has_unit_and_origin() -> None:
    header = a_header(
        pixel_size=Quantity(value=2e-6, unit="m", origin="/entry/instrument/detector/x_pixel_size")
    )
    found = resolve(header, PLAIN, {"center": 12.5})
    assert set(found) == set(SPECS)
    assert (found["center"].value, found["center"].origin) == (12.5, Origin.OPERATOR)
    assert (found["filter"].value, found["filter"].origin, found["filter"].source) == (
        "cosine",
        Origin.RULE,
        "plain",
    )
    assert found["pixel_size"].value == 2e-6
    assert found["pixel_size"].origin is Origin.FILE
    assert found["padding"].origin is Origin.DEFAULT
    assert found["pixel_size"].unit == "m"


def test_a_recipe_fills_in_what_the_file_does_not_say() -> None:
    assert resolve(a_header(), PLAIN, {})["pixel_size"].value == 1e-6
    assert resolve(a_header(), DEFAULT_RECIPE, {})["pixel_size"].value is None


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("centre=3", "did you mean 'center'"),
        ("center", "no '='"),
        ("center=left", "'left' is not a number"),
        ("filter=boxcar", "not one of"),
        ("padding_factor=99", "outside 1 to 8"),
        ("repair_dead_pixels=perhaps", "not of type bool"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_place(setting: str, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_setting(setting)
    assert word in caught.value.sentence
    assert setting.partition("=")[0] in caught.value.sentence


def test_good_settings_are_typed() -> None:
    assert parse_setting("center=3") == ("center", 3.0)
    assert parse_setting("ring_size=9") == ("ring_size", 9)
    assert parse_setting("repair_dead_pixels=false") == ("repair_dead_pixels", False)


def test_a_recipe_with_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"bone\.toml: unknown parameter 'filtre'"):
        Recipe(name="bone", parameters={"filtre": "hann"}).validated("bone.toml")


def test_the_digest_changes_with_every_value_and_survives_the_file() -> None:
    parameters = a_parameter_file()
    again = msgspec.json.decode(msgspec.json.encode(parameters), type=ParameterFile)
    assert again == parameters
    assert again.digest() == parameters.digest()
    other = msgspec.structs.replace(parameters.parameters["center"], value=3.0)
    assert parameters.with_parameter("center", other).digest() != parameters.digest()


def test_the_digest_does_not_change_with_where_files_lie() -> None:
    parameters = a_parameter_file()
    moved = msgspec.structs.replace(parameters, input="/elsewhere/frames.json", input_in_place=True)
    assert moved.digest() == parameters.digest()
    assert msgspec.structs.replace(parameters, member=1).digest() != parameters.digest()
    gaps = Shortfall(reason="r", gaps=((3, 4),))
    assert msgspec.structs.replace(parameters, shortfall=gaps).digest() != parameters.digest()


def test_a_parameter_file_says_what_is_missing() -> None:
    header = a_header(shortfall=Shortfall(reason="150 of 180 projections are there", expected=180))
    given = parameter_file(
        header,
        PLAIN,
        {"center": 3.0},
        scan="s",
        input="frames.json",
        input_in_place=True,
        raw="a.h5",
        member=0,
        software="srctd",
    )
    assert given.shortfall == header.shortfall
    assert given.notes[0] == "incomplete: 150 of 180 projections are there"
    assert given.value("center") == 3.0


def test_rows_stay_within_the_detector() -> None:
    parameters = a_parameter_file()
    assert parameters.rows(16) == (0, 16)
    first = msgspec.structs.replace(parameters.parameters["first_row"], value=4)
    end = msgspec.structs.replace(parameters.parameters["end_row"], value=99)
    assert parameters.with_parameter("first_row", first).with_parameter("end_row", end).rows(16) == (4, 16)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"center": -5.0}, "center = -5 lies outside its columns 0 to 63"),
        ({"center": 1e300}, "center = 1e+300 lies outside"),
        ({"first_row": 9, "end_row": 4}, "rows 9 to 4 are none of its 16 rows"),
    ],
)
def test_what_lies_outside_the_detector_is_refused(settings: dict[str, float], words: str) -> None:
    parameters = msgspec.structs.replace(
        a_parameter_file(), parameters=resolve(a_header(), DEFAULT_RECIPE, settings)
    )
    with pytest.raises(HoldError) as caught:
        fitting_rows(parameters, "/a.h5", a_header())
    assert words in caught.value.sentence
    assert "/a.h5" in caught.value.sentence


def test_notes_say_what_is_unknown_after_recipe_and_operator_were_asked() -> None:
    unknown = physics_notes(("pixel_size", "energy", "distance"))
    header = a_header(notes=("no dark fields: the dark signal is taken as zero", *unknown))
    assert resolved_notes(header, resolve(header, DEFAULT_RECIPE, {})) == header.notes
    filled = resolve(header, PLAIN, {"energy": 20.0})
    assert resolved_notes(header, filled) == (
        "no dark fields: the dark signal is taken as zero",
        "distance is unknown: no phase retrieval",
    )


def test_a_center_that_was_given_can_be_taken_back() -> None:
    assert parse_setting("center=auto") == ("center", None)
    assert resolve(a_header(), DEFAULT_RECIPE, {"center": None})["center"].origin is Origin.DEFAULT
