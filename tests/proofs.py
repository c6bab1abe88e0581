"""What must be true of a copy, checked without srctd's own code."""

import os
import shutil
import subprocess
from pathlib import Path

import xxhash

RESULTS = {"frames.json", "parameters.json", "preview", "output", "record.json", "results.xxh128"}
COPY = {"input", "manifest.json", "manifest.xxh128"}


def check_manifest(task: Path) -> int:
    """Check every line by a loop of our own, and by the tool it is written for where it is installed."""
    lines = (task / "manifest.xxh128").read_text().splitlines()
    for line in lines:
        digest, name = line.split("  ", 1)
        assert digest_of(task / name) == digest, name
    if shutil.which("xxh128sum"):
        subprocess.run(["xxh128sum", "-c", "manifest.xxh128"], cwd=task, check=True, capture_output=True)
    return len(lines)


def digest_of(path: Path) -> str:
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(65_536):
            state.update(block)
    return state.hexdigest()


def check_copy(task: Path, source: Path) -> None:
    """The copy is the source, file by file and byte for byte, and its manifest says so."""
    copied = task / "input"
    names = _names(source) if source.is_dir() else {source.name}
    top = source if source.is_dir() else source.parent
    assert _names(copied) == names
    for name in names:
        assert (copied / name).read_bytes() == (top / name).read_bytes(), name
    assert check_manifest(task) == len(names)


def check_done(task: Path, source: Path) -> None:
    """Copy and results are there, and nothing else."""
    check_copy(task, source)
    assert set(os.listdir(task)) == COPY | RESULTS
    assert os.listdir(task / "output") == ["volume.h5"]


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
