"""What cannot be simulated is refused in one sentence, before anything is written."""

from collections.abc import Callable, Iterator, Mapping

from srctd.core.errors import ConfigError
from srctd.sim.sink import Format
from srctd.sim.spec import FormatName, SimulationSpec

_CLASSIC_TIFF_BYTES = 2**32

FEATURES: Mapping[str, Callable[[SimulationSpec], bool]] = {
    "drop": lambda spec: bool(spec.faults.drop),
    "shuffle": lambda spec: spec.faults.shuffle > 0,
    "truncated": lambda spec: spec.faults.arrival == "truncated",
    "preallocated": lambda spec: spec.faults.arrival == "preallocated",
    "renamed": lambda spec: spec.faults.arrival == "renamed",
    "late_seconds": lambda spec: spec.faults.late_seconds > 0,
    "presized": lambda spec: spec.presized,
    "byte_order": lambda spec: spec.tiff.byte_order != "little",
    "bigtiff": lambda spec: spec.tiff.bigtiff,
    "pages": lambda spec: spec.tiff.pages > 1,
    "parameters": lambda spec: spec.parameters != "json",
    "storage": lambda spec: spec.hdf5.storage != "plain",
    "compression": lambda spec: spec.hdf5.compression != "none",
    "swmr": lambda spec: spec.hdf5.swmr,
    "entries": lambda spec: spec.hdf5.entries > 1,
    "flats_every": lambda spec: spec.flat_sets_between > 0,
    "flats_after": lambda spec: spec.flats_after > 0,
    "darks_after": lambda spec: spec.darks_after > 0,
    "return_images": lambda spec: spec.return_images > 0,
}
"""Options that not every format can show, and whether a specification uses them."""


def check(spec: SimulationSpec, formats: Mapping[FormatName, Format]) -> None:
    """Raise `ConfigError` for the first thing that is wrong with a specification."""
    for name, used in FEATURES.items():
        if used(spec) and name not in formats[spec.format].features:
            able = ", ".join(other for other in formats if name in formats[other].features)
            raise ConfigError(f"the format {spec.format} is not simulated with {name}", hint=f"{able} can be")
    for problem in _problems(spec):
        raise ConfigError(problem)


def _problems(spec: SimulationSpec) -> Iterator[str]:
    """What is wrong in itself, one sentence each."""
    yield from _counts(spec)
    yield from _contradictions(spec)


def _counts(spec: SimulationSpec) -> Iterator[str]:
    faults, series = spec.faults, spec.series
    positive = {
        "rows": spec.rows,
        "columns": spec.columns,
        "angles": spec.angles,
        "rotations": spec.rotations,
        "pages": spec.tiff.pages,
        "entries": spec.hdf5.entries,
        "parts": spec.hdf5.parts,
        "repeats": series.repeats,
        "columns of places": series.columns,
        "levels": series.levels,
    }
    not_negative = {
        "flats": spec.flats,
        "flats_every": spec.flats_every,
        "flats_after": spec.flats_after,
        "darks": spec.darks,
        "darks_after": spec.darks_after,
        "return_images": spec.return_images,
        "distinct": spec.distinct,
        "frames_per_second": spec.frames_per_second,
        "abort_after": faults.abort_after,
        "pause_after": faults.pause_after,
        "pause_seconds": faults.pause_seconds,
        "burst": faults.burst,
        "shuffle": faults.shuffle,
        "finish_after": faults.finish_after,
        "late_seconds": faults.late_seconds,
    }
    yield from (f"{name} is {value} and must be 1 at least" for name, value in positive.items() if value < 1)
    yield from (
        f"{name} is {value} and must not be negative" for name, value in not_negative.items() if value < 0
    )


def _contradictions(spec: SimulationSpec) -> Iterator[str]:
    faults = spec.faults
    for number in faults.drop:
        if not 0 <= number < spec.projections:
            yield f"projection {number} is to be dropped and there are {spec.projections}, counted from 0"
    if faults.burst and not spec.frames_per_second:
        yield "bursts need a rate: frames_per_second is 0"
    if spec.pco_stamps and spec.columns < 14:
        yield f"the stamps of a PCO camera take 14 pixels and a row has {spec.columns}"
    if spec.format == "skyscan" and not spec.flats:
        yield "the format skyscan is flat-fielded and needs flats: flats is 0"
    if spec.return_images and 90 * (spec.return_images - 1) > spec.angle_range_deg:
        yield f"{spec.return_images} return images, 90 degrees apart, are too many for {spec.angle_range_deg:g}"
    if spec.format == "dataexchange" and spec.flats and spec.flats_after not in (0, spec.flats):
        yield f"dataexchange has one number for flats before and after: {spec.flats} and {spec.flats_after} differ"
    if spec.format == "dataexchange" and spec.darks and spec.darks_after not in (0, spec.darks):
        yield f"dataexchange has one number for darks before and after: {spec.darks} and {spec.darks_after} differ"
    if spec.format in ("als832", "als832h5") and spec.flat_sets_between and spec.flats_after:
        yield f"{spec.format} names flats by projections: those between and after them would overwrite each other"
    yield from _contradictions_of_files(spec)


def _contradictions_of_files(spec: SimulationSpec) -> Iterator[str]:
    faults = spec.faults
    if spec.tiff.pages > 1 and (faults.arrival != "whole" or faults.shuffle):
        yield "files of several pages grow page by page: arrival must be whole, shuffle 0"
    if spec.tiff.pages * spec.rows * spec.columns * 2 >= _CLASSIC_TIFF_BYTES and not spec.tiff.bigtiff:
        yield f"{spec.tiff.pages} pages of {spec.rows} x {spec.columns} pixels need bigtiff"
    if spec.hdf5.storage != "plain" and (spec.hdf5.swmr or faults.arrival == "renamed"):
        yield f"swmr and renamed need the storage plain, not {spec.hdf5.storage}"
    if spec.hdf5.swmr and spec.hdf5.entries > 1:
        yield f"with swmr no entry can be added: entries is {spec.hdf5.entries}"
    if spec.hdf5.entries > 1 and (faults.drop or faults.shuffle):
        yield "drop and shuffle are for one entry"
