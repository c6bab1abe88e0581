"""Stacks of TIFF files with a name for every role and no log of their own; named as at the facilities."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from srctd.sim.parameters import PARAMETER_FILE, parameter_text, parameters
from srctd.sim.plan import Shot
from srctd.sim.sink import Format
from srctd.sim.spec import SimulationSpec
from srctd.sim.stack import TIFF_FEATURES, PagedStack

NameOf = Callable[[Shot], str]


def _kit(shot: Shot) -> str:
    """ANKA, KIT: a folder for every role."""
    folder = {"dark": "darks", "flat": "flats"}.get(shot.kind, "radios")
    return f"{folder}/image_{shot.of_kind:05d}.tif"


def _elettra(shot: Shot) -> str:
    """SYRMEP: all in one folder, numbers from 1, those of flats and darks without leading zeros."""
    return (
        f"tomo_{shot.of_kind + 1:04d}.tif"
        if shot.kind == "projection"
        else f"{shot.kind}_{shot.of_kind + 1}.tif"
    )


def _petra(shot: Shot) -> str:
    """P05: a numbered run for every role."""
    run = {"dark": 0, "flat": 1}.get(shot.kind, 2)
    return f"scan_{run:04d}/ccd/pco01/ccd_{shot.of_kind:04d}.tif"


def _australian(shot: Shot) -> str:
    """The Australian Synchrotron's MicroCT: what was taken before and after the projections is told apart."""
    if shot.kind == "projection":
        return f"SAMPLE_T_{shot.of_kind:04d}.tif"
    role = {"dark": "DF", "flat": "BG"}[shot.kind]
    when = "AFTER" if shot.taken else "BEFORE"
    return f"{role}__{when}_{shot.within:02d}.tif"


_NAMES: Mapping[str, NameOf] = {"kit": _kit, "elettra": _elettra, "petra": _petra, "australian": _australian}


class NamedStack(PagedStack):
    """Frames named by their role; the parameter file comes first."""

    def __init__(self, spec: SimulationSpec, path: str) -> None:
        super().__init__(spec, path)
        self._name_of = _NAMES[spec.format]

    def name(self, shot: Shot) -> str:
        """The file of a frame."""
        return self._name_of(shot)

    def begin(self) -> None:
        """Write the parameter file."""
        super().begin()
        text = parameter_text(parameters(self._spec), "json")
        Path(os.path.join(self._path, PARAMETER_FILE)).write_text(text, encoding="utf-8")


_FEATURES = TIFF_FEATURES | {"pages", "flats_after", "darks_after"}
NAMED = Format(NamedStack, "", _FEATURES | {"flats_every"})
AUSTRALIAN = Format(NamedStack, "", _FEATURES)
