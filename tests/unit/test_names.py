"""Names in a copy: portable, never two alike, always the same."""

import posixpath
import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from srctd.core.names import LONGEST_WORD, StoredNames, caseless, is_portable

AWKWARD = st.sampled_from([*'abAB01._ :\\|?*"<>~-', *"éÉßẞſıİK½ﬁΣςᾳ日\u0301\u0307\u0345\x07\n\x9f"])
WORDS = st.one_of(
    st.text(AWKWARD, min_size=1, max_size=8),
    st.sampled_from(
        ["CON", "con.tif", "Nul.tar.gz", "COM1", "lpt9 .x", "aux", "a" * 255, "é" * 127, "...", "A"]
    ),
).filter(lambda word: word not in (".", ".."))
PATHS = st.lists(WORDS, min_size=1, max_size=3).map("/".join)


def names(stored: dict[str, str] | None = None, *, portable: bool = True) -> StoredNames:
    return StoredNames(stored or {}, portable=portable)


@given(st.lists(PATHS, unique=True, max_size=12))
@example(["A/x.tif", "a/x.tif", "A/X.tif", "a"])
@example(["é.tif", "e\u0301.tif", "É.tif"])
def test_every_name_is_portable_and_no_two_are_alike(paths: list[str]) -> None:
    these = names()
    stored = {path: these.of(path) for path in paths}
    assert all(is_portable(word) for name in stored.values() for word in name.split("/"))
    for fold in (str.lower, str.upper, str.casefold, caseless):
        for form in ("NFC", "NFD", "NFKC", "NFKD"):
            alike = {unicodedata.normalize(form, fold(name)) for name in stored.values()}
            assert len(alike) == len(paths)


@given(st.lists(PATHS, unique=True, max_size=12))
def test_what_lies_in_one_folder_stays_in_one(paths: list[str]) -> None:
    these = names()
    folders: dict[str, set[str]] = {}
    for path in paths:
        name = these.of(path)
        assert name.count("/") == path.count("/")
        folders.setdefault(posixpath.dirname(path), set()).add(posixpath.dirname(name))
    assert all(len(stored) == 1 for stored in folders.values())
    assert len({folder for stored in folders.values() for folder in stored}) == len(folders)


@given(st.lists(PATHS, unique=True, max_size=12), st.randoms(use_true_random=False), st.integers(0, 12))
def test_what_was_stored_keeps_its_name_in_whatever_order_it_is_asked(
    paths: list[str], random, count
) -> None:
    first = names()
    stored = {path: first.of(path) for path in paths[:count]}
    again = names(stored)
    random.shuffle(paths)
    assert {path: again.of(path) for path in paths if path in stored} == stored
    everything = [again.of(path) for path in paths]
    assert len({caseless(name) for name in everything}) == len(paths)
    assert [again.of(path) for path in paths] == everything


@given(st.lists(PATHS, unique=True, max_size=8), st.dictionaries(PATHS, PATHS, max_size=8))
def test_notes_that_fit_nothing_do_no_harm(paths: list[str], stored: dict[str, str]) -> None:
    these = names(stored)
    found = [these.of(path) for path in paths]
    assert len({caseless(name) for name in found}) == len(paths)
    assert all(is_portable(word) for name in found for word in name.split("/"))


@given(st.lists(PATHS, unique=True, max_size=8))
def test_names_stay_where_a_site_wants_that(paths: list[str]) -> None:
    these = names(dict.fromkeys(paths, "other"), portable=False)
    assert [these.of(path) for path in paths] == paths


@pytest.mark.parametrize(
    "name", ["scan_0001.tif", "a b.h5", "Füße.edf", "日本.tif", "x~1a2b.tif", "con1.tif", "a" * LONGEST_WORD]
)
def test_plain_names_are_kept(name: str) -> None:
    assert names().of(f"tif/{name}") == f"tif/{name}"


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("12:30:05.tif", r"12_30_05~[0-9a-f]{4}\.tif"),
        ("C:\\data\\a.tif", r"C__data_a~[0-9a-f]{4}\.tif"),
        ("log. ", r"log~[0-9a-f]{4}"),
        ("x.tif.", r"x~[0-9a-f]{4}\.tif"),
        ("AUX.h5", r"_AUX~[0-9a-f]{4}\.h5"),
        ("nul.tar.gz", r"_nul\.tar~[0-9a-f]{4}\.gz"),
        ("e\u0301.tif", "é\\.tif"),
        (f"{'?' * 251}.tif", r"_{246}~[0-9a-f]{4}\.tif"),
    ],
)
def test_other_names_stay_readable_with_their_suffix(name: str, like: str) -> None:
    stored = names().of(name)
    assert re.fullmatch(like, stored)
    assert stored == names().of(name)


def test_names_that_differ_by_case_only_are_told_apart_in_every_folder() -> None:
    these = names()
    assert these.of("Raw/a.tif") == "Raw/a.tif"
    other = these.of("raw/A.tif")
    assert other != "raw/A.tif"
    assert other.endswith("/A.tif")
    assert these.of("Raw/A.tif").startswith("Raw/A~")


def test_a_name_that_looks_like_another_ones_new_name_is_told_apart() -> None:
    new = names().of("a:b.tif")
    for order in (["a:b.tif", new], [new, "a:b.tif"]):
        these = names()
        assert len({these.of(name) for name in order}) == 2


def test_a_very_deep_path_is_mapped_as_well() -> None:
    path = "/".join(["a:"] * 3000)
    stored = names().of(path)
    assert stored.count("/") == path.count("/")
    assert ":" not in stored
