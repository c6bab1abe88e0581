"""EDF files as the ESRF's tomography wrote them before BLISS: `.info` first, `.xml` at the end, `.abo` on an abort.

Flats are named by their number in the set and the projection before which they were taken, darks come last, and
images beyond `TOMO_N` are taken on the way back, to see whether the sample moved.
"""

import os
from datetime import datetime
from pathlib import Path
from xml.sax.saxutils import escape

from srctd.sim.detector import Frame
from srctd.sim.plan import Shot
from srctd.sim.sink import Format
from srctd.sim.spec import SimulationSpec
from srctd.sim.stack import FRAME_FILE_FEATURES, FileStack

HEADER_BLOCK = 512
"""Headers are padded to a multiple of so many bytes."""
RING_CURRENT = 196.25
"""mA."""


class EdfStack(FileStack):
    """`<scan>0000.edf`, `ref0000_0000.edf`, `darkend0000.edf` in the folder `<scan>`."""

    def __init__(self, spec: SimulationSpec, path: str) -> None:
        super().__init__(spec, path)
        self._date = f"{datetime.now().astimezone():%a %b %d %H:%M:%S %Y}"

    def name(self, shot: Shot) -> str:
        """The file of a frame."""
        if shot.kind == "flat":
            return f"ref{shot.within:04d}_{shot.taken:04d}.edf"
        if shot.kind == "dark":
            return f"darkend{shot.of_kind:04d}.edf"
        beyond = self._spec.projections if shot.kind == "return" else 0
        return f"{self._prefix}{beyond + shot.of_kind:04d}.edf"

    def encode(self, shot: Shot, frame: Frame) -> bytes:
        """Header and pixels of one frame."""
        rows, columns = frame.shape
        order = self._spec.tiff.byte_order
        motors = {
            "srot": shot.angle_deg,
            "sy": (self._spec.position_x or 0.0) * 1e3,
            "sz": (self._spec.position_z or 0.0) * 1e3,
        }
        fields = {
            "HeaderID": "EH:000001:000000:000000",
            "Image": 1,
            "ByteOrder": "LowByteFirst" if order == "little" else "HighByteFirst",
            "DataType": "UnsignedShort",
            "Dim_1": columns,
            "Dim_2": rows,
            "Size": frame.nbytes,
            "date": self._date,
            "count_time": 0.01,
            "motor_mne": " ".join(motors),
            "motor_pos": " ".join(f"{value:.6g}" for value in motors.values()),
            "counter_mne": "srcur",
            "counter_pos": RING_CURRENT,
        }
        return edf_header(fields) + frame.astype("<u2" if order == "little" else ">u2").tobytes()

    def begin(self) -> None:
        """Write the `.info` file; marks of an earlier scan under this name are taken away."""
        super().begin()
        for mark in (".xml", ".abo"):
            Path(self._beside(mark)).unlink(missing_ok=True)
        self._write(
            ".info", "".join(f"{key}= {value}\n" for key, value in _info(self._spec, self._path, self._date))
        )

    def annotate(self) -> None:
        """Write the `.xml` file."""
        spec = self._spec
        facts = {
            "scanName": self._prefix,
            "date": self._date,
            "energy": spec.energy_kev,
            "distance": spec.distance * 1e3,
            "tomo_N": spec.projections,
            "scanRange": spec.whole_range_deg,
        }
        lines = "".join(f"<{name}>{escape(str(value))}</{name}>\n" for name, value in facts.items())
        self._write(
            ".xml", f"<?xml version='1.0'?>\n<tomodb2>\n<acquisition>\n{lines}</acquisition>\n</tomodb2>\n"
        )

    def abort(self) -> None:
        """Write the `.abo` file."""
        super().abort()
        self._write(".abo", "scan aborted\n")

    def _write(self, suffix: str, text: str) -> None:
        Path(self._beside(suffix)).write_text(text, encoding="utf-8")

    def _beside(self, suffix: str) -> str:
        return os.path.join(self._path, self._prefix + suffix)


def edf_header(fields: dict[str, str | float]) -> bytes:
    """A header in braces, padded with blanks so that the pixels begin at a multiple of the block."""
    text = "{\n" + "".join(f"{key} = {value} ;\n" for key, value in fields.items())
    padding = -(len(text) + len("}\n")) % HEADER_BLOCK
    return (text + " " * padding + "}\n").encode("ascii")


def _info(spec: SimulationSpec, path: str, date: str) -> list[tuple[str, str | int | float]]:
    """Keys and values of the `.info` file, in its order."""
    return [
        ("Energy", spec.energy_kev),
        ("Distance", spec.distance * 1e3),
        ("Prefix", os.path.basename(path)),
        ("Directory", os.path.abspath(path)),
        ("ScanRange", spec.whole_range_deg),
        ("TOMO_N", spec.projections),
        ("REF_ON", spec.flats_every or spec.projections),
        ("REF_N", spec.flats),
        ("DARK_N", spec.all_darks),
        ("Y_STEP", 10),
        ("Dim_1", spec.columns),
        ("Dim_2", spec.rows),
        ("Count_time", 0.01),
        ("Latency_time (s)", 0),
        ("Row_beg", 0),
        ("Row_end", spec.rows - 1),
        ("Col_beg", 0),
        ("Col_end", spec.columns - 1),
        ("PixelSize", spec.pixel_size * 1e6),
        ("Optic_used", spec.pixel_size * 1e6),
        ("Date", date),
        ("SrCurrent", RING_CURRENT),
        ("Acq_mode", "SINGLE"),
    ]


EDF = Format(
    EdfStack,
    "",
    FRAME_FILE_FEATURES | {"flats_every", "flats_after", "return_images", "late_seconds"},
    darks_last=True,
)
