"""How the values of a volume are stored: as they are, or as 16-bit integers over a range."""

import math
from typing import NamedTuple

from srctd.core.errors import HoldError
from srctd.core.recipe import ParameterFile
from srctd.core.scan import ScanHeader

FLOAT, SIXTEEN_BIT = "float32", "uint16"
ITEM_BYTES = {FLOAT: 4, SIXTEEN_BIT: 2}
LARGEST = 65535
"""Integer that stands for the upper end of the range; 0 stands for the lower."""
WIDER = 0.5
"""Of what the preview's slices span, on either side: other slices reach farther, and there are steps to spare."""


class Scaling(NamedTuple):
    """Value = offset + scale x stored integer, in the unit of the volume."""

    offset: float
    scale: float

    @property
    def maximum(self) -> float:
        """The largest value that can be stored."""
        return self.offset + LARGEST * self.scale


def item_bytes(parameters: ParameterFile) -> int:
    """Bytes of one voxel."""
    return ITEM_BYTES[str(parameters.value("output_dtype"))]


def volume_bytes(parameters: ParameterFile, header: ScanHeader) -> int:
    """Bytes of the volume of a scan, as its parameters want it."""
    first, end = parameters.rows(header.n_rows)
    return item_bytes(parameters) * max(0, end - first) * header.n_columns**2


def scaling(parameters: ParameterFile) -> Scaling | None:
    """How values become integers; None: they do not. Raises `HoldError` where the range is not known, or none."""
    if parameters.value("output_dtype") == FLOAT:
        return None
    if parameters.value("output_minimum") is None or parameters.value("output_maximum") is None:
        raise HoldError(
            f"{parameters.scan}: the range of a 16-bit volume is not known", hint="run the preview first"
        )
    low, high = parameters.number("output_minimum"), parameters.number("output_maximum")
    scale = (high - low) / LARGEST
    if not (scale > 0 and math.isfinite(scale)):
        raise HoldError(
            f"{parameters.scan}: output_minimum = {low:g} is not below output_maximum = {high:g}",
            hint="correct them, or leave them to be estimated",
        )
    return Scaling(low, scale)


def widened(low: float, high: float) -> tuple[float, float]:
    """The range of a volume of whose values some slices show `low` to `high`."""
    span = (high - low) or abs(high) or 1.0
    return low - WIDER * span, high + WIDER * span
