"""The eight steps: what is done to a scan, one async function each.

A step may be run any number of times: it looks at what is there and does what is missing. Its result goes
into the journal and is read by the steps that need it. It raises the errors of `srctd.core.errors`; the
engine decides what follows.
"""

import asyncio
import base64
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from srctd import __version__
from srctd.adapters import sync
from srctd.adapters.space import SharedStorage
from srctd.config import AccountRule, Config
from srctd.copies import Copies
from srctd.core import datasets, labels, plan, recipe
from srctd.core.completion import State, Verdict
from srctd.core.datasets import Acquisition, CatalogObject, Picture, Site
from srctd.core.errors import HoldError, ScanUnreadable, StorageUnavailable
from srctd.core.frames import FrameIndex, rebased
from srctd.core.lifecycle import Scan, Step
from srctd.core.messages import Job, PreviewJob, PreviewResult, RowsJob, RowsResult
from srctd.core.recipe import Origin, Parameter, ParameterFile, Recipe
from srctd.core.scan import FileEntry, Manifest, Owner, ScanHeader, Volume
from srctd.core.series import positions_of
from srctd.formats.isolated import IsolatedReader
from srctd.formats.protocol import ReadOptions
from srctd.results import (
    Checked,
    Identified,
    Previewed,
    Published,
    Reconstructed,
    Registered,
    Submitted,
    Synced,
)

Result = TypeVar("Result", bound=msgspec.Struct)
T = TypeVar("T")
GIGABYTE = 1e9
HEALTH_SECONDS = 2.0
SOFTWARE = f"srctd {__version__}"


class Outcome(Protocol):
    """A finished job, as the pool hands it back."""

    @property
    def result(self) -> Any:
        """A `JobResult` of the job's kind."""

    @property
    def seconds(self) -> Mapping[str, float]:
        """By phase."""


class PoolPort(Protocol):
    """The worker pool. Errors: `TransientError`, `HoldError`."""

    def worker_count(self) -> int:
        """How many workers there are now."""

    async def run(self, job: Job, *, priority: int = 0) -> Outcome:
        """Have a job done by some worker."""


class CatalogPort(Protocol):
    """The catalogue. Errors: `CatalogUnavailable`, `CatalogRejected`."""

    def health(self) -> bool:
        """Whether it answers."""

    def post(self, obj: CatalogObject) -> str:
        """Make sure the object is there, once; return its identifier there."""


class OutboxPort(Protocol):
    """The durable list of what is still to be posted."""

    async def put(self, scan: str, objects: Sequence[CatalogObject]) -> None:
        """Add what is not in the list yet."""

    async def waiting(self, scan: str, prefix: str) -> list[CatalogObject]:
        """What was not posted yet of the keys with a prefix, in order."""

    async def posted(self, scan: str, key: str, remote_id: str) -> None:
        """Note that an object is in the catalogue."""


@dataclass(frozen=True, kw_only=True)
class Services:
    """What the steps work with."""

    config: Config
    recipes: tuple[Recipe, ...]
    pool: PoolPort
    catalog: CatalogPort | None
    outbox: OutboxPort
    reader: IsolatedReader
    storage: SharedStorage
    copies: Copies
    manifest: Callable[[str], Awaitable[Manifest]]
    """The files of a scan, by its identifier."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """One step of one scan, about to be done."""

    scan: Scan
    services: Services

    def result(self, step: Step, kind: type[Result]) -> Result:
        """What an earlier step found."""
        return msgspec.json.decode(self.scan.step(step).result, type=kind)

    @property
    def task_folder(self) -> Path:
        """The scan's folder on shared storage."""
        return task_folder(self.services.config, self.scan)

    def name(self, stem: str, suffix: str = "") -> str:
        """Name of a result inside the task folder; results of a later run stand beside the earlier ones."""
        return f"{stem}{suffix}" if self.scan.run == 1 else f"{stem}-{self.scan.run}{suffix}"

    @property
    def index_file(self) -> Path:
        """Where every frame lies, for this run."""
        return self.task_folder / self.name("frames", ".json")

    @property
    def parameter_file(self) -> Path:
        """The parameter file of this run."""
        return self.task_folder / self.name("parameters", ".json")


# --- the steps --------------------------------------------------------------------------------------------


async def identify(work: Work) -> Identified:
    """Find the scan's owner by its path; ask whether the catalogue answers (no is no obstacle)."""
    catalog = work.services.catalog
    reachable = await _reachable(catalog) if catalog else None
    return Identified(
        owner=owner_of(work.scan.path, work.services.config.accounts), catalog_reachable=reachable
    )


async def check(work: Work) -> Checked:
    """Read the header; refuse what cannot be reconstructed; make sure there is room for copy and volume."""
    header = await _labelled_header(work)
    storage = work.services.config.storage
    in_place = sync.inside(work.scan.path, storage.shared)
    part = part_folder(work.services.config, work.scan.path, work.scan.id)
    copied = in_place or bool(work.scan.leader)
    to_copy = 0 if copied else work.scan.source.bytes - await asyncio.to_thread(_bytes_in, part)
    needed = header.volume_bytes + max(0, to_copy)
    reserve = int(storage.reserve_gigabytes * GIGABYTE)
    await asyncio.to_thread(work.services.storage.require, needed, reserve, f"scan {work.scan.id}")
    return Checked(header=header, in_place=in_place, bytes_needed=needed)


async def sync_input(work: Work) -> Synced:
    """Copy the scan to shared storage, or leave it where it is if it lies there already; prove it by digests."""
    in_place = work.result(Step.CHECK, Checked).in_place or bool(work.scan.leader)
    final = work.task_folder
    part = part_folder(work.services.config, work.scan.path, work.scan.id)
    proven = await asyncio.to_thread(sync.published, final)
    if proven is None and in_place:
        proven = await _proven_in_place(work)
        await asyncio.to_thread(sync.write_manifest, part, proven, None)
    elif proven is None:
        manifest = await work.services.manifest(work.scan.id)
        proven = await work.services.copies.copy(work.scan.id, manifest, part)
    await asyncio.to_thread(sync.publish, part, final)
    opened = proven if in_place else msgspec.structs.replace(proven, folder=str(final / "input"))
    return Synced(input=opened.main, in_place=in_place)


async def _proven_in_place(work: Work) -> Manifest:
    """The digests of files that are not copied: they lie on shared storage, or another member has copied them."""
    if not work.scan.leader:
        return await work.services.copies.digest_in_place(await work.services.manifest(work.scan.id))
    holder = work.task_folder.with_name(work.scan.leader_task)
    proven = await asyncio.to_thread(sync.published, holder)
    if proven is None:
        raise StorageUnavailable(
            f"{work.scan.id} waits for {work.scan.leader}, whose copy of the files it reads"
        )
    if work.result(Step.CHECK, Checked).in_place:
        return proven
    return msgspec.structs.replace(proven, folder=str(holder / "input"))


async def submit(work: Work) -> Submitted:
    """Choose the recipe, resolve every parameter, divide the volume, write the parameter file."""
    header = work.result(Step.CHECK, Checked).header
    synced = work.result(Step.SYNC, Synced)
    index = await _index(work, synced.input)
    chosen = recipe.choose(work.services.recipes, work.scan.path, header)
    parameters = recipe.parameter_file(
        header,
        chosen,
        work.scan.overrides,
        scan=work.scan.id,
        input=str(work.index_file),
        input_in_place=synced.in_place,
        raw=os.path.basename(work.scan.path),
        member=work.scan.member,
        software=SOFTWARE,
    )
    first, end = recipe.fitting_rows(parameters, work.scan.path, header)
    shards = plan.shards(first, end, work.services.pool.worker_count())
    parameters = msgspec.structs.replace(parameters, shards=shards)
    path = work.parameter_file
    await _write_json(work.index_file, msgspec.structs.replace(index, header=header))
    await _write_json(path, parameters)
    return Submitted(parameters=str(path), recipe=chosen.name, shards=shards)


async def preview(work: Work) -> Previewed:
    """Have the axis found and three orthogonal slices shown; write the axis into the parameter file."""
    path, folder = work.parameter_file, work.task_folder / work.name("preview")
    parameters = await _read_parameters(path)
    center = parameters.parameters["center"]
    if center.origin is Origin.ESTIMATED:  # a run that was cut short after the estimate: estimate anew
        unset = Parameter(value=None, unit=center.unit)
        parameters = parameters.with_parameter("center", unset)
        await _write_json(path, parameters)
    job = PreviewJob(scan=work.scan.id, parameters=str(path), output=str(folder))
    outcome = await work.services.pool.run(job, priority=1)
    found: PreviewResult = outcome.result
    if parameters.value("center") is None:
        source = ", ".join(estimate.method for estimate in found.estimates)
        estimated = Parameter(value=found.center, unit="pixel", origin=Origin.ESTIMATED, source=source)
        parameters = msgspec.structs.replace(
            parameters.with_parameter("center", estimated), center_confidence=found.center_confidence
        )
        await _write_json(path, parameters)
    picture = f"{folder.name}/{found.pictures[0]}"
    return Previewed(preview=found, picture=picture, seconds=dict(outcome.seconds))


async def reconstruct(work: Work) -> Reconstructed:
    """Have all shards done by the pool; when every row is there, let the output folder appear."""
    output = work.task_folder / work.name("output")
    parameters = await _read_parameters(work.parameter_file)
    part = output.with_name(f".{output.name}.part-{parameters.digest()}")
    await _stored(sync.make_folder, part)
    target = {"scan": work.scan.id, "parameters": str(work.parameter_file), "output": str(part)}
    jobs = [RowsJob(**target, first=first, end=end) for first, end in parameters.shards]
    outcomes = await _run_all(work.services.pool, jobs)
    shards: list[RowsResult] = [outcome.result for outcome in outcomes]
    seconds: dict[str, float] = {}
    for outcome in outcomes:
        for phase, value in outcome.seconds.items():
            seconds[phase] = round(seconds.get(phase, 0.0) + value, 6)
    digest, size = await _stored(_finish_output, part, output)
    shown = work.result(Step.PREVIEW, Previewed).preview
    rows = [shard.end - shard.first for shard in shards]
    volume = Volume(
        path=f"{output.name}/volume.h5",
        shape=shown.volume_shape,
        dtype="float32",
        unit=shown.unit,
        digest=digest,
        size=size,
    )
    return Reconstructed(
        volume=volume,
        minimum=min(shard.minimum for shard in shards),
        maximum=max(shard.maximum for shard in shards),
        mean=sum(shard.mean * n for shard, n in zip(shards, rows, strict=True)) / sum(rows),
        shards=tuple(shards),
        finished_at=time.time(),
        seconds=seconds,
    )


async def register(work: Work) -> Registered:
    """Post the raw data set with its files."""
    objects = datasets.raw_documents(_site(work), await _acquisition(work))
    if work.scan.leader:  # it registers the files for all members
        return Registered(raw_pid=objects[0].dataset_pid, posted=False)
    return Registered(raw_pid=objects[0].dataset_pid, posted=await _post(work, "raw/", objects))


async def publish(work: Work) -> Published:
    """Write the record; post the derived data set with its files and its picture."""
    folder = work.task_folder
    shown = work.result(Step.PREVIEW, Previewed)
    built = work.result(Step.RECONSTRUCT, Reconstructed)
    made = datasets.Reconstruction(
        parameters=await _read_parameters(work.parameter_file),
        preview=shown.preview,
        volume=built.volume,
        files=await _stored(_result_files, work, built.volume, shown),
        finished_at=built.finished_at,
        pictures=(await _stored(_picture, folder / shown.picture),),
    )
    site, acquired = _site(work), await _acquisition(work)
    record = folder / work.name("record", ".json")
    await asyncio.to_thread(sync.write_atomic, record, datasets.record(site, acquired, made))
    files = (*made.files.files, await _stored(_described, folder, record.name))
    made = msgspec.structs.replace(made, files=Manifest(folder=str(folder), files=files))
    objects = datasets.derived_documents(site, acquired, made)
    prefix = objects[0].key.removesuffix("dataset")
    posted = await _post(work, prefix, objects)
    await asyncio.to_thread(sync.sweep, folder)
    return Published(derived_pid=objects[0].dataset_pid, record=str(record), posted=posted)


StepFunction = Callable[[Work], Awaitable[msgspec.Struct]]

STEPS: Mapping[Step, StepFunction] = {
    Step.IDENTIFY: identify,
    Step.CHECK: check,
    Step.SYNC: sync_input,
    Step.SUBMIT: submit,
    Step.PREVIEW: preview,
    Step.RECONSTRUCT: reconstruct,
    Step.REGISTER: register,
    Step.PUBLISH: publish,
}


# --- parts ------------------------------------------------------------------------------------------------


def read_options(config: Config, root: str) -> ReadOptions:
    """How files below a watched root are read; of a scan from elsewhere, by what the site says of all."""
    watched = next((section for section in config.watch if section.path == root), None)
    return watched.read_options(config.formats) if watched else config.formats.read_options


async def _labelled_header(work: Work) -> ScanHeader:
    """The header of the source, with what is known besides; holds a scan that is not finished."""
    scan = work.scan
    verdict = msgspec.json.decode(scan.verdict, type=Verdict)
    held = verdict.state in labels.UNFINISHED and not scan.partial
    if held and verdict.frames_found:
        raise _incomplete(scan, verdict)
    header = await asyncio.to_thread(  # of a scan without frames the reader says best what is wrong
        work.services.reader.header,
        scan.source.main,
        read_options(work.services.config, scan.root),
        incomplete=scan.partial,
        member=scan.member,
    )
    if held:
        raise _incomplete(scan, verdict)
    return labels.labelled(
        header, verdict, partial=scan.partial, series=scan.series, positions=positions_of(scan.path)
    )


def _incomplete(scan: Scan, verdict: Verdict) -> ScanUnreadable:
    hint = f"`srctd retry {scan.id} --incomplete` takes what is there, if its angles are known"
    if verdict.state is State.STALLED:
        hint = f"it is taken up by itself if the rest arrives; {hint}"
    return ScanUnreadable(f"{scan.path} is incomplete: {verdict.missing[0]}", hint=hint)


async def _index(work: Work, opened: str) -> FrameIndex:
    """Where the frames of the copy lie, by names that count from the task folder."""
    index = await asyncio.to_thread(
        work.services.reader.index,
        opened,
        read_options(work.services.config, work.scan.root),
        incomplete=work.scan.partial,
        member=work.scan.member,
    )
    base = opened if await asyncio.to_thread(os.path.isdir, opened) else os.path.dirname(opened)
    return rebased(index, base, str(work.task_folder))


def task_folder(config: Config, scan: Scan) -> Path:
    """A scan's folder on shared storage; its owner must be known."""
    identified = msgspec.json.decode(scan.step(Step.IDENTIFY).result, type=Identified)
    return Path(config.storage.shared) / identified.owner.account / scan.task


def part_folder(config: Config, path: str, scan: str) -> Path:
    """The hidden folder, beside the task folder, in which the copy of a scan grows."""
    return Path(config.storage.shared) / owner_of(path, config.accounts).account / f".{scan}.part"


def owner_of(path: str, rules: tuple[AccountRule, ...]) -> Owner:
    """The first rule whose pattern is found in the path decides; without one the account is `unassigned`."""
    for rule in rules:
        found = re.search(rule.pattern, path)
        if not found:
            continue
        fill = {name: value or "" for name, value in found.groupdict().items()}
        account = rule.account.format_map(fill)
        if not re.fullmatch(r"[\w.+@-]+", account) or account.startswith("."):
            raise HoldError(
                f"{path}: account {account!r} by the rule {rule.pattern!r} is no folder name",
                hint="correct the rule in [[accounts]]",
            )
        return Owner(
            account=account,
            owner=rule.owner.format_map(fill) or account,
            owner_group=rule.owner_group.format_map(fill) or account,
            access_groups=tuple(group.format_map(fill) for group in rule.access_groups),
            email=rule.email.format_map(fill),
            proposal=rule.proposal.format_map(fill),
            origin=f"rule {rule.pattern}",
        )
    return Owner(account="unassigned", owner="unassigned", owner_group="unassigned")


async def _reachable(catalog: CatalogPort) -> bool:
    """Whether the catalogue answers at once; a slow one must not keep the scan waiting."""
    try:
        async with asyncio.timeout(HEALTH_SECONDS):
            return await asyncio.to_thread(catalog.health)
    except TimeoutError:
        return False


def _bytes_in(folder: Path) -> int:
    """Bytes of a copy that was made ahead; 0 if there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _finish_output(part: Path, output: Path) -> tuple[str, int]:
    """Drop the shards' side-cars, take the volume's digest, let the output folder appear."""
    sync.remove_folder(part / "shards")
    digest, size = sync.digest_file(part / "volume.h5")
    sync.replace_folder(part, output)
    return digest, size


async def _run_all(pool: PoolPort, jobs: Sequence[Job]) -> list[Outcome]:
    """All jobs' outcomes; the first failure takes the others back and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(pool.run(job)) for job in jobs]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


async def _post(work: Work, prefix: str, objects: Sequence[CatalogObject]) -> bool:
    """Put the objects into the outbox and post what was not posted yet; False where no catalogue is configured."""
    catalog, outbox = work.services.catalog, work.services.outbox
    if catalog is None:
        return False
    await outbox.put(work.scan.id, objects)
    for waiting in await outbox.waiting(work.scan.id, prefix):
        remote_id = await asyncio.to_thread(catalog.post, waiting)
        await outbox.posted(work.scan.id, waiting.key, remote_id)
    return True


def _site(work: Work) -> Site:
    section = work.services.config.catalog
    return Site(
        pid_prefix=section.pid_prefix,
        beamline=section.creation_location,
        contact_email=section.contact_email,
        access_groups=section.access_groups,
        software=SOFTWARE,
    )


async def _acquisition(work: Work) -> Acquisition:
    proven = await asyncio.to_thread(sync.published, work.task_folder)
    if proven is None:
        raise StorageUnavailable(f"{work.task_folder} is not there: is shared storage mounted?")
    if not work.result(Step.SYNC, Synced).in_place:
        proven = msgspec.structs.replace(proven, folder=str(work.task_folder / "input"))
    return Acquisition(
        scan=work.scan,
        header=work.result(Step.CHECK, Checked).header,
        manifest=proven,
        owner=work.result(Step.IDENTIFY, Identified).owner,
    )


def _result_files(work: Work, volume: Volume, shown: Previewed) -> Manifest:
    """The files of a reconstruction, with digests; the volume's was taken when it was finished."""
    folder, preview = work.task_folder, os.path.dirname(shown.picture)
    names = [f"{preview}/{name}" for name in sorted({*shown.preview.pictures, "quality.json"})]
    files = [_described(folder, volume.path, volume.digest), _described(folder, work.parameter_file.name)]
    files += [_described(folder, name) for name in (work.index_file.name, *names)]
    return Manifest(folder=str(folder), files=tuple(files))


def _described(folder: Path, name: str, digest: str = "") -> FileEntry:
    stat = (folder / name).stat()
    known = digest or sync.digest_file(folder / name)[0]
    return FileEntry(path=name, size=stat.st_size, mtime_ns=stat.st_mtime_ns, digest=known)


def _picture(path: Path) -> Picture:
    encoded = base64.b64encode(path.read_bytes()).decode()
    return Picture(caption="Three orthogonal slices", data_uri=f"data:image/png;base64,{encoded}")


async def _read_parameters(path: Path) -> ParameterFile:
    raw = await _stored(path.read_bytes)
    return msgspec.json.decode(raw, type=ParameterFile)


async def _stored(function: Callable[..., T], *args: object) -> T:
    """Run work on shared storage in a thread; its errors are those of storage."""
    try:
        return await asyncio.to_thread(function, *args)
    except OSError as exc:
        raise sync.storage_error(exc, f"{exc.filename or 'shared storage'} cannot be used") from exc


async def _write_json(path: Path, content: msgspec.Struct) -> None:
    text = msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
    await asyncio.to_thread(sync.write_atomic, path, text)
