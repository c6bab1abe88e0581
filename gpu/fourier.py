"""Filtered back-projection by a non-uniform fast Fourier transform.

With Q(t, k) the filtered spectrum of the projection at angle t, P the padded row length, the slice is the sum

    f(x, y) = 1/P  sum_t weight_t  sum_k  Q(t, k) exp(2 pi i k (x cos t + y sin t + center) / P),

the discrete filtered back-projection with exact (trigonometric) interpolation. As it stands it is a Fourier sum
over points on a polar grid, a non-uniform transform of type 1 (`kernels.nufft`), evaluated to a given tolerance.
Two slices go through one complex transform, as its real and imaginary part.

Nothing is masked: beyond the circle that every projection sees, radius min(center, n_columns - 1 - center), the
values are what the formula makes of the padded rows; they are not quantitative there.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Literal, NamedTuple, TypeVar

import finufft
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from gpu.geometry import angular_weights
from gpu.kernels.device import Device
from gpu.kernels.nufft import ImageTransform, spread_options
from gpu.kernels.polar import MOST_PAIRS, PolarTransform

_T = TypeVar("_T")
Angles = NDArray[np.float64]
Spectrum = NDArray[np.complex64]

_BLOCK_BYTES = 1 << 20
"""Rows filtered at once: they stay in the cache of a core through packing, FFT and filter."""

_SECTION_PAIRS = 4
"""Pairs of rows that one 1-D transform takes at once."""

_WINDOWS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "ram-lak": np.ones_like,
    "shepp-logan": np.sinc,
    "cosine": lambda f: np.cos(np.pi * f),
    "hamming": lambda f: 0.54 + 0.46 * np.cos(2 * np.pi * f),
    "hann": lambda f: 0.5 + 0.5 * np.cos(2 * np.pi * f),
    "parzen": lambda f: np.where(f < 0.25, 1 - 24 * f**2 * (1 - 2 * f), 2 * (1 - 2 * f) ** 3),
    "sinc2": lambda f: np.sinc(f) ** 2,
}
"""Apodization by the frequency's magnitude, 0 to 0.5 per pixel."""


def padded_length(n_columns: int, padding_factor: float) -> int:
    """Length of a detector row after padding: at least `padding_factor` widths, and quick to transform."""
    return int(scipy.fft.next_fast_len(max(2, int(np.ceil(padding_factor * n_columns)))))


def ramp_filter(length: int, name: str) -> NDArray[np.float64]:
    """Transfer function of the ramp and its window on the frequencies of a DFT of `length`.

    The ramp is the transform of the band-limited kernel sampled at whole pixels (Kak and Slaney, Principles of
    Computerized Tomographic Imaging, eq. 3.61), not sampled |f|: that would lose the mean value. The Nyquist
    frequency, whose phase no real row determines, is left out.
    """
    distance = np.minimum(np.arange(length), length - np.arange(length))
    kernel = np.zeros(length)
    kernel[0] = 0.25
    odd = distance % 2 == 1
    kernel[odd] = -1.0 / (np.pi * distance[odd]) ** 2
    transfer = np.fft.fft(kernel).real * _WINDOWS[name](np.abs(np.fft.fftfreq(length)))
    if length % 2 == 0:
        transfer[length // 2] = 0
    return transfer


@dataclass(frozen=True, kw_only=True)
class FourierPlan:
    """What is computed: filtered back-projection for one set of angles and one geometry."""

    angles: Angles
    """(n_angles,), radian, in any order; see `geometry.angular_weights` for uneven ones and gaps."""
    n_columns: int
    """Of the detector; slices are n_columns x n_columns with the axis at their middle."""
    center: float
    """Column of the rotation axis, pixel centers at integers."""
    filter_name: str
    """`ram-lak`, `shepp-logan`, `cosine`, `hamming`, `hann`, `parzen` or `sinc2`."""
    padding: str
    """`edge`: rows go on with their first and last value, meeting opposite the axis; `zero`: with zeros."""
    padding_factor: float
    """Row length after padding, in detector widths."""
    tolerance: float
    """Relative tolerance of the non-uniform transform."""
    scale: float = 1.0
    """Factor on the values: 1 gives attenuation per pixel, 1/pixel size attenuation per length."""

    @property
    def length(self) -> int:
        """Of a row after padding."""
        return padded_length(self.n_columns, self.padding_factor)

    @property
    def edge(self) -> bool:
        """Whether rows go on with their edge values."""
        return self.padding == "edge"

    @property
    def seam(self) -> int:
        """Where in the padding the right edge's value gives way to the left edge's."""
        return int(np.clip(round(self.center + self.length / 2), self.n_columns, self.length))

    def response(self) -> Spectrum:
        """Filter, weight of the angle and phase of the axis, (n_angles, padded length).

        In double precision, angle by angle, before it is rounded: the phases reach thousands of radians.
        """
        transfer = ramp_filter(self.length, self.filter_name) / self.length
        frequency = 2 * np.pi * np.fft.fftfreq(self.length)
        weights = angular_weights(self.angles) * self.scale
        # The transform's modes are whole numbers; the pixels of an even image lie half-way between them.
        half = 0.5 if self.n_columns % 2 == 0 else 0.0
        response: Spectrum = np.empty((len(self.angles), self.length), np.complex64)
        for row, weight, angle in zip(response, weights, self.angles, strict=True):
            shift = self.center + half * (np.cos(angle) + np.sin(angle))
            row[:] = weight * transfer * np.exp(1j * frequency * shift)
        return response

    def on(self, device: Device, pairs: int = MOST_PAIRS) -> PolarTransform:
        """The same on a device, with so many pairs of slices at once."""
        return PolarTransform(
            device, self.angles, self.response(), self.n_columns,
            tolerance=self.tolerance, seam=self.seam, edge=self.edge, pairs=pairs,
        )  # fmt: skip


class FourierFBP:
    """Filtered back-projection on the CPU; made once, used for many slices.

    The bytes of a slice do not depend on the number of threads, nor on how rows are divided among calls as long
    as pairs (2i, 2i + 1) stay together. A slice's partner shows in it below the tolerance only.
    """

    def __init__(self, plan: FourierPlan, threads: int = 1) -> None:
        """Plan the transforms.

        `threads`: pairs of slices worked on at once; each takes about 16 n_angles P + 13 n_columns^2 bytes.
        """
        self.n_angles, self.n_columns, self.threads = len(plan.angles), plan.n_columns, max(1, threads)
        self._length, self._edge, self._seam = plan.length, plan.edge, plan.seam
        self._tolerance = plan.tolerance
        self._cos, self._sin = np.cos(plan.angles), np.sin(plan.angles)
        self._frequency = 2 * np.pi * np.fft.fftfreq(self._length)
        self._response = plan.response()
        points = [self._points(part) for part in (self._sin, self._cos)]
        self._lanes: SimpleQueue[_Lane] = SimpleQueue()
        for _ in range(self.threads):
            spectrum = np.empty_like(self._response)
            self._lanes.put(
                _Lane(spectrum, ImageTransform(points[0], points[1], self.n_columns, self._tolerance))
            )

    def reconstruct(self, sinograms: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Reconstruct slices.

        Parameters
        ----------
        sinograms
            (n_rows, n_angles, n_columns), float32, finite. Rows 2i and 2i + 1 are worked on together.
        out
            (n_rows, n_columns, n_columns), float32, written.

        """
        self._check(sinograms)

        def pair(first: int) -> None:
            lane = self._lanes.get()
            try:
                self._filter(sinograms[first : first + 2], self._response, lane.spectrum)
                partner = out[first + 1] if first + 1 < len(sinograms) else None
                lane.transform(lane.spectrum.reshape(-1), out[first], partner)
            finally:
                self._lanes.put(lane)

        self._each(pair, range(0, len(sinograms), 2))

    def section(
        self, sinograms: NDArray[np.float32], *, axis: Literal["x", "y"], position: float
    ) -> NDArray[np.float32]:
        """One line of every slice: the section through the volume along the rotation axis.

        The same sum as `reconstruct` restricted to a line, so it agrees with the full slices to the tolerance
        and costs a small part of them.

        Parameters
        ----------
        sinograms
            (n_rows, n_angles, n_columns), float32, finite.
        axis
            `x`: the line runs along x; `y`: along y.
        position
            Index of the line in the slice, in pixels: slice[position, :] for `x`, slice[:, position] for `y`.

        Returns
        -------
        (n_rows, n_columns), float32.

        """
        self._check(sinograms)
        along, across = (self._cos, self._sin) if axis == "x" else (self._sin, self._cos)
        response, points = self._response.copy(), self._points(along)
        for row, part in zip(response, across, strict=True):
            row *= np.exp(1j * self._frequency * (part * (position - self.n_columns // 2)))
        out = np.empty((len(sinograms), self.n_columns), np.float32)

        def batch(firsts: range) -> None:
            spectra = np.zeros((_SECTION_PAIRS, self.n_angles, self._length), np.complex64)
            plan = finufft.Plan(1, (self.n_columns,), _SECTION_PAIRS, **spread_options(self._tolerance))
            plan.setpts(points)
            for first in firsts:
                block = sinograms[first : first + 2 * _SECTION_PAIRS]
                for i in range(0, len(block), 2):
                    self._filter(block[i : i + 2], response, spectra[i // 2])
                lines = plan.execute(spectra.reshape(_SECTION_PAIRS, -1))
                pairs = np.stack([lines.real, lines.imag], axis=1).reshape(-1, self.n_columns)
                out[first : first + len(block)] = pairs[: len(block)]

        starts = range(0, len(sinograms), 2 * _SECTION_PAIRS)
        self._each(batch, [starts[i :: self.threads] for i in range(min(self.threads, len(starts)))])
        return out

    def _points(self, part: Angles) -> NDArray[np.float32]:
        """Frequencies along one direction of the image, radian per pixel, in the order of a raveled spectrum."""
        points = np.empty((self.n_angles, self._length), np.float32)
        np.multiply(self._frequency, part[:, None], out=points, casting="same_kind")
        return points.ravel()

    def _filter(self, pair: NDArray[np.float32], response: Spectrum, out: Spectrum) -> None:
        """Spectrum of one or two sinograms, padded, packed and filtered, to `out` (n_angles, padded length)."""
        n, seam = self.n_columns, self._seam
        height = max(1, _BLOCK_BYTES // (8 * self._length))
        for first in range(0, self.n_angles, height):
            rows = slice(first, first + height)
            block = out[rows]
            block[:, :n].real = pair[0, rows]
            block[:, :n].imag = pair[1, rows] if len(pair) == 2 else 0
            block[:, n:seam] = block[:, n - 1 : n] if self._edge else 0
            block[:, seam:] = block[:, :1] if self._edge else 0
            # In place where scipy can; the product lands in `out` either way.
            np.multiply(scipy.fft.fft(block, axis=1, overwrite_x=True), response[rows], out=block)

    def _each(self, work: Callable[[_T], None], items: Iterable[_T]) -> None:
        """Do the work for every item, over the threads; finufft, the FFT and numpy let go of the interpreter."""
        if self.threads == 1:
            for item in items:
                work(item)
            return
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(work, items))

    def _check(self, sinograms: NDArray[np.float32]) -> None:
        if sinograms.shape[1:] != (self.n_angles, self.n_columns):
            expected = f"(n_rows, {self.n_angles}, {self.n_columns})"
            raise ValueError(f"sinograms of shape {sinograms.shape} where {expected} was planned")


class _Lane(NamedTuple):
    """What one thread needs to reconstruct a pair of slices."""

    spectrum: Spectrum
    transform: ImageTransform
