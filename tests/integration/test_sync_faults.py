"""Copying on file systems that fail, and by processes that are killed."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import disks
import msgspec
import pytest
from proofs import check_manifest

from srctd.adapters import space, sync
from srctd.core.errors import NoSpace, NotPermitted, StorageUnavailable
from srctd.core.scan import FileEntry, Manifest

MIB = 1 << 20
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def scan_of(folder: Path, **sizes: int) -> list[FileEntry]:
    """Files of random content, `a__b` standing for `a/b`."""
    entries = []
    for key, size in sizes.items():
        path = folder / key.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(key).randbytes(size))
        stat = path.stat()
        entries.append(FileEntry(path=key.replace("__", "/"), size=stat.st_size, mtime_ns=stat.st_mtime_ns))
    return entries


# --- a full disk ------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 16 MiB of its own."""
    with disks.disk(tmp_path, 16, "mount") as mount:
        yield mount


def test_a_disk_that_is_too_small_is_a_sentence_and_stays_as_it_was(small_disk, tmp_path):
    files = scan_of(tmp_path / "detector", small=MIB, large=20 * MIB)
    part, final = small_disk / "account" / ".scan.part", small_disk / "account" / "scan"
    sync.make_folder(part.parent)
    before = space.free_bytes(small_disk)
    with pytest.raises(NoSpace) as caught:
        sync.copy(Manifest(folder=str(tmp_path / "detector"), files=tuple(files)), part)
    assert str(caught.value) == f"{part}/input/large cannot be written: No space left on device"
    assert "make room" in caught.value.hint
    assert not final.exists()
    assert os.listdir(part.parent) == []
    assert space.free_bytes(small_disk) == before, "what was copied so far does not fill the disk"

    sync.copy(Manifest(folder=str(tmp_path / "detector"), files=tuple(files[:1])), part)
    sync.publish(part, final)
    assert check_manifest(final) == 1


def test_the_forecast_names_the_mount(small_disk):
    with pytest.raises(NoSpace) as caught:
        space.require(small_disk / "account" / "task", 20 * MIB, MIB, "scan tooth-1")
    assert f"scan tooth-1 needs 0.0210 GB on {small_disk}, where 0.0" in str(caught.value)


def test_a_small_file_on_a_full_disk_leaves_the_old_one(small_disk):
    record = small_disk / "record.json"
    sync.write_atomic(record, b"old")
    with (small_disk / "filler").open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, space.free_bytes(small_disk))
    with pytest.raises(NoSpace, match=r"record\.json cannot be written: No space left on device"):
        sync.write_atomic(record, bytes(MIB))
    assert record.read_bytes() == b"old"
    assert sorted(os.listdir(small_disk)) == ["filler", "lost+found", "record.json"]


def test_a_disk_that_turned_read_only_may_heal(small_disk, tmp_path):
    files = scan_of(tmp_path / "detector", a=MIB)
    disks.remount(small_disk, "ro")
    with pytest.raises(StorageUnavailable, match="Read-only file system"):
        sync.copy(Manifest(folder=str(tmp_path / "detector"), files=tuple(files)), small_disk / ".scan.part")
    disks.remount(small_disk, "rw")
    sync.copy(Manifest(folder=str(tmp_path / "detector"), files=tuple(files)), small_disk / ".scan.part")


# --- closed doors -----------------------------------------------------------------------------------------


@contextmanager
def nobody_s_folder() -> Iterator[Path]:
    """A folder that everybody may enter; inside the block root is somebody else (root may do everything)."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@contextmanager
def as_nobody() -> Iterator[None]:
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_source_closed_to_the_daemon_is_held_with_its_name():
    with nobody_s_folder() as folder:
        files = scan_of(folder / "detector", a=10)
        (folder / "detector/a").chmod(0)
        with as_nobody(), pytest.raises(NotPermitted, match=r"detector/a cannot be read: Permission denied"):
            sync.copy(Manifest(folder=str(folder / "detector"), files=tuple(files)), folder / ".scan.part")


def test_a_target_closed_to_the_daemon_is_held_with_its_name():
    with nobody_s_folder() as folder:
        files = scan_of(folder / "detector", a=10)
        (folder / "account").mkdir(mode=0o555)
        with (
            as_nobody(),
            pytest.raises(NotPermitted, match=r"\.scan\.part cannot be written: Permission denied"),
        ):
            sync.copy(
                Manifest(folder=str(folder / "detector"), files=tuple(files)), folder / "account/.scan.part"
            )


# --- kill -------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys

points, target, kill_at = 0, sys.argv[1], int(sys.argv[2])

def point(*_):
    global points
    points += 1
    if points == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

def audit(event, args):
    '''Every opening, renaming, removing and making of something below the target is a point to die at.'''
    if args and isinstance(args[0], str | os.PathLike) and os.fspath(args[0]).startswith(target):
        point()

from pathlib import Path
from types import SimpleNamespace
from srctd.adapters import sync
from srctd.core.scan import FileEntry, Manifest
import msgspec
sys.addaudithook(audit)
"""

COPYING = KILLED + textwrap.dedent(
    """
    files = msgspec.json.decode(sys.argv[4], type=list[FileEntry])
    part, final = Path(target, ".scan.part"), Path(target, "scan")
    part.parent.mkdir(exist_ok=True)
    points = 0
    options = sync.CopyOptions(pace=SimpleNamespace(take=point))
    sync.copy(Manifest(folder=sys.argv[3], files=tuple(files)), part, options)
    sync.publish(part, final)
    print(points)
    """
)

REPLACING = KILLED + textwrap.dedent(
    """
    part = Path(target, ".output.part-12ab")
    part.mkdir(exist_ok=True)
    (part / "volume").write_text("new")
    points = 0
    sync.replace_folder(part, Path(target, "output"))
    sync.write_atomic(Path(target, "record.json"), b"new")
    sync.sweep(Path(target))
    print(points)
    """
)


def run(script: str, target: Path, kill_at: int, *arguments: str) -> int:
    """Run a script; return the points it passed, or -1 if it was killed at one."""
    command = [sys.executable, "-c", script, str(target), str(kill_at), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return int(done.stdout) if done.returncode == 0 else -1


def test_a_copy_that_is_killed_anywhere_goes_on_and_is_right(tmp_path):
    files = scan_of(tmp_path / "detector", a=9 * MIB, raw__b=17 * MIB + 1, raw__c=3, d=0)
    arguments = (str(tmp_path / "detector"), msgspec.json.encode(files).decode())
    points = run(COPYING, tmp_path / "whole", 0, *arguments)
    wanted = sync.published(tmp_path / "whole/scan")
    assert wanted is not None
    assert points > 20
    resumed = 0
    for kill_at in sorted(random.Random(2).sample(range(1, points + 1), 12)):
        target = tmp_path / f"killed-{kill_at}"
        assert run(COPYING, target, kill_at, *arguments) == -1
        final = target / "scan"
        assert not final.exists() or check_manifest(final) == 4, "whole or not at all"
        noted = target / ".scan.part/progress.jsonl"
        resumed += noted.exists() and b"blocks" in noted.read_bytes()

        assert (
            sync.copy(Manifest(folder=str(tmp_path / "detector"), files=tuple(files)), target / ".scan.part")
            == wanted
        )
        sync.publish(target / ".scan.part", final)
        assert check_manifest(final) == 4
        assert os.listdir(target) == ["scan"]
        assert sorted(os.listdir(final)) == ["input", "manifest.json", "manifest.xxh128"]
        assert sync.published(final) == wanted
        shutil.rmtree(target)
    assert resumed > 2, "some attempts found what was copied before"


def test_a_replacement_that_is_killed_anywhere_leaves_one_whole_folder(tmp_path):
    def redo(target: Path) -> Path:
        (target / "output").mkdir(parents=True)
        (target / "output/volume").write_text("old")
        (target / "record.json").write_text("old")
        return target

    points = run(REPLACING, redo(tmp_path / "whole"), 0)
    assert points > 5
    for kill_at in range(1, points + 1):
        target = redo(tmp_path / f"killed-{kill_at}")
        run(REPLACING, target, kill_at)
        assert (target / "output/volume").read_text() in ("old", "new")
        assert (target / "record.json").read_text() in ("old", "new")
        assert run(REPLACING, target, 0) > 0
        assert sorted(os.listdir(target)) == ["output", "record.json"]
        assert (target / "output/volume").read_text() == "new"
