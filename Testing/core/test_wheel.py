"""A wheel built from the tree holds all of the package and nothing else, and works in an environment of its own, the demo included."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from Testing.waiting import PATIENCE_S

pytest.importorskip("setuptools", minversion="77", reason="setuptools 77 builds the wheel: pip install setuptools")

SMALL_DEMO = """
from mass_core.cli import demo, main
from mass_core.data import phantoms

demo.MODALITIES, demo.SUBJECTS = ("ct",), (1,)
phantoms.subject.__kwdefaults__.update(shape_zyx=(24, 30, 34), spacing_zyx=(12.0, 10.0, 10.0))
raise SystemExit(main(["demo", "--device", "cpu", "--json"]))
"""
REPOSITORY = Path(__file__).resolve().parents[2]


def run(*command: object, folder: Path) -> str:
    """Output of a command, with nothing of the repository on its path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    words = list(map(str, command))
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, for a build leaves files beside its source."""
    tree = tmp_path_factory.mktemp("tree")
    for folder in ("mass_core", "training", "MASSSlicer"):
        shutil.copytree(REPOSITORY / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / file, tree)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", ".", folder=tree)
    (made,) = tree.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a fresh environment with the wheel; the packages it depends on are those of the tests, so that nothing is downloaded."""
    folder = tmp_path_factory.mktemp("fresh")
    run(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder)
    program = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    run(sys.executable, "-m", "pip", "--python", program, "install", "--quiet", "--no-deps", "--no-index", wheel, folder=folder)
    packages = Path(run(program, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder).strip())
    # Such a line adds the folder, but does not follow the links in it, and so not the one to the repository.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return program


def test_it_holds_the_package_and_nothing_else(wheel: Path) -> None:
    source = REPOSITORY / "mass_core"
    wanted = {f"mass_core/{path.relative_to(source).as_posix()}" for path in source.rglob("*.py")}
    wanted |= {"mass_core/py.typed", "mass_core/weights/README.md"}
    wanted |= {f"mass_core/weights/{path.name}" for path in (source / "weights").glob("*.safetensors")}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith("LICENSE")]
    assert held == wanted and len(licences) == 1 and any(name.endswith(".safetensors") for name in held)


def test_its_command_runs_from_its_own_files(python: Path, tmp_path: Path) -> None:
    found = run(python, "-c", "import mass_core; print(mass_core.__file__)", folder=tmp_path).strip()
    assert python.parent.parent in Path(found).parents
    told = run(python.with_name(f"mass{python.suffix}"), "--json", "weights", "list", folder=tmp_path)
    assert "small" in told


def test_its_demo_runs_in_miniature(python: Path, tmp_path: Path) -> None:
    """A coarse phantom, by the bundled weights."""
    told = run(python, "-c", SMALL_DEMO, folder=tmp_path)
    result = json.loads(told.splitlines()[-1])
    assert result["event"] == "result" and set(result["dice"]) == {"ct_subject1"}
    assert (tmp_path / "mass-demo/demo.png").is_file() and (tmp_path / "mass-demo/ct_subject1_seg.nii.gz").is_file()


@pytest.mark.slow
def test_its_demo_runs(python: Path, tmp_path: Path) -> None:
    told = run(
        python.with_name(f"mass{python.suffix}"), "demo", "--output", tmp_path / "demo", "--device", "cpu", "--json", folder=tmp_path
    )
    result = json.loads(told.splitlines()[-1])
    scores = [score for scan in result["dice"].values() for score in scan.values()]
    assert result["event"] == "result" and sum(scores) / len(scores) > 0.5, "the bundled weights are in it"
    assert (tmp_path / "demo" / "demo.png").is_file()
