"""From a stored scan to its mask set: the steps common to all methods."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..config import Modality, Recipe, Triple
from ..devices import free_memory
from ..errors import InputError
from ..volumes.boxes import Box
from ..volumes.intensity import guess_modality
from ..volumes.preprocess import working_image
from ..volumes.resample import orient
from ..volumes.volume import Geometry, Volume
from .mask_set import Bools, MaskSet

Maker = Callable[[Volume, Modality, int], tuple[Iterable[tuple[Box, Bools]], dict[str, Any]]]
"""Makes masks of intensities as stored, given the modality and a seed; the second part is further metadata of the mask set."""

_VOXELS = 1_000_000
"""Grids with fewer voxels are taken as they are: more detail than this yields no further objects, only time."""
_LOOK_VOXELS = 250_000
"""Voxels of the coarse grid on which the body is searched."""
_RATIO = 3.0
"""Voxels longer than this many times their width are made cubes, or regions would be flat."""
_MARGIN = (4, 4, 4)
"""Voxels around the body."""
_BYTES = 20
"""Of memory for each voxel of the grid, at least: measured 17 to 21 from the scan read to the masks of it, few as they were."""


def masks_of(
    volume: Volume, recipe: Recipe, maker: Maker, seed: int = 0, spacing_zyx: Triple | None = None
) -> tuple[MaskSet, tuple[str, ...]]:
    """Make the masks of one scan.

    Args:
        volume: the scan as stored.
        recipe: orientation, modality and body crop; its spacing is not used.
        maker: makes the masks of the part around the body.
        seed: of the maker's random choices.
        spacing_zyx: grid the masks are made on; None: the scan's own resolution.

    Returns:
        The masks, on a grid around the body whose place their `meta` tells, and what the user should know.

    Raises:
        InputError: for images that hold NaN or infinite values, have one value only, or are too large for the memory.
    """
    spacing = spacing_zyx or orient(volume, recipe.orientation).geometry.spacing_zyx
    _check_memory(volume, spacing)
    image = working_image(volume, recipe.changed(body_margin_zyx=_MARGIN), spacing, crop_body=True)
    part = image.volume.cropped(image.region)
    modality = image.modality or guess_modality(part.array)
    masks, further = maker(part, modality, seed)
    grid = part.geometry
    meta = {"origin_xyz": list(grid.origin_xyz), "direction": list(grid.direction), "modality": modality, "seed": seed, **further}
    return MaskSet.of(masks, grid.shape_zyx, grid.spacing_zyx, meta), image.warnings


def _check_memory(volume: Volume, spacing_zyx: Triple) -> None:
    """Check that the grid fits into memory, before the system kills the program for it."""
    own, free = volume.geometry, free_memory()
    needed = _BYTES * float(np.prod(own.shape_zyx) * np.prod(own.spacing_zyx) / np.prod(spacing_zyx))
    if free is not None and needed > free:
        edges = " x ".join(f"{edge:.3g}" for edge in spacing_zyx[::-1])
        raise InputError(
            f"On voxels of {edges} mm the scan needs at least {needed / 2**30:.1f} GiB of memory; {free / 2**30:.1f} GiB are free.",
            "Choose larger voxels with --spacing X Y Z, cut the scan, or close other programs.",
        )


def masks_spacing(volume: Volume, recipe: Recipe) -> Triple:
    """Voxel size z, y, x in mm of a grid with detail enough for supervoxels.

    The scan's own, unless its voxels are very flat or its body has more than a million of them: then cubes, a million for the body.
    """
    own = orient(volume, recipe.orientation).geometry
    flat = max(own.spacing_zyx) > _RATIO * min(own.spacing_zyx)
    if np.prod(own.shape_zyx) <= _VOXELS and not flat:
        return own.spacing_zyx
    body_mm3 = _body_mm3(volume, recipe, own)
    if body_mm3 / np.prod(own.spacing_zyx) <= _VOXELS and not flat:
        return own.spacing_zyx
    edge = max(float((body_mm3 / _VOXELS) ** (1 / 3)), min(own.spacing_zyx))
    return edge, edge, edge


def _body_mm3(volume: Volume, recipe: Recipe, own: Geometry) -> float:
    """Volume of the box around the body, looked for on a coarse grid."""
    edge = max(float((np.prod(own.shape_zyx) * np.prod(own.spacing_zyx) / _LOOK_VOXELS) ** (1 / 3)), *own.spacing_zyx)
    image = working_image(volume, recipe.changed(body_margin_zyx=(1, 1, 1)), (edge, edge, edge), crop_body=True)
    start, stop = image.region
    return float(np.prod(np.subtract(stop, start)) * edge**3)
