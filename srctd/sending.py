"""Sending copies and results to a further host: the last steps of a scan, for which nothing else waits."""

import os
import stat
from pathlib import Path

from srctd.adapters import sync
from srctd.adapters.remote import Parcel
from srctd.core.errors import HoldError
from srctd.core.lifecycle import Step
from srctd.core.scan import FileEntry
from srctd.publishing import described
from srctd.results import Sent, Synced
from srctd.services import Work
from srctd.taskfolder import stored


async def send(work: Work) -> Sent:
    """Send the input, also one that was left in place, with its manifests; the task folder appears there whole."""
    return await _deliver(work, whole=True)


async def send_results(work: Work) -> Sent:
    """Send what this run added to the task folder."""
    return await _deliver(work, whole=False)


async def _deliver(work: Work, *, whole: bool) -> Sent:
    remote = work.services.remote
    if remote is None:
        return Sent(target="")
    account, leader = work.task_folder.parent.name, bool(work.scan.leader)
    parcel = Parcel(
        source=str(work.task_folder),
        place=f"{account}/{work.scan.task}",
        files=await stored(_input_files if whole else _result_files, work),
        whole=whole,
        links=(sync.INPUT,) if whole and leader else (),
        after=f"{account}/{work.scan.leader_task}" if whole and leader else "",
        megabytes_per_second=work.services.config.copy_megabytes_per_second(work.scan.root),
    )
    sent = await remote.deliver(parcel)
    return Sent(target=work.services.config.remote.target, place=parcel.place, sent_bytes=sent)


def _input_files(work: Work) -> tuple[FileEntry, ...]:
    """A member has only a link to the input of the first one."""
    folder = work.task_folder
    own = tuple(described(folder, name) for name in (sync.CHECKSUMS, sync.MANIFEST))
    if work.scan.leader:
        return own
    in_place = work.result(Step.SYNC, Synced).in_place
    lies = Path(work.scan.source.folder) if in_place else folder / sync.INPUT
    return (*_checked(folder, folder / sync.CHECKSUMS, lies), *own)


def _result_files(work: Work) -> tuple[FileEntry, ...]:
    folder, listed = work.task_folder, work.results_file
    return (*_checked(folder, listed, folder), described(folder, listed.name))


def _checked(folder: Path, checksums: Path, lies: Path) -> tuple[FileEntry, ...]:
    """The files of a list of digests: regular ones that lie below a folder, whatever has become of the list."""
    files: list[FileEntry] = []
    inside: dict[str, bool] = {}
    for line in checksums.read_text(encoding="utf-8").split("\n"):
        digest, _, name = line.partition("  ")
        if not name:
            continue
        parent = os.path.dirname(name)
        if parent not in inside:
            inside[parent] = sync.inside(folder / parent, lies)
        found = (folder / name).lstat()
        if not (inside[parent] and stat.S_ISREG(found.st_mode)):
            raise HoldError(
                f"{checksums}: {name!r} is no regular file of this scan", hint="who has changed the folder?"
            )
        files.append(FileEntry(path=name, size=found.st_size, mtime_ns=found.st_mtime_ns, digest=digest))
    return tuple(files)
