"""Scans as alignment needs them: cubic voxels along the patient's axes, whatever the grid they were stored on."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..volumes.boxes import Box
from ..volumes.resample import grid_at, resample
from ..volumes.volume import Geometry, Volume


@dataclass(frozen=True, eq=False)
class AlignedScan:
    """A scan on cubic voxels along left, posterior, superior."""

    values: Tensor
    """[D,H,W] float32: clipped, mean 0 and standard deviation 1 over the usable voxels."""
    usable: Tensor
    """[D,H,W] bool: inside the scan, and not in a plane of one value, which many scans are padded with."""
    first_mm: Tensor
    """[3] z, y, x of the first voxel's centre in LPS mm."""
    mm: float
    """Voxel edge."""

    def to(self, device: torch.device) -> "AlignedScan":
        """The scan on a device."""
        return AlignedScan(self.values.to(device), self.usable.to(device), self.first_mm.to(device), self.mm)

    def cropped(self, part: tuple[slice, slice, slice]) -> "AlignedScan":
        """A part of the scan, without copying."""
        start = torch.tensor([one.start for one in part], dtype=torch.float32, device=self.first_mm.device)
        return AlignedScan(self.values[part], self.usable[part], self.first_mm + start * self.mm, self.mm)

    def points_mm(self, index: Tensor) -> Tensor:
        """Positions of voxels [3,...], z, y, x in LPS mm."""
        return index * self.mm + _column(self.first_mm, index)

    def index(self, points_mm: Tensor) -> Tensor:
        """Voxels of points [3,...]."""
        return (points_mm - _column(self.first_mm, points_mm)) / self.mm


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.view(3, *[1] * (like.ndim - 1))


def lattice(geometry: Geometry, mm: float) -> Geometry:
    """Cubic voxels along the patient's axes that cover a grid, sharing the middle of its box."""
    low, high = (np.asarray(corner) for corner in geometry.box_mm)
    size = np.maximum(1, np.ceil((high - low) / mm - 1e-3)).astype(int)
    x, y, z = size.tolist()
    first = (low + high) / 2 - (size - 1) * mm / 2
    return Geometry(shape_zyx=(z, y, x), spacing_xyz=(mm, mm, mm), origin_xyz=(float(first[0]), float(first[1]), float(first[2])))


def averaged(volume: Volume, mm: float) -> Volume:
    """A scan whose voxels are not finer than `mm` along any of its axes, each the mean of those it replaces."""
    coarser = [max(own, mm) for own in volume.geometry.spacing_zyx]
    return resample(volume, grid_at(volume.geometry, (coarser[0], coarser[1], coarser[2]), centred=True), average=True, fill=None)


def around(volume: Volume, grid: Geometry) -> Volume | None:
    """The part of a scan that a grid covers, with a voxel more on every side; None where they do not meet."""
    to_index = np.linalg.inv(volume.geometry.affine)
    corners = (grid.corners_mm() @ to_index[:3, :3].T + to_index[:3, 3])[:, ::-1]
    box = Box.of(np.floor(corners.min(0)), np.ceil(corners.max(0)) + 1).grown((1, 1, 1), volume.geometry.shape_zyx)
    return volume.cropped(box) if all(box.size) else None


def aligned_scan(volume: Volume, grid: Geometry, limits: tuple[float, float], device: torch.device) -> AlignedScan:
    """A scan on a lattice.

    Args:
        volume: the scan, its voxels about as coarse as the lattice (`averaged`).
        grid: cubic voxels along the patient's axes, of `lattice` or shifted.
        limits: intensities are clipped to these.
        device: where the result shall live.
    """
    values, usable = intensities(volume, grid, limits, device)
    x, y, z = grid.origin_xyz
    return AlignedScan(values, usable, torch.tensor([z, y, x], dtype=torch.float32, device=device), grid.spacing_xyz[0])


def intensities(volume: Volume, grid: Geometry, limits: tuple[float, float], device: torch.device) -> tuple[Tensor, Tensor]:
    """Values and usable voxels [D,H,W] of a scan on a grid of any kind (see `AlignedScan`)."""
    values = torch.from_numpy(np.ascontiguousarray(resample(volume, grid, fill=None).array)).to(device).clamp(*limits)
    usable = inside(volume.geometry, grid, device) & ~_flat_planes(values)
    known = values[usable] if bool(usable.any()) else values.flatten()
    return (values - known.mean()) / known.std(correction=0).clamp(min=1e-6), usable


def inside(geometry: Geometry, grid: Geometry, device: torch.device) -> Tensor:
    """Mask [D,H,W] of the voxel centres of a grid that lie within the voxels of another one."""
    to_index = np.linalg.inv(geometry.affine) @ grid.affine
    result = torch.ones(grid.shape_zyx, dtype=torch.bool, device=device)
    axes = [torch.arange(n, device=device, dtype=torch.float64) for n in grid.shape_zyx]
    for axis, size in enumerate(geometry.shape_zyx[::-1]):
        x, y, z, offset = to_index[axis].tolist()
        index = z * axes[0][:, None, None] + y * axes[1][:, None] + x * axes[2] + offset
        result &= (index > -0.5 - 1e-6) & (index < size - 0.5 + 1e-6)
    return result


def _flat_planes(values: Tensor) -> Tensor:
    """Voxels of planes that hold a single value."""
    tolerance = 1e-3 * (values.max() - values.min())
    flat = torch.zeros_like(values, dtype=torch.bool)
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        shape = [1, 1, 1]
        shape[axis] = -1
        flat |= (values.amax(others) - values.amin(others) <= tolerance).view(shape)
    return flat


def part_of(grid: Geometry, low_mm: np.ndarray, high_mm: np.ndarray) -> Geometry:
    """The voxels of a lattice along the patient's axes between two corners x, y, z in mm; at least one along each axis."""
    origin, mm, shape = np.asarray(grid.origin_xyz), grid.spacing_xyz[0], np.asarray(grid.shape_zyx[::-1])
    start = np.clip(np.floor((low_mm - origin) / mm), 0, shape - 1).astype(int)
    stop = np.clip(np.ceil((high_mm - origin) / mm) + 1, start + 1, shape).astype(int)
    (z0, y0, x0), (z1, y1, x1) = start[::-1].tolist(), stop[::-1].tolist()
    return grid.cropped(((z0, y0, x0), (z1, y1, x1)))
