"""Fixtures every test file may use: a tiny network, its weights file, and the folder of golden outputs and scans."""

import gc
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_collection_finish() -> None:
    """Set apart what the imports made, which lives to the end: looking through it would be most of the work of each garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Golden outputs of the released model and real scans; tests that need them skip where the folder is absent."""
    folder = Path(os.environ.get("MASS_SHARED") or REPOSITORY.parent / "shared")
    if not folder.is_dir():
        pytest.skip("golden outputs are not at hand: MASS_SHARED names their folder")
    return folder


@pytest.fixture(autouse=True)
def fixed_seeds() -> Iterator[None]:
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    yield


@pytest.fixture(autouse=True)
def private_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has weights and settings of its own: neither the user's nor those that another test left."""
    monkeypatch.setenv("MASS_HOME", str(tmp_path_factory.getbasetemp() / "homes" / uuid4().hex))


@pytest.fixture(scope="session")
def tiny_config():
    """A network of a few megabytes that takes 32-voxel reference crops."""
    from mass_core.config import ModelConfig

    return ModelConfig(channels=(8, 16, 32, 64, 128), task_rows=2, position_size=32)


@pytest.fixture(scope="session")
def tiny_recipe():
    """The default recipe with the window of the tiny network and 3 mm voxels."""
    from mass_core.config import Recipe

    return Recipe(window_zyx=(32, 32, 32), spacing_zyx=(3.0, 3.0, 3.0))


@pytest.fixture(scope="session")
def tiny_network(tiny_config):
    """The tiny network with the same random weights every time."""
    import torch

    from mass_core.model import MASS

    torch.manual_seed(0)
    return MASS(tiny_config).eval()


@pytest.fixture(scope="session")
def tiny_weights(tiny_network, tiny_recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of the tiny network."""
    import torch

    from mass_core.weights.checkpoint import save_weights

    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, tiny_network, tiny_recipe, {"recipe": "tests"}, dtype=torch.float32)
    return path


@pytest.fixture(scope="session")
def quick_weights(tiny_network, tiny_recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of the tiny network that looks at scans in voxels of 8 mm: quickest where no result must be good."""
    import torch

    from mass_core.weights.checkpoint import save_weights

    path = tmp_path_factory.mktemp("weights") / "quick.safetensors"
    save_weights(path, tiny_network, tiny_recipe.changed(spacing_zyx=(8.0, 8.0, 8.0)), {"recipe": "tests"}, dtype=torch.float32)
    return path
