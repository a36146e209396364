"""A picture of a colour volume beside its scan: axial, coronal and sagittal plane in grey, below them in colour."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..config import Modality
from ..volumes.boxes import Box, bounding_box
from ..volumes.resample import orient
from ..volumes.volume import Volume
from .panels import GAP, PLANES, draw_bar, grey_plane, grey_scale, page, panel, scale_to_fit

_TALLEST = 400
"""Pixels of the tallest plane."""
_BAR = 36
"""Pixels below the planes, for the scale bar."""


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
    scale, grey = scale_to_fit(scan, _TALLEST), grey_scale(scan.array, np.zeros(0), modality)
    rows: list[list[Image.Image]] = [[], []]
    for plane in PLANES:
        middle = scan.array.shape[plane.axis] // 2
        picture = grey_plane(scan, plane, middle, scale, grey)
        rows[0].append(panel(picture, plane.letters))
        rows[1].append(panel(_enlarged(plane.cut(colours, middle), (picture.shape[1], picture.shape[0])), plane.letters))
    whole = page(rows, _BAR)
    draw_bar(ImageDraw.Draw(whole), whole.width - GAP, whole.height - _BAR // 2, scale)
    return whole


def _enlarged(colours: np.ndarray, size: tuple[int, int]) -> NDArray[np.float32]:
    """A slice of colours in a width and height, from 0 to 255."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(colours)).resize(size, Image.Resampling.BICUBIC), np.float32)
