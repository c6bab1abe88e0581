"""What the catalogue is told of a scan: the steps of DONE, and the files and objects that they name."""

import asyncio
import base64
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from srctd.adapters import sync
from srctd.core import datasets
from srctd.core.datasets import Acquisition, CatalogObject, Picture, Site
from srctd.core.errors import StorageUnavailable
from srctd.core.lifecycle import Step
from srctd.core.scan import FileEntry, Manifest, Volume
from srctd.results import Checked, Identified, Previewed, Published, Reconstructed, Registered, Synced
from srctd.services import SOFTWARE, Work
from srctd.taskfolder import read_parameters, stored


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
        parameters=await read_parameters(work.parameter_file),
        preview=shown.preview,
        volume=built.volume,
        files=await stored(_result_files, work, built.volume, shown),
        finished_at=built.finished_at,
        pictures=(await stored(_picture, folder / shown.picture),),
    )
    site, acquired = _site(work), await _acquisition(work)
    record = folder / work.name("record", ".json")
    belonging = await work.belonging()
    await asyncio.to_thread(sync.write_atomic, record, datasets.record(site, acquired, made), belonging.give)
    files = (*made.files.files, await stored(described, folder, record.name))
    await asyncio.to_thread(sync.write_checksums, work.results_file, files, belonging.give)
    made = msgspec.structs.replace(made, files=Manifest(folder=str(folder), files=files))
    objects = datasets.derived_documents(site, acquired, made)
    prefix = objects[0].key.removesuffix("dataset")
    posted = await _post(work, prefix, objects)
    await asyncio.to_thread(sync.sweep, folder)
    return Published(derived_pid=objects[0].dataset_pid, record=str(record), posted=posted)


# --- parts ------------------------------------------------------------------------------------------------


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
        proven = proven.copied_to(str(work.task_folder / sync.INPUT))
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
    files = [described(folder, volume.path, volume.digest), described(folder, work.parameter_file.name)]
    files += [described(folder, name) for name in (work.index_file.name, *names)]
    return Manifest(folder=str(folder), files=tuple(files))


def described(folder: Path, name: str, digest: str = "") -> FileEntry:
    """A file of a task folder, with its digest: the one that is known, or taken now."""
    stat = (folder / name).stat()
    known = digest or sync.digest_file(folder / name)[0]
    return FileEntry(path=name, size=stat.st_size, mtime_ns=stat.st_mtime_ns, digest=known)


def _picture(path: Path) -> Picture:
    encoded = base64.b64encode(path.read_bytes()).decode()
    return Picture(caption="Three orthogonal slices", data_uri=f"data:image/png;base64,{encoded}")
