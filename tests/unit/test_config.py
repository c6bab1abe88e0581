"""The configuration: every mistake is one sentence with file and place."""

from pathlib import Path

import pytest

from srctd.config import read_secret
from srctd.configfile import load, load_recipes
from srctd.core.completion import Rule
from srctd.core.errors import ConfigError
from srctd.core.space import Thresholds
from srctd.toml import etc_folder

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
    ("target", "login", "folder"),
    [
        ("tomo@archive.example:/data/a b/", "tomo@archive.example", "/data/a b"),
        ("archive:/", "archive", "/"),
        ("u@[fe80::1%eth0]:/d:/e", "u@[fe80::1%eth0]", "/d:/e"),
    ],
)
def test_the_parts_of_a_further_host(target: str, login: str, folder: str, tmp_path: Path) -> None:
    section = load(write(tmp_path, GOOD + f"[remote]\ntarget = '{target}'\n")).remote
    assert (section.login, section.folder) == (login, folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            GOOD + "\n[pool]\nlease_second = 3\n",
            ["lease_second", "unknown key", "did you mean 'lease_seconds'"],
        ),
        (GOOD + "\nlisting = 1\n", ["watch[0]", "listing"]),
        (
            GOOD + "end_evidence = ['marker']\n",
            ["watch[0].end_evidence", "'marker'", "did you mean 'marker file'"],
        ),
        (GOOD + "expectation = ['x']\n", ["watch[0].expectation", "known: metadata, log"]),
        (GOOD + "settle_seconds = 20\n", ["watch[0].settle_seconds = 20", "unmarked_settle_seconds = 15"]),
        (
            GOOD + "[remote]\ntarget = 'archive'\n",
            ["remote.target = 'archive'", "user@host:/absolute/folder"],
        ),
        (GOOD + "[remote]\ntarget = 'u@h:relative'\n", ["remote.target"]),
        (GOOD + "[remote]\ntarget = '-oProxyCommand=x:/d'\n", ["remote.target"]),
        (GOOD + "[remote]\ntarget = 'u@h:/d'\nport = 0\n", ["remote.port = 0"]),
        (GOOD + "[remote]\ntarget = 'u@h:/d'\nidentity_file = 'key'\n", ["remote.identity_file", "absolute"]),
        (GOOD + "unannounced_settle_seconds = 0\n", ["watch[0].unannounced_settle_seconds", "not positive"]),
        (GOOD + "rest_listing_seconds = -1\n", ["watch[0].rest_listing_seconds"]),
        (GOOD + "usable_hole_deg = 181\n", ["watch[0].usable_hole_deg", "181"]),
        (GOOD + "copy_megabytes_per_second = -1\n", ["watch[0].copy_megabytes_per_second = -1", "no rate"]),
        (GOOD + "copy_megabytes_per_second = nan\n", ["watch[0].copy_megabytes_per_second = nan"]),
        (GOOD + "disk_megabytes_per_second = inf\n", ["watch[0].disk_megabytes_per_second = inf"]),
        (GOOD + "yield_fraction = 0\n", ["watch[0].yield_fraction = 0", "0 to 1"]),
        (GOOD + "yield_fraction = 1.1\n", ["watch[0].yield_fraction = 1.1"]),
        (GOOD + "io_priority = 'lowest'\n", ["watch[0].io_priority", "lowest"]),
        (GOOD + "usable_projections = -1\n", ["watch[0].usable_projections"]),
        (GOOD + "end_line = '('\n", ["watch[0].end_line", "regular expression"]),
        (GOOD + "marker_files = ['{scan}.done']\n", ["watch[0].marker_files", "{scan}.done", "{name}"]),
        (GOOD + "marker_files = ['']\n", ["watch[0].marker_files", "''"]),
        (GOOD + "must_have = ['{nam}.current']\n", ["watch[0].must_have", "{nam}.current", "{name}"]),
        (GOOD + "must_have = ['']\n", ["watch[0].must_have", "''"]),
        (
            GOOD + "must_have = ['exchange/theta']\n",
            ["watch[0].must_have", "exchange/theta", "begins with /"],
        ),
        (GOOD + "[daemon]\nstep_timeout_seconds = { snc = 1 }\n", [" daemon.step_timeout_seconds: Invalid"]),
        (GOOD + "patterns = []\n", ["watch[0].patterns is empty"]),
        (GOOD + "patterns = ['tif/*.tif']\n", ["watch[0].patterns", "tif/*.tif", "without folders"]),
        (GOOD + "require_end = true\nend_evidence = []\n", ["watch[0].require_end", "end_evidence"]),
        (GOOD + "stalled_seconds = inf\n", ["watch[0].stalled_seconds = inf", "large number"]),
        (
            GOOD.replace("[[watch]]", "reserve_gigabytes = nan\n[[watch]]"),
            ["storage.reserve_gigabytes = nan"],
        ),
        (GOOD.replace("[[watch]]", "reserve_gigabytes = -1\n[[watch]]"), ["storage.reserve_gigabytes = -1"]),
        (GOOD + "[space]\nstop_below_gigabytes = -1\n", ["space.stop_below_gigabytes = -1.0 is no amount"]),
        (GOOD + "[space]\nsixteen_bit_below_gigabytes = inf\n", ["space.sixteen_bit_below_gigabytes = inf"]),
        (
            GOOD + "[space]\nsixteen_bit_below_gigabytes = 10\nstop_below_gigabytes = 20\n",
            ["space.stop_below_gigabytes = 20 is more than", "sixteen_bit_below_gigabytes = 10"],
        ),
        (
            GOOD + "[retention]\nhigh_water_percent = 50\n",
            ["retention.low_water_percent = 60 and high_water_percent = 50", "0 <= low < high <= 100"],
        ),
        (GOOD + "[retention]\nhigh_water_percent = 101\n", ["high_water_percent = 101 are no marks"]),
        (GOOD + "[retention]\nlow_water_percent = nan\n", ["retention.low_water_percent = nan"]),
        (GOOD + "[retention]\nminimum_age_hours = -1\n", ["retention.minimum_age_hours = -1", "no length"]),
        (GOOD + "[retention]\ncheck_minutes = 0\n", ["retention.check_minutes = 0", "no length of time"]),
        (GOOD + "[retention]\nproof = 'none'\n", ["retention.proof", "none"]),
        (GOOD + "[pool]\nthreads_per_worker = -1\n", ["pool.threads_per_worker = -1", "negative"]),
        (GOOD + "[catalog]\nembedded_port = 99999\n", ["catalog.embedded_port = 99999", "port"]),
        (GOOD + "[formats]\ntags_directory = 'tags'\n", ["formats.tags_directory", "absolute"]),
        (GOOD + "\n[pool]\nlease_seconds = -1\n", ["pool.lease_seconds", "-1"]),
        (GOOD + "\n[pool]\nlocal_workers = 'many'\n", ["pool.local_workers"]),
        (GOOD.replace('"/data/detector"', '"detector"'), ["watch[0].path", "absolute"]),
        (GOOD.replace('"/data/detector"', '"/data"'), ["lies inside watch[0].path"]),
        (GOOD.replace('"/data/detector"', '"/data/shared"'), ["lies inside watch[0].path"]),
        (
            GOOD + "[daemon]\nstate_directory = '/data/detector/state'\n",
            ["daemon.state_directory", "lies inside watch[0].path", "nothing is ever written"],
        ),
        (GOOD + "[[watch]]\npath = '/data/detector/a'\n", ["watch[1].path", "lies inside watch[0].path"]),
        (GOOD + "[[watch]]\npath = '/data/detector/'\n", ["lies inside watch"]),
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
        (GOOD + "linked_folders = ['frames']\n", ["watch[0].linked_folders", "frames", "absolute"]),
        (GOOD.replace("[[watch]]", "portable_names = 'no'\n[[watch]]"), ["storage.portable_names", "bool"]),
        (GOOD + "[ownership]\nfile_mode = '0666'\n", ["ownership", "'0666'", "world-writable"]),
        (GOOD + "[ownership]\nfolder_mode = '1750'\n", ["ownership", "'1750'", "sticky"]),
        (GOOD + "[ownership]\nfile_mode = '0440'\n", ["ownership", "'0440'", "shuts out the owner"]),
        (GOOD + "[ownership]\nfolder_mode = 'rwx'\n", ["ownership", "'rwx'", "octal"]),
        (GOOD + "[ownership]\ngroup = '{grp}'\n", ["ownership", "'grp'", "owner_group"]),
        (GOOD + "[ownership]\nuser = '{owner}'\n", ["ownership", "'{owner}'", "name the group"]),
        (GOOD + "[ownership]\ndefault_acl = ['other::rwx']\n", ["ownership", "'other::rwx'", "no entry"]),
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


def test_a_root_says_how_its_scans_are_judged_and_read(tmp_path: Path) -> None:
    text = (
        GOOD
        + """
unannounced_settle_seconds = 30
end_evidence = ["superblock"]
expectation = []
require_end = true
must_have = ["/exchange/theta"]
marker_files = ["{name}.done"]
end_line = "^Scan finished"
usable_projections = 0
usable_hole_deg = 20
[formats]
tags_directory = "/etc/srctd/tags"
"""
    )
    config = load(write(tmp_path, text))
    rule, options = config.watch[0].rule, config.watch[0].read_options(config.formats)
    assert (rule.unannounced_settle_seconds, rule.end_evidence, rule.expectation) == (30, ("superblock",), ())
    assert rule.require_end
    assert (rule.usable.projections, rule.usable.hole_deg) == (0, 20)
    assert (options.must_have, options.marker_files) == (("/exchange/theta",), ("{name}.done",))
    assert (options.end_line, options.tags_directory) == ("^Scan finished", "/etc/srctd/tags")
    assert config.formats.read_options.must_have == ()


def test_defaults_of_a_root_are_those_of_the_rule(tmp_path: Path) -> None:
    assert load(write(tmp_path, GOOD)).watch[0].rule == Rule()


def test_thresholds_of_space_are_bytes_and_0_is_never(tmp_path: Path) -> None:
    text = GOOD + "[space]\nstop_below_gigabytes = 0.5\n"
    assert load(write(tmp_path, text)).space.thresholds == Thresholds(stop=500_000_000)
