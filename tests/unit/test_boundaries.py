"""Nothing is read from beyond a scan's own folder and those that a site names, whatever files and links say."""

import os
import threading
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from msgspec.structs import replace
from scan_files import COLUMNS, KEYS, ROWS, frame_values, write_nxtomo

from srctd.adapters import sync
from srctd.adapters.listing import Listing
from srctd.core.errors import DigestMismatch, ScanUnreadable
from srctd.core.scan import FileEntry, Manifest
from srctd.formats import open_scan, probe
from srctd.formats.content import content_digest
from srctd.formats.protocol import ReadOptions
from srctd.formats.reader import index_scan
from srctd.indexing import original_names, require_links_hold
from srctd.sim.writer import SimulationSpec, simulate

DETECTOR = "entry/instrument/detector"
CLOSED = ReadOptions(linked_below=())
SMALL = SimulationSpec(rows=8, columns=48, angles=12, flats=2, darks=2)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of frames outside the watched root."""
    (tmp_path / "secret").mkdir()
    with h5py.File(tmp_path / "secret/frames.h5", "w") as file:
        file["data"] = frame_values(len(KEYS))
    return tmp_path / "secret/frames.h5"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/scan").mkdir(parents=True)
    return tmp_path / "root"


def refusal(path: str, options: ReadOptions) -> str:
    """The sentence with which a scan is refused, by whoever looks at it and whoever opens it."""
    with pytest.raises(ScanUnreadable) as caught:
        index_scan(path, options=options)
    seen = probe(path, options)
    assert not seen.readable
    assert seen.problem == str(caught.value)
    return seen.problem


# --- links of HDF5 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["{secret}", "../../secret/frames.h5", "link.h5", "folder/frames.h5"])
def test_a_link_that_leads_out_is_refused(root, secret, name):
    (root / "scan/link.h5").symlink_to(secret)
    (root / "scan/folder").symlink_to(secret.parent)
    link = h5py.ExternalLink(name.format(secret=secret), "/data")
    path = write_nxtomo(root / "scan/a.nxs", data=link)
    sentence = refusal(path, ReadOptions(linked_below=(str(root),)))
    assert "outside the folders in which this scan's files may lie" in sentence
    with open_scan(path, options=ReadOptions(linked_below=(str(secret.parent),))) as scan:
        assert scan.header.n_projections == 4


def test_that_nothing_lies_there_is_not_told_either(root, tmp_path):
    path = write_nxtomo(root / "scan/a.nxs", data=h5py.ExternalLink(str(tmp_path / "secret/x.h5"), "/data"))
    assert "outside the folders" in refusal(path, CLOSED)


def test_a_link_to_another_folder_of_the_root_is_followed(root):
    with h5py.File(root / "frames.h5", "w") as file:
        file["data"] = frame_values(len(KEYS))
    path = write_nxtomo(root / "scan/a.nxs", data=h5py.ExternalLink("../frames.h5", "/data"))
    assert index_scan(path, options=ReadOptions(linked_below=(str(root),))).header.n_projections == 4
    assert "outside the folders" in refusal(path, CLOSED)


def test_a_virtual_data_set_takes_nothing_from_elsewhere(root, secret):
    path = write_nxtomo(root / "scan/a.nxs")
    layout = h5py.VirtualLayout((len(KEYS), ROWS, COLUMNS), np.uint16)
    layout[:] = h5py.VirtualSource(str(secret), "data", (len(KEYS), ROWS, COLUMNS))
    with h5py.File(path, "a") as file:
        del file[f"{DETECTOR}/data"]
        file[DETECTOR].create_virtual_dataset("data", layout)
    assert "outside the folders" in refusal(path, CLOSED)


def test_a_virtual_data_set_in_a_permitted_file_neither(root, secret):
    """HDF5 itself follows one virtual data set to the next."""
    path = write_nxtomo(root / "scan/a.nxs")
    with h5py.File(root / "scan/angles.h5", "w") as file:
        layout = h5py.VirtualLayout((len(KEYS),), float)
        layout[:] = h5py.VirtualSource(str(secret), "angles", (len(KEYS),))
        file.create_virtual_dataset("angles", layout)
    with h5py.File(path, "a") as file:
        layout = h5py.VirtualLayout((len(KEYS),), float)
        layout[:] = h5py.VirtualSource("angles.h5", "angles", (len(KEYS),))
        del file["entry/sample/rotation_angle"]
        file["entry/sample"].create_virtual_dataset("rotation_angle", layout)
    assert "outside the folders" in refusal(path, CLOSED)


def test_values_in_a_file_that_is_no_hdf5_are_not_read(root, secret):
    path = write_nxtomo(root / "scan/a.nxs")
    shape, size = (len(KEYS), ROWS, COLUMNS), len(KEYS) * ROWS * COLUMNS * 2
    with h5py.File(path, "a") as file:
        del file[f"{DETECTOR}/data"]
        file.create_dataset(f"{DETECTOR}/data", shape, np.uint16, external=[(str(secret), 0, size)])
    assert "which is no HDF5 file" in refusal(path, CLOSED)


# --- links of the file system -----------------------------------------------------------------------------


def test_links_among_the_files_of_a_stack_count_where_they_are_meant(tmp_path):
    simulate(replace(SMALL, format="skyscan"), str(tmp_path / "stack"))
    with open_scan(str(tmp_path / "stack")) as scan:
        there = scan.header.n_projections
    last = sorted((tmp_path / "stack").glob("*.tif"))[-1]
    (tmp_path / "away").mkdir()
    last.rename(tmp_path / "away" / last.name)
    last.symlink_to(tmp_path / "away" / last.name)
    assert probe(str(tmp_path / "stack")).frames_found == there - 1
    assert (
        probe(str(tmp_path / "stack"), ReadOptions(links_into=str(tmp_path / "away"))).frames_found == there
    )


def test_a_raw_file_behind_a_link_is_none(tmp_path):
    simulate(replace(SMALL, format="raw"), str(tmp_path / "scan"))
    assert probe(str(tmp_path / "scan")).frames_found
    raw = next((tmp_path / "scan").glob("*.raw"))
    raw.rename(tmp_path / "frames")
    raw.symlink_to(tmp_path / "frames")
    assert not probe(str(tmp_path / "scan")).frames_found
    assert not probe(str(raw)).frames_found


class Meanwhile(threading.Event):
    """Does something while a listing is under way: it asks between two files whether it is to stop."""

    def __init__(self, function) -> None:
        super().__init__()
        self._function = function

    def is_set(self) -> bool:
        self._function()
        return super().is_set()


def test_a_folder_that_becomes_a_link_during_the_listing_is_not_entered(root, secret):
    (root / "scan/a.h5").touch()
    (root / "first.h5").touch()

    def swap() -> None:
        if not (root / "scan").is_symlink():
            (root / "scan").rename(root.parent / "was")
            (root / "scan").symlink_to(secret.parent)

    watched = SimpleNamespace(
        path=str(root), patterns=["*.h5"], depth=3, listing_seconds=5.0, rest_listing_seconds=5.0
    )
    listing = Listing(watched, Meanwhile(swap))
    listing.look((), 0.0)
    assert (root / "scan").is_symlink()
    assert list(listing.groups) == [str(root / "first.h5")]
    (root / "below").mkdir()
    listing.look((), 10.0)
    (root / "below").rmdir()
    (root / "below").symlink_to(secret.parent)
    listing.look([str(root / "below")], 20.0)
    assert list(listing.groups) == [str(root / "first.h5")]


@pytest.mark.parametrize("swapped", ["raw", ""])
def test_a_folder_that_becomes_a_link_during_the_copy_is_not_entered(root, tmp_path, swapped):
    (root / "scan/raw").mkdir()
    (tmp_path / "secret/raw").mkdir(parents=True)
    files = []
    for name in ("raw/a", "raw/b"):
        (root / "scan" / name).write_bytes(b"frames")
        for folder in (tmp_path / "secret", tmp_path / "secret/raw"):
            (folder / name.removeprefix("raw/")).write_bytes(b"secret")
            os.utime(folder / name.removeprefix("raw/"), ns=(1, 1))
        os.utime(root / "scan" / name, ns=(1, 1))
        files.append(FileEntry(path=name, size=6, mtime_ns=1))
    place = root / "scan" / swapped

    def swap(_: int) -> None:
        if not place.is_symlink():
            place.rename(tmp_path / "was")
            place.symlink_to(tmp_path / "secret")

    part = tmp_path / "shared/account/.scan.part"
    part.parent.mkdir(parents=True)
    options = sync.CopyOptions(pace=SimpleNamespace(take=swap))
    with pytest.raises(ScanUnreadable):
        sync.copy(Manifest(folder=str(root / "scan"), files=tuple(files)), part, options)
    assert place.is_symlink()
    assert b"secret" not in b"".join(path.read_bytes() for path in part.rglob("*") if path.is_file())


# --- names ------------------------------------------------------------------------------------------------


def copied(source: Path, part: Path, **options) -> Manifest:
    files = [
        FileEntry(
            path=str(path.relative_to(source)), size=path.stat().st_size, mtime_ns=path.stat().st_mtime_ns
        )
        for path in sorted(source.rglob("*"))
        if path.is_file()
    ]
    part.parent.mkdir(parents=True, exist_ok=True)
    return sync.copy(Manifest(folder=str(source), files=tuple(files)), part, sync.CopyOptions(**options))


def test_a_copy_shows_its_original_names(tmp_path):
    source, part = tmp_path / "source", tmp_path / "shared/.part"
    for name in ("A/b", "a/b", "c:d", "c_d", "two\nlines", "plain"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(name.encode())
    manifest = copied(source, part)
    assert len({file.copied_as.casefold() for file in manifest.files}) == 6
    with original_names(manifest, part / "input") as shown:
        assert shown.name == "source"
        for file in manifest.files:
            assert (shown / file.path).read_bytes() == file.path.encode()
    assert not shown.exists()


def test_names_stay_where_a_site_wants_that(tmp_path):
    source, part = tmp_path / "source", tmp_path / "shared/.part"
    source.mkdir()
    for name in ("A", "a", "c:d", "e\\f"):
        (source / name).write_bytes(name.encode())
    manifest = copied(source, part, portable_names=False)
    assert [file.stored for file in manifest.files] == [""] * 4
    (source / "two\nlines").touch()
    with pytest.raises(ScanUnreadable, match="holds control characters"):
        copied(source, tmp_path / "shared/.other", portable_names=False)


def test_a_copy_that_goes_on_keeps_the_names_it_gave(tmp_path):
    source, part = tmp_path / "source", tmp_path / "shared/.part"
    source.mkdir()
    (source / "b.tif").write_bytes(b"lower")
    first = copied(source, part)
    (part / "progress.jsonl").write_bytes(
        b"".join(
            b'{"path":"b.tif","size":5,"mtime_ns":%d,"digest":"%s"}\n' % (file.mtime_ns, file.digest.encode())
            for file in first.files
        )
    )
    (source / "B.tif").write_bytes(b"upper")
    names = {file.path: file.copied_as for file in copied(source, part).files}
    assert names["b.tif"] == "b.tif"
    assert names["B.tif"].lower() != "b.tif"


def test_an_edited_manifest_leads_nowhere(tmp_path):
    for name in ("../../etc/shadow", "/etc/shadow", ""):
        file = FileEntry(path=name or "a", size=1, mtime_ns=1, stored="a/../.." if not name else "")
        sync.write_manifest(tmp_path, Manifest(folder="/x", files=(file,)))
        with pytest.raises(DigestMismatch, match="is no name in a copy"):
            sync.published(tmp_path)


def test_links_to_a_file_with_another_name_are_refused():
    files = tuple(FileEntry(path=name, size=1, mtime_ns=1) for name in ("m.h5", "d:1.h5", "d2.h5"))
    manifest = Manifest(folder="/raw", files=files, opened="m.h5")
    require_links_hold(manifest, ["/raw/d2.h5", "/elsewhere/d:1.h5"])
    with pytest.raises(ScanUnreadable, match=r"links to /raw/d:1\.h5, which gets another name"):
        require_links_hold(manifest, ["/raw/d2.h5", "/raw/d:1.h5"])


@pytest.mark.timeout(20)
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.h5")
    with pytest.raises(ScanUnreadable, match=r"a\.h5 is no regular file but a pipe"):
        content_digest([("a.h5", str(tmp_path / "a.h5"), 10)], "")
