"""The frames of a scan in the order of acquisition, and the camera that takes them.

Every format gets the same frames: what a frame shows depends on the specification and on its number alone.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

import numpy as np

from srctd.sim.detector import Detector, Frame
from srctd.sim.phantom import Ellipsoid, projection, sample
from srctd.sim.spec import SimulationSpec

Kind = Literal["dark", "flat", "projection", "return"]

STAMP_PIXELS = 14
"""Of a PCO camera: 4 for the counter, 10 for the time."""
_TAKE_FRAMES = 10_000_000
"""More than a scan has: repetitions have no noise in common."""
_STAMP_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_STAMP_STEP = timedelta(milliseconds=10)


class Shot(NamedTuple):
    """One frame that is triggered. All numbers count from 0."""

    kind: Kind
    number: int
    """Among all frames of the file or folder."""
    entry: int
    """Scan within the file."""
    position: int
    """Among all frames of the entry."""
    of_kind: int
    """Among those of its kind in the entry."""
    within: int
    """Among those of its set: flats that were taken at one angle."""
    taken: int
    """Projections of the entry that were taken before."""
    angle_deg: float


def plan(spec: SimulationSpec) -> list[Shot]:
    """All frames: darks, flats, projections with flats between, return images, flats and darks after."""
    shots: list[Shot] = []
    for entry in range(spec.hdf5.entries):
        _add_entry(shots, spec, entry)
    return shots


def _add_entry(shots: list[Shot], spec: SimulationSpec, entry: int) -> None:
    offset, taken = len(shots), 0
    indices = {"dark": 0, "flat": 0, "projection": 0, "return": 0}
    for kind, angles in _runs(spec):
        for within, angle in enumerate(angles):
            number = len(shots)
            shots.append(
                Shot(kind, number, entry, number - offset, indices[kind], within, taken, float(angle))
            )
            indices[kind] += 1
            taken += kind == "projection"


def _runs(spec: SimulationSpec) -> Iterator[tuple[Kind, Sequence[float]]]:
    """Frames of one kind in a row: the kind, and the angle of each."""
    angles = spec.angles_deg.tolist()
    yield "dark", [angles[0]] * spec.darks
    yield "flat", [angles[0]] * spec.flats
    every = spec.flats_every or len(angles)
    for first in range(0, len(angles), every):
        if first:
            yield "flat", [angles[first]] * spec.flats
        yield "projection", angles[first : first + every]
    yield "return", return_angles(spec)
    yield "flat", [angles[-1]] * spec.flats_after
    yield "dark", [angles[-1]] * spec.darks_after


def return_angles(spec: SimulationSpec) -> list[float]:
    """Angles of the images taken on the way back, every 90 degrees: the last is that of the start."""
    return [spec.angle_start_deg + 90.0 * k for k in range(spec.return_images - 1, -1, -1)]


class Camera:
    """Takes the frames of a plan; each is what it is whenever it is taken."""

    def __init__(self, spec: SimulationSpec) -> None:
        self._spec = spec
        self._detector = Detector(spec.geometry, spec.counts, spec.flaws, spec.seed)
        self._phantom = _placed_sample(spec)
        self._kept: dict[tuple[Kind, int], Frame] = {}

    def take(self, shot: Shot) -> Frame:
        """The frame of a shot, shape (rows, columns)."""
        frame = self._repeated(shot) if self._spec.distinct else self._exposed(shot)
        return stamped(frame, shot.number) if self._spec.pco_stamps else frame

    def _repeated(self, shot: Shot) -> Frame:
        which = (shot.kind, shot.of_kind % self._spec.distinct)
        if which not in self._kept:
            self._kept[which] = self._exposed(shot)
        return self._kept[which]

    def _exposed(self, shot: Shot) -> Frame:
        number = shot.number + self._spec.take * _TAKE_FRAMES
        if shot.kind == "dark":
            return self._detector.dark(number)
        if shot.kind == "flat":
            return self._detector.flat(number)
        shadow = projection(self._phantom, self._spec.geometry, float(np.radians(shot.angle_deg)))
        return self._detector.projection(shadow, number)


def _placed_sample(spec: SimulationSpec) -> tuple[Ellipsoid, ...]:
    """The sample where the stage has moved it: made for the middle of the field, whatever the position."""
    at_home = spec.geometry._replace(center=spec.center - (spec.position_x or 0.0) / spec.pixel_size)
    up = (spec.position_z or 0.0) / spec.pixel_size
    return tuple(body._replace(z=body.z + up) for body in sample(at_home, spec.seed))


def stamped(frame: Frame, number: int) -> Frame:
    """The frame with counter and time of a PCO camera in its first pixels.

    Each pixel holds two decimal digits, in the two halves of its low byte. The counter begins at 1 and counts what
    was triggered: where a frame is lost, it jumps.
    """
    time = _STAMP_BEGIN + number * _STAMP_STEP
    digits = f"{number + 1:08d}{time:%Y%m%d%H%M%S%f}"
    stamped_frame = frame.copy()
    stamped_frame[0, :STAMP_PIXELS] = [int(digits[i : i + 2], 16) for i in range(0, 2 * STAMP_PIXELS, 2)]
    return stamped_frame
