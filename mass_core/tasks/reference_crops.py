"""Reference crops: the windows around labels that the network encodes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..config import Modality, Recipe, Shape, Triple
from ..errors import InputError, listing
from ..volumes.boxes import Box, bounding_box, cut, label_boxes
from ..volumes.intensity import Intensity, guess_modality
from ..volumes.label_maps import as_label_map, check_belongs
from ..volumes.preprocess import working_image
from ..volumes.resample import orient, resample
from ..volumes.volume import Geometry, Volume

MAX_CROPS = 4
"""Most windows a structure that exceeds the window is shown in."""
ENOUGH = 0.95
"""Share of its voxels from which no further window is added."""
LADDER = 1.15
"""Ratio between neighbouring working spacings; labels whose spacings fall on one rung share their windows."""
_THICKNESS_VOXELS = 4_000_000
"""Voxels from which a structure's thickness is measured on every second (third, ...) voxel only."""


@dataclass(frozen=True, kw_only=True)
class ReferenceCrop:
    """One window of a reference with the structure to learn from it. A structure larger than the window has several."""

    image: np.ndarray
    """Normalised values, float32 [z, y, x], window-sized."""
    mask: np.ndarray
    """uint8 [z, y, x]."""
    value: int
    """Of the label the mask shows."""
    kept: float
    """Share of the label's voxels inside this window."""
    covered: float
    """Share of the label's voxels inside all windows of this reference together."""
    geometry: Geometry
    """Geometry of the window."""
    modality: Modality
    warnings: tuple[str, ...] = ()

    @property
    def spacing_zyx(self) -> Triple:
        """Working voxel size in mm."""
        return self.geometry.spacing_zyx


@dataclass(frozen=True, kw_only=True)
class PlacedMask:
    """A binary mask that fills only a box of the working grid."""

    array: np.ndarray
    box: Box

    def window(self, box: Box) -> np.ndarray:
        """The part inside a window, uint8 [z, y, x]."""
        return cut(self.array, box.seen_from(self.box.low))


@dataclass(frozen=True, kw_only=True)
class _Scan:
    """A reference image on its working grid, ready to be cut into windows."""

    volume: Volume
    modality: Modality | None
    """None: guessed for every window."""
    intensity: Intensity | None
    """None: measured in every window."""
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, image: Volume, recipe: Recipe, spacing_zyx: Triple, notes: tuple[str, ...]) -> "_Scan":
        working = working_image(image, recipe, spacing_zyx, crop_body=recipe.normalise_before_crop)
        modality, intensity = working.modality, None
        if recipe.normalise_before_crop:
            body = working.volume.array[working.region.slices()]
            modality = modality or guess_modality(body)
            intensity = Intensity.of(body, modality, recipe)
        return cls(volume=working.volume, modality=modality, intensity=intensity, warnings=(*notes, *working.warnings))

    def crops(self, value: int, mask: PlacedMask, recipe: Recipe) -> list[ReferenceCrop]:
        """The windows that show one label."""
        boxes = _windows_for(mask, recipe)
        total = int(mask.array.sum())
        covered = _inside(mask, boxes) / total
        warnings = self.warnings
        if covered < 1:
            crops = "the reference crop" if len(boxes) == 1 else f"its {len(boxes)} reference crops"
            warnings = (*warnings, f"Label {value} exceeds the reference window; {math.floor(100 * covered)}% of it lies in {crops}.")
        return [self._crop(value, mask, box, covered, warnings, recipe) for box in boxes]

    def _crop(self, value: int, mask: PlacedMask, box: Box, covered: float, warnings: tuple[str, ...], recipe: Recipe) -> ReferenceCrop:
        image, modality = self._window(box, recipe)
        part = mask.window(box)
        return ReferenceCrop(
            image=image,
            mask=part,
            value=value,
            kept=int(part.sum()) / int(mask.array.sum()),
            covered=covered,
            geometry=self.volume.geometry.cropped(box),
            modality=modality,
            warnings=warnings,
        )

    def _window(self, box: Box, recipe: Recipe) -> tuple[np.ndarray, Modality]:
        """Normalised values, and the modality they were normalised for."""
        if self.intensity is not None and self.modality is not None:
            # The mean becomes 0: the padding of a window that reaches beyond the image, as in training.
            return self.intensity.apply(cut(self.volume.array, box, fill=self.intensity.mean)), self.modality
        crop = cut(self.volume.array, box)
        modality = self.modality or guess_modality(crop)
        return Intensity.of(crop, modality, recipe).apply(crop), modality


def prepare_reference(
    image: Volume, labels: Volume, values: Sequence[int], recipe: Recipe, spacing_zyx: Triple | None = None
) -> list[ReferenceCrop]:
    """Cut the windows that show the structures of a reference.

    Args:
        image: The reference scan as stored.
        labels: Its label map; another grid than the image's is resampled by position, with a warning.
        values: Labels to show; each must be present.
        recipe: How.
        spacing_zyx: Working voxel size in mm for all values; None: the recipe's, or else each label's own `working_spacing`.

    Returns:
        One crop or several for each value, in the order of `values`. A label of which nothing lies on the image, or nothing is left at the
        working spacing, has none.

    Raises:
        InputError: for an empty mask, an absent label, or an image that cannot be normalised.
        GeometryError: when the label map lies somewhere else than the image.
    """
    whole = as_label_map(labels)
    notes = (*whole.notes, *check_belongs(image.geometry, whole))
    boxes = _boxes_of(whole, values)
    spacings = {v: spacing_zyx or recipe.spacing_zyx or _spacing_of(image.geometry, whole, v, boxes[v], recipe) for v in values}
    whole = _on_axes_of(image, whole, recipe)
    found: dict[int, list[ReferenceCrop]] = {}
    for spacing in sorted(set(spacings.values())):
        scan = _Scan.of(image, recipe, spacing, notes)
        masks = _masks_on(scan.volume.geometry, whole, [v for v in values if spacings[v] == spacing], recipe)
        found.update({value: scan.crops(value, mask, recipe) for value, mask in masks.items()})
    return [crop for value in values for crop in found.get(value, [])]


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
    return _masks_on(grid, _on_axes_of(image, whole, recipe), values, recipe)


def working_spacing(image: Geometry, labels: Volume, value: int, recipe: Recipe) -> Triple:
    """The voxel size at which a structure is best seen, in mm, equal along all axes; a rung of the ladder.

    The longest side of the structure shall fill `extent_fraction` of the window, but its thickness (twice the 95th percentile of the
    distance from inside to the surface) shall span `thickness_voxels`, and the window shall not be larger than the reference image:
    there would be nothing to see in the rest. All within `spacing_limits_mm`, and not finer than the finest edge of the image's voxels:
    finer ones show nothing more, and halving them takes eight times as long.

    Raises:
        InputError: when the label is absent.
    """
    whole = as_label_map(labels)
    return _spacing_of(image, whole, value, _boxes_of(whole, [value])[value], recipe)


def common_spacing(spacings: Sequence[Triple]) -> Triple:
    """The one spacing for a label seen in several references: the middle one (of two middle ones the finer)."""
    return sorted(spacings)[(len(spacings) - 1) // 2]


def _spacing_of(image: Geometry, labels: Volume, value: int, box: Box, recipe: Recipe) -> Triple:
    mask = orient(labels.cropped(box), recipe.orientation)
    edges = mask.geometry.spacing_zyx
    by_extent = max(n * s / w for n, s, w in zip(mask.array.shape, edges, recipe.window_zyx, strict=True)) / recipe.extent_fraction
    by_view = max(n * s for n, s in zip(image.shape_zyx, image.spacing_zyx, strict=True)) / max(recipe.window_zyx)
    spacing = min(by_extent, by_view, thickness_mm(mask.array == value, edges) / recipe.thickness_voxels)
    low, high = recipe.spacing_limits_mm
    finest, rungs = (math.log(edge / low) / math.log(LADDER) for edge in (max(low, min(image.spacing_zyx)), high))
    rung = max(round(math.log(max(spacing, low) / low) / math.log(LADDER)), math.ceil(finest - 1e-9))
    edge = low * LADDER ** min(rung, math.floor(rungs + 1e-9))
    return edge, edge, edge


def thickness_mm(mask: np.ndarray, spacing_zyx: Triple) -> float:
    """Twice the 95th percentile of the distance from a mask's voxels to the nearest voxel outside it, in mm."""
    stride = max(1, math.ceil((mask.size / _THICKNESS_VOXELS) ** (1 / 3)))
    steps = [stride if n >= 8 * stride else 1 for n in mask.shape]
    thinned = np.pad(mask[tuple(slice(None, None, step) for step in steps)], 1)
    distance = ndimage.distance_transform_edt(thinned, sampling=[s * step for s, step in zip(spacing_zyx, steps, strict=True)])
    return 2 * float(np.percentile(distance[thinned], 95))


def _boxes_of(labels: Volume, values: Sequence[int]) -> dict[int, Box]:
    boxes = label_boxes(labels.array)
    if not boxes:
        raise InputError("The mask is empty: all of its voxels are 0.", "Mark the structure to segment in the reference mask.")
    absent = [v for v in values if v not in boxes]
    if absent:
        raise InputError(f"Label {listing(absent)} is not in the mask; it holds {listing(boxes)}.", "Choose among those.")
    return boxes


def _on_axes_of(image: Volume, labels: Volume, recipe: Recipe) -> Volume:
    """The label map on axes parallel to the image's, which coverage needs; an oblique one is carried over to the image's own grid."""
    ours, theirs = (orient(volume, recipe.orientation).geometry for volume in (image, labels))
    if not recipe.mask_coverage or ours.aligned(theirs):
        return labels
    return resample(labels, image.geometry, "nearest")


def _masks_on(grid: Geometry, labels: Volume, values: Sequence[int], recipe: Recipe) -> dict[int, PlacedMask]:
    """The masks of some labels on the working grid; labels of which nothing lies on it are left out."""
    oriented = orient(labels, recipe.orientation)
    if recipe.mask_coverage:
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


def _windows_for(mask: PlacedMask, recipe: Recipe) -> list[Box]:
    """Windows that show a mask: one around its middle if it fits, else several on its densest parts."""
    window = recipe.window_zyx
    if not recipe.cover_reference:
        return [_centred(mask.box, window)]
    if all(n <= w for n, w in zip(mask.box.size, window, strict=True)):
        return [_holding(mask.box, window)]
    boxes: list[Box] = []
    start = mask.box.low
    left = mask.array.copy()
    total = int(left.sum())
    while len(boxes) < MAX_CROPS and int(left.sum()) > (1 - ENOUGH) * total:
        densest = _densest(left, window).shifted(start)
        boxes.append(_holding(densest, window))
        _erase(left, boxes[-1].seen_from(start))
    return boxes


def _inside(mask: PlacedMask, boxes: Sequence[Box]) -> int:
    """Voxels of a mask that lie in any of the boxes."""
    left = mask.array.copy()
    for box in boxes:
        _erase(left, box.seen_from(mask.box.low))
    return int(mask.array.sum()) - int(left.sum())


def _erase(mask: np.ndarray, box: Box) -> None:
    """Set a box, as far as it lies in the mask, to 0 in place."""
    mask[box.clipped(mask.shape).slices()] = 0


def _densest(mask: np.ndarray, window_zyx: Shape) -> Box:
    """The tight box around the part of a mask that a best placed window holds; the mask is not empty."""
    sums = mask.astype(np.int32)
    for axis, width in enumerate(window_zyx):
        sums = _running_sum(sums, axis, min(width, mask.shape[axis]))
    start = np.unravel_index(int(sums.argmax()), sums.shape)
    part = mask[tuple(slice(a, a + w) for a, w in zip(start, window_zyx, strict=True))]
    tight = bounding_box(part)
    assert tight is not None  # the window of most voxels holds some
    return tight.shifted(start)


def _running_sum(array: np.ndarray, axis: int, width: int) -> np.ndarray:
    """Sums of `width` neighbours along an axis, one for each start."""
    total = np.insert(np.cumsum(array, axis=axis, dtype=np.int32), 0, 0, axis=axis)
    count = total.shape[axis]
    return np.take(total, range(width, count), axis=axis) - np.take(total, range(count - width), axis=axis)


def _centred(box: Box, window_zyx: Shape) -> Box:
    """The window around the middle of a box, rounded as in the released script."""
    return Box.at((round((low + high - 1) / 2) - w // 2 for low, high, w in zip(*box, window_zyx, strict=True)), window_zyx)


def _holding(box: Box, window_zyx: Shape) -> Box:
    """The window around the middle of a box no larger than it, moved by a voxel where rounding would cut the box off."""
    start = _centred(box, window_zyx).low
    return Box.at((max(min(s, low), high - w) for s, low, high, w in zip(start, *box, window_zyx, strict=True)), window_zyx)
