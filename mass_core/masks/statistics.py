"""Statistics of a mask set: sizes of its masks, and their overlap with labelled structures.

The second is Table 4a of the paper, "Learning from imperfect masks". Its legend, and how it is read here, for one label of one scan:

- Best, "highest Dice between any auto mask and GT": the highest Dice of any mask of the set with the label; 0 if none touches it.
- Avg, "mean Dice for masks overlapping with GT": the mean over the masks that share at least one voxel with the label.
- %>40, "percentage with GT overlap > 40 Dice": the share of these same masks whose Dice is above 0.4, not 0.4 itself.

A mask that overlaps two labels counts for each of them. The paper does not say how it averages: here labels of a scan are averaged first,
then scans. Labels that no mask touches have no Avg and no %>40, and count for Best only.

Dice is counted in voxels of the mask set's grid, onto which the label map is brought by position; what the label has beyond that grid (the
masks' grid ends at the body) is counted too, as missed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..volumes.boxes import Box, bounding_box
from ..volumes.volume import Geometry, Volume
from .from_labels import checked_labels, numbered
from .mask_set import MaskSet
from .regrid import grid_of

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Of the sizes."""
GOOD = 0.4
"""Dice above which a mask counts as good (paper, Table 4a)."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Number of masks and the `QUANTILES` of their sizes; none for an empty set."""

    masks: int
    voxels: tuple[float, ...]
    ml: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class LabelScore:
    """Overlap of the masks of a scan with one label: see the top of this file."""

    label: int
    ml: float
    """Volume of the label on the masks' grid, continued."""
    overlapping: int
    """Masks that share a voxel with the label."""
    best: float
    mean: float | None
    """None: no mask overlaps."""
    above_40: float | None


def sizes(masks: MaskSet) -> Sizes:
    """Number and sizes of the masks."""
    if not len(masks):
        return Sizes(masks=0, voxels=(), ml=())
    voxels = np.quantile(masks.voxels.astype(np.float64), QUANTILES)
    return Sizes(masks=len(masks), voxels=tuple(voxels.tolist()), ml=tuple((voxels * voxel_ml(masks)).tolist()))


def voxel_ml(masks: MaskSet) -> float:
    """Volume of a voxel of the masks' grid."""
    return float(np.prod(masks.spacing_zyx)) / 1000


def label_scores(masks: MaskSet, labels: Volume) -> list[LabelScore]:
    """The paper's Table 4a for one scan, by ascending label.

    Args:
        masks: their `meta` says where their grid lies.
        labels: label map of the scan, integers, 0 outside; on whatever grid.

    Raises:
        InputError: if there are no labels, or they are not integers.
        GeometryError: if the label map lies elsewhere, or the masks do not say where they lie.
    """
    grid = grid_of(masks)
    labels = checked_labels(labels, grid)
    inner, values = numbered(labels, grid)
    common = _common(masks, inner, len(values))
    totals = np.bincount(inner.ravel(), minlength=len(values) + 1) + _beyond(labels, grid, len(values))
    ml = voxel_ml(masks)
    return [_score(value, int(totals[number]), common[:, number], masks.voxels, ml) for number, value in enumerate(values, start=1)]


def averages(scores: Sequence[LabelScore]) -> tuple[float | None, float | None, float | None]:
    """Best, mean and share above 40 %, averaged over labels; None where no label has one."""
    columns = zip(*((score.best, score.mean, score.above_40) for score in scores), strict=True)
    best, mean, above = (mean_known(column) for column in columns) if scores else (None, None, None)
    return best, mean, above


def mean_known(values: Sequence[float | None]) -> float | None:
    """The mean of what is known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _beyond(labels: Volume, grid: Geometry, count: int) -> NDArray[np.int64]:
    """Voxels of each number of `numbered` that lie beyond the grid, on the grid continued."""
    box = bounding_box(labels.array)
    labelled = labels if box is None else labels.cropped(box)
    low, high = _reach(labelled.geometry, grid)
    if not low.any() and (high == grid.shape_zyx).all():
        return np.zeros(count + 1, np.int64)
    outer, _ = numbered(labelled, grid.cropped(Box.of(low, high)))
    # The part on the grid is known: sampled from another corner, places right between two voxels may come out otherwise.
    outer[Box.at(-low, grid.shape_zyx).slices()] = 0
    return np.bincount(outer.ravel(), minlength=count + 1)


def _reach(other: Geometry, grid: Geometry) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The box of voxels of the grid, continued, in which all of the grid and all of `other` lies."""
    matrix = np.linalg.inv(grid.affine)
    index = (other.corners_mm() @ matrix[:3, :3].T + matrix[:3, 3])[:, ::-1]
    low = np.minimum(np.floor(index.min(axis=0) + 0.5), 0).astype(np.int64)
    high = np.maximum(np.ceil(index.max(axis=0) + 0.5), grid.shape_zyx).astype(np.int64)
    return low, high


def _common(masks: MaskSet, numbers: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """[N,count+1] voxels that each mask has in common with each number of a label map on its grid."""
    rows = [np.bincount(numbers[box.slices()][mask], minlength=count + 1) for box, mask in masks]
    return np.array(rows, np.int64).reshape(len(masks), count + 1)


def _score(label: int, voxels: int, common: NDArray[np.int64], masks: NDArray[np.uint64], ml: float) -> LabelScore:
    overlap = common > 0
    dice = 2 * common[overlap] / (voxels + masks[overlap].astype(np.int64))
    touched = len(dice) > 0
    return LabelScore(
        label=label,
        ml=voxels * ml,
        overlapping=len(dice),
        best=float(dice.max()) if touched else 0.0,
        mean=float(dice.mean()) if touched else None,
        above_40=float((dice > GOOD).mean()) if touched else None,
    )
