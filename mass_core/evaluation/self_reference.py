"""Self-reference test: segment a scan with an augmented copy of itself as the reference (the paper's section 7.3).

The reference is the scan itself, turned, moved and of another contrast, with its own label map. Where this works and another patient's scan
as the reference does not, the network tells the structure from the rest; what it lacks is the likeness between patients.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import mean

import numpy as np
from scipy.spatial.transform import Rotation

from ..data.dataset import Dataset
from ..inference.segmenter import Segmenter
from ..volumes.resample import Interpolation, resample
from ..volumes.volume import Volume
from .metrics import dice
from .scoring import scan

NAME = "self-reference"
"""Of the method, in tables."""
_DEGREES = 15.0
"""Most by which the reference is turned about each axis."""
_SHIFT = 0.05
"""Most by which it is moved along each axis, as a share of the scan."""
_GAMMA = 1.5
"""Most exponent of its brightness, and the inverse of the least."""


@dataclass(frozen=True, kw_only=True)
class Recognition:
    """One structure of one scan, found again."""

    draw: int
    case: str
    label: int
    dice: float


def recognise(dataset: Dataset, segmenter: Segmenter, case: str, labels: Sequence[int], draws: int, seed: int) -> Iterator[Recognition]:
    """Dice of the structures of a scan with augmented copies of itself as the reference.

    Args:
        dataset: with labels.
        segmenter: of `scoring.segmenter_for`.
        case: name of the scan.
        labels: structures; those the scan, or what is left of it in the reference, does not show are left out.
        draws: ways in which the reference is seen.
        seed: of the ways; the same for every scan and structure.
    """
    image, truth = scan(dataset, case)
    for draw in range(draws):
        reference = augmented_copy(image, truth, np.random.default_rng((seed, draw)))
        shown = [label for label in labels if (truth.array == label).any() and (reference[1].array == label).any()]
        if shown:
            found = segmenter.segment(image, segmenter.encode([reference], shown)).labels.array
            for label in shown:
                yield Recognition(draw=draw, case=case, label=label, dice=dice(truth.array == label, found == label))


def augmented_copy(image: Volume, labels: Volume, rng: np.random.Generator) -> tuple[Volume, Volume]:
    """A scan and its label map turned, moved and, the scan, of another contrast; on the grid they were on."""
    rotation = Rotation.from_euler("xyz", rng.uniform(-_DEGREES, _DEGREES, 3), degrees=True).as_matrix()
    extent_xyz = np.multiply(image.geometry.shape_zyx[::-1], image.geometry.spacing_xyz)
    shift_mm = rng.uniform(-_SHIFT, _SHIFT, 3) * extent_xyz
    gamma = _GAMMA ** rng.uniform(-1, 1)
    return brightened(turned(image, rotation, shift_mm, "linear"), gamma), turned(labels, rotation, shift_mm, "nearest")


def turned(volume: Volume, rotation: np.ndarray, shift_mm: np.ndarray, interpolation: Interpolation) -> Volume:
    """A volume whose voxel at a place p in mm shows what was at c + rotation (p - c) + shift, c being the volume's middle.

    Beyond the border an image continues with its border value; a label map, which is what is sampled by nearest neighbour, has nothing.
    """
    grid = volume.geometry
    middle = grid.corners_mm().mean(axis=0)
    x, y, z = (middle + rotation @ (np.array(grid.origin_xyz) - middle) + shift_mm).tolist()
    direction = rotation @ np.reshape(grid.direction, (3, 3))
    elsewhere = replace(grid, origin_xyz=(x, y, z), direction=tuple(direction.ravel().tolist()))
    sampled = resample(volume, elsewhere, interpolation, fill=0.0 if interpolation == "nearest" else None)
    return replace(sampled, geometry=grid)


def brightened(image: Volume, gamma: float) -> Volume:
    """An image with its values between the least and the greatest to the power of gamma."""
    low, high = float(image.array.min()), float(image.array.max())
    share = (image.array - low) / max(high - low, 1e-12)
    return replace(image, array=(low + (high - low) * share**gamma).astype(np.float32))


def summarised(found: Sequence[Recognition], dataset: Dataset) -> list[dict[str, object]]:
    """A row for each structure: how many scans show it, mean and least Dice over scans and draws."""
    rows: list[dict[str, object]] = []
    for label in sorted({one.label for one in found}):
        some = [one for one in found if one.label == label]
        scores = [one.dice for one in some]
        name = dataset.label_names.get(label, f"label {label}")
        scans = len({one.case for one in some})
        rows.append({"method": NAME, "label": label, "name": name, "scans": scans, "dice": mean(scores), "least": min(scores)})
    return rows


def markdown(rows: Sequence[dict[str, object]]) -> str:
    """The rows as a table for people."""
    lines = ["| method | structure | scans | Dice | lowest |", "|---|---|--:|--:|--:|"]
    lines += [f"| {NAME} | {row['name']} | {row['scans']} | {row['dice']:.3f} | {row['least']:.3f} |" for row in rows]
    return "\n".join(lines)
