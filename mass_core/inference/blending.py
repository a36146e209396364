"""Blending of overlapping windows, in memory that grows with what is found, not with the number of labels.

Windows come ordered along z. Planes that no later window touches are finished, handed on and forgotten (`Blend`); of a finished voxel
only the most probable labels are kept (`Best`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..config import Shape
from ..volumes.boxes import Box


@dataclass
class _Patch:
    """One label's weighted sums, where it was seen: planes x rows x columns, the first plane is the blend's."""

    rows: slice
    columns: slice
    sums: Tensor

    def box(self, start: int, stop: int) -> Box:
        """The patch between two planes."""
        return Box((start, self.rows.start, self.columns.start), (stop, self.rows.stop, self.columns.stop))


class Blend:
    """Weighted sums of window probabilities over the planes that are not finished yet.

    A label is summed in the box around the voxels where some window gave it more than `least`; what it got outside is dropped, which
    costs a voxel at most `least` of probability.

    Args:
        plane_yx: rows and columns of the volume.
        weights: weights [D,H,W] of a window's voxels.
        least: probability a label needs to be noticed; 0 keeps everything.
        device: where the sums live.
    """

    def __init__(self, plane_yx: tuple[int, int], weights: Tensor, *, least: float = 0.0, device: torch.device | str = "cpu") -> None:
        self._weights = weights.to(device)
        self._least = least
        self._device = torch.device(device)
        self._patches: dict[int, _Patch] = {}
        self._total = torch.zeros(len(weights), *plane_yx, device=device)
        self._plane = 0

    @property
    def bytes_held(self) -> int:
        """Memory of the sums at this moment."""
        return sum(p.sums.nbytes for p in self._patches.values()) + self._total.nbytes

    def add_empty(self, start: Shape) -> None:
        """Add a window that begins at `start` and holds no label; its z must be the plane the blend stands at."""
        if start[0] != self._plane:
            raise ValueError(f"windows must come ordered along z: expected plane {self._plane}, got {start[0]}")
        _, y, x = start
        height, width = self._weights.shape[1:]
        self._total[:, y : y + height, x : x + width] += self._weights

    def add(self, start: Shape, probabilities_KDHW: Tensor) -> None:
        """Add a window that begins at `start`; its z must be the plane the blend stands at."""
        self.add_empty(start)
        _, y, x = start
        for label, rows, columns in _noticed(probabilities_KDHW, self._least):
            share = probabilities_KDHW[label, :, rows, columns].to(self._device, torch.float32) * self._weights[:, rows, columns]
            patch = self._grown(label, slice(y + rows.start, y + rows.stop), slice(x + columns.start, x + columns.stop))
            top, left = y + rows.start - patch.rows.start, x + columns.start - patch.columns.start
            patch.sums[:, top : top + share.shape[1], left : left + share.shape[2]] += share

    def finish(self, plane: int) -> Iterator[tuple[int, Box, np.ndarray]]:
        """Hand out (label, box, probabilities float32) of all planes before `plane`, labels ascending, and move there."""
        done = plane - self._plane
        for label in sorted(self._patches):
            patch = self._patches[label]
            total = self._total[:done, patch.rows, patch.columns].clamp_min(1e-8)
            yield label, patch.box(self._plane, plane), (patch.sums[:done] / total).cpu().numpy()
        self._total = _shifted(self._total, done)
        kept = {label: _Patch(p.rows, p.columns, _shifted(p.sums, done)) for label, p in self._patches.items() if p.sums[done:].any()}
        self._patches = kept
        self._plane = plane

    def _grown(self, label: int, rows: slice, columns: slice) -> _Patch:
        """The label's patch, enlarged where it does not hold these rows and columns yet."""
        old = self._patches.get(label)
        if old is not None:
            if _holds(old.rows, rows) and _holds(old.columns, columns):
                return old
            rows, columns = _union(old.rows, rows), _union(old.columns, columns)
        shape = (len(self._weights), rows.stop - rows.start, columns.stop - columns.start)
        new = _Patch(rows, columns, torch.zeros(shape, device=self._device))
        if old is not None:
            top, left = old.rows.start - rows.start, old.columns.start - columns.start
            new.sums[:, top : top + old.sums.shape[1], left : left + old.sums.shape[2]] = old.sums
        self._patches[label] = new
        return new


class Best:
    """The most probable labels of every voxel; memory does not grow with the number of labels beyond `depth`.

    Args:
        shape_zyx: the volume.
        depth: how many labels a voxel can keep. One decides a label map; more are needed where probabilities are interpolated later.
        exact: probabilities as float32 instead of float16 (steps of 0.0005 near 1).
    """

    def __init__(self, shape_zyx: Shape, depth: int, *, exact: bool) -> None:
        self._labels = np.zeros((depth, *shape_zyx), np.int16)
        self._values = np.zeros((depth, *shape_zyx), np.float32 if exact else np.float16)
        self.boxes: dict[int, Box] = {}
        """Where each label was put."""

    @property
    def shape(self) -> Shape:
        """The volume's voxels z, y, x."""
        _, z, y, x = self._labels.shape
        return z, y, x

    def put(self, label: int, box: Box, probabilities: np.ndarray) -> None:
        """Enter one label's probabilities in a box; of equal ones the label entered first wins. What lies outside the volume is cut off."""
        box = box.clipped(self.shape)
        values = probabilities[tuple(slice(0, n) for n in box.size)].astype(self._values.dtype)
        if not values.size:
            return
        labels = np.full(values.shape, label + 1, np.int16)
        for level in range(len(self._labels)):
            held_values, held_labels = self._values[level][box.slices()], self._labels[level][box.slices()]
            better = values > held_values
            values_left, labels_left = np.where(better, held_values, values), np.where(better, held_labels, labels)
            np.copyto(held_values, values, where=better)
            np.copyto(held_labels, labels, where=better)
            values, labels = values_left, labels_left
            if not values.any():
                break
        self.boxes[label] = self.boxes[label].enclosing(box) if label in self.boxes else box

    def decide(self, numbers: Sequence[int], threshold: float) -> np.ndarray:
        """Label map uint16 [z,y,x]: the most probable label's number where it reaches the threshold, else 0."""
        table = np.array([0, *numbers], np.uint16)
        return np.where(self._values[0] >= threshold, table[self._labels[0]], 0).astype(np.uint16)

    def most_probable(self) -> np.ndarray:
        """Probability [z,y,x] of each voxel's most probable label."""
        return self._values[0]

    def probability(self, label: int, box: Box) -> np.ndarray:
        """One label's probabilities float32 in a box of the volume, 0 where other labels filled the voxel."""
        part = (slice(None), *box.slices())
        return np.where(self._labels[part] == label + 1, self._values[part], 0).sum(axis=0, dtype=np.float32)


def _noticed(probabilities_KDHW: Tensor, least: float) -> Iterator[tuple[int, slice, slice]]:
    """Labels some voxel gives more than `least`, with the rows and columns of their box."""
    count, _, height, width = probabilities_KDHW.shape
    if least <= 0:
        yield from ((label, slice(0, height), slice(0, width)) for label in range(count))
        return
    seen_KHW = probabilities_KDHW.amax(dim=1) > least
    rows_KH, columns_KW = seen_KHW.any(dim=2).cpu().numpy(), seen_KHW.any(dim=1).cpu().numpy()
    for label in np.flatnonzero(rows_KH.any(axis=1)).tolist():
        yield label, _span(rows_KH[label]), _span(columns_KW[label])


def _span(flags: np.ndarray) -> slice:
    """From the first to the last true value."""
    found = np.flatnonzero(flags)
    return slice(int(found[0]), int(found[-1]) + 1)


def _shifted(sums: Tensor, planes: int) -> Tensor:
    """The sums some planes further on: finished ones leave, empty ones enter."""
    moved = torch.zeros_like(sums)
    moved[: len(sums) - planes] = sums[planes:]
    return moved


def _union(a: slice, b: slice) -> slice:
    return slice(min(a.start, b.start), max(a.stop, b.stop))


def _holds(outer: slice, inner: slice) -> bool:
    return bool(outer.start <= inner.start and inner.stop <= outer.stop)
