"""The rule of rooms: which libraries a folder may load, and which folders it may import.

Forbidden libraries are poisoned in a fresh interpreter (`sys.modules[name] = None` makes their import fail), then every file of a layer
is imported there. Imports between folders are read from the source, those inside functions too.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

import pytest

import mass_core
import training
from Testing.waiting import PATIENCE_S

REPOSITORY = Path(__file__).resolve().parents[2]
HEAVY = ["torch", "safetensors"]
OPTIONAL = ["onnx", "onnxscript", "huggingface_hub", "yaml", "wandb", "mlflow"]
EXTRAS = ["pydicom", "skimage", "sam2", "monai", "einops", "matplotlib", "tensorboard", "tqdm", "h5py", "nibabel", *OPTIONAL]
NUMERIC = ["numpy", "scipy", "SimpleITK", "PIL", "rich"]
NEVER = ["training", "Testing", "MASSSlicer"]

LAYERS = {
    "stdlib": NUMERIC + HEAVY + EXTRAS + NEVER,
    "numeric": HEAVY + EXTRAS + NEVER,
    "torch": EXTRAS + NEVER,
    "skimage": [*HEAVY, *(name for name in EXTRAS if name != "skimage"), *NEVER],
    "sam2": [*(name for name in EXTRAS if name not in ("sam2", "tqdm", "yaml")), *NEVER, "torchvision"],
}
"""Libraries the files of a layer must not load."""

LIBRARIES = {
    "mass_core": "stdlib",
    "mass_core.volumes": "numeric",
    "mass_core.model": "torch",
    "mass_core.worker": "stdlib",
    "mass_core.alignment": "torch",
    "mass_core.augmentation": "torch",
    "mass_core.encoding": "torch",
    "mass_core.weights": "torch",
    "mass_core.weights.store": "stdlib",
    "mass_core.weights.download": "stdlib",
    "mass_core.weights.hub": "stdlib",
    "mass_core.weights.released_keys": "stdlib",
    "mass_core.weights.published": "stdlib",
    "mass_core.remote": "stdlib",
    "mass_core.inference": "torch",
    "mass_core.masks": "numeric",
    "mass_core.masks.slicewise": "torch",
    "mass_core.masks.slicewise.sam2": "sam2",
    "mass_core.masks.supervoxels": "skimage",
    "mass_core.data": "numeric",
    "mass_core.data.public_layouts": "stdlib",
    "mass_core.data.scan_files": "stdlib",
    "mass_core.evaluation": "torch",
    "mass_core.pictures": "numeric",
    "mass_core.jobs": "torch",
    "mass_core.jobs.checks": "stdlib",
    "mass_core.cli": "stdlib",
}
"""Layer of the files of a folder, and of files that are not of their folder's layer; what a function imports does not count."""

GROUND = "mass_core"
ANY = ["mass_core.*"]
ROOMS: dict[str, list[str]] = {
    GROUND: [],
    "mass_core.volumes": [],
    "mass_core.model": [],
    "mass_core.worker": [],
    "mass_core.augmentation": [],
    "mass_core.alignment": ["volumes"],
    "mass_core.encoding": ["alignment", "model", "volumes"],
    "mass_core.weights": ["encoding", "model"],
    "mass_core.remote": ["weights", "worker"],
    "mass_core.masks": ["volumes"],
    "mass_core.masks.supervoxels": ["masks", "volumes"],
    "mass_core.masks.slicewise": ["masks", "volumes", "weights"],
    "mass_core.inference": ["weights", "encoding", "alignment", "augmentation", "model", "volumes"],
    "mass_core.data": ["masks", "volumes"],
    "mass_core.evaluation": ["inference", "data", "encoding", "weights", "volumes"],
    "mass_core.pictures": ["masks", "volumes"],
    "mass_core.jobs": ["evaluation", "pictures", "inference", "encoding", "weights", "volumes", "worker"],
    "mass_core.cli.common": ["jobs", "pictures", "data", "masks", "weights", "volumes", "worker"],
    "mass_core.cli": ANY,
    "training": [],
    "training.optimisers": [],
    "training.runs": ["mass_core.data", "mass_core.model", "mass_core.weights"],
    "training.pretrain": [*ANY, "runs", "optimisers"],
    "training.baselines": [*ANY, "pretrain", "runs"],
    "training.finetune": [*ANY, "runs", "optimisers"],
    "training.classify": [*ANY, "runs", "optimisers"],
    "training.reproduce": [*ANY, "pretrain", "runs"],
    "MASSSlicerLib": [],
    "MASSSlicerLib.scene": [],
    "MASSSlicerLib.install": [],
    "MASSSlicerLib.processes": ["mass_core.remote", "mass_core.worker"],
    "MASSSlicerLib.library": ["processes", "install", "mass_core.weights"],
    "MASSSlicerLib.runs": ["library", "processes", "install", "scene", "mass_core.data", "mass_core.remote", "mass_core.worker"],
    "MASSSlicerLib.logic": ["runs", "library", "processes", "install", "scene", "mass_core.remote"],
    "MASSSlicerLib.panels": [
        *("logic", "runs", "library", "processes", "install", "scene"),
        *("mass_core.remote", "mass_core.weights", "mass_core.worker"),
    ],
    "MASSSlicerLib.selftest": ["logic", "runs", "install", "scene"],
}
"""Rooms a room may import besides itself, the root of its package and the ground: rooms of its package by their short name, all of them
further up in this table."""

EXCEPTIONS: dict[str, dict[str, str]] = {
    "mass_core.__main__": {"mass_core.cli": "starts the command"},
    "mass_core.evaluation.trials": {"mass_core.worker": "has networks finetuned by a process of their own, with the request for it"},
    "MASSSlicerLib.processes.survey": {"mass_core.volumes": "runs in the worker's Python"},
}
"""Files that import what their room may not, and why."""


def files() -> dict[str, Path]:
    """Every module of the product and its file."""
    found = {}
    for top in (REPOSITORY / "mass_core", REPOSITORY / "training", REPOSITORY / "MASSSlicer/MASSSlicerLib"):
        for path in sorted(top.rglob("*.py")):
            parts = path.relative_to(top.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def nearest(module: str, table: Iterable[str]) -> str | None:
    """The longest entry of a table that names a module or a folder it lies in."""
    return max((name for name in table if f"{module}.".startswith(f"{name}.")), key=len, default=None)


def room_of(module: str) -> str:
    """A folder's own `__init__` belongs to the folder; a file at the root of a package, or in no room of its own, to the root."""
    return nearest(module, ROOMS) or module


def layer_of(module: str) -> str:
    return LIBRARIES[nearest(module, LIBRARIES) or ""]


def imported(module: str, path: Path, known: Collection[str]) -> set[str]:
    """Modules of the product that a file imports, wherever in the file."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found.update(whole if (whole := f"{base}.{alias.name}") in known else base for alias in node.names)
    return found & set(known)


def may_import(room: str, other: str) -> bool:
    """True if the table lets a room import another one."""
    package = room.partition(".")[0]
    named = [name if name.startswith("mass_core.") else f"{package}.{name}" for name in ROOMS[room]]
    free = {room, package, GROUND}
    return other in free | set(named) or ("mass_core.*" in named and other.startswith("mass_core."))


def python(code: str, *, forbidden: list[str]) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter in which some libraries cannot be imported."""
    poison = f"import sys\nfor name in {forbidden!r}: sys.modules[name] = None\n"
    return subprocess.run([sys.executable, "-c", poison + code], cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_S)


def test_every_folder_is_a_room() -> None:
    folders = {module for module, path in files().items() if path.name == "__init__.py"}
    assert folders - set(ROOMS) == set()


def test_the_tables_name_what_there_is() -> None:
    assert [name for name in (*ROOMS, *LIBRARIES, *EXCEPTIONS) if name not in files()] == []
    assert [room for room in ROOMS if room.startswith("mass_core") and nearest(room, LIBRARIES) is None] == []


def test_rooms_import_only_rooms_above_them_in_the_table() -> None:
    rooms = list(ROOMS)
    assert [(one, other) for i, one in enumerate(rooms) for other in rooms[i + 1 :] if may_import(one, other)] == []


def test_imports_follow_the_table() -> None:
    """And every exception is needed."""
    modules = files()
    broken = {
        (module, room_of(other))
        for module, path in modules.items()
        for other in imported(module, path, modules)
        if not may_import(room_of(module), room_of(other))
    }
    allowed = {(module, room) for module, rooms in EXCEPTIONS.items() for room in rooms}
    assert (broken - allowed, allowed - broken) == (set(), set())


@pytest.mark.parametrize("layer", LAYERS)
def test_layer_imports_without_what_lies_above(layer: str) -> None:
    if layer in ("skimage", "sam2"):
        pytest.importorskip(layer)
    names = [m for m in files() if m.startswith("mass_core") and layer_of(m) == layer and m != "mass_core.__main__"]
    result = python(f"import importlib\nfor name in {names!r}: importlib.import_module(name)", forbidden=LAYERS[layer])
    assert result.returncode == 0, result.stderr


def test_the_poison_works() -> None:
    result = python("import torch", forbidden=["torch"])
    assert result.returncode == 1 and "import of torch halted" in result.stderr


def test_public_names_resolve() -> None:
    assert [name for name in mass_core.__all__ if not hasattr(mass_core, name)] == []
    with pytest.raises(AttributeError, match="Volumen"):
        mass_core.Volumen  # noqa: B018


def test_importing_the_package_loads_nothing_else() -> None:
    result = python("import mass_core\nprint(*sorted(m for m in sys.modules if m.startswith('mass_core')))", forbidden=LAYERS["stdlib"])
    assert result.stdout.split() == ["mass_core"], result.stderr


def test_help_needs_the_standard_library_only() -> None:
    result = python("from mass_core.cli import main\nsys.exit(main(['--help']))", forbidden=LAYERS["stdlib"])
    assert result.returncode == 0, result.stderr
    assert all(command in result.stdout for command in ("segment", "encode", "weights", "demo"))


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
        pytest.param(
            ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--numprocesses", "1", "Testing/core/test_imports.py::test_training_is_ours"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["import", "xdist"],
)
def test_training_is_ours_in_every_process(command: list[str], other_training: dict[str, str]) -> None:
    """From the repository ours wins over one that is installed, in processes that others start too: by torchrun in test_distributed.py."""
    done = subprocess.run(
        [sys.executable, *command], cwd=REPOSITORY, env=other_training, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0 and "not our training" not in done.stdout + done.stderr, done.stderr


def test_a_training_that_is_not_ours_would_be_noticed(tmp_path: Path, other_training: dict[str, str]) -> None:
    """From elsewhere the other one wins: what the tests above rule out can happen."""
    done = subprocess.run(
        [sys.executable, "-c", "import training"], cwd=tmp_path, env=other_training, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "not our training" in done.stderr
