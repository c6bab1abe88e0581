"""The configuration: every mistake is one sentence with file and place."""

from pathlib import Path

import pytest

from srctd.config import load, load_recipes, read_secret
from srctd.toml import etc_folder
from srctd.core.errors import ConfigError

GOOD = """
[storage]
shared = "/data/shared"
[[watch]]
path = "/data/detector"
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "srctd.toml"
    path.write_text(text)
    return str(path)


def test_the_shipped_file_holds_exactly_the_defaults(tmp_path: Path) -> None:
    minimal = write(tmp_path, GOOD.replace("/data/shared", "/data/srctd"))
    assert load(str(etc_folder() / "srctd.toml")) == load(minimal)


def test_the_shipped_recipes_are_valid(tmp_path: Path) -> None:
    recipes = load_recipes(load(write(tmp_path, GOOD)).recipes)
    assert "default" in {recipe.name for recipe in recipes}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            GOOD + "\n[pool]\nlease_second = 3\n",
            ["lease_second", "unknown key", "did you mean 'lease_seconds'"],
        ),
        (GOOD + "\nlisting = 1\n", ["watch[0]", "listing"]),
        (GOOD + "\n[pool]\nlease_seconds = -1\n", ["pool.lease_seconds", "-1"]),
        (GOOD + "\n[pool]\nlocal_workers = 'many'\n", ["pool.local_workers"]),
        (GOOD.replace('"/data/detector"', '"detector"'), ["watch[0].path", "absolute"]),
        (GOOD.replace('"/data/detector"', '"/data"'), ["lies inside watch[0].path"]),
        (GOOD.replace('"/data/detector"', '"/data/shared"'), ["lies inside watch[0].path"]),
        ("[storage]\nshared = '/d'\nwatch = []\n", ["watch"]),
        ("[[watch]]\npath = '/d'\n", ["storage", "missing key"]),
        ("[storage\n", ["not TOML", "line 1"]),
        (
            GOOD + "[[accounts]]\npattern = '('\naccount = 'a'\n",
            ["accounts[0].pattern", "regular expression"],
        ),
        (
            GOOD + "[[accounts]]\npattern = '.'\naccount = '{name}'\n",
            ["accounts[0].account", "no group 'name'"],
        ),
        (GOOD + "[[accounts]]\npattern = '.'\naccount = '{'\n", ["accounts[0].account", "{"]),
        (GOOD + "[[accounts]]\npattern = '(?P<a>.)'\naccount = '{a.b}'\n", ["accounts[0].account", "a.b"]),
        (GOOD + "[control]\nendpoint = 'ipc:///x'\nfeed_endpoint = 'ipc:///x'\n", ["ipc:///x", "twice"]),
        (GOOD + "[daemon]\nstep_timeout_seconds = { sync = nan }\n", ["step_timeout_seconds.sync", "nan"]),
    ],
)
def test_a_mistake_is_one_sentence_with_its_place(tmp_path: Path, text: str, words: list[str]) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert path in caught.value.sentence
    for word in words:
        assert word in caught.value.sentence
    assert caught.value.exit_code == 78


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(str(tmp_path / "none.toml"))


def test_a_root_inside_shared_storage_is_allowed(tmp_path: Path) -> None:
    load(write(tmp_path, GOOD.replace('"/data/detector"', '"/data/shared/raw"')))


def test_a_secret_is_read_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("secret\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_secret("$CREDENTIALS_DIRECTORY/token", "catalog.token_file") == "secret"
    assert read_secret("", "catalog.token_file") == ""
    with pytest.raises(ConfigError, match=r"catalog\.token_file"):
        read_secret(str(tmp_path / "none"), "catalog.token_file")
