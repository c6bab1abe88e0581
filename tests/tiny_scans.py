"""Scans that are acquired, copied and reconstructed in a moment, each with content of its own."""

import shutil
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from srctd.sim.writer import SimulationSpec, simulate

TINY = SimulationSpec(rows=4, columns=48, angles=60, flats=3, darks=3)


class Made:
    """Makes scans in a folder that nobody watches."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seeds = count(1)

    def __call__(self, name: str, **spec: Any) -> Path:
        """One more scan; `spec`: what is other than in `TINY`."""
        seed = next(self._seeds)
        path = self._folder / str(seed) / name
        path.parent.mkdir()
        simulate(msgspec.structs.replace(TINY, seed=seed, **spec), str(path))
        return path


def put(source: Path, folder: Path) -> Path:
    """Copy a scan into a folder; what was there under its name is written over. Return where it is now."""
    target = folder / source.name
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)
    return target
