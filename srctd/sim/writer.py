"""Write a simulated scan the way a detector does: frame by frame, at its pace, with everything that goes wrong.

Memory holds a few frames at a time.
"""

import itertools
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import msgspec

from srctd.sim.als832 import ALS832, ALS832_HDF5
from srctd.sim.arrivals import TEMPORARY_SUFFIX
from srctd.sim.check import check
from srctd.sim.dataexchange import DATAEXCHANGE
from srctd.sim.detector import Frame
from srctd.sim.edf import EDF
from srctd.sim.layouts import AUSTRALIAN, NAMED
from srctd.sim.lnls import LNLS
from srctd.sim.nxtomo import NXTOMO
from srctd.sim.plain import PLAIN
from srctd.sim.plan import Camera, Shot, plan
from srctd.sim.raw import RAW
from srctd.sim.sink import Format, Sink
from srctd.sim.skyscan import SKYSCAN
from srctd.sim.spec import Faults, FormatName, SimulationSpec
from srctd.sim.tomcat import TOMCAT

__all__ = ["FORMATS", "SimulationSpec", "simulate"]

OnFrame = Callable[[int, int], None]
"""Called with the frames triggered and all frames to come, of all scans."""
Stop = Callable[[], bool]
"""Asked before every frame, and during a pause, whether to break off, as an aborted scan does."""
Outcome = Literal["complete", "aborted", "stopped"]

FORMATS: Mapping[FormatName, Format] = {
    "nxtomo": NXTOMO,
    "dataexchange": DATAEXCHANGE,
    "lnls": LNLS,
    "tomcat": TOMCAT,
    "als832": ALS832,
    "als832h5": ALS832_HDF5,
    "kit": NAMED,
    "elettra": NAMED,
    "petra": NAMED,
    "australian": AUSTRALIAN,
    "plain": PLAIN,
    "skyscan": SKYSCAN,
    "edf": EDF,
    "raw": RAW,
}
_NAP_SECONDS = 0.1
"""A wait is broken off so much later at most."""


def simulate(
    spec: SimulationSpec, path: str, on_frame: OnFrame | None = None, stop: Stop | None = None
) -> bool:
    """Write a scan; returns whether it came to its end (False: broken off, and no end is marked).

    `path` is the file or the folder to make, or with a series the folder of its scans. Raises `ConfigError` for
    what the format cannot show, before anything is written, and `OSError` where it cannot be written.
    """
    check(spec, FORMATS)
    takes = list(_takes(spec, os.path.normpath(path)))
    total = sum(take.frames * take.hdf5.entries for take, _ in takes)
    counter = itertools.count(1)

    def tick() -> None:
        if on_frame is not None:
            on_frame(next(counter), total)

    outcome: Outcome = "complete"
    for take, place in takes:
        outcome = _write(take, place, tick, stop or (lambda: False))
        if outcome == "stopped" or (outcome == "aborted" and not spec.faults.rewrite):
            break
    return outcome == "complete"


def _takes(spec: SimulationSpec, path: str) -> Iterator[tuple[SimulationSpec, str]]:
    """Every scan that is to be written, with its path; what is rewritten comes twice."""
    for number, (member, place) in enumerate(_members(spec, path)):
        take = msgspec.structs.replace(member, take=2 * number + spec.take)
        yield take, place
        if spec.faults.rewrite:
            yield msgspec.structs.replace(take, take=take.take + 1, faults=Faults()), place


def _members(spec: SimulationSpec, path: str) -> Iterator[tuple[SimulationSpec, str]]:
    """The scans of a series; their names say where each is and which repetition, as far as that differs."""
    series = spec.series
    if series.members == 1:
        yield spec, path
        return
    counted = (range(series.levels), range(series.columns), range(series.repeats))
    for level, column, repeat in itertools.product(*counted):
        member = spec
        name = os.path.basename(path)
        if series.levels > 1:
            name += f"_z{level:02d}"
            height = (level - (series.levels - 1) / 2) * series.step_z
            member = msgspec.structs.replace(member, position_z=(spec.position_z or 0.0) + height)
        if series.columns > 1:
            name += f"_x{column:02d}"
            side = (column - (series.columns - 1) / 2) * series.step_x
            member = msgspec.structs.replace(member, position_x=(spec.position_x or 0.0) + side)
        if series.repeats > 1:
            name += f"_{repeat:04d}"
        yield member, os.path.join(path, name + FORMATS[spec.format].suffix)


def _write(spec: SimulationSpec, path: str, tick: Callable[[], None], stop: Stop) -> Outcome:
    """Write one scan; whatever happens, its files are closed."""
    form, faults = FORMATS[spec.format], spec.faults
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    sink = (
        _RenamedFile(form, spec, path)
        if form.suffix and faults.arrival == "renamed"
        else form.sink(spec, path)
    )
    camera, pace, dropped = Camera(spec), _Pace(spec, stop), set(faults.drop)
    try:
        sink.begin()
        for count, shot in enumerate(_schedule(spec, form), 1):
            if stop() or not pace.wait_for(count):
                sink.abort()
                return "stopped"
            if shot.kind != "projection" or shot.of_kind not in dropped:
                sink.frame(shot, camera.take(shot))
            tick()
            if count == faults.abort_after:
                sink.abort()
                return "aborted"
        sink.end()
        if not _wait(faults.late_seconds, stop):
            sink.abort()
            return "stopped"
        sink.annotate()
    except BaseException:
        sink.abort()
        raise
    return "complete"


def _schedule(spec: SimulationSpec, form: Format) -> Iterator[Shot]:
    """The frames in the order in which they arrive."""
    shots = plan(spec)
    if form.darks_last:
        shots.sort(key=lambda shot: shot.kind == "dark")
    block = spec.faults.shuffle
    if not block:
        yield from shots
        return
    draw = random.Random(spec.seed)  # frames of different kinds are minutes apart and keep their order
    for _, of_kind in itertools.groupby(shots, key=lambda shot: shot.kind):
        same = list(of_kind)
        for first in range(0, len(same), block):
            yield from draw.sample(same[first : first + block], min(block, len(same) - first))


class _Pace:
    """Holds frames back until they are due."""

    def __init__(self, spec: SimulationSpec, stop: Stop) -> None:
        self._rate, self._faults, self._stop = spec.frames_per_second, spec.faults, stop
        self._began = time.monotonic()

    def wait_for(self, count: int) -> bool:
        """Wait until frame number `count`, counted from 1, is due; False: told to stop before that."""
        seconds = 0.0
        if self._faults.pause_seconds and count == self._faults.pause_after + 1:
            seconds = self._faults.pause_seconds
            self._began += seconds
        if self._rate:
            burst = self._faults.burst or 1
            last_of_burst = -(-count // burst) * burst
            due = self._began + (last_of_burst - 1) / self._rate
            seconds = max(seconds, due - time.monotonic())
        return _wait(seconds, self._stop)


def _wait(seconds: float, stop: Stop) -> bool:
    """Sleep; False: a long sleep ended early because `stop` said so."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, _NAP_SECONDS))
        if left > _NAP_SECONDS and stop():
            return False
    return True


class _RenamedFile:
    """A sink of one file that has a temporary name until it is complete."""

    def __init__(self, form: Format, spec: SimulationSpec, path: str) -> None:
        self._path, self._temporary = path, path + TEMPORARY_SUFFIX
        self._sink: Sink = form.sink(spec, self._temporary)

    def begin(self) -> None:
        """Make the file."""
        self._sink.begin()

    def frame(self, shot: Shot, frame: Frame) -> None:
        """Write a frame."""
        self._sink.frame(shot, frame)

    def end(self) -> None:
        """Close the file."""
        self._sink.end()

    def annotate(self) -> None:
        """Complete the file and give it its name."""
        self._sink.annotate()
        os.replace(self._temporary, self._path)

    def abort(self) -> None:
        """The temporary name stays."""
        self._sink.abort()
