"""Filtered back-projection by a non-uniform fast Fourier transform.

With Q(t, k) the filtered spectrum of the projection at angle t, P the padded row length, the slice is the sum

    f(x, y) = 1/P  sum_t weight_t  sum_k  Q(t, k) exp(2 pi i k (x cos t + y sin t + center) / P),

the discrete filtered back-projection with exact (trigonometric) interpolation. As it stands it is a Fourier
sum over points on a polar grid, a non-uniform transform of type 1, which finufft (Barnett, Magland, af
Klinteberg, SIAM J. Sci. Comput. 41, C479, 2019, doi:10.1137/18M120885X) evaluates to a given tolerance. Two
slices go through one complex transform, as its real and imaginary part.

Nothing is masked: beyond the circle that every projection sees, radius min(center, n_columns - 1 - center), the
values are what the formula makes of the padded rows; they are not quantitative there.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Literal, TypeVar

import finufft
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from gpu.geometry import angular_weights

_T = TypeVar("_T")
Spectrum = NDArray[np.complex64]

_UPSAMPLING = 1.25
"""finufft's oversampling of the fine grid: 1.25 instead of 2 takes 40 % of the memory and half the time here."""

_FFTW_ESTIMATE = 64
"""Plans by rule, not by measurement: the same plan, and so the same bytes, in every process."""

_FINEST = 1e-6
"""Single precision does not carry a smaller tolerance."""

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


class FourierFBP:
    """Filtered back-projection for one set of angles and one geometry; made once, used for many slices.

    The bytes of a slice do not depend on the number of threads, nor on how rows are divided among calls as long
    as pairs (2i, 2i + 1) stay together. A slice's partner shows in it below the tolerance only.
    """

    def __init__(
        self,
        angles: NDArray[np.float64],
        n_columns: int,
        *,
        center: float,
        filter_name: str,
        padding: str,
        padding_factor: float,
        tolerance: float,
        scale: float = 1.0,
        threads: int = 1,
    ) -> None:
        """Plan the transforms.

        Parameters
        ----------
        angles
            (n_angles,), radian, in any order; see `geometry.angular_weights` for uneven ones and gaps.
        n_columns
            Detector columns; slices are n_columns x n_columns with the axis at their middle.
        center
            Column of the rotation axis, pixel centers at integers.
        filter_name
            `ram-lak`, `shepp-logan`, `cosine`, `hamming`, `hann`, `parzen` or `sinc2`.
        padding
            `edge`: rows go on with their first and last value, meeting opposite the axis; `zero`: with zeros.
        padding_factor
            Row length after padding, in detector widths.
        tolerance
            Relative tolerance of the non-uniform transform.
        scale
            Factor on the values: 1 gives attenuation per pixel, 1/pixel size attenuation per length.
        threads
            Slices worked on at once; each takes about 8 (n_angles P + 2.6 n_columns^2) bytes.

        """
        self.n_angles, self.n_columns, self.threads = len(angles), n_columns, max(1, threads)
        self._length = length = padded_length(n_columns, padding_factor)
        self._edge = padding == "edge"
        self._seam = int(np.clip(round(center + length / 2), n_columns, length))
        self._tolerance = max(tolerance, _FINEST)
        self._cos, self._sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        self._frequency = 2 * np.pi * np.fft.fftfreq(length)[None]
        # The transform's modes are whole numbers; the pixels of an even image lie half-way between them.
        half = 0.5 if n_columns % 2 == 0 else 0.0
        phase = self._frequency * (center + half * (self._cos + self._sin))
        amplitude = angular_weights(angles)[:, None] * ramp_filter(length, filter_name) * (scale / length)
        self._response: Spectrum = (amplitude * np.exp(1j * phase)).astype(np.complex64)
        self._lanes: SimpleQueue[_Lane] = SimpleQueue()
        points = [(self._frequency * part).ravel().astype(np.float32) for part in (self._sin, self._cos)]
        for _ in range(self.threads):
            self._lanes.put(_Lane(self, points))

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
                image = lane.plan.execute(lane.spectrum.reshape(-1), out=lane.image)
                out[first] = image.real
                if first + 1 < len(sinograms):
                    out[first + 1] = image.imag
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
        shift = np.exp(1j * self._frequency * across * (position - self.n_columns // 2))
        response = (self._response * shift).astype(np.complex64)
        points = (self._frequency * along).ravel().astype(np.float32)
        out = np.empty((len(sinograms), self.n_columns), np.float32)

        def batch(firsts: range) -> None:
            spectra = np.zeros((_SECTION_PAIRS, self.n_angles, self._length), np.complex64)
            plan = self._plan((self.n_columns,), _SECTION_PAIRS)
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

    def _plan(self, modes: tuple[int, ...], transforms: int) -> finufft.Plan:
        return finufft.Plan(
            1,
            modes,
            transforms,
            eps=self._tolerance,
            isign=1,
            dtype="complex64",
            nthreads=1,
            upsampfac=_UPSAMPLING,
            fftw=_FFTW_ESTIMATE,
        )

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


class _Lane:
    """What one thread needs to reconstruct a pair of slices: a plan and its buffers."""

    def __init__(self, owner: FourierFBP, points: list[NDArray[np.float32]]) -> None:
        n = owner.n_columns
        self.plan = owner._plan((n, n), 1)
        self.plan.setpts(*points)
        self.spectrum: Spectrum = np.empty(owner._response.shape, np.complex64)
        self.image: Spectrum = np.empty((n, n), np.complex64)
