"""Automatic 2D masks of one slice: a promptable network is prompted with a grid of points.

A grid of points covers the slice and, for fine detail, overlapping crops of it. For each point the network returns a few masks with
predicted scores. Those with high scores and stability are kept, near duplicates dropped, and of the rest as many as allowed, spread over
all sizes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ...errors import InputError
from ...schema import check_counts
from ..mask_set import Bools
from .batch_size import BatchSize
from .channels import Bytes, Profile
from .small_regions import without_small_regions

_CONFIDENT = 10.0
"""Logit of holes that are filled, as in the package sam2."""


class Promptable(Protocol):
    """Interface of a promptable network for pictures."""

    def encode_image(self, image: Bytes) -> Any:
        """Features of a picture [h,w,3]; only `propose` needs to understand them."""

    def propose(self, features: Any, points: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        """Masks of what lies at some points, each on its own.

        Args:
            features: of a picture.
            points: [P,2] y and x as shares of the picture's height and width.

        Returns:
            Logits [P,K,a,b] that cover the picture at some resolution, positive inside; and the IoU expected of each mask [P,K].
        """


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """Settings of the point grid and its filters. Defaults: the paper's 32 points a side, else the released code's."""

    points_per_side: int = 32
    """Of the slice, and of each crop."""
    points_per_batch: int = 128
    """Prompted at once; halved when memory does not suffice."""
    crop_layers: int = 2
    """Layer n adds 2^n by 2^n crops: 1, 5, 21 pictures a slice with 0, 1, 2 layers."""
    crop_overlap: float = 1.0
    """Of n crops a side, neighbours share this many nths of the side (1.0 is what the released code calls a ratio of 0.5)."""
    stability_offset: float = 1.0
    """Shift of the threshold on logits that measures the stability of a mask."""
    small_regions: int = 0
    """Holes and specks of at most this many pixels of the network's masks are filled and removed before scores are compared."""
    box_iou: float = 0.5
    """Of two masks whose bounding boxes overlap more, the one with the lower score is dropped; between crops, that of the larger crop."""
    edge_share: float = 0.04
    """A mask that comes this near to a crop's edge inside the slice, as a share of the crop's side, is dropped as cut off."""
    body_share: float = 0.9
    """At least this share of a mask lies in the body."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        check_counts(self, "points_per_side", "points_per_batch")
        check_counts(self, "crop_layers", "small_regions", least=0)
        if not (0 <= self.crop_overlap <= 1 and 0 < self.box_iou <= 1 and 0 <= self.body_share <= 1):
            raise InputError(
                f"crop_overlap {self.crop_overlap}, box_iou {self.box_iou}, body_share {self.body_share}.", "All three lie between 0 and 1."
            )


class PlaneMask(NamedTuple):
    """A 2D mask with the network's scores."""

    mask: Bools
    """[h,w] of the slice."""
    predicted_iou: float
    stability: float


class Crop(NamedTuple):
    """A part of a slice: first row and column, and one past the last."""

    top: int
    left: int
    bottom: int
    right: int


class _Candidates(NamedTuple):
    """Masks from the points of one crop."""

    logits: Tensor
    """[M,a,b] of the crop."""
    boxes: Tensor
    """[M,4] top, left, bottom, right in pixels of the slice."""
    scores: Tensor
    stability: Tensor

    def at(self, index: Tensor) -> "_Candidates":
        return _Candidates(*(values[index] for values in self))


class PlaneMasker:
    """Makes the 2D masks of slices.

    Args:
        network: answers points.
        profile: thresholds, smallest area, most masks.
        config: see `GridConfig`.
    """

    def __init__(self, network: Promptable, profile: Profile, config: GridConfig | None = None) -> None:
        self._network = network
        self._profile = profile
        self._config = config or GridConfig()
        self._batch = BatchSize(self._config.points_per_batch)

    def __call__(self, image: Bytes, body: Bools, whole: Any = None) -> list[PlaneMask]:
        """Masks of one slice, from large to small.

        Args:
            image: [h,w,3] of the slice.
            body: [h,w] where masks may lie.
            whole: the network's features of the slice, where they are known already.
        """
        found: list[PlaneMask] = []
        boxes: list[Tensor] = []
        # Smallest crops first: what was seen there has the finer outline, and stays when a larger crop shows it again.
        for crop in reversed(crops(body.shape[0], body.shape[1], self._config.crop_layers, self._config.crop_overlap)):
            features = whole if crop == (0, 0, *body.shape) else None
            if features is None:
                features = self._network.encode_image(image[crop.top : crop.bottom, crop.left : crop.right])
            seen = self._answers(features, crop, (body.shape[0], body.shape[1]))
            seen = seen.at(box_nms(seen.boxes, seen.scores, self._config.box_iou))
            kept = [(mask, box) for mask, box in _placed(seen, crop, body.shape) if self._fits(mask.mask, body)]
            found += [mask for mask, _ in kept]
            boxes += [box for _, box in kept]
        if not found:
            return []
        rank = torch.arange(len(found), 0, -1)
        distinct = box_nms(torch.stack(boxes), rank, self._config.box_iou).tolist()
        return spread_over_sizes([found[index] for index in distinct], self._profile.max_per_slice)

    def _answers(self, features: Any, crop: Crop, shape: tuple[int, int]) -> "_Candidates":
        """Masks from the points of a crop that have high scores and are not cut by its edge."""

        def answered(points: NDArray[np.float32]) -> _Candidates:
            return self._sifted(*self._network.propose(features, points), crop, shape)

        parts = [seen for _, seen in self._batch.batches(point_grid(self._config.points_per_side), answered)]
        return _Candidates(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def _sifted(self, logits: Tensor, scores: Tensor, crop: Crop, shape: tuple[int, int]) -> "_Candidates":
        logits, scores = logits.flatten(0, 1), scores.flatten()
        trusted = scores >= self._profile.min_predicted_iou
        area = self._config.small_regions
        logits, scores = without_small_regions(logits[trusted], area, area, _CONFIDENT), scores[trusted]
        steady = stability(logits, self._config.stability_offset)
        stable = steady >= self._profile.min_stability
        logits, scores, steady = logits[stable], scores[stable], steady[stable]
        boxes = mask_boxes(logits > 0)
        scale = torch.tensor([(crop.bottom - crop.top) / logits.shape[-2], (crop.right - crop.left) / logits.shape[-1]] * 2)
        corner = torch.tensor([crop.top, crop.left] * 2)
        placed = boxes * scale.to(boxes.device) + corner.to(boxes.device)
        whole = (boxes[:, 2] > boxes[:, 0]) & ~cut_off(placed, crop, shape, self._config.edge_share)
        return _Candidates(logits, placed, scores, steady).at(whole)

    def _fits(self, mask: Bools, body: Bools) -> bool:
        area = np.count_nonzero(mask)
        return bool(area >= self._profile.min_pixels and np.count_nonzero(mask & body) >= self._config.body_share * area)


def crops(height: int, width: int, layers: int, overlap: float) -> list[Crop]:
    """The slice, then the crops of each layer row by row.

    With n crops a side each is 1/n of the side long, and longer by the overlap: (1 + overlap (n - 1) / n) / n. They are evenly spaced.
    """
    found = []
    for layer in range(layers + 1):
        side = 2**layer
        rows, columns = (_spans(length, side, overlap) for length in (height, width))
        found += [Crop(top, left, bottom, right) for top, bottom in rows for left, right in columns]
    return list(dict.fromkeys(found))


def _spans(length: int, count: int, overlap: float) -> list[tuple[int, int]]:
    own = min(length, math.ceil(length / count * (1 + overlap * (count - 1) / count)))
    starts = np.linspace(0, length - own, count).round().astype(int).tolist()
    return [(start, start + own) for start in starts]


def point_grid(per_side: int) -> NDArray[np.float32]:
    """[per_side²,2] y and x of the centres of equal cells, as shares of a picture."""
    places = (np.arange(per_side) + 0.5) / per_side
    return np.stack(np.meshgrid(places, places, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float32)


def stability(logits: Tensor, offset: float) -> Tensor:
    """IoU of each mask [..., h, w] with the threshold an offset higher and the same mask with it an offset lower; 0 for empty ones."""
    inner = (logits > offset).flatten(-2).sum(-1, dtype=torch.int32)
    outer = (logits > -offset).flatten(-2).sum(-1, dtype=torch.int32)
    return inner / outer.clamp(min=1)


def mask_boxes(masks: Tensor) -> Tensor:
    """Bounding boxes [M,4] of masks [M,h,w]: top, left, bottom, right, one past the last; zeros for empty ones."""
    ends = []
    for axis in (2, 1):
        line = masks.any(dim=axis)
        first, last = line.float().argmax(dim=1), line.shape[1] - line.flip(1).float().argmax(dim=1)
        ends.append((first, last))
    (top, bottom), (left, right) = ends
    return torch.stack([top, left, bottom, right], dim=1) * masks.flatten(1).any(dim=1)[:, None]


def box_nms(boxes: Tensor, scores: Tensor, most_iou: float) -> Tensor:
    """Non-maximum suppression: indices of the boxes left when each that overlaps one of a higher score too much is dropped.

    Args:
        boxes: [M,4] top, left, bottom, right.
        scores: [M]; of equal ones the first is the higher.
        most_iou: largest intersection over union of two that stay.

    Returns:
        Their numbers, the highest score first.
    """
    order = scores.argsort(descending=True, stable=True)
    sorted_boxes = boxes[order].float()
    # One transfer of the whole table instead of one for every box that stays.
    rivals = (_box_iou(sorted_boxes) > most_iou).cpu().numpy()
    open_, stay = np.ones(len(order), bool), []
    for place in range(len(order)):
        if open_[place]:
            stay.append(place)
            open_ &= ~rivals[place]
    return order[torch.tensor(stay, dtype=torch.long, device=order.device)]


def _box_iou(boxes: Tensor) -> Tensor:
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    common = (high - low).clamp(min=0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    return common / (area[:, None] + area - common).clamp(min=1e-6)


def spread_over_sizes(masks: list[PlaneMask], most: int) -> list[PlaneMask]:
    """At most some masks, spread over all sizes: classes of doubling area take turns, each with its highest scores first."""
    classes: dict[int, list[PlaneMask]] = {}
    for mask in masks:
        classes.setdefault(int(mask.mask.sum()).bit_length(), []).append(mask)
    queues = [sorted(classes[size], key=lambda mask: -mask.predicted_iou * mask.stability) for size in sorted(classes, reverse=True)]
    turns = [queue[turn] for turn in range(max(map(len, queues), default=0)) for queue in queues if turn < len(queue)]
    return sorted(turns[:most], key=lambda mask: -int(mask.mask.sum()))


def cut_off(boxes: Tensor, crop: Crop, shape: tuple[int, int], edge_share: float) -> Tensor:
    """True for boxes [M,4] near an edge of their crop that is not near the edge of the slice too."""
    sides = boxes.new_tensor([crop.bottom - crop.top, crop.right - crop.left] * 2)
    near_crop = (boxes - boxes.new_tensor(crop)).abs() <= edge_share * sides
    near_slice = (boxes - boxes.new_tensor([0, 0, *shape])).abs() <= edge_share * sides
    return (near_crop & ~near_slice).any(dim=1)


def _placed(seen: _Candidates, crop: Crop, shape: tuple[int, ...]) -> Iterator[tuple[PlaneMask, Tensor]]:
    """Masks at the resolution of the slice, and their boxes."""
    boxes, scores, steady = seen.boxes.cpu(), seen.scores.tolist(), seen.stability.tolist()
    size = crop.bottom - crop.top, crop.right - crop.left
    for number, logits in enumerate(seen.logits):
        fine = functional.interpolate(logits[None, None].float(), size=size, mode="bilinear", align_corners=False)[0, 0] > 0
        mask = np.zeros(shape, bool)
        mask[crop.top : crop.bottom, crop.left : crop.right] = fine.cpu().numpy()
        yield PlaneMask(mask, scores[number], steady[number]), boxes[number]
