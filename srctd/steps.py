"""The eight steps: what is done to a scan, one async function each.

A step may be run any number of times: it looks at what is there and does what is missing. Its result goes
into the journal and is read by the steps that need it. It raises the errors of `srctd.core.errors`; the
engine decides what follows.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from srctd.adapters import sync
from srctd.adapters.ownership import Belonging
from srctd.core import labels, plan, recipe
from srctd.core.completion import State, Verdict
from srctd.core.errors import ScanUnreadable, StorageUnavailable
from srctd.core.frames import FrameIndex, rebased
from srctd.core.lifecycle import Scan, Step
from srctd.core.messages import Job, PreviewJob, PreviewResult, RowsJob, RowsResult
from srctd.core.names import may_change
from srctd.core.recipe import Origin, Parameter
from srctd.core.scan import Manifest, ScanHeader, Volume
from srctd.core.series import positions_of
from srctd.publishing import publish, register
from srctd.results import Checked, Identified, Previewed, Reconstructed, Submitted, Synced
from srctd.services import SOFTWARE, CatalogPort, Outcome, PoolPort, Work
from srctd.taskfolder import owner_of, part_folder, publish_tree, read_parameters, stored, write_json

HEALTH_SECONDS = 2.0
STACKS = ("tiff", "edf", "raw")
"""Formats in which names of files tell which frame is which."""

# --- the steps --------------------------------------------------------------------------------------------


async def identify(work: Work) -> Identified:
    """Find the scan's owner by its path; hold it if this machine does not know them.

    Whether the catalogue answers is asked, too; that it does not is no obstacle.
    """
    owner = owner_of(work.scan.path, work.services.config.accounts)
    await asyncio.to_thread(work.services.ownership.of, owner)  # nothing is copied for nobody
    catalog = work.services.catalog
    reachable = await _reachable(catalog) if catalog else None
    return Identified(owner=owner, catalog_reachable=reachable)


async def check(work: Work) -> Checked:
    """Read the header; refuse what cannot be reconstructed; make sure there is room for copy and volume."""
    header = await _labeled_header(work)
    storage = work.services.config.storage
    in_place = sync.inside(work.scan.path, storage.shared)
    part = part_folder(work.services.config, work.scan.path, work.scan.id)
    copied = in_place or bool(work.scan.leader)
    if header.references and storage.portable_names and not copied:
        _require_links_hold(work, header, await work.services.manifest(work.scan.id))
    to_copy = 0 if copied else work.scan.source.bytes - await asyncio.to_thread(_bytes_in, part)
    needed = header.volume_bytes + max(0, to_copy)
    await asyncio.to_thread(
        work.services.storage.require, needed, storage.reserve_bytes, f"scan {work.scan.id}"
    )
    return Checked(header=header, in_place=in_place, bytes_needed=needed)


async def sync_input(work: Work) -> Synced:
    """Copy the scan to shared storage, or leave it where it is if it lies there already; prove it by digests."""
    in_place = work.result(Step.CHECK, Checked).in_place or bool(work.scan.leader)
    final = work.task_folder
    part = part_folder(work.services.config, work.scan.path, work.scan.id)
    belonging = await work.belonging()
    proven = await asyncio.to_thread(sync.published, final)
    if proven is None and in_place:
        await stored(belonging.make_folder, part.parent)
        proven = await _proven_in_place(work)
        await asyncio.to_thread(sync.write_manifest, part, proven, None, belonging.give)
    elif proven is None:
        manifest = await work.services.manifest(work.scan.id)
        proven = await work.services.copies.copy(work.scan.id, manifest, part, work.owner)
    await stored(_publish_copy, part, final, belonging)
    opened = proven if in_place else proven.copied_to(str(final / sync.INPUT))
    return Synced(input=opened.main, in_place=in_place)


def _publish_copy(part: Path, final: Path, belonging: Belonging) -> None:
    """Let the task folder appear, the daemon's own; that it did so before is fine."""
    if part.is_dir():
        belonging.give_folder(part)
    sync.publish(part, final)


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
    return proven.copied_to(str(holder / sync.INPUT))


async def submit(work: Work) -> Submitted:
    """Choose the recipe, resolve every parameter, divide the volume, write the parameter file."""
    header = work.result(Step.CHECK, Checked).header
    synced = work.result(Step.SYNC, Synced)
    index = await _index(work, synced)
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
    belonging = await work.belonging()
    await write_json(work.index_file, msgspec.structs.replace(index, header=header), belonging)
    await write_json(path, parameters, belonging)
    return Submitted(parameters=str(path), recipe=chosen.name, shards=shards)


async def preview(work: Work) -> Previewed:
    """Have the axis found and three orthogonal slices shown; write the axis into the parameter file."""
    path, folder = work.parameter_file, work.task_folder / work.name("preview")
    part = folder.with_name(f".{folder.name}.part-made")
    belonging = await work.belonging()
    parameters = await read_parameters(path)
    center = parameters.parameters["center"]
    if center.origin is Origin.ESTIMATED:  # a run that was cut short after the estimate: estimate anew
        unset = Parameter(value=None, unit=center.unit)
        parameters = parameters.with_parameter("center", unset)
        await write_json(path, parameters, belonging)
    await stored(sync.remove_folder, part)
    job = PreviewJob(scan=work.scan.id, parameters=str(path), output=str(part))
    outcome = await work.services.pool.run(job, priority=1)
    found: PreviewResult = outcome.result
    if parameters.value("center") is None:
        source = ", ".join(estimate.method for estimate in found.estimates)
        estimated = Parameter(value=found.center, unit="pixel", origin=Origin.ESTIMATED, source=source)
        parameters = msgspec.structs.replace(
            parameters.with_parameter("center", estimated), center_confidence=found.center_confidence
        )
        await write_json(path, parameters, belonging)
    await stored(publish_tree, part, folder, belonging)
    picture = f"{folder.name}/{found.pictures[0]}"
    return Previewed(preview=found, picture=picture, seconds=dict(outcome.seconds))


async def reconstruct(work: Work) -> Reconstructed:
    """Have all shards done by the pool; when every row is there, let the output folder appear."""
    output = work.task_folder / work.name("output")
    parameters = await read_parameters(work.parameter_file)
    part = output.with_name(f".{output.name}.part-{parameters.digest()}")
    await stored(sync.make_folder, part)
    target = {"scan": work.scan.id, "parameters": str(work.parameter_file), "output": str(part)}
    jobs = [RowsJob(**target, first=first, end=end) for first, end in parameters.shards]
    outcomes = await _run_all(work.services.pool, jobs)
    shards: list[RowsResult] = [outcome.result for outcome in outcomes]
    seconds: dict[str, float] = {}
    for outcome in outcomes:
        for phase, value in outcome.seconds.items():
            seconds[phase] = round(seconds.get(phase, 0.0) + value, 6)
    digest, size = await stored(_finish_output, part, output, await work.belonging())
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


async def _labeled_header(work: Work) -> ScanHeader:
    """The header of the source, with what is known besides; holds a scan that is not finished."""
    scan = work.scan
    verdict = msgspec.json.decode(scan.verdict, type=Verdict)
    held = verdict.state in labels.UNFINISHED and not scan.partial
    if held and verdict.frames_found:
        raise _incomplete(scan, verdict)
    header = await asyncio.to_thread(  # of a scan without frames the reader says best what is wrong
        work.services.reader.header,
        scan.source.main,
        work.services.config.read_options(scan.root),
        incomplete=scan.partial,
        member=scan.member,
    )
    if held:
        raise _incomplete(scan, verdict)
    return labels.labeled(
        header, verdict, partial=scan.partial, series=scan.series, positions=positions_of(scan.path)
    )


def _incomplete(scan: Scan, verdict: Verdict) -> ScanUnreadable:
    hint = f"`srctd retry {scan.id} --incomplete` takes what is there, if its angles are known"
    if verdict.state is State.STALLED:
        hint = f"it is taken up by itself if the rest arrives; {hint}"
    return ScanUnreadable(f"{scan.path} is incomplete: {verdict.missing[0]}", hint=hint)


async def _index(work: Work, synced: Synced) -> FrameIndex:
    """Where the frames of the copy lie, by names that count from the task folder.

    The copy itself is indexed, as that is what workers read. Where its files have other names than the scan's own,
    names no longer tell which frame is which: then the scan is indexed, and what lies in it is looked up.
    """
    holder = work.task_folder.with_name(work.scan.leader_task)
    copy = await asyncio.to_thread(sync.published, holder)
    opened, copies = synced.input, None
    renamed = copy is not None and any(file.stored for file in copy.files)
    stack = work.result(Step.CHECK, Checked).header.format in STACKS
    if copy is not None and renamed and stack:
        opened = work.scan.source.main
        source = msgspec.structs.replace(copy, folder=work.scan.source.folder)
        await stored(_require_unchanged, source)
        copies = {
            f"{source.folder}/{file.path}": f"{holder}/{sync.INPUT}/{file.copied_as}" for file in copy.files
        }
    index = await asyncio.to_thread(
        work.services.reader.index,
        opened,
        work.services.config.read_options(work.scan.root),
        incomplete=work.scan.partial,
        member=work.scan.member,
    )
    if copies is not None:
        await stored(_require_unchanged, source)
    base = opened if await asyncio.to_thread(os.path.isdir, opened) else os.path.dirname(opened)
    return rebased(index, base, str(work.task_folder), copies)


def _require_unchanged(source: Manifest) -> None:
    """Raise `ScanUnreadable` unless all files are those that were copied."""
    for file in source.files:
        path = f"{source.folder}/{file.path}"
        try:
            now = os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            now = None
        if now is None or (now.st_size, now.st_mtime_ns) != (file.size, file.mtime_ns):
            raise ScanUnreadable(
                f"{path} is not as it was copied: its copy has other file names, so the frames are found in it",
                hint="bring it back; set storage.portable_names = false and copy it again if names are to stay",
            )


def _require_links_hold(work: Work, header: ScanHeader, manifest: Manifest) -> None:
    """Raise `ScanUnreadable` for a link, inside the scan, to a file that gets another name in the copy."""
    inside = {f"{manifest.folder}/{file.path}": file.path for file in manifest.files}
    changed = may_change(inside.values())
    for path in header.references:
        if inside.get(path) in changed:
            raise ScanUnreadable(
                f"{work.scan.path} links to {path}, which gets another name in the copy, as not every file system "
                "can hold this one: the link would lead nowhere",
                hint="set storage.portable_names = false, start the daemon again, then release the scan",
            )


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


def _finish_output(part: Path, output: Path, belonging: Belonging) -> tuple[str, int]:
    """Drop the shards' side-cars, take the volume's digest, let the output folder appear."""
    sync.remove_folder(part / "shards")
    digest, size = sync.digest_file(part / "volume.h5")
    publish_tree(part, output, belonging)
    return digest, size


async def _run_all(pool: PoolPort, jobs: Sequence[Job]) -> list[Outcome]:
    """All jobs' outcomes; the first failure takes the others back and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(pool.run(job)) for job in jobs]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
