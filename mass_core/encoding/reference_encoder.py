"""Encodes references into task tokens; cached by the content of image and label."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..cache import LruCache
from ..colors import LabelStyle
from ..config import Modality, Recipe, Triple, to_dict
from ..errors import InputError, listing
from ..model import MASS
from ..model.compute import Compute
from ..progress import Steps
from ..volumes.boxes import label_boxes
from ..volumes.components import count_parts
from ..volumes.label_maps import as_label_map
from ..volumes.volume import Volume
from .location import Location, Measured, mean_triple
from .reference_crops import ReferenceCrop, prepare_reference
from .task import TaskLabel, Tokens
from .working_spacing import common_spacing, working_spacing

_DECODING = {"overlap", "threshold", "classes_per_pass", "parts", "place_mm", "blend_floor", "smooth_restore", "skip_uniform"}
_DECODING |= {"align", "fusion"}
"""Fields of a recipe that do not touch how scans are prepared."""
_KEPT_BYTES = 64 << 20
"""Of embeddings, 40 KB each for the released network."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """One label of one reference, encoded."""

    tokens: Tokens
    """[queries+1,C] float32 on the CPU, deepest stage first."""
    covered: float
    """Share of the label's voxels the encoded crops showed."""
    parts: int
    """Connected parts of the label."""
    measured: Measured
    """Size and position of the label."""
    self_dice: float | None
    """Dice of what the network finds in the encoded crops with these tokens; None where the recipe has no use for it."""
    modality: Modality
    warnings: tuple[str, ...]


class _Reference:
    """One image with its label map, and what identifies their content."""

    def __init__(self, image: Volume, labels: Volume) -> None:
        self.image = image
        self.labels = as_label_map(labels)
        self.boxes = label_boxes(self.labels.array)
        self._image_key = content_key(image)

    def key(self, value: int) -> str:
        """Changes with the image, and with the voxels of this label only."""
        place = repr((self.boxes[value], self.labels.geometry)).encode()
        return hashlib.sha256(self._image_key.encode() + place + np.packbits(self._mask(value)).tobytes()).hexdigest()

    def parts(self, value: int) -> int:
        """Connected parts of this label."""
        return count_parts(self._mask(value))

    def measured(self, value: int) -> Measured:
        """Size and position of this label."""
        return Measured.of(self.labels, value, self.boxes[value], self.image.geometry)

    def _mask(self, value: int) -> np.ndarray:
        return self.labels.array[self.boxes[value].slices()] == value


class ReferenceEncoder:
    """Encodes references and caches their tokens.

    Args:
        network: in evaluation mode.
        recipe: how references are prepared.
        fingerprint: of the weights.
    """

    def __init__(self, network: MASS, recipe: Recipe, fingerprint: str) -> None:
        self._network = network
        self._recipe = recipe
        self._key = f"{fingerprint}{json.dumps(preparation(recipe), sort_keys=True)}{recipe.aligns}"
        self._encoded: LruCache[Encoded] = LruCache(_KEPT_BYTES)
        self._spacings: LruCache[Triple] = LruCache(1 << 20)
        self.encodings = 0
        """Number of labels of references encoded so far."""

    def encode(
        self,
        references: Sequence[tuple[Volume, Volume]],
        wanted: Sequence[int] | None,
        appearance: Mapping[int, LabelStyle],
        compute: Compute,
        steps: Steps,
        given: Mapping[int, Triple],
    ) -> tuple[tuple[TaskLabel, ...], Modality, tuple[str, ...]]:
        """Encode references: the mean tokens of each label over the references that have it.

        Args:
            references: images with their label maps.
            wanted: label values; None: all that occur.
            appearance: names and colours by value, where known.
            compute: where and how.
            steps: counts the encoded labels.
            given: working spacings by value, of labels whose references do not choose it.

        Returns:
            The labels, the modality of the first reference, and warnings.

        Raises:
            InputError: if a wanted label is in no reference, or all masks are empty.
        """
        known = [_Reference(image, labels) for image, labels in references]
        values = _values(known, wanted)
        spacings = {value: given.get(value) or self._spacing(known, value) for value in values}
        found: dict[int, list[Encoded]] = {value: [] for value in values}
        total = sum(value in reference.boxes for reference in known for value in values)
        for reference in known:
            for value, encoded in self._of_reference(reference, spacings, compute):
                found[value].append(encoded)
                steps.at("encode", sum(map(len, found.values())), total)
        labels = tuple(_mean(value, spacings[value], found[value], appearance.get(value)) for value in values)
        everything = [one for some in found.values() for one in some]
        return labels, everything[0].modality, unique(warning for one in everything for warning in one.warnings)

    def _spacing(self, references: Sequence[_Reference], value: int) -> Triple:
        """The working spacing of a label: the recipe's, or the one that suits it in the references."""
        if self._recipe.spacing_zyx is not None:
            return self._recipe.spacing_zyx
        return common_spacing([self._own_spacing(reference, value) for reference in references if value in reference.boxes])

    def _own_spacing(self, reference: _Reference, value: int) -> Triple:
        key = reference.key(value)
        spacing = self._spacings.get(key)
        if spacing is None:
            spacing = working_spacing(reference.image.geometry, reference.labels, value, reference.boxes[value], self._recipe)
            self._spacings.put(key, spacing, 256)
        return spacing

    def _of_reference(self, reference: _Reference, spacings: Mapping[int, Triple], compute: Compute) -> Iterator[tuple[int, Encoded]]:
        """Each of the reference's labels; the image is prepared once for those of one spacing, and only if one is new."""
        present = [value for value in spacings if value in reference.boxes]
        for spacing in sorted({spacings[value] for value in present}):
            group = [value for value in present if spacings[value] == spacing]
            keys = {value: f"{self._key}{spacing}{reference.key(value)}" for value in group}
            new = [value for value in group if self._encoded.get(keys[value]) is None]
            crops = prepare_reference(reference.image, reference.labels, new, self._recipe, spacing) if new else []
            for value in group:
                encoded = self._encoded.get(keys[value])
                if encoded is None:
                    own = [crop for crop in crops if crop.value == value]
                    if not own:
                        continue  # too small for the working voxels: the other references decide
                    encoded = self._encode(own, reference, value, compute)
                    self.encodings += 1
                    self._encoded.put(keys[value], encoded, sum(stage.nbytes for stage in encoded.tokens))
                yield value, encoded

    def _encode(self, crops: Sequence[ReferenceCrop], reference: _Reference, value: int, compute: Compute) -> Encoded:
        """A label with the mean tokens of its crops, each counted by the share of the label it shows."""
        shares = torch.tensor([crop.kept for crop in crops])
        shares = shares / shares.sum() if shares.sum() > 0 else torch.full_like(shares, 1 / len(crops))
        stages: list[Tensor] = []
        found: list[Tensor] = []
        for share, crop in zip(shares, crops, strict=True):
            image_11DHW = torch.from_numpy(crop.image)[None, None].to(compute.device)
            mask_11DHW = torch.from_numpy(crop.mask)[None, None].to(compute.device, torch.float32)
            with torch.inference_mode(), compute.autocast():
                tokens = self._network.encode_reference(image_11DHW, mask_11DHW)
                if self._recipe.aligns:
                    again = self._network.segment(image_11DHW, tokens).float().sigmoid() > self._recipe.threshold
                    found.append(share * _dice(again, mask_11DHW > 0).cpu())
            weighted = [stage[0, 0].float().cpu() * share for stage in tokens]
            stages = [a + b for a, b in zip(stages, weighted, strict=True)] if stages else weighted
        return Encoded(
            tokens=tuple(stages),
            covered=crops[0].covered,
            parts=reference.parts(value),
            measured=reference.measured(value),
            self_dice=float(torch.stack(found).sum()) if found else None,
            modality=crops[0].modality,
            warnings=unique(warning for crop in crops for warning in crop.warnings),
        )


def _dice(found: Tensor, truth: Tensor) -> Tensor:
    return 2 * (found & truth).sum() / (found.sum() + truth.sum()).clamp(min=1)


def content_key(volume: Volume) -> str:
    """Changes with the voxels and with the place of a volume, with nothing else."""
    digest = hashlib.sha256(repr((volume.geometry, volume.modality, volume.array.dtype.str)).encode())
    digest.update(np.ascontiguousarray(volume.array).data)
    return digest.hexdigest()


def preparation(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe that affect the preprocessing of a scan."""
    return {name: value for name, value in to_dict(recipe).items() if name not in _DECODING}


def unique(texts: Iterator[str] | Sequence[str]) -> tuple[str, ...]:
    """Each text once, in order."""
    return tuple(dict.fromkeys(texts))


def _values(references: Sequence[_Reference], wanted: Sequence[int] | None) -> list[int]:
    """Labels to encode, ascending; each is in some reference."""
    present = sorted({value for reference in references for value in reference.boxes})
    if not present:
        raise InputError("The reference mask is empty: all of its voxels are 0.", "Mark the structure to segment in the reference mask.")
    if not wanted:
        return present
    absent = sorted(set(wanted) - set(present))
    if absent:
        raise InputError(
            f"Label {listing(absent)} is in none of the reference masks; they hold {listing(present)}.",
            "Choose among those with --labels.",
        )
    return sorted(set(wanted))


def _mean(value: int, spacing: Triple, encoded: Sequence[Encoded], appearance: LabelStyle | None) -> TaskLabel:
    """One label of a task: the mean over the references that have it."""
    if not encoded:
        raise InputError(f"Nothing is left of label {value} at the working spacing.", "Choose a finer working spacing.")
    selves = [one.self_dice for one in encoded if one.self_dice is not None]
    shown = appearance or LabelStyle(name=f"label {value}")
    return TaskLabel(
        value=value,
        name=shown.name,
        color=shown.color,
        terminology=shown.terminology,
        spacing_zyx=spacing,
        tokens=tuple(torch.stack(stage).mean(dim=0) for stage in zip(*(one.tokens for one in encoded), strict=True)),
        references=len(encoded),
        kept=sum(one.covered for one in encoded) / len(encoded),
        parts=max(one.parts for one in encoded),
        place=Location.mean([one.measured.place for one in encoded]),
        ml=sum(one.measured.ml for one in encoded) / len(encoded),
        extent_mm=mean_triple([one.measured.extent_mm for one in encoded]),
        self_dice=sum(selves) / len(selves) if selves else None,
    )
