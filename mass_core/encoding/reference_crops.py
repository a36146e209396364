"""Reference crops: the windows around labels that the network encodes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..config import Modality, Recipe, Shape, Triple
from ..volumes.boxes import Box, bounding_box, cut
from ..volumes.intensity import Intensity, guess_modality
from ..volumes.label_maps import as_label_map, check_belongs
from ..volumes.preprocess import working_image
from ..volumes.volume import Geometry, Volume
from .placed_masks import PlacedMask, placed_masks

MAX_CROPS = 4
"""Most windows a structure that exceeds the window is shown in."""
ENOUGH = 0.95
"""Share of its voxels from which no further window is added."""


@dataclass(frozen=True, kw_only=True)
class ReferenceCrop:
    """One window of a reference that shows the structure. A structure larger than the window has several."""

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
        found = []
        for box in boxes:
            (image, modality), part = self._window(box, recipe), mask.window(box)
            crop = ReferenceCrop(
                image=image,
                mask=part,
                value=value,
                kept=int(part.sum()) / total,
                covered=covered,
                geometry=self.volume.geometry.cropped(box),
                modality=modality,
                warnings=warnings,
            )
            found.append(crop)
        return found

    def _window(self, box: Box, recipe: Recipe) -> tuple[np.ndarray, Modality]:
        """Normalised values, and the modality they were normalised for."""
        if self.intensity is not None and self.modality is not None:
            # The mean becomes 0: the padding of a window that reaches beyond the image, as in training.
            return self.intensity.apply(cut(self.volume.array, box, fill=self.intensity.mean)), self.modality
        crop = cut(self.volume.array, box)
        modality = self.modality or guess_modality(crop)
        return Intensity.of(crop, modality, recipe).apply(crop), modality


def prepare_reference(image: Volume, labels: Volume, values: Sequence[int], recipe: Recipe, spacing_zyx: Triple) -> list[ReferenceCrop]:
    """Cut the windows that show the structures of a reference.

    Args:
        image: The reference scan as stored.
        labels: Its label map; another grid than the image's is resampled by position, with a warning.
        values: Labels to show.
        recipe: How.
        spacing_zyx: Working voxel size in mm.

    Returns:
        One crop or several for each value, in the order of `values`. A label that is absent, of which nothing lies on the image, or nothing
        is left at the working spacing, has none.

    Raises:
        InputError: for a map of fractional values, or an image that cannot be normalised.
        GeometryError: when the label map lies somewhere else than the image.
    """
    whole = as_label_map(labels)
    scan = _Scan.of(image, recipe, spacing_zyx, (*whole.notes, *check_belongs(image.geometry, whole)))
    masks = placed_masks(image, whole, values, scan.volume.geometry, recipe)
    return [crop for value in values if value in masks for crop in scan.crops(value, masks[value], recipe)]


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
