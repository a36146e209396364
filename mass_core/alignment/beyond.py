"""Borders of a reference's scan that cut a structure off, and the part of a target that lies beyond them.

Alignment cannot know how the structure goes on there; the network may.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..volumes.boxes import Box
from ..volumes.volume import Geometry, Volume
from .atlas import places_in

_TOUCHES = 1.5
"""A structure reaches the border of a scan if a voxel of its distance map that is inside it lies within this many of these voxels."""


@dataclass(frozen=True)
class Cut:
    """A border of a scan that cuts a structure off."""

    axis: int
    """Of the scan: 0, 1, 2 for z, y, x."""
    last: bool
    """If it is the last border along this axis, else the first."""


def cuts(distance: Volume, scan: Geometry) -> list[Cut]:
    """The borders of a scan that cut a structure off; none of one too small for its distance map.

    Args:
        distance: to the structure's surface in mm, positive inside.
        scan: the reference's voxels.
    """
    where = torch.from_numpy(np.argwhere(distance.array > 0).T.astype(np.float32))
    if where.numel() == 0:
        return []
    matrix = torch.from_numpy(distance.geometry.affine[2::-1, [2, 1, 0, 3]].astype(np.float32))
    places = places_in(scan, (matrix[:, :3] @ where + matrix[:, 3:])[:, :, None, None])
    near = _TOUCHES * max(distance.geometry.spacing_zyx) / np.multiply(scan.shape_zyx, scan.spacing_zyx)
    first = [Cut(axis, False) for axis in range(3) if float(places[axis].min()) < near[axis]]
    return first + [Cut(axis, True) for axis in range(3) if float(places[axis].max()) > 1 - near[axis]]


def beyond(borders: Sequence[Cut], places: Tensor) -> Tensor:
    """Mask [d,h,w] of the places [3,d,h,w] along the axes of a scan (`places_in`) that lie beyond some of its borders."""
    result = torch.zeros(places.shape[1:], dtype=torch.bool, device=places.device)
    for border in borders:
        result |= places[border.axis] > 1 if border.last else places[border.axis] < 0
    return result


def extended(box: Box, scan: Geometry, borders: Sequence[Cut], target: Geometry) -> Box:
    """A box of the target's voxels, extended to the end of the target where the reference cuts the structure off."""
    low, high = list(box.low), list(box.high)
    to_index = np.linalg.inv(target.affine)[:3, :3]
    for border in borders:
        outwards = scan.affine[:3, 2 - border.axis] * (1 if border.last else -1)
        along = (to_index @ outwards)[::-1]
        axis = int(np.abs(along * target.spacing_zyx).argmax())
        if along[axis] > 0:
            high[axis] = target.shape_zyx[axis]
        else:
            low[axis] = 0
    return Box.of(low, high)
