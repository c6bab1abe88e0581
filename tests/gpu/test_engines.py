"""A whole shard by the CPU and by a device: the same slices, whatever its memory allows."""

import h5py
import numpy as np
import pytest
from small_scans import CENTER, COLUMNS, ROWS, write_parameters, write_scan

from gpu.kernels.device import Device
from gpu.pipeline import Resources, run_rows
from gpu.volume import DATASET, NAME
from srctd.core.errors import TransientError
from srctd.core.messages import RowsJob


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return write_scan(tmp_path_factory.mktemp("scan") / "cylinders.h5")


def reconstruct(parameters, folder, resources, shards=((0, ROWS),)):
    """The volume as it is stored, and what was told of its last shard."""
    folder.mkdir()
    for first, end in shards:
        job = RowsJob(scan="cylinders", parameters=parameters, output=str(folder), first=first, end=end)
        result = run_rows(job, resources, lambda phase, done: None).result
    with h5py.File(folder / NAME) as file:
        return file[DATASET][:], result


@pytest.mark.parametrize("rings", ["none", "median"])
def test_a_device_makes_the_volume_that_the_cpu_makes(device: Device, scan, tmp_path, rings: str) -> None:
    path = write_parameters(tmp_path / "p.json", scan, center=CENTER, ring_removal=rings, tolerance=1e-5)
    expected, told = reconstruct(path, tmp_path / "cpu", Resources())
    found, on_device = reconstruct(path, tmp_path / "device", Resources(device=device))
    y, x = np.indices((COLUMNS, COLUMNS)) - (COLUMNS - 1) / 2
    inside = x**2 + y**2 < (COLUMNS / 2) ** 2
    wrong = (found - expected)[:, inside]
    assert np.sqrt((wrong**2).mean()) < 1e-4 * np.sqrt((expected[:, inside] ** 2).mean())
    assert on_device.mean == pytest.approx(told.mean, abs=1e-4 * told.maximum)


def test_sixteen_bit_by_a_device_is_within_a_step(device: Device, scan, tmp_path) -> None:
    path = write_parameters(
        tmp_path / "p.json", scan, center=CENTER, output_dtype="uint16", tolerance=1e-5,
        output_minimum=-200.0, output_maximum=900.0,
    )  # fmt: skip
    expected, told = reconstruct(path, tmp_path / "cpu", Resources())
    found, on_device = reconstruct(path, tmp_path / "device", Resources(device=device))
    y, x = np.indices((COLUMNS, COLUMNS)) - (COLUMNS - 1) / 2
    inside = x**2 + y**2 < (COLUMNS / 2) ** 2
    assert np.abs(found.astype(int) - expected)[:, inside].max() <= 4
    assert 0 < on_device.clipped == pytest.approx(told.clipped, abs=0.02 * told.clipped + 2)


def test_bytes_depend_on_neither_shards_nor_memory(device: Device, scan, tmp_path, monkeypatch) -> None:
    path = write_parameters(tmp_path / "p.json", scan, center=CENTER)
    whole, _ = reconstruct(path, tmp_path / "whole", Resources(device=device))
    parts, _ = reconstruct(path, tmp_path / "parts", Resources(device=device), [(8, ROWS), (0, 8)])
    assert parts.tobytes() == whole.tobytes()
    short_of_memory(device, monkeypatch, most_pairs=1)
    tight, _ = reconstruct(path, tmp_path / "tight", Resources(device=device))
    assert tight.tobytes() == whole.tobytes()


def test_too_little_memory_is_said(device: Device, scan, tmp_path, monkeypatch) -> None:
    path = write_parameters(tmp_path / "p.json", scan, center=CENTER)
    short_of_memory(device, monkeypatch, most_pairs=0)
    with pytest.raises(TransientError, match="do not fit its free memory"):
        reconstruct(path, tmp_path / "out", Resources(device=device))


def short_of_memory(device: Device, monkeypatch, most_pairs: int) -> None:
    """From now on transforms of more pairs than that do not fit."""
    plain = type(device).launch

    def launch(self, kernel, threads, *arguments):
        if kernel.macros.get("SLICES", 0) > most_pairs:
            raise device.out_of_memory(1, 1, 0) if device.name != "emulated" else MemoryError
        plain(self, kernel, threads, *arguments)

    monkeypatch.setattr(type(device), "launch", launch)
