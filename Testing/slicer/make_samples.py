"""Make the phantoms the extension ships: `python -m Testing.slicer.make_samples FOLDER`, then enter the checksums in sample_data.py.

Two people of `mass_core.data.phantoms` with the liver marked, in voxels coarse enough to keep the extension small.
"""

import sys
from hashlib import sha256
from pathlib import Path

import numpy as np

from mass_core import Volume
from mass_core.colors import LabelStyle
from mass_core.data.phantoms import LABELS, subject
from mass_core.volumes.appearance import write_labels

PEOPLE = {"reference": 0, "target": 1}
SHAPE_ZYX = (61, 70, 86)
SPACING_ZYX = (5.0, 4.4, 4.2)
LIVER = next(value for value, name in LABELS.items() if name == "liver")
COLOR = (0.87, 0.51, 0.40)
TERMINOLOGY = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^123037004^Anatomical Structure~SCT^10200004^Liver"
    "~^^~Anatomic codes - DICOM master list~^^~^^"
)


def main(folder: Path) -> None:
    """Write the four files and print their checksums."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, seed in PEOPLE.items():
        image, labels = subject(seed, "ct", shape_zyx=SHAPE_ZYX, spacing_zyx=SPACING_ZYX)
        Volume(np.rint(image.array).astype(np.int16), image.geometry).write(folder / f"phantom_{name}.nrrd")
        mask = Volume((labels.array == LIVER).astype(np.uint8), labels.geometry)
        write_labels(mask, {1: LabelStyle(name="liver", color=COLOR, terminology=TERMINOLOGY)}, folder / f"phantom_{name}_liver.seg.nrrd")
    for path in sorted(folder.iterdir()):
        sys.stdout.write(f'"{path.name}": "SHA256:{sha256(path.read_bytes()).hexdigest()}",  {path.stat().st_size} bytes\n')


if __name__ == "__main__":
    main(Path(sys.argv[1]))
