"""Copying files: read and digested in one thread, written in a second, made durable and read back in a third.

Memory is a few blocks; small files share one. To the disk goes early what was written, so that the closing fsync is
short; and files are closed by the batch, because a file system makes a hundred files durable in about the time it
takes for one. A file counts as copied, and is noted as such, only after that.
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
from srctd.adapters.sync.notes import NOTHING, Block, Known, Notes
from srctd.adapters.sync.options import CopyOptions
from srctd.adapters.sync.proof import digest_of, forget, read_back
from srctd.adapters.sync.source import (
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
SMALL_BYTES = 1 << 20
"""Files up to this size are handed over together: one by one that would take longer than to write them."""
SMALL_FILES = 32
"""So many at most."""


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
        self._ring: deque[memoryview] = deque()
        self._small: list[tuple[FileEntry, memoryview]] = []
        self._small_bytes = 0
        self._open: set[Target] = set()
        self._made: set[str] = set()
        self._batch: list[tuple[Target, FileEntry | None]] = []
        self._batch_files = 0
        self._batch_bytes = 0

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Make durable what was copied, also if something ends the copy: the next attempt goes on from there."""
        try:
            with suppress(SrctdError) if kind else nullcontext():
                self._hand_over_small()
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
        if wait := tick_left(file.mtime_ns):
            time.sleep(wait)
        path = self._source.path(file.path)
        check_unchanged(original, path, file)
        if file.size <= SMALL_BYTES and not known.blocks:
            return self._read_small(file, original, path)
        self._hand_over_small()  # their memory is wanted
        target = self._target(file, known)
        cloned = self._prepare(target, original)
        whole, digests, hole_bytes = xxhash.xxh3_128(), [], 0
        several = [whole] if file.size > BLOCK_BYTES else []  # else the block's digest is that of the file
        for index, (offset, length) in enumerate(block_lengths(file.size)):
            buffer = self._buffer()[:length]
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
        self._hand_over_small()
        target = self._target(seen, known)
        target.sparse = _is_sparse(now)
        for index in missing:
            buffer = self._buffer()
            digest = self._read(original, seen, index, buffer)
            self._put(
                target, index, digest, buffer, self._gaps(target, original, index * BLOCK_BYTES, buffer)
            )
        self._end(target, None)

    def _read_small(self, file: FileEntry, original: int, path: str) -> FileEntry:
        """Read a small file; it is written when there are enough of them."""
        if len(self._small) >= SMALL_FILES or self._small_bytes + file.size > BLOCK_BYTES:
            self._hand_over_small()
        buffer = self._buffer()[self._small_bytes : self._small_bytes + file.size]
        read_block(original, path, buffer, 0, self._options.pace)
        check_unchanged(original, path, file)
        digest = xxhash.xxh3_128_hexdigest(buffer)
        entry = FileEntry(
            path=file.path, size=file.size, mtime_ns=file.mtime_ns, stored=file.stored, digest=digest
        )
        self._make_parent(file)
        self._small.append((entry, buffer))
        self._small_bytes += file.size
        return entry

    def _hand_over_small(self) -> None:
        """Have the small files written that were read."""
        if not self._small:
            return
        self._writer.do(partial(self._write_small, self._small, self._batch))
        self._ring.rotate(-1)
        self._count(len(self._small), self._small_bytes)
        self._small, self._small_bytes = [], 0

    def _target(self, file: FileEntry, known: Known) -> Target:
        self._make_parent(file)
        return self._opened(file, known)

    def _make_parent(self, file: FileEntry) -> None:
        parent = file.copied_as.rpartition("/")[0]
        if parent not in self._made:
            make_inner_folder(self._folder, parent)
            self._made.add(parent)

    def _opened(self, file: FileEntry, known: Known) -> Target:
        path = f"{self._top}/{file.copied_as}"
        with writing(path):
            target = Target(path, file, known)
        self._open.add(target)
        return target

    def _prepare(self, target: Target, original: int) -> bool:
        """Make a file ready to be written; True if it needs not be, because it shares the blocks of its source."""
        size = target.file.size
        with reading(self._source.path(target.file.path)):
            target.sparse = _is_sparse(os.fstat(original))
        with writing(target.path):
            if not target.known.blocks and size > BLOCK_BYTES and kernel.clone(original, target.descriptor):
                return True
            if not target.sparse:
                kernel.allocate(target.descriptor, size)
        return False

    def _buffer(self) -> memoryview:
        """Memory for a block. It may be used again until it is given to the writer."""
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
        self._writer.do(partial(self._write, target, index, digest, buffer, gaps))
        self._ring.rotate(-1)

    def _holds(self, target: Target, index: int, known: Block, length: int) -> bool:
        if known.proven:
            return True
        with writing(target.path, "read back"):
            return digest_of(target.descriptor, index * BLOCK_BYTES, length) == known.digest

    def _end(self, target: Target, entry: FileEntry | None) -> None:
        """All of a file was given to be written. Without an `entry` it is not the whole file."""
        self._batch.append((target, entry))
        self._count(1, target.file.size)

    def _count(self, files: int, size: int) -> None:
        """So many more files of the batch were given to be written."""
        self._batch_files += files
        self._batch_bytes += size
        if self._batch_files >= BATCH_FILES or self._batch_bytes >= BATCH_BYTES:
            self._hand_over()

    def _hand_over(self) -> None:
        """Have what was written so far made durable, once it is written."""
        task = partial(self._settle, self._batch)
        self._writer.do(partial(self._settler.do, task))
        self._batch, self._batch_files, self._batch_bytes = [], 0, 0

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

    def _write_small(
        self, files: Sequence[tuple[FileEntry, memoryview]], batch: list[tuple[Target, FileEntry | None]]
    ) -> None:
        for entry, data in files:
            target = self._opened(entry, NOTHING)
            with writing(target.path):
                target.write(data, 0, [])
            batch.append((target, entry))
            if entry.size:
                self._notes.written(entry, 0, entry.digest, entry.size)

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
