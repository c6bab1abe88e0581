"""A Bruker Skyscan scanner: frames that it has flat-fielded itself, at the end a log in the form of INI files.

No darks and no flats are stored: every projection is divided by the mean flat field, the dark taken off both, and
multiplied by the reference intensity. The log is in the code page of Western Windows.
"""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from srctd.sim.detector import SATURATED, Frame
from srctd.sim.phantom import Image
from srctd.sim.plan import Shot
from srctd.sim.sink import Format
from srctd.sim.spec import SimulationSpec
from srctd.sim.stack import TIFF_FEATURES, FileStack
from srctd.sim.text import setting_text

REFERENCE_INTENSITY = 57000
"""Counts of air in a corrected frame."""
SOURCE_DISTANCE = 50.0
"""Source to sample, metre: so far that the rays are parallel."""


class SkyscanStack(FileStack):
    """`<prefix>0000.tif` and so on, then `<prefix>.log`."""

    def __init__(self, spec: SimulationSpec, path: str) -> None:
        super().__init__(spec, path)
        self._sums = {kind: np.zeros((spec.rows, spec.columns)) for kind in ("dark", "flat")}
        self._started = datetime.now(UTC)

    def name(self, shot: Shot) -> str:
        """The file of a projection."""
        return f"{self._prefix}{shot.of_kind:04d}.tif"

    def frame(self, shot: Shot, frame: Frame) -> None:
        """Keep darks and flats as the correction; write projections, corrected."""
        if shot.kind in self._sums:
            self._sums[shot.kind] += frame
            return
        dark = self._sums["dark"] / max(self._spec.darks, 1)
        flat = self._sums["flat"] / self._spec.flats
        super().frame(shot, corrected(frame, dark.astype(np.float32), flat.astype(np.float32)))

    def annotate(self) -> None:
        """Write the log."""
        text = "\r\n".join(_log(self._spec, self._path, self._prefix, self._started)) + "\r\n"
        Path(self._place(f"{self._prefix}.log")).write_bytes(text.encode("cp1252"))


def corrected(frame: Frame, dark: Image, flat: Image) -> Frame:
    """A frame as the scanner stores it, shape (rows, columns); pixels without beam are 0."""
    beam = flat - dark
    light = np.divide(frame - dark, beam, out=np.zeros_like(beam), where=beam > 0)
    counts: Frame = np.clip(np.rint(light * REFERENCE_INTENSITY), 0, SATURATED).astype(np.uint16)
    return counts


def _log(spec: SimulationSpec, path: str, prefix: str, started: datetime) -> list[str]:
    """The log's lines, keys and sections as the scanner writes them."""
    duration = int((datetime.now(UTC) - started).total_seconds())
    hours, minutes, seconds = duration // 3600, duration // 60 % 60, duration % 60
    return [
        "[System]",
        "Scanner=SkyScan1272",
        "Instrument S/N=simulated",
        f"Camera Pixel Size (um)={spec.pixel_size * 1e6 * (1 + spec.distance / SOURCE_DISTANCE):.6f}",
        "[User]",
        "User Name=Prüfstand",
        "[Acquisition]",
        f"Data Directory={path}",
        f"Filename Prefix={prefix}",
        "Filename Index Length=4",
        f"Number Of Files= {spec.projections}",
        f"Number Of Rows= {spec.rows}",
        f"Number Of Columns= {spec.columns}",
        "Camera binning=1x1",
        f"Optical Axis (line)= {spec.rows // 2}",
        f"Camera to Source (mm)={(SOURCE_DISTANCE + spec.distance) * 1e3:.5f}",
        f"Object to Source (mm)={SOURCE_DISTANCE * 1e3:.5f}",
        "Source Voltage (kV)= 80",
        "Source Current (uA)= 125",
        f"Image Pixel Size (um)={spec.pixel_size * 1e6:.6f}",
        "Image Format=TIFF",
        "Depth (bits)=16",
        f"Reference Intensity={REFERENCE_INTENSITY}",
        "Exposure (ms)=1350",
        f"Rotation Step (deg)={setting_text(spec.step_deg)}",
        f"Use 360 Rotation={'YES' if spec.angle_range_deg == 360 else 'NO'}",
        "Frame Averaging=ON (1)",
        "Random Movement=OFF (30)",
        "Flat Field Correction=ON",
        "Filter=Al 1mm",
        "Rotation Direction=CC",
        "Scanning Start Angle=" + setting_text(spec.angle_start_deg),
        "Number of connected scans=1",
        f"Study Date and Time={started:%d %b %Y  %Hh:%Mm:%Ss}",
        f"Scan duration={hours}h:{minutes:02d}m:{seconds:02d}s",
    ]


SKYSCAN = Format(SkyscanStack, "", TIFF_FEATURES | {"late_seconds"})
