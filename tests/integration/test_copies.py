"""Copies made ahead: used if the files stayed as they were, worthless otherwise, never two into one folder."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import xxhash

from srctd.adapters import sync
from srctd.adapters.ownership import Ownership
from srctd.adapters.space import SharedStorage
from srctd.config import OwnershipSection
from srctd.copies import Copies
from srctd.core.errors import SourceChanged
from srctd.core.scan import FileEntry, Manifest, Owner

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
    return tmp_path / "shared" / ".s.part"


def play(tmp_path: Path, scenario: Callable[[Copies], Coroutine[Any, Any, None]]) -> None:
    async def stage() -> None:
        await scenario(
            Copies(2, SharedStorage(str(tmp_path / "shared"), str(tmp_path / "note")), 0, OWNERSHIP)
        )

    asyncio.run(stage())


def check(copied: Manifest, source: Path, part: Path) -> None:
    data = (source / "a.h5").read_bytes()
    assert copied.files[0].digest == xxhash.xxh3_128(data).hexdigest()
    assert (part / "input" / "a.h5").read_bytes() == data
    left = {path.name for path in part.iterdir()} - {sync.PROGRESS}  # it goes when the copy is published
    assert left == {"input", "manifest.json", "manifest.xxh128"}


def test_a_copy_of_what_is_no_scan_of_its_own_is_removed(source: Path, part: Path, tmp_path: Path) -> None:
    async def scenario(copies: Copies) -> None:
        copies.begin("s", manifest(source), part, OWNER)
        await asyncio.sleep(0.5)
        assert await asyncio.to_thread(part.exists)
        copies.discard("s", part)
        while await asyncio.to_thread(part.exists):  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.01)
        copies.discard("unknown", part)
        check(await copies.copy("s", manifest(source), part, OWNER), source, part)

    play(tmp_path, scenario)


def test_the_copy_made_ahead_is_the_copy(source: Path, part: Path, tmp_path: Path) -> None:
    async def scenario(copies: Copies) -> None:
        copies.begin("s", manifest(source), part, OWNER)
        copies.begin("s", manifest(source), part, OWNER)
        check(await copies.copy("s", manifest(source), part, OWNER), source, part)

    play(tmp_path, scenario)


def test_a_source_that_changed_is_copied_anew(source: Path, part: Path, tmp_path: Path) -> None:
    async def scenario(copies: Copies) -> None:
        copies.begin("s", manifest(source), part, OWNER)
        await asyncio.sleep(0)
        (source / "a.h5").write_bytes(b"other frames" * 10_000)
        copies.abandon("s")
        copies.begin("s", manifest(source), part, OWNER)
        check(await copies.copy("s", manifest(source), part, OWNER), source, part)

    play(tmp_path, scenario)


def test_a_copy_made_ahead_of_other_files_is_worthless(source: Path, part: Path, tmp_path: Path) -> None:
    async def scenario(copies: Copies) -> None:
        copies.begin("s", manifest(source), part, OWNER)
        await asyncio.sleep(0.05)
        (source / "a.h5").write_bytes(b"x")
        check(await copies.copy("s", manifest(source), part, OWNER), source, part)

    play(tmp_path, scenario)


def test_what_fails_ahead_fails_nobody_and_the_copy_itself_says_why(
    source: Path, part: Path, tmp_path: Path
) -> None:
    async def scenario(copies: Copies) -> None:
        asked = manifest(source)
        (source / "a.h5").write_bytes(b"x")
        copies.begin("s", asked, part, OWNER)
        with pytest.raises(SourceChanged):
            await copies.copy("s", asked, part, OWNER)

    play(tmp_path, scenario)


def test_without_the_shared_folder_nothing_is_written(source: Path, tmp_path: Path) -> None:
    part = tmp_path / "shared" / "account" / ".s.part"

    async def scenario(copies: Copies) -> None:
        copies.begin("s", manifest(source), part, OWNER)
        await asyncio.sleep(0.2)
        copies.abandon("s")

    play(tmp_path, scenario)
    assert not (tmp_path / "shared").exists()
