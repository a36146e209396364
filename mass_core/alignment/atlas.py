"""A reference made ready for alignment: its surroundings on cubic voxels, and how far every place is from its structures."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from ..config import Modality, Recipe
from ..errors import InputError
from ..volumes.boxes import Box, cut, label_boxes
from ..volumes.intensity import choose_modality
from ..volumes.volume import Geometry, Volume
from .features import mind
from .scan import AlignedScan, aligned_scan, around, averaged, lattice, part_of

MULTIPLE = 8
"""Voxels along each side of the aligned box are a multiple of this: the levels of the search divide it."""
REACH_MM = 12.0
"""Distances from a structure's surface are known up to here."""
_MARGIN_MM = 60.0
"""Of the box around the structures: neighbours tell a structure's place."""
_VOXELS = 300_000
"""Of the box: the time alignment takes grows with them."""
_CLOSE_MARGIN_MM, _CLOSE_VOXELS = 15.0, 150_000
"""The same of the box around a single structure, for the last refinement. A margin of 10 mm costs up to 0.6 points of Dice, more voxels
gain 0.2 at most."""
_FINER = 0.9
"""A single structure is refined where its voxels are at most this share of the others' edge."""
_COARSE_VOXELS = 200_000
"""Of a whole scan when the shift is looked for."""
_FINEST_MM = 0.8
_Part = TypeVar("_Part")


@dataclass(frozen=True, eq=False)
class Closeup:
    """A structure's surroundings on finer voxels than the reference's box."""

    scan: AlignedScan
    grid: Geometry


@dataclass(frozen=True, eq=False)
class Atlas:
    """A reference for alignment."""

    modality: Modality
    coarse: Volume
    """The whole scan, coarse, for the shift."""
    scan: AlignedScan
    """The box around the structures."""
    grid: Geometry
    """Of the box."""
    features: Tensor
    """[12,D,H,W] of the box."""
    near: Tensor
    """[D,H,W]: 1 for voxels of the box that hold structure, and their neighbours."""
    distances: dict[int, Volume]
    """By label the distance to its surface in mm, float32, positive inside, up to `REACH_MM`; on cubic voxels around it."""
    limits: tuple[float, float]
    """Intensities of the reference are clipped to these."""
    closeups: dict[int, Closeup]
    """By label, for structures that are refined on finer voxels than those of the box. Atlases of task files have none."""

    def renumbered(self, before: int, after: int) -> "Atlas":
        """The atlas of one of its labels, under another number; of none if it does not show that label."""
        return replace(self, distances=_moved(self.distances, before, after), closeups=_moved(self.closeups, before, after))

    def to(self, device: torch.device) -> "Atlas":
        """The atlas on a device."""
        closeups = {value: replace(one, scan=one.scan.to(device)) for value, one in self.closeups.items()}
        return replace(self, scan=self.scan.to(device), features=self.features.to(device), near=self.near.to(device), closeups=closeups)

    @property
    def size_bytes(self) -> int:
        """Memory it takes, roughly."""
        maps = sum(volume.array.nbytes for volume in (self.coarse, *self.distances.values()))
        scans = sum(scan.values.nbytes for scan in (self.scan, *(one.scan for one in self.closeups.values())))
        return maps + scans + self.features.nbytes + self.near.nbytes


def _moved(parts: dict[int, _Part], before: int, after: int) -> dict[int, _Part]:
    """The part of one label, under another number; none where it has none."""
    return {after: parts[before]} if before in parts else {}


def intensity_limits(volume: Volume, modality: Modality, recipe: Recipe) -> tuple[float, float]:
    """Intensity limits for clipping before alignment: Hounsfield units of CT, else percentiles of the whole scan."""
    if modality == "ct":
        return recipe.ct_clip_hu
    low, high = np.percentile(volume.array.reshape(-1)[:: max(1, volume.array.size // 500_000)], recipe.percentiles)
    return float(low), float(max(high, np.nextafter(low, np.inf)))


def modality_of(volume: Volume, recipe: Recipe) -> Modality:
    """Modality by recipe or header, else guessed from the intensities."""
    return choose_modality(volume, recipe.changed(modality_once=True))[0] or "mr"


def coarse_mm(geometry: Geometry) -> float:
    """Voxel edge for the search of the shift: 8 mm, finer for small scans and coarser for large ones."""
    low, high = (np.asarray(corner) for corner in geometry.box_mm)
    return float(np.clip((np.prod(high - low) / _COARSE_VOXELS) ** (1 / 3), min((high - low).max() / 24, 8.0), 16.0))


def make_atlas(image: Volume, labels: Volume, values: Sequence[int], recipe: Recipe, device: torch.device) -> Atlas:
    """Make a reference ready.

    Args:
        image: the reference.
        labels: its label map.
        values: labels to carry over; those the map lacks are left out.
        recipe: for modality and intensity limits.
        device: where alignment shall compute.

    Raises:
        InputError: if none of the labels is there.
    """
    boxes = {value: box for value, box in label_boxes(labels.array).items() if value in values}
    if not boxes:
        raise InputError("The reference shows none of the labels to align.", "Mark the structure in the reference.")
    modality = modality_of(image, recipe)
    limits = intensity_limits(image, modality, recipe)
    places = {value: labels.geometry.cropped(box) for value, box in boxes.items()}
    grid = _lattice_around(image.geometry, list(places.values()), _MARGIN_MM, _VOXELS)
    mm = grid.spacing_xyz[0]
    scan = aligned_scan(averaged(image, mm), grid, limits, device)
    found = {value: _closeup(image, place, _FINER * mm, limits, device) for value, place in places.items()}
    closeups = {value: closeup for value, closeup in found.items() if closeup is not None}
    finest = {value: closeups[value].scan.mm if value in closeups else mm for value in boxes}
    distances = {value: _distance(labels, value, box, finest[value]) for value, box in boxes.items()}
    return Atlas(
        modality=modality,
        coarse=averaged(image, coarse_mm(image.geometry)),
        scan=scan,
        grid=grid,
        features=mind(scan.values),
        near=near_structures(distances.values(), scan),
        distances=distances,
        limits=limits,
        closeups=closeups,
    )


def _closeup(image: Volume, structure: Geometry, most_mm: float, limits: tuple[float, float], device: torch.device) -> Closeup | None:
    """A structure's surroundings; None where their voxels would be longer than `most_mm`, or lie outside the scan."""
    grid = _lattice_around(image.geometry, [structure], _CLOSE_MARGIN_MM, _CLOSE_VOXELS)
    mm = grid.spacing_xyz[0]
    part = around(image, grid) if mm <= most_mm else None
    return None if part is None else Closeup(aligned_scan(averaged(part, mm), grid, limits, device), grid)


def _lattice_around(image: Geometry, structures: Sequence[Geometry], margin_mm: float, voxels: int) -> Geometry:
    """Cubic voxels around some structures, as fine as their number allows, but no finer than the scan."""
    corners = np.concatenate([structure.corners_mm() for structure in structures])
    scan_low, scan_high = (np.asarray(corner) for corner in image.box_mm)
    low, high = np.maximum(corners.min(0) - margin_mm, scan_low), np.minimum(corners.max(0) + margin_mm, scan_high)
    finest = max(_FINEST_MM, min(image.spacing_zyx))
    affordable = float((np.prod(np.maximum(high - low, finest)) / voxels) ** (1 / 3))
    mm = (
        finest if affordable <= finest else 1.1 ** float(np.ceil(np.log(affordable) / np.log(1.1)))
    )  # steps, so that references share grids
    grid = part_of(lattice(image, mm), low, high)
    z, y, x = (n + -n % MULTIPLE for n in grid.shape_zyx)
    return replace(grid, shape_zyx=(z, y, x))


def _distance(labels: Volume, value: int, box: Box, mm: float) -> Volume:
    """Distance to a label's surface, as far as the surroundings need it, on voxels no finer than half of theirs."""
    margin = [int(np.ceil(REACH_MM / spacing)) + 1 for spacing in labels.geometry.spacing_zyx]
    wide = box.grown(margin)
    mask, grid = cut(labels.array, wide) == value, labels.geometry.cropped(wide)
    # Between a voxel inside and one outside, each as far from the other, linear interpolation puts the surface into the middle.
    inner, outer = (ndimage.distance_transform_edt(part, grid.spacing_zyx) for part in (mask, ~mask))
    return averaged(Volume(np.clip(inner - outer, -REACH_MM, REACH_MM).astype(np.float32), grid), mm / 2)


def near_structures(distances: Iterable[Volume], scan: AlignedScan) -> Tensor:
    """Voxels that hold structure, and their neighbours."""
    near = torch.zeros(scan.values.shape, device=scan.values.device)
    for distance in distances:
        where = np.argwhere(distance.array > 0)[:, ::-1]
        points = (where @ distance.geometry.affine[:3, :3].T + distance.geometry.affine[:3, 3])[:, ::-1].T
        index = scan.index(torch.from_numpy(points.astype(np.float32)).to(near.device)).round().long()
        index = index[:, ((index >= 0) & (index < torch.tensor(near.shape, device=near.device)[:, None])).all(0)]
        near[index[0], index[1], index[2]] = 1
    return F.max_pool3d(near[None, None], 3, 1, 1)[0, 0]


def distance_at(volume: Volume, points_mm: Tensor) -> Tensor:
    """A distance map at points [3,d,h,w], z, y, x in LPS mm: as far as is known beyond its edge."""
    places = (2 * places_in(volume.geometry, points_mm) - 1).flip(0).permute(1, 2, 3, 0)
    known = torch.from_numpy(volume.array).to(points_mm.device)[None, None] + REACH_MM
    return F.grid_sample(known, places[None], padding_mode="zeros", align_corners=False)[0, 0] - REACH_MM


def places_in(scan: Geometry, points_mm: Tensor) -> Tensor:
    """Places [3,d,h,w] of points along the axes z, y, x of a scan, 0 at its first border and 1 at its last."""
    inverse = np.linalg.inv(scan.affine)[2::-1, [2, 1, 0, 3]].astype(np.float32)
    matrix = torch.from_numpy(inverse).to(points_mm.device)
    index = torch.einsum("ij,jdhw->idhw", matrix[:, :3], points_mm) + matrix[:, 3].view(3, 1, 1, 1)
    size = torch.tensor(scan.shape_zyx, dtype=torch.float32, device=points_mm.device).view(3, 1, 1, 1)
    return (index + 0.5) / size
