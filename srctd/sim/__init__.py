"""A detector that writes scans as a real one would, in the formats of many beamlines."""

from srctd.sim.detector import Flaws
from srctd.sim.phantom import Geometry, reference_slice, sample
from srctd.sim.spec import Faults, Hdf5Options, Series, SimulationSpec, TiffOptions
from srctd.sim.writer import simulate

__all__ = [
    "Faults",
    "Flaws",
    "Geometry",
    "Hdf5Options",
    "Series",
    "SimulationSpec",
    "TiffOptions",
    "reference_slice",
    "sample",
    "simulate",
]
