"""MIND-SSC features: how the surroundings of a voxel resemble each other (Heinrich et al., MICCAI 2013). The same in CT and MR."""

import torch
from torch import Tensor

from .fields import mean_of_cube

_STEPS = ((1, 1, 0), (1, -1, 0), (1, 0, 1), (1, 0, -1), (0, 1, 1), (0, 1, -1))
_NEIGHBOURS = ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))
_PAIRS = tuple(
    (number, first)
    for number, step in enumerate(_STEPS)
    for first in _NEIGHBOURS
    if tuple(a + b for a, b in zip(first, step, strict=True)) in _NEIGHBOURS
)
"""The 12 pairs of face neighbours that are sqrt(2) apart: which step leads from the first to the second. Pairs of one step are shifted
copies of each other, so six differences suffice."""
CHANNELS = len(_PAIRS)


def mind(image_DHW: Tensor, dilation: int = 2) -> Tensor:
    """Features [12,D,H,W] from 0 to 1 of an image; changes of brightness and contrast do not matter.

    Args:
        image_DHW: float32.
        dilation: how far the neighbours are, in voxels.
    """
    squares = [(image_DHW - _shifted(image_DHW, [dilation * part for part in step])) ** 2 for step in _STEPS]
    differences = mean_of_cube(torch.stack(squares))
    pairs = torch.stack([_shifted(differences[number], [dilation * part for part in first]) for number, first in _PAIRS])
    pairs -= pairs.amin(0)
    spread = pairs.mean(0)
    usual = spread.mean()
    return pairs.mul_(-1 / spread.clamp(min=1e-3 * usual, max=1e3 * usual).clamp(min=1e-12)).exp_()


def _shifted(volume_DHW: Tensor, by: list[int]) -> Tensor:
    """The values `by` voxels further along each axis, the border continued outwards."""
    for axis, step in enumerate(by):
        if step:
            size = volume_DHW.shape[axis]
            volume_DHW = volume_DHW.index_select(axis, (torch.arange(size, device=volume_DHW.device) + step).clamp(0, size - 1))
    return volume_DHW
