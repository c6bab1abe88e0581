"""Room on shared storage: promised once, released when it is there, by what a step was held for."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from factories import a_header, a_scan, a_source

from srctd.adapters.space import Measured, SharedStorage
from srctd.config import Config, StorageSection, WatchSection
from srctd.core.errors import NoSpace, StorageUnavailable
from srctd.core.lifecycle import AnyEvent, Released, Scan, Status, Step, StepFailed, StepState, advance
from srctd.core.space import RESULT_FILES, Grade, Thresholds
from srctd.parts import PartFolders
from srctd.releases import Releases
from srctd.results import Checked, Identified
from srctd.room import Claim, Room, allocated
from srctd.taskfolder import owner_of, task_folder

MB = 1_000_000


class Disk(SharedStorage):
    """Shared storage on which as much is free as a test says."""

    def __init__(self, folder: Path, free: int, **thresholds: int) -> None:
        (folder / "shared").mkdir()
        super().__init__(str(folder / "shared"), str(folder / "note"), Thresholds(**thresholds))
        self.free = free
        self.files: int | None = None

    def _ask(self) -> Measured:
        return Measured(1, self.free, 1000 * MB, self.files)


def config_of(folder: Path) -> Config:
    return Config(
        storage=StorageSection(shared=str(folder / "shared"), reserve_gigabytes=0.1),
        watch=(WatchSection(path="/data/detector"),),
    )


def checked(copy: int, volume: int) -> StepState:
    found = Checked(header=a_header(), in_place=False, bytes_needed=copy + volume, bytes_to_copy=copy)
    return StepState(status=Status.DONE, result=msgspec.Raw(msgspec.json.encode(found)))


def identified(path: str) -> StepState:
    found = Identified(owner=owner_of(path, ()), catalog_reachable=None)
    return StepState(status=Status.DONE, result=msgspec.Raw(msgspec.json.encode(found)))


def scan_of(name: str, size: int = 300 * MB, **steps: StepState) -> Scan:
    done = {"identify": identified("/data/detector/tooth.h5"), **steps}
    return a_scan(
        id=name, source=a_source(size=size), steps={Step(step): state for step, state in done.items()}
    )


class Stage:
    """A room with its disk and scans."""

    def __init__(self, folder: Path, free: int, *scans: Scan) -> None:
        self.config = config_of(folder)
        self.disk = Disk(folder, free)
        self.scans = {scan.id: scan for scan in scans}
        self.parts = PartFolders(str(folder / "shared"), "1a2b")
        self.room = Room(self.config, self.disk, self.parts, self.scans.values)

    def play(self, scenario: Callable[[], Awaitable[None]]) -> None:
        asyncio.run(scenario())


WANTED = Claim(copy_bytes=300 * MB, volume_bytes=200 * MB)


def test_what_is_promised_to_one_is_not_free_for_another(tmp_path: Path) -> None:
    one, other = scan_of("one", check=StepState(status=Status.RUNNING)), scan_of("other")
    stage = Stage(tmp_path, 900 * MB, one, other)

    async def scenario() -> None:
        await stage.room.claim(one, WANTED, "scan one")
        with pytest.raises(NoSpace) as caught:
            await stage.room.claim(other, WANTED, "scan other")
        assert "0.5000 GB of that are for scans before it" in str(caught.value)
        assert caught.value.needs == 606 * MB
        await stage.room.claim(one, WANTED, "scan one, again")
        stage.disk.free = 1100 * MB
        await stage.room.claim(other, WANTED, "scan other")

    stage.play(scenario)


def test_what_is_held_or_done_or_ended_is_promised_nothing(tmp_path: Path) -> None:
    done = dict.fromkeys(("sync", "reconstruct"), StepState(status=Status.DONE))
    stage = Stage(
        tmp_path,
        600 * MB,
        scan_of("held", check=checked(300 * MB, 200 * MB), sync=StepState(status=Status.HELD)),
        scan_of("written", check=checked(300 * MB, 200 * MB), **done),
        msgspec.structs.replace(scan_of("ended", check=checked(300 * MB, 200 * MB)), superseded=True),
        scan_of("new"),
    )
    stage.play(lambda: stage.room.claim(stage.scans["new"], WANTED, "scan new"))


def test_after_a_restart_the_journal_knows_what_was_promised(tmp_path: Path) -> None:
    before = scan_of("before", check=checked(300 * MB, 200 * MB))
    stage = Stage(tmp_path, 900 * MB, before, scan_of("new"))

    async def scenario() -> None:
        with pytest.raises(NoSpace):
            await stage.room.claim(stage.scans["new"], WANTED, "scan new")
        copied = {**before.steps, Step.SYNC: StepState(status=Status.DONE)}
        stage.scans["before"] = msgspec.structs.replace(before, steps=copied)
        await stage.room.claim(stage.scans["new"], WANTED, "scan new")

    stage.play(scenario)


def test_what_is_written_already_is_not_counted_twice(tmp_path: Path) -> None:
    before = scan_of("before", size=30 * MB, check=checked(30 * MB, 20 * MB))
    stage = Stage(tmp_path, 150 * MB, before, scan_of("new"))
    for folder in (
        stage.parts.of("unassigned", "before") / "input",
        task_folder(stage.config, before) / ".output.part-12ab",
    ):
        folder.mkdir(parents=True)
        (folder / "data").write_bytes(bytes(10 * MB))
    assert allocated(tmp_path / "shared") >= 20 * MB
    assert allocated(tmp_path / "nowhere") == 0

    async def scenario() -> None:
        new = stage.scans["new"]
        await stage.room.claim(new, Claim(copy_bytes=20 * MB), "scan new")
        with pytest.raises(NoSpace):
            await stage.room.claim(new, Claim(copy_bytes=21 * MB), "scan new")

    stage.play(scenario)


def test_where_there_seemed_to_be_room_more_is_demanded(tmp_path: Path) -> None:
    scan = scan_of("s", check=checked(300 * MB, 200 * MB))
    stage = Stage(tmp_path, 400 * MB, scan)

    async def scenario() -> None:
        full = NoSpace("a cannot be written: No space left on device")
        assert (await stage.room.met(scan, full)).needs == 606 * MB, "what it lacks, and the reserve"
        stage.disk.free = 2000 * MB
        quota = await stage.room.met(scan, full)
        assert (str(quota), quota.needs) == (str(full), 2020 * MB + (1 << 20)), "more than there was"
        assert not await stage.room.may_go_on(scan, quota.needs)
        known = NoSpace("too little", needs=7)
        assert await stage.room.met(scan, known) is known

    stage.play(scenario)


# --- files that can still be made -----------------------------------------------------------------------------


def many_files(name: str, files: int, **steps: StepState) -> Scan:
    scan = scan_of(name, size=MB, **steps)
    return msgspec.structs.replace(scan, source=msgspec.structs.replace(scan.source, files=files))


def test_more_files_than_can_be_made_are_no_room(tmp_path: Path) -> None:
    before = many_files("before", 1000, check=checked(MB, MB))
    stage = Stage(tmp_path, 900 * MB, before, many_files("new", 500))
    new, wanted = stage.scans["new"], Claim(copy_bytes=MB, volume_bytes=MB)
    needed = 1000 + 500 + 2 * RESULT_FILES

    async def scenario() -> None:
        await stage.room.claim(new, wanted, "on btrfs there is no limit")
        stage.disk.files = needed - 1
        with pytest.raises(NoSpace) as caught:
            await stage.room.claim(new, wanted, "scan new")
        assert caught.value.sentence == (
            f"scan new needs 600 files, and scans before it 1100, where {stage.disk.path} has {needed - 1} free "
            "inodes (remove 1 files there; it then goes on by itself)"
        )
        assert await stage.room.met(new, caught.value) is caught.value
        stage.disk.files = needed
        await stage.room.claim(new, wanted, "scan new")

        part = stage.parts.of("unassigned", "before") / "input"
        part.mkdir(parents=True)
        for number in range(300):
            (part / str(number)).touch()
        stage.disk.files = needed - 300
        await stage.room.claim(new, wanted, "what is made already needs no file more")

    stage.play(scenario)


def test_where_no_file_could_be_made_in_the_middle_files_are_waited_for(tmp_path: Path) -> None:
    scan = many_files("s", 500, check=checked(MB, MB), sync=held(Step.SYNC, 0))
    stage = Stage(tmp_path, 900 * MB, scan)
    needed = 500 + RESULT_FILES

    async def scenario() -> None:
        stage.disk.files = 3
        met = await stage.room.met(scan, NoSpace("a cannot be written: No space left on device"))
        assert met.sentence == (
            "a cannot be written: No space left on device, as 3 inodes are free there "
            "(remove files there; it then goes on by itself)"
        )
        assert (met.needs, met.of_files) == (0, True)
        stage.disk.files = needed - 1
        assert not await stage.room.may_go_on(scan, met.needs)
        stage.disk.files = needed
        assert await stage.room.may_go_on(scan, met.needs)

    stage.play(scenario)


def test_what_lacks_files_goes_on_when_so_many_can_be_made(tmp_path: Path) -> None:
    scan = many_files("s", 500, check=held(Step.CHECK, 0))
    stage = Stage(tmp_path, 900 * MB, scan)
    engine = Engine(stage.scans)
    releases = Releases(engine, stage.room, SimpleNamespace(shared_free=900 * MB))
    releases._grade = stage.room.grade

    async def scenario() -> None:
        stage.disk.files = 500 + RESULT_FILES - 1
        await releases._release()
        assert engine.released == []
        stage.disk.files += 1
        await releases._release()
        assert engine.released == ["s"]

    stage.play(scenario)


# --- grades of storage ------------------------------------------------------------------------------------


def test_storage_that_is_almost_full_takes_nothing_new(tmp_path: Path) -> None:
    disk = Disk(tmp_path, 250 * MB, sixteen_bit=300 * MB, previews_only=200 * MB, stop=100 * MB)
    disk.require_for_copy(MB, 0, "a scan")
    assert disk.grade is Grade.SIXTEEN_BIT
    disk.free = 150 * MB
    disk.require_for_copy(MB, 0, "a scan")
    with pytest.raises(NoSpace) as caught:
        disk.require_grade_below(Grade.PREVIEWS_ONLY, "the volume of scan s", 500 * MB)
    assert str(caught.value) == (
        f"the volume of scan s waits: 0.1500 GB are free on {disk.path}, less than 0.2000 GB; "
        "previews are made, reconstructions wait for more room"
    )
    assert caught.value.needs == 505 * MB
    disk.free = 99 * MB
    with pytest.raises(NoSpace, match="nothing new is copied") as caught:
        disk.require_for_copy(MB, 0, "a scan")
    assert caught.value.needs == 105 * MB
    disk.free = 104 * MB
    with pytest.raises(NoSpace, match=r"0\.1040 GB are free on .*, less than 0\.1050 GB"):
        disk.require_for_copy(MB, 0, "a scan")
    disk.free = 105 * MB
    disk.require_for_copy(MB, 0, "a scan")


def test_asking_writes_nothing_and_notices_that_storage_is_gone(tmp_path: Path) -> None:
    disk = Disk(tmp_path, 250 * MB)
    disk.measure()
    assert list((tmp_path / "shared").iterdir()) == []
    disk.require(1, 0, "a byte")
    disk.measure()
    (tmp_path / "shared" / disk.MARKER).unlink()
    with pytest.raises(StorageUnavailable, match="has no marker"):
        disk.measure()


# --- going on ---------------------------------------------------------------------------------------------


def held(step: Step, needs: int, cause: str = "NoSpace") -> StepState:
    return StepState(status=Status.HELD, attempts=1, reason="r", cause=cause, needs_bytes=needs)


class Engine:
    """As much of one as a release needs."""

    def __init__(self, scans: dict[str, Scan]) -> None:
        self.scans = scans
        self.released: list[str] = []

    async def happen(self, event: AnyEvent) -> Scan:
        self.released.append(event.scan)
        self.scans[event.scan], _ = advance(self.scans[event.scan], event)
        return self.scans[event.scan]


def test_the_oldest_goes_on_first_and_only_as_many_as_there_is_room_for(tmp_path: Path) -> None:
    waiting = [
        msgspec.structs.replace(scan_of(name, check=held(Step.CHECK, needs)), completed_at=at)
        for name, needs, at in (("new", 400 * MB, 3), ("old", 400 * MB, 1), ("large", 900 * MB, 2))
    ]
    stage = Stage(tmp_path, 399 * MB, *waiting, scan_of("other", check=held(Step.CHECK, 1, "NotPermitted")))
    engine = Engine(stage.scans)
    watch = SimpleNamespace(shared_free=None)
    releases = Releases(engine, stage.room, watch)
    releases._grade = stage.room.grade  # it is not the first look after a start

    async def look(free: int) -> list[str]:
        stage.disk.free = watch.shared_free = free
        engine.released.clear()
        await releases._release()
        return list(engine.released)

    async def scenario() -> None:
        assert await look(399 * MB) == []
        assert await look(400 * MB) == ["old"]
        assert stage.scans["old"].step(Step.CHECK).status is Status.RUNNING
        assert await look(650 * MB) == [], "300 MB of that are promised to the old one"
        assert await look(700 * MB) == ["new"]
        assert await look(5000 * MB) == ["large"]
        assert await look(5000 * MB) == []
        assert stage.scans["other"].held is Step.CHECK, "a person must decide"

    stage.play(scenario)


def test_what_it_needed_once_holds_nobody_under_another_configuration_or_grade(tmp_path: Path) -> None:
    scan = scan_of("s", check=held(Step.CHECK, 400 * MB))
    stage = Stage(tmp_path, 300 * MB, scan)
    engine = Engine(stage.scans)
    releases = Releases(engine, stage.room, SimpleNamespace(shared_free=300 * MB))

    async def look() -> int:
        engine.released.clear()
        await releases._release()
        if engine.released:  # and it still lacks room
            stage.scans["s"] = scan
        return len(engine.released)

    async def scenario() -> None:
        assert [await look() for _ in range(3)] == [1, 0, 0], "once after the start"
        stage.disk.grade = Grade.SIXTEEN_BIT  # its volume is half as large now
        assert [await look() for _ in range(3)] == [1, 0, 0]

    stage.play(scenario)


def test_only_what_lacked_room_is_released() -> None:
    scan = scan_of(
        "s", reconstruct=held(Step.RECONSTRUCT, 5), register=held(Step.REGISTER, 0, "CatalogRejected")
    )
    assert scan.lacks_space is Step.RECONSTRUCT
    after, _ = advance(scan, Released(scan="s", only=Step.RECONSTRUCT))
    assert after.lacks_space is None
    assert after.step(Step.REGISTER).status is Status.HELD
    again, commands = advance(after, Released(scan="s", only=Step.RECONSTRUCT))
    assert (again, commands) == (after, []), "it is not held any more"


def test_a_step_remembers_what_it_needs() -> None:
    scan = scan_of("s", check=StepState(status=Status.RUNNING))
    failed = StepFailed(
        scan="s", step=Step.CHECK, reason="r", retry_at=None, cause="NoSpace", needs_bytes=7 * MB
    )
    after, _ = advance(scan, failed)
    assert after.lacks_space is Step.CHECK
    assert after.step(Step.CHECK).needs_bytes == 7 * MB
