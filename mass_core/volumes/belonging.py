"""Whether a label map belongs to its image: where the two lie tells it, and what was lost on the way is said."""

import numpy as np

from ..errors import GeometryError
from .volume import Geometry, Volume

_HALF = 0.5
"""Of a voxel edge: two grids of the same outline differ by less. Of a label map: less of it on its image is worth a word."""
_POINTS = 200_000
"""Labelled voxels from which the share on the image is measured."""


def check_belongs(image: Geometry, labels: Volume, *, image_is: str = "image", labels_are: str = "mask") -> tuple[str, ...]:
    """Refuse a label map that cannot be its image's, and tell what is odd about one that can.

    Args:
        image: the grid of the image.
        labels: 0 outside; on whatever grid.
        image_is: what messages call the image.
        labels_are: what they call the label map.

    Returns:
        What the user should be told, one sentence each.

    Raises:
        GeometryError: if its header was lost, or nothing of it lies on the image.
    """
    grid = labels.geometry
    if image.matches(grid) or image.contains(grid):
        return ()  # of a cut-out all around it is background
    both = f"the {image_is} is {image.describe()}, the {labels_are} {grid.describe()}"
    if sorted(image.shape_zyx) == sorted(grid.shape_zyx) and not _same_outline(image, grid):
        lost = f"The {labels_are} does not lie on its {image_is}, but has its shape: {both}."
        raise GeometryError(
            " ".join([lost, "Its header was lost, or it is another scan's.", *labels.notes]),
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
        notes.append(f"Only {share:.0%} of what the {labels_are} marks lies on its {image_is}; the rest is lost.")
    return tuple(notes)


def _same_outline(one: Geometry, other: Geometry) -> bool:
    """Whether two grids of the same shape fill the same box; they may be stored in another order."""
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
