"""A file of a copy while it is written."""

import errno
import os
import shutil
import stat

from srctd.adapters.sync import kernel
from srctd.adapters.sync.notes import Known
from srctd.adapters.sync.options import Give
from srctd.core.permissions import NEW_FILE
from srctd.core.scan import FileEntry

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Target:
    """One file of a copy, open. All of it raises `OSError`."""

    def __init__(self, path: str, file: FileEntry, known: Known) -> None:
        """`known`: what is known of an earlier one of that name; without blocks it begins anew."""
        self.path = path
        self.file = file
        self.known = known
        self.sparse = False
        """Holes of the source are left as holes."""
        flags = _FLAGS if known.blocks else _FLAGS | os.O_TRUNC
        try:
            self.descriptor = os.open(path, flags, NEW_FILE)
        except IsADirectoryError:  # the source had a folder of that name before
            shutil.rmtree(path)
            self.descriptor = os.open(path, flags, NEW_FILE)
        now = os.fstat(self.descriptor)
        if not stat.S_ISREG(now.st_mode):
            self.close()
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO), path)
        self._filled = now.st_size
        """Beyond this nothing was ever written."""

    def write(self, data: memoryview, offset: int, holes: list[tuple[int, int]]) -> None:
        """Write a block, but for `holes` in it, which are zeros."""
        position = 0
        for begin, end in [*holes, (len(data), len(data))]:
            self._write_all(data[position:begin], offset + position)
            if end > begin and not self._leave_hole(offset + begin, end - begin):
                self._write_all(data[begin:end], offset + begin)
            position = end
        self._filled = max(self._filled, offset + len(data))

    def finish(self, give: Give, *, whole: bool) -> None:
        """Give it the source's time, hand it over, and if all of it was written cut it to its size; no fsync."""
        if whole and os.fstat(self.descriptor).st_size != self.file.size:
            os.ftruncate(self.descriptor, self.file.size)
        os.utime(self.descriptor, ns=(self.file.mtime_ns, self.file.mtime_ns))
        give(self.descriptor)

    def close(self) -> None:
        """May be called again."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _write_all(self, data: memoryview, offset: int) -> None:
        while data:
            count = os.pwrite(self.descriptor, data, offset)
            data, offset = data[count:], offset + count

    def _leave_hole(self, offset: int, count: int) -> bool:
        """Whether a range reads as zeros without being written."""
        return offset >= self._filled or kernel.punch_hole(self.descriptor, offset, count)
