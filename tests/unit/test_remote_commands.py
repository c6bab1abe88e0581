"""Commands for another host, and what its answers mean. Nothing is run but a local shell."""

import shlex
import subprocess
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from srctd.core import remote
from srctd.core.errors import DigestMismatch, HoldError, NotPermitted, RemoteUnavailable, StorageUnavailable
from srctd.core.remote import Target

TARGET = Target(login="tomo@archive", folder="/data/it's $HOME")
NAMES = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="/"), min_size=1, max_size=20
)


def here(folder: Path, *lines: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a script as the other side would, in a folder of this machine."""
    command = Target(login="x", folder=str(folder)).script(*lines)[-1]
    return subprocess.run(["sh", "-c", command], input=data, capture_output=True, check=False)


def test_ssh_never_asks_and_believes_no_stranger() -> None:
    words = Target(
        login="u@h", folder="/d", port=2222, identity_file='/k/50% "x"', known_hosts_file="/k/h h"
    ).ssh()
    for option in ("BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=10", "ControlMaster=no"):
        assert option in words
    assert 'IdentityFile="/k/50%% \\"x\\""' in words
    assert 'UserKnownHostsFile="/k/h h"' in words
    assert "2222" in words


def test_an_address_of_six_parts_is_written_as_each_program_wants_it() -> None:
    target = Target(login="u@[::1]", folder="/d")
    assert "u@::1" in target.script("true")
    assert target.rsync("/here", "a/b")[-1] == "u@[::1]:/d/a/b/"


@given(NAMES)
def test_what_rsync_makes_of_the_words_of_ssh(name: str) -> None:
    """It splits at spaces, knows quotes, and takes a doubled quote for one."""
    words = Target(login="u@h", folder="/d", identity_file=f"/{name}").ssh()
    command = TARGET.rsync("/here", "a/b")
    assert command[command.index("-e") + 1].startswith("'ssh' '-T' ")
    quoted = Target(login="u@h", folder="/d", identity_file=f"/{name}").rsync("/here", "a/b")
    shell = quoted[quoted.index("-e") + 1]
    assert [word.replace("''", "'") for word in shell[1:-1].split("' '")] == words


def test_the_limit_is_in_units_of_rsync() -> None:
    assert "--bwlimit=1953" in TARGET.sending(2.0)
    assert not [word for word in TARGET.sending(0.0) if word.startswith("--bwlimit")]


@pytest.mark.parametrize("name", ["plain", 'it\'s "a" $(touch x) `y`; *', "-rf", " ", "ä\u2028"])
def test_scripts_take_names_for_nothing_else(name: str, tmp_path: Path) -> None:
    place, part = f"acc/{name}", f"acc/.{name}.part"
    look = remote.look(place, part, "", "2750", whole=True)
    seen = remote.read_look(here(tmp_path, *look).stdout.decode())
    assert (seen.there, seen.early) == (False, False)
    assert seen.free_bytes
    (tmp_path / part / name).write_bytes(b"content")
    told = here(tmp_path, *remote.digest(part), data=f"./{name}\0absent\0".encode()).stdout.decode()
    assert remote.read_digests(told) == {f"./{name}": xxhash.xxh3_128_hexdigest(b"content")}
    assert here(tmp_path, *remote.appear(place, part)).returncode == 0
    assert (tmp_path / place / name).read_bytes() == b"content"
    assert remote.read_look(here(tmp_path, *look).stdout.decode()).there
    assert not (tmp_path / part).exists()
    assert here(tmp_path, *remote.appear(place, part)).returncode == remote.TAKEN

    results = remote.look(place, part, "", "2750", whole=False)
    assert remote.read_look(here(tmp_path, *results).stdout.decode()).there
    (tmp_path / part / "new").mkdir()
    (tmp_path / part / "new" / name).write_bytes(b"result")
    done = here(tmp_path, *remote.join(place, part, "2750"), data=f"new/{name}\0".encode())
    assert done.returncode == 0, done.stderr
    assert (tmp_path / place / "new" / name).read_bytes() == b"result"
    assert not (tmp_path / part).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["acc"]


def test_a_folder_that_is_too_early_or_gone_makes_nothing(tmp_path: Path) -> None:
    early = remote.look("a/m1", "a/.m1.part", "a/m0", "2750", whole=True)
    assert remote.read_look(here(tmp_path, *early).stdout.decode()).early
    gone = remote.look("a/m1", "a/.m1.results.part", "", "2750", whole=False)
    assert not remote.read_look(here(tmp_path, *gone).stdout.decode()).there
    assert not list(tmp_path.iterdir())
    assert here(tmp_path / "nowhere", "true").returncode == remote.NOT_THERE


def test_digests_are_taken_as_they_are_printed() -> None:
    digest = "0" * 32
    assert remote.read_digests(f"{digest}  a  b\nnonsense\n") == {"a  b": digest}


@pytest.mark.parametrize(
    ("line", "free"),
    [
        ("/dev/sda1 100 50 12 80% /data", 12 * 1024),
        ("nas:/a b 100 50 7 - /data with space", 7 * 1024),
        ("nothing of the kind", None),
    ],
)
def test_free_space_is_read_from_df(line: str, free: int | None) -> None:
    told = f"Filesystem 1024-blocks Used Available Capacity Mounted on\n{line}\n"
    assert remote.read_free(told) == free


@pytest.mark.parametrize(
    ("status", "errors", "error", "words"),
    [
        (255, "ssh: connect to host h port 22: Connection refused", RemoteUnavailable, "Connection refused"),
        (255, "ssh: connect to host h port 22: Connection timed out", RemoteUnavailable, "timed out"),
        (255, "ssh: Could not resolve hostname h: Name or service not known", RemoteUnavailable, "resolve"),
        (255, "Host key verification failed.", NotPermitted, "known_hosts_file"),
        (255, "tomo@archive: Permission denied (publickey).", NotPermitted, "authorized_keys"),
        (
            11,
            'rsync: [receiver] write failed on "/d/a": No space left on device (28)',
            RemoteUnavailable,
            "full",
        ),
        (
            11,
            "rsync: connection unexpectedly closed (9 bytes received so far) [sender]\n"
            'rsync: [receiver] write failed on "/d/a": No space left on device (28)',
            RemoteUnavailable,
            "its disk is full",
        ),
        (11, 'rsync: [Receiver] mkdir "/d/a" failed: Permission denied (13)', NotPermitted, "write there"),
        (42, "mkdir: cannot create directory './a': Permission denied", NotPermitted, "write there"),
        (
            23,
            'rsync: [sender] send_files failed to open "/s/a": Permission denied (13)',
            NotPermitted,
            "this side",
        ),
        (
            23,
            'rsync: [sender] link_stat "/s/a" failed: No such file or directory (2)',
            StorageUnavailable,
            "/s/a",
        ),
        (12, "bash: line 1: rsync: command not found\nrsync error: (code 12)", HoldError, "install rsync"),
        (2, "protocol version mismatch -- is your shell clean?", HoldError, "install rsync"),
        (12, "rsync: on remote machine: --foo: unknown option", HoldError, "understand"),
        (1, "rsync: cannot be run: No such file or directory", HoldError, "on this machine"),
        (4, "rsync: something new", HoldError, "refused"),
        (
            12,
            "rsync: connection unexpectedly closed (9 bytes received so far) [sender]",
            RemoteUnavailable,
            "broke off",
        ),
        (41, "sh: 1: cd: can't cd to /data", RemoteUnavailable, "is it mounted there"),
        (43, "", DigestMismatch, "move it away"),
        (30, "", RemoteUnavailable, "status 30"),
    ],
)
def test_every_trouble_is_one_sentence_with_the_host(
    status: int, errors: str, error: type[Exception], words: str
) -> None:
    found = remote.trouble("tomo@archive:/d", status, f"** WARNING: banner **\n\x1b[1mhello\n{errors}\n")
    assert type(found) is error
    assert words in found.sentence
    assert "tomo@archive" in found.sentence
    assert found.sentence.isprintable()
    assert found.hint


def test_the_host_is_described_in_one_sentence() -> None:
    told = (
        "rsync  version 3.2.7  protocol version 31\n/usr/bin/xxh128sum\nx\n/dev/sda1 100 50 2000000 80% /d\n"
    )
    assert remote.read_describe(told) == (True, "rsync 3.2.7 there, proof by xxh128sum, 2.0 GB free")
    good, sentence = remote.read_describe("closed\n")
    assert not good
    assert "rsync is not installed there" in sentence
    assert "closed to this user" in sentence


def test_a_script_is_one_word_for_any_shell() -> None:
    words = TARGET.script("echo a", "echo b")
    assert words[-2] == "tomo@archive"
    inner = shlex.split(words[-1])
    assert inner[:3] == ["exec", "sh", "-c"]
    assert inner[3].startswith("cd '/data/it'\"'\"'s $HOME' || exit 41; ")
