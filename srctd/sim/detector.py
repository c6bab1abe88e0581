"""An area detector in an uneven beam: what it makes of a shadow, in counts.

Each frame has its own random numbers, from the seed and the frame's number: frames can be made one at a time, in
any order, and come out the same.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from srctd.sim.phantom import Geometry, Image

Frame = NDArray[np.uint16]

DARK_LEVEL = 100.0
"""Counts without beam."""
READ_NOISE = 3.0
"""Counts, standard deviation."""
SATURATED = 65535
_FEW_COUNTS = 500.0
"""Below, Poisson's distribution is drawn itself; above, the normal one of the same variance stands for it."""


class Flaws(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with a detector."""

    noise: bool = True
    dead_pixels: int = 8
    """Pixels that are 0 in every frame."""
    hot_pixels: int = 8
    """Pixels that are saturated in every frame."""
    ring_columns: int = 6
    """Columns whose gain drifted after the flats were taken: rings in the slices."""
    ring_strength: float = 0.02
    """Relative drift of such a column, standard deviation."""


class Detector:
    """Makes frames of one geometry, shape (rows, columns), uint16."""

    def __init__(self, geometry: Geometry, counts: float, flaws: Flaws, seed: int) -> None:
        rng = np.random.default_rng((seed, 0))
        rows, columns = geometry.rows, geometry.columns
        self._shape, self._flaws, self._seed = (rows, columns), flaws, seed
        self._beam = (counts * _beam_profile(rows, columns) * _gain(rng, rows, columns)).astype(np.float32)
        self._few = bool(self._beam.min() * 0.1 < _FEW_COUNTS)

        drift = np.ones(columns, np.float32)
        drifting = rng.choice(columns, min(flaws.ring_columns, columns), replace=False)
        drift[drifting] += flaws.ring_strength * rng.standard_normal(len(drifting)).astype(np.float32)
        self._drift = drift

        bad = rng.choice(
            rows * columns, min(flaws.dead_pixels + flaws.hot_pixels, rows * columns), replace=False
        )
        self.dead = np.unravel_index(bad[: flaws.dead_pixels], self._shape)
        self.hot = np.unravel_index(bad[flaws.dead_pixels :], self._shape)

    def dark(self, number: int) -> Frame:
        """A frame without beam; `number` counts all frames of the scan."""
        return self._read_out(np.zeros(self._shape, np.float32), number)

    def flat(self, number: int) -> Frame:
        """A frame of the beam without a sample."""
        return self._read_out(self._beam.copy(), number)

    def projection(self, line_integrals: Image, number: int) -> Frame:
        """A frame of a sample with these line integrals of the attenuation."""
        light = np.exp(-line_integrals)
        light *= self._beam
        light *= self._drift
        return self._read_out(light, number)

    def _read_out(self, light: Image, number: int) -> Frame:
        """Add the light's own noise, the dark level and the read noise; changes `light`."""
        if self._flaws.noise:
            rng = np.random.Generator(np.random.SFC64((self._seed, 1, number)))
            noise = rng.standard_normal(self._shape, dtype=np.float32)
            if self._few:
                light = rng.poisson(light).astype(np.float32)
                noise *= np.float32(READ_NOISE)
            else:  # both noises are normal: one draw of the summed variance
                noise *= np.sqrt(light + np.float32(READ_NOISE**2))
            light += noise
        light += np.float32(DARK_LEVEL + 0.5)
        np.clip(light, 0, SATURATED, out=light)
        frame = light.astype(np.uint16)
        frame[self.dead] = 0
        frame[self.hot] = SATURATED
        return frame


def _beam_profile(rows: int, columns: int) -> NDArray[np.float64]:
    """A beam that is bright in the middle, with the stripes of a multilayer monochromator."""
    v = np.linspace(-1, 1, rows)[:, None]
    u = np.linspace(-1, 1, columns)[None, :]
    stripes = 1 + 0.03 * np.sin(19 * v) + 0.02 * np.sin(41 * v + 1.3)
    return np.exp(-0.35 * v**2 - 0.15 * (u - 0.2) ** 2) * stripes


def _gain(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.float64]:
    """Fixed pattern of the pixels and of the columns' amplifiers; the flats take it out."""
    pixels = 1 + 0.01 * rng.standard_normal((rows, columns))
    return pixels * (1 + 0.01 * rng.standard_normal((1, columns)))
