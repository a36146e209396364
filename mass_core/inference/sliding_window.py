"""Sliding-window inference over a preprocessed scan."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import Recipe, Shape
from ..devices import not_compiled
from ..errors import is_out_of_memory
from ..model import MASS, Tokens
from ..model.compute import Compute
from ..volumes.boxes import Box
from ..weights.store import keep_compiled
from .blending import Spans, TopLabels, WindowBlender, blend_weights
from .upload import uploaded

_STORE_BYTES = 1 << 30
_STORE_VOXEL = 4
"""Probabilities kept for interpolation: float16 and a label's number. They hold every label of a volume of 27 million voxels with nine
labels; of larger ones at least the three most probable labels of each voxel, the next is hardly ever the voxel's label."""


def starts(size: int, window: int, overlap: float) -> list[int]:
    """First voxels of the windows along one axis: they cover it, none is there twice, the last ends with the axis.

    Args:
        size: voxels of the axis; an axis shorter than the window has one window.
        window: voxels of the window.
        overlap: share of the window that neighbours have in common, 0 <= overlap < 1.
    """
    if size <= window:
        return [0]
    step = max(1, round(window * (1 - overlap)))
    return [*range(0, size - window, step), size - window]


def positions(shape_zyx: Shape, window_zyx: Shape, overlap: float) -> list[Shape]:
    """First voxels (z,y,x) of all windows, ordered along z, then y, then x."""
    z, y, x = (starts(size, window, overlap) for size, window in zip(shape_zyx, window_zyx, strict=True))
    return list(itertools.product(z, y, x))


def kept_labels(recipe: Recipe, labels: int, voxels: int) -> int:
    """Labels kept for each voxel of a volume: one decides a label map, interpolation needs more, as many as the memory for them takes."""
    return min(labels, max(3, _STORE_BYTES // (_STORE_VOXEL * voxels))) if recipe.smooth_restore else 1


@dataclass(frozen=True, kw_only=True)
class WindowResult:
    """Output of sliding-window inference."""

    best: TopLabels
    maps: tuple[np.ndarray, ...]
    """Probabilities float32 [z,y,x] of every label, if they were wanted."""


def sliding_window_inference(
    network: MASS,
    array_zyx: np.ndarray,
    passes: Sequence[Tokens],
    recipe: Recipe,
    *,
    compute: Compute,
    step: Callable[[int, int], None],
    near: Sequence[Box] | None = None,
    maps: bool = False,
) -> WindowResult:
    """Probabilities of all labels in a prepared scan.

    Args:
        network: in evaluation mode, on the compute device.
        array_zyx: normalised float32 volume; axes shorter than the window are padded at their end with 0, the mean intensity.
        passes: tokens [1,K,queries+1,C] of the labels decoded together; labels are numbered through all passes.
        recipe: window, overlap and blend floor.
        compute: where and how.
        step: called with the windows done and their number, between passes of the network.
        near: boxes of the array; windows that touch none of them are taken to hold nothing. None: all windows count.
        maps: also keep every label's probabilities as a whole volume; memory then grows with the number of labels.
    """
    shape = shape_of(array_zyx)
    exact = not recipe.smooth_restore  # float32 of every voxel, as the released script has them
    least = 0.0 if exact or maps else 0.02 * recipe.threshold
    labels = sum(tokens[0].shape[1] for tokens in passes)
    best = TopLabels(shape, kept_labels(recipe, labels, array_zyx.size), exact=exact, device=compute.blend_device)
    whole = [np.zeros(shape, np.float32) for _ in range(labels)] if maps else []
    on_device = [tuple(stage.to(compute.device) for stage in tokens) for tokens in passes]

    def forward(windows_N1DHW: Tensor) -> Tensor:
        return _probabilities(network, windows_N1DHW, on_device, compute)

    for label, box, values in blended(array_zyx, recipe, forward, compute=compute, step=step, least=least, near=near):
        best.put(label, box, values)
        if maps:
            put(whole[label], box, values.cpu().numpy())
    return WindowResult(best=best.on_host(), maps=tuple(whole))


def blended(
    array_zyx: np.ndarray,
    recipe: Recipe,
    forward: Callable[[Tensor], Tensor],
    *,
    compute: Compute,
    step: Callable[[int, int], None],
    least: float = 0.0,
    near: Sequence[Box] | None = None,
) -> Iterator[tuple[int, Box, Tensor]]:
    """Go over a volume window by window; hands out (channel, box, values float32 on the device of blending) as soon as they are final.

    Windows are blended `compute.ahead` portions after the network was given them, so that a GPU has always something to do.

    Args:
        array_zyx: the volume; axes shorter than the window are padded at their end with 0.
        recipe: window, overlap, and whether windows of a single value are left out: nothing is added there.
        forward: output of the network [N,K,D,H,W] for some windows [N,1,D,H,W] on its device.
        compute: how many windows in one call of it, and how far it may be ahead.
        step: called with the windows done and their number, between those calls.
        least: see `WindowBlender`.
        near: boxes of the volume; windows that touch none of them are left out as well. None: all windows count.
    """
    volume = padded(array_zyx, recipe.window_zyx)
    there = uploaded(volume, compute)  # once, for windows overlap
    weights = blend_weights(recipe.window_zyx, recipe.blend_floor)
    blend = WindowBlender((volume.shape[1], volume.shape[2]), weights, least=least, device=compute.blend_device)
    windows = positions(shape_of(volume), recipe.window_zyx, recipe.overlap)
    waiting: deque[_Portion] = deque()
    done = 0
    for portion in _portions(volume, windows, recipe, near, compute.batch):
        done += len(portion.empty)
        if portion.seen:
            step(done, len(windows))
            portion.found = forward(stacked(there, portion.seen, recipe.window_zyx).to(compute.device))
            portion.spans = blend.noticed(portion.found)
            done += len(portion.seen)
        waiting.append(portion)
        while len(waiting) > compute.ahead:
            yield from _blend(waiting.popleft(), blend)
    for portion in waiting:
        yield from _blend(portion, blend)
    step(len(windows), len(windows))


@dataclass(kw_only=True)
class _Portion:
    """Windows computed together, and the windows of nothing before them."""

    empty: list[Shape]
    seen: list[Shape]
    finished: int | None
    """The planes before this one are finished after these windows; None: none are."""
    found: Sequence[Tensor] | Tensor = ()
    """Probabilities of those seen, [K,D,H,W] each."""
    spans: Callable[[], Sequence[Spans]] = tuple


def _portions(volume: Tensor, windows: list[Shape], recipe: Recipe, near: Sequence[Box] | None, size: int) -> Iterator[_Portion]:
    """All windows in their order, at most `size` to compute at a time and all of one row."""
    rows = [list(row) for _, row in itertools.groupby(windows, key=lambda start: start[0])]
    ends = [row[0][0] for row in rows[1:]] + [volume.shape[0]]
    for row, end in zip(rows, ends, strict=True):
        empty, seen = _sorted_out(volume, row, recipe, near)
        parts = [seen[first : first + size] for first in range(0, len(seen), size)] or [[]]
        for number, part in enumerate(parts):
            yield _Portion(empty=[] if number else empty, seen=part, finished=end if number == len(parts) - 1 else None)


def _blend(portion: _Portion, blend: WindowBlender) -> Iterator[tuple[int, Box, Tensor]]:
    """Add the windows of a portion, and hand out what is finished then."""
    for start in portion.empty:
        blend.add_empty(start)
    for start, values_KDHW, spans in zip(portion.seen, portion.found, portion.spans(), strict=True):
        blend.add(start, values_KDHW, spans)
    if portion.finished is not None:
        yield from blend.finish(portion.finished)


def put(volume: np.ndarray, box: Box, values: np.ndarray) -> None:
    """Write a box of a padded volume into the volume [z,y,x]; what lies behind its end is cut off."""
    view = volume[box.slices()]
    view[...] = values[: view.shape[0], : view.shape[1], : view.shape[2]]


def split_passes(tokens: Tokens, classes_per_pass: int) -> list[Tokens]:
    """Tokens [1,K,...] in portions of that many labels; 0: all together, so that they see each other."""
    count = tokens[0].shape[1]
    size = classes_per_pass or count
    return [tuple(stage[:, first : first + size] for stage in tokens) for first in range(0, count, size)]


def _probabilities(network: MASS, batch_B1DHW: Tensor, passes: Sequence[Tokens], compute: Compute) -> Tensor:
    """Probabilities float32 [B,K,D,H,W]: each window is encoded once, then decoded for every pass."""
    count = len(batch_B1DHW)
    if compute.compile:  # one shape for all
        batch_B1DHW = torch.cat([batch_B1DHW, batch_B1DHW[-1:].expand(compute.batch - count, -1, -1, -1, -1)])
    with torch.inference_mode(), compute.autocast():
        if not compute.compile:
            return window_probabilities(network, batch_B1DHW, passes)
        try:
            return compiled()(network, batch_B1DHW, passes)[:count].clone()  # the next call writes into the same memory
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise not_compiled("The network", error) from error


def window_probabilities(network: MASS, batch_B1DHW: Tensor, passes: Sequence[Tokens]) -> Tensor:
    """Probabilities float32 [B,K,D,H,W] of windows on the device."""
    features = network.encode_image(batch_B1DHW)
    logits = [network.decode(features, tuple(stage.expand(len(batch_B1DHW), -1, -1, -1) for stage in tokens)) for tokens in passes]
    return torch.cat([part.float().sigmoid_() for part in logits], dim=1)


@cache
def compiled() -> Callable[[MASS, Tensor, Sequence[Tokens]], Tensor]:
    """`window_probabilities` as a CUDA graph of compiled kernels, one for each shape; kernels are kept on the disk for the next run."""
    keep_compiled()
    return torch.compile(window_probabilities, mode="reduce-overhead", dynamic=False)


def stacked(volume: Tensor, windows: Sequence[Shape], size: Shape) -> Tensor:
    """Windows [N,1,D,H,W] of a volume [z,y,x], given their first voxels and size."""
    depth, height, width = size
    return torch.stack([volume[z : z + depth, y : y + height, x : x + width] for z, y, x in windows])[:, None]


def _sorted_out(volume: Tensor, windows: list[Shape], recipe: Recipe, near: Sequence[Box] | None) -> tuple[list[Shape], list[Shape]]:
    """Windows not to be computed, being far from all that counts or, where the recipe skips them, of a single value; and the others."""
    depth, height, width = recipe.window_zyx
    plain: list[Shape] = []
    seen: list[Shape] = []
    for z, y, x in windows:
        part = volume[z : z + depth, y : y + height, x : x + width]
        far = near is not None and not any(Box.at((z, y, x), recipe.window_zyx).common(box) for box in near)
        empty = far or (recipe.skip_uniform and bool((part == part[0, 0, 0]).all()))
        (plain if empty else seen).append((z, y, x))
    return plain, seen


def padded(array_zyx: np.ndarray, window_zyx: Shape) -> Tensor:
    """A volume with zeros at the end of every axis that is shorter than the window."""
    z, y, x = (max(0, wanted - size) for size, wanted in zip(array_zyx.shape, window_zyx, strict=True))
    volume = torch.from_numpy(array_zyx)
    return F.pad(volume, (0, x, 0, y, 0, z)) if z or y or x else volume


def shape_of(array: np.ndarray | Tensor) -> Shape:
    """Sizes of an array [z,y,x]."""
    z, y, x = array.shape
    return z, y, x
