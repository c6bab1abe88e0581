"""Bytes of HDF5 files changed at random, always the same ones: a sentence or an answer, never the daemon's end."""

import os
import random
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from scan_files import COLUMNS, KEYS, ROWS, frame_values, write_dataexchange, write_nxtomo

from srctd.core.completion import Probe
from srctd.core.errors import SrctdError
from srctd.formats.isolated import IsolatedReader

SECONDS = 5.0


def compressed_scan(path):
    write_nxtomo(path)
    with h5py.File(path, "a") as file:
        del file["entry/instrument/detector/data"]
        file["entry/instrument/detector"].create_dataset(
            "data", data=frame_values(len(KEYS)), chunks=(1, ROWS, COLUMNS), compression="gzip"
        )
    return str(path)


def latest_scan(path):
    older = write_nxtomo(f"{path}.older")
    with h5py.File(older) as source, h5py.File(path, "w", libver="latest") as target:
        source.copy("entry", target)
    os.remove(older)
    return str(path)


WRITERS = [write_nxtomo, write_dataexchange, compressed_scan, latest_scan]


def mutated(whole, chance):
    """The bytes with a few of them changed: bits, ends, runs of zeros, or absurd numbers where sizes stand."""
    data = bytearray(whole)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(data))
        kind = chance.randrange(4)
        if kind == 0:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[at : at + 8] = (chance.choice([0, 1, 2**31, 2**40, 2**63, 2**64 - 1])).to_bytes(8, "little")
        elif kind == 2:
            data[at : at + chance.randint(1, 64)] = b""
        else:
            end = min(len(data), at + chance.randint(1, 256))
            data[at:end] = bytes(end - at)
    return bytes(data)


def asked(isolated, path):
    """Whether an index is one, or its refusal names the file."""
    try:
        index = isolated.index(str(path))
    except SrctdError as exc:
        return str(path) in str(exc)
    return bool(np.isfinite(index.angles).all())


@pytest.mark.parametrize("write", WRITERS, ids=[write.__name__ for write in WRITERS])
def test_a_damaged_file_never_harms_who_looks_at_it(tmp_path, write):
    whole = Path(write(tmp_path / "whole.h5")).read_bytes()
    chance = random.Random(write.__name__)
    path = tmp_path / "damaged.h5"
    isolated = IsolatedReader(limit_seconds=2.0)
    ends = time.monotonic() + SECONDS / len(WRITERS)
    tried = 0
    try:
        while time.monotonic() < ends:
            path.write_bytes(mutated(whole, chance))
            seen = isolated.probe(str(path))
            assert isinstance(seen, Probe)
            assert seen.readable or "\n" not in seen.problem
            if seen.readable:
                assert asked(isolated, path)
            tried += 1
    finally:
        isolated.close()
    assert tried > 3
