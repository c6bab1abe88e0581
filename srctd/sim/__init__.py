"""A detector that writes scans as a real one would."""

from srctd.sim.detector import Flaws
from srctd.sim.phantom import Geometry, reference_slice, sample
from srctd.sim.writer import SimulationSpec, simulate

__all__ = ["Flaws", "Geometry", "SimulationSpec", "reference_slice", "sample", "simulate"]
