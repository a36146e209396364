"""A picture of a label map on its scan: axial, coronal and sagittal plane with contours, the patient's right on the left."""

from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np
from PIL import Image, ImageDraw

from ..colors import distinct
from ..config import Modality, Triple
from ..volumes.boxes import Box, label_boxes
from ..volumes.resample import orient, resample
from ..volumes.volume import Volume
from .panels import BACKGROUND, GAP, PLANES, Font, Ink, draw_bar, font, grey_plane, grey_scale, ink, outlined, page, panel, scale_to_fit

_TALLEST = 480
"""Pixels of the tallest plane."""
_NAMED = 16
"""Labels the legend names."""


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
    grey = grey_scale(scan.array, _labelled(scan.array, marked.array, boxes), modality)
    view = _view(scan, boxes, dark=grey[0] + 0.1 * (grey[1] - grey[0]))
    inks = {value: ink((colors or {}).get(value) or distinct(order)) for order, value in enumerate(boxes)}
    indices = _best_slices(marked.array, boxes)
    scan, marked = scan.cropped(view), marked.cropped(view)
    scale = scale_to_fit(scan, _TALLEST)
    panels = []
    for plane in PLANES:
        index = indices[plane.axis] - view.low[plane.axis]
        picture = outlined(grey_plane(scan, plane, index, scale, grey), plane.cut(marked.array, index), inks)
        panels.append(panel(picture, plane.letters))
    return _page(panels, [(inks[value], (names or {}).get(value, f"label {value}")) for value in boxes], scale)


def _best_slices(labels: np.ndarray, boxes: Mapping[int, Box]) -> list[int]:
    """Along each axis the slice that shows most: labels count by the share of their widest section."""
    scores = [np.zeros(size) for size in labels.shape]
    for value, box in boxes.items():
        mask = labels[box.slices()] == value
        for axis, score in enumerate(scores):
            areas = mask.sum(axis=tuple(a for a in range(3) if a != axis), dtype=float)
            score[box[0][axis] : box[1][axis]] += areas / areas.max()
    return [int(score.argmax()) if score.any() else len(score) // 2 for score in scores]


def _view(scan: Volume, boxes: Mapping[int, Box], dark: float) -> Box:
    """Part of the scan shown: the body with all labels, or for small structures four times their extent and at least 100 mm."""
    whole = _body(scan.array, dark)
    if not boxes:
        return whole
    labelled = reduce(Box.enclosing, boxes.values())
    whole, spacing = whole.enclosing(labelled), np.asarray(scan.geometry.spacing_zyx)
    side_mm = max(100.0, 4 * float(np.multiply(labelled.size, spacing).max()))
    if 1.5 * side_mm > float(np.multiply(whole.size, spacing).max()):
        return whole
    side = np.minimum(np.round(side_mm / spacing).astype(int), scan.array.shape)
    return Box.at(np.clip((np.add(*labelled) - side) // 2, 0, scan.array.shape - side), side.tolist())


def _body(array: np.ndarray, dark: float) -> Box:
    """The part of an image where at least 1 % of a slice is brighter than `dark`, with a rim; all if nothing is."""
    bright = array[::2, ::2, ::2] > dark
    start, stop = [0, 0, 0], list(array.shape)
    for axis in range(3):
        filled = np.flatnonzero(bright.mean(axis=tuple(a for a in range(3) if a != axis)) > 0.01)
        if filled.size:
            start[axis] = max(0, 2 * int(filled[0]) - 4)
            stop[axis] = min(array.shape[axis], 2 * int(filled[-1]) + 6)
    return Box.of(start, stop)


def _labelled(values: np.ndarray, labels: np.ndarray, boxes: Mapping[int, Box]) -> np.ndarray:
    """Every seventh value inside a label."""
    inside = [values[box.slices()][labels[box.slices()] == value][::7] for value, box in boxes.items()]
    return np.concatenate(inside) if inside else np.zeros(0, values.dtype)


def _page(panels: Sequence[Image.Image], legend: Sequence[tuple[Ink, str]], scale: float) -> Image.Image:
    """The planes side by side, under them the legend and a scale bar."""
    width = sum(shown.width + GAP for shown in panels) + GAP
    tallest = max(shown.height for shown in panels)
    entries = _legend(legend, width - 2 * GAP - 120, font(15))
    whole = page([panels], GAP + 26 * (entries[-1][1] + 1) + 6)
    pen = ImageDraw.Draw(whole)
    for x, row, color, name in entries:
        y = tallest + 2 * GAP + 26 * row + 10
        pen.rounded_rectangle((x, y - 6, x + 14, y + 6), 3, fill=color)
        pen.text((x + 20, y), name, fill=(225, 225, 225), font=font(15), anchor="lm")
    draw_bar(pen, width - GAP, tallest + 2 * GAP + 10, scale)
    return whole


def _legend(legend: Sequence[tuple[Ink, str]], width: int, face: Font) -> list[tuple[int, int, Ink, str]]:
    """The legend's entries as (x, row, colour, name)."""
    entries = list(legend[:_NAMED]) or [((90, 90, 90), "nothing found")]
    if len(legend) > _NAMED:
        entries.append((BACKGROUND, f"and {len(legend) - _NAMED} more"))
    placed, x, row = [], GAP, 0
    for color, name in entries:
        wide = 44 + round(face.getlength(name))
        if x > GAP and x + wide > width:
            x, row = GAP, row + 1
        placed.append((x, row, color, name))
        x += wide
    return placed
