"""Checks of label maps: integer values, and the same place as their image. Each refusal says what to do."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..errors import GeometryError, InputError
from .resample import resample
from .volume import Geometry, Volume

MAX_LABEL = 65535
"""Highest label value: label maps are written as uint16."""
_ROUNDING = 0.01
"""Tolerance within which a value counts as a whole number: scaled integers come back as 1.0000153."""
_GREYS = 64
"""So many values are looked at: each of so many labels would have a region of its own."""
_TOGETHER = 0.5
"""Share of a label's voxels with the same label beside them, as a mean over the three axes; organs have 0.7 and more."""
_HALF = 0.5
"""Of a voxel edge: two grids of the same outline differ by less. Of a label map: if less of it lies on its image, a note says so."""
_POINTS = 200_000
"""Labelled voxels from which the share on the image is measured."""
_CURE = "If it shows one structure, give --threshold-mask with the lowest value inside it"


def as_label_map(labels: Volume) -> Volume:
    """The same label map with integer voxels; its notes name values that were rounded or left out.

    Raises:
        InputError: for fractions, values above 65535, the greys of an interpolated mask, and images.
    """
    array = labels.array
    if array.dtype == bool:
        return replace(labels, array=array.view(np.uint8))
    low, high = float(array.min()), float(array.max())
    notes = labels.notes
    if array.dtype.kind == "f":
        off = float(np.abs(array - np.rint(array)).max()) if np.isfinite([low, high]).all() else np.inf
        if not off <= _ROUNDING:
            what = "a probability map" if 0 <= low and high <= 1 else "an image, or was interpolated"
            raise InputError(f"The mask holds fractional values from {low:.4g} to {high:.4g}, so it is {what}.", f"{_CURE}.")
        if off:
            notes = (*notes, f"The values of the mask are up to {off:.2g} off whole numbers and were rounded.")
    if high > MAX_LABEL + _ROUNDING:
        raise InputError(
            f"The mask holds the value {high:.6g}, the highest label is {MAX_LABEL}.", f"Choose the values to use with --labels. {_CURE}."
        )
    if array.dtype.kind == "f":
        array = np.rint(array).astype(np.int32)
    if low < -_ROUNDING:
        notes = (*notes, f"The mask holds values below 0, down to {low:.4g}; they count as background.")
        array = np.maximum(array, 0)
    _check_regions(array, round(high))
    return replace(labels, array=array, notes=notes)


def voxels_of(array: NDArray[np.integer]) -> dict[int, int]:
    """Voxels of each value above 0, in ascending order; plane by plane, for counting takes eight times the memory of a label map."""
    counts: dict[int, int] = {}
    for plane in array:
        found = np.bincount(np.maximum(plane, 0).reshape(-1))
        for value in np.flatnonzero(found).tolist():
            counts[value] = counts.get(value, 0) + int(found[value])
    return {value: counts[value] for value in sorted(counts) if value}


def only(labels: Volume, values: Collection[int] | None) -> Volume:
    """A label map with some of its labels; None: all."""
    if values is None:
        return labels
    return replace(labels, array=np.where(np.isin(labels.array, list(values)), labels.array, 0))


def thresholded(mask: Volume, least: float | None) -> Volume:
    """Label 1 where a mask reaches a value; None: the mask as it is."""
    return mask if least is None else replace(mask, array=(mask.array >= least).astype(np.uint8))


def check_belongs(image: Geometry, labels: Volume, *, image_is: str = "image", labels_are: str = "mask") -> tuple[str, ...]:
    """Refuse a label map that cannot be its image's, and note what is odd about one that can.

    Args:
        image: the grid of the image.
        labels: 0 outside; on whatever grid.
        image_is: what messages call the image.
        labels_are: what they call the label map.

    Returns:
        Notes for the user, one sentence each.

    Raises:
        GeometryError: if its header was lost, or nothing of it lies on the image.
    """
    grid = labels.geometry
    if image.matches(grid) or image.contains(grid):
        return ()  # of a cut-out all around it is background
    both = f"the {image_is} is {image.describe()}, the {labels_are} {grid.describe()}"
    if sorted(image.shape_zyx) == sorted(grid.shape_zyx) and not _same_outline(image, grid):
        lost = f"The {labels_are} has the shape of its {image_is} but another position or spacing: {both}."
        raise GeometryError(
            " ".join([lost, "Its header was lost, or it belongs to another scan.", *labels.notes]),
            "If the two belong together voxel for voxel, give --same-grid (same_grid); else give the one made for this scan.",
        )
    share = _share_on(image, labels) if image.overlaps(grid) else 0.0
    if not share:
        raise GeometryError(
            f"The {labels_are} does not lie on its {image_is}: {both}.",
            "Check that they belong together, and that the mask was saved with its position.",
        )
    if image.shares_lattice(grid):
        notes = [f"The {labels_are} covers another part of the patient than its {image_is}; voxels were matched by position."]
    else:
        notes = [f"The {labels_are} has another grid than its {image_is} and was resampled by position."]
    if share < _HALF:
        notes.append(f"Only {share:.0%} of the {labels_are} lies on its {image_is}; the rest is ignored.")
    return tuple(notes)


def on_grid(labels: Volume, grid: Geometry) -> Volume:
    """A label map of whole numbers on its scan's grid, by position.

    Raises:
        InputError: if it is not a label map.
        GeometryError: if it lies elsewhere.
    """
    labels = as_label_map(labels)
    check_belongs(grid, labels, image_is="scan")
    return labels if labels.geometry.matches(grid) else resample(labels, grid, "nearest")


def _check_regions(array: np.ndarray, high: int) -> None:
    """Refuse the greys of an image or of an interpolated mask: many values, most of which have hardly two voxels side by side."""
    if high < _GREYS:
        return
    counts = np.bincount(array[array > 0].astype(np.int64), minlength=high + 1)
    used = np.flatnonzero(counts)
    if used.size < _GREYS:
        return
    beside = np.zeros(high + 1)
    for axis in range(3):
        one, next_one = np.moveaxis(array, axis, 0)[:-1], np.moveaxis(array, axis, 0)[1:]
        beside += np.bincount(one[(one == next_one) & (one > 0)].astype(np.int64), minlength=high + 1) / 3
    if np.median(beside[used] / counts[used]) < _TOGETHER:
        raise InputError(
            f"The mask holds {used.size} different values up to {high}, most of them without a region of their own: it is an image, or "
            "an interpolated mask with grey values.",
            f"{_CURE}, {high / 2:.4g} say.",
        )


def _same_outline(one: Geometry, other: Geometry) -> bool:
    """True if two grids of the same shape fill the same box; they may be stored in another order."""
    distances = np.linalg.norm(one.corners_mm()[:, None] - other.corners_mm()[None], axis=2)
    within = _HALF * min(*one.spacing_xyz, *other.spacing_xyz)
    return bool(distances.min(axis=0).max() <= within and distances.min(axis=1).max() <= within)


def _share_on(image: Geometry, labels: Volume) -> float:
    """Share of the labelled voxels whose centres lie on an image; 1 of an empty label map."""
    marked = np.flatnonzero(labels.array)
    marked = marked[:: max(1, marked.size // _POINTS)]
    if not marked.size:
        return 1.0
    index = np.stack(np.unravel_index(marked, labels.array.shape)[::-1], axis=1)
    matrix = np.linalg.inv(image.affine) @ labels.geometry.affine
    places = index @ matrix[:3, :3].T + matrix[:3, 3]
    inside = (places > -0.5) & (places < np.asarray(image.shape_zyx[::-1]) - 0.5)
    return float(inside.all(axis=1).mean())
