"""Masks of a scan by way of its slices, in the paper's five stages (3.2 and 6.1), each a file of its own.

Three channels (`channels`), seed slices (`seed_slices`), 2D masks on them (`plane_masks`), carried through the volume (`propagate`), merged
(`merge`). The network comes as a protocol; SAM2 is one (`sam2`).
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ...config import Triple
from ...progress import Steps
from ...volumes.boxes import Box
from ..mask_set import Bools
from ..packed import Found
from .batch_size import BatchSize
from .channels import Bytes, Profile, three_channels
from .frames import Frames
from .merge import cross_section, distinct, part_at_seed, uncovered
from .plane_masks import GridConfig, PlaneMask, PlaneMasker, Promptable
from .propagate import Seed, Tracker, on_slice, propagate
from .seed_slices import by_bisection, seed_axes, seed_slices

_QUICK_S = 0.01
"""Seconds a point may take on a device that processes many points at once."""


class Network(Promptable, Protocol):
    """Interface of a network used by the pipeline."""

    def tracker(self, frames: Frames) -> Tracker:
        """Follows objects through slices whose features `encode_image` computed."""

    def slices_in_memory(self) -> int | None:
        """Number of slices whose features are kept; None: all."""


@dataclass(frozen=True, kw_only=True)
class SliceConfig:
    """Settings of the pipeline; thresholds on masks are in the profile."""

    grid: GridConfig = field(default_factory=GridConfig)
    all_axes: bool = False
    """Cut slices across all three axes, not just where pixels are finest."""
    objects: int = 64
    """Carried through the volume at a time; halved when memory does not suffice."""
    skip_covered: bool = False
    """Do not carry a 2D mask that overlaps what an object carried before shows on its slice more than duplicates may. Seed slices are then
    taken by bisection."""


Start = tuple[int, PlaneMask]
"""A 2D mask, preceded by the number of its slice."""


class SliceMask(NamedTuple):
    """A 3D mask and where it comes from."""

    box: Box
    bits: NDArray[np.uint8]
    """The values inside the box, eight in a byte: thousands of masks are held at once."""
    predicted_iou: float
    """Of the 2D mask it began as, as are the next three."""
    stability: float
    axis: int
    slice: int

    @property
    def found(self) -> Found:
        """The mask as a bounding box and the values inside it."""
        shape = np.subtract(self.box[1], self.box[0])
        return self.box, np.unpackbits(self.bits, count=int(shape.prod())).reshape(shape).view(bool)


def masks_by_slices(
    array: NDArray[np.floating],
    spacing_zyx: Triple,
    body: Bools,
    profile: Profile,
    network: Network,
    *,
    config: SliceConfig | None = None,
    seed: int = 0,
    steps: Steps | None = None,
    forewarn: Callable[[float, int], None] | None = None,
) -> list[SliceMask]:
    """The masks of one scan.

    Args:
        array: [z,y,x] intensities as stored (HU for CT).
        spacing_zyx: voxel edges in mm.
        body: [z,y,x] where 2D masks may lie.
        profile: channels, thresholds and smallest sizes.
        network: finds and follows objects.
        config: see `SliceConfig`.
        seed: of the choice among duplicates.
        steps: reports progress, and stops the run where it was cancelled.
        forewarn: called before the work begins with the estimated seconds for the 2D masks of a seed slice, and the number of seed slices.

    Returns:
        Connected masks in their tight boxes, by axis and seed slice.
    """
    config, steps = config or SliceConfig(), steps or Steps()
    images = three_channels(array, profile, body)
    places = {axis: _places(body, axis, spacing_zyx, profile) for axis in seed_axes(spacing_zyx, all_axes=config.all_axes)}
    axis, found = next(iter(places.items()))
    if forewarn is not None and found:
        middle = np.moveaxis(images, axis, 0)[found[len(found) // 2]]
        forewarn(seconds_per_slice(network, middle, profile, config.grid), sum(map(len, places.values())))
    batch, masker = BatchSize(config.objects), PlaneMasker(network, profile, config.grid)
    masks: list[SliceMask] = []
    for axis in places:
        frames = Frames(np.moveaxis(images, axis, 0), network.encode_image, network.slices_in_memory())
        planes = np.moveaxis(body, axis, 0)
        starts: list[list[Start]] = []
        for done, place in enumerate(places[axis]):
            steps.at("2D masks", done, len(places[axis]))
            starts.append([(place, mask) for mask in masker(frames.images[place], planes[place], frames[place])])
        journey = _Journey(frames, axis, profile, network.tracker(frames), batch, steps, total=sum(map(len, starts)))
        masks += journey.made(starts, masks if config.skip_covered else None)
    kept = distinct((mask.found for mask in masks), profile.duplicate_iou, seed, profile.keep)
    return [masks[number] for number in kept]


def seconds_per_slice(network: Promptable, image: Bytes, profile: Profile, config: GridConfig) -> float:
    """Estimated seconds for the 2D masks of a seed slice, measured with few points on one picture [h,w,3] after a warm-up."""
    body = np.ones(image.shape[:2], bool)
    for _ in range(2):
        began = time.perf_counter()
        features = network.encode_image(image)
        network.propose(features, np.full((1, 2), 0.5, np.float32))[1].cpu()  # GPUs are waited for here
        encoding = time.perf_counter() - began

    def seconds_per_point(per_side: int) -> float:
        masker = PlaneMasker(network, profile, replace(config, points_per_side=per_side, crop_layers=0))
        masker(image, body, features)
        began = time.perf_counter()
        masker(image, body, features)
        return (time.perf_counter() - began) / per_side**2

    # Fast devices take many points about as quickly as few: only these are timed with as many as a real run has.
    each = seconds_per_point(2)
    if each < _QUICK_S:
        each = seconds_per_point(min(config.points_per_side, max(2, math.isqrt(config.points_per_batch))))
    pictures = sum(4**layer for layer in range(config.crop_layers + 1))
    return pictures * (encoding + each * config.points_per_side**2)


def _places(body: Bools, axis: int, spacing_zyx: Triple, profile: Profile) -> list[int]:
    """The seed slices across an axis."""
    occupied = np.moveaxis(body, axis, 0).any(axis=(1, 2))
    return seed_slices(np.asarray(occupied), spacing_zyx[axis], profile.interval_mm, profile.min_slices)


@dataclass
class _Journey:
    """Propagation of 2D masks through the volume, across one axis."""

    frames: Frames
    axis: int
    profile: Profile
    tracker: Tracker
    batch: BatchSize
    steps: Steps
    total: int
    """2D masks there are."""
    done: int = 0
    """Of them, carried or left out."""

    def made(self, starts: list[list[Start]], known: list[SliceMask] | None) -> list[SliceMask]:
        """The 3D masks of 2D masks, given slice by slice, in their order.

        Args:
            starts: the 2D masks.
            known: objects that are there already; None: every 2D mask is carried, whatever is known.
        """
        if known is None:
            return self.carried(sum(starts, []))
        found: list[SliceMask] = []
        for numbers in by_bisection(len(starts)):
            before = known + found
            found += self.carried([start for number in numbers for start in self.not_covered(starts[number], before)])
        return sorted(found, key=lambda mask: mask.slice)

    def carried(self, starts: list[Start]) -> list[SliceMask]:
        """Propagate 2D masks through the volume, in their order; 3D masks that are too small are dropped."""
        carried: dict[int, SliceMask] = {}
        seeds = [Seed(place, mask.mask) for place, mask in starts]
        for number, found in propagate(self.tracker, seeds, len(self.frames), self.batch):
            self.steps.at("3D masks", self.done, self.total)
            self.done += 1
            place, mask = starts[number]
            part = part_at_seed(_as_zyx(found, self.axis), self.axis, place)
            if part is not None and np.count_nonzero(part[1]) >= self.profile.min_voxels:
                carried[number] = SliceMask(part[0], np.packbits(part[1]), mask.predicted_iou, mask.stability, self.axis, place)
        return [carried[number] for number in sorted(carried)]

    def not_covered(self, starts: list[Start], known: list[SliceMask]) -> list[Start]:
        """The 2D masks of a slice that no known object covers already."""
        if not starts or not known:
            return starts
        here = starts[0][0]
        there = (mask.found for mask in known if mask.box[0][self.axis] <= here < mask.box[1][self.axis])
        shown = [cross_section(found, self.axis, here) for found in there]
        planes = [_as_zyx(on_slice(here, mask.mask), self.axis) for _, mask in starts]
        kept = uncovered(planes, [section for section in shown if section is not None], self.profile.duplicate_iou)
        self.done += len(starts) - len(kept)
        return [starts[number] for number in kept]


def _as_zyx(found: Found, axis: int) -> Found:
    """A mask whose first axis is the one slices were cut across, in array order."""
    low, high = (np.insert(others, axis, first) for first, *others in found[0])
    return Box.of(low, high), np.moveaxis(found[1], 0, axis)
