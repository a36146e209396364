"""Displacement fields on voxel grids: sampling, smoothing, inversion.

A field [3,D,H,W] holds, for every voxel of the fixed grid, the displacement along z, y, x in voxels to the
matching point of the moving grid.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def voxel_grid(shape: tuple[int, ...] | torch.Size, device: torch.device) -> Tensor:
    """Indices [3,D,H,W] of every voxel, float32."""
    axes = [torch.arange(size, device=device, dtype=torch.float32) for size in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def sample(volume_CDHW: Tensor, points: Tensor) -> Tensor:
    """Values of a volume at points [3,d,h,w] in voxels: trilinear, the border continued outwards; [C,d,h,w]."""
    size = torch.tensor(volume_CDHW.shape[1:], dtype=torch.float32, device=volume_CDHW.device).view(3, 1, 1, 1)
    places = ((2 * points + 1) / size - 1).flip(0).permute(1, 2, 3, 0)
    return F.grid_sample(volume_CDHW[None], places[None], padding_mode="border", align_corners=False)[0]


def resized(field: Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """A field on a grid of other voxels over the same space, in voxels of that grid."""
    ratio = torch.tensor([new / old for new, old in zip(shape, field.shape[1:], strict=True)], device=field.device)
    return F.interpolate(field[None], size=tuple(shape), mode="trilinear", align_corners=False)[0] * ratio.view(3, 1, 1, 1)


def composed(first: Tensor, second: Tensor) -> Tensor:
    """The field that leads a voxel by `second`, and from there by `first`."""
    return second + sample(first, voxel_grid(first.shape[1:], first.device) + second)


def pooled(volume_CDHW: Tensor, size: int) -> Tensor:
    """Means of blocks of `size` voxels along each axis."""
    return F.avg_pool3d(volume_CDHW[None], size)[0]


def mostly(mask: Tensor, size: int) -> Tensor:
    """Mask [d,h,w] of the blocks of `size` voxels along each axis most of which lies in a mask [D,H,W]; both float."""
    return (pooled(mask[None], size)[0] > 0.6).float()


def mean_of_cube(volume_CDHW: Tensor) -> Tensor:
    """Mean over the 3 x 3 x 3 voxels around every voxel, the border continued outwards."""
    for axis in (-3, -2, -1):
        rest = volume_CDHW.shape[axis] - 1
        before = torch.cat([volume_CDHW.narrow(axis, 0, 1), volume_CDHW.narrow(axis, 0, rest)], axis)
        after = torch.cat([volume_CDHW.narrow(axis, 1, rest), volume_CDHW.narrow(axis, rest, 1)], axis)
        volume_CDHW = before.add_(volume_CDHW).add_(after)
    return volume_CDHW / 27


def smoothed(volume_CDHW: Tensor, times: int) -> Tensor:
    """Weights 1, 2, 1 along each axis, so many times: a Gaussian of standard deviation sqrt(times / 2) voxels."""
    for _ in range(times):
        for axis in (-3, -2, -1):
            size = volume_CDHW.shape[axis]
            if size > 1:
                halves = torch.lerp(volume_CDHW.narrow(axis, 0, size - 1), volume_CDHW.narrow(axis, 1, size - 1), 0.5)
                before = torch.cat([volume_CDHW.narrow(axis, 0, 1), halves], axis)
                volume_CDHW = torch.lerp(before, torch.cat([halves, volume_CDHW.narrow(axis, size - 1, 1)], axis), 0.5)
    return volume_CDHW


def length(field: Tensor) -> Tensor:
    """Length [1,D,H,W] of every displacement; fifty times as fast on a CPU as `norm` along the first axis."""
    return (field * field).sum(0, keepdim=True).sqrt()


def inverse_error(forwards: Tensor, backwards: Tensor) -> Tensor:
    """Distance [D,H,W] in voxels between every voxel and its place after going there and back."""
    return length(forwards + sample(backwards, voxel_grid(forwards.shape[1:], forwards.device) + forwards))[0]


def made_inverse(forwards: Tensor, backwards: Tensor, rounds: int = 10) -> Tensor:
    """`forwards` after both fields were drawn towards being each other's inverse (Siebert et al., IEEE TMI 2024)."""
    grid = voxel_grid(forwards.shape[1:], forwards.device)
    for _ in range(rounds):
        forwards, backwards = (forwards - sample(backwards, grid + forwards)) / 2, (backwards - sample(forwards, grid + backwards)) / 2
    return forwards
