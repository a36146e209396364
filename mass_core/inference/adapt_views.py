"""Randomly augmented windows of labelled scans, on which a task is fitted to its references."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import radians
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..config import Shape
from ..encoding.placed_masks import PlacedMask
from ..errors import InputError
from ..volumes.boxes import Box, cut

if TYPE_CHECKING:
    from monai.transforms import Compose

MARGIN = 4
"""A window is cut out with a rim of its own size divided by this, so that turning it brings in the scan and not only emptiness."""
_POOL_BYTES = 256 << 20
"""Of the windows kept of one scan, rims included."""
_MOST = 24
"""Windows of a scan on the structures, and as many anywhere."""
_JITTER = 0.25
"""Standard deviation of a window's centre around a voxel of a structure, in windows: windows that slide over a scan seldom sit on it."""


@dataclass(frozen=True, kw_only=True)
class View:
    """One window with its rim."""

    image: np.ndarray
    """Normalised values, float32 [z,y,x]."""
    masks: np.ndarray
    """uint8 [K,z,y,x]."""
    shown: np.ndarray
    """float32 [K]: voxels of each mask in the whole scan; 0: the scan does not show it, so it does not count."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Windows as the network takes them, on the CPU."""

    images: Tensor
    """[B,1,D,H,W] float32."""
    masks: Tensor
    """[B,K,D,H,W] float32, 0 or 1."""
    shown: Tensor
    """[B,K] float32, see `View`."""


def windows(
    array: np.ndarray, masks: Mapping[int, PlacedMask], values: Sequence[int], window: Shape, rng: np.random.Generator
) -> list[View]:
    """Windows of one scan, alternately on one of its structures and anywhere in it (negative examples).

    Args:
        array: the prepared scan, float32 [z,y,x].
        masks: of the labels it shows, placed on the same grid.
        values: labels in the order of the masks of a view.
        window: in voxels.
        rng: draws places.

    Returns:
        At most 24 of either kind, fewer where windows are large.
    """
    shape, size = np.array(array.shape), np.array(window)
    latest = np.maximum(shape - size, 0)
    bytes_each = int(np.prod(size * (MARGIN + 2) // MARGIN)) * (4 + len(values))
    count = int(np.clip(_POOL_BYTES // (2 * bytes_each), 2, _MOST))
    shown = np.array([masks[value].array.sum(dtype=np.int64) if value in masks else 0 for value in values], np.float32)
    places = [(masks[value], np.flatnonzero(masks[value].array)) for value in values if value in masks]
    nothing = np.zeros(size + 2 * (size // MARGIN), np.uint8)
    found: list[View] = []

    def view(start: np.ndarray) -> View:
        box = Box.of(start - size // MARGIN, start + size + size // MARGIN)
        parts = [masks[value].window(box) if value in masks else nothing for value in values]
        return View(image=cut(array, box), masks=np.stack(parts), shown=shown)

    for turn in range(count):
        if places:
            mask, inside = places[turn % len(places)]
            voxel = np.unravel_index(inside[rng.integers(len(inside))], mask.array.shape)
            centre = np.add(voxel, mask.box[0]) + _JITTER * size * rng.standard_normal(3)
            found.append(view(np.clip(np.rint(centre - size / 2).astype(int), 0, latest)))
        found.append(view(rng.integers(0, latest + 1)))
    return found


def augmentation(window: Shape, seed: int) -> "Compose":
    """Places and intensities changed as in pretraining (paper section 7.4), by MONAI; cuts the rim off.

    Raises:
        InputError: if MONAI is not installed.
    """
    try:
        from monai import transforms as monai
    except ModuleNotFoundError as error:
        raise InputError(f"Adapting needs {error.name}.", "Run: pip install 'mass-core[train]'") from error
    changes = [
        monai.RandAffined(
            keys=("image", "masks"),
            prob=0.8,
            spatial_size=window,
            rotate_range=(radians(30),) * 3,
            shear_range=(0.1,) * 6,
            scale_range=(0.3,) * 3,
            mode=("bilinear", "nearest"),
            padding_mode="zeros",
        ),
        monai.RandScaleIntensityd("image", factors=(-0.2, 0.3), prob=0.2),
        monai.RandShiftIntensityd("image", offsets=0.15, prob=0.2),
        monai.RandAdjustContrastd("image", gamma=(0.8, 1.3), retain_stats=True, prob=0.2),
        monai.RandGaussianSmoothd("image", sigma_x=(0.7, 1.5), sigma_y=(0.7, 1.5), sigma_z=(0.7, 1.5), prob=0.2),
        monai.RandGaussianNoised("image", std=0.04, prob=0.2),
    ]
    return monai.Compose(changes).set_random_state(seed)


def batch_of(views: Sequence[View], change: "Compose") -> Batch:
    """Views, each changed in its own way, side by side."""
    made = [change({"image": torch.from_numpy(view.image)[None], "masks": torch.from_numpy(view.masks).float()}) for view in views]
    return Batch(
        images=torch.stack([one["image"].as_tensor() for one in made]),
        masks=torch.stack([one["masks"].as_tensor() for one in made]),
        shown=torch.from_numpy(np.stack([view.shown for view in views])),
    )
