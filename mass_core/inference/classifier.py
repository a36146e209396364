"""Classifiers of whole scans: the image encoder of a MASS network, attention pooling and a linear layer (paper, classification protocol).

A scan goes through `preprocess.prepare` as for segmentation, at the one spacing the classifier was trained at, and its middle is all the
network sees. Training and use share every step (docs/classification.md).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from ..config import Modality, ModelConfig, Recipe, Shape, from_dict
from ..devices import choose_device
from ..errors import WeightsError
from ..files import write_bytes
from ..model.encoder import build_encoder
from ..model.published import Published
from ..volumes.boxes import Box, cut
from ..volumes.preprocess import prepare
from ..volumes.volume import Volume
from ..weights.checkpoint import fill, fingerprint, read_header, read_tensors
from ..weights.store import CLASSIFIER, locate

FORMAT = 1
_DAMAGED = "Train or copy the classifier again."
_SLIGHT = 0.01
"""Share of a scan that may be left out without a warning."""


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Everything about a classifier but its weights."""

    model: ModelConfig
    """Network whose encoder it has."""
    recipe: Recipe
    """Preparation of scans; its spacing is that of the input, its window the size of the input."""
    classes: tuple[str, ...]
    multi_label: bool = False
    """True: every class is there or not, on its own. False: exactly one is."""
    dropout: float = 0.1
    """Share of the pooled features left out in training."""

    def __post_init__(self) -> None:
        """Check that a classifier can be built."""
        if self.recipe.spacing_zyx is None:
            raise WeightsError("A classifier needs one working spacing, and its recipe has none.", "Give one in mm.")
        if any(n % self.model.stride for n in self.recipe.window_zyx):
            raise WeightsError(
                f"The input of {self.recipe.window_zyx} voxels does not fit the encoder.",
                f"Each side must be a multiple of {self.model.stride}.",
            )
        if len(self.classes) < (1 if self.multi_label else 2) or len(set(self.classes)) < len(self.classes):
            raise WeightsError(f"The classes are {', '.join(self.classes) or 'none'}.", "Name at least two, each once.")

    @property
    def cells_zyx(self) -> Shape:
        """Size of the encoder's deepest map."""
        z, y, x = (n // self.model.stride for n in self.recipe.window_zyx)
        return z, y, x

    def header(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = asdict(self)
        values["preprocess"] = values.pop("recipe")
        return values

    @classmethod
    def of_header(cls, values: Mapping[str, Any]) -> "ClassifierConfig":
        """Rebuild from `header`.

        Raises:
            KeyError: if a field is missing.
            WeightsError: if the fields fit no classifier.
        """
        return cls(
            model=from_dict(ModelConfig, values["model"]),
            recipe=from_dict(Recipe, values["preprocess"]),
            classes=tuple(values["classes"]),
            multi_label=bool(values["multi_label"]),
            dropout=float(values["dropout"]),
        )


class Head(nn.Module):
    """Attention pooling and a linear layer."""

    def __init__(self, channels: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.Conv3d(channels, channels // 4, 1), nn.ReLU(), nn.Conv3d(channels // 4, 1, 1))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(channels, classes)

    def forward(self, features_BCDHW: Tensor, inside_BDHW: Tensor) -> Tensor:
        """Logits [B,classes] from the deepest map; places that are not inside, where the scan was padded, get no attention."""
        scores = self.attention(features_BCDHW)[:, 0].masked_fill(~inside_BDHW, float("-inf"))
        weights = scores.flatten(1).softmax(dim=1)
        pooled = (features_BCDHW.flatten(2) * weights[:, None]).sum(dim=2)
        return self.linear(self.dropout(pooled))


class ClassifierNetwork(nn.Module):
    """Encoder and head."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.encoder = build_encoder(config.model)
        width = self.encoder.width if isinstance(self.encoder, Published) else config.model.channels[-1]
        self.head = Head(width, len(config.classes), config.dropout)

    def forward(self, image_B1DHW: Tensor, inside_BDHW: Tensor) -> Tensor:
        """Logits [B,classes].

        Args:
            image_B1DHW: padded inputs.
            inside_BDHW: which places of the deepest map see some of the scan.
        """
        return self.head(self.deepest(image_B1DHW), inside_BDHW)

    def deepest(self, image_B1DHW: Tensor) -> Tensor:
        """The encoder's deepest map [B,C,d,h,w], of a pretrained network of others as that has it."""
        if isinstance(self.encoder, Published):
            return self.encoder.deepest(image_B1DHW)
        features: list[Tensor] = self.encoder(image_B1DHW)
        return features[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
    """A classifier ready to use, and everything that belongs to it."""

    network: ClassifierNetwork
    """In evaluation mode, float32, on `device`."""
    config: ClassifierConfig
    provenance: dict[str, Any]
    licence: str
    name: str
    fingerprint: str
    """SHA-256 over names and values of the tensors."""
    device: torch.device


@dataclass(frozen=True, kw_only=True)
class ClassifierInput:
    """A scan preprocessed for a classifier."""

    array: np.ndarray
    """Normalised values, float32 [z,y,x], no larger than the input."""
    modality: Modality
    """The scan was processed as."""
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Class probabilities of a scan."""

    probabilities: dict[str, float]
    """By class. Of a single-label classifier their sum is 1."""
    predicted: tuple[str, ...]
    """The most probable class; of a multi-label classifier, those of at least 0.5."""
    modality: Modality
    warnings: tuple[str, ...] = field(default=())
    """Notes for the user, one sentence each."""


def classifier_input(volume: Volume, recipe: Recipe) -> ClassifierInput:
    """Prepare a scan at the recipe's spacing and take its middle, at most a window.

    Raises:
        InputError: as `preprocess.prepare`.
    """
    prepared = prepare(volume, recipe)
    whole = prepared.array.shape
    start = [max(0, (n - w) // 2) for n, w in zip(whole, recipe.window_zyx, strict=True)]
    kept = prepared.array[tuple(slice(a, a + w) for a, w in zip(start, recipe.window_zyx, strict=True))]
    warnings = list(prepared.record.warnings)
    if kept.size < (1 - _SLIGHT) * prepared.array.size:
        shown = " x ".join(f"{n * mm:.0f}" for n, mm in zip(kept.shape[::-1], (recipe.spacing_zyx or ())[::-1], strict=True))
        warnings.append(f"The classifier uses only the middle {shown} mm of the scan, {kept.size / prepared.array.size:.0%} of it.")
    return ClassifierInput(array=np.ascontiguousarray(kept), modality=prepared.record.modality, warnings=tuple(warnings))


def padded(array: np.ndarray, size_zyx: Shape) -> tuple[np.ndarray, Box]:
    """Lay what is seen of a scan into the middle of the input, zeros (the mean) around it.

    Returns:
        The input [z,y,x] and the box of the scan in it.
    """
    before = [(w - n) // 2 for n, w in zip(array.shape, size_zyx, strict=True)]
    return cut(array, Box.at((-b for b in before), size_zyx)), Box.at(before, array.shape)


def cells_of(box: Box, stride: int) -> Box:
    """The places of the deepest map that see some of a box of the input."""
    return Box.of((a // stride for a in box.low), (-(-b // stride) for b in box.high))


def as_input(array: np.ndarray, config: ClassifierConfig) -> tuple[np.ndarray, np.ndarray]:
    """Input of the network: the padded scan [D,H,W], and the cells of the deepest map that see the scan [d,h,w]."""
    image, box = padded(array, config.recipe.window_zyx)
    inside = np.zeros(config.cells_zyx, dtype=bool)
    inside[cells_of(box, config.model.stride).slices()] = True
    return image, inside


@torch.inference_mode()
def classify(classifier: Classifier, volume: Volume) -> Classification:
    """Probabilities of a scan's classes.

    Raises:
        InputError: for NaN or infinite voxels, and for a constant image.
    """
    config = classifier.config
    seen = classifier_input(volume, config.recipe)
    image, inside = (torch.from_numpy(part).to(classifier.device) for part in as_input(seen.array, config))
    values = probabilities(classifier.network(image[None, None], inside[None]), config)[0].tolist()
    by_class = dict(zip(config.classes, values, strict=True))
    predicted = [name for name, p in by_class.items() if p >= 0.5] if config.multi_label else [max(by_class, key=by_class.__getitem__)]
    return Classification(probabilities=by_class, predicted=tuple(predicted), modality=seen.modality, warnings=seen.warnings)


def probabilities(logits: Tensor, config: ClassifierConfig) -> Tensor:
    """Probabilities [B,classes] of logits [B,classes]."""
    return logits.sigmoid() if config.multi_label else logits.softmax(dim=1)


def save_classifier(
    path: str | Path, network: ClassifierNetwork, config: ClassifierConfig, provenance: Mapping[str, Any], licence: str = ""
) -> None:
    """Write a classifier's file, float32; it appears complete or not at all.

    Raises:
        OutputError: if it cannot be written.
    """
    header = {"format": FORMAT, **config.header(), "provenance": dict(provenance), "licence": licence}
    tensors = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in network.state_dict().items()}
    write_bytes(Path(path), safetensors_bytes(tensors, {CLASSIFIER: json.dumps(header)}))


def load_classifier(weights: str | Path, device: str = "auto") -> Classifier:
    """Read a classifier, strictly.

    Args:
        weights: what `save_classifier` wrote.
        device: see `devices.choose_device`.

    Raises:
        WeightsError: if the file is missing, damaged, for segmentation, or of another version.
        DeviceError: if the device is absent.
    """
    path = locate(weights)
    chosen = choose_device(device)
    if path.suffix != ".safetensors":
        raise WeightsError(
            f"{path} is not a classifier: those end in .safetensors.", "Choose a file written by `python -m training.classify`."
        )
    metadata, tensors = read_tensors(path)
    if CLASSIFIER not in metadata:
        raise WeightsError(
            f"{path} holds weights for segmentation or something else, not a classifier of scans.",
            "Train a classifier on it with `python -m training.classify --weights`.",
        )
    header = read_header(path, metadata[CLASSIFIER], FORMAT, _DAMAGED)
    try:
        config = ClassifierConfig.of_header(header)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"The header of {path} is incomplete: {error}.", _DAMAGED) from error
    with torch.device("meta"):
        network = ClassifierNetwork(config)
    fill(network, tensors, path)
    return Classifier(
        network=network.to(chosen).eval().requires_grad_(False),
        config=config,
        provenance=header.get("provenance", {}),
        licence=header.get("licence", ""),
        name=path.stem,
        fingerprint=fingerprint(network),
        device=chosen,
    )
