"""Modes and access control lists, and what is handed over by them."""

import grp
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import needs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srctd.adapters import sync
from srctd.adapters.ownership import ACCESS, DEFAULT, Belonging, Ownership
from srctd.adapters.space import SharedStorage
from srctd.config import OwnershipSection
from srctd.core import permissions
from srctd.core.errors import ConfigError, HoldError
from srctd.core.permissions import Granted
from srctd.core.scan import FileEntry, Manifest, Owner
from srctd.parts import open_part

OWNER = Owner(account="p-1", owner="root", owner_group="root")


@contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@given(st.text("01234567", min_size=1, max_size=5))
def test_no_mode_that_is_taken_lets_everybody_write(text: str) -> None:
    for parse in (permissions.file_mode, permissions.folder_mode):
        try:
            mode = parse(text)
        except ValueError:
            continue
        assert mode == int(text, 8)
        assert not mode & 0o5002
        assert mode & 0o600 == 0o600


@pytest.mark.parametrize("text", ["", "rw-r-----", "0o640", "-640", "8640", "640 ", "٦٤٠"])
def test_what_is_no_mode_is_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="is no mode; write three or four octal digits"):
        permissions.file_mode(text)


def test_entries_are_read_as_setfacl_has_them() -> None:
    assert permissions.entry("group:staff:r-x") == ("group", "staff", 5)
    assert permissions.entry("user:{owner}:-w-") == ("user", "{owner}", 2)
    for text in ("other::rwx", "group::r-x", "group:staff:rx", "mask::rwx", "group:a:b:r-x", ""):
        with pytest.raises(ValueError, match="is no entry such as"):
            permissions.entry(text)


def test_the_list_is_what_the_kernel_takes() -> None:
    assert permissions.access_list(0o750, ()) == b""
    granted = (Granted("user", 7, 6), Granted("group", 9, 5))
    row = struct.Struct("<HHI")
    nobody = 0xFFFFFFFF
    expected = [(1, 7, nobody), (2, 6, 7), (4, 5, nobody), (8, 5, 9), (16, 7, nobody), (32, 0, nobody)]
    assert permissions.access_list(0o750, granted) == struct.pack("<I", 2) + b"".join(
        row.pack(*one) for one in expected
    )
    assert permissions.shown_mode(0o750, granted) == 0o770
    assert [one.permissions for one in permissions.for_files(granted, 0o640)] == [6, 4]


def test_what_is_given_is_never_world_writable_whatever_it_was(tmp_path: Path) -> None:
    """Also where the lists that a folder hands on are wider than what is configured."""
    belonging = Belonging(file_mode=0o640, folder_mode=0o750)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder").chmod(0o777)
    (tmp_path / "folder/file").touch()
    (tmp_path / "folder/file").chmod(0o666)
    for _ in range(2):
        belonging.give_tree(tmp_path / "folder")
        assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750
        assert stat.S_IMODE((tmp_path / "folder/file").stat().st_mode) == 0o640


def test_folders_hand_their_list_on(tmp_path: Path) -> None:
    granted = (Granted("group", 12345, 5),)
    belonging = Belonging(file_mode=0o640, folder_mode=0o750, granted=granted)
    (tmp_path / "folder").mkdir()
    try:
        with opened(tmp_path / "folder") as folder:
            belonging.give(folder)
    except OSError as exc:
        pytest.skip(f"{tmp_path} keeps no access control lists: {exc}")
    wanted = permissions.access_list(0o750, granted)
    assert os.getxattr(tmp_path / "folder", ACCESS) == wanted
    assert os.getxattr(tmp_path / "folder", DEFAULT) == wanted
    (tmp_path / "folder/file").touch()
    assert os.getxattr(tmp_path / "folder/file", ACCESS)


def test_a_link_in_a_finished_folder_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.touch(0o600)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/link").symlink_to(victim)
    with pytest.raises(OSError, match="link"):
        Belonging(file_mode=0o640, folder_mode=0o750).give_tree(tmp_path / "folder")
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600


def test_a_path_never_chooses_the_administrator() -> None:
    for section in (OwnershipSection(group="{owner_group}"), OwnershipSection(user="{owner}", group="root")):
        with pytest.raises(HoldError, match=r"which is no (user|group) of a scan"):
            Ownership(section).of(OWNER)


def test_unknown_names_hold_the_scan_and_literal_ones_the_start(tmp_path: Path) -> None:
    with pytest.raises(
        HoldError, match=r"'p-1': ownership\.group: this machine knows no group 'nobody-has-it'"
    ):
        Ownership(OwnershipSection(group="{owner_group}")).of(
            Owner(account="p-1", owner="a", owner_group="nobody-has-it")
        )
    with pytest.raises(ConfigError, match=r"ownership\.group: this machine knows no group 'nobody-has-it'"):
        Ownership(OwnershipSection(group="nobody-has-it")).check(str(tmp_path))


def test_the_check_says_to_whom_results_will_belong(tmp_path: Path) -> None:
    group = grp.getgrgid(os.getegid()).gr_name
    sentence = Ownership(OwnershipSection(group=group, file_mode="0644", folder_mode="2755")).check(
        str(tmp_path)
    )
    assert sentence == (
        f"results belong to the daemon's user and the group {group}; files 0644, folders 2755"
    )


# --- what the daemon makes --------------------------------------------------------------------------------------


@pytest.fixture
def open_to_all(tmp_path: Path) -> Path:
    """A folder that hands on that everybody may write, whatever the umask says."""
    shared = tmp_path / "shared"
    shared.mkdir()
    try:
        os.setxattr(shared, DEFAULT, permissions.access_list(0o777, (Granted("group", 12345, 7),)))
    except OSError as exc:
        needs.missing(f"{shared} keeps no access control lists: {exc}")
    (shared / "probe").touch()
    assert (shared / "probe").stat().st_mode & stat.S_IWOTH
    (shared / "probe").unlink()
    return shared


def everything(top: Path) -> dict[str, int]:
    """Modes of all that lies below a folder."""
    return {str(path.relative_to(top)): stat.S_IMODE(path.lstat().st_mode) for path in top.rglob("*")}


def test_below_a_folder_that_is_open_to_all_nothing_is_made_so(
    open_to_all: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, int] = {}
    for module, name in ((os, "fsync"), (os, "replace"), (os, "rename")):
        real = getattr(module, name)
        monkeypatch.setattr(
            module,
            name,
            lambda *args, real=real, **at: (seen.update(everything(open_to_all)), real(*args, **at))[1],
        )
    storage = SharedStorage(str(open_to_all), str(tmp_path / "note"))
    storage.require(1, 0, "a byte")
    storage.make_account("p-1", lambda descriptor: None)
    part = open_to_all / "p-1" / ".scan.part"
    open_part(part)
    (tmp_path / "scan/in").mkdir(parents=True)
    (tmp_path / "scan/in/a.tif").write_bytes(b"frame")
    at = (tmp_path / "scan/in/a.tif").stat()
    files = (FileEntry(path="in/a.tif", size=at.st_size, mtime_ns=at.st_mtime_ns),)
    sync.copy(Manifest(folder=str(tmp_path / "scan"), files=files), part)
    seen.update(everything(open_to_all))
    made = {name.rpartition("/")[2] for name in seen}
    assert {
        SharedStorage.MARKER,
        "progress.jsonl",
        "manifest.json",
        "input",
        "in",
        "a.tif",
    } <= made
    assert {name: oct(mode) for name, mode in seen.items() if mode & 0o007} == {}
