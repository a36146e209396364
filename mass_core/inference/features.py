"""PCA colours of the decoder's task-free features (the paper's section 7.2, figure 7).

The decoder mixes the tokens of a task into the features. Here they are zero, of one class: no reference, the same for every scan and for
every kind of weights. Principal components of the features become red, green and blue, the first one red; scans that share a `Basis`
share their colours, so that like tissue looks alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from ..config import Modality, Recipe, Shape, Triple
from ..encoding.reference_encoder import content_key
from ..errors import InputError
from ..model import MASS
from ..model.compute import Compute, with_one_retry
from ..progress import Steps
from ..volumes.components import body_mask
from ..volumes.image_io import write_image
from ..volumes.preprocess import Prepared, restore_probabilities
from ..volumes.resample import resample
from ..volumes.volume import Geometry, Volume
from .segmenter import Segmenter
from .sliding_window import blended, padded, positions, put, shape_of, stacked

_VIEW_MM = 96.0
"""Extent of a window, for weights that choose their working spacing from a reference: organs fill a part of it."""
_WINDOWS, _VOXELS = 24, 2048
"""Windows of a scan from which components are computed, and voxels of the body in each: up to 49152 feature vectors."""
_TAIL = 1.0
"""Percent of those voxels whose component is darker, and as many whose component is brighter, than a colour can be."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Basis:
    """Principal components that map features to colours."""

    weight_3C: np.ndarray
    """Principal axes, scaled so that most of the body gets values from 0 to 1, float32."""
    bias_3: np.ndarray
    explained: Triple
    """Share of the features' variance in each component, descending."""

    @classmethod
    def of(cls, samples: Sequence[np.ndarray]) -> "Basis":
        """Principal components of feature vectors [n, C] of one scan or several, C >= 3.

        The direction of a component is the one in which its largest weight is positive, so that equal samples give equal colours.

        Raises:
            InputError: if the features are the same everywhere.
        """
        vectors = np.concatenate(samples).astype(np.float64)
        mean = vectors.mean(axis=0)
        variances, axes = np.linalg.eigh(np.cov(vectors - mean, rowvar=False))
        variances, axes_3C = variances[::-1].clip(0), axes.T[:-4:-1]
        if variances[0] <= 1e-12 * max(1.0, float(np.square(mean).sum())):
            raise InputError("The network's features are the same everywhere in the scan, so there is nothing to distinguish.")
        axes_3C *= np.sign(np.take_along_axis(axes_3C, np.abs(axes_3C).argmax(axis=1)[:, None], axis=1))
        low, high = np.percentile((vectors - mean) @ axes_3C.T, (_TAIL, 100 - _TAIL), axis=0)
        spread = np.maximum(high - low, 1e-4 * np.sqrt(variances[0]))  # a component without any stays one colour
        weight_3C = axes_3C / spread[:, None]
        bias_3 = -weight_3C @ mean - low / spread
        first, second, third = (variances[:3] / variances.sum()).tolist()
        return cls(weight_3C=weight_3C.astype(np.float32), bias_3=bias_3.astype(np.float32), explained=(first, second, third))

    def colours(self, features_NCDHW: Tensor) -> Tensor:
        """Red, green and blue [N,3,D,H,W] float32, 0 dark and 1 bright; values beyond are not cut off."""
        weight_3C, bias_3 = (torch.from_numpy(values).to(features_NCDHW.device) for values in (self.weight_3C, self.bias_3))
        return torch.einsum("kc,nczyx->nkzyx", weight_3C, features_NCDHW.float()) + bias_3[:, None, None, None]


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """A preprocessed scan with its body mask."""

    prepared: Prepared
    body: np.ndarray
    """uint8 [z, y, x] on the scan's own grid, 1 inside."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Painting:
    """Features of a scan as colours."""

    rgb: np.ndarray
    """uint8 [z, y, x, 3] on the scan's own grid; black outside the body."""
    geometry: Geometry
    explained: Triple
    """See `Basis`."""
    modality: Modality
    """The scan was processed as."""
    warnings: tuple[str, ...]

    def write(self, path: str | Path) -> None:
        """Write an image of three uint8 values a voxel: .nrrd, .nii.gz and whatever else `Volume.write` can write.

        Raises:
            OutputError: as `Volume.write`.
        """
        write_image(sitk.Compose([Volume(self.rgb[..., channel], self.geometry).to_sitk() for channel in range(3)]), Path(path))


def look(segmenter: Segmenter, scan: Volume, steps: Steps, seed: int = 0) -> Painting:
    """The features of one scan, in colours of its own.

    Args:
        segmenter: gives network, recipe and precision.
        scan: as stored.
        steps: counts the steps of the stages prepare, sample, features and place.
        seed: of the voxels that make the colours.

    Raises:
        InputError: if the scan cannot be used.
        DeviceError: if memory does not suffice.
        Cancelled: if the user stopped the run.
    """
    seen = view(segmenter, scan, view_spacing(scan.geometry, segmenter.recipe), steps)
    return paint(segmenter, seen, Basis.of([sample(segmenter, seen, steps, seed)]), steps)


def view_spacing(scan: Geometry, recipe: Recipe) -> Triple:
    """Working voxel size in mm for a scan: the recipe's.

    Where the recipe chooses one for each structure: so that a window shows 96 mm, or all of a smaller scan, but no finer than the scan's
    mean voxel, and within the recipe's limits.
    """
    if recipe.spacing_zyx is not None:
        return recipe.spacing_zyx
    longest = max(n * s for n, s in zip(scan.shape_zyx, scan.spacing_zyx, strict=True))
    finest = float(np.prod(scan.spacing_zyx)) ** (1 / 3)
    edge = float(np.clip(max(min(_VIEW_MM, longest) / min(recipe.window_zyx), finest), *recipe.spacing_limits_mm))
    return edge, edge, edge


def view(segmenter: Segmenter, scan: Volume, spacing_zyx: Triple, steps: Steps) -> View:
    """Prepare a scan and find the body in it.

    Raises:
        InputError: if the scan cannot be used.
    """
    steps.at("prepare", 0, 2)
    prepared = segmenter.prepared(scan, content_key(scan), spacing_zyx)
    steps.at("prepare", 1, 2)
    return View(prepared=prepared, body=body_mask(scan.array, prepared.record.modality, segmenter.recipe).astype(np.uint8))


def sample(segmenter: Segmenter, seen: View, steps: Steps, seed: int = 0) -> np.ndarray:
    """Feature vectors float32 [n, C] of voxels of the body, drawn in some windows of a scan; the same seed draws the same ones.

    Raises:
        DeviceError: if memory does not suffice.
    """
    recipe, record = segmenter.recipe, seen.prepared.record
    volume = padded(seen.prepared.array, recipe.window_zyx)
    inside = resample(Volume(seen.body, record.target), record.working, "nearest").array
    body = padded(inside if inside.any() else np.ones_like(inside), recipe.window_zyx)  # smaller than a working voxel: look everywhere
    windows = [start for start in positions(shape_of(volume), recipe.window_zyx, recipe.overlap) if _part(body, start, recipe).any()]
    rng = np.random.default_rng(seed)
    drawn = sorted(rng.choice(len(windows), min(len(windows), _WINDOWS), replace=False).tolist())

    def found(compute: Compute) -> list[np.ndarray]:
        vectors = []
        for number, index in enumerate(drawn):
            steps.at("sample", number, len(drawn))
            places = np.flatnonzero(_part(body, windows[index], recipe))
            places = np.random.default_rng(seed * len(windows) + index).choice(places, min(len(places), _VOXELS), replace=False)
            features_1CDHW = _features(segmenter.model.network, stacked(volume, [windows[index]], recipe.window_zyx), compute)
            vectors.append(features_1CDHW[0].flatten(1)[:, torch.from_numpy(places)].T.float().cpu().numpy())
        return vectors

    vectors, _ = with_one_retry(found, segmenter.compute(labels=3))
    steps.at("sample", 1, 1)
    return np.concatenate(vectors)


def paint(segmenter: Segmenter, seen: View, basis: Basis, steps: Steps) -> Painting:
    """The features of a scan in a basis's colours, on the scan's own grid.

    Windows are turned into colours before they are blended: memory does not grow with the number of features.

    Raises:
        DeviceError: if memory does not suffice.
    """
    working, notes = with_one_retry(partial(_blended_colours, segmenter, seen.prepared.array, basis, steps), segmenter.compute(labels=3))
    record = seen.prepared.record
    return Painting(
        rgb=_restored(working, seen, steps),
        geometry=record.target,
        explained=basis.explained,
        modality=record.modality,
        warnings=(*record.warnings, *notes),
    )


def _blended_colours(segmenter: Segmenter, array_zyx: np.ndarray, basis: Basis, steps: Steps, compute: Compute) -> np.ndarray:
    """Colours uint8 [3, z, y, x] of a prepared scan."""
    result = np.zeros((3, *array_zyx.shape), np.uint8)

    def forward(windows_N1DHW: Tensor) -> Tensor:
        return basis.colours(_features(segmenter.model.network, windows_N1DHW, compute))

    step = partial(steps.at, "features")
    for channel, box, values in blended(array_zyx, segmenter.recipe, forward, compute=compute, step=step):  # every value, those below 0 too
        brightness = np.clip(values.cpu().numpy(), 0, 1)  # what lies beyond is cut off
        put(result[channel], box, np.rint(brightness * 255).astype(np.uint8))
    return result


def _restored(working: np.ndarray, seen: View, steps: Steps) -> np.ndarray:
    """Colours uint8 [z, y, x, 3] on the scan's own grid, interpolated linearly one channel at a time; black outside the body."""
    record = seen.prepared.record
    rgb = np.empty((*record.target.shape_zyx, 3), np.uint8)
    for channel, values in enumerate(working):
        steps.at("place", channel, 3)
        rgb[..., channel] = np.rint(restore_probabilities(values, record).array) * seen.body
    steps.at("place", 3, 3)
    return rgb


def _features(network: MASS, windows_N1DHW: Tensor, compute: Compute) -> Tensor:
    """The decoder's output [N,C,D,H,W] without a task: all tokens are zero."""
    config = network.config
    fused = config.channels[::-1][: config.stages]
    tokens = [torch.zeros(len(windows_N1DHW), 1, config.queries + 1, channels, device=compute.device) for channels in fused]
    with torch.inference_mode(), compute.autocast():
        features, _ = network.decoder(network.encode_image(windows_N1DHW.to(compute.device)), tokens)
        return features


def _part(inside: Tensor, start: Shape, recipe: Recipe) -> np.ndarray:
    """One window of a mask [D,H,W]."""
    return stacked(inside, [start], recipe.window_zyx)[0, 0].numpy()
