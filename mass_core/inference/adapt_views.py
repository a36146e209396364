"""Randomly augmented windows of labelled scans, on which a task is fitted to its references."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..augmentation.appearance import AppearanceConfig, appearance
from ..augmentation.batch import WORD, Batch
from ..augmentation.poses import Pose, PoseConfig, random_linear
from ..augmentation.views import cut_views
from ..config import Shape, Triple
from ..encoding.placed_masks import PlacedMask
from ..volumes.boxes import Box, cut

MARGIN = 4
"""A window is cut out with a rim of its own size divided by this, so that turning it brings in the scan and not only emptiness."""
_POOL_BYTES = 256 << 20
"""Of the windows kept of one scan, rims included."""
_MOST = 24
"""Windows of a scan on the structures, and as many anywhere."""
_JITTER = 0.25
"""Standard deviation of a window's centre around a voxel of a structure, in windows: windows that slide over a scan seldom sit on it."""
_POSES, _INTENSITIES = PoseConfig(), AppearanceConfig()
"""Of pretraining (paper section 7.4)."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """One window of a scan with its rim."""

    image: np.ndarray
    """Normalised values, float32 [z,y,x]."""
    bits: np.ndarray
    """int32 [words,z,y,x]: the masks, see `Batch.bits`."""
    shown: np.ndarray
    """float32 [K]: voxels of each mask in the whole scan; 0: the scan does not show it, so it does not count."""


@dataclass(frozen=True, kw_only=True)
class Views:
    """Augmented windows as the network takes them."""

    images: Tensor
    """[B,1,D,H,W] float32."""
    masks: Tensor
    """[B,K,D,H,W] uint8, 0 or 1."""
    shown: Tensor
    """[B,K] float32, see `Window`."""


def windows(
    array: np.ndarray, masks: Mapping[int, PlacedMask], values: Sequence[int], window: Shape, rng: np.random.Generator
) -> list[Window]:
    """Windows of one scan, alternately on one of its structures and anywhere in it (negative examples).

    Args:
        array: the prepared scan, float32 [z,y,x].
        masks: of the labels it shows, placed on the same grid.
        values: labels in the order of the masks.
        window: in voxels.
        rng: draws places.

    Returns:
        At most 24 of either kind, fewer where windows are large.
    """
    shape, size = np.array(array.shape), np.array(window)
    latest = np.maximum(shape - size, 0)
    words = -(-len(values) // WORD)
    bytes_each = int(np.prod(size * (MARGIN + 2) // MARGIN)) * 4 * (1 + words)
    count = int(np.clip(_POOL_BYTES // (2 * bytes_each), 2, _MOST))
    shown = np.array([masks[value].array.sum(dtype=np.int64) if value in masks else 0 for value in values], np.float32)
    places = [(masks[value], np.flatnonzero(masks[value].array)) for value in values if value in masks]
    found: list[Window] = []

    def window_at(start: np.ndarray) -> Window:
        box = Box.of(start - size // MARGIN, start + size + size // MARGIN)
        bits = np.zeros((words, *box.size), np.uint32)
        for number, value in enumerate(values):
            if value in masks:
                bits[number // WORD] |= masks[value].window(box).astype(np.uint32) << np.uint32(number % WORD)
        return Window(image=cut(array, box), bits=bits.view(np.int32), shown=shown)

    for turn in range(count):
        if places:
            mask, inside = places[turn % len(places)]
            voxel = np.unravel_index(inside[rng.integers(len(inside))], mask.array.shape)
            centre = np.add(voxel, mask.box[0]) + _JITTER * size * rng.standard_normal(3)
            found.append(window_at(np.clip(np.rint(centre - size / 2).astype(int), 0, latest)))
        found.append(window_at(rng.integers(0, latest + 1)))
    return found


class Augmentation:
    """Changes places and intensities of windows as in pretraining (paper section 7.4), each in its own way; cuts the rim off.

    Args:
        window: without rim, in voxels.
        spacing_zyx: of the scans, in mm.
        rng: draws poses, and a seed for the intensities.
        device: to compute on.
    """

    def __init__(self, window: Shape, spacing_zyx: Triple, rng: np.random.Generator, device: torch.device) -> None:
        self._window, self._spacing, self._rng, self._device = window, np.asarray(spacing_zyx), rng, device
        self._generator = torch.Generator(device).manual_seed(int(rng.integers(1 << 31)))

    def views(self, windows: Sequence[Window]) -> Views:
        """One view of each window, on the device."""
        batch = Batch.of([[(one.image, one.bits)] for one in windows], [self._affine(one) for one in windows], len(windows[0].shown))
        images, masks = cut_views(batch.to(self._device), self._window, _POSES, self._generator)
        return Views(
            images=appearance(images[:, 0], _INTENSITIES, self._generator),
            masks=masks[:, 0],
            shown=torch.from_numpy(np.stack([one.shown for one in windows])).to(self._device),
        )

    def _affine(self, window: Window) -> np.ndarray:
        """[1,3,4] float32, from voxel of a view around the window's centre to voxel of the window."""
        centre = (np.array(window.image.shape) - 1) / 2 * self._spacing
        pose = Pose(random_linear(self._rng, self._spacing, _POSES, 1.0), centre, self._window)
        return pose.to_voxels(self._spacing)[None].astype(np.float32)
