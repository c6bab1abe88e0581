"""The eight steps: what is done to a scan, one async function each.

A step may be run any number of times: it looks at what is there and does what is missing. Its result goes
into the journal and is read by the steps that need it. It raises the errors of `srctd.core.errors`; the
engine decides what follows.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import structlog

from srctd import __version__
from srctd.adapters import space, sync
from srctd.config import AccountRule, Config
from srctd.core import datasets, plan, recipe
from srctd.core.errors import HoldError
from srctd.core.lifecycle import Scan, Step
from srctd.core.messages import Job, PreviewJob, PreviewResult, RowsJob, RowsResult
from srctd.core.recipe import Origin, Parameter, ParameterFile, Recipe
from srctd.core.scan import Manifest, Owner, ScanHeader, Volume, utc_text
from srctd.formats import open_scan

log = structlog.get_logger()
Result = TypeVar("Result", bound=msgspec.Struct)
GIGABYTE = 1e9


class Outcome(Protocol):
    """A finished job, as the pool hands it back."""

    result: Any
    seconds: Mapping[str, float]


class PoolPort(Protocol):
    """The worker pool. Errors: `WorkerLost`, `ReconstructionFailed`."""

    def worker_count(self) -> int:
        """How many workers there are now."""

    async def run(self, job: Job, *, priority: int = 0) -> Outcome:
        """Have a job done by some worker."""


class CatalogPort(Protocol):
    """The catalogue. Errors: `CatalogUnavailable`, `CatalogRejected`."""

    def health(self) -> bool:
        """Whether it answers."""

    def post(self, obj: datasets.CatalogObject) -> str:
        """Make sure the object is there, once; return its identifier there."""


class OutboxPort(Protocol):
    """The durable list of what is still to be posted."""

    async def put(self, scan: str, objects: list[datasets.CatalogObject]) -> None:
        """Add what is not there yet."""

    async def waiting(self, scan: str, prefix: str) -> list[datasets.CatalogObject]:
        """What was not posted yet, in order."""

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
    copies: asyncio.Semaphore


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
        account = self.result(Step.IDENTIFY, Identified).owner.account
        return Path(self.services.config.storage.shared) / account / self.scan.task


# --- results ----------------------------------------------------------------------------------------------


class Identified(msgspec.Struct, frozen=True, kw_only=True):
    """LOGIN: whose scan it is."""

    owner: Owner
    catalog_reachable: bool | None
    """None: no catalogue is configured."""


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """CHECK: what the header says, and that there is room."""

    header: ScanHeader
    in_place: bool
    bytes_needed: int


class Synced(msgspec.Struct, frozen=True, kw_only=True):
    """SUBMIT: where the input lies, proven."""

    input: str
    in_place: bool
    manifest: Manifest


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    """SUBMIT: the parameter file."""

    parameters: str
    recipe: str
    shards: tuple[tuple[int, int], ...]


class Previewed(msgspec.Struct, frozen=True, kw_only=True):
    """RUN: axis, pictures, quality."""

    preview: PreviewResult
    picture: str
    """Relative to the task folder."""
    seconds: dict[str, float]


class Reconstructed(msgspec.Struct, frozen=True, kw_only=True):
    """RUN: the volume."""

    volume: Volume
    minimum: float
    maximum: float
    mean: float
    shards: tuple[RowsResult, ...]
    seconds: dict[str, float]
    """Summed over the shards, by phase."""


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """DONE: the raw data set."""

    raw_pid: str
    posted: bool


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """DONE: the derived data set and the record."""

    derived_pid: str
    record: str
    posted: bool


# --- the steps --------------------------------------------------------------------------------------------


async def identify(work: Work) -> Identified:
    """Find the scan's owner by its path; ask whether the catalogue answers (no is no obstacle)."""
    catalog = work.services.catalog
    reachable = await asyncio.to_thread(catalog.health) if catalog else None
    return Identified(
        owner=owner_of(work.scan.path, work.services.config.accounts), catalog_reachable=reachable
    )


async def check(work: Work) -> Checked:
    """Read the header; refuse what cannot be reconstructed; make sure there is room for copy and volume."""
    header = await asyncio.to_thread(_read_header, work.scan.manifest.main)
    storage = work.services.config.storage
    in_place = sync.inside(work.scan.path, storage.shared)
    needed = header.volume_bytes + (0 if in_place else work.scan.manifest.size)
    reserve = int(storage.reserve_gigabytes * GIGABYTE)
    await asyncio.to_thread(space.require, storage.shared, needed, reserve, f"scan {work.scan.id}")
    return Checked(header=header, in_place=in_place, bytes_needed=needed)


async def sync_input(work: Work) -> Synced:
    """Copy the scan to shared storage, or leave it where it is if it lies there already; prove it by digests."""
    in_place = work.result(Step.CHECK, Checked).in_place
    final = work.task_folder
    part = final.with_name(f".{final.name}.part")
    manifest = work.scan.manifest
    async with work.services.copies:
        if in_place:
            proven = await asyncio.to_thread(sync.digest_in_place, manifest.folder, manifest.files)
            await asyncio.to_thread(sync.write_manifest, part, proven, None)
        else:
            proven = await asyncio.to_thread(sync.copy, manifest.folder, manifest.files, part)
        await asyncio.to_thread(sync.publish, part, final)
    opened = manifest.main if in_place else str(final / "input" / manifest.files[0].path)
    return Synced(input=opened, in_place=in_place, manifest=proven)


async def submit(work: Work) -> Submitted:
    """Choose the recipe, resolve every parameter, divide the volume, write the parameter file."""
    header = work.result(Step.CHECK, Checked).header
    synced = work.result(Step.SYNC, Synced)
    chosen = recipe.choose(work.services.recipes, work.scan.path, header)
    parameters = ParameterFile(
        scan=work.scan.id,
        input=synced.input,
        input_in_place=synced.in_place,
        format=header.format,
        entry=header.entry,
        recipe=chosen.name,
        parameters=recipe.resolve(header, chosen, work.scan.overrides),
        notes=header.notes,
        software=f"srctd {__version__}",
    )
    first, end = parameters.rows(header.n_rows)
    if first >= end:
        raise HoldError(
            f"{work.scan.path}: rows {first} to {end} are none of its {header.n_rows} rows",
            hint="correct first_row and end_row",
        )
    shards = plan.shards(first, end, work.services.pool.worker_count())
    parameters = msgspec.structs.replace(parameters, shards=shards)
    path = work.task_folder / "parameters.json"
    await _write_json(path, parameters)
    return Submitted(parameters=str(path), recipe=chosen.name, shards=shards)


async def preview(work: Work) -> Previewed:
    """Have the axis found and three orthogonal slices shown; write the axis into the parameter file."""
    path = work.task_folder / "parameters.json"
    parameters = await _read_parameters(path)
    center = parameters.parameters["center"]
    if center.origin is Origin.ESTIMATED:  # a run that was cut short after the estimate: estimate anew
        unset = Parameter(value=None, unit=center.unit)
        parameters = parameters.with_parameter("center", unset)
        await _write_json(path, parameters)
    job = PreviewJob(scan=work.scan.id, parameters=str(path), output=str(work.task_folder / "preview"))
    outcome = await work.services.pool.run(job, priority=1)
    found: PreviewResult = outcome.result
    if parameters.value("center") is None:
        source = ", ".join(estimate.method for estimate in found.estimates)
        estimated = Parameter(value=found.center, unit="pixel", origin=Origin.ESTIMATED, source=source)
        parameters = msgspec.structs.replace(
            parameters.with_parameter("center", estimated), center_confidence=found.center_confidence
        )
        await _write_json(path, parameters)
    picture = f"preview/{found.pictures[0]}"
    return Previewed(preview=found, picture=picture, seconds=dict(outcome.seconds))


async def reconstruct(work: Work) -> Reconstructed:
    """Have all shards done by the pool; when every row is there, let the output folder appear."""
    folder = work.task_folder
    parameters = await _read_parameters(folder / "parameters.json")
    part = folder / f".output.part-{parameters.digest()}"
    await asyncio.to_thread(part.mkdir, exist_ok=True)
    jobs = [
        RowsJob(
            scan=work.scan.id, parameters=str(folder / "parameters.json"), output=str(part), first=a, end=b
        )
        for a, b in parameters.shards
    ]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work.services.pool.run(job)) for job in jobs]
    outcomes = [task.result() for task in tasks]
    shards: list[RowsResult] = [outcome.result for outcome in outcomes]
    seconds: dict[str, float] = {}
    for outcome in outcomes:
        for phase, value in outcome.seconds.items():
            seconds[phase] = round(seconds.get(phase, 0.0) + value, 6)
    digest, size = await asyncio.to_thread(_finish_output, part, folder)
    shown = work.result(Step.PREVIEW, Previewed).preview
    rows = [shard.end - shard.first for shard in shards]
    volume = Volume(
        path="output/volume.h5",
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
        seconds=seconds,
    )


async def register(work: Work) -> Registered:
    """Post the raw data set with its files."""
    context = _catalog_context(work)
    objects = datasets.raw_documents(context)
    return Registered(raw_pid=objects[0].dataset_pid, posted=await _post(work, "raw/", objects))


async def publish(work: Work) -> Published:
    """Write the record; post the derived data set with its files and its picture."""
    context = _catalog_context(work)
    previewed = work.result(Step.PREVIEW, Previewed)
    reconstructed = work.result(Step.RECONSTRUCT, Reconstructed)
    folder = work.task_folder
    parameters = await _read_parameters(folder / "parameters.json")
    results = datasets.Results(
        parameters=parameters,
        preview=previewed.preview,
        volume=reconstructed.volume,
        minimum=reconstructed.minimum,
        maximum=reconstructed.maximum,
        mean=reconstructed.mean,
        files=await asyncio.to_thread(_result_files, folder, reconstructed.volume),
        finished_at=utc_text(work.scan.completed_at),
        seconds={"preview": previewed.seconds, "reconstruct": reconstructed.seconds},
        picture=await asyncio.to_thread(_data_uri, folder / previewed.picture),
    )
    await _write_json(folder / "record.json", datasets.record(context, results))
    objects = datasets.derived_documents(context, results)
    pid = objects[0].dataset_pid
    prefix = objects[0].key.rsplit("/", 1)[0] + "/"
    posted = await _post(work, prefix, objects)
    await asyncio.to_thread(sync.sweep, folder)
    return Published(derived_pid=pid, record=str(folder / "record.json"), posted=posted)


STEPS: Mapping[Step, Callable[[Work], Awaitable[msgspec.Struct]]] = {
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


def _read_header(path: str) -> ScanHeader:
    with open_scan(path) as reader:
        return reader.header


def _finish_output(part: Path, folder: Path) -> tuple[str, int]:
    """Drop the shards' side-cars, take the volume's digest, let the output folder appear."""
    sync.remove_folder(part / "shards")
    digest, size = sync.digest_file(part / "volume.h5")
    sync.replace_folder(part, folder / "output")
    return digest, size
