"""`srctd simulate`: what the command line says of a simulation, as a specification."""

import argparse
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from srctd.core.errors import ConfigError, HoldError

if TYPE_CHECKING:
    from srctd.sim.spec import SimulationSpec

DESCRIPTION = """\
Write a simulated scan as a detector would: frame by frame, at its pace, in the files of its beamline. OUTPUT is the
file or folder of the scan; with several scans (--repeats, --places-x, --places-z) the folder of all. Every format
gets the same frames for the same options. What a format cannot show is refused before anything is written.
"""
EXAMPLES = """\
examples:
  srctd simulate in/bone.nxs --rate 20
  srctd simulate in/bone --format tomcat --rate 50 --drop 5,17 --arrival preallocated
  srctd simulate in/bone --format edf --angle-range 360 --return-images 5 --abort-after 200
  srctd simulate in/mosaic --places-x 2 --places-z 3 --flats 5
"""
_PREFIX = "spec."
"""Of the names under which options are kept that are fields of the specification as they are."""


class _Choices(Collection[str]):
    """The values of a literal type of `srctd.sim.spec`, which is loaded when they are looked at, and not before."""

    def __init__(self, name: str) -> None:
        self._name = name

    def _values(self) -> tuple[str, ...]:
        from srctd.sim import spec

        return get_args(getattr(spec, self._name))

    def __contains__(self, value: object) -> bool:
        return value in self._values()

    def __iter__(self) -> Iterator[str]:
        return iter(self._values())

    def __len__(self) -> int:
        return len(self._values())


def add_size(command: argparse.ArgumentParser) -> None:
    """The options that `demo` passes on."""
    command.add_argument("--rows", type=positive, default=256, help="of the detector (default 256)")
    command.add_argument("--columns", type=positive, default=512, help="of the detector (default 512)")
    command.add_argument(
        "--angles", type=positive, default=360, help="projections of a rotation (default 360)"
    )
    command.add_argument(
        "--format",
        choices=_Choices("FormatName"),
        default="nxtomo",
        metavar="NAME",
        help="%(choices)s (default nxtomo)",
    )


def add_options(command: argparse.ArgumentParser) -> None:
    """All options of `simulate`."""
    command.description, command.epilog = DESCRIPTION, EXAMPLES
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.add_argument("output", metavar="OUTPUT", help="file or folder to make")
    add_size(command)
    _add_scan(_Group(command, "the scan"))
    _add_files(_Group(command, "the files"))
    _add_series(_Group(command, "several scans in a folder"))
    _add_faults(_Group(command, "what goes wrong"))


def specification(options: argparse.Namespace) -> "SimulationSpec":
    """The specification; raises `ConfigError` for a value that no field takes."""
    from srctd.sim.spec import SimulationSpec

    fields: dict[str, Any] = {"tilt_deg": 0.05, "seed": 1}
    fields |= {name: getattr(options, name) for name in ("rows", "columns", "angles", "format")}
    for name, value in vars(options).items():
        if name.startswith(_PREFIX):
            *groups, field = name.removeprefix(_PREFIX).split(".")
            place = fields
            for group in groups:
                place = place.setdefault(group, {})
            place[field] = value
    try:
        return msgspec.convert(fields, SimulationSpec)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"this cannot be simulated: {exc}", hint="see srctd simulate --help") from exc


def simulate(options: argparse.Namespace) -> int:
    """Write what was asked for; return the exit status."""
    from srctd.sim import writer

    try:
        writer.simulate(specification(options), options.output)
    except OSError as exc:
        raise HoldError(f"{options.output} cannot be written: {exc.strerror or exc}") from exc
    return 0


class _Group:
    """A titled group of options that are fields of the specification; those not given keep its defaults."""

    def __init__(self, command: argparse.ArgumentParser, title: str) -> None:
        self._group = command.add_argument_group(title)

    def add(self, option: str, field: str, text: str, **how: Any) -> None:
        """An option for a field, `faults.burst` say."""
        self._group.add_argument(option, dest=_PREFIX + field, default=argparse.SUPPRESS, help=text, **how)

    def number(self, option: str, field: str, text: str, kind: type = int) -> None:
        """An option with a number."""
        self.add(option, field, text, type=kind, metavar="N" if kind is int else "X")

    def flag(self, option: str, field: str, text: str, value: object = True) -> None:
        """An option without a value."""
        self.add(option, field, text, action="store_const", const=value)

    def choice(self, option: str, field: str, literal: str, text: str) -> None:
        """An option with one of the values of a literal type."""
        self.add(option, field, f"{text}: %(choices)s", choices=_Choices(literal), metavar="NAME")


def _add_scan(group: _Group) -> None:
    group.number("--angle-start", "angle_start_deg", "of the first projection, degree (default 0)", float)
    group.number("--angle-range", "angle_range_deg", "of a rotation, degree (default 180)", float)
    group.number("--rotations", "rotations", "rotations without a stop, a dynamic scan (default 1)")
    group.number("--flats", "flats", "flat fields before the projections (default 10)")
    group.number("--flats-every", "flats_every", "further flat fields after every N projections")
    group.number("--flats-after", "flats_after", "flat fields after the projections")
    group.number("--darks", "darks", "dark fields before the projections (default 10)")
    group.number("--darks-after", "darks_after", "dark fields after the projections")
    group.number("--return-images", "return_images", "projections on the way back, every 90 degrees")
    group.number("--tilt", "tilt_deg", "of the rotation axis, degree (default 0.05)", float)
    group.number("--seed", "seed", "of the sample and of all noise (default 1)")


def _add_files(group: _Group) -> None:
    group.number("--rate", "frames_per_second", "frames per second (default 0: as fast as possible)", float)
    group.number("--distinct", "distinct", "compute N frames of a kind and repeat them, which is faster")
    group.flag("--presized", "presized", "files of many frames have their full size from the start")
    group.flag(
        "--pco-stamps", "pco_stamps", "counter and time in the first pixels, as PCO cameras write them"
    )
    group.flag("--big-endian", "tiff.byte_order", "byte order of TIFF, EDF and RAW files", "big")
    group.flag("--bigtiff", "tiff.bigtiff", "TIFF files with 64-bit offsets")
    group.number("--pages", "tiff.pages", "frames in a TIFF file (default 1)")
    group.choice("--parameters", "parameters", "ParameterSyntax", "syntax of the parameter file of RAW files")
    group.choice("--storage", "hdf5.storage", "Storage", "where the frames of an NXtomo file are")
    group.number("--parts", "hdf5.parts", "files of a virtual data set (default 3)")
    group.choice("--compression", "hdf5.compression", "Compression", "of the frames in HDF5 files")
    group.flag("--swmr", "hdf5.swmr", "HDF5 for a single writer and multiple readers")
    group.number("--entries", "hdf5.entries", "scans in one NXtomo file (default 1)")


def _add_series(group: _Group) -> None:
    group.number("--repeats", "series.repeats", "scans at every place (default 1)")
    group.number("--places-x", "series.columns", "places across the beam, a mosaic (default 1)")
    group.number("--places-z", "series.levels", "places along the rotation axis (default 1)")
    group.number("--step-x", "series.step_x", "from place to place, metre (default 0.0001)", float)
    group.number("--step-z", "series.step_z", "from place to place, metre (default 0.0001)", float)


def _add_faults(group: _Group) -> None:
    group.number(
        "--abort-after", "faults.abort_after", "break the acquisition off after N frames of all kinds"
    )
    group.add(
        "--drop", "faults.drop", "projections that never arrive, from 0: 5,17", type=_numbers, metavar="N,N"
    )
    group.number("--pause-after", "faults.pause_after", "nothing comes for a while after N frames")
    group.number("--pause-seconds", "faults.pause_seconds", "how long that is", float)
    group.number("--burst", "faults.burst", "frames come N at a time, at the same mean rate")
    group.number("--shuffle", "faults.shuffle", "order of arrival is random within blocks of N frames")
    group.choice("--arrival", "faults.arrival", "Arrival", "how a file comes")
    group.number(
        "--finish-after", "faults.finish_after", "a file is finished when N more have come (default 1)"
    )
    group.number(
        "--late-seconds", "faults.late_seconds", "what is written at the end comes so much later", float
    )
    group.flag("--rewrite", "faults.rewrite", "take the scan again afterwards, under the same name")


def positive(text: str) -> int:
    """An argument that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def _numbers(text: str) -> tuple[int, ...]:
    """Numbers between commas."""
    words = text.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as 5,17")
    return tuple(int(word) for word in words)
