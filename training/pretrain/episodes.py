"""Episodes: in-context tasks drawn from scans and their class-agnostic masks.

An episode is one scan, a few of its masks and two poses. Voxels are not resampled here: the loader hands on the part of the scan both
views need, with the chosen masks packed into the bits of one integer volume; `mass_core.augmentation` cuts both views out on the device.
Every draw depends on the run's seed and the episode's number alone, so a resumed run sees what an uninterrupted one would have seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from mass_core.augmentation.batch import Batch
from mass_core.augmentation.poses import Pose, Vector, random_linear, seen_part
from mass_core.config import Shape
from mass_core.data.dataset import Dataset
from mass_core.errors import InputError
from mass_core.masks.from_labels import label_masks
from mass_core.masks.mask_set import Bools, MaskSet
from mass_core.volumes.boxes import Box
from mass_core.volumes.volume import Geometry, Volume

from .config import EpisodeConfig
from .lesions import add_lesions, draw_kinds
from .released_views import overlapping, weak
from .schedule import pose_strength
from .synthetic import synthetic_image

_LONG = 4.0
"""Length over thickness from which a mask is long and thin."""
_ACROSS = (2.5, 7.0)
"""Voxels such a mask is across where its thickness chooses the spacing."""
OTHER_CONTRAST = 0.3
"""Share of the pairs of synthetic images that differ in contrast, as CT and MR do."""


@dataclass(frozen=True)
class Episode:
    """One task before resampling."""

    image: NDArray[np.float16]
    """[z,y,x] part of the scan, z-scored."""
    bits: NDArray[np.int32]
    """[z,y,x] chosen masks, mask k in bit k."""
    affines: NDArray[np.float32]
    """[2,3,4] reference and target view: voxel of the view to voxel of `image`."""
    slots: int
    """Masks of the task."""
    target: tuple[NDArray[np.float16], NDArray[np.int32]] | None = None
    """Image and masks of the scan the target view lies in, if that is another one."""


@dataclass(frozen=True)
class _Scan:
    """Cached facts about a scan."""

    image: NDArray[np.floating]
    masks: MaskSet
    spacing: Vector
    labels: NDArray[np.integer] | None = None
    synthetic: bool = False
    """The image is drawn anew from the label map each time."""
    values: tuple[int, ...] = ()
    """The label of each mask, if they are structures of the label map."""

    @cached_property
    def labelled(self) -> "_Scan":
        """The same scan with the structures of its label map as masks; with none where there is no label map."""
        masks, values = _structures(self.labels, self.masks)
        return replace(self, masks=masks, values=values)

    @cached_property
    def thickness_mm(self) -> Vector:
        """[N] thickness of masks, as if they were rods as long as their box."""
        return np.sqrt(self.volumes_mm3 / self.extents_mm.max(axis=1))

    def point_mm(self, mask: int, rng: np.random.Generator) -> Vector:
        """[3] a random voxel of a mask."""
        inside = np.argwhere(self.masks.mask(mask))
        return (inside[rng.integers(len(inside))] + self.masks.boxes_zyx[mask, :3]) * self.spacing

    def shows(self, mask: int, pose: Pose) -> bool:
        """True if a view holds some of a mask, by a sample of its voxels."""
        inside = np.argwhere(self.masks.mask(mask))
        inside = inside[:: max(1, len(inside) // 500)]
        return bool(pose.holds((inside + self.masks.boxes_zyx[mask, :3]) * self.spacing).any())

    def matches(self, other: "_Scan") -> NDArray[np.intp]:
        """[N] for each mask that of the same structure in another scan; -1 where that shows none."""
        where = {value: index for index, value in enumerate(other.values)}
        return np.array([where.get(value, -1) for value in self.values], np.intp)

    @cached_property
    def centres_mm(self) -> Vector:
        """[N,3] box centres."""
        boxes = self.masks.boxes_zyx
        return (boxes[:, :3] + boxes[:, 3:] - 1) / 2 * self.spacing

    @cached_property
    def extents_mm(self) -> Vector:
        """[N,3] box sides."""
        boxes = self.masks.boxes_zyx
        return (boxes[:, 3:] - boxes[:, :3]) * self.spacing

    def working_spacing(self, wanted_mm: float, window: int, limits_mm: tuple[float, float]) -> float:
        """The nearest spacing to the one wanted at which this scan shows something: not much finer than its own voxels, and with a
        window not much larger than the scan."""
        finest = max(limits_mm[0], 0.7 * self.spacing.min())
        coarsest = min(limits_mm[1], 1.3 * (np.array(self.image.shape) * self.spacing).max() / window)
        return float(np.clip(wanted_mm, finest, max(finest, coarsest)))

    @cached_property
    def volumes_mm3(self) -> Vector:
        """[N] mask volumes."""
        return self.masks.voxels * np.prod(self.spacing)


@dataclass(frozen=True)
class _Pair:
    """The scans of the two views: the same one, or two that show the same structures."""

    reference: _Scan
    target: _Scan
    matches: NDArray[np.intp]
    """[N] for each mask of the reference that of the target; -1: the target shows none."""


class Episodes(torch.utils.data.Dataset[Episode]):
    """Endless supply of episodes; number `i` is the same whenever and wherever it is requested."""

    def __init__(
        self,
        datasets: Sequence[Dataset],
        config: EpisodeConfig,
        *,
        window: Callable[[int], int],
        batch_size: int,
        seed: int,
        steps: int,
        weights: Sequence[float] = (),
    ) -> None:
        """Open the training scans that have masks or, where they may be used, label maps.

        Args:
            datasets: where scans come from.
            config: how tasks are drawn.
            window: edge of a view in voxels, by step.
            batch_size: episodes of a step.
            seed: of the run.
            steps: of the run.
            weights: how often each dataset is drawn from; empty: by number of scans.

        Raises:
            InputError: if there are none, or the weights do not fit the datasets.
        """
        self.config, self.window, self.batch_size, self.seed, self.steps = config, window, batch_size, seed, steps
        drawn = {dataset.name: dataset.name in config.synthetic for dataset in datasets}
        self.scans = [[_open(dataset, name, synthetic=drawn[dataset.name]) for name in dataset.splits["train"]] for dataset in datasets]
        with_labels = config.expert_share > 0
        self.scans = [[scan for scan in scans if len(scan.masks) or (with_labels and len(scan.labelled.masks))] for scans in self.scans]
        if weights and len(weights) != len(datasets):
            raise InputError(f"{len(weights)} dataset weights were given for {len(datasets)} datasets.", "Give one weight per dataset.")
        if not any(self.scans):
            raise InputError("No scan of the split 'train' has masks.", "Run `mass masks` and `mass prepare` first.")
        chance = np.array([float(bool(s)) * (weights[i] if weights else len(s)) for i, s in enumerate(self.scans)])
        self.chance = chance / chance.sum()

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def __getitem__(self, number: int) -> Episode:
        step = number // self.batch_size
        rng = np.random.default_rng((self.seed, number))
        scans = self.scans[rng.choice(len(self.scans), p=self.chance)]
        scan = scans[rng.integers(len(scans))]
        lesions = not scan.synthetic and self.config.lesion_share and rng.random() < self.config.lesion_share
        pair = _with_lesions(rng, scan, scans) if lesions else self._pair(rng, self._by_experts(rng, scan), scans)
        anchor = int(rng.choice(np.flatnonzero(pair.matches >= 0)))
        poses = self._poses(rng, pair, anchor, step)
        # All episodes of a batch hold the same number of masks.
        slots = int(np.random.default_rng((self.seed, 1, step)).choice(self.config.task_slots))
        episode = self._cut(rng, pair, self._masks(rng, pair, anchor, poses, slots), poses)
        if self.config.whole_slot:
            np.bitwise_or(episode.bits, np.left_shift(1, rng.integers(slots), dtype=np.int32), out=episode.bits)
        return episode

    def _by_experts(self, rng: np.random.Generator, scan: _Scan) -> _Scan:
        """The scan with the masks this task is about."""
        if self.config.expert_share and len(scan.labelled.masks) and (rng.random() < self.config.expert_share or not len(scan.masks)):
            return scan.labelled
        return scan

    def _pair(self, rng: np.random.Generator, scan: _Scan, scans: Sequence[_Scan]) -> _Pair:
        """The scan twice or, for some tasks about structures of the label map, with another scan that shows one of them as well."""
        if scan.values and self.config.pair_share and rng.random() < self.config.pair_share:
            shared = [other for other in scans if not set(scan.values).isdisjoint(other.labelled.values)]
            other = shared[int(rng.integers(len(shared)))].labelled
            return _Pair(scan, other, scan.matches(other))
        return _Pair(scan, scan, np.arange(len(scan.masks)))

    def _poses(self, rng: np.random.Generator, pair: _Pair, anchor: int, step: int) -> tuple[Pose, Pose]:
        """A reference view on an anchor mask, as a user's crop would be, and a target view near it or, seldom, anywhere.

        Of a long thin mask the views may show any part, as windows do when its thickness chooses the spacing.
        """
        config, window, strength = self.config, self.window(step), pose_strength(step, self.config.pose_warmup)
        scan, other = pair.reference, pair.target
        along = scan.extents_mm[anchor].max() > _LONG * scan.thickness_mm[anchor] and rng.random() < config.along_share
        if along:
            wanted = scan.thickness_mm[anchor] / np.exp(rng.uniform(*np.log(_ACROSS)))
            here, near = scan.point_mm(anchor, rng), other.point_mm(int(pair.matches[anchor]), rng)
        else:
            wanted = scan.extents_mm[anchor].max() / (np.exp(rng.uniform(*np.log(config.extent_fraction))) * window)
            here, near = scan.centres_mm[anchor], other.centres_mm[pair.matches[anchor]]
        spacing = scan.working_spacing(wanted, window, config.spacing_limits_mm)
        side = spacing * window
        anywhere = rng.uniform(0, np.array(other.image.shape) * other.spacing)
        around = anywhere if rng.random() < config.far_share * strength else near
        middles, jitters = (here, around), (config.reference_jitter, config.target_jitter * strength)
        if config.overlap:
            middles, jitters = overlapping(rng, np.array(scan.image.shape) * scan.spacing, spacing, window, config.overlap), (0.0, 0.0)
        views = []
        for middle, jitter, ranges in zip(middles, jitters, (weak(config) if config.weak_reference else config, config), strict=True):
            linear = random_linear(rng, spacing, ranges, strength)
            views.append(Pose(linear, middle + rng.normal(0, jitter * side, 3), (window,) * 3))
        return views[0], views[1]

    def _masks(self, rng: np.random.Generator, pair: _Pair, anchor: int, poses: tuple[Pose, Pose], slots: int) -> NDArray[np.intp]:
        """`slots` masks the reference view holds, most of which the target view holds too; repeated where there are too few."""
        reference, target = poses
        scan, known = pair.reference, pair.matches >= 0
        voxel_mm3 = abs(np.linalg.det(reference.linear))
        edge = reference.window[0]
        window_mm3 = voxel_mm3 * edge**3
        fits = known & (scan.volumes_mm3 > self.config.smallest_voxels * voxel_mm3) & (scan.volumes_mm3 < 0.5 * window_mm3)
        in_reference = fits & reference.holds(scan.centres_mm)
        in_target = target.holds(pair.target.centres_mm)[pair.matches]
        if scan.extents_mm[anchor].max() > edge * voxel_mm3 ** (1 / 3):
            # It reaches beyond the views: its centre says nothing about what they hold of it.
            in_reference[anchor], in_target[anchor] = True, pair.target.shows(int(pair.matches[anchor]), target)
        both, absent = np.flatnonzero(in_reference & in_target), np.flatnonzero(in_reference & ~in_target)
        away = min(len(absent), rng.binomial(slots, self.config.absent_share))
        here = both if len(both) else absent if len(absent) else np.flatnonzero(known)
        there = slots - away
        picked = [rng.choice(here, there, replace=len(here) < there), rng.choice(absent, away, replace=False)]
        return rng.permutation(np.concatenate(picked).astype(np.intp))

    def _cut(self, rng: np.random.Generator, pair: _Pair, chosen: NDArray[np.intp], poses: tuple[Pose, Pose]) -> Episode:
        """The parts of the scans the views can see."""
        affines = np.stack([pose.to_voxels(scan.spacing) for pose, scan in zip(poses, (pair.reference, pair.target), strict=True)])
        window = poses[0].window
        contrast = int(rng.integers(1 << 31)) if pair.reference.synthetic else 0
        if pair.target is pair.reference:
            image, bits, start = self._part(rng, pair.reference, chosen, affines, window, contrast)
            affines[:, :, 3] -= start
            return Episode(image, bits, affines.astype(np.float32), len(chosen))
        image, bits, start = self._part(rng, pair.reference, chosen, affines[:1], window, contrast)
        affines[0, :, 3] -= start
        if rng.random() < OTHER_CONTRAST:
            contrast += 1
        other, its_bits, start = self._part(rng, pair.target, pair.matches[chosen], affines[1:], window, contrast)
        affines[1, :, 3] -= start
        return Episode(image, bits, affines.astype(np.float32), len(chosen), (other, its_bits))

    def _part(
        self, rng: np.random.Generator, scan: _Scan, chosen: NDArray[np.intp], affines: Vector, window: Shape, contrast: int
    ) -> tuple[NDArray[np.float16], NDArray[np.int32], NDArray[np.int64]]:
        """Image and masks of the part of a scan some views can see, and its first voxel."""
        z, y, x = scan.image.shape
        start, stop = seen_part(affines, window, (z, y, x), self.config)
        where = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        image = scan.image[where] if scan.labels is None or not scan.synthetic else synthetic_image(scan.labels[where], rng, contrast)
        bits = scan.masks.rasterise(chosen, np.concatenate([start, stop]))
        return np.ascontiguousarray(image, np.float16), bits.view(np.int32), start


def _with_lesions(rng: np.random.Generator, scan: _Scan, scans: Sequence[_Scan]) -> _Pair:
    """Two scans with artificial lesions of the same kinds."""
    kinds, views = draw_kinds(rng), []
    for one in (scan, scans[int(rng.integers(len(scans)))]):
        image, found = add_lesions(one.image, one.spacing, kinds, rng)
        shape, (z, y, x) = one.image.shape, one.spacing.tolist()
        masks = MaskSet.of(list(found.values()), (shape[0], shape[1], shape[2]), (z, y, x))
        views.append(replace(one, image=image, masks=masks, values=tuple(found)))
    return _Pair(views[0], views[1], views[0].matches(views[1]))


def _open(dataset: Dataset, name: str, *, synthetic: bool) -> _Scan:
    spacing = np.asarray(dataset.spacing_zyx(name), dtype=float)
    labels = dataset.labels(name)
    if synthetic and labels is None:
        raise InputError(
            f"{name} of {dataset.name} has no label map from which to synthesise an image.", "Take the dataset out of episodes.synthetic."
        )
    return _Scan(dataset.image(name), dataset.masks(name), spacing, labels, synthetic)


def _structures(labels: NDArray[np.integer] | None, masks: MaskSet) -> tuple[MaskSet, tuple[int, ...]]:
    """A mask for each label, on the grid of `masks`, and the labels."""
    found: list[tuple[Box, Bools]] = []
    values: list[int] = []
    if labels is not None and labels.any():
        z, y, x = masks.spacing_zyx
        grid = Geometry(shape_zyx=masks.shape_zyx, spacing_xyz=(x, y, z))
        found, values = label_masks(Volume(np.asarray(labels), grid), grid)
    return MaskSet.of(found, masks.shape_zyx, masks.spacing_zyx), tuple(values)


def collate(episodes: Sequence[Episode]) -> Batch:
    """Episodes of one step."""
    parts = [[(e.image, e.bits), *([e.target] if e.target else [])] for e in episodes]
    return Batch.of(parts, [e.affines for e in episodes], episodes[0].slots)
