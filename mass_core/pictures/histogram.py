"""Histogram of mask sizes as a picture."""

import math

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from ..masks.statistics import QUANTILES
from ..outputs import amount
from .panels import BACKGROUND, Ink, font

_HEIGHT, _BARS = 190, 40
_BAR: Ink = (72, 132, 190)
_TEXT: Ink = (205, 205, 205)
_FAINT: Ink = (90, 95, 105)


def draw_histogram(ml: ArrayLike, width: int) -> Image.Image:
    """Counts by size, sizes on a logarithmic scale, quantiles in words.

    Args:
        ml: volume of each mask, above 0; none is fine.
        width: of the picture in pixels.
    """
    volumes = np.asarray(ml, np.float64)
    picture = Image.new("RGB", (width, _HEIGHT if volumes.size else 34), BACKGROUND)
    pen = ImageDraw.Draw(picture)
    if not volumes.size:
        pen.text((0, 17), "Sizes: there are no masks", fill=_TEXT, font=font(15), anchor="lm")
        return picture
    low, median, high = np.quantile(volumes, (QUANTILES[0], 0.5, QUANTILES[-1])).tolist()
    heading = f"Sizes: half of the masks are below {amount(median)}, 90 % between {amount(low)} and {amount(high)}"
    pen.text((0, 17), heading, fill=_TEXT, font=font(15), anchor="lm")
    _draw_bars(pen, np.log10(volumes), (44, 36, width - 4, _HEIGHT - 28))
    return picture


def _draw_bars(pen: ImageDraw.ImageDraw, logs: np.ndarray, area: tuple[int, int, int, int]) -> None:
    """Bars over decades of ml; the area is left, top, right and bottom of the axes."""
    left, top, right, bottom = area
    # Sizes that are all alike still need an axis of some length.
    first, last = float(logs.min()) - 0.05, float(logs.max()) + 0.05
    counts, edges = np.histogram(logs, bins=_BARS, range=(first, last))
    places = left + (edges - first) / (last - first) * (right - left)
    tallest = int(counts.max())
    for count, start, stop in zip(counts.tolist(), places[:-1].tolist(), places[1:].tolist(), strict=True):
        if count:
            pen.rectangle((round(start) + 1, bottom - max(1, round(count / tallest * (bottom - top))), round(stop) - 1, bottom), fill=_BAR)
    pen.line((left, bottom, right, bottom), fill=_FAINT)
    pen.text((left - 6, top), str(tallest), fill=_TEXT, font=font(13), anchor="rt")
    pen.text((left - 6, bottom), "0", fill=_TEXT, font=font(13), anchor="rm")
    for value in _ticks(first, last):
        x = left + (math.log10(value) - first) / (last - first) * (right - left)
        pen.line((x, bottom, x, bottom + 5), fill=_TEXT)
        # Text at the ends stays inside the picture.
        pen.text((min(max(x, left), right - 24), bottom + 8), f"{value:g} ml", fill=_TEXT, font=font(13), anchor="mt")


def _ticks(first: float, last: float) -> list[float]:
    """Round numbers between two powers of ten: 1, or 1, 2 and 5 of each decade if there are few."""
    decades = range(math.floor(first), math.ceil(last) + 1)
    for steps in ((1,), (1, 2, 5), range(1, 10)):
        values = [step * 10.0**decade for decade in decades for step in steps]
        inside = [value for value in values if first <= math.log10(value) <= last]
        if len(inside) >= 3:
            break
    return inside
