"""The little of Slicer that an installation touches, and a Python to break."""

import importlib
import json
import os
import subprocess
import venv
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from Testing.waiting import PATIENCE_S

REPOSITORY = Path(__file__).resolve().parents[3]


class Slicer(ModuleType):
    """The little of Slicer that an installation touches."""

    def __init__(self, home: Path) -> None:
        super().__init__("slicer")
        self.kept: dict[str, str] = {}
        settings = SimpleNamespace(value=self.kept.get, setValue=self.kept.__setitem__, remove=lambda key: self.kept.pop(key, None))
        self.app = SimpleNamespace(slicerHome=str(home), testingEnabled=lambda: False, userSettings=lambda: settings)
        self.installed: list[list[str]] = []
        self.uninstalled: list[list[str]] = []
        self.util = ModuleType("slicer.util")
        self.util.pip_install = self.installed.append
        self.util.pip_uninstall = self.uninstalled.append
        self.i18n = ModuleType("slicer.i18n")
        self.i18n.tr = lambda text, *context: text


class Python:
    """A Python whose packages are Slicer's own and safetensors; what a test adds lies among them."""

    def __init__(self, folder: Path, install: Any, readiness: Any) -> None:
        venv.create(folder, symlinks=os.name != "nt", with_pip=False)
        self.program = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self.site = next(folder.rglob("site-packages"))
        self.install, self.readiness = install, readiness
        others = Path(importlib.import_module("numpy").__file__).parents[1]
        for path in others.iterdir():
            if path.name.lower().split("-")[0].split(".")[0] in ("numpy", "scipy", "simpleitk", "safetensors"):
                (self.site / path.name).symlink_to(path)

    def add(self, name: str, code: str, *, recorded: tuple[str, ...] = (), place: Path | None = None) -> None:
        """A package, and the records pip would leave of it."""
        folder = (place or self.site) / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(code)
        for version in recorded:
            records = folder.parent / f"{name}-{version}.dist-info"
            records.mkdir()
            (records / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    def probe(self, **environment: str) -> Any:
        """Run the probe and read it."""
        command = self.install.probe_command(str(self.program))
        variables = {**os.environ, "PYTHONPATH": "", **environment}
        done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False, timeout=PATIENCE_S)
        return self.readiness.read_probe(done.stdout, done.returncode, done.stderr)


def lines(readiness: Any, **torch: Any) -> str:
    """A probe on a computer with a GPU."""
    found: list[dict[str, Any]] = [{"site": "/s", "gpu": "NVIDIA RTX 4090"}, {"importing": "torch", "site": "/s", "recorded": ["2.6.0"]}]
    found += [{"package": name, "version": "1.0"} for name in (*readiness.SLICERS_OWN, "safetensors", readiness.ENGINE)]
    found += [{"package": "torch", "version": "2.6.0", "cuda": None, "cuda_error": "", "cuda_works": False, **torch}]
    return "\n".join(readiness.MARK + json.dumps(values) for values in found)
