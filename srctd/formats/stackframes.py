"""The frames of a stack: which file and page each is, what is cut short or blank, what is missing between them.

Of up to 100,000 files of a scan few are opened: files of the same size have the same header, which a sample
verifies, and whether the end of a frame was written is read from its last bytes.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from srctd.core.errors import ScanUnreadable
from srctd.core.roles import Named
from srctd.formats import edf, pco, tiff
from srctd.formats.hdf5 import translated
from srctd.formats.planes import CutShort, Plane, Rows, read_bytes, read_piece
from srctd.formats.stackfiles import StackFile

SAMPLED_HEADERS = 32
"""Files of the usual size whose header is read all the same; three, where a file has many pages."""
MANY_PAGES = 64
MOST_HEADERS = 2_000
"""Headers read in a look of files of other sizes, or of compressed ones."""
SAMPLED_TAILS = 2_000
TAIL_BYTES = 4096

Item = TypeVar("Item")
Pages = tuple[Plane, ...]


class Frame(NamedTuple):
    """A frame of a stack."""

    number: int
    """In its role, as the names count, from 0."""
    file: int
    """Index in the list of files."""
    page: int


class Headers(NamedTuple):
    """What the headers of some files say."""

    pages: list[Pages]
    """By file; none of one that is cut short or wrong."""
    cut: dict[int, str]
    """Files that end too early, with the sentence."""
    wrong: dict[int, ScanUnreadable]
    """Files that are no frames, which waiting does not heal."""
    read: int
    """How many were opened."""


def planes(path: str) -> Pages:
    """The frames in a file, by its suffix; raises `CutShort` or `ScanUnreadable`."""
    return _edf_planes(path) if path.lower().endswith(".edf") else tiff.planes(path)


def _edf_planes(path: str) -> Pages:
    size = os.stat(path).st_size
    heads = (read_bytes(path, 0, min(size, length)) for length in (8 * edf.BLOCK, edf.LONGEST_HEADER))
    if not any(b"}" in head for head in heads):
        raise CutShort(f"{path} has {size} bytes and no whole header yet", hint="wait for the writer")
    found = tuple(
        Plane(header.rows, header.columns, header.dtype, header.offset, header.offset + header.nbytes)
        for header in edf.headers(path)
    )
    if found[-1].end > size:
        raise CutShort(
            f"{path} ends at byte {size}, its header promises pixels up to {found[-1].end}",
            hint="wait for the writer, or copy it again",
        )
    return found


def rows_of(path: str, pages: Pages, page: int, first: int, end: int) -> Rows:
    """Rows of one frame, shape (end - first, columns), in native byte order."""
    if pages[page].offset is not None:
        return read_piece(path, pages[page], first, end)
    return next(tiff.pages_rows(path, pages, range(page, page + 1), first, end))


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of some items, evenly chosen; the first and the last are among them."""
    if len(items) <= most:
        return list(items)
    return [items[i * (len(items) - 1) // (most - 1)] for i in range(most)]


def read_headers(folder: str, files: Sequence[StackFile], *, thorough: bool) -> Headers:
    """Frames in every file of one role.

    Files of the most common size are taken to be alike, and a sample of them is verified; the others are opened.
    Where pixels are compressed sizes say nothing, so all files are opened if `thorough`, and else a sample.
    """
    answers: dict[int, Pages | ScanUnreadable] = {}

    def read(wanted: Iterable[int]) -> None:
        for i in wanted:
            if i not in answers:
                answers[i] = _answer(os.path.join(folder, files[i].name))

    usual_size = Counter(file.size for file in files).most_common(1)[0][0]
    usual = [i for i, file in enumerate(files) if file.size == usual_size]
    others = [i for i, file in enumerate(files) if file.size != usual_size]
    read(usual[:1])
    first = answers[usual[0]]
    many = isinstance(first, tuple) and len(first) > MANY_PAGES
    read(spread(usual, 3 if many else SAMPLED_HEADERS))
    read(others if thorough else spread(others, MOST_HEADERS))
    good = [answer for i in (*usual, *others) if isinstance(answer := answers.get(i), tuple)]
    model = good[0] if good else ()
    alike = all(answers[i] == model for i in usual if isinstance(answers.get(i), tuple))
    if not alike or any(plane.offset is None for plane in model):
        read(range(len(files)) if thorough else spread(range(len(files)), MOST_HEADERS))
    return _gathered(files, answers, model)


def _answer(path: str) -> Pages | ScanUnreadable:
    try:
        with translated(path):
            if not os.path.exists(path):
                raise CutShort(f"{path} is gone since the folder was listed", hint="wait for the writer")
            return planes(path)
    except ScanUnreadable as exc:
        return exc


def _gathered(
    files: Sequence[StackFile], answers: dict[int, Pages | ScanUnreadable], model: Pages
) -> Headers:
    """Every file with its own header, or that of its fellows."""
    found = Headers([], {}, {}, len(answers))
    for i, file in enumerate(files):
        answer = answers.get(i, model)
        if isinstance(answer, CutShort):
            found.cut[i] = str(answer)
        elif isinstance(answer, ScanUnreadable):
            found.wrong[i] = answer
        elif i not in answers and model and model[0].offset is not None and file.size < model[-1].end:
            found.cut[i] = f"{file.name} has {file.size} bytes, its frames need {model[-1].end}"
        found.pages.append(answer if isinstance(answer, tuple) and i not in found.cut else ())
    return found


def frames_of(files: Sequence[Named], pages: Sequence[Pages], first: int) -> list[Frame]:
    """The frames in the files of a role, in the order of their numbers; those that are cut short have none.

    Where files hold several frames, all but the last one hold as many: a file that is missing is a gap of as many.
    """
    each = max((len(own) for own in pages), default=1) or 1
    return [
        Frame((file.number - first) * each + page, i, page)
        for i, (file, own) in enumerate(zip(files, pages, strict=True))
        for page in range(len(own))
    ]


# --- what the pixels show --------------------------------------------------------------------------------


def unwritten_tail(path: str, plane: Plane) -> bool:
    """Whether the last bytes of a frame are all zero: the file got its size before its content.

    A quarter of the frame at most is looked at; of pixels that must be decoded nothing is known.
    """
    if plane.offset is None:
        return False
    length = max(1, min(TAIL_BYTES, (plane.end - plane.offset) // 4))
    try:
        return not any(read_bytes(path, plane.end - length, length))
    except CutShort:
        return True


def constant(path: str, pages: Pages, page: int) -> bool:
    """Whether every pixel of a frame has the same value; one row is read first."""
    plane = pages[page]
    row = rows_of(path, pages, page, plane.rows // 2, plane.rows // 2 + 1)
    if np.any(row != row.flat[0]):
        return False
    whole = rows_of(path, pages, page, 0, plane.rows)
    return not np.any(whole != row.flat[0])


class Jump(NamedTuple):
    """Frames that the camera took and that are nowhere."""

    after: int
    """Number of the last frame before them."""
    frames: int


class Counters(NamedTuple):
    """What a camera's own counter shows."""

    jumps: tuple[Jump, ...] = ()
    check: str = ""
    """What was found good."""


def camera_counters(
    folder: str,
    files: Sequence[Named],
    pages: Sequence[Pages],
    frames: Sequence[Frame],
    breaks: frozenset[int],
) -> Counters:
    """Frames that are missing though the numbers of the files run on.

    Counters are compared within runs of numbers without a gap. `breaks`: numbers before which frames of another
    kind were taken, which count too.
    """

    def counter(frame: Frame) -> int | None:
        path = os.path.join(folder, files[frame.file].name)
        return pco.counter(_first_pixels(path, pages[frame.file], frame.page))

    def counters(run: Sequence[Frame]) -> Callable[[int], int | None]:
        return lambda i: counter(run[i])

    if not frames or counter(frames[0]) is None:
        return Counters()
    jumps: list[Jump] = []
    seen: list[int] = []
    for run in _runs(frames, breaks):
        dropped = pco.dropped(counters(run), len(run))
        if dropped is None:
            continue
        seen += [counter(run[0]) or 0, counter(run[-1]) or 0]
        jumps += [Jump(run[position].number, lost) for position, lost in dropped]
    check = f"PCO counters {min(seen)} to {max(seen)} without a gap" if seen and not jumps else ""
    return Counters(tuple(jumps), check)


def _first_pixels(path: str, pages: Pages, page: int) -> NDArray[np.generic]:
    plane = pages[page]
    dtype = np.dtype(plane.dtype)
    if plane.offset is None:
        return rows_of(path, pages, page, 0, 1)[0, : pco.STAMP_PIXELS]
    length = min(plane.columns, pco.STAMP_PIXELS) * dtype.itemsize
    return np.frombuffer(read_bytes(path, plane.offset, length), dtype)


def _runs(frames: Sequence[Frame], breaks: frozenset[int]) -> list[list[Frame]]:
    runs: list[list[Frame]] = []
    for frame in frames:
        if not runs or frame.number != runs[-1][-1].number + 1 or frame.number in breaks:
            runs.append([])
        runs[-1].append(frame)
    return runs


def shifted(frames: Sequence[Frame], jumps: Sequence[Jump]) -> list[Frame]:
    """Frames under the numbers that they were triggered with: those after a jump count on from it."""
    moved, lost, waiting = [], 0, sorted(jumps)
    for frame in frames:
        while waiting and frame.number > waiting[0].after:
            lost += waiting.pop(0).frames
        moved.append(frame._replace(number=frame.number + lost))
    return moved
