"""Small holes and specks of 2D masks, as SAM2 fills and removes them where its CUDA extension was built: here on every device.

Regions are connected through edges and corners (8-neighbourhood), as in SAM2.
"""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..mask_set import Bools

_NEIGHBOURS = np.ones((3, 3), bool)


def without_small_regions(logits: Tensor, holes: int, specks: int, sure: float) -> Tensor:
    """Logits whose masks have no small holes and no specks.

    Args:
        logits: [M,h,w], positive inside; not changed.
        holes: regions outside a mask of at most this many pixels come inside; 0: none.
        specks: regions inside a mask of at most this many pixels go outside; 0: none.
        sure: logit of filled holes; removed specks get its negative.
    """
    if not holes and not specks:
        return logits
    changed = logits.clone()
    for plane, mask in zip(changed, (logits > 0).cpu().numpy(), strict=True):
        part = _part(mask, holes)
        for region, value in ((small_regions(~mask[part], holes), sure), (small_regions(mask[part], specks), -sure)):
            if region.any():
                plane[part].masked_fill_(torch.from_numpy(region).to(plane.device), value)
    return changed


def small_regions(mask: Bools, most: int) -> Bools:
    """The connected regions of a mask [h,w] that have at most some pixels."""
    if not most:
        return np.zeros_like(mask)
    numbers, _ = ndimage.label(mask, _NEIGHBOURS)
    small = np.bincount(numbers.ravel(), minlength=1) <= most
    small[0] = False
    return small[numbers]


def _part(mask: Bools, margin: int) -> tuple[slice, slice]:
    """A mask's bounding box with a margin. A hole that reaches beyond a margin of the largest hole size is not small."""
    lines = [np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0)]
    if not len(lines[0]):
        return slice(0, 0), slice(0, 0)
    rows, columns = (slice(max(int(line[0]) - margin, 0), int(line[-1]) + 1 + margin) for line in lines)
    return rows, columns
