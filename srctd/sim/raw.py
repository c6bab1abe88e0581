"""One file of pixels and nothing else, growing frame by frame, and a parameter file that was there before it."""

import os
from pathlib import Path
from typing import IO

from srctd.sim.detector import Frame
from srctd.sim.parameters import parameter_text, parameters
from srctd.sim.plan import Shot
from srctd.sim.sink import Format
from srctd.sim.spec import SimulationSpec


class RawFile:
    """`<name>.raw` with `<name>.json` or `<name>.ini` in the folder `<name>`.

    A frame's place follows from its number: what is dropped is a hole of zeros.
    """

    def __init__(self, spec: SimulationSpec, path: str) -> None:
        self._spec, self._folder = spec, path
        self._stem = os.path.join(path, os.path.basename(path))
        self._file: IO[bytes] | None = None
        self._rest: tuple[int, bytes] | None = None
        """The second half of a frame that arrived cut short, and its place."""

    def begin(self) -> None:
        """Write the parameter file; make the file of frames, in full size where it is asked for."""
        spec = self._spec
        os.makedirs(self._folder, exist_ok=True)
        known = parameters(spec) | {
            "n_rows": spec.rows,
            "n_columns": spec.columns,
            "dtype": "uint16",
            "byte_order": spec.tiff.byte_order,
            "header_bytes": 0,
        }
        text = parameter_text(known, spec.parameters)
        Path(f"{self._stem}.{spec.parameters}").write_text(text, encoding="utf-8")
        self._file = open(f"{self._stem}.raw", "wb")  # noqa: SIM115 (closed by `end` and `abort`)
        if spec.presized:
            self._file.truncate(spec.frames * spec.rows * spec.columns * 2)

    def frame(self, shot: Shot, frame: Frame) -> None:
        """Write a frame at its place."""
        self._complete()
        pixels = frame.astype("<u2" if self._spec.tiff.byte_order == "little" else ">u2").tobytes()
        begin = shot.number * len(pixels)
        half = len(pixels) // 2 if self._spec.faults.arrival == "truncated" else len(pixels)
        self._put(begin, pixels[:half])
        self._rest = (begin + half, pixels[half:])

    def end(self) -> None:
        """Complete the last frame and close the file."""
        self._complete()
        self.abort()

    def annotate(self) -> None:
        """There is nothing to add."""

    def abort(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _complete(self) -> None:
        if self._rest is not None:
            self._put(*self._rest)
            self._rest = None

    def _put(self, place: int, data: bytes) -> None:
        assert self._file is not None
        self._file.seek(place)
        self._file.write(data)
        self._file.flush()


RAW = Format(
    RawFile,
    "",
    frozenset(
        {
            "byte_order",
            "presized",
            "drop",
            "truncated",
            "shuffle",
            "parameters",
            "flats_every",
            "flats_after",
            "darks_after",
        }
    ),
)
