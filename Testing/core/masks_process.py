"""`mass masks` in a process of its own that stops in the middle, with a network whose answers are known in place of SAM2.

    python -m Testing.core.masks_process CALLS FILE masks ...

At the CALLS-th slice that is looked at (slic: at the CALLS-th scan) it makes FILE, and goes on when that is gone.
"""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from mass_core.cli import main, masks
from mass_core.masks.supervoxels import slic as slic_backend
from Testing.core.test_from_slices import Seer


class Stop:
    """Waits at one of its calls."""

    def __init__(self, at: int, file: Path) -> None:
        self.left, self.file = at, file

    def __call__(self) -> None:
        self.left -= 1
        if not self.left:
            self.file.touch()
            while self.file.exists():
                time.sleep(0.01)


def prepare(stop: Stop) -> None:
    """Put the stop into both methods."""

    class Stopping(Seer):
        def encode_image(self, image: np.ndarray) -> np.ndarray:
            stop()
            return super().encode_image(image)

    def generate(*arguments: Any) -> Any:
        stop()
        return original(*arguments)

    original, slic_backend.generate = slic_backend.generate, generate
    masks._loaded = lambda arguments, config: Stopping()


if __name__ == "__main__":
    prepare(Stop(int(sys.argv[1]), Path(sys.argv[2])))
    raise SystemExit(main(sys.argv[3:]))
