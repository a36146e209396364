"""Tries the packages the worker needs: a script for the Python that is to run it, in a process of its own.

    python probe.py FOLDER        (FOLDER: where mass_core lies)

Importing a broken package can end a process, so Slicer's own never tries. Every finding is a line at once: `importing` names what is tried,
`package` says how that went; the last one that was tried and not reported is what ended the process. `readiness.read_probe` reads them.
Standard library only, and nothing of Slicer.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARK = "MASSSlicer-probe "
"""Prefix of every line of ours, as libraries print lines too."""
PACKAGES = ("numpy", "scipy", "SimpleITK", "safetensors", "torch")
ENGINE = "mass_core.jobs.service"
"""Loaded by the worker for its first request: imports all that a run needs."""
OPTIONAL = "torchvision"
"""Comes with torch where the PyTorch extension installs it; tried last, for nothing here needs it."""


def main(folder: str) -> None:
    """Try all packages in the order of their dependencies."""
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [folder, *(p for p in sys.path if os.path.realpath(p or ".") != here)]
    report(python=platform.python_version(), machine=platform.machine(), site=sysconfig.get_path("purelib"), gpu=nvidia_gpu())
    for name in PACKAGES:
        attempt(name, torch_facts if name == "torch" else version_of)
    attempt(ENGINE, mass_facts)
    if importlib.util.find_spec(OPTIONAL) is not None:
        attempt(OPTIONAL, version_of)


def report(**finding: Any) -> None:
    """Write one finding on its own line, even if a library has begun one."""
    sys.stdout.write(f"\n{MARK}{json.dumps(finding)}\n")
    sys.stdout.flush()


def attempt(name: str, facts: Callable[[Any], dict[str, Any]]) -> None:
    """Import a module and report its facts or its error."""
    report(importing=name, **traces(name))
    try:
        report(package=name, **facts(importlib.import_module(name)))
    except ModuleNotFoundError as error:
        report(package=name, error=str(error), absent=error.name == name)
    except Exception as error:  # noqa: BLE001 a broken package may raise anything
        report(package=name, error=f"{type(error).__name__}: {error}")


def traces(name: str) -> dict[str, Any]:
    """Folder of a package and the versions recorded beside it, found without importing it."""
    try:
        spec = importlib.util.find_spec(name) if "." not in name else None
    except (ImportError, ValueError):
        return {}
    if spec is None or not spec.submodule_search_locations:
        return {}
    site = str(Path(next(iter(spec.submodule_search_locations))).resolve().parent)
    recorded = importlib.metadata.Distribution.discover(name=name, path=[site])
    return {"site": site, "whole": spec.origin is not None, "recorded": [d.version for d in recorded if d.metadata["Name"]]}


def version_of(module: Any) -> dict[str, Any]:
    """Its version, if it has one."""
    return {"version": str(getattr(module, "__version__", ""))}


def torch_facts(torch: Any) -> dict[str, Any]:
    """Version, and whether it computes: here, towards NumPy, on the graphics card."""
    facts = {"version": str(torch.__version__), "cuda": torch.version.cuda, "cuda_error": ""}
    (torch.ones(2) + 1).numpy()
    if torch.cuda.is_available():
        try:
            torch.ones(2, device="cuda").sum().item()
        except RuntimeError as error:
            facts["cuda_error"] = str(error).strip().splitlines()[0]
    return {**facts, "cuda_works": torch.cuda.is_available() and not facts["cuda_error"]}


def mass_facts(module: Any) -> dict[str, Any]:
    """Version and place of the library."""
    package = sys.modules["mass_core"]
    return {"version": package.__version__, "path": package.__file__}


def nvidia_gpu() -> str:
    """Name of the first NVIDIA GPU as its driver reports it; empty: none, or no driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    query = [program, "--query-gpu=name", "--format=csv,noheader"]
    no_window = getattr(subprocess, "CREATE_NO_WINDOW", 0)
    try:
        answer = subprocess.run(query, capture_output=True, text=True, errors="replace", timeout=10, check=True, creationflags=no_window)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip().splitlines()[0] if answer.stdout.strip() else ""


if __name__ == "__main__":
    main(sys.argv[1])
