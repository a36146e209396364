"""Images of any contrast from label maps: every label draws its intensity (Billot et al., Medical Image Analysis 2023)."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

MIRRORED = {
    **{41: 2, 42: 3, 43: 4, 44: 5, 46: 7, 47: 8, 49: 10, 50: 11, 51: 12, 52: 13, 53: 17, 54: 18},
    **{57: 25, 58: 26, 60: 28, 62: 30, 137: 136, 164: 163},
}
"""Right structures of FreeSurfer's numbering and their left counterparts: both sides of a body look alike."""
RIGHT = 1000
"""Added to a label by `training.pretrain.bodies`: its counterpart on the right side, which looks like it."""
_ALIKE = 0.5
"""Share of the contrasts in which many structures look alike, as soft tissue does in CT: only position and shape distinguish them."""
_FLAT = 0.25
"""Share of the images whose labels have no texture of their own."""


def synthetic_image(labels: NDArray[np.integer], rng: np.random.Generator, contrast: int) -> NDArray[np.float32]:
    """An image of a label map.

    Args:
        labels: [z,y,x], 0 outside of the body.
        rng: for noise, blur and shading: two images of one contrast differ in these.
        contrast: number that decides every label's intensity.

    Returns:
        [z,y,x], z-scored like a prepared scan.
    """
    present = np.unique(labels)
    means, spreads = _contrast(contrast, int(present[-1]) + 1)
    sides = np.array([MIRRORED.get(int(value), int(value) % RIGHT) for value in present])
    table = np.zeros((2, int(present[-1]) + 1), np.float32)
    table[0, present] = means[sides] + rng.normal(0, 0.02, len(sides))
    table[1, present] = spreads[sides] * (rng.random() > _FLAT)
    image = table[0][labels] + table[1][labels] * rng.standard_normal(labels.shape, dtype=np.float32)
    image = ndimage.gaussian_filter(image, rng.uniform(0.3, 1.0))
    image += rng.uniform(0, 0.08) * rng.standard_normal(labels.shape, dtype=np.float32)
    image *= np.exp(_shading(rng, labels.shape))
    return np.asarray((image - image.mean()) / max(float(image.std()), 1e-3), np.float32)


def _contrast(number: int, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and spread of every label; what lies outside of the body is mostly the darkest."""
    rng = np.random.default_rng(number)
    dark, means, spreads = rng.random() < 0.85, rng.uniform(0, 1, 2048), rng.uniform(0.02, 0.15, 2048)
    if rng.random() < _ALIKE:
        tissues = rng.uniform(0, 1, int(rng.integers(3, 7)))
        means = tissues[rng.integers(0, len(tissues), 2048)] + rng.normal(0, 0.02, 2048)
    means[0], spreads[0] = (0.0, 0.02) if dark else (means[0], spreads[0])
    return means[:count], spreads[:count]


def _shading(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Slow changes of brightness along each axis, as coils leave them."""
    total = np.zeros((1, 1, 1), np.float32)
    for axis, size in enumerate(shape):
        line = rng.uniform(-0.15, 0.15) * np.linspace(-1, 1, size, dtype=np.float32)
        total = total + np.expand_dims(line, [a for a in range(3) if a != axis])
    return total
