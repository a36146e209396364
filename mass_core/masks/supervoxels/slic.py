"""Class-agnostic 3D masks from SLIC supervoxels, merged hierarchically into objects of every size.

Cells (SLIC, Achanta et al. 2012) are merged by similarity (`merge_tree`). Several trees, from "intensity alone" to "compact blobs",
are grown on the same cells: the first find bones, airways and vessels, the last glands and nuclei that hardly differ from what surrounds
them. A selection from all of them, spread evenly over sizes and without near doubles, is the scan's mask set.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.measure import label
from skimage.segmentation import slic

from ...config import Triple
from ...errors import InputError
from ...schema import check_counts
from ...volumes.boxes import Box
from ...volumes.components import largest_parts
from ..mask_set import Bools
from .merge_tree import Floats, Ints, Tree, merge_tree, neighbours

_AIR_SPREAD = 0.5
"""Most that the middle 80 % of the darker part may vary, as a share of the difference to the brighter part, to count as air."""


@dataclass(frozen=True, kw_only=True)
class SlicConfig:
    """Settings of the supervoxel method. They were chosen by the best Dice the masks reach on organs of labelled scans."""

    masks: int = 1500
    """At most this many masks a scan."""
    min_voxels: int = 30
    """Smallest mask, on the grid the masks are made on."""
    max_share: float = 0.25
    """Largest mask as a share of the body."""
    distinct_iou: float = 0.5
    """No two masks overlap more than this (intersection over union)."""
    cell_voxels: int = 6
    """Volume of a cell where the scan is small; large scans get `max_cells` larger ones."""
    max_cells: int = 30_000
    compactness: float = 0.07
    """SLIC's weight of distance against intensity (standard deviation 1)."""
    iterations: int = 5
    trees: tuple[tuple[float, float], ...] = ((0.0, 0.0), (0.0, 0.03), (0.0, 0.1), (1.0, 0.014), (1.0, 0.042), (1.0, 0.14))
    """One tree each: weights of texture, in standard deviations against those of intensity, and of distance, in standard deviations per
    hundredth of the body's size."""
    preference: float = 2.0
    """Preference for objects that stand out from their surroundings; 0 chooses at random."""
    bins: int = 12
    """Size classes, equal steps of the logarithm of volume, that share the masks evenly."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        check_counts(self, "masks", "min_voxels")
        if not (0 < self.max_share <= 1 and 0 < self.distinct_iou <= 1):
            raise InputError(f"max_share {self.max_share}, distinct_iou {self.distinct_iou}.", "Both must be above 0 and at most 1.")


@dataclass(frozen=True, kw_only=True)
class _Cells:
    """The leaves of all trees."""

    labels: NDArray[np.int32]
    """[z,y,x] number of the cell, -1 outside the body."""
    sizes: Floats
    features: Floats
    """[L,2+3] mean intensity, texture and position in hundredths of the body's size."""
    starts: Ints
    """[L,3] first corner of the cell's bounding box."""
    stops: Ints


def generate(array: NDArray[np.float32], spacing_zyx: Triple, config: SlicConfig | None = None, seed: int = 0) -> list[tuple[Box, Bools]]:
    """Masks of one scan, each a connected object.

    Args:
        array: [z,y,x] normalised intensities.
        spacing_zyx: voxel size in mm.
        config: see `SlicConfig`.
        seed: of the choice among equally good masks; the same seed gives the same masks.

    Returns:
        Bounding box and mask inside it, largest first.

    Raises:
        InputError: if there is nothing to divide: not three axes, or values that are not finite.
    """
    config = config or SlicConfig()
    if array.ndim != 3:
        raise InputError(f"Masks need a 3D image, got {array.shape}.")
    if not np.isfinite(array).all():
        raise InputError("The image holds values that are not finite.", "Prepare it first: preparation replaces them.")
    cells = _cells(array, spacing_zyx, foreground(array), config)
    if len(cells.sizes) < 2:
        return []
    pairs = neighbours(cells.labels)
    trees = [merge_tree(pairs, cells.features * (1, texture, *3 * (distance,)), cells.sizes) for texture, distance in config.trees]
    chosen = _choose(trees, cells.sizes, config, np.random.default_rng(seed))
    masks = [_mask(cells, leaves) for leaves in chosen]
    return sorted(masks, key=lambda mask: -int(mask[1].sum()))


def foreground(array: NDArray[np.float32]) -> Bools:
    """The patient: the largest bright part, slices filled, if what surrounds it is as even as air; else everything.

    Args:
        array: [z,y,x] normalised intensities.
    """
    everything = np.ones(array.shape, bool)
    if array.min() == array.max():
        return everything
    bright = array > threshold_otsu(array.ravel())
    inside, outside = array[bright], array[~bright]
    if np.subtract(*np.percentile(outside, (90, 10))) > _AIR_SPREAD * (np.median(inside) - np.median(outside)):
        return everything
    body = largest_parts(ndimage.binary_opening(bright))
    for plane in body:
        plane[:] = ndimage.binary_fill_holes(plane)
    return body if body.any() else everything


def equalise(array: NDArray[np.float32], body: Bools) -> NDArray[np.float32]:
    """Intensities spread so that common ones (soft tissue) get more of the range, standard deviation 1 in the body.

    The mean of the image and of its equalised histogram: the first keeps noise small, the second tells neighbouring tissues apart. Bins
    of the histogram count at most 8 times their mean, so that plain background does not take everything.
    """
    values = array[body]
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.zeros_like(array, np.float32)
    counts, edges = np.histogram(values, bins=512, range=(low, high))
    share = np.cumsum(np.concatenate([[0.0], np.minimum(counts, 8 * counts.mean())]))
    spread = np.interp(array, edges, share / share[-1]).astype(np.float32)
    mixed = spread / spread[body].std() + array / values.std()
    return mixed / mixed[body].std()


def _texture(intensity: NDArray[np.float32], body: Bools) -> NDArray[np.float32]:
    """Standard deviation in 3 x 3 x 3 voxels, itself scaled to standard deviation 1."""
    variance = ndimage.uniform_filter(intensity**2, 3) - ndimage.uniform_filter(intensity, 3) ** 2
    texture = np.sqrt(np.maximum(variance, 0))
    return texture / max(float(texture[body].std()), 1e-6)


def _cells(array: NDArray[np.float32], spacing_zyx: Triple, body: Bools, config: SlicConfig) -> _Cells:
    intensity = equalise(array, body)
    count = min(body.size // config.cell_voxels, config.max_cells * body.size // int(body.sum()))
    found = slic(
        intensity, n_segments=max(count, 2), compactness=config.compactness, max_num_iter=config.iterations,
        channel_axis=None, spacing=spacing_zyx, start_label=0,
    )  # fmt: skip
    # The body's edge may cut a cell in two: numbered anew, cells and all that merges from them are connected.
    labels = label(np.where(body, found, -1), background=-1, connectivity=1).astype(np.int32) - 1
    inside = labels[body]
    sizes = np.bincount(inside)
    scale = (body.sum() * np.prod(spacing_zyx)) ** (1 / 3) / 100
    columns = [
        intensity[body],
        _texture(intensity, body)[body],
        *(axis * (mm / scale) for axis, mm in zip(np.nonzero(body), spacing_zyx, strict=True)),
    ]
    features = np.stack([np.bincount(inside, column) / sizes for column in columns], axis=1)
    boxes = np.array([[(axis.start, axis.stop) for axis in box] for box in ndimage.find_objects(labels + 1)])
    return _Cells(labels=labels, sizes=sizes.astype(np.float64), features=features, starts=boxes[..., 0], stops=boxes[..., 1])


def _choose(trees: list[Tree], sizes: Floats, config: SlicConfig, generator: np.random.Generator) -> list[Ints]:
    """Leaves of the nodes that become masks: even over size classes, the outstanding ones first, no near doubles."""
    tree, node, voxels, preference = _candidates(trees, sizes, config, generator)
    members = np.zeros((len(sizes), config.masks), bool)
    volumes = np.zeros(config.masks)
    taken: list[Ints] = []
    waiting = [iter(queue) for queue in _by_size(voxels, preference, config.bins)]
    while waiting and len(taken) < config.masks:
        queue = waiting.pop(0)
        for candidate in queue:
            leaves = trees[int(tree[candidate])].below(int(node[candidate]))
            if _is_new(leaves, sizes, members[:, : len(taken)], volumes[: len(taken)], config.distinct_iou):
                members[leaves, len(taken)] = True
                volumes[len(taken)] = voxels[candidate]
                taken.append(leaves)
                waiting.append(queue)
                break
    return taken


def _by_size(voxels: Floats, preference: Floats, bins: int) -> list[Ints]:
    """Candidates in size classes of equal steps of the logarithm, the largest class first; in each the preferred first."""
    if not len(voxels):
        return []
    steps = np.log(voxels / voxels.min())
    classes = np.minimum((steps / max(float(steps.max()), 1e-9) * bins).astype(np.int64), bins - 1)
    order = np.argsort(-preference, kind="stable")
    return [members for number in range(bins - 1, -1, -1) if len(members := order[classes[order] == number])]


def _candidates(trees: list[Tree], sizes: Floats, config: SlicConfig, generator: np.random.Generator) -> tuple[Ints, Ints, Floats, Floats]:
    """Nodes of allowed size: tree, node, voxels, preference (how few nodes last longer until they are merged, blurred by chance)."""
    largest = config.max_share * sizes.sum()
    parts = []
    for number, tree in enumerate(trees):
        total = np.concatenate([[0.0], np.cumsum(sizes[tree.order])])
        voxels = total[tree.first + tree.leaves] - total[tree.first]
        node = np.flatnonzero((voxels >= config.min_voxels) & (voxels <= largest) & (tree.leaves > 1) & (tree.parent >= 0))
        lasting = tree.height[tree.parent[node]] / np.maximum(tree.height[node], 1e-12)
        longer = 1 - np.argsort(np.argsort(lasting, kind="stable"), kind="stable") / max(len(node), 1)
        preference = generator.gumbel(size=len(node)) - config.preference * np.log(longer)
        parts.append((np.full(len(node), number), node, voxels[node], preference))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return columns[0].astype(np.int64), columns[1].astype(np.int64), columns[2], columns[3]


def _is_new(leaves: Ints, sizes: Floats, members: Bools, volumes: Floats, most: float) -> bool:
    """True if no mask chosen so far (columns of `members`) overlaps these leaves by more than `most`, intersection over union."""
    if not members.shape[1]:
        return True
    common = sizes[leaves].astype(np.float32) @ members[leaves].astype(np.float32)
    return bool((common / (sizes[leaves].sum() + volumes - common)).max() <= most)


def _mask(cells: _Cells, leaves: Ints) -> tuple[Box, Bools]:
    """Some cells, the holes inside them filled, in their bounding box."""
    box = Box.of(cells.starts[leaves].min(0), cells.stops[leaves].max(0))
    window = cells.labels[box.slices()]
    member = np.zeros(len(cells.sizes) + 1, bool)  # the last is what number -1 finds: outside the body
    member[leaves] = True
    return box, _without_holes(member[window])


def _without_holes(mask: Bools) -> Bools:
    """Fill what is enclosed: background that does not reach the border of the padded box."""
    labels, count = ndimage.label(np.pad(~mask, 1, constant_values=True))
    return (labels != labels[0, 0, 0])[1:-1, 1:-1, 1:-1] if count > 1 else mask
