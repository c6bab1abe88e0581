"""A TIFF writer for frames: one strip to a page, nothing compressed, and little else to do for each file.

After the TIFF 6.0 specification (Adobe, 1992) and the BigTIFF extension of libtiff. A page is its directory
followed by its pixels. Twenty thousand small files a second: all but the pixels is made once per shape of frame.
"""

import struct
from functools import lru_cache
from types import TracebackType
from typing import IO, Literal, Self

import numpy as np
from numpy.typing import NDArray

ByteOrder = Literal["little", "big"]
Pixels = NDArray[np.generic]

_SHORT, _LONG, _LONG8 = 3, 4, 16
_SAMPLE_FORMATS = {"u": 1, "i": 2, "f": 3}


def encode(frame: Pixels, byte_order: ByteOrder = "little", bigtiff: bool = False) -> bytes:
    """A file of one page, shape (rows, columns)."""
    pixels = _in_order(frame, byte_order)
    return _before_pixels(frame.shape, pixels.dtype.str, byte_order, bigtiff) + pixels.tobytes()


class TiffPages:
    """A file that grows by one page at a time; between two pages it is valid."""

    def __init__(self, path: str, byte_order: ByteOrder = "little", bigtiff: bool = False) -> None:
        self._byte_order, self._bigtiff = byte_order, bigtiff
        self._file: IO[bytes] = open(path, "wb")  # noqa: SIM115 (closed by `close`)
        head = _file_header(byte_order, bigtiff, first=0)
        self._file.write(head)
        self._pointer_size = 8 if bigtiff else 4
        self._pointer = len(head) - self._pointer_size
        """Where the place of the next directory is to be written."""
        self._end = len(head)

    def append(self, frame: Pixels) -> None:
        """Write one more page, shape (rows, columns), and point to it."""
        pixels = _in_order(frame, self._byte_order)
        directory = _directory(frame.shape, pixels.dtype.str, self._end, self._byte_order, self._bigtiff)
        data = pixels.tobytes()
        begin, self._end = self._end, self._end + len(directory) + len(data) + len(data) % 2
        self._file.seek(begin)
        self._file.write(directory + data + b"\0" * (len(data) % 2))  # a directory begins at an even byte
        self._file.seek(self._pointer)
        self._file.write(begin.to_bytes(self._pointer_size, self._byte_order))
        self._file.flush()
        self._pointer = begin + len(directory) - self._pointer_size

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        """Return the file itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()


def _in_order(frame: Pixels, byte_order: ByteOrder) -> Pixels:
    return frame.astype(frame.dtype.newbyteorder("<" if byte_order == "little" else ">"), copy=False)


@lru_cache(maxsize=64)
def _before_pixels(shape: tuple[int, ...], dtype: str, byte_order: ByteOrder, bigtiff: bool) -> bytes:
    """Everything before the pixels in a file of one page."""
    first = 16 if bigtiff else 8
    head = _file_header(byte_order, bigtiff, first)
    return head + _directory(shape, dtype, first, byte_order, bigtiff)


def _file_header(byte_order: ByteOrder, bigtiff: bool, first: int) -> bytes:
    """The file's first bytes; `first` is where the first directory begins, 0 if there is none yet."""
    mark, sign = (b"II", "<") if byte_order == "little" else (b"MM", ">")
    return mark + (
        struct.pack(sign + "HHHQ", 43, 8, 0, first) if bigtiff else struct.pack(sign + "HI", 42, first)
    )


def _directory(shape: tuple[int, ...], dtype: str, begin: int, byte_order: ByteOrder, bigtiff: bool) -> bytes:
    """The directory, to be put at byte `begin`, of a page whose pixels follow it; no further page."""
    rows, columns = shape
    pixel = np.dtype(dtype)
    sign = "<" if byte_order == "little" else ">"
    wide = _LONG8 if bigtiff else _LONG
    entry, number = ("HHQ8s", "Q") if bigtiff else ("HHI4s", "I")
    fields = {
        256: (_LONG, columns),
        257: (_LONG, rows),
        258: (_SHORT, pixel.itemsize * 8),
        259: (_SHORT, 1),  # not compressed
        262: (_SHORT, 1),  # 0 is black
        273: (wide, 0),  # where the pixels begin: known below
        277: (_SHORT, 1),  # samples in a pixel
        278: (_LONG, rows),  # in a strip
        279: (wide, rows * columns * pixel.itemsize),
        339: (_SHORT, _SAMPLE_FORMATS[pixel.kind]),
    }
    counter = "Q" if bigtiff else "H"
    size = (
        struct.calcsize(sign + counter)
        + len(fields) * struct.calcsize(sign + entry)
        + struct.calcsize(number)
    )
    fields[273] = (wide, begin + size)
    codes = {_SHORT: "H", _LONG: "I", _LONG8: "Q"}
    entries = [
        struct.pack(sign + entry, tag, kind, 1, struct.pack(sign + codes[kind], value))
        for tag, (kind, value) in fields.items()
    ]
    return struct.pack(sign + counter, len(fields)) + b"".join(entries) + struct.pack(sign + number, 0)
