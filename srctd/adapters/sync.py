"""Copying a scan to shared storage, and proving it.

A scan grows in a hidden folder (`part`) and appears under its name by one rename, after every file and folder of
it was made durable. Each file is read once: its xxh3-128 is taken from the very bytes that are written.

The calls block and may be repeated: a copy that was cut short anywhere goes on where it was. A file that an
earlier attempt finished is read back from the copy and compared with the digest noted then; only if they agree
is it kept, so what is published was proven, not remembered.
"""

import ctypes
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec
import xxhash

from srctd.core.errors import (
    DigestMismatch,
    HoldError,
    NoSpace,
    NotPermitted,
    ScanUnreadable,
    SourceChanged,
    SrctdError,
    StorageUnavailable,
)
from srctd.core.scan import BLOCK_BYTES, FileEntry, Manifest, ReadBack

INPUT = "input"
MANIFEST = "manifest.json"
CHECKSUMS = "manifest.xxh128"
PROGRESS = "progress.jsonl"

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_NOT_PERMITTED = frozenset({errno.EACCES, errno.EPERM})
_UNFIT = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.ENAMETOOLONG, errno.EFBIG})
_NO_EXCHANGE = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_BAD_NAME = re.compile("[\x00-\x1f\x7f\\\\\ud800-\udfff]")


class Pace(Protocol):
    """How fast the source may be read."""

    def take(self, count: int) -> None:
        """Wait until so many more bytes may be read. An exception ends the copy; the next resumes it."""


class FullSpeed:
    """As fast as it goes."""

    def take(self, count: int) -> None:
        """Wait for nothing."""


Give = Callable[[int], None]
"""Hands a finished file or folder, by its descriptor, over to whom it shall belong, with its modes."""


def keep(_: int) -> None:
    """Leave a file or folder as it was made."""


@dataclass(frozen=True, kw_only=True)
class CopyOptions:
    """How a scan is copied."""

    pace: Pace = field(default_factory=FullSpeed)
    read_back: ReadBack = ReadBack.SAMPLED
    portable_names: bool = True
    give: Give = keep


PLAIN = CopyOptions()


# --- a scan -----------------------------------------------------------------------------------------------


def copy_settled(
    seen: Manifest, settled: Mapping[str, int], part: Path, options: CopyOptions = PLAIN
) -> None:
    """Copy, of a scan that is being acquired, what will most likely not change any more; `copy` ends it.

    `settled`: by path, how many bytes from the beginning those are; the file's size: it was closed. May be called
    any number of times with what was seen since. Whatever changes all the same is put right by `copy`. Raises as
    that does.
    """
    closed = tuple(file for file in seen.files if settled.get(file.path) == file.size)
    folder = part / INPUT
    make_folder(folder)
    _checked_names(seen.folder, closed)
    earlier = _read_progress(part)
    with _target(part), (part / PROGRESS).open("ab") as notes:
        notes.write(b"\n")
        for file in closed:
            noted = earlier.get(file.path)
            if noted is None or (noted.size, noted.mtime_ns) != (file.size, file.mtime_ns):
                entry = _copied(seen.folder, file, folder / file.path, options)
                notes.write(msgspec.json.encode(entry) + b"\n")
                notes.flush()


def bytes_left(wanted: Manifest, part: Path) -> int:
    """How many bytes of a scan are still to be written, by what was noted."""
    earlier = _read_progress(part)
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
    folder, source, files = part / INPUT, wanted.folder, wanted.files
    names = _checked_names(source, files)
    try:
        make_folder(folder)
        earlier = _read_progress(part)
        with _target(part), (part / PROGRESS).open("ab") as notes:
            notes.write(b"\n")  # ends a line that was cut short
            proven = []
            for file in files:
                entry = _kept(source, file, earlier.get(file.path), folder, options)
                if entry is None:
                    entry = _copied(source, file, folder / file.path, options)
                    notes.write(msgspec.json.encode(entry) + b"\n")
                    notes.flush()
                proven.append(entry)
        _settle(folder, names)
        manifest = msgspec.structs.replace(wanted, files=tuple(proven))
        write_manifest(part, manifest, f"{INPUT}/")
    except NoSpace:
        shutil.rmtree(part, ignore_errors=True)
        raise
    with _target(part):
        (part / PROGRESS).unlink()
    return manifest


def digest_in_place(wanted: Manifest, options: CopyOptions = PLAIN) -> Manifest:
    """The manifest, with digests, of files that stay where they are. Raises as `copy` does for its source."""
    folder, files = wanted.folder, wanted.files
    _checked_names(folder, files)
    proven = []
    for file in files:
        with _opened(folder, file.path) as source:
            _check_unchanged(source, f"{folder}/{file.path}", file)
            digest = xxhash.xxh3_128()
            for block in _blocks(source, f"{folder}/{file.path}", file.size):
                digest.update(block)
                options.pace.take(len(block))
            _check_unchanged(source, f"{folder}/{file.path}", file)
        proven.append(msgspec.structs.replace(file, digest=digest.hexdigest()))
    return msgspec.structs.replace(wanted, files=tuple(proven))


def write_manifest(part: Path, manifest: Manifest, prefix: str | None) -> None:
    """Write `manifest.xxh128`, which `xxh128sum -c` checks, and then `manifest.json`.

    `prefix` leads from `part` to the files (`input/`); None: they are named by their absolute paths.
    """
    before = f"{manifest.folder}/" if prefix is None else prefix
    lines = "".join(f"{file.digest}  {before}{file.path}\n" for file in manifest.files)
    make_folder(part)
    write_atomic(part / CHECKSUMS, lines.encode())
    write_atomic(part / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2))


def publish(part: Path, final: Path) -> None:
    """Let a finished folder appear under its name. That it did so before is fine.

    Raises `DigestMismatch` if something else has that name, `NotPermitted`, `StorageUnavailable`.
    """
    with _target(final):
        if final.is_dir() and _same_manifest(part, final):
            remove_folder(part)
            return
        sweep(part)  # a write that was cut short has left its own
        _sync_folder(part)
        try:
            part.rename(final)
        except OSError as exc:
            if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise DigestMismatch(
                f"{final} exists and is not the copy of this scan", hint="move it away, then release the scan"
            ) from exc
        _sync_folder(final.parent)


def published(final: Path) -> Manifest | None:
    """The manifest of a folder that appeared before; None if it did not."""
    try:
        return msgspec.json.decode((final / MANIFEST).read_bytes(), type=Manifest)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except msgspec.DecodeError as exc:
        raise DigestMismatch(f"{final / MANIFEST}: no manifest: {exc}", hint="move the folder away") from exc
    except OSError as exc:
        raise storage_error(exc, f"{final / MANIFEST} cannot be read") from exc


# --- files and folders ------------------------------------------------------------------------------------


def inside(path: str | os.PathLike[str], root: str | os.PathLike[str]) -> bool:
    """Whether a path, links resolved, is `root` or lies below it."""
    top = os.path.realpath(root)
    return os.path.commonpath([os.path.realpath(path), top]) == top


def digest_file(path: Path) -> tuple[str, int]:
    """xxh3-128 (32 hexadecimal digits) and size of a file."""
    with _opened(str(path.parent), path.name) as source:
        size = os.fstat(source).st_size
        digest = xxhash.xxh3_128()
        for block in _blocks(source, str(path), size):
            digest.update(block)
    return digest.hexdigest(), size


def write_atomic(path: Path, data: bytes) -> None:
    """Write a small file that is there, whole and durable, or as it was before.

    Raises `NoSpace`, `NotPermitted`, `StorageUnavailable`.
    """
    part = path.with_name(f".{path.name}.part-{secrets.token_hex(4)}")
    with _target(path):
        try:
            with _created(part, os.O_EXCL) as target:
                _write_all(target, memoryview(data))
                os.fsync(target)
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder and the parents it lacks, durably."""
    with _target(path):
        if path.is_dir():
            return
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _sync_folder(path.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where kernel, C library or file system cannot."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    if function(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(one))


def replace_folder(part: Path, final: Path, exchange: Callable[[Path, Path], bool] = _exchange) -> None:
    """Let a finished folder take a name that an older one may have; the older one is removed.

    Killed anywhere, `final` is the old or the new folder, whole, or (only where the file system cannot exchange
    two names) absent. A remainder is hidden, is not taken for a growing part, and is removed by `sweep`.
    """
    swap = final.with_name(f".{final.name}.part-swap")
    with _target(final):
        _sync_folder(part)
        if not final.is_dir():
            part.rename(final)
            _sync_folder(final.parent)
            return
        remove_folder(swap)
        part.rename(swap)
        if not exchange(swap, final):
            old = final.with_name(f".{final.name}.part-old")
            remove_folder(old)
            final.rename(old)
            swap.rename(final)
            swap = old
        _sync_folder(final.parent)
    shutil.rmtree(swap, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder and all that is in it; that it is not there is fine."""
    with _target(path), suppress(FileNotFoundError):
        shutil.rmtree(path)


def sweep(task: Path) -> tuple[str, ...]:
    """Remove the hidden remainders (`.NAME.part...`) directly in a task folder; return those that would not go.

    A file that somebody still has open keeps its folder on some network file systems; a later sweep gets it.
    """
    with _target(task):
        remainders = sorted(task.glob(".*.part*"))
    for path in remainders:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
    return tuple(path.name for path in remainders if os.path.lexists(path))


def storage_error(exc: OSError, what: str) -> SrctdError:
    """The error that says whether to try again. `what` begins the sentence: which file could not be what."""
    sentence = f"{what}: {exc.strerror}"
    if exc.errno in _NO_SPACE:
        return NoSpace(sentence, hint="make room on that file system, then release the scan")
    if exc.errno in _NOT_PERMITTED:
        return NotPermitted(sentence, hint="let the daemon's user do it, then release the scan")
    if exc.errno in _UNFIT:
        return HoldError(sentence, hint="correct the name or the folder, then release the scan")
    return StorageUnavailable(sentence, hint="check the mount; it is tried again by itself")


# --- one file ---------------------------------------------------------------------------------------------


def _kept(
    source: str, file: FileEntry, noted: FileEntry | None, folder: Path, options: CopyOptions
) -> FileEntry | None:
    """What an earlier attempt noted of a file, if source and copy are still what it says; else None."""
    copied = folder / file.path
    if noted is None or (noted.size, noted.mtime_ns) != (file.size, file.mtime_ns) or not copied.is_file():
        return None
    with _opened(source, file.path) as original:
        _check_unchanged(original, f"{source}/{file.path}", file)
    if digest_file(copied) != (noted.digest, file.size):
        return None
    options.pace.take(file.size)
    return noted


def _copied(source: str, file: FileEntry, target: Path, options: CopyOptions) -> FileEntry:
    path = f"{source}/{file.path}"
    make_folder(target.parent)
    digest = xxhash.xxh3_128()
    with _opened(source, file.path) as original, _target(target), _created(target, os.O_TRUNC) as copied:
        _check_unchanged(original, path, file)
        _allocate(copied, file.size)
        for block in _blocks(original, path, file.size):
            _write_all(copied, block)
            digest.update(block)
            options.pace.take(len(block))
        _check_unchanged(original, path, file)
        os.utime(copied, ns=(file.mtime_ns, file.mtime_ns))
        os.fsync(copied)
    return msgspec.structs.replace(file, digest=digest.hexdigest())


@contextmanager
def _opened(folder: str, name: str) -> Iterator[int]:
    """A descriptor of a regular file below a folder. Follows no link below it and waits for no FIFO."""
    path = f"{folder}/{name}"
    *parents, last = name.split("/")
    below = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    with ExitStack() as stack:
        with _source(path):
            descriptor = os.open(folder, below)
            stack.callback(os.close, descriptor)
            for parent in parents:
                descriptor = os.open(parent, below | os.O_NOFOLLOW, dir_fd=descriptor)
                stack.callback(os.close, descriptor)
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            descriptor = os.open(last, flags, dir_fd=descriptor)
            stack.callback(os.close, descriptor)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ScanUnreadable(f"{path} is no regular file", hint="a scan is made of regular files")
        yield descriptor


@contextmanager
def _created(path: Path, flags: int) -> Iterator[int]:
    flags |= os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _blocks(descriptor: int, path: str, size: int) -> Iterator[memoryview]:
    """The first `size` bytes of a file; one buffer serves all blocks. Raises `SourceChanged` if there are fewer."""
    buffer = memoryview(bytearray(min(size, BLOCK_BYTES)))
    left = size
    while left:
        with _source(path):
            count = os.readv(descriptor, [buffer[: min(left, BLOCK_BYTES)]])
        if not count:
            raise SourceChanged(f"{path} became shorter than {size} bytes while it was read")
        left -= count
        yield buffer[:count]


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _allocate(descriptor: int, size: int) -> None:
    """Claim the space at once, where the file system can: a full disk is noticed before the copy, not in it."""
    if not size:
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as exc:
        if exc.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


def _check_unchanged(descriptor: int, path: str, file: FileEntry) -> None:
    with _source(path):
        now = os.fstat(descriptor)
    if (now.st_size, now.st_mtime_ns) != (file.size, file.mtime_ns):
        raise SourceChanged(
            f"{path} changed: {now.st_size} bytes instead of {file.size}, or another time of writing",
            hint="it is judged and copied anew",
        )


# --- parts ------------------------------------------------------------------------------------------------


def _checked_names(folder: str, files: Sequence[FileEntry]) -> frozenset[str]:
    """The files' names, all of them below the folder, none twice; raises `ScanUnreadable`."""
    names = [file.path for file in files]
    for name in names:
        if any(word in ("", ".", "..") for word in name.split("/")) or _BAD_NAME.search(name):
            raise ScanUnreadable(
                f"{folder}: {name!r} is no plain relative name", hint="rename the file on the detector's side"
            )
    if len(set(names)) < len(names):
        raise ScanUnreadable(f"{folder}: a file is listed twice")
    return frozenset(names)


def _read_progress(part: Path) -> dict[str, FileEntry]:
    """What earlier attempts noted; a line that was cut short is none."""
    noted: dict[str, FileEntry] = {}
    with suppress(FileNotFoundError):
        for line in (part / PROGRESS).read_bytes().splitlines():
            with suppress(msgspec.DecodeError):
                entry = msgspec.json.decode(line, type=FileEntry)
                noted[entry.path] = entry
    return noted


def _settle(folder: Path, names: frozenset[str]) -> None:
    """Remove files of an earlier attempt that do not belong to the scan; make all folders durable."""
    with _target(folder):
        for here, _, files in os.walk(folder):
            for file in files:
                path = os.path.join(here, file)
                if os.path.relpath(path, folder) not in names:
                    os.unlink(path)
            _sync_folder(Path(here))


def _same_manifest(part: Path, final: Path) -> bool:
    """Whether `final` is what `part` would become; also if there is no `part` any more."""
    there = published(final)
    return there is not None and (not part.exists() or there == published(part))


def _sync_folder(path: Path) -> None:
    """Make a folder's names durable, where the file system knows of that."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def _source(path: str) -> Iterator[None]:
    """Translate what goes wrong with a file that is read."""
    try:
        yield
    except FileNotFoundError as exc:
        raise SourceChanged(f"{path} is not there any more", hint="it is looked for again") from exc
    except OSError as exc:
        if exc.errno in _UNFIT:
            raise ScanUnreadable(
                f"{path} is no regular file, or behind a symbolic link: {exc.strerror}",
                hint="a scan is made of regular files",
            ) from exc
        raise storage_error(exc, f"{path} cannot be read") from exc


@contextmanager
def _target(path: Path) -> Iterator[None]:
    """Translate what goes wrong with a file or folder that is written."""
    try:
        yield
    except OSError as exc:
        raise storage_error(exc, f"{path} cannot be written") from exc
