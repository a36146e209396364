"""A picture of a label map on its scan: axial, coronal and sagittal plane with contours, the patient's right on the left."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from .atomic import write_bytes
from .components import label_boxes
from .config import Modality, Triple
from .resample import orient, resample
from .volume import Box, Volume, slices

_TALLEST = 480
"""Pixels of the tallest plane."""
_GAP = 10
_LINE, _HALO = 1.1, 2.9
"""Half widths of a contour and of the dark rim around it, in pixels."""
_BACKGROUND = (16, 18, 22)
_NAMED = 16
"""Labels the legend names."""
_CT_WINDOWS = ((-1350.0, 150.0, -500.0), (-160.0, 240.0, 220.0), (-450.0, 1050.0, math.inf))
"""Lowest and highest value shown (lung, soft tissue, bone), and the median of the labelled voxels up to which the window is taken; HU."""
_COLORS = (
    (255, 196, 37),
    (64, 190, 255),
    (255, 95, 95),
    (110, 225, 110),
    (205, 130, 255),
    (255, 145, 40),
    (70, 240, 215),
    (255, 140, 190),
)


@dataclass(frozen=True)
class _Plane:
    """A view along one axis of an image whose x, y, z grow to right, anterior, superior."""

    axis: int
    """Of the array [z, y, x] that is looked along."""
    letters: tuple[str, str, str, str]
    """What lies at the left, right, top and bottom edge."""

    def cut(self, array: np.ndarray, index: int) -> np.ndarray:
        """The slice as it is shown: superior or anterior on top, right or anterior on the left."""
        return np.take(array, index, axis=self.axis)[::-1, ::-1]

    def edges(self, spacing_zyx: Triple) -> tuple[float, float]:
        """Height and width of a voxel in mm."""
        height, width = (s for axis, s in enumerate(spacing_zyx) if axis != self.axis)
        return height, width


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What all planes of a picture have in common."""

    view: Box
    grey: tuple[float, float]
    """Values shown black and white."""
    inks: Mapping[int, tuple[int, int, int]]
    """Colour of each label."""
    scale: float
    """Pixels a millimetre."""


_PLANES = (_Plane(0, ("R", "L", "A", "P")), _Plane(1, ("R", "L", "S", "I")), _Plane(2, ("A", "P", "S", "I")))


def draw(
    path: str | Path,
    image: Volume,
    labels: Volume,
    *,
    names: Mapping[int, str] | None = None,
    colors: Mapping[int, Triple] | None = None,
    modality: Modality | None = None,
) -> None:
    """Write the picture of `render` as PNG.

    Raises:
        OutputError: if it cannot be written.
    """
    data = io.BytesIO()
    render(image, labels, names=names, colors=colors, modality=modality).save(data, "PNG")
    write_bytes(Path(path), data.getvalue())


def render(
    image: Volume,
    labels: Volume,
    *,
    names: Mapping[int, str] | None = None,
    colors: Mapping[int, Triple] | None = None,
    modality: Modality | None = None,
) -> Image.Image:
    """Three planes through what is labelled, in one scale, with contours, orientation letters, a scale bar and a legend.

    Args:
        image: the scan.
        labels: label map; another grid is resampled by position.
        names: of the labels; "label N" where missing.
        colors: of the labels, red, green, blue from 0 to 1; a palette where missing.
        modality: chooses the grey scale: Hounsfield windows for CT, percentiles else.
    """
    if not image.geometry.matches(labels.geometry):
        labels = resample(labels, image.geometry, "nearest")
    scan, marked = orient(image), orient(labels)
    boxes = label_boxes(marked.array)
    grey = _grey_scale(scan, marked, boxes, modality)
    view = _view(scan, boxes, dark=grey[0] + 0.1 * (grey[1] - grey[0]))
    inks = {value: _ink(value, order, colors or {}) for order, value in enumerate(boxes)}
    indices = _best_slices(marked.array, boxes)
    scale = _scale(view, scan.geometry.spacing_zyx)
    look = _Look(view=view, grey=grey, inks=inks, scale=scale)
    panels = [_panel(plane, scan, marked, indices[plane.axis], look) for plane in _PLANES]
    return _page(panels, [(inks[value], (names or {}).get(value, f"label {value}")) for value in boxes], scale)


def _best_slices(labels: np.ndarray, boxes: Mapping[int, Box]) -> tuple[int, int, int]:
    """Along each axis the slice that shows most: labels count by the share of their widest section."""
    scores = [np.zeros(size) for size in labels.shape]
    for value, box in boxes.items():
        mask = labels[slices(box)] == value
        for axis, score in enumerate(scores):
            areas = mask.sum(axis=tuple(a for a in range(3) if a != axis), dtype=float)
            score[box[0][axis] : box[1][axis]] += areas / areas.max()
    z, y, x = (int(score.argmax()) if score.any() else len(score) // 2 for score in scores)
    return z, y, x


def _view(scan: Volume, boxes: Mapping[int, Box], dark: float) -> Box:
    """What is shown: the body with all labels, or for small structures their surroundings, four times their extent and at least 100 mm."""
    start, stop = _body(scan.array, dark)
    if not boxes:
        return start, stop
    low = np.min([box[0] for box in boxes.values()], axis=0)
    high = np.max([box[1] for box in boxes.values()], axis=0)
    first, last = np.minimum(start, low), np.maximum(stop, high)
    spacing = np.asarray(scan.geometry.spacing_zyx)
    side_mm = max(100.0, 4 * float(((high - low) * spacing).max()))
    if 1.5 * side_mm <= float(((last - first) * spacing).max()):
        side = np.minimum(np.round(side_mm / spacing).astype(int), scan.array.shape)
        first = np.clip((low + high - side) // 2, 0, scan.array.shape - side)
        last = first + side
    z, y, x = zip(first.tolist(), last.tolist(), strict=True)
    return (z[0], y[0], x[0]), (z[1], y[1], x[1])


def _body(array: np.ndarray, dark: float) -> Box:
    """The part of an image where at least 1 % of a slice is brighter than `dark`, with a rim; all if nothing is."""
    bright = array[::2, ::2, ::2] > dark
    start, stop = [0, 0, 0], list(array.shape)
    for axis in range(3):
        filled = np.flatnonzero(bright.mean(axis=tuple(a for a in range(3) if a != axis)) > 0.01)
        if filled.size:
            start[axis] = max(0, 2 * int(filled[0]) - 4)
            stop[axis] = min(array.shape[axis], 2 * int(filled[-1]) + 6)
    return (start[0], start[1], start[2]), (stop[0], stop[1], stop[2])


def _grey_scale(scan: Volume, labels: Volume, boxes: Mapping[int, Box], modality: Modality | None) -> tuple[float, float]:
    """Values shown black and white."""
    if modality == "ct":
        inside = [scan.array[slices(box)][labels.array[slices(box)] == value][::7] for value, box in boxes.items()]
        typical = float(np.median(np.concatenate(inside))) if inside else 0.0
        low, high, _ = next(window for window in _CT_WINDOWS if typical <= window[2])
        return low, high
    values = scan.array.reshape(-1)
    values = values[:: max(1, values.size // 1_000_000)]
    inside_body = values[values > values.min()]
    low, high = np.percentile(inside_body if inside_body.size else values, (1, 99.5))
    return float(low), float(max(high, low + 1e-6))


def _scale(view: Box, spacing_zyx: Triple) -> float:
    """Pixels a millimetre, the same for all planes."""
    return _TALLEST / max((b - a) * s for a, b, s in zip(view[0][:2], view[1][:2], spacing_zyx[:2], strict=True))


def _panel(plane: _Plane, scan: Volume, labels: Volume, index: int, look: _Look) -> Image.Image:
    """One plane, with contours and letters."""
    part = slices(look.view)
    index -= look.view[0][plane.axis]
    values = plane.cut(scan.array[part], index)
    marked = plane.cut(labels.array[part], index)
    height, width = (
        max(1, round(n * edge * look.scale)) for n, edge in zip(values.shape, plane.edges(scan.geometry.spacing_zyx), strict=True)
    )
    shown = np.clip((values.astype(np.float32) - look.grey[0]) / (look.grey[1] - look.grey[0]), 0, 1)
    picture = np.asarray(Image.fromarray(shown * 255).resize((width, height), Image.Resampling.BICUBIC), np.float32)
    colored: np.ndarray = np.repeat(np.clip(picture, 0, 255)[:, :, None], 3, axis=2)
    distances = {value: _distance(marked == value, (width, height)) for value in look.inks if (marked == value).any()}
    for distance in distances.values():
        colored *= 1 - 0.65 * np.clip(_HALO + 0.5 - distance, 0, 1)[:, :, None]
    for value, distance in distances.items():
        alpha = np.clip(_LINE + 0.5 - distance, 0, 1)[:, :, None]
        colored = colored * (1 - alpha) + np.asarray(look.inks[value], np.float32) * alpha
    panel = Image.fromarray(colored.round().astype(np.uint8))
    _write_letters(panel, plane.letters)
    return panel


def _distance(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Distance in pixels from each pixel of an enlarged mask to its smoothed outline."""
    padded = np.pad(mask.astype(np.float32), 1, mode="edge")
    scale = size[1] / mask.shape[0], size[0] / mask.shape[1]
    large = Image.fromarray(padded).resize(
        (round(padded.shape[1] * scale[1]), round(padded.shape[0] * scale[0])), Image.Resampling.BILINEAR
    )
    soft = ndimage.gaussian_filter(np.asarray(large), [0.3 * s for s in scale])
    top, left = round(scale[0]), round(scale[1])
    inside = soft[top : top + size[1], left : left + size[0]] >= 0.5
    if not inside.any() or inside.all():
        return np.full(inside.shape, np.inf, np.float32)
    outward, inward = ndimage.distance_transform_edt(~inside), ndimage.distance_transform_edt(inside)
    return np.where(inside, inward, outward).astype(np.float32) - np.float32(0.5)


def _write_letters(panel: Image.Image, letters: Sequence[str]) -> None:
    """Where right, left, anterior, posterior, superior and inferior are."""
    pen, font = ImageDraw.Draw(panel), ImageFont.load_default(size=15)
    width, height = panel.size
    places = ((5, height / 2, "lm"), (width - 5, height / 2, "rm"), (width / 2, 4, "mt"), (width / 2, height - 5, "mb"))
    for letter, (x, y, anchor) in zip(letters, places, strict=True):
        pen.text((x, y), letter, fill=(235, 235, 235), font=font, anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0))


def _page(panels: Sequence[Image.Image], legend: Sequence[tuple[tuple[int, int, int], str]], scale: float) -> Image.Image:
    """The planes side by side, under them the legend and a scale bar."""
    width = sum(panel.width for panel in panels) + _GAP * (len(panels) + 1)
    tallest = max(panel.height for panel in panels)
    font = ImageFont.load_default(size=15)
    rows = _legend_rows(legend, width - 2 * _GAP - 120, font)
    page = Image.new("RGB", (width, tallest + 2 * _GAP + 26 * max(1, len(rows)) + 6), _BACKGROUND)
    left = _GAP
    for panel in panels:
        page.paste(panel, (left, _GAP + (tallest - panel.height) // 2))
        left += panel.width + _GAP
    pen = ImageDraw.Draw(page)
    for number, row in enumerate(rows):
        y = tallest + 2 * _GAP + 26 * number + 10
        for x, ink, name in row:
            pen.rounded_rectangle((x, y - 6, x + 14, y + 6), 3, fill=ink)
            pen.text((x + 20, y), name, fill=(225, 225, 225), font=font, anchor="lm")
    _draw_bar(pen, width - _GAP, tallest + 2 * _GAP + 10, scale, font)
    return page


def _legend_rows(
    legend: Sequence[tuple[tuple[int, int, int], str]], width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont
) -> list[list[tuple[int, tuple[int, int, int], str]]]:
    """(x, colour, name) of the legend's entries, row by row."""
    entries = list(legend[:_NAMED])
    if len(legend) > _NAMED:
        entries.append((_BACKGROUND, f"and {len(legend) - _NAMED} more"))
    if not legend:
        entries = [((90, 90, 90), "nothing found")]
    rows: list[list[tuple[int, tuple[int, int, int], str]]] = [[]]
    x = _GAP
    for ink, name in entries:
        wide = 44 + round(font.getlength(name))
        if rows[-1] and x + wide > width:
            rows.append([])
            x = _GAP
        rows[-1].append((x, ink, name))
        x += wide
    return rows


def _draw_bar(pen: ImageDraw.ImageDraw, right: int, y: int, scale: float, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> None:
    """A scale bar that ends at the right."""
    millimetres = next((mm for mm in (100, 50, 20, 10, 5, 2, 1) if mm * scale <= 90), 1)
    length = round(millimetres * scale)
    pen.text((right, y - 2), f"{millimetres} mm", fill=(200, 200, 200), font=font, anchor="rb")
    pen.line((right - length, y + 4, right, y + 4), fill=(200, 200, 200), width=2)


def _ink(value: int, order: int, colors: Mapping[int, Triple]) -> tuple[int, int, int]:
    if value not in colors:
        return _COLORS[order % len(_COLORS)]
    red, green, blue = (round(255 * channel) for channel in colors[value])
    return red, green, blue
