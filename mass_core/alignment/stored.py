"""Atlases as bytes for task files: features and distances at coarse resolution. They are derived from the image."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..volumes.resample import grid_at, resample
from ..volumes.volume import Geometry, Volume
from .atlas import REACH_MM, Atlas, near_structures
from .scan import AlignedScan

_POOLED = 2
"""Voxels of the box averaged along each axis: what the search uses from its middle level on."""
_STEPS = 255


def to_tensors(atlas: Atlas) -> dict[str, Tensor]:
    """Compressed bytes by name: 0.2 to 0.3 MB for references of a hippocampus and of a head with seven structures.

    Features are averaged over 2 x 2 x 2 voxels and distances are kept on voxels as coarse as those of the box, both in steps of 1/255 of
    their range.
    """
    header: dict[str, Any] = {
        "modality": atlas.modality,
        "limits": atlas.limits,
        "grid": asdict(atlas.grid),
        "coarse": asdict(atlas.coarse.geometry),
        "first_mm": atlas.scan.first_mm.tolist(),
        "distances": {},
    }
    low, high = atlas.limits
    arrays = {
        "features": F.avg_pool3d(atlas.features[None], _POOLED)[0].cpu().numpy(),
        "usable": F.avg_pool3d(atlas.scan.usable.float()[None, None], _POOLED)[0, 0].cpu().numpy(),
        "coarse": (np.clip(atlas.coarse.array, low, high) - low) / (high - low),
    }
    for value, distance in atlas.distances.items():
        x, y, z = (max(own, atlas.scan.mm) for own in distance.geometry.spacing_xyz)
        coarser = resample(distance, grid_at(distance.geometry, (z, y, x), centred=True), fill=None)
        header["distances"][str(value)] = asdict(coarser.geometry)
        arrays[f"distance{value}"] = (coarser.array + REACH_MM) / (2 * REACH_MM)
    tensors = {name: _packed(np.round(np.clip(array, 0, 1) * _STEPS).astype(np.uint8).tobytes()) for name, array in arrays.items()}
    return tensors | {"header": _packed(json.dumps(header).encode())}


def from_tensors(tensors: Mapping[str, Tensor]) -> Atlas:
    """The atlas of `to_tensors`, on the CPU.

    Raises:
        KeyError, TypeError, ValueError, zlib.error: if the bytes are incomplete or damaged.
    """
    header = json.loads(_unpacked(tensors["header"]))
    grid, coarse = (_geometry(header[name]) for name in ("grid", "coarse"))
    shape = tuple(n // _POOLED for n in grid.shape_zyx)
    low, high = header["limits"]
    features = torch.from_numpy(_values(tensors["features"], (-1, *shape)))
    usable = torch.from_numpy(_values(tensors["usable"], shape))
    full = F.interpolate(torch.cat([features, usable[None]])[None], size=grid.shape_zyx, mode="trilinear", align_corners=False)[0]
    distances = {}
    for value, stored in header["distances"].items():
        geometry = _geometry(stored)
        distances[int(value)] = Volume(_values(tensors[f"distance{value}"], geometry.shape_zyx) * 2 * REACH_MM - REACH_MM, geometry)
    inside = full[-1] > 0.5
    # Intensities are not stored: nothing but the features is compared once the shift is found.
    scan = AlignedScan(torch.zeros_like(full[-1]), inside, torch.tensor(header["first_mm"]), grid.spacing_xyz[0])
    return Atlas(
        modality=header["modality"],
        coarse=Volume(_values(tensors["coarse"], coarse.shape_zyx) * (high - low) + low, coarse),
        scan=scan,
        grid=grid,
        features=full[:-1].contiguous(),
        near=near_structures(distances.values(), scan),
        distances=distances,
        limits=(low, high),
        closeups={},
    )


def _geometry(stored: dict[str, Any]) -> Geometry:
    return Geometry(**{name: tuple(values) for name, values in stored.items()})


def _packed(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(zlib.compress(data, 9)), dtype=torch.uint8)


def _unpacked(tensor: Tensor) -> bytes:
    return zlib.decompress(tensor.numpy().tobytes())


def _values(tensor: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers from 0 to 1, float32."""
    return (np.frombuffer(_unpacked(tensor), np.uint8).reshape(shape) / np.float32(_STEPS)).astype(np.float32)
