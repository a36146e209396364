"""Initial shifts for alignment: those by which a reference may lie on a target, found by masked cross-correlation of the whole scans."""

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from .scan import AlignedScan

_LEAST_OVERLAP = 0.3
"""Share of the smaller scan that must lie in the other one."""
_LEAST_BODY = 0.5
"""The same of the smaller body."""
_APART = 2
"""Voxels by which two candidates differ along some axis."""


def shifts(target: AlignedScan, reference: AlignedScan, *, alike: bool, count: int) -> list[Tensor]:
    """Shifts [3], z, y, x in mm, with the highest correlation, best first: a point of the target plus the shift is the matching one of the
    reference. None where the scans cannot overlap enough.

    Masked normalised cross-correlation (Padfield, IEEE TIP 2012): only voxels that both scans hold count, and scans of different extents
    may overlap in a part.

    Args:
        target: with the same voxel size as the reference.
        reference: to lay on it.
        alike: intensities mean the same in both; else edges and outlines are compared.
        count: most shifts to return.
    """
    correlation = _correlations(_channels(target, alike), _channels(reference, alike), target, reference)
    base = reference.first_mm - target.first_mm
    found = []
    for _ in range(count):
        place = int(correlation.argmax())
        if float(correlation.flatten()[place]) < -1:
            break
        index = np.unravel_index(place, tuple(correlation.shape))
        step = [int(i) if i < n else int(i) - size for i, n, size in zip(index, target.values.shape, correlation.shape, strict=True)]
        found.append(base - torch.tensor(step, dtype=torch.float32, device=base.device) * target.mm)
        near = [torch.arange(int(i) - _APART, int(i) + _APART + 1) % size for i, size in zip(index, correlation.shape, strict=True)]
        correlation[tuple(torch.meshgrid(*near, indexing="ij"))] = -2
    return found


def _channels(scan: AlignedScan, alike: bool) -> Tensor:
    """[C,D,H,W], zero where the scan is not usable."""
    values, usable = scan.values, scan.usable
    if alike:
        return (values * usable)[None]
    edges = sum(torch.gradient(values, dim=axis)[0] ** 2 if values.shape[axis] > 1 else torch.zeros_like(values) for axis in range(3))
    edges = torch.as_tensor(edges).sqrt()
    edges = (edges - edges[usable].mean()) / edges[usable].std().clamp(min=1e-6)
    return torch.stack([edges, 2.0 * body(scan) - 1]) * usable


def body(scan: AlignedScan) -> Tensor:
    """Usable voxels [D,H,W] brighter than what divides dark from bright best (Otsu)."""
    known = scan.values[scan.usable]
    if not known.numel():
        return scan.usable
    counts, edges = torch.histogram(known.cpu(), bins=128)
    centres, below = (edges[1:] + edges[:-1]) / 2, counts.cumsum(0)
    sums = (counts * centres).cumsum(0)
    between = (sums[-1] * below - sums * below[-1]) ** 2 / (below * (below[-1] - below)).clamp(min=1e-6)
    return (scan.values > float(centres[int(between[:-1].argmax())])) & scan.usable


def _correlations(fixed: Tensor, moving: Tensor, target: AlignedScan, reference: AlignedScan) -> Tensor:
    """Normalised correlation for every shift of the target's grid, circular; -2 where too little overlaps."""
    shape = [next_fast_len(a + b - 1, real=True) for a, b in zip(fixed.shape[1:], moving.shape[1:], strict=True)]

    def spectrum(volume: Tensor) -> Tensor:
        return torch.fft.rfftn(volume.float(), s=shape, dim=(-3, -2, -1))

    def products(a: Tensor, b: Tensor) -> Tensor:
        return torch.fft.irfftn(a * b.conj(), s=shape, dim=(-3, -2, -1))

    where_a, where_b, a, b = (spectrum(x) for x in (target.usable, reference.usable, fixed, moving))
    shared = products(where_a, where_b).clamp(min=0)
    count = shared.clamp(min=1)
    sum_a, sum_b = products(a, where_b), products(where_a, b)
    both = (products(a, b) - sum_a * sum_b / count).sum(0)
    spread_a = (products(spectrum(fixed**2), where_b) - sum_a**2 / count).clamp(min=0).sum(0)
    spread_b = (products(where_a, spectrum(moving**2)) - sum_b**2 / count).clamp(min=0).sum(0)
    correlation = both / (spread_a * spread_b).clamp(min=1e-6).sqrt()
    bodies = [body(scan) for scan in (target, reference)]
    met = products(*(spectrum(x) for x in bodies))
    enough = shared >= _LEAST_OVERLAP * min(int(target.usable.sum()), int(reference.usable.sum()))
    enough &= met >= _LEAST_BODY * min(int(x.sum()) for x in bodies)
    return torch.where(enough, correlation.clamp(-1, 1), -2.0)
