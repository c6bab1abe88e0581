"""Removing a scan's files: these, as they were judged, below the root, and nothing else."""

import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from needs import as_nobody

from srctd.adapters import removal, sync
from srctd.core.errors import DigestMismatch, HoldError, NotPermitted, SourceChanged, StorageUnavailable
from srctd.core.scan import FileEntry, Manifest

NAMES = ("scan/log.txt", "scan/tif/0001.tif", "scan/tif/0002.tif", "scan/flat/0001.tif")


def manifest(folder: Path, names: tuple[str, ...], opened: str = "") -> Manifest:
    """Files as they are now."""
    stats = [(name, (folder / name).stat()) for name in names]
    files = tuple(FileEntry(path=name, size=at.st_size, mtime_ns=at.st_mtime_ns) for name, at in stats)
    return Manifest(folder=str(folder), files=files, opened=opened)


def write(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A watched root with a scan that is a folder, and a scan that is a file beside it."""
    path = tmp_path / "root"
    write(path, (*NAMES, "other.h5"))
    return path


@pytest.fixture
def stack(root: Path) -> Manifest:
    return manifest(root / "scan", tuple(name.removeprefix("scan/") for name in NAMES))


def below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_a_folder_goes_with_all_that_is_its(root: Path, stack: Manifest):
    removal.require_removable(stack, str(root))
    removed = removal.remove(stack, str(root))
    assert (len(removed.gone), removed.left, removed.finished) == (4, (), True)
    assert below(root) == ["other.h5"]


def test_the_folder_around_a_file_stays_and_so_does_the_root(root: Path):
    (root / "day" / "a.h5").parent.mkdir()
    (root / "day" / "a.h5").write_bytes(b"1")
    removal.remove(manifest(root / "day", ("a.h5",), "a.h5"), str(root))
    assert (root / "day").is_dir()
    for name in below(root):
        if (root / name).is_file():
            (root / name).unlink()
    (root / "frame.tif").write_bytes(b"1")
    removal.remove(manifest(root, ("frame.tif",)), str(root))
    assert root.is_dir()


def test_what_is_opened_goes_last(root: Path):
    write(root, ("a.h5", "b/part.h5"))
    both = manifest(root, ("a.h5", "b/part.h5"), "a.h5")
    stop = iter([False, True])
    assert not removal.remove(both, str(root), lambda: next(stop)).finished
    assert (root / "a.h5").exists()
    assert not (root / "b" / "part.h5").exists()


def test_foreign_files_links_and_hard_links_stay_and_keep_the_folder(
    root: Path, stack: Manifest, tmp_path: Path
):
    (tmp_path / "precious").write_bytes(b"precious")
    (root / "scan" / "notes").write_text("by hand")
    (root / "scan" / "tif" / "0003.tif").symlink_to(tmp_path / "precious")
    os.link(tmp_path / "precious", root / "scan" / "flat" / "hard.tif")
    os.link(root / "scan" / "tif" / "0001.tif", tmp_path / "elsewhere.tif")
    removal.remove(stack, str(root))
    kept = ["scan", "scan/flat", "scan/flat/hard.tif", "scan/notes", "scan/tif", "scan/tif/0003.tif"]
    assert below(root) == ["other.h5", *kept]
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert (tmp_path / "elsewhere.tif").exists()


def changed_content(path: Path) -> None:
    path.write_bytes(b"something else altogether")


def touched(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def a_link_to_its_like(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("change", [changed_content, touched, a_link_to_its_like, a_folder, a_fifo])
def test_a_file_that_became_something_else_stays(root: Path, stack: Manifest, change: Callable[[Path], None]):
    path = root / "scan" / "tif" / "0002.tif"
    change(path)
    with pytest.raises(SourceChanged, match=r"0002\.tif changed since it was copied"):
        removal.require_removable(stack, str(root))
    removed = removal.remove(stack, str(root))
    assert [file.path for file in removed.left] == ["tif/0002.tif"]
    assert path.is_symlink() or path.exists()
    assert len(removed.gone) == 3


def test_a_link_in_place_of_a_folder_leads_nowhere(root: Path, stack: Manifest, tmp_path: Path):
    """The very same files, reached through a link, are not touched."""
    (root / "scan" / "tif").rename(tmp_path / "tif")
    (root / "scan" / "tif").symlink_to(tmp_path / "tif", target_is_directory=True)
    with pytest.raises(SourceChanged, match="is not there any more, or is no folder"):
        removal.require_removable(stack, str(root))
    removal.remove(stack, str(root))
    assert len(list((tmp_path / "tif").iterdir())) == 2
    (root / "scan").rename(tmp_path / "scan")
    (root / "scan").symlink_to(tmp_path / "scan", target_is_directory=True)
    removal.remove(stack, str(root))
    assert (root / "scan").is_symlink()
    assert len(list((tmp_path / "tif").iterdir())) == 2


@pytest.mark.parametrize("name", ["../precious", "tif/../../../precious", "/etc/hostname", "./log.txt", ""])
def test_a_name_never_leads_out_of_the_root(root: Path, name: str, tmp_path: Path):
    (tmp_path / "precious").write_bytes(b"precious")
    bad = Manifest(folder=str(root / "scan"), files=(FileEntry(path=name, size=8, mtime_ns=0),))
    for function in (removal.require_removable, removal.remove):
        with pytest.raises(HoldError, match="no plain relative name"):
            function(bad, str(root))
    assert (tmp_path / "precious").exists()


def test_a_folder_outside_of_the_root_is_refused(root: Path, tmp_path: Path):
    write(tmp_path, ("root2/a.h5",))
    outside = manifest(tmp_path / "root2", ("a.h5",), "a.h5")
    for function in (removal.require_removable, removal.remove):
        with pytest.raises(HoldError, match="does not lie below"):
            function(outside, str(root))
    assert (tmp_path / "root2" / "a.h5").exists()


def test_a_root_that_is_a_link_or_is_not_there_is_not_entered(root: Path, stack: Manifest, tmp_path: Path):
    before = below(root)
    root.rename(tmp_path / "real")
    with pytest.raises(StorageUnavailable, match="cannot be opened"):
        removal.remove(stack, str(root))
    root.symlink_to(tmp_path / "real")
    with pytest.raises(StorageUnavailable, match="cannot be opened"):
        removal.remove(stack, str(root))
    assert below(tmp_path / "real") == before


def test_a_closed_folder_is_said_before_anything_goes():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        root = Path(folder, "root")
        write(root, NAMES)
        stack = manifest(root / "scan", tuple(name.removeprefix("scan/") for name in NAMES))
        for path in (root.parent, root, *root.rglob("*")):
            path.chmod(0o755)
        before = below(root)
        with as_nobody():
            assert not removal.writable(str(root))
            with pytest.raises(NotPermitted, match="this user may not remove anything there"):
                removal.require_removable(stack, str(root))
            with pytest.raises(NotPermitted, match="cannot be removed from"):
                removal.remove(stack, str(root))
        assert below(root) == before


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 30), stops=st.lists(st.integers(0, 12), max_size=4))
def test_cut_short_anywhere_it_goes_on_and_foreign_files_never_go(
    tmp_path: Path, seed: int, stops: list[int]
):
    chance = random.Random(seed)
    root = tmp_path / f"{seed}-{'-'.join(map(str, stops))}"
    folders = ("scan", "scan/tif", "scan/flat/deep")
    own = tuple(f"{chance.choice(folders)}/{n}.tif" for n in range(chance.randint(1, 10)))
    foreign = tuple(f"{chance.choice((*folders, 'near'))}/{n}.foreign" for n in range(chance.randint(0, 3)))
    write(root, (*own, *foreign))
    wanted = manifest(root / "scan", tuple(name.removeprefix("scan/") for name in own))
    for stop in stops:
        counts = iter(range(100))
        removal.remove(wanted, str(root), lambda stop=stop, counts=counts: next(counts) >= stop)
    removed = removal.remove(wanted, str(root))
    assert (len(removed.gone), removed.finished) == (len(own), True)
    assert sorted(name for name in below(root) if (root / name).is_file()) == sorted(foreign)
    if not any(name.startswith("scan/") for name in foreign):
        assert not (root / "scan").exists()


def test_how_full_a_disk_is(root: Path):
    usage = removal.disk_usage(str(root))
    assert 0 < usage.used <= usage.size
    assert usage.device == root.stat().st_dev
    with pytest.raises(StorageUnavailable):
        removal.disk_usage(str(root / "none"))
    assert removal.writable(str(root))


# --- the copy ---------------------------------------------------------------------------------------------


@pytest.fixture
def copy(root: Path, stack: Manifest, tmp_path: Path) -> Path:
    """The task folder of the scan."""
    sync.copy(stack, tmp_path / "part")
    sync.publish(tmp_path / "part", tmp_path / "task")
    return tmp_path / "task"


def proven(copy: Path) -> Manifest:
    found = sync.published(copy)
    assert found is not None
    return found


def test_the_copy_is_read_where_it_lies(copy: Path, tmp_path: Path):
    lying = removal.copy_as_it_lies(proven(copy), copy, sync.INPUT)
    read = sync.digest_in_place(lying)
    assert [file.digest for file in read.files] == [file.digest for file in proven(copy).files]
    (tmp_path / "linked").symlink_to(copy)
    assert removal.copy_as_it_lies(proven(copy), tmp_path / "linked", sync.INPUT) == lying


def missing(file: Path) -> None:
    file.unlink()


def shorter(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def the_source_by_a_link(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.parents[3] / "root" / "scan" / "tif" / file.name)


def its_folder_by_a_link(file: Path) -> None:
    file.parent.rename(file.parents[3] / "elsewhere")
    file.parent.symlink_to(file.parents[3] / "elsewhere")


def all_of_it_by_a_link(file: Path) -> None:
    file.parents[1].rename(file.parents[3] / "elsewhere")
    file.parents[1].symlink_to(file.parents[3] / "root" / "scan")


@pytest.mark.parametrize(
    "damage", [missing, shorter, the_source_by_a_link, its_folder_by_a_link, all_of_it_by_a_link]
)
def test_a_copy_that_is_not_there_proves_nothing(copy: Path, damage: Callable[[Path], None]):
    record = proven(copy)
    damage(copy / "input" / "tif" / "0001.tif")
    with pytest.raises(DigestMismatch, match=r"is not there, or is no regular file|bytes instead of"):
        removal.copy_as_it_lies(record, copy, sync.INPUT)
