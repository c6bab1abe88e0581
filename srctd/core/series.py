"""What names say of a scan's place among others: members of a series, tiles of a mosaic, heights of a stack."""

import posixpath
import re
from collections.abc import Iterable, Mapping

from srctd.core.scan import Quantity, Series

_NUMBERED = re.compile(r"(?P<stem>.*?)[_-]?(?P<number>\d{1,6})", re.DOTALL)
_AXES: Mapping[str, str] = {
    "z": "height",
    "h": "height",
    "y": "row",
    "row": "row",
    "x": "column",
    "col": "column",
}
_PLACE = re.compile(r"(?:^|[_-])(z|h|y|row|x|col)[_-]?(\d{1,4})(?=$|[_-])", re.IGNORECASE)


def series_of(path: str, neighbors: Iterable[str]) -> Series | None:
    """The series that a scan is in, if a neighbor bears the same name with another number; None otherwise.

    `neighbors`: paths of scans in the same folder. Members count from the smallest number.
    """
    own = _numbered(path)
    if own is None:
        return None
    stem, number, suffix = own
    folder = posixpath.dirname(path)
    numbers = {number}
    for neighbor in neighbors:
        other = _numbered(neighbor)
        if (
            other is not None
            and posixpath.dirname(neighbor) == folder
            and (other[0], other[2]) == (stem, suffix)
        ):
            numbers.add(other[1])
    if len(numbers) < 2:
        return None
    origin = f"names like {posixpath.basename(path)}"
    name = posixpath.join(posixpath.basename(folder), stem)  # the same wherever the folder is moved to
    return Series(name=name, member=number - min(numbers), origin=origin)


def family(name: str) -> str:
    """A name without the number at its end, which scans of a series have in common."""
    own = _numbered(name)
    return own[0] if own else name


def _numbered(path: str) -> tuple[str, int, str] | None:
    """(stem, number, suffix) of a name that ends in a number."""
    name, suffix = posixpath.splitext(posixpath.basename(path))
    found = _NUMBERED.fullmatch(name)
    return (found["stem"], int(found["number"]), suffix) if found and found["stem"] else None


def positions_of(path: str) -> dict[str, Quantity]:
    """`row`, `column` and `height` in a mosaic or stack, as the name gives them: `sample_x02_y01`, `core_z03`."""
    name = posixpath.splitext(posixpath.basename(path))[0]
    return {
        _AXES[axis.lower()]: Quantity(value=float(number), unit="", origin=f"name {name}")
        for axis, number in _PLACE.findall(name)
    }
