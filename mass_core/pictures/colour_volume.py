"""A picture of a colour volume beside its scan: axial, coronal and sagittal plane in grey, below them in colour."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..config import Modality
from ..volumes.boxes import Box, bounding_box
from ..volumes.resample import orient
from ..volumes.volume import Volume
from .panels import GAP, PLANES, draw_bar, grey_scale, in_grey, page, panel, size_of, write_png

_TALLEST = 400
"""Pixels of the tallest plane."""
_BAR = 36
"""Pixels below the planes, for the scale bar."""


def draw(path: str | Path, image: Volume, rgb: np.ndarray, *, modality: Modality | None = None) -> None:
    """Write the picture of `render` as PNG.

    Raises:
        OutputError: if it cannot be written.
    """
    write_png(path, render(image, rgb, modality=modality))


def render(image: Volume, rgb: np.ndarray, *, modality: Modality | None = None) -> Image.Image:
    """Three planes through the middle of what is coloured, in one scale, with orientation letters and a scale bar.

    Args:
        image: the scan.
        rgb: uint8 [z, y, x, 3] on its grid; what is black is background.
        modality: chooses the grey scale: a soft tissue window for CT, percentiles else.
    """
    scan = orient(image)
    colours = np.stack([orient(Volume(rgb[..., channel], image.geometry)).array for channel in range(3)], axis=-1)
    box = bounding_box(colours.max(axis=-1)) or Box((0, 0, 0), scan.geometry.shape_zyx)
    scan, colours = scan.cropped(box), colours[box.slices()]
    scale = _TALLEST / max(n * s for n, s in zip(scan.array.shape[:2], scan.geometry.spacing_zyx[:2], strict=True))
    grey = grey_scale(scan.array, np.zeros(0), modality)
    rows: list[list[Image.Image]] = [[], []]
    for plane in PLANES:
        middle = scan.array.shape[plane.axis] // 2
        values = plane.cut(scan.array, middle)
        size = size_of(values, plane.edges(scan.geometry.spacing_zyx), scale)
        rows[0].append(panel(in_grey(values, size, grey), plane.letters))
        rows[1].append(panel(_enlarged(plane.cut(colours, middle), size), plane.letters))
    whole = page(rows, _BAR)
    draw_bar(ImageDraw.Draw(whole), whole.width - GAP, whole.height - _BAR // 2, scale)
    return whole


def _enlarged(colours: np.ndarray, size: tuple[int, int]) -> NDArray[np.float32]:
    """A slice of colours in a width and height, from 0 to 255."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(colours)).resize(size, Image.Resampling.BICUBIC), np.float32)
