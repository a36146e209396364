"""Elements of pictures of scans: planes the right way up, grey scales, contours, orientation letters, a scale bar."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from ..config import Modality, Triple
from ..files import write_bytes
from ..volumes.volume import Volume

Ink = tuple[int, int, int]
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

BACKGROUND: Ink = (16, 18, 22)
GAP = 10
"""Pixels between panels."""
_LINE, _HALO = 1.1, 2.9
"""Half widths of a contour and of the dark rim around it, in pixels."""
_REACH = math.ceil(_HALO + 1)
"""Pixels around a label that its rim may darken."""
_CT_WINDOWS = ((-1350.0, 150.0, -500.0), (-160.0, 240.0, 220.0), (-450.0, 1050.0, math.inf))
"""Lowest and highest value shown (lung, soft tissue, bone), and the median of the labelled voxels up to which the window is taken; HU."""
_MANY = 1_000_000
"""Values that suffice for percentiles."""


@dataclass(frozen=True)
class Plane:
    """A view along one axis of an image whose x, y, z grow to right, anterior, superior."""

    axis: int
    """Of the array [z, y, x] that is looked along."""
    letters: tuple[str, str, str, str]
    """Directions at the left, right, top and bottom edge."""

    def cut(self, array: np.ndarray, index: int) -> np.ndarray:
        """The slice as it is shown: superior or anterior on top, right or anterior on the left."""
        return np.take(array, index, axis=self.axis)[::-1, ::-1]

    def edges(self, spacing_zyx: Triple) -> tuple[float, float]:
        """Height and width of a voxel in mm."""
        height, width = (s for axis, s in enumerate(spacing_zyx) if axis != self.axis)
        return height, width


PLANES = (Plane(0, ("R", "L", "A", "P")), Plane(1, ("R", "L", "S", "I")), Plane(2, ("A", "P", "S", "I")))
"""Axial, coronal, sagittal."""


def grey_scale(values: np.ndarray, inside: np.ndarray, modality: Modality | None) -> tuple[float, float]:
    """Values shown black and white: Hounsfield windows for CT, percentiles else.

    Args:
        values: of the scan.
        inside: those that matter most; they choose the window of a CT.
        modality: of the scan.
    """
    if modality == "ct":
        typical = float(np.median(inside)) if inside.size else 0.0
        low, high, _ = next(window for window in _CT_WINDOWS if typical <= window[2])
        return low, high
    values = values.reshape(-1)
    values = values[:: max(1, values.size // _MANY)]
    inside_body = values[values > values.min()]
    # Bladder and brain outshine the rest of a PET.
    low, high = np.percentile(inside_body if inside_body.size else values, (1, 99.0 if modality == "pet" else 99.5))
    return float(low), float(max(high, low + 1e-6))


def size_of(values: np.ndarray, edges: tuple[float, float], scale: float) -> tuple[int, int]:
    """Width and height in pixels of a slice whose voxels are `edges` high and wide in mm, at `scale` pixels a millimetre."""
    height, width = (max(1, round(n * edge * scale)) for n, edge in zip(values.shape, edges, strict=True))
    return width, height


def in_grey(values: np.ndarray, size: tuple[int, int], grey: tuple[float, float]) -> NDArray[np.float32]:
    """A slice enlarged to a width and height, red, green and blue from 0 to 255."""
    shown = np.clip((values.astype(np.float32) - grey[0]) / (grey[1] - grey[0]), 0, 1)
    picture = np.asarray(Image.fromarray(shown * 255).resize(size, Image.Resampling.BICUBIC), np.float32)
    return np.repeat(np.clip(picture, 0, 255)[:, :, None], 3, axis=2)


def scale_to_fit(scan: Volume, tallest: int) -> float:
    """Pixels a millimetre, the same for all planes, with which the tallest plane of a scan has so many pixels."""
    return tallest / max(n * s for n, s in zip(scan.array.shape[:2], scan.geometry.spacing_zyx[:2], strict=True))


def grey_plane(scan: Volume, plane: Plane, index: int, scale: float, grey: tuple[float, float]) -> NDArray[np.float32]:
    """A plane of a scan as `in_grey`, at `scale` pixels a millimetre."""
    values = plane.cut(scan.array, index)
    return in_grey(values, size_of(values, plane.edges(scan.geometry.spacing_zyx), scale), grey)


def outlined(picture: NDArray[np.float32], marked: np.ndarray, inks: Mapping[int, Ink]) -> NDArray[np.float32]:
    """A picture with a contour around each label of the slice it was made from, in its colour, on a dark rim."""
    size = picture.shape[1], picture.shape[0]
    contours = [(value, *near) for value in inks if (near := _contour(marked == value, size))]
    picture = picture.copy()
    for _, box, distance in contours:
        picture[box] *= 1 - 0.65 * np.clip(_HALO + 0.5 - distance, 0, 1)[:, :, None]
    for value, box, distance in contours:
        alpha = np.clip(_LINE + 0.5 - distance, 0, 1)[:, :, None]
        picture[box] = picture[box] * (1 - alpha) + np.asarray(inks[value], np.float32) * alpha
    return picture


def panel(picture: NDArray[np.float32], letters: Sequence[str]) -> Image.Image:
    """A picture with letters where right, left, anterior, posterior, superior and inferior are."""
    image = Image.fromarray(picture.round().astype(np.uint8))
    pen, face = ImageDraw.Draw(image), font(15)
    width, height = image.size
    places = ((5, height / 2, "lm"), (width - 5, height / 2, "rm"), (width / 2, 4, "mt"), (width / 2, height - 5, "mb"))
    for letter, (x, y, anchor) in zip(letters, places, strict=True):
        pen.text((x, y), letter, fill=(235, 235, 235), font=face, anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0))
    return image


def page(rows: Sequence[Sequence[Image.Image]], below: int) -> Image.Image:
    """Rows of pictures, each in the middle of its row, and so many pixels of space below."""
    tallest = [max(shown.height for shown in row) for row in rows]
    width = max(sum(shown.width + GAP for shown in row) for row in rows) + GAP
    whole = Image.new("RGB", (width, sum(tallest) + GAP * len(rows) + below), BACKGROUND)
    top = GAP
    for row, height in zip(rows, tallest, strict=True):
        left = GAP
        for shown in row:
            whole.paste(shown, (left, top + (height - shown.height) // 2))
            left += shown.width + GAP
        top += height + GAP
    return whole


def ink(color: Triple) -> Ink:
    """Red, green and blue from 0 to 1 as bytes."""
    red, green, blue = (round(255 * channel) for channel in color)
    return red, green, blue


def font(size: int) -> Font:
    """The one font of all pictures."""
    return ImageFont.load_default(size=size)


def draw_bar(pen: ImageDraw.ImageDraw, right: int, y: int, scale: float) -> None:
    """A scale bar that ends at the right; `scale` is in pixels a millimetre."""
    millimetres = next((mm for mm in (100, 50, 20, 10, 5, 2, 1) if mm * scale <= 90), 1)
    length = round(millimetres * scale)
    pen.text((right, y - 2), f"{millimetres} mm", fill=(200, 200, 200), font=font(15), anchor="rb")
    pen.line((right - length, y + 4, right, y + 4), fill=(200, 200, 200), width=2)


def write_png(path: str | Path, page: Image.Image) -> None:
    """Write a picture; it appears complete or not at all.

    Raises:
        OutputError: if it cannot be written.
    """
    data = io.BytesIO()
    page.save(data, "PNG")
    write_bytes(Path(path), data.getvalue())


def _contour(mask: np.ndarray, size: tuple[int, int]) -> tuple[tuple[slice, ...], NDArray[np.float32]] | None:
    """Where the smoothed outline of an enlarged mask runs and, there, the distance in pixels to it; None: it has none."""
    if not mask.any():
        return None
    padded = np.pad(mask.astype(np.float32), 1, mode="edge")
    scale = size[1] / mask.shape[0], size[0] / mask.shape[1]
    large = Image.fromarray(padded).resize(
        (round(padded.shape[1] * scale[1]), round(padded.shape[0] * scale[0])), Image.Resampling.BILINEAR
    )
    soft = ndimage.gaussian_filter(np.asarray(large), [0.3 * s for s in scale])
    top, left = round(scale[0]), round(scale[1])
    inside = soft[top : top + size[1], left : left + size[0]] >= 0.5
    if not inside.any() or inside.all():
        return None
    box = tuple(slice(max(0, found.start - _REACH), found.stop + _REACH) for found in ndimage.find_objects(inside.astype(np.uint8))[0])
    inside = inside[box]  # nothing is drawn farther away
    outward, inward = ndimage.distance_transform_edt(~inside), ndimage.distance_transform_edt(inside)
    return box, np.where(inside, inward, outward).astype(np.float32) - np.float32(0.5)
