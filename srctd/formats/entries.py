"""Several scans in one HDF5 file, as members of a series."""

from pathlib import PurePath

import msgspec

from srctd.core.completion import EndMark, Expectation, Probe, least
from srctd.core.frames import FrameIndex
from srctd.core.scan import Series
from srctd.formats.frametable import FLAT, MOST_RUNS
from srctd.formats.hdf5scan import Hdf5Scan
from srctd.formats.rotations import no_member


class Entries:
    """The entries of a file: a `FoundScan` whose members are theirs, one entry after the other.

    An entry without flat fields is given those, and the darks, of the first entry that has some.
    """

    def __init__(self, scans: list[Hdf5Scan]) -> None:
        self._scans = scans
        lender = next((scan for scan in scans if _has_flats(scan)), None)
        for scan in scans:
            scan.lender = None if scan is lender else lender

    def look(self) -> Probe:
        """What all entries together show: the file is complete when each of them is."""
        return merged([scan.look() for scan in self._scans])

    def index(self, *, incomplete: bool = False, member: int = 0) -> FrameIndex:
        """All frames of one member; raises `ScanUnreadable`."""
        counts = [scan.members_in(incomplete=incomplete) for scan in self._scans]
        left = member
        for scan, count in zip(self._scans, counts, strict=True):
            if 0 <= left < count:
                found = scan.index(incomplete=incomplete, member=left)
                return _as_member(found, scan, member, sum(counts))
            left -= count
        raise no_member(self._scans[0].source.path, sum(counts), member)

    def close(self) -> None:
        """Close every file."""
        for scan in self._scans:
            scan.close()


def merged(probes: list[Probe]) -> Probe:
    """One probe for all entries of a file."""
    covered = [probe.coverage for probe in probes]
    marked = all(probe.end_marks for probe in probes)
    problems = [probe.problem for probe in probes if probe.problem]
    return Probe(
        readable=all(probe.readable for probe in probes),
        problem="; ".join(dict.fromkeys(problems)),
        foreign=all(probe.foreign for probe in probes),
        frames_found=sum(probe.frames_found or 0 for probe in probes),
        expectations=_together(probes),
        end_marks=_unique_marks(probes) if marked else (),
        aborted=next((probe.aborted for probe in probes if probe.aborted), ""),
        gaps=tuple(gap for probe in probes for gap in probe.gaps)[:MOST_RUNS],
        missing=tuple(dict.fromkeys(sentence for probe in probes for sentence in probe.missing)),
        checks=tuple(dict.fromkeys(check for probe in probes for check in probe.checks)),
        coverage=least(covered),
        usable=all(probe.usable for probe in probes),
        started=next((probe.started for probe in probes if probe.started), ""),
        references=tuple(dict.fromkeys(path for probe in probes for path in probe.references)),
        members=sum(probe.members for probe in probes),
    )


def _together(probes: list[Probe]) -> tuple[Expectation, ...]:
    """Of every kind of announcement the sum; an entry that announces nothing counts with what is there."""
    kinds = dict.fromkeys(announced.kind for probe in probes for announced in probe.expectations)
    sums = []
    for kind in kinds:
        best = [
            max((e for e in probe.expectations if e.kind == kind), key=lambda e: e.frames, default=None)
            for probe in probes
        ]
        frames = sum(
            e.frames if e else probe.frames_found or 0 for e, probe in zip(best, probes, strict=True)
        )
        text = "; ".join(dict.fromkeys(e.text for e in best if e))
        sums.append(Expectation(kind=kind, frames=frames, text=text))
    return tuple(sums)


def _unique_marks(probes: list[Probe]) -> tuple[EndMark, ...]:
    return tuple({mark.text: mark for probe in probes for mark in probe.end_marks}.values())


def _has_flats(scan: Hdf5Scan) -> bool:
    return not scan.unsound() and bool((scan.table.kind == FLAT).any())


def _as_member(index: FrameIndex, scan: Hdf5Scan, member: int, members: int) -> FrameIndex:
    series = Series(
        name=PurePath(scan.source.path).stem, member=member, members=members, origin=f"entry {scan.entry}"
    )
    return msgspec.structs.replace(index, header=msgspec.structs.replace(index.header, series=series))
