"""Scans of every format with some of their bytes and files changed at random, for as long as is wished.

    python tests/bench/fuzz_formats.py [--seconds 120] [--seed 1] [--trial N] [--keep FOLDER]

HDF5 files are looked at in the isolated reader alone, as by the daemon; stacks in this process too, which reads
their rows. Prints how often each outcome came. Exit status 1 if there was anything but an answer or a sentence: an
exception that is no SrctdError, an answer that cannot be, a stack that kept the reader busy or ended it, memory
beyond the bound. What the HDF5 library does to the isolated reader is counted, and costs no more than its time
limit. A trial that failed is named by its number; with --trial it is made again, alone.
"""

import argparse
import faulthandler
import math
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from srctd.core.completion import Probe
from srctd.core.errors import ConfigError, SrctdError
from srctd.core.frames import FrameIndex
from srctd.formats import open_scan, probe
from srctd.formats.isolated import IsolatedReader
from srctd.sim import Hdf5Options, SimulationSpec, TiffOptions, simulate
from srctd.sim.writer import FORMATS

LIMIT_SECONDS = 2.0
"""For one answer of the isolated reader."""
HANG_SECONDS = 40.0
"""For one trial: after that this process ends, saying where it was."""
MOST_MEMORY_MB = {"this process": 700.0, "the reader": 2500.0}
"""The HDF5 library allocates in the reader what a damaged chunk decodes into; up to 2,500 MB were seen."""
MOST_FILES_CHANGED = 3
SMALL = SimulationSpec(rows=4, columns=16, angles=8, flats=2, darks=2)
ABSURD = (0, 1, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**32 - 1, 10**9, 2**40, 2**63 - 1, 2**64 - 1)
WORDS = (
    b"\xff",
    b"\n",
    b":",
    b"[",
    b"{",
    b"}",
    b"1e400",
    b"-",
    b"\0",
    b"NaN",
    b"(um)",
    b"9" * 30,
    b"\r",
    b'"',
)


LISTS = {
    "angles.csv": b"angle [deg],b\n" + b"".join(b"%d.5,2\n" % angle for angle in range(0, 160, 20)),
    "angles.txt": b"".join(b"%d.5\n" % angle for angle in range(0, 160, 20)),
    "scan.xml": b"<scan><pixel_size unit='um'>1</pixel_size><energy unit='keV'>25</energy></scan>",
    "scan.ini": b"[scan]\nn_projections = 8\npixel_size = 1 um\nangle_start = 0 deg\nangle_step = 20 deg\n",
}
"""Further texts beside a stack, which agree with it or do not."""


class Seed(NamedTuple):
    """A whole scan: what is opened, and its files by their path inside the scan's folder."""

    name: str
    opened: str
    files: dict[str, bytes]

    @property
    def is_hdf5(self) -> bool:
        """Whether the HDF5 library reads it."""
        return any(file.endswith((".h5", ".nxs")) for file in self.files)


class Failure(AssertionError):
    """What must not be."""


# --- whole scans ------------------------------------------------------------------------------------------


def seeds() -> Iterator[Seed]:
    """Every format that the simulator writes, and variants of the containers."""
    for name in FORMATS:
        yield _seed(name, msgspec.structs.replace(SMALL, format=name))
    variants = {
        "nxtomo gzip": {"hdf5": Hdf5Options(compression="gzip")},
        "nxtomo bitshuffle": {"hdf5": Hdf5Options(compression="bitshuffle")},
        "nxtomo latest": {"hdf5": Hdf5Options(swmr=True)},
        "nxtomo virtual": {"hdf5": Hdf5Options(storage="virtual")},
        "nxtomo external": {"hdf5": Hdf5Options(storage="external")},
        "nxtomo entries": {"hdf5": Hdf5Options(entries=2)},
        "dataexchange gzip": {"hdf5": Hdf5Options(compression="gzip")},
        "kit bigtiff": {"tiff": TiffOptions(byte_order="big", bigtiff=True)},
        "plain pages": {"tiff": TiffOptions(pages=4)},
        "tomcat stamps": {"pco_stamps": True},
        "raw ini": {"parameters": "ini"},
    }
    for name, changes in variants.items():
        yield _seed(name, msgspec.structs.replace(SMALL, format=name.split()[0], **changes))
    kit = _seed("kit", msgspec.structs.replace(SMALL, format="kit"))
    for name, content in LISTS.items():
        yield Seed(f"kit {name}", kit.opened, {**kit.files, f"scan/{name}": content})


def _seed(name: str, spec: SimulationSpec) -> Seed:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"scan{FORMATS[spec.format].suffix}"
        simulate(spec, str(path))
        opened = path / "tomo.h5" if spec.format == "lnls" else path
        files = {
            str(file.relative_to(folder)): file.read_bytes()
            for file in sorted(Path(folder).rglob("*"))
            if file.is_file()
        }
        return Seed(name, str(opened.relative_to(folder)), files)


# --- damage -----------------------------------------------------------------------------------------------


def damaged(chance: random.Random, whole: bytes) -> bytes:
    """The bytes with some of them changed, cut out, doubled, or put elsewhere; most often where headers are."""
    data = bytearray(whole)
    in_place = chance.random() < 0.6
    for _ in range(chance.choice([1, 1, 2, 6])):
        reach = chance.choice([64, 512, 4096, len(data), len(data)])
        at = chance.randrange(max(1, min(len(data), reach)))
        span = chance.choice([1, 2, 4, 8, 40, 256])
        match chance.randrange(3 if in_place else 7):
            case 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                size = chance.choice([2, 4, 8])
                order = chance.choice(["little", "big"])
                data[at : at + size] = (chance.choice(ABSURD) % 256**size).to_bytes(size, order)
            case 2:
                data[at : at + span] = bytes(span)
            case 3:
                del data[at : at + span]
            case 4:
                data[at:at] = chance.choice(WORDS)
            case 5:
                other = chance.randrange(len(data) + 1)
                data[at:at] = data[other : other + span]
            case _:
                del data[chance.randrange(len(data) + 1) :]
    return bytes(data)


def _remove(chance: random.Random, file: Path) -> None:
    file.unlink()


def _empty(chance: random.Random, file: Path) -> None:
    file.write_bytes(b"")


def _rename(chance: random.Random, file: Path) -> None:
    names = [
        file.stem + chance.choice([".tif", ".edf", ".raw", ".h5", ".log", ".txt", ".json", ".xml", ".csv"]),
        file.name.replace("1", chance.choice(["9" * 12, "", "0001", "-1"])),
        chance.choice(["flat", "dark", "proj", "\u00fc", "a b", "line\nbreak"]) + file.name,
        file.name.upper(),
    ]
    file.replace(file.with_name(chance.choice(names)))


def _copy(chance: random.Random, file: Path) -> None:
    shutil.copyfile(file, file.with_name(f"{chance.choice(['0', 'x', 'flat_', 'ref'])}{file.name}"))


def _folder(chance: random.Random, file: Path) -> None:
    file.unlink()
    file.mkdir()


def _link(chance: random.Random, file: Path) -> None:
    file.unlink()
    file.symlink_to(chance.choice([file.name, "nowhere", ".", "/dev/zero", "/dev/full"]))


def _pipe(chance: random.Random, file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _foreign_name(chance: random.Random, file: Path) -> None:
    os.rename(file, os.fsencode(file.parent) + b"/\xff\xfe" + os.fsencode(file.name))


def _hide(chance: random.Random, file: Path) -> None:
    below = file.with_name(chance.choice(["flats", "darks", "radios", "tif", "0", "Tomo"]))
    if not below.exists():
        below.mkdir()
    if below.is_dir():
        file.replace(below / file.name)


LAYOUTS: tuple[Callable[[random.Random, Path], None], ...] = (
    _remove,
    _empty,
    _rename,
    _copy,
    _folder,
    _link,
    _pipe,
    _foreign_name,
    _hide,
)


def write_damaged(chance: random.Random, seed: Seed, folder: Path) -> str:
    """Write a scan with some of its files damaged; return what is to be opened."""
    for name, content in seed.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for name in chance.sample(
        sorted(seed.files), min(len(seed.files), chance.randint(1, MOST_FILES_CHANGED))
    ):
        file = folder / name
        if not file.is_file():
            continue  # hidden by a change before
        if name == seed.opened or chance.random() < 0.7:
            file.write_bytes(damaged(chance, seed.files[name]))
        else:
            chance.choice(LAYOUTS)(chance, file)
    if not seed.is_hdf5 and chance.random() < 0.5:  # the logs are few among the frames
        for name in seed.files:
            if not name.endswith((".tif", ".tiff", ".edf", ".raw")) and (folder / name).is_file():
                (folder / name).write_bytes(damaged(chance, seed.files[name]))
    return str(folder / seed.opened)


# --- what may come of it ----------------------------------------------------------------------------------


def look_isolated(reader: IsolatedReader, path: str, *, hdf5: bool) -> str:
    """Ask the isolated reader for a probe and both kinds of index; return the outcome."""
    seen = reader.probe(path)
    outcome = _probe_outcome(seen, path)
    if "kept the reader busy" in seen.problem or "made the reader crash" in seen.problem:
        return _harm(seen.problem, hdf5)
    for incomplete in (False, True):
        try:
            index = reader.index(path, incomplete=incomplete)
        except SrctdError as exc:
            if "kept the reader busy" in str(exc) or "made the reader crash" in str(exc):
                return _harm(str(exc), hdf5)
            _check_refusal(exc, path)
            continue
        _check_index(index)
        outcome = "index, incomplete" if incomplete else "index"
        break
    return f"isolated, {'HDF5' if hdf5 else 'stack'}: {outcome}"


def look_here(path: str) -> str:
    """Probe and open a stack in this process, and read rows of it; return the outcome."""
    outcome = _probe_outcome(probe(path), path)
    for incomplete in (False, True):
        try:
            with open_scan(path, incomplete=incomplete) as scan:
                header = scan.header
                _check(bool(np.isfinite(scan.angles()).all()), "angles are finite")
                for kind, count in (("projections", header.n_projections), ("flats", header.n_flats)):
                    read = scan.read(kind, slice(0, 2), slice(0, 3))
                    wanted = (min(3, count), min(2, header.n_rows), header.n_columns)
                    _check(
                        read.shape == wanted, f"{kind} have the shape of the header: {read.shape} {wanted}"
                    )
        except SrctdError as exc:
            _check_refusal(exc, path)
            continue
        outcome = "read, incomplete" if incomplete else "read"
        break
    return f"here: {outcome}"


def _probe_outcome(seen: Probe, path: str) -> str:
    sentences = [
        seen.problem,
        seen.aborted,
        *seen.missing,
        *seen.checks,
        *(mark.text for mark in seen.end_marks),
    ]
    _check(not any("\n" in sentence for sentence in sentences), f"one sentence: {sentences}")
    if not seen.readable:
        _check(bool(seen.problem), "it says why it is unreadable")
        return "unreadable"
    if seen.foreign:
        return "foreign"
    if seen.coverage is not None:
        _check(math.isfinite(seen.coverage.span_deg + seen.coverage.hole_deg), "coverage is finite")
    return "something is missing" if seen.missing else "looked at"


def _check_refusal(exc: SrctdError, path: str) -> None:
    _check(not isinstance(exc, ConfigError), f"no scan is a wrong configuration: {exc}")
    _check("\n" not in exc.sentence, f"one sentence: {exc.sentence!r}")
    folder = os.path.dirname(path)
    named = (folder, *(file for _, _, files in os.walk(folder) for file in files))
    _check(any(name in str(exc) for name in named), f"the sentence names the file: {exc}")


def _check_index(index: FrameIndex) -> None:
    _check(bool(np.isfinite(index.angles).all()), "angles are finite")
    _check(len(index.angles) == index.header.n_projections > 0, "there are as many angles as projections")
    for name in ("pixel_size", "energy", "distance"):
        quantity = getattr(index.header, name)
        _check(quantity is None or math.isfinite(quantity.value), f"{name} is finite")


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise Failure(what)


def _harm(problem: str, hdf5: bool) -> str:
    what = "busy beyond its limit" if "busy" in problem else "ended"
    _check(hdf5, f"a stack left the isolated reader {what}")
    return f"isolated: the HDF5 library left the reader {what}"


# --- trials -----------------------------------------------------------------------------------------------


class Fuzz:
    """Trials, one after the other, and what came of them."""

    def __init__(self, seed: int, keep: str) -> None:
        self.outcomes: Counter[str] = Counter()
        self.failures: list[str] = []
        self._seed, self._keep = seed, keep
        self._scans = tuple(seeds())
        self._errors = Errors()
        self._reader = IsolatedReader(LIMIT_SECONDS)

    def trial(self, number: int) -> None:
        """One damaged scan; the same one for the same seed and number."""
        chance = random.Random(f"{self._seed} {number}")
        seed = chance.choice(self._scans)
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True, file=self._errors.real)
        with tempfile.TemporaryDirectory() as folder:
            path = write_damaged(chance, seed, Path(folder))
            try:
                if not seed.is_hdf5:
                    self.outcomes[look_here(path)] += 1
                if seed.is_hdf5 or chance.random() < 0.3:
                    self.outcomes[look_isolated(self._reader, path, hdf5=seed.is_hdf5)] += 1
                said = self._errors.new()
                _check("Traceback" not in said, f"the isolated reader has no exception of its own: {said}")
            except Exception as exc:  # noqa: BLE001 (that there is none is what is tested)
                self._fail(number, seed, exc, Path(folder))
        faulthandler.cancel_dump_traceback_later()

    def _fail(self, number: int, seed: Seed, exc: BaseException, folder: Path) -> None:
        self.outcomes[f"FAILED: {type(exc).__name__}"] += 1
        self.failures.append(
            f"trial {number} ({seed.name}): {''.join(traceback.format_exception(exc))}{self._errors.new()}"
        )
        if self._keep:
            shutil.copytree(folder, Path(self._keep) / str(number), symlinks=True, ignore=_pipes)

    def close(self) -> None:
        """End the isolated reader, and look at how much memory was used."""
        self._reader.close()
        for who, name in ((resource.RUSAGE_SELF, "this process"), (resource.RUSAGE_CHILDREN, "the reader")):
            peak = resource.getrusage(who).ru_maxrss / 1e3
            print(f"{peak:8.0f} MB at most in {name}")
            if peak > MOST_MEMORY_MB[name]:
                self.failures.append(f"{name} used {peak:.0f} MB, more than {MOST_MEMORY_MB[name]:.0f}")


def _pipes(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_fifo()]


class Errors:
    """What this process and the isolated reader write to stderr from now on."""

    def __init__(self) -> None:
        self.real = os.fdopen(os.dup(2), "w")
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (as long as this process)
        self._read = 0
        os.dup2(self._file.fileno(), 2)

    def new(self) -> str:
        """What was written since this was asked last."""
        size = os.fstat(self._file.fileno()).st_size
        text = os.pread(self._file.fileno(), size - self._read, self._read)
        self._read = size
        return text.decode(errors="replace")


def main() -> int:
    """Run for a time; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trial", type=int, help="this one alone")
    parser.add_argument("--keep", default="", help="folder for the files of trials that failed")
    options = parser.parse_args()
    fuzz = Fuzz(options.seed, options.keep)
    ends = time.monotonic() + options.seconds
    number = 0
    if options.trial is not None:
        fuzz.trial(options.trial)
        ends = 0.0
    while time.monotonic() < ends:
        fuzz.trial(number)
        number += 1
    fuzz.close()
    for outcome, count in sorted(fuzz.outcomes.items()):
        print(f"{count:8} {outcome}")
    for failure in fuzz.failures[:20]:
        print(failure)
    return 1 if fuzz.failures else 0


if __name__ == "__main__":
    sys.exit(main())
