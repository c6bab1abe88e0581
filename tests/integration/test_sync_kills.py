"""A copying process is killed again and again, at random moments, while the detector writes and file systems fail:
under the final name there is nothing or the proven whole, and in the end every scan is there.

The seed is printed; SRCTD_TEST_SEED=n repeats a run, as far as the machine's timing does.
"""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import copy_forge
import faultfs
import msgspec
import proofs
import pytest
import xxhash
from copy_forge import Order, Outcome

from srctd.adapters import sync
from srctd.core.scan import BLOCK_BYTES, FileEntry, Manifest

MIB = 1 << 20
KILLS = 200
SEED = int(os.environ.get("SRCTD_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
LARGE = 4 * BLOCK_BYTES + 12_345
NOTES_BYTES = 200_000
"""Of one attempt: progress, manifests."""


@pytest.fixture
def chance() -> random.Random:
    print(f"SRCTD_TEST_SEED={SEED}")  # noqa: T201 - shown where the test fails
    return random.Random(SEED)


class Forge:
    """The process that forks what is killed."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def __call__(self, order: Order) -> Outcome:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()
        outcome = msgspec.json.decode(self._process.stdout.readline(), type=Outcome)
        assert outcome.cause != "bug", outcome.sentence
        return outcome


@contextmanager
def forging() -> Iterator[Forge]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, copy_forge.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        yield Forge(process)


class Detector:
    """Writes a scan, piece by piece, and says what of it is settled."""

    rewritten = 0
    """Bytes of blocks that are written again after they had settled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)

    def write(self) -> bool:
        """One more piece; False if the scan was finished before."""
        raise NotImplementedError

    def settled(self) -> dict[str, int]:
        raise NotImplementedError

    def manifest(self) -> Manifest:
        """What is there."""
        entries = []
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            stat, name = path.stat(), path.relative_to(self.folder).as_posix()
            entries.append(FileEntry(path=name, size=stat.st_size, mtime_ns=stat.st_mtime_ns))
        return Manifest(folder=str(self.folder), files=tuple(entries))


class Stack(Detector):
    """A hundred small files and a large one, each settled when it is closed."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        super().__init__(folder)
        self._sizes = {f"frames/scan_{n:04}.tif": chance.randrange(1, 60_000) for n in range(100)}
        self._sizes["large.tif"] = LARGE
        self._names = list(self._sizes)
        chance.shuffle(self._names)
        self._chance = chance

    def write(self) -> bool:
        for name in self._names[:25]:
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(self._chance.randbytes(self._sizes[name]))
        written, self._names = self._names[:25], self._names[25:]
        return bool(written)

    def settled(self) -> dict[str, int]:
        return {file.path: file.size for file in self.manifest().files}


class Growing(Detector):
    """One file that grows; what was appended is settled, but when it is closed its header is written again, and an
    index in the middle.
    """

    rewritten = 2 * BLOCK_BYTES

    def __init__(self, folder: Path, chance: random.Random) -> None:
        super().__init__(folder)
        self._path = folder / "scan.h5"
        self._path.write_bytes(b"header" * 100)
        self._left = 5
        self._chance = chance

    def write(self) -> bool:
        if self._left == 0:
            return False
        self._left -= 1
        with self._path.open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(self._chance.randbytes(LARGE // 5))
            if self._left == 0:
                file.seek(0)
                file.write(b"closed" * 100)
                file.seek(LARGE // 2)
                file.write(b"index" * 1000)
        return True

    def settled(self) -> dict[str, int]:
        return {"scan.h5": max(0, self._path.stat().st_size - 100_000)}


def check_whole(final: Path, wanted: Manifest) -> None:
    """Every file of the scan, byte for byte; the manifest says the same, also to the tool it is written for."""
    copied = {
        path.relative_to(final / "input").as_posix()
        for path in (final / "input").rglob("*")
        if path.is_file()
    }
    assert copied == {file.path for file in wanted.files}
    lines = (final / "manifest.xxh128").read_text().splitlines()
    digests = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    assert set(digests) == {f"input/{name}" for name in copied}
    for name in copied:
        data = (final / "input" / name).read_bytes()
        assert data == Path(wanted.folder, name).read_bytes(), name
        assert xxhash.xxh3_128_hexdigest(data) == digests[f"input/{name}"], name
    assert sorted(os.listdir(final)) == ["input", "manifest.json", "manifest.xxh128"]
    published = sync.published(final)
    assert published is not None
    assert published.same_files(wanted)


class Attempts:
    """One scan, from its first byte to its copy, through accidents."""

    def __init__(self, detector: Detector, target: Path, forge: Forge, chance: random.Random) -> None:
        self.detector, self.target = detector, target
        self.part, self.final = target / ".scan.part", target / "scan"
        self.kills = 0
        self.written = 0
        self.causes: set[str] = set()
        self._forge, self._chance = forge, chance
        self._writing = True
        self._seconds = 0.1

    def once(self) -> bool:
        """The detector goes on, the copy goes on, it is killed. Returns whether the scan is there."""
        seen = []
        if self._writing and self._chance.random() < 0.4:
            self._writing = self.detector.write()
        if self._writing:
            seen = [(self.detector.manifest(), self.detector.settled())]
        order = Order(
            part=str(self.part),
            final=str(self.final),
            seen=seen,
            whole=None if self._writing else self.detector.manifest(),
            kill_after=self._chance.uniform(0.002, self._seconds),
        )
        outcome = self._forge(order)
        self.kills += outcome.killed
        self.written += outcome.written
        self.causes.add(outcome.cause)
        if outcome.killed:  # the next one gets a little further: in the end all moments were there
            self._seconds = min(1.0, self._seconds * 1.15)
        else:
            self._seconds = max(0.01, outcome.seconds)
        if self.final.exists():
            check_whole(self.final, self.detector.manifest())
        return self.final.exists() and not outcome.killed and not outcome.cause

    def finish(self) -> None:
        """Without accidents it ends, and nothing is left beside it."""
        while self.detector.write():
            pass
        whole = self.detector.manifest()
        outcome = self._forge(Order(part=str(self.part), final=str(self.final), whole=whole))
        assert outcome.cause == "", outcome.sentence
        check_whole(self.final, whole)
        proofs.check_manifest(self.final)
        assert os.listdir(self.target) == ["scan"]


class Account(NamedTuple):
    """What the copy of one scan cost."""

    kills: int
    size: int
    """Of its files, and of blocks that the detector wrote again after they had settled."""
    written: int


@pytest.fixture(scope="module", params=[Stack, Growing])
def killed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Account]:
    """Half of all kills, spread over as many scans as they take; each of these was there in the end."""
    chance, accounts = random.Random(SEED), []
    with forging() as forge:
        while (left := KILLS // 2 - sum(account.kills for account in accounts)) > 0:
            folder = tmp_path_factory.mktemp("killed")
            (folder / "target").mkdir()
            attempts = Attempts(request.param(folder / "detector", chance), folder / "target", forge, chance)
            while attempts.kills < left and not attempts.once():
                pass
            attempts.finish()
            size = attempts.detector.manifest().size + attempts.detector.rewritten
            accounts.append(Account(attempts.kills, size, attempts.written))
            shutil.rmtree(folder)
    return accounts


def test_killed_at_random_moments(killed: list[Account]) -> None:
    """After every kill there was nothing, or the proven whole; see `Attempts`."""
    print(f"SRCTD_TEST_SEED={SEED}")  # noqa: T201 - shown where the test fails
    assert sum(account.kills for account in killed) == KILLS // 2


def test_a_kill_costs_a_block_at_most(killed: list[Account]) -> None:
    print(f"SRCTD_TEST_SEED={SEED}")  # noqa: T201 - shown where the test fails
    for account in killed:
        allowed = account.size + account.kills * (BLOCK_BYTES + NOTES_BYTES) + NOTES_BYTES
        assert account.written <= allowed, account


@pytest.mark.parametrize("kind", [Stack, Growing])
def test_killed_while_the_target_fails(kind: type[Detector], tmp_path: Path, chance: random.Random) -> None:
    """Errors of every kind, a few of each attempt's operations, and kills: never a wrong file under the name."""
    with faultfs.mounted(tmp_path) as faulty, forging() as forge:
        causes: set[str] = set()
        for number in range(3):
            target = faulty.mount / str(number)
            target.mkdir()
            attempts = Attempts(kind(tmp_path / f"{number}", chance), target, forge, chance)
            for name in ("EIO", "ESTALE", "EROFS", "torn"):
                faulty.fail(
                    name, "write", "fsync", "fsyncdir", "mkdir", "create", "utimens", probability=0.01
                )
            for name in ("EIO", "ESTALE"):
                faulty.fail(
                    name, "open", "read", "getattr", "readdir", "opendir", "unlink", probability=0.005
                )
                faulty.fail(name, "rename", probability=0.3)
            faulty.fail("ENOSPC", "write", probability=0.002)
            faulty.fail("short", "write", probability=0.1)
            for _ in range(25):
                try:
                    done = attempts.once()
                except OSError:  # the test's own looking failed
                    continue
                if done:
                    break
            causes |= attempts.causes
            faulty.heal()
            attempts.finish()
        assert {"StorageUnavailable", ""} <= causes <= {"StorageUnavailable", "NoSpace", ""}


def test_what_the_target_corrupts_is_found(tmp_path: Path, chance: random.Random) -> None:
    """One flipped bit: the read-back finds it and the copy is put right; again and again: the scan is held."""
    with faultfs.mounted(tmp_path) as faulty, forging() as forge:
        detector = Stack(tmp_path / "detector", chance)
        while detector.write():
            pass
        whole = detector.manifest()
        for number, count in enumerate((1, 3, None)):
            target = faulty.mount / str(number)
            order = Order(
                part=str(target / ".scan.part"), final=str(target / "scan"), whole=whole, read_back="full"
            )
            target.mkdir()
            name = faulty.fail("corrupt", "write", pattern="*/input/*", count=count)
            outcome = forge(order)
            faulty.heal()
            assert faulty.hits(name) >= (count or 1)
            if count is None:
                assert outcome.cause == "DigestMismatch", outcome
                assert not (target / "scan").exists()
                outcome = forge(order)
            assert outcome.cause == "", outcome
            check_whole(target / "scan", whole)
            proofs.check_manifest(target / "scan")
