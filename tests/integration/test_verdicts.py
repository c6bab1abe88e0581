"""Every format in every condition, as real files on disk, and the verdict that must come of it.

A condition is made by the simulated detector, by a copy of its files taken while it writes, or by damaging what it
wrote. Each is judged as soon as the files are quiet, and again when nothing has come for long.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from srctd.core.completion import Rule, State, Verdict, judge
from srctd.formats import probe
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
MANY = 75
"""Frames after which most angles are there: 68 projections, and 172.5 degrees."""

A, C, U, X, S = State.ARRIVING, State.COMPLETE, State.INCOMPLETE_USABLE, State.ABORTED, State.STALLED


def made(spec: SimulationSpec, folder: Path) -> Path:
    path = folder / f"scan{FORMATS[spec.format].suffix}"
    simulate(spec, str(path))
    return path


def spec_of(form: str, **faults: Any) -> SimulationSpec:
    return msgspec.structs.replace(SPEC, format=form, faults=Faults(**faults))


def while_writing(form: str, folder: Path) -> Path:
    """A copy of the files as they are in the middle of the acquisition."""
    spec = spec_of(form)
    path = folder / "live" / f"scan{FORMATS[form].suffix}"
    copy = folder / "copy"

    def snapshot(count: int, total: int) -> None:
        if count == CUT:
            shutil.copytree(path.parent, copy)

    simulate(spec, str(path), snapshot)
    return copy / path.name


def before_the_angles(form: str, folder: Path) -> Path:
    """A copy taken when every frame is there and what is written last is not."""
    spec = spec_of(form)
    path = folder / "live" / f"scan{FORMATS[form].suffix}"
    copy = folder / "copy"

    def snapshot(count: int, total: int) -> None:
        if count == total:
            shutil.copytree(path.parent, copy)

    simulate(spec, str(path), snapshot)
    return copy / path.name


def frames_of(path: Path) -> list[Path]:
    """Files of frames, the projections among them last."""
    found = [Path(where, name) for where, _, names in os.walk(path) for name in names]
    frames = [file for file in found if file.suffix.lower() in (".tif", ".tiff", ".edf", ".raw")]
    return sorted(frames, key=lambda file: ("dark" in file.name, file.stat().st_mtime_ns, file.name))


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


def cut_short(form: str, folder: Path) -> Path:
    path = made(spec_of(form), folder)
    file = last_projection(form, path)
    os.truncate(file, file.stat().st_size * (9 if path.is_file() else 5) // 10)
    return path


def zero_tail(form: str, folder: Path) -> Path:
    """The last frame has its size and not its second half."""
    path = made(spec_of(form), folder)
    file = last_projection(form, path)
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
TABLE: dict[str, dict[str, tuple[State, State]]] = {
    "nxtomo": {
        "complete": (C, C),
        "still writing": (A, S),
        "aborted early": (A, S),
        "aborted late": (A, S),
        "truncated": (A, S),
        "late metadata": (A, S),
        "rewritten": (C, C),
    },
}
CASES = [(form, condition) for form, row in TABLE.items() for condition in row]


def judged(path: Path, quiet: float) -> Verdict:
    return judge(probe(str(path)), quiet, RULE)


@pytest.mark.parametrize(("form", "condition"), CASES, ids=[f"{f}-{c.replace(' ', '_')}" for f, c in CASES])
def test_verdict(form, condition, tmp_path):
    path = CONDITIONS[condition](form, tmp_path)
    soon, late = judged(path, SOON), judged(path, LATE)
    assert (soon.state, late.state) == TABLE[form][condition], (soon.reason, late.reason)
    if soon.state is not C:
        assert late.missing
