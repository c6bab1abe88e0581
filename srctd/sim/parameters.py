"""The parameter file that a site puts beside frames whose format says nothing: canonical names, with units."""

import configparser
import io
import json

from srctd.sim.spec import ParameterSyntax, SimulationSpec

ParameterValue = str | int | float
PARAMETER_FILE = "scan.json"


def parameters(spec: SimulationSpec) -> dict[str, ParameterValue]:
    """What is known before the first frame."""
    known: dict[str, ParameterValue] = {
        "n_projections": spec.projections,
        "n_flats": spec.flats,
        "n_darks": spec.darks,
        "n_flats_after": spec.flats_after,
        "n_darks_after": spec.darks_after,
        "angle_start": spec.angle_start_deg,
        "angle_start_unit": "deg",
        "angle_range": spec.whole_range_deg,
        "angle_range_unit": "deg",
        "pixel_size": spec.pixel_size * 1e6,
        "pixel_size_unit": "um",
        "energy": spec.energy_kev,
        "energy_unit": "keV",
        "distance": spec.distance * 1e3,
        "distance_unit": "mm",
        "sample": spec.sample,
        "title": spec.title,
        "proposal": spec.proposal,
        "experimenter": spec.experimenter,
        "email": spec.email,
        "instrument": spec.instrument,
    }
    if spec.flat_sets_between:
        known |= {"flats_every": spec.flats_every, "n_flats_between": spec.flats}
    for axis, position in (("x", spec.position_x), ("z", spec.position_z)):
        if position is not None:
            known |= {f"position_{axis}": position * 1e3, f"position_{axis}_unit": "mm"}
    return known


def parameter_text(known: dict[str, ParameterValue], syntax: ParameterSyntax) -> str:
    """The file's text."""
    if syntax == "json":
        return json.dumps(known, indent=2) + "\n"
    parser = configparser.ConfigParser(interpolation=None)
    parser["scan"] = {name: str(value) for name, value in known.items()}
    text = io.StringIO()
    parser.write(text)
    return text.getvalue()
