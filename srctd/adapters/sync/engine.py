"""Copying files: read and digested in one thread, written in a second, made durable and read back in a third.

Memory is a few blocks. To the disk goes early what was written, so that the closing fsync is short; and files are
closed by the batch, because a file system makes a hundred files durable in about the time it takes for one. A file
counts as copied, and is noted as such, only after that.
"""

import mmap
import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path

import msgspec
import xxhash

from srctd.adapters.sync import kernel
from srctd.adapters.sync.folders import make_inner_folder
from srctd.adapters.sync.lane import Lane
from srctd.adapters.sync.notes import Block, Known, Notes
from srctd.adapters.sync.options import CopyOptions
from srctd.adapters.sync.proof import digest_of, forget, read_back
from srctd.adapters.sync.source import (
    CHUNK_BYTES,
    Source,
    block_lengths,
    check_unchanged,
    holes,
    read_block,
    tick_left,
    will_need,
    with_digests,
)
from srctd.adapters.sync.target import Target
from srctd.adapters.sync.trouble import reading, writing
from srctd.core.errors import SourceChanged, SrctdError
from srctd.core.scan import BLOCK_BYTES, FileEntry

WAITING = 2
"""Blocks that wait to be written."""
WRITE_BACK_BLOCKS = 16
"""So many go to the disk at once, ahead of the fsync: each by itself costs a tenth of the time, all at the end the
whole of what memory takes before the kernel begins by itself."""
BATCH_FILES = 128
BATCH_BYTES = 32 * BLOCK_BYTES
"""So much is made durable at once. A batch is filled while another waits and a third is made durable, so that three
times as many files are open at most."""


class Engine:
    """Copies files of one scan into the folder of its copy."""

    def __init__(self, source: Source, folder: Path, notes: Notes, options: CopyOptions) -> None:
        self._source = source
        self._folder = folder
        self._top = str(folder)
        self._notes = notes
        self._options = options
        self._writer = Lane("copy-write", WAITING)
        self._settler = Lane("copy-settle", 1)
        self._small = memoryview(mmap.mmap(-1, CHUNK_BYTES))
        self._ring: deque[memoryview] = deque()
        self._open: set[Target] = set()
        self._made: set[str] = set()
        self._batch: list[tuple[Target, FileEntry | None]] = []
        self._batch_bytes = 0

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Make durable what was copied, also if something ends the copy: the next attempt goes on from there."""
        try:
            with suppress(SrctdError) if kind else nullcontext():
                self._hand_over()
                self._writer.drain()
                self._settler.drain()
        finally:
            self._writer.close()
            self._settler.close()
            for target in self._open:
                target.close()

    # --- in the reading thread ----------------------------------------------------------------------------

    def whole(self, file: FileEntry, original: int, known: Known) -> FileEntry:
        """Copy a file that is not written any more; return it with its digests.

        Blocks that the copy holds stay. Where the source has not changed since they were read of it, it is not
        read again: the copy is. Raises as `sync.copy` does.
        """
        path = self._source.path(file.path)
        time.sleep(tick_left(file.mtime_ns))
        check_unchanged(original, path, file)
        target = self._target(file, known)
        cloned = self._prepare(target, original)
        whole, digests, hole_bytes = xxhash.xxh3_128(), [], 0
        several = [whole] if file.size > BLOCK_BYTES else []  # else the block's digest is that of the file
        for index, (offset, length) in enumerate(block_lengths(file.size)):
            buffer = self._buffer(file.size)[:length]
            kept = self._kept(target, index, buffer)
            if kept:
                whole.update(buffer)
            digest = kept or self._read(
                target.descriptor if cloned else original, file, index, buffer, *several
            )
            gaps = self._gaps(target, original, offset, buffer)
            hole_bytes += sum(end - begin for begin, end in gaps)
            if not kept and not cloned:
                self._put(target, index, digest, buffer, gaps)
            digests.append(digest)
        check_unchanged(original, path, file)
        entry = with_digests(file, whole, digests, hole_bytes)
        self._end(target, entry)
        return entry

    def settled(self, file: FileEntry, upto: int, original: int, known: Known) -> None:
        """Copy those whole blocks of a growing file, up to a byte, that the copy does not hold yet."""
        path = self._source.path(file.path)
        with reading(path):
            now = os.fstat(original)
        if now.st_size < upto:
            raise SourceChanged(f"{path} became shorter than {upto} bytes while it was copied")
        missing = [index for index in range(upto // BLOCK_BYTES) if index not in known.blocks]
        if not missing:
            return
        then = 0 if tick_left(now.st_mtime_ns) else now.st_mtime_ns  # 0: it is no proof that nothing changes
        seen = msgspec.structs.replace(file, size=now.st_size, mtime_ns=then)
        target = self._target(seen, known)
        target.sparse = _is_sparse(now)
        for index in missing:
            buffer = self._buffer(now.st_size)[:BLOCK_BYTES]
            digest = self._read(original, seen, index, buffer)
            self._put(
                target, index, digest, buffer, self._gaps(target, original, index * BLOCK_BYTES, buffer)
            )
        self._end(target, None)

    def _target(self, file: FileEntry, known: Known) -> Target:
        path = f"{self._top}/{file.copied_as}"
        parent = file.copied_as.rpartition("/")[0]
        if parent not in self._made:
            make_inner_folder(self._folder, parent)
            self._made.add(parent)
        with writing(path):
            target = Target(path, file, known)
        self._open.add(target)
        return target

    def _prepare(self, target: Target, original: int) -> bool:
        """Make a file ready to be written; True if it needs not be, because it shares the blocks of its source."""
        size = target.file.size
        if size <= CHUNK_BYTES:
            return False
        with reading(self._source.path(target.file.path)):
            target.sparse = _is_sparse(os.fstat(original))
        with writing(target.path):
            if not target.known.blocks and size > BLOCK_BYTES and kernel.clone(original, target.descriptor):
                return True
            if not target.sparse:
                kernel.allocate(target.descriptor, size)
        return False

    def _buffer(self, size: int) -> memoryview:
        """Memory for a block of a file. It may be used again until it is given to the writer."""
        if size <= CHUNK_BYTES:
            return self._small
        if not self._ring:  # one is filled and one written, besides
            self._ring.extend(memoryview(mmap.mmap(-1, BLOCK_BYTES)) for _ in range(WAITING + 2))
        return self._ring[0]

    def _kept(self, target: Target, index: int, buffer: memoryview) -> str | None:
        """The digest of a block that the copy holds, read from there, if the source still has the same."""
        known = target.known.blocks.get(index)
        if known is None or not known.read_of(target.file):
            return None
        self._options.pace.take(0)
        with writing(target.path, "read back"):
            forget(target.descriptor, index * BLOCK_BYTES, len(buffer))
            filled = os.preadv(target.descriptor, [buffer], index * BLOCK_BYTES)
        found = xxhash.xxh3_128_hexdigest(buffer)
        return found if filled == len(buffer) and found == known.digest else None

    def _read(
        self, descriptor: int, file: FileEntry, index: int, buffer: memoryview, *digests: xxhash.xxh3_128
    ) -> str:
        """The digest of a block that is read from the source."""
        offset = index * BLOCK_BYTES
        following = offset + len(buffer)
        will_need(descriptor, following, min(BLOCK_BYTES, file.size - following))
        digest = xxhash.xxh3_128()
        path = self._source.path(file.path)
        read_block(descriptor, path, buffer, offset, self._options.pace, digest, *digests)
        return digest.hexdigest()

    def _gaps(self, target: Target, original: int, offset: int, buffer: memoryview) -> list[tuple[int, int]]:
        """The holes of a block: what the source's file system says was never written, and reads as zeros."""
        if not target.sparse:
            return []
        with reading(self._source.path(target.file.path)):
            found = holes(original, offset, len(buffer))
        return [(begin, end) for begin, end in found if bytes(buffer[begin:end]) == bytes(end - begin)]

    def _put(
        self, target: Target, index: int, digest: str, buffer: memoryview, gaps: list[tuple[int, int]]
    ) -> None:
        """Have a block written, unless the copy holds it."""
        before = target.known.blocks.get(index)
        if before is not None and before.digest == digest and self._holds(target, index, before, len(buffer)):
            self._notes.written(target.file, index, digest, 0)
            return
        task = partial(self._write, target, index, digest, buffer, gaps)
        if target.file.size <= CHUNK_BYTES:  # handing it over would take longer than writing it
            task()
        else:
            self._writer.do(task)
            self._ring.rotate(-1)

    def _holds(self, target: Target, index: int, known: Block, length: int) -> bool:
        if known.proven:
            return True
        with writing(target.path, "read back"):
            return digest_of(target.descriptor, index * BLOCK_BYTES, length) == known.digest

    def _end(self, target: Target, entry: FileEntry | None) -> None:
        """All of a file was given to be written. Without an `entry` it is not the whole file."""
        self._batch.append((target, entry))
        self._batch_bytes += target.file.size
        if len(self._batch) >= BATCH_FILES or self._batch_bytes >= BATCH_BYTES:
            self._hand_over()

    def _hand_over(self) -> None:
        """Have what was written so far made durable, once it is written."""
        task = partial(self._settle, self._batch)
        self._writer.do(partial(self._settler.do, task))
        self._batch, self._batch_bytes = [], 0

    # --- in the writing thread ----------------------------------------------------------------------------

    def _write(
        self, target: Target, index: int, digest: str, data: memoryview, gaps: list[tuple[int, int]]
    ) -> None:
        if index in target.known.blocks:
            self._notes.overwritten(target.file, index)
        with writing(target.path):
            target.write(data, index * BLOCK_BYTES, gaps)
            if index % WRITE_BACK_BLOCKS == WRITE_BACK_BLOCKS - 1:
                first = index + 1 - WRITE_BACK_BLOCKS
                kernel.start_writing_back(
                    target.descriptor, first * BLOCK_BYTES, WRITE_BACK_BLOCKS * BLOCK_BYTES
                )
        self._notes.written(target.file, index, digest, len(data))

    # --- in the settling thread ---------------------------------------------------------------------------

    def _settle(self, batch: Sequence[tuple[Target, FileEntry | None]]) -> None:
        for target, _ in batch:
            kernel.start_writing_back(target.descriptor, 0, 0)
        for target, entry in batch:
            with writing(target.path):
                target.finish(self._options.give, whole=entry is not None)
        for target, _ in batch:  # not one by one: every change of an inode would wait for the journal again
            with writing(target.path):
                os.fsync(target.descriptor)
        finished = [(target, entry) for target, entry in batch if entry is not None]
        read_back(finished, self._source.folder, self._options)
        self._notes.finished([entry for _, entry in finished])
        for target, entry in batch:
            if entry is None:
                self._notes.durable(target.file)
            target.close()
            self._open.discard(target)


def _is_sparse(stat: os.stat_result) -> bool:
    return stat.st_blocks * 512 < stat.st_size
