"""CT-like scans of bodies unlike the phantoms."""

import numpy as np

from mass_core.volumes.volume import Geometry, Volume
from training.pretrain.bodies import body, member
from training.pretrain.synthetic import synthetic_image


def stranger(seed: int) -> Volume:
    """A random body with organs of its own: soft tissue in air, voxels of 3 mm."""
    labels = member(body(0, np.random.default_rng(seed)), np.random.default_rng(seed))
    image = synthetic_image(labels, np.random.default_rng(seed), seed)
    values = np.where(labels > 0, 40 + 80 * image, -1000 + 10 * image)
    z, y, x = labels.shape
    return Volume(values.astype(np.float32), Geometry(shape_zyx=(z, y, x), spacing_xyz=(3.0, 3.0, 3.0)), "ct")
