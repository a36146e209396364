"""Blending of overlapping windows, in memory that grows with what is found, not with the number of labels.

Windows come ordered along z. Planes that no later window touches are finished, handed on and freed (`WindowBlender`); of a finished
voxel only the most probable labels are kept (`TopLabels`). On a GPU both live there, and nothing in them waits for it but `noticed`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..config import Shape
from ..volumes.boxes import Box

Spans = Sequence[tuple[int, slice, slice]]
"""Labels of a window with the rows and columns of their boxes."""


def blend_weights(window_zyx: Shape, floor: float) -> Tensor:
    """Weights [D,H,W] of a window's voxels: a Gaussian of sigma = window / 8 along each axis (as in the released script), at most 1.

    Args:
        window_zyx: window in voxels.
        floor: least weight. With 0 the corners fall to 5e-11, where a volume's own corners lose probability.
    """
    axes = []
    for size in window_zyx:
        distance = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
        axes.append(torch.exp(-0.5 * (distance / (size / 8)) ** 2))
    weights = axes[0][:, None, None] * axes[1][None, :, None] * axes[2][None, None, :]
    return (weights / weights.max()).clamp_min(floor)


@dataclass
class _Patch:
    """One label's weighted sums, where it was seen: planes x rows x columns, the first plane is the blend's."""

    rows: slice
    columns: slice
    sums: Tensor
    filled: int
    """Planes from the first on that windows have reached."""

    def box(self, start: int, stop: int) -> Box:
        """The patch between two planes."""
        return Box((start, self.rows.start, self.columns.start), (stop, self.rows.stop, self.columns.stop))


class WindowBlender:
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

    def add_empty(self, start: Shape) -> None:
        """Add a window that begins at `start` and holds no label; its z must be the plane the blend stands at."""
        if start[0] != self._plane:
            raise ValueError(f"windows must come ordered along z: expected plane {self._plane}, got {start[0]}")
        _, y, x = start
        height, width = self._weights.shape[1:]
        self._total[:, y : y + height, x : x + width] += self._weights

    def noticed(self, probabilities_NKDHW: Tensor) -> Callable[[], Sequence[Spans]]:
        """A function that returns the boxes of the labels in some windows: until it is called a GPU need not have computed them."""
        count, labels, _, height, width = probabilities_NKDHW.shape
        if self._least <= 0:
            everywhere = [(label, slice(0, height), slice(0, width)) for label in range(labels)]
            return lambda: [everywhere] * count
        seen_NKHW = probabilities_NKDHW.amax(dim=2) > self._least
        flags = on_its_way(torch.cat([seen_NKHW.any(dim=3), seen_NKHW.any(dim=2)], dim=2))
        return lambda: [_spans(*np.split(flags_KS, [height], axis=1)) for flags_KS in flags()]

    def add(self, start: Shape, probabilities_KDHW: Tensor, spans: Spans | None = None) -> None:
        """Add a window that begins at `start`; its z must be the plane the blend stands at.

        Args:
            start: first voxel.
            probabilities_KDHW: of its labels.
            spans: from `noticed`; None: found now.
        """
        self.add_empty(start)
        _, y, x = start
        for label, rows, columns in self.noticed(probabilities_KDHW[None])()[0] if spans is None else spans:
            share = probabilities_KDHW[label, :, rows, columns].to(self._device, torch.float32) * self._weights[:, rows, columns]
            patch = self._grown(label, slice(y + rows.start, y + rows.stop), slice(x + columns.start, x + columns.stop))
            top, left = y + rows.start - patch.rows.start, x + columns.start - patch.columns.start
            patch.sums[:, top : top + share.shape[1], left : left + share.shape[2]] += share
            patch.filled = len(self._weights)

    def finish(self, plane: int) -> Iterator[tuple[int, Box, Tensor]]:
        """Hand out (label, box, probabilities float32) of all planes before `plane`, labels ascending, and move there."""
        done = plane - self._plane
        for label in sorted(self._patches):
            patch = self._patches[label]
            total = self._total[:done, patch.rows, patch.columns].clamp_min(1e-8)
            yield label, patch.box(self._plane, plane), patch.sums[:done] / total
        self._total = _shifted(self._total, done)
        kept = {label: patch for label, patch in self._patches.items() if self._goes_on(patch, done)}
        self._patches = {n: _Patch(p.rows, p.columns, _shifted(p.sums, done), p.filled - done) for n, p in kept.items()}
        self._plane = plane

    def _goes_on(self, patch: _Patch, done: int) -> bool:
        """True if a patch may hold something behind its first planes."""
        return patch.filled > done and (not at_hand(self._device) or bool(patch.sums[done:].any()))

    def _grown(self, label: int, rows: slice, columns: slice) -> _Patch:
        """The label's patch, enlarged where it does not hold these rows and columns yet."""
        old = self._patches.get(label)
        if old is not None:
            if _holds(old.rows, rows) and _holds(old.columns, columns):
                return old
            rows, columns = _union(old.rows, rows), _union(old.columns, columns)
        shape = (len(self._weights), rows.stop - rows.start, columns.stop - columns.start)
        new = _Patch(rows, columns, torch.zeros(shape, device=self._device), 0)
        if old is not None:
            top, left = old.rows.start - rows.start, old.columns.start - columns.start
            new.sums[:, top : top + old.sums.shape[1], left : left + old.sums.shape[2]] = old.sums
        self._patches[label] = new
        return new


class TopLabels:
    """The most probable labels of every voxel; memory does not grow with the number of labels beyond `depth`.

    Args:
        shape_zyx: the volume.
        depth: how many labels a voxel can keep. One decides a label map; more are needed where probabilities are interpolated later.
        exact: probabilities as float32 instead of float16 (steps of 0.0005 near 1).
        device: where they live until `on_host`.
    """

    def __init__(self, shape_zyx: Shape, depth: int, *, exact: bool, device: torch.device | str = "cpu") -> None:
        self._labels = torch.zeros((depth, *shape_zyx), dtype=torch.int16, device=device)
        self._values = torch.zeros((depth, *shape_zyx), dtype=torch.float32 if exact else torch.float16, device=device)
        self.boxes: dict[int, Box] = {}
        """Box into which each label was put."""

    @property
    def shape(self) -> Shape:
        """The volume's voxels z, y, x."""
        _, z, y, x = self._labels.shape
        return z, y, x

    def put(self, label: int, box: Box, probabilities: Tensor | np.ndarray) -> None:
        """Enter one label's probabilities in a box; of equal ones the label entered first wins. What lies outside the volume is cut off.

        Each voxel of a label is entered once.
        """
        box = box.clipped(self.shape)
        values = torch.as_tensor(probabilities)[tuple(slice(0, n) for n in box.size)].to(self._values.dtype)
        if not values.numel():
            return
        others = sum(other != label and box.common(there) is not None for other, there in self.boxes.items())
        labels = torch.full_like(values, label + 1, dtype=torch.int16)
        for level in range(min(others + 1, len(self._labels))):  # below that every voxel is free
            held_values, held_labels = self._values[level][box.slices()], self._labels[level][box.slices()]
            better = values > held_values
            values_left, labels_left = torch.where(better, held_values, values), torch.where(better, held_labels, labels)
            held_values.copy_(torch.where(better, values, held_values))
            held_labels.copy_(torch.where(better, labels, held_labels))
            values, labels = values_left, labels_left
            if at_hand(values.device) and not values.any():
                break
        self.boxes[label] = self.boxes[label].enclosing(box) if label in self.boxes else box

    def on_host(self) -> "TopLabels":
        """The same, read from now on: in main memory, for devices have less."""
        self._labels, self._values = self._labels.cpu(), self._values.cpu()
        return self

    def decide(self, numbers: Sequence[int], threshold: float) -> np.ndarray:
        """Label map uint16 [z,y,x]: the most probable label's number where it reaches the threshold, else 0."""
        table = np.array([0, *numbers], np.uint16)
        return np.where(self._values[0].numpy() >= threshold, table[self._labels[0].numpy()], 0).astype(np.uint16)

    def most_probable(self) -> np.ndarray:
        """Probability [z,y,x] of each voxel's most probable label."""
        return self._values[0].numpy()

    def probability(self, label: int, box: Box) -> np.ndarray:
        """One label's probabilities float32 in a box of the volume, 0 where other labels filled the voxel."""
        part = (slice(None), *box.slices())
        labels, values = self._labels[part].numpy(), self._values[part].numpy()
        return np.where(labels == label + 1, values, 0).sum(axis=0, dtype=np.float32)


def at_hand(device: torch.device) -> bool:
    """True if numbers on a device can be read without waiting for it, as on a CPU."""
    return device.type == "cpu"


def on_its_way(tensor: Tensor) -> Callable[[], np.ndarray]:
    """Begin to copy a tensor to main memory. The function returned waits for it, not for what a GPU was given to do since."""
    if tensor.device.type != "cuda":
        return tensor.cpu().numpy
    there = tensor.to("cpu", non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record(torch.cuda.current_stream(tensor.device))

    def waited() -> np.ndarray:
        arrived.synchronize()
        return there.numpy()

    return waited


def _spans(rows_KH: np.ndarray, columns_KW: np.ndarray) -> Spans:
    """The boxes of the labels that are seen in some row."""
    return [(label, _span(rows_KH[label]), _span(columns_KW[label])) for label in np.flatnonzero(rows_KH.any(axis=1)).tolist()]


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
