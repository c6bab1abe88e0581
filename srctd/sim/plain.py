"""A plain TIFF stack with the angles in a text file, as processed scans of Diamond's I13 are handed out."""

import os
from pathlib import Path

from srctd.sim.plan import Shot, plan
from srctd.sim.sink import Format
from srctd.sim.stack import TIFF_FEATURES, PagedStack

ANGLES_FILE = "angles.txt"


class PlainStack(PagedStack):
    """`tiffs/raw_00000.tiff`, `flat_00001.tiff`, `dark_00001.tiff`; then the angles, a line for every frame."""

    def name(self, shot: Shot) -> str:
        """The file of a frame."""
        if shot.kind == "projection":
            return f"tiffs/raw_{shot.of_kind:05d}.tiff"
        return f"{shot.kind}_{shot.of_kind + 1:05d}.tiff"

    def annotate(self) -> None:
        """Write the angles; where the beam was off or the sample out, the stage stood still."""
        lines = "\n".join(f"{shot.angle_deg:.10g}" for shot in plan(self._spec))
        Path(os.path.join(self._path, ANGLES_FILE)).write_text(lines, encoding="utf-8")


PLAIN = Format(
    PlainStack, "", TIFF_FEATURES | {"pages", "flats_every", "flats_after", "darks_after", "late_seconds"}
)
