"""Copying the files of a scan."""

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from srctd.adapters.sync.commit import INPUT, make_input, write_manifest
from srctd.adapters.sync.engine import Engine
from srctd.adapters.sync.folders import sync_folder
from srctd.adapters.sync.naming import check_names, named
from srctd.adapters.sync.notes import NOTHING, Known, Notes, read_progress
from srctd.adapters.sync.options import PLAIN, CopyOptions, Give
from srctd.adapters.sync.source import Source, check_unchanged, digested
from srctd.adapters.sync.trouble import writing
from srctd.core.errors import NoSpace
from srctd.core.scan import BLOCK_BYTES, FileEntry, Manifest


def copy_settled(
    seen: Manifest, settled: Mapping[str, int], part: Path, options: CopyOptions = PLAIN
) -> None:
    """Copy, of a scan that is being acquired, what will most likely not change any more; `copy` ends it.

    `settled`: by path, how many bytes from the beginning those are; the file's size: it was closed. Of a growing
    file whole blocks are copied. May be called any number of times with what was seen since: what was copied is
    not copied again. Whatever changes all the same is put right by `copy`. Raises as that does.
    """
    listed = [file for file in seen.files if file.path in settled]
    check_names(seen.folder, listed, kept=not options.portable_names)
    folder = make_input(part)
    noted = read_progress(part)
    due = []
    for file in named(listed, _stored(noted), portable=options.portable_names):
        known = _known(noted, file)
        closed = settled[file.path] == file.size
        blocks = range(settled[file.path] // BLOCK_BYTES)
        if known.finished_as(file) is None if closed else any(index not in known.blocks for index in blocks):
            due.append((file, known))
    if not due:
        return
    with (
        Source(seen.folder) as source,
        closing(Notes(part)) as notes,
        Engine(source, folder, notes, options) as engine,
    ):
        for file, known, descriptor in source.ahead(due):
            checked = _checked(known, folder, file)
            if settled[file.path] == file.size:
                engine.whole(file, descriptor, checked)
            else:
                engine.settled(file, settled[file.path], descriptor, checked)


def bytes_left(wanted: Manifest, part: Path) -> int:
    """How many bytes of a scan are still to be written, by what was noted. Raises the errors of storage."""
    noted = read_progress(part)
    return sum(file.size - noted.get(file.path, NOTHING).holds(file) for file in wanted.files)


def files_left(wanted: Manifest, part: Path) -> int:
    """How many files of a scan are still to be made, by what was noted. Raises the errors of storage."""
    noted = read_progress(part)
    return sum(file.path not in noted for file in wanted.files)


def copy(wanted: Manifest, part: Path, options: CopyOptions = PLAIN) -> Manifest:
    """Copy the files of a scan into `part/input`, manifest last; return it with the digests.

    What earlier calls copied of these very files stays. Of a file that changed since, also if it only grew, all is
    read again, because nothing else tells where it did: HDF5 writes its header and indexes anew. Only blocks that
    are not the same are written. A copy that is made before it is known that the scan is complete is therefore not
    in vain: repeated for the same files, it only looks at names, sizes and times.

    Raises `SourceChanged`, `ScanUnreadable` (a name or file that must not be copied), `NoSpace` (then `part` is
    removed), `NotPermitted`, `StorageUnavailable`, `DigestMismatch` (the storage does not keep what is written).
    """
    check_names(wanted.folder, wanted.files, kept=not options.portable_names)
    try:
        folder = make_input(part)
        with Source(wanted.folder) as source:
            proven = _proven(source, wanted.files, part, options)
        _check_unchanged(wanted)
        _settle(folder, frozenset(file.copied_as for file in proven), options.give)
        manifest = msgspec.structs.replace(wanted, files=proven)
        write_manifest(part, manifest, options.give)
    except NoSpace:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return manifest


def digest_in_place(wanted: Manifest, options: CopyOptions = PLAIN) -> Manifest:
    """The manifest, with digests, of files that stay where they are. Raises as `copy` does for its source."""
    check_names(wanted.folder, wanted.files, kept=True)
    buffer = memoryview(bytearray(min(BLOCK_BYTES, max((file.size for file in wanted.files), default=0))))
    proven = []
    with Source(wanted.folder) as source:
        for file, _, descriptor in source.ahead((file, None) for file in wanted.files):
            path = source.path(file.path)
            check_unchanged(descriptor, path, file)
            proven.append(digested(descriptor, path, file, options.pace, buffer))
            check_unchanged(descriptor, path, file)
    _check_unchanged(wanted)
    return msgspec.structs.replace(wanted, files=tuple(proven))


def _proven(
    source: Source, wanted: Sequence[FileEntry], part: Path, options: CopyOptions
) -> tuple[FileEntry, ...]:
    """All files with their digests: those that this process finished before, and the rest, copied now."""
    folder = part / INPUT
    noted = read_progress(part)
    proven: dict[str, FileEntry] = {}
    due = []
    for file in named(wanted, _stored(noted), portable=options.portable_names):
        known = _checked(_known(noted, file), folder, file)
        done = known.finished_as(file)
        if done is not None and known.mine:
            proven[file.path] = done
        else:
            due.append((file, known))
    if due:
        with closing(Notes(part)) as notes, Engine(source, folder, notes, options) as engine:
            for file, known, descriptor in source.ahead(due):
                proven[file.path] = engine.whole(file, descriptor, known)
    return tuple(proven[file.path] for file in wanted)


def _check_unchanged(wanted: Manifest) -> None:
    """Raise `SourceChanged` unless all files are still there, under their names, as they were listed.

    From the scan's folder anew: what was open may have been moved away meanwhile.
    """
    with Source(wanted.folder) as source:
        for file in wanted.files:
            source.check(file)


def _stored(noted: Mapping[str, Known]) -> dict[str, str]:
    """Names in the copy, of files that were copied before."""
    return {path: known.stored for path, known in noted.items()}


def _known(noted: Mapping[str, Known], file: FileEntry) -> Known:
    """What was noted of a file, if its copy has the same name now."""
    known = noted.get(file.path, NOTHING)
    return known if known.stored == file.copied_as else NOTHING


def _checked(known: Known, folder: Path, file: FileEntry) -> Known:
    """What is left of what was noted of a file in view of its copy, or of what has that name."""
    if known is NOTHING:
        return known
    path = f"{folder}/{file.copied_as}"
    with writing(path, "looked at"):
        try:
            return known.checked(os.lstat(path))
        except (FileNotFoundError, NotADirectoryError):
            return NOTHING


def _settle(folder: Path, names: frozenset[str], give: Give) -> None:
    """Remove what an earlier attempt left and the scan does not have; hand all folders over, durable."""
    with writing(folder):
        for here, folders, files in os.walk(folder, topdown=False):
            links = [name for name in folders if os.path.islink(f"{here}/{name}")]
            for file in (*files, *links):
                path = f"{here}/{file}"
                if path.removeprefix(f"{folder}/") not in names:
                    os.unlink(path)
            if here != str(folder) and not os.listdir(here):
                os.rmdir(here)
            else:
                sync_folder(Path(here), give)
