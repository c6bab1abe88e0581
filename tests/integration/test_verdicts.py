"""Every format in every condition, as real files on disk, and the verdict that must come of it.

A condition is made by the simulated detector, by a copy of its files taken while it writes, or by damaging what it
wrote. Each is judged as soon as the files are quiet, and again when nothing has come for long.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import pytest

from srctd.core.completion import Rule, State, Verdict, judge
from srctd.formats import open_scan, probe
from srctd.sim.spec import Faults
from srctd.sim.writer import FORMATS, SimulationSpec, simulate

RULE = Rule()
SOON, LATE = 61.0, 301.0
"""Seconds of quiet: enough for every complete scan; enough to give up."""
SPEC = SimulationSpec(rows=6, columns=48, angles=72, flats=4, darks=3)
GAP = (20, 21, 33)
CUT = 55
"""Frames after which it is looked at, or broken off: 48 projections of 72 in the usual order, 120 degrees of
180."""
MANY = 77
"""Frames after which most angles are there: 70 projections of 72."""

WORDS = {
    "A": State.ARRIVING,
    "C": State.COMPLETE,
    "U": State.INCOMPLETE_USABLE,
    "X": State.ABORTED,
    "S": State.STALLED,
}


def place(form: str, folder: Path) -> Path:
    """What is written, and what is opened."""
    return folder / f"scan{FORMATS[form].suffix}"


def opened(path: Path) -> Path:
    """Three files are one scan at the LNLS; one of them names the others."""
    return path / "tomo.h5" if (path / "tomo.h5").exists() else path


def made(spec: SimulationSpec, folder: Path) -> Path:
    path = place(spec.format, folder)
    simulate(spec, str(path))
    return opened(path)


def spec_of(form: str, **faults: Any) -> SimulationSpec:
    return msgspec.structs.replace(SPEC, format=form, faults=Faults(**faults))


def while_writing(form: str, folder: Path) -> Path:
    """A copy of the files as they are in the middle of the acquisition."""
    spec = spec_of(form)
    path = place(form, folder / "live")
    copy = folder / "copy"

    def snapshot(count: int, total: int) -> None:
        if count == CUT:
            shutil.copytree(path.parent, copy)

    simulate(spec, str(path), snapshot)
    return opened(copy / path.name)


def before_the_angles(form: str, folder: Path) -> Path:
    """A copy taken when every frame is there and what is written last is not."""
    spec = spec_of(form)
    path = place(form, folder / "live")
    copy = folder / "copy"

    def snapshot(count: int, total: int) -> None:
        if count == total:
            shutil.copytree(path.parent, copy)

    simulate(spec, str(path), snapshot)
    return opened(copy / path.name)


def last_projection(form: str, path: Path) -> Path:
    """The file of the last projection; the scan's own where it has one file."""
    if path.is_file():
        return path
    names = {
        "kit": "radios/*.tif",
        "elettra": "tomo_*.tif",
        "petra": "scan_0002/**/*.tif",
        "australian": "SAMPLE_T_*.tif",
        "plain": "tiffs/*.tif*",
        "als832": "scan_0000_*.tif",
        "edf": "scan[0-9]*.edf",
        "raw": "*.raw",
    }
    return sorted(path.glob(names.get(form, "**/*.tif")))[-1]


DATA_SETS = {
    "nxtomo": "entry/instrument/detector/data",
    "dataexchange": "exchange/data",
    "lnls": "images",
    "als832h5": "scan/scan_0000_0071.tif",
}


def cut_short(form: str, folder: Path) -> Path:
    path = made(spec_of(form), folder)
    file = last_projection(form, path)
    os.truncate(file, file.stat().st_size * (9 if path.is_file() else 5) // 10)
    return path


def zero_tail(form: str, folder: Path) -> Path:
    """The last projection has its place and not its second half; in HDF5 it is not written at all."""
    path = made(spec_of(form), folder)
    file = last_projection(form, path)
    if file.suffix in (".h5", ".nxs"):
        with h5py.File(file, "r+") as target:
            frames = target[DATA_SETS[form]]
            frames[-1] = np.zeros(frames.shape[1:], frames.dtype)
        return path
    pixels = SPEC.rows * SPEC.columns * 2
    size = file.stat().st_size
    with file.open("r+b") as target:
        target.seek(size - pixels // 2)
        target.write(bytes(pixels // 2))
    return path


CONDITIONS: dict[str, Callable[[str, Path], Path]] = {
    "complete": lambda form, folder: made(spec_of(form), folder),
    "still writing": while_writing,
    "aborted early": lambda form, folder: made(spec_of(form, abort_after=CUT), folder),
    "aborted late": lambda form, folder: made(spec_of(form, abort_after=MANY), folder),
    "gap": lambda form, folder: made(spec_of(form, drop=GAP), folder),
    "truncated": cut_short,
    "zero tail": zero_tail,
    "late metadata": before_the_angles,
    "rewritten": lambda form, folder: made(spec_of(form, rewrite=True), folder),
}
TABLE = """
nxtomo        CC        AS       AS     AS    UU   AS         AU    AS        CC
dataexchange  CC        AS       AS     AS    UU   AS         AU    AS        CC
lnls          CC        AS       AS     AS    AU   AS         AU    AS        CC
tomcat        CC        AS       AS     AU    UU   AU         AU    CC        CC
als832        CC        AS       AS     AU    AU   AU         AU    CC        CC
als832h5      CC        AS       AS     AU    AU   AS         AU    AS        CC
kit           CC        AS       AS     AU    AU   AU         AU    CC        CC
elettra       CC        AS       AS     AU    AU   AU         AU    CC        CC
petra         CC        AS       AS     AU    AU   AU         AU    CC        CC
australian    CC        AS       AS     AU    AU   AU         AU    CC        CC
plain         CC        AS       AS     AS    AU   AU         AU    AS        CC
skyscan       CC        AS       AS     AS    AU   AU         AU    AS        CC
edf           CC        AS       XX     UU    UU   AU         AU    CC        CC
raw           CC        AS       AS     AU    AU   AS         AU    CC        CC
"""
"""A line for each format, a column for each of `CONDITIONS` in their order: the verdict soon and the verdict late.

An acquisition that was broken off cannot be told from one that pauses, unless something says so (`.abo`, the end
of a log): it is awaited, and then taken if the angles suffice. Formats that write their angles last (NXtomo,
DataExchange, LNLS, plain, Skyscan) have none to take when they are broken off.
"""
CASES = [
    (form, condition, WORDS[verdicts[0]], WORDS[verdicts[1]])
    for form, *row in (line.split() for line in TABLE.strip().splitlines())
    for condition, verdicts in zip(CONDITIONS, row, strict=True)
]


def judged(path: Path, quiet: float) -> Verdict:
    return judge(probe(str(path)), quiet, RULE)


@pytest.mark.parametrize(("form", "condition", "soon", "late"), CASES)
def test_verdict(form, condition, soon, late, tmp_path):
    path = CONDITIONS[condition](form, tmp_path)
    early, final = judged(path, SOON), judged(path, LATE)
    assert (early.state, final.state) == (soon, late), (early.reason, final.reason)
    if early.state is not State.COMPLETE:
        assert final.missing
    if final.state in (State.COMPLETE, State.INCOMPLETE_USABLE):
        with open_scan(str(path), incomplete=final.state is State.INCOMPLETE_USABLE) as scan:
            header = scan.header
            assert len(scan.angles()) == header.n_projections <= SPEC.angles
            assert scan.read("projections", slice(2, 3)).shape == (header.n_projections, 1, SPEC.columns)
            assert (header.shortfall is None) == (final.state is State.COMPLETE)


def test_every_format_is_in_the_table():
    assert [line.split()[0] for line in TABLE.strip().splitlines()] == list(FORMATS)
