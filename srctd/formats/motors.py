"""Angles that every EDF file carries in its header, as the position of the rotation motor."""

import math
import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from srctd.core.errors import ScanUnreadable
from srctd.formats.edf import read_header
from srctd.formats.stackroles import Seen

ROTATION_MOTORS = ("srot", "somega")
"""Of the ESRF's tomography beamlines; the first that is there."""


def motor_angles(folder: str, projections: Sequence[Seen], count: int) -> NDArray[np.float64] | None:
    """The angle of every projection by its number, radian, shape (count,); NaN for those that are not there.

    None where the files are no EDF files, or one of them names no rotation motor.
    """
    found = np.full(count, math.nan)
    for seen in projections:
        if not seen.name.lower().endswith(".edf"):
            return None
        path = os.path.join(folder, seen.name)
        angle = _angle(path, read_header(path, seen.page).fields)
        if angle is None:
            return None
        if seen.number < count:
            found[seen.number] = math.radians(angle)
    return found if projections else None


def _angle(path: str, fields: dict[str, str]) -> float | None:
    positions = dict(
        zip(fields.get("motor_mne", "").split(), fields.get("motor_pos", "").split(), strict=False)
    )
    name = next((name for name in ROTATION_MOTORS if name in positions), None)
    if name is None:
        return None
    try:
        angle = float(positions[name])
    except ValueError as exc:
        raise ScanUnreadable(
            f"{path}: the header gives {name} = {positions[name]!r}, which is no angle"
        ) from exc
    return angle if math.isfinite(angle) else None
