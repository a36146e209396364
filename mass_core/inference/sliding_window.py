"""Sliding-window inference over a preprocessed scan."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import Recipe, Shape
from ..model import MASS, Tokens
from ..model.compute import Compute
from ..volumes.boxes import Box
from .blending import Best, Blend
from .windows import blend_weights, padded_shape, positions

_STORE_BYTES = 1 << 30
_STORE_VOXEL = 4
"""Probabilities kept for interpolation: float16 and a label's number. They hold every label of a volume of 27 million voxels with nine
labels; of larger ones at least the three most probable labels of each voxel, the next is hardly ever the voxel's label."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Outputs wanted of sliding-window inference."""

    exact: bool
    """Probabilities as float32 of every voxel, as the released script has them; else labels are noticed from 2 % of the threshold on."""
    depth: int
    """Labels kept for a voxel."""
    maps: bool
    """Every label's probabilities as a whole volume; memory then grows with the number of labels."""

    @classmethod
    def for_recipe(cls, recipe: Recipe, labels: int, voxels: int, *, maps: bool) -> "Wanted":
        """The outputs a recipe needs to decide label maps, and probability maps if requested."""
        depth = min(labels, max(3, _STORE_BYTES // (_STORE_VOXEL * voxels))) if recipe.smooth_restore else 1
        return cls(exact=not recipe.smooth_restore, depth=depth, maps=maps)


@dataclass(frozen=True, kw_only=True)
class Swept:
    """Output of sliding-window inference."""

    best: Best
    maps: tuple[np.ndarray, ...] | None
    """Probabilities float32 [z,y,x] of every label, if they were wanted."""


def sweep(
    network: MASS,
    array_zyx: np.ndarray,
    passes: Sequence[Tokens],
    recipe: Recipe,
    *,
    compute: Compute,
    wanted: Wanted,
    step: Callable[[int, int], None],
    near: Sequence[Box] | None = None,
) -> Swept:
    """Probabilities of all labels in a prepared scan.

    Args:
        network: in evaluation mode, on the compute device.
        array_zyx: normalised float32 volume; axes shorter than the window are padded at their end with 0, the mean intensity.
        passes: tokens [1,K,queries+1,C] of the labels decoded together; labels are numbered through all passes.
        recipe: window, overlap and blend floor.
        compute: where and how.
        wanted: what to keep.
        step: called with the windows done and their number, between passes of the network.
        near: boxes of the array; windows that touch none of them are taken to hold nothing. None: all windows count.
    """
    shape = _shape(array_zyx)
    padded = padded_to(torch.from_numpy(array_zyx), padded_shape(shape, recipe.window_zyx))
    weights = blend_weights(recipe.window_zyx, recipe.blend_floor)
    least = 0.0 if wanted.exact or wanted.maps else 0.02 * recipe.threshold
    blend = Blend((padded.shape[1], padded.shape[2]), weights, least=least, device=compute.blend_device)
    labels = sum(tokens[0].shape[1] for tokens in passes)
    best = Best(shape, wanted.depth, exact=wanted.exact)
    maps = tuple(np.zeros(shape, np.float32) for _ in range(labels)) if wanted.maps else None
    on_device = [tuple(stage.to(compute.device) for stage in tokens) for tokens in passes]

    def probabilities(some: Sequence[Shape]) -> Tensor:
        return _probabilities(network, padded, some, on_device, recipe.window_zyx, compute)

    for label, box, values in blended(padded, recipe, blend, probabilities, batch=compute.batch, step=step, near=near):
        best.put(label, box, values)
        if maps is not None:
            put(maps[label], box, values)
    return Swept(best=best, maps=maps)


def blended(
    padded: Tensor,
    recipe: Recipe,
    blend: Blend,
    look: Callable[[Sequence[Shape]], Tensor],
    *,
    batch: int,
    step: Callable[[int, int], None],
    near: Sequence[Box] | None = None,
) -> Iterator[tuple[int, Box, np.ndarray]]:
    """Go over a volume window by window; hands out what `blend` has finished as (channel, box, values float32).

    Args:
        padded: at least as large as the window.
        recipe: window, overlap, and whether windows of a single value are left out: nothing is added there.
        blend: where the windows are summed.
        look: what the network says of some windows, given their first voxels: [windows,K,D,H,W].
        batch: windows in one call of it.
        step: called with the windows done and their number, between those calls.
        near: boxes of the volume; windows that touch none of them are left out as well. None: all windows count.
    """
    windows = positions(_shape(padded), recipe.window_zyx, recipe.overlap)
    done = 0
    for _, row in groupby(windows, key=lambda start: start[0]):
        plain, seen = _sorted_out(padded, list(row), recipe, near)
        for start in plain:
            blend.add_empty(start)
        done += len(plain)
        for some in _batches(seen, batch):
            step(done, len(windows))
            for start, values_KDHW in zip(some, look(some), strict=True):
                blend.add(start, values_KDHW)
            done += len(some)
        yield from blend.finish(windows[done][0] if done < len(windows) else padded.shape[0])
    step(len(windows), len(windows))


def put(volume: np.ndarray, box: Box, values: np.ndarray) -> None:
    """Write a box of a padded volume into the volume [z,y,x]; what lies behind its end is cut off."""
    view = volume[box.slices()]
    view[...] = values[: view.shape[0], : view.shape[1], : view.shape[2]]


def split_passes(tokens: Tokens, classes_per_pass: int) -> list[Tokens]:
    """Tokens [1,K,...] in portions of that many labels; 0: all together, so that they see each other."""
    count = tokens[0].shape[1]
    size = classes_per_pass or count
    return [tuple(stage[:, first : first + size] for stage in tokens) for first in range(0, count, size)]


def _probabilities(
    network: MASS, volume: Tensor, windows: Sequence[Shape], passes: Sequence[Tokens], size: Shape, compute: Compute
) -> Tensor:
    """Probabilities float32 [windows,K,D,H,W]: each window is encoded once, then decoded for every pass."""
    batch_B1DHW = stacked(volume, windows, size).to(compute.device)
    count = len(windows)
    with torch.inference_mode(), compute.autocast():
        features = network.encode_image(batch_B1DHW)
        logits = [network.decode(features, tuple(stage.expand(count, -1, -1, -1) for stage in tokens)) for tokens in passes]
        return torch.cat([part.float().sigmoid_() for part in logits], dim=1)


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


def _batches(windows: list[Shape], size: int) -> Iterator[list[Shape]]:
    for first in range(0, len(windows), size):
        yield windows[first : first + size]


def padded_to(volume: Tensor, shape_zyx: Shape) -> Tensor:
    """A volume with zeros at the end of the axes that are too short."""
    z, y, x = (size - have for size, have in zip(shape_zyx, volume.shape, strict=True))
    return F.pad(volume, (0, x, 0, y, 0, z)) if z or y or x else volume


def _shape(array: np.ndarray | Tensor) -> Shape:
    z, y, x = array.shape
    return z, y, x
