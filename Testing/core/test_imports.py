"""The layer rule: a file imports its own layer or a lower one, and what starts the command costs nothing.

Forbidden libraries are poisoned in a fresh interpreter (`sys.modules[name] = None` makes their import fail), then every file of the layer
is imported there.
"""

import os
import subprocess
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import mass_core
import training

REPOSITORY = Path(__file__).resolve().parents[2]
HEAVY = ["torch", "safetensors"]
EXTRAS = ["skimage", "sam2", "monai", "einops", "matplotlib", "tensorboard", "tqdm", "h5py", "nibabel"]
NUMERIC = ["numpy", "scipy", "SimpleITK", "PIL", "rich"]
NEVER = ["training", "Testing", "MASSSlicer"]

LAYERS = {
    "stdlib": [
        *("mass_core", "__main__", "colors", "errors", "failures", "config", "progress", "recent", "atomic", "cli", "cli.*"),
        *(
            "released_keys",
            "weights_store",
            "download",
            "outputs",
            "protocol",
            "client",
            "subprocess_transport",
            "params",
            "finetuning",
            "machine",
            "console",
            "scan_files",
            "worker",
            "dataset_kinds",
        ),
    ],
    "numeric": [
        *("volume", "image_files", "nifti_floats", "scans", "appearance", "resample", "intensity", "components", "preprocess", "reference"),
        *(
            "metrics",
            "place",
            "panels",
            "picture",
            "colour_picture",
            "phantoms",
            "dataset",
            "released_layout",
            "opening",
            "dataset_cases",
            "make_case",
            "masks",
            "masks.mask_set",
            "masks.merge_tree",
            "masks.regrid",
            "masks.released_masks",
            "masks.generator",
            "masks.channels",
            "masks.slices",
            "masks.merge",
            "masks.batch",
            "masks.frames",
            "masks.propagate",
            "masks.labels_backend",
            "masks.statistics",
            "masks.histogram",
            "masks.sheet",
        ),
    ],
    "torch": [
        "model",
        "model.*",
        "checkpoint",
        "classifier",
        "task",
        "released_finetuned",
        "tokens",
        "windows",
        "blend",
        "sweep",
        "merge",
        "segmenter",
        "losses",
        "reference_views",
        "adapt",
        "evaluation",
        "evaluation_folder",
        "score_tables",
        "trials",
        "features",
        "self_reference",
        "evidence",
        "quality",
        "service",
        "masks.small_regions",
        "masks.plane_masks",
        "masks.from_slices",
    ],
    "backends": ["masks.slic_backend"],
    "sam2": ["masks.sam2_backend"],
}
"""Modules of the package without their `mass_core.` prefix; a star stands for every file of a folder."""

FORBIDDEN = {
    "stdlib": NUMERIC + HEAVY + EXTRAS + NEVER,
    "numeric": HEAVY + EXTRAS + NEVER,
    "torch": EXTRAS + NEVER,
    "backends": [*HEAVY, *(name for name in EXTRAS if name != "skimage"), *NEVER],
    "sam2": [*(name for name in EXTRAS if name not in ("sam2", "tqdm")), *NEVER, "torchvision"],
}


def modules() -> list[str]:
    """Every module of the package as LAYERS names it."""
    root = REPOSITORY / "mass_core"
    found = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "mass_core")
    return found


def layers_of(module: str) -> list[str]:
    return [layer for layer, patterns in LAYERS.items() for pattern in patterns if fnmatchcase(module, pattern)]


def python(code: str, *, forbidden: list[str]) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter in which some libraries cannot be imported."""
    poison = f"import sys\nfor name in {forbidden!r}: sys.modules[name] = None\n"
    return subprocess.run([sys.executable, "-c", poison + code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)


def test_every_file_has_one_layer() -> None:
    assert {module: layers_of(module) for module in modules() if len(layers_of(module)) != 1} == {}


def test_no_stale_entries() -> None:
    present = modules()
    stale = [pattern for patterns in LAYERS.values() for pattern in patterns if not any(fnmatchcase(m, pattern) for m in present)]
    assert stale == []


@pytest.mark.parametrize("layer", LAYERS)
def test_layer_imports_without_what_lies_above(layer: str) -> None:
    if layer in ("backends", "sam2"):
        pytest.importorskip({"backends": "skimage", "sam2": "sam2"}[layer])
    names = [m if m == "mass_core" else f"mass_core.{m}" for m in modules() if layer in layers_of(m) and m != "__main__"]
    result = python(f"import importlib\nfor name in {names!r}: importlib.import_module(name)", forbidden=FORBIDDEN[layer])
    assert result.returncode == 0, result.stderr


def test_the_poison_works() -> None:
    result = python("import torch", forbidden=["torch"])
    assert result.returncode == 1 and "import of torch halted" in result.stderr


def test_public_names_resolve() -> None:
    assert [name for name in mass_core.__all__ if not hasattr(mass_core, name)] == []
    with pytest.raises(AttributeError, match="Volumen"):
        mass_core.Volumen  # noqa: B018


def test_importing_the_package_loads_nothing_else() -> None:
    result = python("import mass_core\nprint(*sorted(m for m in sys.modules if m.startswith('mass_core')))", forbidden=FORBIDDEN["stdlib"])
    assert result.stdout.split() == ["mass_core"], result.stderr


def test_help_needs_the_standard_library_only() -> None:
    result = python("from mass_core.cli import main\nsys.exit(main(['--help']))", forbidden=FORBIDDEN["stdlib"])
    assert result.returncode == 0, result.stderr
    assert all(command in result.stdout for command in ("segment", "encode", "weights", "demo"))


def test_help_is_quick() -> None:
    """Below 0.3 s more than a bare interpreter takes, in the best of five: other processes may be using the machine."""

    def seconds(code: str) -> float:
        start = time.perf_counter()
        python(code, forbidden=[])
        return time.perf_counter() - start

    tries = [(seconds("pass"), seconds("from mass_core.cli import main\nmain(['--help'])")) for _ in range(5)]
    assert min(t[1] for t in tries) - min(t[0] for t in tries) < 0.3


def test_training_is_ours() -> None:
    """SAM2 installs a top-level package of this name. Under pytest-xdist this runs in a worker."""
    assert training.__file__ is not None
    assert Path(training.__file__).resolve().parent == REPOSITORY / "training"


@pytest.fixture
def other_training(tmp_path: Path) -> dict[str, str]:
    """An environment with a package `training` that is not ours; it comes before whatever is installed."""
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").write_text("raise SystemExit('this is not our training')")
    return {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    "command",
    [
        ["-c", "import training"],
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m", "training.pretrain", "--help"],
        ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--numprocesses", "1", "Testing/core/test_imports.py::test_training_is_ours"],
    ],
    ids=["import", "torchrun", "xdist"],
)
def test_training_is_ours_in_every_process(command: list[str], other_training: dict[str, str]) -> None:
    """From the repository ours wins over one that is installed, in processes that others start too."""
    done = subprocess.run(
        [sys.executable, *command], cwd=REPOSITORY, env=other_training, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0 and "not our training" not in done.stdout + done.stderr, done.stderr


def test_a_training_that_is_not_ours_would_be_noticed(tmp_path: Path, other_training: dict[str, str]) -> None:
    """From elsewhere the other one wins: what the tests above rule out can happen."""
    done = subprocess.run(
        [sys.executable, "-c", "import training"], cwd=tmp_path, env=other_training, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "not our training" in done.stderr
