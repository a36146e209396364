"""Poses of views: a window of voxels placed in a scan by one affine in millimetres, independent of the scan's grid."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..config import Shape

Vector = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PoseConfig:
    """Ranges of rotation, scale, shear and deformation of a view."""

    affine_probability: float = 0.8
    """Share of the views that are turned, scaled and sheared."""
    rotation_degrees: float = 30.0
    """Largest angle about each axis."""
    scale: float = 0.3
    """Scale factors lie between 1 - scale and 1 / (1 - scale)."""
    shear: float = 0.1
    """Largest shear of one axis along another."""
    elastic_probability: float = 0.0
    """Share of the target views, or crops, that are bent, so that one scan stands in for different bodies; the paper has none."""
    elastic_voxels: float = 2.5
    """Standard deviation of the control points' displacement."""


@dataclass(frozen=True)
class Pose:
    """A view: `point_mm = linear @ (voxel - window_centre) + centre`, all in array order z, y, x."""

    linear: Vector
    """[3,3], mm per voxel."""
    centre: Vector
    """[3], mm from the centre of the scan's first voxel."""
    window: Shape
    """In voxels."""

    def to_voxels(self, spacing_zyx: Vector) -> Vector:
        """[3,4] affine from voxel index of the view to voxel index of the scan."""
        linear = self.linear / spacing_zyx[:, None]
        middle = (np.array(self.window) - 1) / 2
        return np.column_stack([linear, self.centre / spacing_zyx - linear @ middle])

    def holds(self, points_mm: Vector) -> NDArray[np.bool_]:
        """True for points [N,3] inside the view."""
        offset = np.linalg.solve(self.linear, (points_mm - self.centre).T).T
        return (np.abs(offset) < np.array(self.window) / 2).all(axis=1)


def random_linear(rng: np.random.Generator, spacing_mm: float | Vector, config: PoseConfig, strength: float) -> Vector:
    """Rotation, scale and shear of a view around `spacing_mm` (paper section 7.4).

    Args:
        rng: the episode's own generator.
        spacing_mm: voxel size without augmentation, of all axes or of each.
        config: ranges and probability.
        strength: 0 to 1, shrinks the ranges at the start of training.
    """
    if rng.random() >= config.affine_probability:
        return np.eye(3) * spacing_mm
    largest = -np.log(1 - config.scale) * strength
    common = rng.uniform(-largest, largest)
    scale = np.exp(np.clip(common + rng.normal(0, 0.25 * largest, 3), -largest, largest))
    shear = np.eye(3) + rng.uniform(-config.shear, config.shear, (3, 3)) * strength * (1 - np.eye(3))
    angles = np.radians(rng.uniform(-config.rotation_degrees, config.rotation_degrees, 3) * strength)
    return rotation(angles) @ shear @ np.diag(scale) * spacing_mm


def seen_part(affines: Vector, window: Shape, shape: Shape, config: PoseConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The part of a scan that views can see, two voxels wider, and still wider for what bends a view.

    Args:
        affines: [V,3,4], from voxel of a view to voxel of the scan.
        window: of the views, in voxels.
        shape: of the scan.
        config: how views are bent.

    Returns:
        First voxel [3], and the one after the last.
    """
    corners = np.array(np.meshgrid(*[[0, size - 1] for size in window], indexing="ij")).reshape(3, -1)
    seen = affines[:, :, :3] @ corners + affines[:, :, 3:]
    margin = 2 + 3 * config.elastic_voxels * np.abs(affines[:, :, :3]).sum(-1).max() * (config.elastic_probability > 0)
    start = np.clip(np.floor(seen.min((0, 2)) - margin), 0, np.array(shape) - 1).astype(np.int64)
    stop = np.clip(np.ceil(seen.max((0, 2)) + margin) + 1, start + 1, shape).astype(np.int64)
    return start, stop


def rotation(angles: Vector) -> Vector:
    """Product of the rotations around the three axes, radians."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        i, j = [a for a in range(3) if a != axis]
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix
