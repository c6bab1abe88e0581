"""Reading a copy back from the storage, and comparing it with what was read of the source.

What differs is written once more, from a source that must still give the digest it gave before; what differs then
is held with both digests.
"""

import os
import random
from collections.abc import Iterable, Sequence

import xxhash

from srctd.adapters.sync.options import CopyOptions, FullSpeed, keep
from srctd.adapters.sync.source import CHUNK_BYTES, block_lengths, opened, read_block
from srctd.adapters.sync.target import Target
from srctd.adapters.sync.trouble import writing
from srctd.core.errors import DigestMismatch, SourceChanged
from srctd.core.scan import BLOCK_BYTES, FileEntry, ReadBack

SAMPLE = 100
"""One block of so many is read back where samples are taken, besides the first and the last one of a file."""


def read_back(finished: Sequence[tuple[Target, FileEntry]], folder: str, options: CopyOptions) -> None:
    """Prove files that were made durable. `folder`: their source, for what must be written once more.

    Of many small files one is a sample for all. It ends at its next block when the copy is to end.

    Raises `DigestMismatch`, and the errors of a copy.
    """
    how = options.read_back
    small = [target for target, entry in finished if entry.size and not entry.blocks]
    sample = random.choice(small) if small else None
    for target, entry in finished:
        blocks = range(len(block_lengths(entry.size)))
        if how is ReadBack.FULL:
            chosen: Iterable[int] = blocks
        elif how is ReadBack.SAMPLED and (entry.blocks or target is sample):
            chosen = _sampled(blocks)
        else:
            chosen = ()
        for number in chosen:
            options.pace.take(0)
            _prove(target, entry, number, folder)


def forget(descriptor: int, offset: int, length: int) -> None:
    """Drop a range from memory, as far as it is on the disk, so that the next to read it gets what the disk has.

    Memory may still have what the disk never got: where a write-back failed, the kernel keeps it and tells it once.
    """
    os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_DONTNEED)


def digest_of(descriptor: int, offset: int, length: int) -> str:
    """xxh3-128 of a range of a copy; of what is there, if the copy is shorter. Raises `OSError`."""
    forget(descriptor, offset, length)
    digest, buffer, end = xxhash.xxh3_128(), memoryview(bytearray(min(length, CHUNK_BYTES))), offset + length
    while offset < end:
        count = os.preadv(descriptor, [buffer[: end - offset]], offset)
        if not count:
            break
        digest.update(buffer[:count])
        offset += count
    return digest.hexdigest()


def _sampled(blocks: range) -> Iterable[int]:
    return sorted({blocks[0], blocks[-1], *random.sample(blocks, max(1, len(blocks) // SAMPLE))})


def _prove(target: Target, entry: FileEntry, number: int, folder: str) -> None:
    wanted = entry.blocks[number] if entry.blocks else entry.digest
    offset = number * BLOCK_BYTES
    length = min(BLOCK_BYTES, entry.size - offset)
    if _stored(target, offset, length) == wanted:
        return
    block = _read_again(entry, offset, length, folder, wanted)
    with writing(target.path):
        target.write(block, offset, [])
        target.finish(keep, whole=True)
        os.fsync(target.descriptor)
    found = _stored(target, offset, length)
    if found != wanted:
        raise DigestMismatch(
            f"{target.path}: the block at byte {offset} reads back as {found} instead of {wanted}, the digest of"
            " what was read and written",
            hint="storage does not keep what is written to it; check it, then release the scan",
        )


def _stored(target: Target, offset: int, length: int) -> str:
    with writing(target.path, "read back"):
        return digest_of(target.descriptor, offset, length)


def _read_again(entry: FileEntry, offset: int, length: int, folder: str, wanted: str) -> memoryview:
    block, digest = memoryview(bytearray(length)), xxhash.xxh3_128()
    with opened(folder, entry.path) as source:
        read_block(source, f"{folder}/{entry.path}", block, offset, FullSpeed(), digest)
    if digest.hexdigest() != wanted:
        raise SourceChanged(
            f"{folder}/{entry.path} changed while it was copied: its block at byte {offset} is another one",
            hint="it is judged and copied anew",
        )
    return block
