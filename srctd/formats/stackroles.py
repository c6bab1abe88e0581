"""What the files of a stack are: every frame with its kind and number, and those that are of no use."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from srctd.core.errors import ScanUnreadable
from srctd.core.roles import (
    Choice,
    Context,
    FrameKind,
    Layout,
    Named,
    Role,
    assign,
    choose,
    counter_runs,
    first_number,
    places,
)
from srctd.formats.planes import MOST_FRAMES, Plane
from srctd.formats.stackfiles import Listing, StackFile
from srctd.formats.stackframes import (
    SAMPLED_TAILS,
    Counters,
    Frame,
    Pages,
    camera_counters,
    constant,
    frames_of,
    read_headers,
    shifted,
    spread,
    unwritten_tail,
)

KINDS: tuple[FrameKind, ...] = ("projections", "flats", "darks")


@dataclass(frozen=True, slots=True)
class Seen:
    """A frame that is there."""

    number: int
    """Among its kind, from 0."""
    name: str
    pages: Pages
    page: int

    @property
    def plane(self) -> Plane:
        """Its pixels."""
        return self.pages[self.page]


@dataclass
class Survey:
    """What was found of the frames."""

    choice: Choice | None = None
    frames: dict[FrameKind, list[Seen]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    """Those that are whole, by number."""
    damaged: dict[FrameKind, set[int]] = field(default_factory=lambda: {kind: set() for kind in KINDS})
    """Numbers of those that are there, but cut short or blank."""
    cut: list[str] = field(default_factory=list)
    """Files that are cut short, one sentence each."""
    blank: list[str] = field(default_factory=list)
    """Frames that were not written, one sentence each."""
    wrong: list[ScanUnreadable] = field(default_factory=list)
    """What no waiting heals."""
    beyond: int = 0
    """Frames after those that were announced, which are not used."""
    lost: int = 0
    """Frames that the camera's counter proves to be nowhere."""
    notes: list[str] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)

    @property
    def found(self) -> int:
        """Frames of all kinds that are whole."""
        return sum(map(len, self.frames.values()))


class _Surveyor:
    """Makes a survey, one step after the other."""

    def __init__(self, listing: Listing, counts: Mapping[str, int], thorough: bool) -> None:
        self._listing, self._counts, self._thorough = listing, counts, thorough
        self._sizes = {file.name: file.size for file in listing.frames}
        self.result = Survey()

    def survey(self, layouts: Sequence[Layout], context: Context) -> Survey:
        """All steps."""
        names = list(self._sizes)
        choice = self.result.choice = choose(layouts, names, context)
        if choice is None:
            return self.result
        self.result.checks.append(choice.why)
        by_role: dict[Role, list[Named]] = defaultdict(list)
        for file in assign(choice.layout, names, context):
            by_role[file.role].append(file)
        taken = frozenset(file.at for file in by_role.get("flats", ()) if file.at is not None)
        for role, files in by_role.items():
            self._add_role(choice.layout, role, files, taken)
        return self.examine()

    def examine(self) -> Survey:
        """The last steps: what the frames themselves show."""
        for kind in KINDS:
            self.result.frames[kind].sort(key=lambda seen: seen.number)
        self._check_shapes()
        self._check_tails()
        self._check_blank()
        return self.result

    # --- roles -------------------------------------------------------------------------------------------

    def _add_role(self, layout: Layout, role: Role, files: list[Named], taken: frozenset[int]) -> None:
        headers = read_headers(
            self._listing.folder,
            [StackFile(file.name, self._sizes[file.name]) for file in files],
            thorough=self._thorough,
        )
        self.result.cut += headers.cut.values()
        self.result.wrong += headers.wrong.values()
        self.result.checks.append(_files_text(role, [self._sizes[file.name] for file in files], headers.read))
        each = max((len(pages) for pages in headers.pages), default=1) or 1
        if role in ("flats", "darks"):
            self._add_unnumbered(role, files, headers.pages)
            return
        first = self._first(layout, role, files, each)
        self._refuse_twins(files)
        frames = frames_of(files, headers.pages, first)
        damaged = {(files[i].number - first) * each + k for i in headers.cut for k in range(each)}
        kinds = self._kinds(layout, role)
        counters = self._counters(role, files, headers.pages, frames, taken)
        if counters.jumps:
            frames, damaged = self._without_lost(frames, counters, damaged, len(kinds) if kinds else None)
        for frame in frames:
            placed = self._placed(layout, kinds, frame.number)
            if placed is None:
                self.result.beyond += 1
                continue
            kind, number = placed
            pages = headers.pages[frame.file]
            self.result.frames[kind].append(Seen(number, files[frame.file].name, pages, frame.page))
        for place in damaged:
            if (placed := self._placed(layout, kinds, place)) is not None:
                self.result.damaged[placed[0]].add(placed[1])

    def _add_unnumbered(self, kind: FrameKind, files: list[Named], pages: list[Pages]) -> None:
        """Flat and dark fields: of those that were taken in several sets the numbers repeat."""
        found = self.result.frames[kind]
        for file, own in zip(files, pages, strict=True):
            found += [Seen(len(found) + page, file.name, own, page) for page in range(len(own))]

    def _first(self, layout: Layout, role: Role, files: list[Named], each: int) -> int:
        total = self._counts.get("n_projections")
        if role == "counter":
            total = sum(run.frames for run in counter_runs(layout.order, self._counts))
        given = self._counts.get("first_index")
        first = first_number(files, None if total is None else -(-total // each)) if given is None else given
        if first is None and role == "counter":
            self.result.wrong.append(
                ScanUnreadable(
                    f"{self._listing.folder}: the first file is {files[0].name}, and nothing tells with which "
                    "number the frames begin, so what each one is cannot be told",
                    hint="give first_index in the parameter file",
                )
            )
        elif first is None:
            self.result.notes.append(f"the first projection is taken to be {files[0].name}")
        lowest = files[0].number
        return lowest if first is None else min(first, lowest)

    def _refuse_twins(self, files: list[Named]) -> None:
        for before, after in pairwise(files):
            if before.number == after.number:
                self.result.wrong.append(
                    ScanUnreadable(
                        f"{self._listing.folder}: {before.name} and {after.name} have the same number",
                        hint="write every scan into a folder of its own",
                    )
                )
                return

    def _kinds(self, layout: Layout, role: Role) -> list[tuple[FrameKind, int]]:
        """What the frames of a counter are; empty where all are projections."""
        return places(counter_runs(layout.order, self._counts)) if role == "counter" else []

    def _placed(
        self, layout: Layout, kinds: list[tuple[FrameKind, int]], number: int
    ) -> tuple[FrameKind, int] | None:
        """Kind of a frame and its number among its kind; None of one that is not used."""
        if number < len(kinds):
            return kinds[number]
        if kinds:
            return ("flats", number) if layout.beyond == "flats" else None
        return ("projections", number) if number < self._counts.get("n_projections", MOST_FRAMES) else None

    # --- the camera's counter ----------------------------------------------------------------------------

    def _counters(
        self, role: Role, files: list[Named], pages: list[Pages], frames: list[Frame], taken: frozenset[int]
    ) -> Counters:
        every = self._counts.get("flats_every", 0) if role == "projections" else 0
        last = frames[-1].number if frames else 0
        breaks = taken | frozenset(range(every, last + 1, every) if every else ())
        counters = camera_counters(self._listing.folder, files, pages, frames, breaks)
        if counters.check:
            self.result.checks.append(counters.check)
        return counters

    def _without_lost(
        self, frames: list[Frame], counters: Counters, damaged: set[int], total: int | None
    ) -> tuple[list[Frame], set[int]]:
        """Frames under the numbers that they were triggered with, where the announced total leaves room for that.

        Without a total nothing is concluded: the camera may have counted flat fields in between.
        """
        moved = shifted(frames, counters.jumps)
        limit = total if total is not None else self._counts.get("n_projections", 0)
        lost = sum(jump.frames for jump in counters.jumps)
        if moved[-1].number >= limit:
            self.result.notes.append(
                f"the camera's counter jumps over {lost} frames, which need not be projections of this scan"
            )
            return frames, damaged
        self.result.lost += lost
        marks = shifted([Frame(number, 0, 0) for number in sorted(damaged)], counters.jumps)
        return moved, {mark.number for mark in marks}

    # --- pixels ------------------------------------------------------------------------------------------

    def _path(self, seen: Seen) -> str:
        return os.path.join(self._listing.folder, seen.name)

    def _check_shapes(self) -> None:
        everything = [seen for kind in KINDS for seen in self.result.frames[kind]]
        if not everything:
            return
        model = everything[0].plane
        for seen in everything:
            if seen.plane[:2] != model[:2]:
                self.result.wrong.append(
                    ScanUnreadable(
                        f"{self._path(seen)} has {seen.plane.rows} x {seen.plane.columns} pixels, "
                        f"{everything[0].name} {model.rows} x {model.columns}",
                        hint="it belongs to another scan, or is a preview",
                    )
                )
                return
        projections = self.result.frames["projections"]
        odd = next((seen for seen in projections if seen.plane.dtype != projections[0].plane.dtype), None)
        if odd is not None:
            self.result.wrong.append(
                ScanUnreadable(
                    f"{self._path(odd)} has pixels of type {odd.plane.dtype}, "
                    f"{projections[0].name} of type {projections[0].plane.dtype}"
                )
            )

    def _check_tails(self) -> None:
        """Take out what got its size before its content, and was not written to its end."""
        flats = spread(self.result.frames["flats"], 3)
        if flats and all(unwritten_tail(self._path(seen), seen.plane) for seen in flats):
            self.result.checks.append("flat fields end in zeros too, so the ends of frames say nothing")
            return
        for kind in KINDS:
            frames = self.result.frames[kind]
            looked_at = spread(frames, SAMPLED_TAILS)
            empty = [seen for seen in looked_at if unwritten_tail(self._path(seen), seen.plane)]
            if kind == "darks" and len(empty) == len(looked_at):
                continue  # of a detector that counts photons all of them are zero
            if empty and self._thorough:
                empty = [seen for seen in frames if unwritten_tail(self._path(seen), seen.plane)]
            self._take_out(kind, empty, "ends in zeros: its content is not written to the end")
            if frames and not empty:
                self.result.checks.append(f"{len(looked_at)} {kind} are written to their ends")

    def _check_blank(self) -> None:
        """Take out what holds nothing, or nothing that can be read."""
        for kind in KINDS[:2]:
            frames = self.result.frames[kind]
            picked = spread(frames, 3)
            blank = [seen for seen in picked if self._is_blank(seen)]
            if blank and self._thorough:
                blank = [seen for seen in frames if self._is_blank(seen)]
            self._take_out(kind, blank, "holds the same value everywhere, or cannot be read")
            if picked and not blank:
                self.result.checks.append(f"first, middle and last of the {kind} are not blank")

    def _is_blank(self, seen: Seen) -> bool:
        try:
            return constant(self._path(seen), seen.pages, seen.page)
        except ScanUnreadable:
            return True

    def _take_out(self, kind: FrameKind, frames: list[Seen], what: str) -> None:
        if not frames:
            return
        gone = {seen.number for seen in frames}
        self.result.frames[kind] = [seen for seen in self.result.frames[kind] if seen.number not in gone]
        self.result.damaged[kind] |= gone
        self.result.blank += [f"{self._path(seen)}{_page_text(seen)} {what}" for seen in frames]


def survey(
    listing: Listing,
    layouts: Sequence[Layout],
    context: Context,
    counts: Mapping[str, int],
    *,
    thorough: bool,
) -> Survey:
    """What the frames of a listing are.

    `counts`: the canonical counts of the log. `thorough`: where a sample shows damage, look at every frame.
    """
    return _Surveyor(listing, counts, thorough).survey(layouts, context)


def examined(listing: Listing, counts: Mapping[str, int], found: Survey, *, thorough: bool) -> Survey:
    """A survey whose frames were found in another way, with what the frames themselves show."""
    surveyor = _Surveyor(listing, counts, thorough)
    surveyor.result = found
    return surveyor.examine()


def _files_text(role: Role, sizes: list[int], read: int) -> str:
    word = "frames" if role == "counter" else role
    size = f"{sizes[0]:,} bytes" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,} bytes"
    return f"{len(sizes)} files of {word} of {size}, {read} headers read"


def _page_text(seen: Seen) -> str:
    return f" page {seen.page}" if len(seen.pages) > 1 else ""
