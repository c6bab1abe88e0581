"""Reading a scan's files: never through a link, never waiting for what is no file."""

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import xxhash

from srctd.adapters.sync.trouble import reading
from srctd.core.errors import ScanUnreadable, SourceChanged
from srctd.core.scan import BLOCK_BYTES, FileEntry


def inside(path: str | os.PathLike[str], root: str | os.PathLike[str]) -> bool:
    """Whether a path, links resolved, is `root` or lies below it."""
    top = os.path.realpath(root)
    return os.path.commonpath([os.path.realpath(path), top]) == top


@contextmanager
def opened(folder: str, name: str) -> Iterator[int]:
    """A descriptor of a regular file below a folder. Follows no link on the way and waits for no FIFO.

    `folder`: absolute, and free of symbolic links when it was listed.
    """
    path = f"{folder}/{name}"
    *parents, last = name.split("/")
    below = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    with ExitStack() as stack:
        with reading(path):
            descriptor = os.open(folder, below)
            stack.callback(os.close, descriptor)
            if (
                os.readlink(f"/proc/self/fd/{descriptor}") != folder
            ):  # a link took the place of a folder on the way
                raise ScanUnreadable(
                    f"{folder} leads elsewhere now, through a symbolic link",
                    hint="a scan stays where it was found",
                )
            for parent in parents:
                descriptor = os.open(parent, below | os.O_NOFOLLOW, dir_fd=descriptor)
                stack.callback(os.close, descriptor)
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            descriptor = os.open(last, flags, dir_fd=descriptor)
            stack.callback(os.close, descriptor)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ScanUnreadable(f"{path} is no regular file", hint="a scan is made of regular files")
        yield descriptor


def blocks(descriptor: int, path: str, size: int) -> Iterator[memoryview]:
    """The first `size` bytes of a file; one buffer serves all blocks. Raises `SourceChanged` if there are fewer."""
    buffer = memoryview(bytearray(min(size, BLOCK_BYTES)))
    left = size
    while left:
        with reading(path):
            count = os.readv(descriptor, [buffer[: min(left, BLOCK_BYTES)]])
        if not count:
            raise SourceChanged(f"{path} became shorter than {size} bytes while it was read")
        left -= count
        yield buffer[:count]


def check_unchanged(descriptor: int, path: str, file: FileEntry) -> None:
    """Raise `SourceChanged` if a file is not, any more, what the listing saw."""
    with reading(path):
        now = os.fstat(descriptor)
    if (now.st_size, now.st_mtime_ns) != (file.size, file.mtime_ns):
        raise SourceChanged(
            f"{path} changed: {now.st_size} bytes instead of {file.size}, or another time of writing",
            hint="it is judged and copied anew",
        )


def digest_file(path: Path) -> tuple[str, int]:
    """xxh3-128 (32 hexadecimal digits) and size of a file."""
    with opened(os.path.realpath(path.parent), path.name) as source:
        size = os.fstat(source).st_size
        digest = xxhash.xxh3_128()
        for block in blocks(source, str(path), size):
            digest.update(block)
    return digest.hexdigest(), size
