"""Free space, asked before writing."""

import errno
import os
import threading

import pytest

from srctd.adapters import space
from srctd.adapters.space import SharedStorage
from srctd.core.errors import NoSpace, StorageUnavailable


def test_what_fits_passes(tmp_path):
    space.require(tmp_path, 1, 0, "a byte")
    space.require(tmp_path, space.free_bytes(tmp_path) // 2, 0, "half of what is free")


def test_a_folder_that_is_not_there_yet_has_the_space_of_its_parent(tmp_path):
    assert space.free_bytes(tmp_path / "account" / "task") > 0
    (tmp_path / "file").touch()
    assert space.free_bytes(tmp_path / "file" / "below") > 0


@pytest.mark.parametrize("reserve", [0, 10**18])
def test_the_sentence_names_the_need_the_mount_and_the_way_out(tmp_path, reserve):
    with pytest.raises(NoSpace) as caught:
        space.require(tmp_path, 10**18, reserve, "scan tooth-1")
    sentence = caught.value.sentence
    assert sentence.startswith("scan tooth-1 needs 1000000000.0 GB on /")
    assert f"{reserve / 1e9:.1f} GB must stay free" in sentence or reserve == 0
    assert "more room on /" in sentence


def test_the_reserve_counts(tmp_path):
    free = space.free_bytes(tmp_path)
    with pytest.raises(NoSpace):
        space.require(tmp_path, 1, 2 * free, "a byte")


def test_small_numbers_keep_their_digits(tmp_path):
    with pytest.raises(NoSpace, match=r"needs 0\.0160 GB"):
        space.require(tmp_path, 16_000_000, 10**18, "a small scan")


@pytest.fixture
def storage(tmp_path):
    (tmp_path / "shared").mkdir()
    return SharedStorage(str(tmp_path / "shared"), str(tmp_path / "note"))


def test_storage_is_known_again_by_its_marker(storage, tmp_path):
    storage.require(1, 0, "a byte")
    again = SharedStorage(str(tmp_path / "shared"), str(tmp_path / "note"))
    again.require(1, 0, "a byte")
    other = SharedStorage(str(tmp_path / "shared"), str(tmp_path / "note of another daemon"))
    other.require(1, 0, "a byte")
    storage.require(1, 0, "a byte")


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_scans_and_daemons_that_use_new_storage_at_once_agree_on_its_marker(tmp_path, monkeypatch, links):
    def refuse(*_):
        raise OSError(errno.EPERM, "no second names here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    daemons = 4 if links else 1
    for turn in range(20):
        shared = tmp_path / f"shared-{turn}"
        shared.mkdir()
        storages = [SharedStorage(str(shared), str(tmp_path / f"note-{turn}-{n}")) for n in range(daemons)]
        start, failed = threading.Barrier(4 * daemons), []

        def use(storage, start=start, failed=failed):
            start.wait()
            try:
                storage.require(1, 0, "a byte")
            except StorageUnavailable as exc:
                failed.append(exc)

        threads = [threading.Thread(target=use, args=(storage,)) for storage in 4 * storages]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        for storage in storages:
            storage.require(1, 0, "a byte")
        assert os.listdir(shared) == [SharedStorage.MARKER]


def test_a_marker_that_says_nothing_is_nobodys(storage, tmp_path):
    (tmp_path / "shared" / SharedStorage.MARKER).touch()
    with pytest.raises(StorageUnavailable, match="empty marker"):
        storage.require(1, 0, "a byte")


def test_an_empty_mount_point_is_not_the_storage(storage, tmp_path):
    storage.require(1, 0, "a byte")
    (tmp_path / "shared").rename(tmp_path / "away")
    with pytest.raises(StorageUnavailable, match=r"storage\.shared = .* is not there") as caught:
        storage.require(1, 0, "a byte")
    assert "mounted" in caught.value.hint
    assert not (tmp_path / "shared").exists(), "never made"
    (tmp_path / "shared").mkdir()
    with pytest.raises(StorageUnavailable, match="has no marker"):
        storage.require(1, 0, "a byte")
    (tmp_path / "shared").rmdir()
    (tmp_path / "away").rename(tmp_path / "shared")
    storage.require(1, 0, "a byte")


def test_another_path_in_the_configuration_is_another_storage(storage, tmp_path):
    storage.require(1, 0, "a byte")
    (tmp_path / "new").mkdir()
    SharedStorage(str(tmp_path / "new"), str(tmp_path / "note")).require(1, 0, "a byte")
