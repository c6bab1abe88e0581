"""Dynamic scans: one acquisition whose sample went on turning, as several scans."""

from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from srctd.core.completion import Coverage, coverage, least
from srctd.core.errors import ScanUnreadable
from srctd.core.scan import ScanHeader, Series

FULL_TURN = 360.0
HALF_TURN = 180.0


def rotations(degrees: NDArray[np.float64], period: float | None = None) -> list[slice]:
    """Which projections make up a scan of their own, in the order of acquisition; a single slice if all do.

    The rule: the angles must run one way without turning back (angles written modulo 360 degrees are unrolled).
    Together, the last step included, they must cover at least two full turns; then every full turn is a member. A
    scan of 360 degrees, or of one turn and a half, is one scan. `period` (degrees, 180 or 360) is what the file
    itself says of one member, and takes the place of the full turn. What is left after the last whole member is a
    member if it covers a half turn, and else belongs to none.
    """
    whole = [slice(0, len(degrees))]
    if len(degrees) < 4:
        return whole
    gone, step = _one_way(degrees)
    if step == 0:
        gone, step = _one_way(np.unwrap(degrees, period=FULL_TURN))
    if step == 0:
        return whole
    length = period or FULL_TURN
    covered = float(gone[-1]) + step
    slack = 0.5 * step
    members = int((covered + slack) // length)
    if members < 2:
        return whole
    begins = [int(np.searchsorted(gone, k * length - slack)) for k in range(members + 1)]
    found = [slice(first, end) for first, end in pairwise(begins)]
    if covered - members * length >= HALF_TURN - slack:
        found.append(slice(begins[-1], len(degrees)))
    return found


def coverage_of_each(
    radians: NDArray[np.float64], parts: list[slice], around_deg: float = HALF_TURN
) -> Coverage | None:
    """The least that one of the scans covers: what one rotation lacks, another one cannot give.

    `radians`: of all projections, in the order of `rotations`. `around_deg`: as `coverage` takes it.
    """
    return least([coverage(radians[part].tolist(), around_deg) for part in parts])


class Member(NamedTuple):
    """One of the scans that some projections make up."""

    part: slice
    """Its projections."""
    series: Series | None
    """Its place among the others; None where there are no others."""
    note: str
    """What is left of the projections and in no member; empty if nothing is."""

    def labeled(self, header: ScanHeader) -> ScanHeader:
        """The header of its projections, with its place among the others."""
        if self.series is None:
            return header
        notes = (*header.notes, self.note) if self.note else header.notes
        return msgspec.structs.replace(header, series=self.series, notes=notes)


def choose_member(parts: list[slice], member: int, projections: int, path: str, name: str) -> Member:
    """One of the scans that `rotations` found in so many projections; raises `ScanUnreadable`.

    `path`: of the scan, for the sentence. `name`: of the series.
    """
    if not 0 <= member < len(parts):
        raise no_member(path, len(parts), member)
    if parts[member].stop == parts[member].start:
        raise ScanUnreadable(
            f"{path}: no projection of member {member} of {len(parts)} is there",
            hint="the other members do not need it",
        )
    left = projections - parts[-1].stop
    return Member(
        part=parts[member],
        series=Series(name=name, member=member, members=len(parts), origin="rotation angles")
        if len(parts) > 1
        else None,
        note=f"the last {left} projections are less than a half turn and in no member" if left else "",
    )


def no_member(path: str, members: int, member: int) -> ScanUnreadable:
    """Says that a member was named that is not there."""
    return ScanUnreadable(
        f"{path} holds {members} scans; there is no number {member}", hint=f"give 0 to {members - 1}"
    )


def _one_way(degrees: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """How far the sample has turned at every projection, and the usual step; a step of 0 where it turned back.

    An encoder may read up to half a step back.
    """
    steps = np.diff(degrees)
    step = float(np.median(steps))
    gone = (degrees - degrees[0]) * np.sign(step)
    turned_back = bool(np.any(steps * np.sign(step) < -0.5 * abs(step)))
    return gone, 0.0 if turned_back else abs(step)
