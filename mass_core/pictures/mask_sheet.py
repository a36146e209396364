"""A contact sheet of a mask set: its masks on slices and planes of the scan, and how large they are.

Masks overlap, so no picture shows all of them. The slices are shown three times, with the large, the middle and the small third of the
masks; on every voxel the smallest is on top. The planes show compact ones that do not overlap. A mask has the same colour everywhere.
"""

import colorsys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..config import Triple
from ..masks.mask_set import MaskSet
from ..masks.packed import Packed
from ..masks.regrid import grid_of
from ..masks.statistics import voxel_ml
from ..outputs import amount
from ..volumes.boxes import Box
from ..volumes.resample import orient, resample
from ..volumes.volume import Volume
from .histogram import draw_histogram
from .panels import BACKGROUND, GAP, PLANES, Ink, Plane, draw_bar, font, grey_scale, in_grey, ink, outlined, panel, size_of

_WIDTH = 1020
"""Of the page, in pixels."""
_COLUMNS = 4
"""Slices."""
_FEW = 30
"""Fewer masks are shown together, not by size."""
_TALL_SLICE, _TALL_PLANE = 260, 420
"""Pixels of the tallest."""
_THIN = 24
"""Planes with fewer pixels show nothing: those across a scan of one slice."""
_DISJOINT = 24
"""Masks shown on the planes."""
_SHARED = 0.05
"""Share of a mask's voxels that others on the planes may have too."""
_FILL, _EDGE = 0.4, 0.85
"""Opacity of a mask's colour, inside and at its edge."""
_VIEWS = ("axial", "coronal", "sagittal")
_TEXT: Ink = (205, 205, 205)


class Cut(NamedTuple):
    """A plane through scan and masks, as it is shown."""

    plane: Plane
    edges: tuple[float, float]
    """Height and width of a voxel in mm."""
    values: NDArray[np.floating]
    numbers: NDArray[np.int32]
    """1 + the number of the mask on top, 0 where there is none."""

    def size_mm(self) -> tuple[float, float]:
        """Height and width."""
        return self.values.shape[0] * self.edges[0], self.values.shape[1] * self.edges[1]

    def drawn(self, scale: float, grey: tuple[float, float], colour: "_Colour") -> Image.Image:
        """The plane in grey at `scale` pixels a millimetre, its masks coloured."""
        picture = in_grey(self.values, size_of(self.values, self.edges, scale), grey)
        return panel(colour(picture, self.numbers), self.plane.letters)


_Colour = Callable[[NDArray[np.float32], NDArray[np.int32]], NDArray[np.float32]]
"""Colours the masks, numbered as in a `Cut`, on a picture of their plane."""


class _Row(NamedTuple):
    """Pictures side by side."""

    heading: str
    pictures: list[Image.Image]
    captions: list[str]
    bar: float | None
    """Pixels a millimetre for a scale bar; None: as in the row above."""


def sheet(scan: Volume, masks: MaskSet, name: str) -> Image.Image:
    """The contact sheet of a mask set.

    Args:
        scan: the scan as stored; it is brought onto the masks' grid by position.
        masks: their `meta` says where their grid lies, and what kind of scan it is.
        name: of the case.

    Raises:
        GeometryError: if the masks do not say where they lie.
    """
    axis, places = _seed_places(masks)
    order = np.argsort(-masks.voxels.astype(np.int64), kind="stable")
    thirds = np.array_split(order, 3) if len(order) >= _FEW else [order]
    bands = [[cut(scan, masks, axis, place, third) for place in places] for third in thirds]
    chosen = _disjoint(masks)
    middles = (cut(scan, masks, across, _middle(masks, across, chosen), chosen) for across in range(3))
    planes = sorted(middles, key=lambda shown: shown.plane.axis)
    inside = np.concatenate([shown.values[shown.numbers > 0] for cuts in bands for shown in cuts])
    grey = grey_scale(scan.array, inside, masks.meta.get("modality"))
    rows = [_slice_row(masks, cuts, third, (axis, places), grey) for cuts, third in zip(bands, thirds, strict=True)]
    rows = [rows[0], *(row._replace(bar=None) for row in rows[1:])]
    rows.append(_plane_row(planes, len(chosen), grey))
    title = f"{name}: {len(masks)} mask{'s' * (len(masks) != 1)}"
    return _page(title, _about(masks), rows, draw_histogram(masks.voxels * voxel_ml(masks), _WIDTH - 2 * GAP))


def _seed_places(masks: MaskSet) -> tuple[int, list[int]]:
    """The axis to cut slices across, and up to four slices: of those where 2D masks began, else axial ones where the masks are."""
    seeds = _seeds(masks)
    if seeds:
        axis = Counter(across for across, _ in seeds).most_common(1)[0][0]
        places = sorted({place for across, place in seeds if across == axis})
        weights = np.ones(len(places))
    else:
        axis = next(axis for axis in range(3) if _plane(masks, axis) is PLANES[0])
        places = list(range(masks.shape_zyx[axis]))
        weights = _reached(masks, axis) + 1e-6
    share = np.cumsum(weights) / weights.sum()
    middles = (np.arange(_COLUMNS) + 0.5) / _COLUMNS
    return axis, [places[number] for number in sorted(set(np.searchsorted(share, middles - 1e-9).tolist()))]


def _seeds(masks: MaskSet) -> list[tuple[int, int]]:
    """Axis and slice of the 2D mask that each mask began as; none for masks that were made in 3D."""
    columns = masks.meta.get("per_mask", {})
    pairs = zip(columns.get("axis", ()), columns.get("slice", ()), strict=True)
    return [(axis, place) for axis, place in pairs if axis is not None and place is not None and 0 <= place < masks.shape_zyx[axis]]


def cut(scan: Volume, masks: MaskSet, axis: int, index: int, order: NDArray[np.int64]) -> Cut:
    """The plane at an index of an axis of the masks' grid; of masks that overlap the last in the order is on top."""
    start, stop = [0, 0, 0], list(masks.shape_zyx)
    start[axis], stop[axis] = index, index + 1
    box = Box.of(start, stop)
    grid = grid_of(masks)
    values = orient(resample(scan, grid.cropped(box), fill=None))
    numbers = orient(Volume(_on_top(masks, box, order), grid.cropped(box)))
    plane = _plane(masks, axis)
    return Cut(plane, plane.edges(values.geometry.spacing_zyx), plane.cut(values.array, 0), plane.cut(numbers.array, 0))


def _plane(masks: MaskSet, axis: int) -> Plane:
    """The view along an axis of the masks' grid."""
    # Sizes that tell the axes apart show which one it becomes when the grid is turned the right way up.
    turned = orient(Volume(np.zeros((1, 2, 3), np.uint8), replace(grid_of(masks), shape_zyx=(1, 2, 3))))
    return PLANES[turned.array.shape.index(axis + 1)]


def _on_top(masks: MaskSet, box: Box, order: NDArray[np.int64]) -> NDArray[np.int32]:
    """1 + the number of the last mask of the order at each voxel of a box, 0 where there is none."""
    result = np.zeros(box.size, np.int32)
    for index in order.tolist():
        if (part := masks.box(index).common(box)) is not None:
            result[part.seen_from(box.low).slices()][masks.rasterise([index], part) > 0] = index + 1
    return result


def _disjoint(masks: MaskSet) -> NDArray[np.int64]:
    """Masks of the larger half that hardly overlap, those that fill most of their box first."""
    sides = (masks.boxes_zyx[:, 3:] - masks.boxes_zyx[:, :3]).astype(np.int64)
    filled = masks.voxels / sides.prod(axis=1)
    large = np.argsort(-masks.voxels.astype(np.int64), kind="stable")[: max(len(masks) // 2, _DISJOINT)]
    chosen: list[int] = []
    taken: list[Packed] = []
    for index in large[np.argsort(-filled[large], kind="stable")].tolist():
        mask = Packed.of((masks.box(index), masks.mask(index)))
        if sum(mask.common(other) for other in taken) <= _SHARED * mask.voxels:
            chosen.append(index)
            taken.append(mask)
        if len(chosen) == _DISJOINT:
            break
    return np.array(chosen, np.int64)


def _reached(masks: MaskSet, axis: int, some: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """Number of masks, of some or of all, that reach each slice across an axis."""
    boxes = masks.boxes_zyx if some is None else masks.boxes_zyx[some]
    steps = np.zeros(masks.shape_zyx[axis] + 1)
    np.add.at(steps, boxes[:, axis], 1)
    np.add.at(steps, boxes[:, 3 + axis], -1)
    return np.cumsum(steps)[:-1]


def _middle(masks: MaskSet, axis: int, chosen: NDArray[np.int64]) -> int:
    """The middle of the slices across an axis that the most of these masks reach."""
    reached = _reached(masks, axis, chosen)
    best = np.flatnonzero(reached == reached.max())
    return int(best[len(best) // 2])


def _slice_row(
    masks: MaskSet, cuts: Sequence[Cut], shown: NDArray[np.int64], places: tuple[int, Sequence[int]], grey: tuple[float, float]
) -> _Row:
    """The slices, filled with some of the masks."""
    axis, indices = places
    height, width = cuts[0].size_mm()
    scale = min(((_WIDTH - GAP) / _COLUMNS - GAP) / width, _TALL_SLICE / height)
    view, reached = _VIEWS[cuts[0].plane.axis], _reached(masks, axis, shown).astype(int).tolist()
    captions = [f"{view} {place}: {reached[place]} mask{'s' * (reached[place] != 1)}" for place in indices]
    sizes = masks.voxels[shown] * voxel_ml(masks)
    heading = "Seed slices" if any(across == axis for across, _ in _seeds(masks)) else "Slices"
    if len(shown):
        heading += f" with the {len(shown)} masks from {amount(sizes.min())} to {amount(sizes.max())}"
    return _Row(heading, [found.drawn(scale, grey, _filled) for found in cuts], captions, scale)


def _plane_row(cuts: Sequence[Cut], count: int, grey: tuple[float, float]) -> _Row:
    """Three planes with contours."""
    heights, widths = zip(*(found.size_mm() for found in cuts), strict=True)
    scale = min((_WIDTH - GAP * (len(cuts) + 1)) / sum(widths), _TALL_PLANE / max(heights))
    shown = [found for found in cuts if min(size_of(found.values, found.edges, scale)) >= _THIN]
    heading = "Planes" + f" with {count} masks that do not overlap" * bool(count)
    return _Row(heading, [found.drawn(scale, grey, _contoured) for found in shown], [_VIEWS[found.plane.axis] for found in shown], scale)


def _contoured(picture: NDArray[np.float32], numbers: NDArray[np.int32]) -> NDArray[np.float32]:
    """A picture of a plane with a contour around every mask."""
    return outlined(picture, numbers, {number: _ink(number) for number in np.unique(numbers).tolist() if number})


def _filled(picture: NDArray[np.float32], numbers: NDArray[np.int32]) -> NDArray[np.float32]:
    """A picture of a slice with every mask in its colour, stronger at its edge."""
    size = picture.shape[1], picture.shape[0]
    large = np.asarray(Image.fromarray(numbers).resize(size, Image.Resampling.NEAREST))
    inks = np.array([(0, 0, 0), *(_ink(number) for number in range(1, int(large.max()) + 1))], np.float32)
    edge = np.zeros(large.shape, bool)
    edge[1:] |= large[1:] != large[:-1]
    edge[:, 1:] |= large[:, 1:] != large[:, :-1]
    alpha = np.where(edge, _EDGE, _FILL) * (large > 0)
    return picture * (1 - alpha[:, :, None]).astype(np.float32) + inks[large] * alpha[:, :, None].astype(np.float32)


def _ink(number: int) -> Ink:
    """Colour of a mask: hues a golden section apart, so that numbers close to each other differ."""
    return ink(colorsys.hsv_to_rgb(number * 0.618034 % 1, (0.9, 0.6, 0.75)[number % 3], (1.0, 1.0, 0.85)[number // 3 % 3]))


def _about(masks: MaskSet) -> str:
    """Method, modality and grid of the masks."""
    edges: Triple = masks.spacing_zyx[::-1]
    grid = f"{' x '.join(map(str, masks.shape_zyx[::-1]))} voxels of {' x '.join(f'{edge:.3g}' for edge in edges)} mm"
    known = (masks.meta.get("method"), str(masks.meta.get("modality") or "").upper(), grid)
    return ", ".join(filter(None, known))


def _page(title: str, about: str, rows: Sequence[_Row], histogram: Image.Image) -> Image.Image:
    """Title, rows of pictures with captions and a scale bar, histogram."""
    bands = [_title(title, about), *(_band(row) for row in rows if row.pictures), histogram]
    page = Image.new("RGB", (_WIDTH, sum(band.height for band in bands) + GAP), BACKGROUND)
    top = 0
    for band in bands:
        page.paste(band, ((_WIDTH - band.width) // 2, top))
        top += band.height
    return page


def _title(title: str, about: str) -> Image.Image:
    band = Image.new("RGB", (_WIDTH, 56), BACKGROUND)
    pen = ImageDraw.Draw(band)
    pen.text((GAP, 20), title, fill=(240, 240, 240), font=font(20), anchor="lm")
    pen.text((GAP, 44), about, fill=_TEXT, font=font(14), anchor="lm")
    return band


def _band(row: _Row) -> Image.Image:
    """A row of pictures below its heading, captions below each, the scale bar at the right."""
    head, tallest = 30, max(picture.height for picture in row.pictures)
    band = Image.new("RGB", (_WIDTH, head + tallest + 26), BACKGROUND)
    pen = ImageDraw.Draw(band)
    pen.text((GAP, head // 2 + 2), row.heading, fill=_TEXT, font=font(15), anchor="lm")
    if row.bar is not None:
        draw_bar(pen, _WIDTH - GAP, head // 2 + 4, row.bar)
    left = GAP
    for picture, caption in zip(row.pictures, row.captions, strict=True):
        band.paste(picture, (left, head))
        pen.text((left, head + picture.height + 11), caption, fill=_TEXT, font=font(13), anchor="lm")
        left += picture.width + GAP
    return band
