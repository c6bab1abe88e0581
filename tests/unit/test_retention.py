"""Whether a source goes when its turn has come: what else needs its files, and how its copy lies now."""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import disks
import msgspec
import pytest
from factories import a_header

from srctd.adapters import removal, sync
from srctd.adapters.journal import Journal
from srctd.adapters.listing import fingerprint
from srctd.adapters.space import SharedStorage
from srctd.config import Config, RetentionSection, StorageSection, WatchSection
from srctd.core.lifecycle import Completed, Released, Scan, Status, Step, StepState
from srctd.core.scan import FileEntry, Manifest, Owner, SourceFiles, scan_id
from srctd.departures import Departures
from srctd.engine import Engine, JournalThread
from srctd.results import Checked, Identified, Registered, Sent, Synced
from srctd.retention import Retention

ALL_GOES = {"high_water_percent": 0.001, "low_water_percent": 0.0, "minimum_age_hours": 0.0}


class Storage(SharedStorage):
    """Something may happen when it is asked whether it is there, after which a copy is read."""

    meanwhile: Callable[[], Any] = staticmethod(lambda: None)
    dry = False

    def require(self, needed: int, reserve: int, what: str, promised: int = 0) -> None:
        super().require(needed, reserve, what, promised)
        if not self.dry:
            self.meanwhile()


class World:
    """A detector's disk, shared storage, and a daemon's parts around retention; steps are done by nobody."""

    def __init__(self, folder: Path, **section: Any) -> None:
        self.detector, self.shared = folder / "detector", folder / "shared"
        for path in (self.detector, self.shared):
            path.mkdir(exist_ok=True)
        self.config = Config(
            storage=StorageSection(shared=str(self.shared)),
            watch=(WatchSection(path=str(self.detector)),),
            retention=RetentionSection(enabled=True, **{**ALL_GOES, **section}),
        )
        self.arrivals: dict[str, Any] = {}
        self.referenced: dict[str, str] = {}
        self.told: list[tuple[str, dict[str, Any]]] = []
        self._journal, self._thread = Journal(folder / "journal.sqlite"), JournalThread()
        self.storage = Storage(str(self.shared), str(folder / "storage"))
        services: Any = SimpleNamespace(config=self.config, storage=self.storage, manifest=self._manifest)
        self.engine = Engine(self._journal, self._thread, services, {}, lambda topic, body: None, {})
        self.departures = Departures()
        intake: Any = SimpleNamespace(
            arrivals=self.arrivals, referenced=lambda: dict(self.referenced), fingerprint_at=self._listed
        )
        self.retention = Retention(
            services, self.engine, intake, self.departures, self._last_finished, self._tell
        )
        self.storage.make_account("visitors", lambda path: None)

    def close(self) -> None:
        self._thread.close()
        self._journal.close()

    def _tell(self, topic: str, body: dict[str, Any]) -> None:
        self.told.append((topic, body))

    async def _manifest(self, scan: str) -> Manifest:
        return await self._thread.call(self._journal.manifest, scan)

    async def _last_finished(self) -> dict[str, float]:
        return dict.fromkeys(self.engine.scans, 1.0)

    def _listed(self, path: str) -> str | None:
        return next((s.source.fingerprint for s in self.engine.scans.values() if s.path == path), None)

    def scan(self, name: str, files: dict[str, bytes], *, references: tuple[str, ...] = ()) -> Completed:
        """A scan that is done: a folder of that name, or one of the files."""
        opened, task = name if name in files else "", name.replace("/", "-")
        folder = self.detector if opened else self.detector / name
        for file, content in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            if not (folder / file).exists():  # or it is another scan's as well
                (folder / file).write_bytes(content)
        stats = [(file, (folder / file).stat()) for file in files]
        entries = tuple(FileEntry(path=f, size=at.st_size, mtime_ns=at.st_mtime_ns) for f, at in stats)
        manifest = Manifest(folder=str(folder), files=entries, opened=opened)
        sync.copy(manifest, self.shared / "part")
        sync.publish(self.shared / "part", self.shared / "visitors" / task)
        results = {
            Step.IDENTIFY: Identified(
                owner=Owner(account="visitors", owner="visitors", owner_group="visitors"),
                catalog_reachable=None,
            ),
            Step.CHECK: Checked(header=a_header(references=references), in_place=False, bytes_needed=0),
            Step.SYNC: Synced(input=f"{self.shared}/visitors/{task}/input", in_place=False),
            Step.REGISTER: Registered(raw_pid="srctd/1", posted=True),
            Step.SEND: Sent(target=""),
        }
        done = {step: msgspec.Raw(msgspec.json.encode(results.get(step))) for step in Step}
        path = str(folder / opened) if opened else str(folder)
        entered = Scan(
            id=scan_id(path, 1),
            path=path,
            root=str(self.detector),
            revision=1,
            task=task,
            source=SourceFiles(
                folder=str(folder),
                opened=opened,
                files=len(files),
                bytes=manifest.size,
                fingerprint=fingerprint(entries),
            ),
            completed_at=float(len(self.engine.scans)),
            steps={step: StepState(status=Status.DONE, result=result) for step, result in done.items()},
        )
        return Completed(scan=entered.id, entered=entered, manifest=manifest)

    def after(self, *scans: Completed) -> "World":
        """What has become of it after one look at the disk; a newer scan that stays is there as well."""

        async def go() -> None:
            self.loop = asyncio.get_running_loop()
            serving = asyncio.create_task(self.engine.run_forever())
            for number, scan in enumerate((*scans, self.scan("newest.h5", {"newest.h5": b"newest"}))):
                entered = msgspec.structs.replace(scan.entered, completed_at=float(number))
                await self.engine.happen(msgspec.structs.replace(scan, entered=entered))
            self.storage.dry = True
            outlooks, self.foreseen_problems = await self.retention.outlook()
            self.storage.dry = False
            self.foreseen = {
                decision.scan: decision for outlook in outlooks for decision in outlook.decisions
            }
            await self.retention._check()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

        asyncio.run(go())
        return self

    def check(self) -> None:
        """One more look at the disk."""
        asyncio.run(self.retention._check())

    def foreseen_again(self) -> dict[str, str]:
        """Why the scans whose sources are there stay; the newest is left out."""
        (outlook,), _ = asyncio.run(self.retention.outlook())
        told = {decision.scan: "; ".join(decision.reasons) for decision in outlook.decisions}
        return {
            scan: why
            for scan, why in told.items()
            if not why.startswith("already removed") and "the newest" not in why
        }

    def left(self) -> list[str]:
        """Files on the detector's disk, but for the newest scan."""
        files = (path for path in self.detector.rglob("*") if not path.is_dir())
        return sorted(str(path.relative_to(self.detector)) for path in files if path.name != "newest.h5")

    def foretold(self, scan: Completed) -> str:
        """Why the dry run said that a scan stays; empty: it goes."""
        decision = self.foreseen[scan.scan]
        assert decision.remove != bool(decision.reasons)
        return "; ".join(decision.reasons)

    @property
    def problems(self) -> str:
        return "\n".join(self.retention.problems)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


STACK = {"log.txt": b"log", "flat_1.tif": b"flat", "tif/1.tif": b"one", "tif/2.tif": b"two"}


def test_a_proven_source_goes(world: World):
    world.after(world.scan("stack", STACK))
    assert (world.left(), world.problems) == ([], "")
    scan = next(scan for scan in world.engine.scans.values() if scan.task == "stack")
    assert scan.removal_begun_at
    assert scan.source_removed_at
    assert world.departures.over() == {scan.id}


def test_all_members_of_a_file_lose_it_together(world: World):
    first = world.scan("many.h5", {"many.h5": b"two rotations"})
    leader = msgspec.structs.replace(first.entered, members=2)
    in_place = StepState(status=Status.DONE, result=msgspec.Raw(b'{"input": "/", "in_place": true}'))
    member = msgspec.structs.replace(
        leader,
        id=scan_id(leader.path, 1, 1),
        task="many.h5-m001",
        member=1,
        leader=leader.id,
        steps={**leader.steps, Step.SYNC: in_place},
    )
    world.after(
        msgspec.structs.replace(first, entered=leader),
        Completed(scan=member.id, entered=member, manifest=first.manifest),
    )
    assert (world.left(), world.problems) == ([], "")
    assert all(world.engine.scans[scan].source_removed_at for scan in (leader.id, member.id))


def test_by_policy_only_the_sizes_of_the_copy_are_looked_at(tmp_path: Path):
    world = World(tmp_path, proof="sizes")
    stack, short = world.scan("stack", STACK), world.scan("short.h5", {"short.h5": b"12345678"})
    damaged(world.shared / "visitors" / "stack")
    (world.shared / "visitors/short.h5/input/short.h5").write_bytes(b"1234567")
    world.after(stack, short)
    world.close()
    assert world.left() == ["short.h5"]
    assert "has 7 bytes instead of 8" in world.engine.scans[short.scan].source_kept


def test_flats_that_another_scan_reads_where_they_are_stay(world: World):
    flat = str(world.detector / "stack" / "flat.h5")
    first = world.scan("stack", {"flat.h5": b"flat", "tif/1.tif": b"one"})
    other = world.scan("other", {"other.h5": b"other"}, references=(flat,))
    world.after(first, other)
    assert world.left() == ["stack/flat.h5"], "the other's copy refers to it"


def test_a_file_that_two_scans_have_copied_goes_with_the_last_of_them(world: World):
    outer = world.scan("outer", {"1.tif": b"one", "in/flat.h5": b"flat"})
    inner = world.scan("outer/in", {"flat.h5": b"flat", "2.tif": b"two"})
    world.after(outer, inner)
    assert (world.left(), world.problems) == ([], "")


def test_frames_that_another_scan_reads_where_they_are_keep_the_whole_scan(world: World):
    world.referenced[str(world.detector / "stack" / "tif" / "1.tif")] = "/data/arriving.h5"
    world.after(world.scan("stack", STACK))
    assert len(world.left()) == len(STACK)
    assert f"/data/arriving.h5 reads {world.detector}/stack/tif/1.tif where it is" in world.problems


def test_files_that_are_another_scans_as_well_keep_it(world: World):
    outer = world.scan("outer", {"one/1.tif": b"one", "two/1.tif": b"two"})
    inner = world.scan("outer/one", {"1.tif": b"one"})
    world.after(outer, inner)
    assert "outer/two/1.tif" in world.left()
    assert f"reads {world.detector}/outer/one/1.tif where it is" in world.problems


def test_while_a_stack_arrives_in_its_folder_it_stays(world: World):
    arriving = SimpleNamespace(
        listed=SimpleNamespace(folder=str(world.detector / "stack"), files=9), foreign=False, probed=None
    )
    world.arrivals[str(world.detector / "stack" / "second.log")] = arriving
    world.after(world.scan("stack", STACK), world.scan("alone.h5", {"alone.h5": b"alone"}))
    assert len(world.left()) == len(STACK), "a scan that is one file shares none"
    assert "stack/second.log arrives in the same folder" in world.problems


def test_a_scan_that_is_done_again_while_its_copy_is_read_stays(world: World):
    stack = world.scan("stack", STACK)

    again = Released(scan=stack.scan, again=Step.SEND_RESULTS)
    world.storage.meanwhile = lambda: asyncio.run_coroutine_threadsafe(
        world.engine.happen(again), world.loop
    ).result(10)
    world.after(stack)
    assert len(world.left()) == len(STACK)
    assert "something happened to it while its copy was read" in world.problems
    assert world.engine.scans[stack.scan].source_is_whole


def test_a_source_that_changes_while_its_copy_is_read_stays(world: World):
    stack = world.scan("stack", STACK)

    frame = world.detector / "stack" / "tif" / "2.tif"
    world.storage.meanwhile = lambda: frame.write_bytes(b"two again")
    world.after(stack)
    assert len(world.left()) == len(STACK)
    assert "tif/2.tif changed since it was copied" in world.problems


def damaged(task: Path) -> None:
    (task / "input" / "tif" / "1.tif").write_bytes(b"eno")


def gone(task: Path) -> None:
    task.rename(task.with_name("elsewhere"))


def another(task: Path) -> None:
    manifest = sync.published(task)
    assert manifest is not None
    sync.write_manifest(task, msgspec.structs.replace(manifest, files=manifest.files[1:]))


def the_source_by_a_link(task: Path) -> None:
    (task / "input").rename(task / "kept")
    (task / "input").symlink_to(task.parents[2] / "detector" / "stack")


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (damaged, "tif/1.tif has the digest"),
        (gone, "holds no copy any more"),
        (another, "lists other files than were judged"),
        (the_source_by_a_link, "flat_1.tif is not there, or is no regular file"),
    ],
)
def test_a_copy_that_is_not_as_it_was_keeps_its_source_for_good(
    world: World, harm: Callable[[Path], None], why: str
):
    stack = world.scan("stack", STACK)
    harm(world.shared / "visitors" / "stack")
    world.after(stack)
    assert len(world.left()) == len(STACK)
    kept = world.engine.scans[stack.scan].source_kept
    assert kept.startswith(f"the copy of {stack.scan} is damaged: ")
    assert why in kept
    assert f"`srctd retry {stack.scan} --step sync` copies it anew" in kept


def test_a_copy_that_was_moved_out_of_shared_storage_is_not_believed(world: World, tmp_path: Path):
    stack = world.scan("stack", STACK)
    task = world.shared / "visitors" / "stack"
    task.rename(tmp_path / "archive")
    task.symlink_to(tmp_path / "archive")
    world.after(stack)
    assert len(world.left()) == len(STACK)
    assert f"leads out of {world.shared}" in world.problems
    assert not world.engine.scans[stack.scan].source_kept


def test_storage_that_is_not_mounted_proves_nothing(world: World):
    stack = world.scan("stack", STACK)
    (world.shared / SharedStorage.MARKER).unlink()
    world.after(stack)
    assert len(world.left()) == len(STACK)
    assert "marker" in world.problems
    assert not world.engine.scans[stack.scan].source_kept


def test_a_disk_that_cannot_be_asked_is_a_problem_and_no_end(tmp_path: Path):
    world = World(tmp_path)
    world.detector.rename(tmp_path / "unplugged")

    async def go() -> tuple[Any, ...]:
        await world.retention._check()
        return await world.retention.outlook()

    outlooks, problems = asyncio.run(go())
    world.close()
    assert outlooks == []
    assert problems[0].startswith(f"{world.detector} cannot be looked at: No such file")
    assert problems[0] in world.retention.problems


def test_a_root_that_appears_behind_a_link_is_found(tmp_path: Path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "detector").symlink_to(tmp_path / "disk")
    (tmp_path / "disk").mkdir()
    world = World(tmp_path / "site")
    (tmp_path / "disk").rmdir()  # the daemon starts before the disk is there
    asyncio.run(world.retention._check())
    assert "cannot be looked at" in world.problems
    (tmp_path / "disk").mkdir()
    world.detector = tmp_path / "disk"
    world.after(world.scan("stack", STACK))
    world.close()
    assert (world.left(), world.problems) == ([], "")


# --- where removing frees nothing -----------------------------------------------------------------------------


def test_a_source_whose_files_have_further_links_stays(world: World):
    linked, partly = world.scan("linked", STACK), world.scan("partly", STACK)
    others = world.detector.parent / "others"
    others.mkdir()
    for scan, names in (("linked", list(STACK)), ("partly", ["flat_1.tif"])):
        for number, name in enumerate(names):
            os.link(world.detector / scan / name, others / f"{scan}{number}")
    world.after(linked, partly)
    assert world.left() == sorted(f"linked/{name}" for name in STACK)
    assert "4 of its 4 files" in world.foretold(linked)
    assert "have further hard links: removing it frees 0 of 13 bytes" in world.problems
    assert world.foretold(partly) == ""


def test_retention_stops_where_blocks_are_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("srctd.freeing.WAIT_SECONDS", 2.0)
    with disks.disk(tmp_path, 512, "mount", "xfs") as mount:
        world = World(mount)
        scans = [world.scan(f"s{n}.h5", {f"s{n}.h5": os.urandom(16 << 20)}) for n in range(5)]
        other = world.detector / "ballast.bin"
        other.write_bytes(os.urandom(32 << 20))
        os.sync()
        world.after(*scans)
        assert world.left() == ["ballast.bin", "s3.h5", "s4.h5"], "three showed that it is in vain"
        (topic, body), *more = world.told
        assert (topic, more) == ("retention.stopped", [])
        assert body["reason"] in world.problems
        assert "removing 0.0503 GB freed" in body["reason"]
        assert world.foreseen_again() == {scan.scan: body["reason"] for scan in scans[3:]}
        world.check()
        assert world.left() == ["ballast.bin", "s3.h5", "s4.h5"]

        other.unlink()
        assert world.foreseen_again() == {scan.scan: "" for scan in scans[3:]}, "something else made room"
        world.close()


def test_on_a_disk_that_shares_no_blocks_all_that_may_go_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("srctd.freeing.WAIT_SECONDS", 2.0)
    with disks.disk(tmp_path, 512, "mount", "xfs") as mount:
        world = World(tmp_path)
        world.detector.rmdir()
        (mount / "detector").mkdir()
        world.detector.symlink_to(mount / "detector")
        world.detector = mount / "detector"
        world.after(*(world.scan(f"s{n}.h5", {f"s{n}.h5": os.urandom(16 << 20)}) for n in range(3)))
        assert (world.left(), world.problems, world.told) == ([], "", [])
        world.close()


# --- the dry run says what the real one does ------------------------------------------------------------------


def test_the_dry_run_looks_at_copies_and_at_what_others_need(world: World):
    names = ("stack", "missing", "another", "short")
    scans = {name: world.scan(name, {"log.txt": b"log", "tif/1.tif": name.encode()}) for name in names}
    gone(world.shared / "visitors" / "missing")
    another(world.shared / "visitors" / "another")
    (world.shared / "visitors/short/input/tif/1.tif").write_bytes(b"")
    needed = world.scan("needed", {"tif/1.tif": b"needed"})
    world.referenced[str(world.detector / "needed" / "tif" / "1.tif")] = "/data/arriving.h5"
    changed = world.scan("changed", {"tif/1.tif": b"changed"})
    (world.detector / "changed" / "tif" / "1.tif").write_bytes(b"again")
    world.after(*scans.values(), needed, changed)
    assert world.foretold(scans["stack"]) == ""
    for scan in (scans["missing"], scans["another"], scans["short"]):
        assert world.foretold(scan) == world.engine.scans[scan.scan].source_kept != ""
    for scan in (needed, changed):
        assert f"{scan.scan}: {world.foretold(scan)}" in world.problems
    assert not any(name.startswith("stack/") for name in world.left())
    assert len(world.left()) == 2 * 3 + 1 + 1


def test_the_dry_run_reads_no_copy_and_removes_nothing(world: World):
    stack = world.scan("stack", STACK)
    damaged(world.shared / "visitors" / "stack")
    world.after(stack)
    assert world.foretold(stack) == "", "only reading the copy tells"
    assert "has the digest" in world.engine.scans[stack.scan].source_kept


def test_the_dry_run_knows_what_would_be_gone_by_then(world: World):
    outer = world.scan("outer", {"1.tif": b"one", "in/flat.h5": b"flat"})
    inner = world.scan("outer/in", {"flat.h5": b"flat"})
    world.after(outer, inner)
    assert (world.foretold(outer), world.foretold(inner)) == ("", "")
    assert (world.left(), world.problems) == ([], "")


def test_what_stays_makes_room_for_others_in_the_dry_run_too(tmp_path: Path):
    world = World(tmp_path)
    first, second = (world.scan(name, {name: name.encode()}) for name in ("a.h5", "b.h5"))
    gone(world.shared / "visitors" / "a.h5")

    async def full(root: str) -> removal.DiskUsage:
        return removal.DiskUsage(str(world.detector), 1, size=100, used=1)

    world.retention._usage = full  # the first that goes is enough
    world.after(first, second)
    world.close()
    assert "holds no copy any more" in world.foretold(first)
    assert world.foretold(second) == ""
    assert world.left() == ["a.h5"]


def test_the_dry_run_says_for_what_there_was_no_time(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("srctd.retention.LOOK_SECONDS", 0.0)
    stack = world.scan("stack", STACK)
    world.after(stack)
    assert "no time to look at the files of 1 of the sources" in "".join(world.foreseen_problems)
