"""The header of ESRF's EDF files.

`{ key = value ; ... }` padded to a multiple of 512 bytes, then the pixels; one file may hold several images, each
with a header of its own. Motors and counters stand as two lists, names and values, and are paired here. What the
header says is checked against the size of the file before anybody trusts it.
"""

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from srctd.core.errors import ScanUnreadable
from srctd.formats.files import opened
from srctd.formats.hdf5 import translated
from srctd.formats.planes import LARGEST_SIDE

LONGEST_HEADER = 1024**2
BLOCK = 512
MOST_IMAGES = 1_000_000
TYPES = {
    "signedbyte": "i1",
    "unsignedbyte": "u1",
    "signedshort": "i2",
    "unsignedshort": "u2",
    "signedinteger": "i4",
    "unsignedinteger": "u4",
    "signedlong": "i4",
    "unsignedlong": "u4",
    "signed64": "i8",
    "unsigned64": "u8",
    "float": "f4",
    "floatvalue": "f4",
    "real": "f4",
    "double": "f8",
    "doublevalue": "f8",
}
"""By the format's own names; a long has four bytes, whatever the machine."""
ORDERS = {"lowbytefirst": "<", "highbytefirst": ">"}
LISTS = {"motor": ("motor_mne", "motor_pos"), "counter": ("counter_mne", "counter_pos")}


class EdfHeader(NamedTuple):
    """What the header of one image says."""

    fields: dict[str, str]
    """Verbatim, and each motor and counter under `motor/<name>` and `counter/<name>`."""
    offset: int
    """Byte at which the pixels begin."""
    rows: int
    columns: int
    dtype: str
    """numpy's name with byte order: `<u2`."""

    @property
    def nbytes(self) -> int:
        """Bytes of the pixels."""
        return self.rows * self.columns * np.dtype(self.dtype).itemsize


def read_header(path: str, image: int = 0) -> EdfHeader:
    """The header of an image of the file, counted from 0; raises `ScanUnreadable`.

    The pixels need not be there: the file may still be written (`offset + nbytes` says how long it will be). The
    images before the one that is asked for must be.
    """
    if not 0 <= image < MOST_IMAGES:
        raise ScanUnreadable(f"{path} has no image {image}")
    found = 0
    for header in headers(path):
        if found == image:
            return header
        found += 1
    raise ScanUnreadable(f"{path} has {found} images, not {image + 1}")


def headers(path: str) -> Iterator[EdfHeader]:
    """The header of every image, up to the end of the file or the first image that is not whole."""
    position = 0
    with translated(path), opened(path) as number:
        size = os.fstat(number).st_size
        for _ in range(MOST_IMAGES):
            header = _parsed(path, _raw(path, number, position), position)
            yield header
            position = _end(header)
            if position >= size:
                return
    raise ScanUnreadable(f"{path} has more than {MOST_IMAGES:,} images")


def _end(header: EdfHeader) -> int:
    """Where the next header begins: `EDF_BinarySize` or `Size` may say that the pixels are padded."""
    announced = header.fields.get("EDF_BinarySize") or header.fields.get("Size") or ""
    nbytes = int(announced) if announced.isascii() and announced.isdigit() and len(announced) < 16 else 0
    return header.offset + max(header.nbytes, nbytes)


def _raw(path: str, descriptor: int, position: int) -> bytes:
    """A header with its braces and the line break behind them; short ones are read in one go."""
    wanted = 4096
    while True:
        raw = os.pread(descriptor, wanted, position)
        if not raw.lstrip().startswith(b"{"):
            raise ScanUnreadable(
                f"{path} has no EDF header at byte {position}",
                hint="the file is damaged or still being written",
            )
        if end := _header_end(raw):
            return raw[:end]
        if len(raw) < wanted or wanted == LONGEST_HEADER:
            raise ScanUnreadable(
                f"{path} has an EDF header that does not end within {len(raw):,} bytes",
                hint="the file is damaged or still being written",
            )
        wanted *= 2


def _header_end(raw: bytes) -> int:
    """Where the pixels begin: behind the brace that ends a block, or behind the first one where none does.

    A value may hold a brace at the end of a line, and some programs do not pad.
    """
    ends = [match.end() for match in re.finditer(rb"\}\r?\n", raw)]
    return next((end for end in ends if end % BLOCK == 0), ends[0] if ends else 0)


def _parsed(path: str, raw: bytes, position: int) -> EdfHeader:
    fields = _fields(raw.strip()[1:-1].decode("latin-1"))
    if fields.get("Dim_3", "1") != "1":
        raise ScanUnreadable(
            f"{path}: the EDF header has Dim_3 = {fields['Dim_3'][:40]!r}",
            hint="it should hold single images",
        )
    rows, columns = _side(path, fields, "Dim_2"), _side(path, fields, "Dim_1")
    return EdfHeader(fields, position + len(raw), rows, columns, _dtype(path, fields))


def _fields(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for statement in re.split(r";[ \t]*\r?\n|;[ \t]*\Z", text):
        key, equals, value = statement.partition("=")
        if equals and key.strip():
            found.setdefault(key.strip(), value.strip())
    for kind, (names, values) in LISTS.items():
        pairs = zip(found.get(names, "").split(), found.get(values, "").split(), strict=False)
        found.update((f"{kind}/{name}", value) for name, value in pairs)
    return found


def _side(path: str, fields: dict[str, str], name: str) -> int:
    text = fields.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 0 < int(text) <= LARGEST_SIDE):
        raise ScanUnreadable(
            f"{path}: the EDF header has {name} = {text[:40]!r}",
            hint=f"it should be a number of pixels up to {LARGEST_SIDE:,}",
        )
    return int(text)


def _dtype(path: str, fields: dict[str, str]) -> str:
    named, order = fields.get("DataType", ""), fields.get("ByteOrder", "")
    kind = TYPES.get(named.lower().replace(" ", ""))
    if kind is None:
        raise ScanUnreadable(f"{path}: the EDF header has the unknown DataType {named[:40]!r}")
    if fields.get("COMPRESSION", fields.get("Compression", "None")).lower() not in ("none", "no", ""):
        raise ScanUnreadable(f"{path}: the pixels are compressed", hint="write EDF files without compression")
    if kind[1] == "1":
        return f"|{kind}"
    if order.lower() not in ORDERS:
        raise ScanUnreadable(
            f"{path}: the EDF header has ByteOrder = {order[:40]!r}",
            hint="it should be LowByteFirst or HighByteFirst",
        )
    return ORDERS[order.lower()] + kind
