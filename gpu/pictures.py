"""Grayscale pictures: three orthogonal slices for the catalogue, the strip of trial axes for a person."""

import functools
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Slice = NDArray[np.float32]
Decorate = Callable[[ImageDraw.ImageDraw, Image.Image, float], None]
"""Draws upon a montage; is given its first picture and the length per drawn pixel."""

PANEL = 320
"""Largest width and height of one picture in a montage, pixel."""
LIMIT_BYTES = 200_000
"""A catalogue keeps its thumbnails inside its database: stay below."""
GAP = 6
LABEL_HEIGHT = 16
WHITE = 255


@dataclass(frozen=True)
class Panel:
    """One picture of a montage."""

    image: Slice
    """(n_y, n_x)."""
    label: str
    spacing: tuple[float, float] = (1.0, 1.0)
    """Distance of neighboring samples along y and x, in one and the same unit."""


def gray_window(image: Slice) -> tuple[float, float]:
    """Values shown as black and as white: the 0.5 % and 99.5 % percentiles inside the inscribed circle.

    The corners outside the circle are no result, and would spread the window. Never empty: a constant picture
    gets a window around its value.
    """
    n_y, n_x = image.shape
    y, x = np.ogrid[-1 : 1 : n_y * 1j, -1 : 1 : n_x * 1j]
    inside = image[x * x + y * y <= 1] if min(n_y, n_x) > 2 else image.ravel()
    values = inside[np.isfinite(inside)]
    if not len(values):
        return 0.0, 1.0
    low, high = np.percentile(values, (0.5, 99.5)).tolist()
    if high > low:
        return low, high
    return low - 0.5 * max(abs(low), 1.0), low + 0.5 * max(abs(low), 1.0)


def to_gray(image: Slice, window: tuple[float, float]) -> NDArray[np.uint8]:
    """The picture in 8 bits, black below and white above the window; what is not finite is black."""
    low, high = window
    scaled = (np.nan_to_num(image, nan=low, posinf=high, neginf=low) - low) * (255 / (high - low))
    gray: NDArray[np.uint8] = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return gray


def orthogonal(panels: Sequence[Panel], *, pixel_size: float | None) -> bytes:
    """Slices side by side in the gray window of the first, with a scale bar; PNG of less than `LIMIT_BYTES`.

    `spacing` of the panels counts detector pixels; `pixel_size` is their size in metre, if known.
    """
    return _fit(panels, panels[0], functools.partial(_scale_bar, pixel_size=pixel_size))


def axis_strip(panels: Sequence[Panel]) -> bytes:
    """Trial slices side by side, each under its own axis position; PNG of less than `LIMIT_BYTES`."""
    return _fit(panels, panels[len(panels) // 2], None)


def _fit(panels: Sequence[Panel], reference: Panel, decorate: Decorate | None) -> bytes:
    """Draw smaller until the file is small enough: noise does not compress."""
    window = gray_window(reference.image)
    side = float(PANEL)
    while True:
        buffer = io.BytesIO()
        _montage(panels, window, int(side), decorate).save(buffer, format="PNG", optimize=True)
        if buffer.tell() < LIMIT_BYTES or side < 32:
            return buffer.getvalue()
        side *= 0.85


def _montage(
    panels: Sequence[Panel], window: tuple[float, float], side: int, decorate: Decorate | None
) -> Image.Image:
    step = _common_step(panels, side)
    drawn = [_draw(panel, window, step) for panel in panels]
    font = ImageFont.load_default(size=11)
    widths = [
        max(image.width, int(font.getlength(panel.label)) + 2)
        for image, panel in zip(drawn, panels, strict=True)
    ]
    size = (sum(widths) + GAP * (len(panels) - 1), max(image.height for image in drawn) + LABEL_HEIGHT)
    montage = Image.new("L", size)
    pen = ImageDraw.Draw(montage)
    left = 0
    for image, panel, width in zip(drawn, panels, widths, strict=True):
        montage.paste(image, (left, LABEL_HEIGHT))
        pen.text((left + 1, 1), panel.label, fill=WHITE, font=font)
        left += width + GAP
    if decorate:
        decorate(pen, drawn[0], step)
    return montage


def _common_step(panels: Sequence[Panel], side: int) -> float:
    """Length per drawn pixel such that every panel fits into a square of `side`; the same for all."""
    extents = [
        samples * distance
        for panel in panels
        for samples, distance in zip(panel.image.shape, panel.spacing, strict=True)
    ]
    finest = min(min(panel.spacing) for panel in panels)
    return float(max(max(extents) / side, finest))


def _draw(panel: Panel, window: tuple[float, float], step: float) -> Image.Image:
    n_y, n_x = panel.image.shape
    height = max(1, round(n_y * panel.spacing[0] / step))
    width = max(1, round(n_x * panel.spacing[1] / step))
    image = Image.fromarray(to_gray(panel.image, window))
    return image.resize((width, height), Image.Resampling.BOX)


def _scale_bar(
    pen: ImageDraw.ImageDraw, image: Image.Image, step: float, *, pixel_size: float | None
) -> None:
    """A bar of a round length, a fifth to a half of the first panel's width, in its lower left corner."""
    length = _round_length(0.4 * image.width * step * (pixel_size or 1.0))
    pixels = length / (step * (pixel_size or 1.0))
    text = _length_text(length) if pixel_size else f"{length:g} px"
    bottom = LABEL_HEIGHT + image.height - 5
    pen.rectangle((4, bottom - 3, 4 + pixels, bottom), fill=WHITE, outline=0)
    font = ImageFont.load_default(size=11)
    pen.text((5, bottom - 18), text, fill=WHITE, font=font, stroke_width=1, stroke_fill=0)


def _round_length(longest: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is no longer."""
    power = 10.0 ** math.floor(math.log10(longest))
    return power * max(factor for factor in (1, 2, 5) if factor * power <= longest * (1 + 1e-9))


def _length_text(metres: float) -> str:
    for factor, unit in ((1e-3, "mm"), (1e-6, "um")):
        if metres >= factor * (1 - 1e-9):
            return f"{metres / factor:g} {unit}"
    return f"{metres / 1e-9:g} nm"
