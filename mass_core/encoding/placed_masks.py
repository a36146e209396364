"""Masks of a reference on the working grid."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..config import Recipe
from ..volumes.boxes import Box, bounding_box, cut, label_boxes
from ..volumes.label_maps import as_label_map, check_belongs
from ..volumes.resample import orient, resample
from ..volumes.volume import Geometry, Volume


@dataclass(frozen=True, kw_only=True)
class PlacedMask:
    """A binary mask that fills only a box of the working grid."""

    array: np.ndarray
    box: Box

    def window(self, box: Box) -> np.ndarray:
        """The part inside a window, uint8 [z, y, x]."""
        return cut(self.array, box.seen_from(self.box.low))


def masks_on(image: Volume, labels: Volume, values: Sequence[int], grid: Geometry, recipe: Recipe) -> dict[int, PlacedMask]:
    """The masks of some labels on a working grid of their image; labels of which nothing is left there, or that are absent, are left out.

    Args:
        image: The reference scan as stored.
        labels: Its label map.
        values: Labels wanted.
        grid: On the recipe's axes, as `Record.working` of the prepared image.
        recipe: How.

    Raises:
        InputError: for a map of fractional values.
        GeometryError: when the label map lies somewhere else than the image.
    """
    whole = as_label_map(labels)
    check_belongs(image.geometry, whole)
    return placed_masks(image, whole, values, grid, recipe)


def placed_masks(image: Volume, labels: Volume, values: Sequence[int], grid: Geometry, recipe: Recipe) -> dict[int, PlacedMask]:
    """`masks_on` of a label map of integers that is known to be the image's."""
    oriented = orient(labels, recipe.orientation)
    if recipe.mask_coverage:
        # Coverage needs parallel axes: an oblique label map is carried over to the image's own grid first.
        if not orient(image, recipe.orientation).geometry.aligned(oriented.geometry):
            oriented = orient(resample(labels, image.geometry, "nearest"), recipe.orientation)
        boxes = label_boxes(oriented.array)
        covered = {v: _by_coverage(oriented, v, boxes[v], grid) for v in values if v in boxes}
        return {v: mask for v, mask in covered.items() if mask is not None}
    moved = resample(oriented, grid, "nearest").array
    boxes = label_boxes(moved)
    return {v: PlacedMask(array=(moved[boxes[v].slices()] == v).astype(np.uint8), box=boxes[v]) for v in values if v in boxes}


def _by_coverage(labels: Volume, value: int, box: Box, grid: Geometry) -> PlacedMask | None:
    """As many voxels of the grid as the label's volume fills, those it covers most; at least one if it lies on the grid at all."""
    ratio = [new / old for new, old in zip(grid.spacing_zyx, labels.geometry.spacing_zyx, strict=True)]
    margin = [math.ceil(2 * r) + 1 for r in ratio]
    roomy = box.grown(margin)
    inside = (labels.array[box.slices()] == value).astype(np.float32)
    source = Volume(np.pad(inside, [(m, m) for m in margin]), labels.geometry.cropped(roomy))
    part = _reached(source.geometry, grid)
    if part is None:
        return None
    coverage = resample(source, grid.cropped(part), "linear", average=True).array
    total = float(coverage.sum(dtype=np.float64))
    if total < 1e-3:
        return None
    count = max(1, round(total))
    least = np.partition(coverage, coverage.size - count, axis=None)[coverage.size - count]
    mask = coverage >= max(float(least), 1e-6)
    tight = bounding_box(mask)
    assert tight is not None  # the most covered voxel is above zero
    return PlacedMask(array=mask[tight.slices()].astype(np.uint8), box=tight.shifted(part.low))


def _reached(source: Geometry, grid: Geometry) -> Box | None:
    """The box of the grid whose voxel centres lie in a source; None: no such voxel."""
    to_index = np.linalg.inv(grid.affine)
    corners = (source.corners_mm() @ to_index[:3, :3].T + to_index[:3, 3])[:, ::-1]
    reached = Box.of(np.ceil(corners.min(axis=0) - 1e-3), np.floor(corners.max(axis=0) + 1e-3) + 1)
    return reached.common(Box((0, 0, 0), grid.shape_zyx))
