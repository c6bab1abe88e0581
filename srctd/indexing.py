"""Where the frames of a scan's copy lie, also where its files are called otherwise than the scan's own."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from srctd.adapters import sync
from srctd.core.errors import ScanUnreadable
from srctd.core.frames import FrameIndex, rebased
from srctd.core.names import may_change
from srctd.core.scan import Manifest
from srctd.formats.protocol import ReadOptions
from srctd.results import Synced
from srctd.services import Work
from srctd.taskfolder import stored
from srctd.threads import at_storage


async def index_copy(work: Work, synced: Synced) -> FrameIndex:
    """Where the frames of the copy lie, by names that count from the task folder. Raises as a reader does.

    Names tell which frame is which, and which files belong together: a copy with other names than the scan's own is
    read by links that bear those.
    """
    holder = work.task_folder.with_name(work.scan.leader_task)
    copy = await at_storage(sync.published, holder)
    options = work.services.config.read_options(work.scan.root)
    options = msgspec.structs.replace(options, linked_below=(*options.linked_below, str(holder / sync.INPUT)))
    if copy is None or not any(file.stored for file in copy.files):
        return await stored(_index, work, synced.input, options, {})
    return await stored(_index_by_links, work, copy, holder / sync.INPUT, options)


def _index_by_links(work: Work, copy: Manifest, lies: Path, options: ReadOptions) -> FrameIndex:
    with original_names(copy, lies) as shown:
        opened = msgspec.structs.replace(copy, folder=str(shown)).main
        options = msgspec.structs.replace(options, links_into=str(lies))
        copies = {f"{shown}/{file.path}": f"{lies}/{file.copied_as}" for file in copy.files}
        return _index(work, opened, options, copies)


def _index(work: Work, opened: str, options: ReadOptions, copies: Mapping[str, str]) -> FrameIndex:
    found = work.services.reader.index(opened, options, incomplete=work.scan.partial, member=work.scan.member)
    base = opened if os.path.isdir(opened) else os.path.dirname(opened)
    return rebased(found, base, str(work.task_folder), copies)


@contextmanager
def original_names(copy: Manifest, lies: Path) -> Iterator[Path]:
    """A folder in which the files of a copy have the scan's own names: symbolic links, gone after the block.

    `lies`: where the copy is.
    """
    with TemporaryDirectory(prefix="srctd-names-") as folder:
        shown = Path(folder, Path(copy.folder).name)
        for file in copy.files:
            link = shown / file.path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(lies / file.copied_as)
        yield shown


def require_links_hold(manifest: Manifest, references: Iterable[str]) -> None:
    """Raise `ScanUnreadable` for an HDF5 link, inside a scan, to a file that gets another name in the copy.

    `references`: absolute paths of files that are linked to.
    """
    inside = {f"{manifest.folder}/{file.path}": file.path for file in manifest.files}
    changed = may_change(inside.values())
    for path in references:
        if inside.get(path) in changed:
            raise ScanUnreadable(
                f"{manifest.main} links to {path}, which gets another name in the copy, as not every file system "
                "can hold this one: the link would lead nowhere",
                hint="set storage.portable_names = false, start the daemon again, then release the scan",
            )
