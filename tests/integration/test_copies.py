"""Copies made ahead: used if the files stayed as they were, worthless otherwise, never two into one folder."""

import asyncio
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import xxhash

from srctd.adapters import sync
from srctd.adapters.ownership import Ownership
from srctd.adapters.pace import Paces
from srctd.adapters.space import SharedStorage
from srctd.config import Config, OwnershipSection, StorageSection, WatchSection
from srctd.copies import Copies, Place
from srctd.core.errors import HoldError, SourceChanged
from srctd.core.scan import FileEntry, Manifest, Owner
from srctd.parts import PartFolders, identity, open_part

OWNER = Owner(account="a", owner="a", owner_group="a")
OWNERSHIP = Ownership(OwnershipSection())


def manifest(folder: Path) -> Manifest:
    stat = (folder / "a.h5").stat()
    return Manifest(
        folder=str(folder), files=(FileEntry(path="a.h5", size=stat.st_size, mtime_ns=stat.st_mtime_ns),)
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "detector"
    folder.mkdir()
    (folder / "a.h5").write_bytes(b"frames" * 10_000)
    return folder


@pytest.fixture
def part(tmp_path: Path) -> Path:
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared" / OWNER.account / ".s.1a2b.part"


def play(tmp_path: Path, scenario: Callable[[Copies], Coroutine[Any, Any, None]]) -> None:
    async def stage() -> None:
        await scenario(copies_in(tmp_path))

    asyncio.run(stage())


def copies_in(tmp_path: Path) -> Copies:
    shared = str(tmp_path / "shared")
    watched = WatchSection(path=str(tmp_path / "detector"))
    config = Config(watch=(watched,), storage=StorageSection(shared=shared, reserve_gigabytes=0))
    place = Place(SharedStorage(shared, str(tmp_path / "note")), OWNERSHIP, PartFolders(shared, "1a2b"))
    return Copies(config, place, Paces(config.watch, 2, shared), lambda: 0)


def check(copied: Manifest, source: Path, part: Path) -> None:
    data = (source / "a.h5").read_bytes()
    assert copied.files[0].digest == xxhash.xxh3_128(data).hexdigest()
    assert (part / "input" / "a.h5").read_bytes() == data
    names = {path.name for path in part.iterdir()} - {sync.PROGRESS}  # it goes when the copy is published
    assert names == {"input", "manifest.json", "manifest.xxh128"}


def test_a_copy_of_what_is_no_scan_of_its_own_is_removed(source: Path, part: Path, tmp_path: Path) -> None:
    async def scenario(copies: Copies) -> None:
        copies.begin("s", manifest(source), OWNER)
        await asyncio.sleep(0.5)
        assert await asyncio.to_thread(part.exists)
        copies.discard("s")
        while await asyncio.to_thread(part.exists):  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.01)
        copies.discard("unknown")
        check(await copies.copy("s", manifest(source), OWNER), source, part)

    play(tmp_path, scenario)


def test_the_copy_made_ahead_is_the_copy(source: Path, part: Path, tmp_path: Path) -> None:
    async def scenario(copies: Copies) -> None:
        copies.begin("s", manifest(source), OWNER)
        copies.begin("s", manifest(source), OWNER)
        check(await copies.copy("s", manifest(source), OWNER), source, part)

    play(tmp_path, scenario)


def test_a_source_that_changed_is_copied_anew(source: Path, part: Path, tmp_path: Path) -> None:
    async def scenario(copies: Copies) -> None:
        copies.begin("s", manifest(source), OWNER)
        await asyncio.sleep(0)
        (source / "a.h5").write_bytes(b"other frames" * 10_000)
        copies.abandon("s")
        copies.begin("s", manifest(source), OWNER)
        check(await copies.copy("s", manifest(source), OWNER), source, part)

    play(tmp_path, scenario)


def test_a_copy_made_ahead_of_other_files_is_worthless(source: Path, part: Path, tmp_path: Path) -> None:
    async def scenario(copies: Copies) -> None:
        copies.begin("s", manifest(source), OWNER)
        await asyncio.sleep(0.05)
        (source / "a.h5").write_bytes(b"x")
        check(await copies.copy("s", manifest(source), OWNER), source, part)

    play(tmp_path, scenario)


def test_what_fails_ahead_fails_nobody_and_the_copy_itself_says_why(
    source: Path, part: Path, tmp_path: Path
) -> None:
    async def scenario(copies: Copies) -> None:
        asked = manifest(source)
        (source / "a.h5").write_bytes(b"x")
        copies.begin("s", asked, OWNER)
        with pytest.raises(SourceChanged):
            await copies.copy("s", asked, OWNER)

    play(tmp_path, scenario)


def test_without_the_shared_folder_nothing_is_written(source: Path, tmp_path: Path) -> None:
    async def scenario(copies: Copies) -> None:
        copies.begin("s", manifest(source), OWNER)
        await asyncio.sleep(0.2)
        copies.abandon("s")

    play(tmp_path, scenario)
    assert not (tmp_path / "shared").exists()


def test_of_two_daemons_each_has_its_own_parts(tmp_path: Path) -> None:
    one, other = PartFolders(str(tmp_path), "1a2b"), PartFolders(str(tmp_path), "3c4d")
    (tmp_path / "account").mkdir()
    made = {
        daemon: [daemon.of("account", f"scan.{number}") for number in range(3)] for daemon in (one, other)
    }
    for part in (*made[one], *made[other]):
        open_part(part)
        open_part(part)
    (tmp_path / "account" / "scan.1").mkdir()
    assert len(list((tmp_path / "account").iterdir())) == 7
    for daemon, parts in made.items():
        assert daemon.left() == {f"scan.{number}": part for number, part in enumerate(parts)}


def test_the_identity_of_a_daemon_stays(tmp_path: Path) -> None:
    first = identity(tmp_path)
    assert re.fullmatch("[0-9a-f]{12}", first)
    assert identity(tmp_path) == first


def test_only_the_daemon_enters_a_part(tmp_path: Path) -> None:
    part = tmp_path / ".scan-1.part"
    part.mkdir(0o777)
    open_part(part)
    assert part.stat().st_mode & 0o777 == 0o700


def test_a_link_in_a_part_s_place_is_refused(tmp_path: Path) -> None:
    outside, part = tmp_path / "outside", tmp_path / ".scan-1.part"
    open_part(outside)
    outside.chmod(0o755)
    part.symlink_to(outside)
    with pytest.raises(HoldError, match=r"\.scan-1\.part cannot be closed to others"):
        open_part(part)
    assert outside.stat().st_mode & 0o777 == 0o755
