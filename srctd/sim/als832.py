"""Beamline 8.3.2 at the ALS before it wrote HDF5: TIFF files beside each other, and the settings in a `.sct` file.

Names as in dxchange (`read_als_832`): flats and darks carry their number in the set and the projection at which
they were taken.
"""

from pathlib import Path

from srctd.sim.plan import Shot
from srctd.sim.sink import Format
from srctd.sim.spec import SimulationSpec
from srctd.sim.stack import TIFF_FEATURES, FileStack


class AlsStack(FileStack):
    """`<name>_0000_0000.tif`, `<name>bak_0000_0000.tif`, `<name>drk_0000_0000.tif`."""

    def name(self, shot: Shot) -> str:
        """The file of a frame."""
        if shot.kind == "projection":
            return f"{self._prefix}_0000_{shot.of_kind:04d}.tif"
        role = {"flat": "bak", "dark": "drk"}[shot.kind]
        at = min(shot.taken, self._spec.projections - 1)
        return f"{self._prefix}{role}_{shot.within:04d}_{at:04d}.tif"

    def begin(self) -> None:
        """Write the settings."""
        super().begin()
        text = "\n".join(_settings(self._spec)) + "\n"
        Path(self._place(f"{self._prefix}.sct")).write_text(text, encoding="utf-8")


def _settings(spec: SimulationSpec) -> list[str]:
    """The settings; the range ends at the last projection, which is how the beamline's readers take it."""
    return [
        f"-scanner {spec.instrument}",
        f"-object {spec.sample}",
        f"-senergy {spec.energy_kev * 1e3:.2f}",
        "-scurrent 500.00",
        f"-pxsize {spec.pixel_size * 1e3:.6f}",
        f"-nslices {spec.rows}",
        f"-nrays {spec.columns}",
        f"-nangles {spec.projections}",
        f"-arange {spec.angles_deg[-1] - spec.angles_deg[0]:.6f}",
        f"-i0cycle {spec.flats_every}",
        f"-num_bright_field {spec.flats}",
        f"-num_dark_fields {spec.darks}",
    ]


ALS832 = Format(AlsStack, "", TIFF_FEATURES | {"flats_every", "flats_after", "darks_after"})
