"""Copying the files of a scan."""

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec
import xxhash

from srctd.adapters.sync.commit import make_input, write_manifest
from srctd.adapters.sync.folders import created, make_folder, sync_folder, write_all
from srctd.adapters.sync.naming import check_names, named
from srctd.adapters.sync.notes import PROGRESS, read_progress
from srctd.adapters.sync.options import PLAIN, CopyOptions, Give
from srctd.adapters.sync.source import blocks, check_unchanged, digest_file, opened
from srctd.adapters.sync.trouble import writing
from srctd.core.errors import NoSpace
from srctd.core.scan import FileEntry, Manifest


def copy_settled(
    seen: Manifest, settled: Mapping[str, int], part: Path, options: CopyOptions = PLAIN
) -> None:
    """Copy, of a scan that is being acquired, what will most likely not change any more; `copy` ends it.

    `settled`: by path, how many bytes from the beginning those are; the file's size: it was closed. May be called
    any number of times with what was seen since. Whatever changes all the same is put right by `copy`. Raises as
    that does.
    """
    closed = [file for file in seen.files if settled.get(file.path) == file.size]
    check_names(seen.folder, closed, kept=not options.portable_names)
    folder = make_input(part)
    earlier = read_progress(part)
    closed = named(closed, earlier, portable=options.portable_names)
    with writing(part), (part / PROGRESS).open("ab") as notes:
        notes.write(b"\n")
        for file in closed:
            noted = earlier.get(file.path)
            if noted is None or not _same(noted, file):
                entry = _copied(seen.folder, file, folder, options)
                notes.write(msgspec.json.encode(entry) + b"\n")
                notes.flush()


def bytes_left(wanted: Manifest, part: Path) -> int:
    """How many bytes of a scan are still to be written, by what was noted."""
    earlier = read_progress(part)
    return sum(
        file.size
        for file in wanted.files
        if earlier.get(file.path, file).size != file.size or file.path not in earlier
    )


def copy(wanted: Manifest, part: Path, options: CopyOptions = PLAIN) -> Manifest:
    """Copy the files of a scan into `part/input`, manifest last; return it with the digests.

    Raises `SourceChanged`, `ScanUnreadable` (a name or file that must not be copied), `NoSpace` (then `part` is
    removed), `NotPermitted`, `StorageUnavailable`.
    """
    source = wanted.folder
    check_names(source, wanted.files, kept=not options.portable_names)
    try:
        folder = make_input(part)
        earlier = read_progress(part)
        files = named(wanted.files, earlier, portable=options.portable_names)
        with writing(part), (part / PROGRESS).open("ab") as notes:
            notes.write(b"\n")  # ends a line that was cut short
            proven = []
            for file in files:
                entry = _kept(source, file, earlier.get(file.path), folder, options)
                if entry is None:
                    entry = _copied(source, file, folder, options)
                    notes.write(msgspec.json.encode(entry) + b"\n")
                    notes.flush()
                proven.append(entry)
        _settle(folder, frozenset(file.copied_as for file in files), options.give)
        manifest = msgspec.structs.replace(wanted, files=tuple(proven))
        write_manifest(part, manifest, options.give)
    except NoSpace:
        shutil.rmtree(part, ignore_errors=True)
        raise
    with writing(part):
        (part / PROGRESS).unlink()
    return manifest


def digest_in_place(wanted: Manifest, options: CopyOptions = PLAIN) -> Manifest:
    """The manifest, with digests, of files that stay where they are. Raises as `copy` does for its source."""
    folder, files = wanted.folder, wanted.files
    check_names(folder, files, kept=True)
    proven = []
    for file in files:
        with opened(folder, file.path) as source:
            check_unchanged(source, f"{folder}/{file.path}", file)
            digest = xxhash.xxh3_128()
            for block in blocks(source, f"{folder}/{file.path}", file.size):
                digest.update(block)
                options.pace.take(len(block))
            check_unchanged(source, f"{folder}/{file.path}", file)
        proven.append(msgspec.structs.replace(file, digest=digest.hexdigest()))
    return msgspec.structs.replace(wanted, files=tuple(proven))


def _same(noted: FileEntry, file: FileEntry) -> bool:
    return (noted.size, noted.mtime_ns, noted.stored) == (file.size, file.mtime_ns, file.stored)


def _kept(
    source: str, file: FileEntry, noted: FileEntry | None, folder: Path, options: CopyOptions
) -> FileEntry | None:
    """What an earlier attempt noted of a file, if source and copy are still what it says; else None."""
    copied = folder / file.copied_as
    if noted is None or not _same(noted, file) or not copied.is_file():
        return None
    with opened(source, file.path) as original:
        check_unchanged(original, f"{source}/{file.path}", file)
    if digest_file(copied) != (noted.digest, file.size):
        return None
    options.pace.take(file.size)
    return noted


def _copied(source: str, file: FileEntry, folder: Path, options: CopyOptions) -> FileEntry:
    path, target = f"{source}/{file.path}", folder / file.copied_as
    make_folder(target.parent, top=folder)
    digest = xxhash.xxh3_128()
    with opened(source, file.path) as original, writing(target), created(target, os.O_TRUNC) as copied:
        check_unchanged(original, path, file)
        allocate(copied, file.size)
        for block in blocks(original, path, file.size):
            write_all(copied, block)
            digest.update(block)
            options.pace.take(len(block))
        check_unchanged(original, path, file)
        os.utime(copied, ns=(file.mtime_ns, file.mtime_ns))
        options.give(copied)
        os.fsync(copied)
    return msgspec.structs.replace(file, digest=digest.hexdigest())


def allocate(descriptor: int, size: int) -> None:
    """Claim the space at once, where the file system can: a full disk is noticed before the copy, not in it."""
    if not size:
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as exc:
        if exc.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


def _settle(folder: Path, names: frozenset[str], give: Give) -> None:
    """Remove files of an earlier attempt that do not belong to the scan; hand all folders over, durable."""
    with writing(folder):
        for here, _, files in os.walk(folder):
            for file in files:
                path = os.path.join(here, file)
                if os.path.relpath(path, folder) not in names:
                    os.unlink(path)
            sync_folder(Path(here), give)
