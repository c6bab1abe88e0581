"""The ten steps: what is done to a scan, one async function each.

A step may be run any number of times: it looks at what is there and does what is missing. Its result goes
into the journal and is read by the steps that need it. It raises the errors of `srctd.core.errors`; the
engine decides what follows.
"""

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from srctd.adapters import sync
from srctd.adapters.ownership import Belonging
from srctd.core import labels, plan, recipe, voxels
from srctd.core.completion import State, Verdict
from srctd.core.errors import DigestMismatch, NoSpace, ScanUnreadable, StorageUnavailable
from srctd.core.lifecycle import Scan, Step
from srctd.core.messages import Job, PreviewJob, PreviewResult, RowsJob, RowsResult
from srctd.core.recipe import ParameterFile
from srctd.core.scan import Manifest, ScanHeader, Volume
from srctd.core.series import positions_of
from srctd.core.space import Grade
from srctd.indexing import index_copy, require_links_hold
from srctd.publishing import publish, register
from srctd.results import Checked, Identified, Previewed, Reconstructed, Submitted, Synced
from srctd.room import Claim, allocated
from srctd.sending import send, send_results
from srctd.services import SOFTWARE, CatalogPort, Outcome, PoolPort, Work
from srctd.taskfolder import owner_of, publish_tree, read_parameters, stored, write_json
from srctd.threads import at_storage

HEALTH_SECONDS = 2.0

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
    """Read the header; refuse what cannot be reconstructed; make sure there is room for copy and volume.

    Where only previews are made for want of room, the volume's is asked for when it is to be made.
    """
    header = await _labeled_header(work)
    storage, what = work.services.storage, f"scan {work.scan.id}"
    in_place = await at_storage(sync.inside, work.scan.path, storage.path)
    copied = in_place or bool(work.scan.leader)
    if header.references and work.services.config.storage.portable_names and not copied:
        require_links_hold(await work.services.manifest(work.scan.id), header.references)
    to_copy = 0 if copied else await _bytes_to_copy(work)
    parameters = await _parameters(work, header, opened="", in_place=in_place)
    claim = Claim(copy_bytes=to_copy, volume_bytes=voxels.volume_bytes(parameters, header))
    if claim.copy_bytes:
        needed = claim.copy_bytes + work.services.config.storage.reserve_bytes
        await at_storage(storage.require_grade_below, Grade.STOP, what, needed)
    if storage.grade.at_least(Grade.PREVIEWS_ONLY):
        claim = Claim(copy_bytes=claim.copy_bytes)
    await _claim_room(work, claim, what)
    return Checked(
        header=header,
        in_place=in_place,
        bytes_needed=claim.copy_bytes + claim.volume_bytes,
        bytes_to_copy=claim.copy_bytes,
    )


async def sync_input(work: Work) -> Synced:
    """Copy the scan to shared storage, or leave it where it is if it lies there already; prove it by digests."""
    in_place = work.result(Step.CHECK, Checked).in_place or bool(work.scan.leader)
    part = work.services.parts.of(work.owner.account, work.scan.id)
    belonging = await work.belonging()
    await at_storage(work.services.storage.make_account, work.task_folder.parent.name, belonging.give_own)
    manifest = await work.services.manifest(work.scan.id)
    of_leader = await _proven_in_place(work, manifest) if work.scan.leader else None
    work, proven = await _named(work, manifest)
    if proven is None and in_place:
        proven = of_leader or await _proven_in_place(work, manifest)
        await at_storage(sync.link_input, part, _in_place_of(work, proven))
        await at_storage(sync.write_manifest, part, proven, belonging.give)
    elif proven is None:
        await _copies_are_made(work)
        proven = await work.services.copies.copy(work.scan.id, manifest, work.owner)
    while True:
        final = work.task_folder
        try:
            await stored(_publish_copy, part, final, belonging)
            break
        except DigestMismatch:  # another daemon was faster by a moment
            work, _ = await _named(work, manifest)
            if work.task_folder == final:
                raise
    opened = proven if in_place else proven.copied_to(str(final / sync.INPUT))
    return Synced(input=opened.main, in_place=in_place)


async def _named(work: Work, manifest: Manifest) -> tuple[Work, Manifest | None]:
    """The copy that has the scan's name, if there is one; before that, a name that no other scan's copy has.

    Names are unique within a daemon, but several may share a storage: of two that begin a scan of one name in the
    same second, the second takes another. What has the name stays as it is, whoever made it: paths do not tell, for
    the disks of several detectors may be mounted at the same place, each on its machine.
    """
    while True:
        final = work.task_folder
        proven = await at_storage(sync.published, final)
        if proven is None or work.scan.leader or _same_files(proven, manifest):
            return work, proven
        work = replace(work, scan=await work.services.rename(work.scan.id))


def _same_files(proven: Manifest, manifest: Manifest) -> bool:
    """Whether a copy is of these files, whose folder may have been renamed since."""
    return proven.same_files(msgspec.structs.replace(manifest, folder=proven.folder))


async def _copies_are_made(work: Work) -> None:
    """Raise `NoSpace` if there is no room for what is not copied yet.

    What CHECK was promised is gone where the scan was held since, or where its copy was removed.
    """
    left, what = await _bytes_to_copy(work), f"scan {work.scan.id}"
    if left:
        needed = left + work.services.config.storage.reserve_bytes
        await at_storage(work.services.storage.require_grade_below, Grade.STOP, what, needed)
        checked = work.result(Step.CHECK, Checked)
        claim = Claim(copy_bytes=left, volume_bytes=checked.bytes_needed - checked.bytes_to_copy)
        await _claim_room(work, claim, what)


def _publish_copy(part: Path, final: Path, belonging: Belonging) -> None:
    """Let the task folder appear, the daemon's own; that it did so before is fine."""
    if part.is_dir():
        belonging.give_folder(part)
    sync.publish(part, final)


async def _proven_in_place(work: Work, manifest: Manifest) -> Manifest:
    """The digests of files that are not copied: they lie on shared storage, or another member has copied them."""
    if not work.scan.leader:
        return await work.services.copies.digest_in_place(manifest)
    holder = work.task_folder.with_name(work.scan.leader_task)
    proven = await at_storage(sync.published, holder)
    if proven is None or not _same_files(proven, manifest):  # another daemon's, and both get another name
        raise StorageUnavailable(
            f"{work.scan.id} waits for {work.scan.leader}, whose copy of the files it reads"
        )
    if work.result(Step.CHECK, Checked).in_place:
        return proven
    return proven.copied_to(str(holder / sync.INPUT))


def _in_place_of(work: Work, proven: Manifest) -> str:
    """Where the link `input` of a scan leads that is not copied: a member's to the first member's."""
    return f"../{work.scan.leader_task}/{sync.INPUT}" if work.scan.leader else proven.folder


async def submit(work: Work) -> Submitted:
    """Choose the recipe, resolve every parameter, divide the volume, write the parameter file."""
    header = work.result(Step.CHECK, Checked).header
    synced = work.result(Step.SYNC, Synced)
    index = await index_copy(work, synced)
    parameters = await _parameters(work, header, opened=str(work.index_file), in_place=synced.in_place)
    first, end = recipe.fitting_rows(parameters, work.scan.path, header)
    shards = plan.shards(first, end, work.services.pool.worker_count())
    parameters = msgspec.structs.replace(parameters, shards=shards)
    path = work.parameter_file
    belonging = await work.belonging()
    await write_json(work.index_file, msgspec.structs.replace(index, header=header), belonging)
    await write_json(path, parameters, belonging)
    return Submitted(parameters=str(path), recipe=parameters.recipe, shards=shards)


async def preview(work: Work) -> Previewed:
    """Have the axis found and three orthogonal slices shown; write what was found into the parameter file."""
    path, folder = work.parameter_file, work.task_folder / work.name("preview")
    part = folder.with_name(f".{folder.name}.part-made")
    belonging = await work.belonging()
    written = await read_parameters(path)
    parameters = written.without_estimates()
    if parameters != written:  # a run that was cut short after the estimate: estimate anew
        await write_json(path, parameters, belonging)
    await stored(sync.remove_folder, part)
    job = PreviewJob(scan=work.scan.id, parameters=str(path), output=str(part))
    outcome = await work.services.pool.run(job, priority=1)
    found: PreviewResult = outcome.result
    completed = parameters.with_estimates(found)
    if completed != parameters:
        await write_json(path, completed, belonging)
    await stored(publish_tree, part, folder, belonging)
    picture = f"{folder.name}/{found.pictures[0]}"
    return Previewed(preview=found, picture=picture, seconds=dict(outcome.seconds))


async def reconstruct(work: Work) -> Reconstructed:
    """Have all shards done by the pool; when every row is there, let the output folder appear."""
    output = work.task_folder / work.name("output")
    parameters = await read_parameters(work.parameter_file)
    part = output.with_name(f".{output.name}.part-{parameters.digest()}")
    await _room_for_volume(work, parameters, part)
    await stored(sync.make_folder, part, work.task_folder)
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
    scaling = voxels.scaling(parameters)
    volume = Volume(
        path=f"{output.name}/volume.h5",
        shape=shown.volume_shape,
        dtype=str(parameters.value("output_dtype")),
        unit=shown.unit,
        digest=digest,
        size=size,
        offset=scaling and scaling.offset,
        scale=scaling and scaling.scale,
        clipped_fraction=scaling and sum(shard.clipped for shard in shards) / math.prod(shown.volume_shape),
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


def _with_needs(step: StepFunction) -> StepFunction:
    """The same step; where storage was full in the middle of it, it is known what must be free for another try."""

    async def carried_out(work: Work) -> msgspec.Struct:
        try:
            return await step(work)
        except NoSpace as exc:
            raise await work.services.room.met(work.scan, exc) from exc

    return carried_out


STEPS: Mapping[Step, StepFunction] = {
    Step.IDENTIFY: identify,
    Step.CHECK: _with_needs(check),
    Step.SYNC: _with_needs(sync_input),
    Step.SUBMIT: _with_needs(submit),
    Step.PREVIEW: _with_needs(preview),
    Step.RECONSTRUCT: _with_needs(reconstruct),
    Step.REGISTER: _with_needs(register),
    Step.PUBLISH: _with_needs(publish),
    Step.SEND: send,
    Step.SEND_RESULTS: send_results,
}


# --- parts ------------------------------------------------------------------------------------------------


async def _bytes_to_copy(work: Work) -> int:
    """What is not copied yet of a scan."""
    owner = owner_of(work.scan.path, work.services.config.accounts)  # IDENTIFY may be under way
    part = work.services.parts.of(owner.account, work.scan.id)
    return await at_storage(sync.bytes_left, await work.services.manifest(work.scan.id), part)


async def _claim_room(work: Work, claim: Claim, what: str) -> None:
    """Raise `NoSpace` unless there is room, for which scans that are still being acquired give theirs away."""
    try:
        await work.services.room.claim(work.scan, claim, what)
    except NoSpace:
        if not await work.services.copies.make_room():
            raise
        await work.services.room.claim(work.scan, claim, what)


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


async def _parameters(work: Work, header: ScanHeader, *, opened: str, in_place: bool) -> ParameterFile:
    """Every parameter of a scan; the volume of 16-bit integers, where shared storage fills up."""
    parameters = recipe.parameter_file(
        header,
        recipe.choose(work.services.recipes, work.scan.path, header),
        work.scan.overrides,
        scan=work.scan.id,
        input=opened,
        input_in_place=in_place,
        raw=os.path.basename(work.scan.path),
        member=work.scan.member,
        software=SOFTWARE,
    )
    storage = work.services.storage
    free = (await at_storage(storage.measure)).free
    return parameters if storage.grade is Grade.FULL else parameters.in_sixteen_bit(storage.low_on(free))


async def _room_for_volume(work: Work, parameters: ParameterFile, part: Path) -> None:
    """Raise `NoSpace` unless there is room for what a volume lacks, and reconstructions are done at all."""
    header = work.result(Step.CHECK, Checked).header
    left = max(0, voxels.volume_bytes(parameters, header) - await at_storage(allocated, part))
    what, storage = f"the volume of scan {work.scan.id}", work.services.storage
    needed = left + work.services.config.storage.reserve_bytes
    if left:
        await at_storage(storage.require_grade_below, Grade.PREVIEWS_ONLY, what, needed)
    await work.services.room.claim(work.scan, Claim(volume_bytes=left), what)


async def _reachable(catalog: CatalogPort) -> bool:
    """Whether the catalogue answers at once; a slow one must not keep the scan waiting."""
    try:
        async with asyncio.timeout(HEALTH_SECONDS):
            return await asyncio.to_thread(catalog.health)
    except TimeoutError:
        return False


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
