"""A first look at a scan: the rotation axis, three orthogonal slices, the strip of trial axes, the quality.

It reads what it needs only: some whole projections to see where the sample is, a few rows at all angles for the
axis, and for the sections along the axis about as many rows and angles as the picture can show.
"""

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from gpu import center, memory, pictures, quality
from gpu.engines import Block, Preparation, Sinograms
from gpu.fourier import FourierFBP
from gpu.geometry import angular_weights
from gpu.pictures import Panel
from gpu.pipeline import (
    Checkpoint,
    Clock,
    Outcome,
    Resources,
    plan_transform,
    read_parameters,
    read_rows,
    scan_angles,
)
from gpu.volume import VolumeSpec, storage_errors
from srctd.core import voxels
from srctd.core.errors import HoldError
from srctd.core.messages import Measure, PreviewJob, PreviewResult
from srctd.core.quality import findings
from srctd.core.recipe import ParameterFile
from srctd.formats import ScanReader, open_scan

ORTHOGONAL, AXIS, QUALITY = "orthogonal.png", "axis.png", "quality.json"

AXIS_ROWS = 5
"""Heights at which the axis is looked for."""
LOOKS = 8
"""Whole frames of each kind that are read, at most, to see at which heights there is a sample."""
LOOK_ROWS = 256
"""About so many of their rows are looked at."""
SECTION_PIXELS = 320
SECTION_ANGLES = 500
"""A section has so many rows and columns at most, and about so many angles: more would not show in its picture."""
BATCH_ROWS = 64
"""Rows of a section worked on at once, where memory allows."""
STRIP_WIDTH = 256
STRIP_OFFSETS = (-2, -1, 0, 1, 2)


def run_preview(job: PreviewJob, resources: Resources, checkpoint: Checkpoint) -> Outcome:
    """Make the preview folder; an older one is replaced."""
    clock = Clock()
    output = Path(job.output)
    with storage_errors(output), _folder_at_once(output) as part:
        parameters = read_parameters(Path(job.parameters))
        with open_scan(parameters.input, parameters.entry) as reader:
            result = _Preview(reader, parameters, resources, clock).run(part, checkpoint)
    return Outcome(result, clock.seconds)


class _Preview:
    """The parts of one preview."""

    def __init__(
        self, reader: ScanReader, parameters: ParameterFile, resources: Resources, clock: Clock
    ) -> None:
        self._reader, self._parameters, self._resources, self._clock = reader, parameters, resources, clock
        self._preparation = Preparation.of(parameters)
        self._spec = VolumeSpec(parameters, reader.header)
        self._angles = scan_angles(parameters, reader)
        self._first = self._spec.first_row
        self._end = self._first + self._spec.shape[0]
        self._look_step = max(1, self._spec.shape[0] // LOOK_ROWS)

    def run(self, folder: Path, checkpoint: Checkpoint) -> PreviewResult:
        """Find the axis, draw, measure; write everything into `folder`."""
        if self._end <= self._first:
            raise HoldError(
                f"{self._parameters.raw}: rows {self._first} to {self._end} are none of its"
                f" {self._reader.header.n_rows} rows",
                hint="correct first_row and end_row",
            )
        checkpoint("axis", 0.0)
        with self._clock.phase("axis"):
            looks = self._looks()
            raw = self._axis_rows(looks)
            rows = self._preparation.without_rings(raw.copy(), self._resources.threads)
            axis = self._axis(rows)
        checkpoint("slices", 0.3)
        with self._clock.phase("slices"):
            panels = self._slice(axis.center), *self._sections(axis.center, checkpoint)
        checkpoint("pictures", 0.9)
        with self._clock.phase("pictures"):
            (folder / ORTHOGONAL).write_bytes(pictures.orthogonal(panels, pixel_size=self._spec.pixel_size))
            (folder / AXIS).write_bytes(self._axis_strip(rows, axis.center))
        with self._clock.phase("quality"):
            measures = (
                *self._measures_of_frames(looks),
                *quality.of_rings(raw, rows),
                *quality.of_slices(panels[0].image),
                Measure(name="axis_confidence", value=axis.confidence),
                Measure(name="angular_coverage", value=float(angular_weights(self._angles).sum() / np.pi)),
            )
        result = PreviewResult(
            center=axis.center,
            center_confidence=axis.confidence,
            estimates=axis.estimates,
            measures=measures,
            pictures=(ORTHOGONAL, AXIS),
            volume_shape=self._spec.shape,
            unit=self._spec.unit,
            n_angles=len(self._angles),
            value_range=voxels.widened(*quality.span([panel.image for panel in panels])),
        )
        (folder / QUALITY).write_bytes(_report(self._parameters, result))
        return result

    # --- the axis -----------------------------------------------------------------------------------------

    def _looks(self) -> Block:
        """Some rows of a few frames of each kind, over the whole scan; every `_look_step`-th row."""
        rows, header = slice(self._first, self._end), self._reader.header

        def some(n: int) -> slice:
            return slice(None, None, max(1, -(-n // LOOKS)))

        whole = Block(
            self._reader.read("projections", rows, some(header.n_projections)),
            self._reader.read("flats", rows, some(header.n_flats)),
            self._reader.read("darks", rows, some(header.n_darks)),
        )
        return whole.every(self._look_step)

    def _axis_rows(self, looks: Block) -> Sinograms:
        """Sinograms of a few rows, at different heights, in which something is to be seen; rings and all."""
        contrast = self._normalize(looks).std(axis=2).mean(axis=1)
        chosen = self._first + self._look_step * spread(contrast, AXIS_ROWS)
        return np.concatenate([self._normalize(read_rows(self._reader, slice(r, r + 1))) for r in chosen])

    def _normalize(self, block: Block) -> Sinograms:
        return self._preparation.line_integrals(block, self._resources.threads)

    def _axis(self, rows: Sinograms) -> center.AxisResult:
        given = self._parameters.value("center")
        if given is not None:
            return center.AxisResult(float(given), 1.0, ())
        found = center.estimate(rows, self._angles)
        if not found.confidence > 0:
            raise HoldError(
                f"{self._parameters.raw}: the rotation axis cannot be estimated, no method finds anything",
                hint="is the sample in the beam? else give the axis with --center COLUMN",
            )
        return found

    def _axis_strip(self, rows: Sinograms, best: float) -> bytes:
        clearest = rows[int(np.argmax(rows.std(axis=(1, 2))))]
        apart = max(1.0, rows.shape[2] / STRIP_WIDTH)  # less would not show
        centers = [best + apart * offset for offset in STRIP_OFFSETS]
        slices = center.strip(clearest, self._angles, centers, width=STRIP_WIDTH)
        return pictures.axis_strip(
            [Panel(image, f"axis {column:.2f}") for image, column in zip(slices, centers, strict=True)]
        )

    # --- slices -------------------------------------------------------------------------------------------

    def _slice(self, axis: float) -> Panel:
        row = (self._first + self._end) // 2
        sinogram = self._prepare(read_rows(self._reader, slice(row, row + 1)))
        n = sinogram.shape[2]
        image = np.empty((1, n, n), np.float32)
        self._resources.transform(self._parameters, self._reader, axis).reconstruct(sinogram, image)
        return Panel(image[0], f"xy, row {row}")

    def _sections(self, axis: float, checkpoint: Checkpoint) -> tuple[Panel, Panel]:
        """The volume cut along x and along y, from some of the rows and angles."""
        binning = -(-self._spec.shape[2] // SECTION_PIXELS)
        every_row = max(binning, -(-(self._end - self._first) // SECTION_PIXELS))
        every_angle = max(1, len(self._angles) // SECTION_ANGLES)
        angles = self._angles[::every_angle]
        plan = plan_transform(self._parameters, self._reader, angles, axis, binning)
        transform = FourierFBP(plan, self._resources.threads)
        middle = transform.n_columns // 2
        xz: list[Sinograms] = []
        yz: list[Sinograms] = []
        bytes_per_row = every_row * memory.raw_row_bytes(self._reader.header, len(angles))
        height = every_row * max(1, min(BATCH_ROWS, self._resources.budget() // 4 // bytes_per_row))
        for start in range(self._first, self._end, height):
            checkpoint("slices", 0.3 + 0.6 * (start - self._first) / (self._end - self._first))
            rows = slice(start, min(start + height, self._end))
            block = read_rows(self._reader, rows, slice(None, None, every_angle)).every(every_row)
            sinograms = binned(self._prepare(block), binning)
            xz.append(transform.section(sinograms, axis="x", position=middle))
            yz.append(transform.section(sinograms, axis="y", position=middle))
        spacing = (float(every_row), float(binning))
        return (
            Panel(np.concatenate(xz), f"xz, y {middle * binning}", spacing),
            Panel(np.concatenate(yz), f"yz, x {middle * binning}", spacing),
        )

    def _prepare(self, block: Block) -> Sinograms:
        return self._preparation.without_rings(self._normalize(block), self._resources.threads)

    # --- the quality --------------------------------------------------------------------------------------

    def _measures_of_frames(self, looks: Block) -> list[Measure]:
        counted = {"flat_frames": self._reader.header.n_flats, "dark_frames": self._reader.header.n_darks}
        return [
            msgspec.structs.replace(measure, value=float(counted.get(measure.name, measure.value)))
            for measure in quality.of_frames(*looks)
        ]


def _report(parameters: ParameterFile, result: PreviewResult) -> bytes:
    """`quality.json`."""
    report = {
        "scan": parameters.scan,
        "center": result.center,
        "center_confidence": result.center_confidence,
        "estimates": result.estimates,
        "measures": result.measures,
        "findings": findings(result.measures, parameters.shortfall),
        "notes": parameters.notes,
    }
    return msgspec.json.format(msgspec.json.encode(report), indent=2)


def binned(sinograms: Sinograms, factor: int) -> Sinograms:
    """Mean over `factor` neighboring columns; a remainder at the right end is dropped."""
    end = sinograms.shape[2] // factor * factor
    if factor == 1:
        return sinograms
    mean = sinograms[:, :, 0:end:factor].copy()
    for i in range(1, factor):
        mean += sinograms[:, :, i:end:factor]
    return np.divide(mean, factor, out=mean)


def spread(contrast: NDArray[np.float32], n: int) -> NDArray[np.intp]:
    """Indices of up to `n` rows, spread evenly over the contrast: over the sample, wherever it is.

    Squares, so that rows with nothing but noise have no weight; a row that stands out gets one or two of them.
    """
    weight = contrast.astype(np.float64) ** 2
    share = np.cumsum(weight - 0.99 * weight.min() + np.finfo(float).tiny)
    chosen: NDArray[np.intp] = np.unique(np.searchsorted(share / share[-1], (np.arange(n) + 0.5) / n))
    return chosen


@contextlib.contextmanager
def _folder_at_once(output: Path) -> Iterator[Path]:
    """A hidden folder that takes the place of `output` at the end, or is gone if anything goes wrong."""
    for left_over in output.parent.glob(f".{output.name}.part-*"):  # of a worker that died
        shutil.rmtree(left_over, ignore_errors=True)
    part = output.with_name(f".{output.name}.part-{secrets.token_hex(4)}")
    part.mkdir()
    try:
        yield part
        if output.exists():
            shutil.rmtree(output)
        part.rename(output)
    finally:
        shutil.rmtree(part, ignore_errors=True)
