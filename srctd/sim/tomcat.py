"""TOMCAT at the SLS: one folder `tif`, one counter for all frames, and a log that is there before them.

The log is a fixed form, filled in when the scan is started; what happens is appended to it. So its header says how
many frames are to come, and only its last lines that they came.
"""

import os
from datetime import datetime

from srctd.sim.plan import Shot
from srctd.sim.sink import Format
from srctd.sim.spec import SimulationSpec
from srctd.sim.stack import TIFF_FEATURES, FileStack
from srctd.sim.text import setting_text

CAMERA_PIXEL_SIZE = 6.5e-6
"""Metre. The log names the objective alone."""
LAST_LINE = "Scan finished"
_WIDTH = 62


class TomcatStack(FileStack):
    """`tif/<prefix>0001.tif` and so on, and `tif/<prefix>.log`."""

    def name(self, shot: Shot) -> str:
        """The file of a frame: its number among all frames, from 1."""
        return f"tif/{self._prefix}{shot.number + 1:04d}.tif"

    def begin(self) -> None:
        """Write the log's header."""
        super().begin()
        started = datetime.now().astimezone()
        head = _header(self._spec, self._path, f"{started:%a %b %d %H:%M:%S %Y}")
        self._log(*head, "Start logging activity...", mode="w")
        self._entry(f"Starting scan of {self._spec.frames} frames")

    def annotate(self) -> None:
        """Write the log's last line."""
        self._entry(LAST_LINE)

    def _entry(self, text: str) -> None:
        self._log(f"{datetime.now().astimezone():%a %b %d %H:%M:%S %Y} : {text}")

    def _log(self, *lines: str, mode: str = "a") -> None:
        path = self._place(f"tif/{self._prefix}.log")
        with open(path, mode, encoding="utf-8") as log:
            log.writelines(line + "\n" for line in lines)


def _header(spec: SimulationSpec, path: str, started: str) -> list[str]:
    """The log's lines before the first frame, keys and sections as at the beamline."""
    between = spec.flats if spec.flat_sets_between else 0
    return [
        f"User ID : {spec.experimenter}",
        f"FAST-TOMO scan of sample {spec.sample} started on {started}",
        _section("Beamline Settings"),
        _line("Ring current [mA]", "400.650"),
        _line("Beam energy  [keV]", f"{spec.energy_kev:.3f}"),
        _line("Monostripe", "Ru/C"),
        _section("Detector Settings"),
        _line("Objective", f"{CAMERA_PIXEL_SIZE / spec.pixel_size:.2f}"),
        _line("Scintillator", "LAG 20um"),
        _line("Exposure time [ms]", "10"),
        _section("Scan Settings"),
        _line("Sample folder", os.path.abspath(path)),
        _line("File Prefix", os.path.basename(path)),
        _line("Number of projections", str(spec.projections)),
        _line("Number of darks", str(spec.darks)),
        _line("Number of flats", str(spec.flats)),
        _line("Number of inter-flats", str(between)),
        _line("Inner scan flag", "0"),
        _line("Flat frequency", str(spec.flats_every)),
        _line("Rot Y min position  [deg]", setting_text(float(spec.angles_deg[0]))),
        _line("Rot Y max position  [deg]", setting_text(float(spec.angles_deg[-1]))),
        _line("Angular step [deg]", setting_text(spec.step_deg)),
        _line("Sample In   [um]", f"{(spec.position_x or 0.0) * 1e6:.0f}"),
        _line("Sample Out  [um]", "10000"),
        "-" * _WIDTH,
    ]


def _section(title: str) -> str:
    return f"{title}-------------------------".rjust(_WIDTH, "-")


def _line(key: str, value: str) -> str:
    return f"{key:<29}: {value}"


TOMCAT = Format(TomcatStack, "", TIFF_FEATURES | {"flats_every", "flats_after", "late_seconds"})
