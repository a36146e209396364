"""Artificial lesions: blobs of one appearance anywhere in a scan, which can be recognised only by appearance, not by position."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mass_core.masks.mask_set import Bools
from mass_core.volumes.boxes import Box, label_boxes

MOST_KINDS = 4
"""Kinds of lesion in one task: each is what the others must not be taken for."""
_CHANGE = (0.4, 3.0)
"""Least and largest change of intensity, in standard deviations of the scan."""
_LARGEST = 0.15
"""Largest radius as a share of the scan's shortest side."""


@dataclass(frozen=True)
class Kind:
    """Appearance of a kind of lesion."""

    change: float
    """Added to the intensity, in standard deviations of the scan."""
    replaced: float
    """Share of the intensity beneath that the lesion hides, from 0 to 1."""
    texture: float
    """Standard deviation of the noise inside."""
    size: float
    """From 0 to 1: radius between the smallest and the largest possible."""


def draw_kinds(rng: np.random.Generator) -> list[Kind]:
    """Kinds of lesion for a task."""
    return [
        Kind(rng.choice([-1, 1]) * rng.uniform(*_CHANGE), rng.uniform(0.3, 1), rng.uniform(0, 0.3), rng.random())
        for _ in range(int(rng.integers(1, MOST_KINDS + 1)))
    ]


def add_lesions(
    image: NDArray[np.floating], spacing: NDArray[np.floating], kinds: Sequence[Kind], rng: np.random.Generator
) -> tuple[NDArray[np.float32], dict[int, tuple[Box, Bools]]]:
    """A scan with one to three lesions of each kind, in places brighter than half of the scan: mostly the body.

    Args:
        image: [z,y,x], z-scored.
        spacing: voxel size z, y, x in mm.
        kinds: from `draw_kinds`.
        rng: for places and shapes.

    Returns:
        The changed image, and by kind from 1 the mask of its lesions in its bounding box. A later lesion hides an earlier one, so only the
        last kind is sure to be there.
    """
    changed = np.array(image, np.float32)
    drawn = np.zeros(image.shape, np.uint8)
    body = np.flatnonzero(changed > np.median(changed[::2, ::2, ::2]))
    smallest, largest = 2.0 * float(np.max(spacing)), _LARGEST * float(np.min(np.array(image.shape) * spacing))
    for number, kind in enumerate(kinds, start=1):
        radius = smallest * (max(largest, smallest) / smallest) ** kind.size
        for _ in range(int(rng.integers(1, 4))):
            centre = np.array(np.unravel_index(int(body[rng.integers(len(body))]), image.shape))
            where, mask = _draw(changed, kind, centre, radius * rng.uniform(0.7, 1.3) / spacing, rng)
            drawn[where][mask] = number
    return changed, {number: (box, drawn[box.slices()] == number) for number, box in label_boxes(drawn).items()}


def _draw(
    image: NDArray[np.float32], kind: Kind, centre: NDArray[np.intp], radii: NDArray[np.floating], rng: np.random.Generator
) -> tuple[tuple[slice, ...], Bools]:
    """Draw a lesion with a bumpy outline and a soft edge into the image, in place; returns its box and mask."""
    radii = radii * rng.uniform(0.7, 1.3, 3)
    reach = np.ceil(1.6 * radii).astype(int) + 1
    start, stop = np.maximum(centre - reach, 0), np.minimum(centre + reach + 1, image.shape)
    where = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    grid = np.meshgrid(*[np.arange(a, b) for a, b in zip(start, stop, strict=True)], indexing="ij")
    distance = np.sqrt(sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, centre, radii, strict=True)))
    bumps = ndimage.zoom(rng.normal(0, 0.12, (4, 4, 4)), np.array(distance.shape) / 4, order=1, grid_mode=True, mode="nearest")
    depth = (1 - distance + bumps) * radii.min()
    alpha = np.clip(0.5 + depth / rng.uniform(0.8, 2.5), 0, 1).astype(np.float32)
    part = image[where]
    own = (1 - kind.replaced) * part + kind.replaced * image[tuple(centre)] + kind.change
    own = own + kind.texture * rng.standard_normal(part.shape, dtype=np.float32)
    part[...] = (1 - alpha) * part + alpha * own
    return where, alpha > 0.5
