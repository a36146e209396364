"""From probabilities on one or several working grids to one label map on the target's own grid."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..alignment.fusion import NetworkEvidence, fused
from ..alignment.prior import Prior
from ..config import Shape, Triple
from ..volumes.boxes import Box, label_boxes
from ..volumes.components import largest_parts
from ..volumes.preprocess import Record, restore_labels
from ..volumes.resample import resample
from ..volumes.volume import Geometry, Volume
from .blending import TopLabels

_SLAB = 32
"""Planes of the target decided at a time; memory beyond the label map is some float32 slabs."""


@dataclass(frozen=True, kw_only=True)
class WorkingResult:
    """Network output for the labels that share a working spacing."""

    best: TopLabels
    numbers: tuple[int, ...]
    """The number in the label map of each label of `best`, ascending."""
    record: Record
    maps: tuple[np.ndarray, ...] = ()
    """Probabilities float32 [z,y,x] of every label, if they were requested."""
    absent: frozenset[int] = frozenset()
    """Numbers of labels that are not in the target, whatever the network finds there."""


def kind_of(numbers: Sequence[int]) -> np.dtype:
    """uint8 where all label numbers fit, else uint16."""
    return np.dtype(np.uint8 if max(numbers) < 256 else np.uint16)


def interpolated(
    groups: Sequence[WorkingResult], threshold: float, step: Callable[[int, int], None], priors: Mapping[int, Prior] | None = None
) -> np.ndarray:
    """Label map [z,y,x] on the target's grid: probabilities are interpolated, the highest one that reaches the threshold wins.

    Args:
        groups: working grids; of equal probabilities the first group's, then the lower number wins.
        threshold: probability from which a voxel belongs to a label.
        step: called with the slabs done and their number.
        priors: by number where alignment puts a label, which is then looked for there only, with its weight (`alignment.fusion`).
    """
    target = groups[0].record.target
    depth, height, width = target.shape_zyx
    labels = np.zeros(target.shape_zyx, kind_of([n for group in groups for n in group.numbers]))
    first_planes = range(0, depth, _SLAB)
    for done, z in enumerate(first_planes):
        step(done, len(first_planes))
        slab = Box((z, 0, 0), (min(z + _SLAB, depth), height, width))
        highest = np.full(slab.size, np.nextafter(np.float32(threshold), np.float32(0)), np.float32)
        for group in groups:
            for number, box, probability in _seen_in(slab, group, priors or {}):
                part = box.seen_from(slab.low).slices()
                better = probability > highest[part]
                highest[part][better] = probability[better]
                labels[box.slices()][better] = number
    step(len(first_planes), len(first_planes))
    return labels


def nearest(groups: Sequence[WorkingResult], threshold: float, *, keep_largest: bool) -> np.ndarray:
    """Label map [z,y,x] on the target's grid: decided on the working grid, then carried over by nearest neighbour.

    Args:
        groups: working grids; where several claim a voxel the highest probability wins, in steps of 1/65535.
        threshold: probability from which a voxel belongs to a label.
        keep_largest: keep only the largest component of each label, on the working grid.
    """
    decided, highest = None, None
    for group in groups:
        working = group.best.decide(group.numbers, threshold)
        if keep_largest:
            keep_largest_parts(working, {})
        labels = restore_labels(working, group.record).array
        if len(groups) == 1:
            return labels.astype(kind_of(group.numbers), copy=False)
        rounded = np.round(group.best.most_probable().astype(np.float32) * 65535).astype(np.uint16)
        probability = restore_labels(np.where(working > 0, rounded, 0), group.record).array
        if decided is None or highest is None:
            decided, highest = labels, probability
        else:
            better = probability > highest
            decided[better], highest[better] = labels[better], probability[better]
    numbers = [n for group in groups for n in group.numbers]
    return np.zeros(0) if decided is None else decided.astype(kind_of(numbers), copy=False)


def keep_largest_parts(
    labels: np.ndarray, counts: Mapping[int, int], closeness: Mapping[int, Callable[[Triple], float]] | None = None
) -> int:
    """Set what lies outside the largest connected parts of each label of a map [z,y,x] to 0, in place.

    Args:
        labels: the map.
        counts: parts to keep by label; 1 of those not named.
        closeness: by label, by what a part's voxels are multiplied before parts are compared, from its centre in voxels (z, y, x).

    Returns:
        Voxels set to 0.
    """
    dropped = 0
    for number, box in label_boxes(labels).items():
        view, near = labels[box.slices()], (closeness or {}).get(number, _everywhere_alike)
        rest = (view == number) & ~largest_parts(view == number, counts.get(number, 1), partial(_from, box.low, near))
        view[rest] = 0
        dropped += int(rest.sum())
    return dropped


def _everywhere_alike(centre_zyx: Triple) -> float:
    return 1.0


def _from(start_zyx: Shape, closeness: Callable[[Triple], float], centre_zyx: Triple) -> float:
    """The closeness of a place given in voxels of a cut-out that begins at `start_zyx`."""
    z, y, x = (a + b for a, b in zip(start_zyx, centre_zyx, strict=True))
    return closeness((z, y, x))


def _seen_in(slab: Box, group: WorkingResult, priors: Mapping[int, Prior]) -> Iterator[tuple[int, Box, np.ndarray]]:
    """(number, box of the target inside the slab, probabilities float32 in it) of the labels a slab may hold."""
    for label, number in enumerate(group.numbers):
        prior, here = priors.get(number), group.best.boxes.get(label)
        if number in group.absent:
            continue
        if prior is not None:
            box = prior.box.common(slab)
            if box is not None:
                yield number, box, fused(prior, box, _probability(group, label, box))
        elif here is not None:
            box = mapped(here, group.record.working, group.record.target).common(slab)
            if box is not None and _source(group, label, box) is not None:
                yield number, box, _probability(group, label, box)


def network_evidence(group: WorkingResult, prior: Prior, number: int, self_dice: float, threshold: float) -> NetworkEvidence:
    """Evidence of how well the network finds a structure where alignment puts it.

    Args:
        group: what the network said.
        prior: of the structure.
        number: of the structure in the label map.
        self_dice: Dice of what the network finds in the reference itself.
        threshold: probability from which a voxel belongs to a label.
    """
    target, working = group.record.target, group.record.working
    box = mapped(prior.box, target, working).common(Box((0, 0, 0), group.best.shape))
    if box is None:
        return NetworkEvidence(self_dice, 0.0, 0.0)
    probability = group.best.probability(group.numbers.index(number), box)
    distance = resample(Volume(prior.distance, target.cropped(prior.box)), working.cropped(box), fill=None).array
    aligned, found = distance > 0, (probability >= threshold) & ~prior.unknown(distance)
    voxels = int(np.count_nonzero(aligned))
    surest = np.sort(probability, axis=None)[-max(1, voxels) :]
    overlap = 2 * np.count_nonzero(aligned & found) / max(1, voxels + np.count_nonzero(found))
    return NetworkEvidence(self_dice, float(surest.mean()), overlap)


def _source(group: WorkingResult, label: int, box: Box) -> Box | None:
    """The working voxels a label's probabilities in a box of the target are interpolated from; None: it was seen in none of them."""
    here = group.best.boxes.get(label)
    return None if here is None else mapped(box, group.record.target, group.record.working).common(here.grown((1, 1, 1)))


def _probability(group: WorkingResult, label: int, box: Box) -> np.ndarray:
    """A label's probabilities float32 in a box of the target."""
    source = _source(group, label, box)
    if source is None:
        return np.zeros(box.size, np.float32)
    values = Volume(_with_rim(group.best, label, source), group.record.working.cropped(source))
    return resample(values, group.record.target.cropped(box), "linear").array


def _with_rim(best: TopLabels, label: int, box: Box) -> np.ndarray:
    """A label's probabilities in a box that may reach one voxel beyond the volume, whose border voxels go on there."""
    inside = box.common(Box((0, 0, 0), best.shape))
    if inside is None:
        return np.zeros(box.size, np.float32)
    beyond = [(a - start, stop - b) for start, a, b, stop in zip(box.low, *inside, box.high, strict=True)]
    return np.pad(best.probability(label, inside), beyond, mode="edge")


def mapped(box: Box, grid: Geometry, other: Geometry) -> Box:
    """The voxels of another grid that lie in a box of this grid, and one more on each side."""
    start, stop = box
    corners = list(itertools.product(*[(a - 0.5, b - 0.5) for a, b in zip(start[::-1], stop[::-1], strict=True)]))
    to_other = np.linalg.inv(other.affine) @ grid.affine
    index = np.array(corners) @ to_other[:3, :3].T + to_other[:3, 3]
    return Box.of(np.floor(index.min(axis=0))[::-1], np.ceil(index.max(axis=0))[::-1] + 1).grown((1, 1, 1))
