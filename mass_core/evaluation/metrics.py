"""Agreement of two masks."""

import warnings

import numpy as np

from ..config import Triple
from ..errors import InputError


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Dice coefficient of two masks of equal shape: 2 |A and B| / (|A| + |B|); not a number when both are empty."""
    a, b = first.astype(bool, copy=False), second.astype(bool, copy=False)
    size = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / size if size else float("nan")


def surface_distances(first: np.ndarray, second: np.ndarray, spacing_zyx: Triple) -> tuple[float, float]:
    """Average distance of two surfaces, both directions together, and the larger of both 95th percentiles, as MONAI computes them.

    Args:
        first: mask [z,y,x], not empty.
        second: mask of the same shape, not empty.
        spacing_zyx: voxel edges in mm.

    Returns:
        Both in mm, between centres of voxels on the surface.

    Raises:
        InputError: if MONAI is not installed.
    """
    try:
        import torch
        from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
    except ModuleNotFoundError as error:
        raise InputError(f"Distances of surfaces need {error.name}.", "Run: pip install 'mass-core[train]'") from error
    # A rim of background: MONAI finds no surface at the border of an image.
    a, b = (torch.from_numpy(np.pad(mask.astype(np.uint8), 1))[None, None] for mask in (first, second))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI's about itself
        average = compute_average_surface_distance(a, b, include_background=True, symmetric=True, spacing=spacing_zyx)
        hausdorff = compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=spacing_zyx)
    return float(average), float(hausdorff)
