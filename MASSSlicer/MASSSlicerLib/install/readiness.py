"""Determines from the output of `probe.py` if the worker can run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from slicer.i18n import tr as _

from .probe import ENGINE, MARK, OPTIONAL, PACKAGES

SLICERS_OWN = ("numpy", "scipy", "SimpleITK")
TORCH_AT_LEAST = (2, 4)


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """State of the packages."""

    ready: bool
    """The worker can run."""
    torch: str | None
    """Version of PyTorch, if it works."""
    missing: tuple[str, ...] = ()
    """Packages that are not there."""
    broken: str | None = None
    """The broken package and its cure; also set if the worker runs nevertheless."""
    device_note: str = ""
    """Reason why the graphics card is not used."""
    replace: tuple[str, ...] = ()
    """Packages that have to be removed before they are installed anew."""
    gpu: str = ""
    """Name of the NVIDIA GPU, if any."""
    details: str = ""
    """Everything the probe printed."""


@dataclass
class _Findings:
    """The probe's lines, sorted by package."""

    about: dict[str, Any] = field(default_factory=dict)
    packages: dict[str, dict[str, Any]] = field(default_factory=dict)
    tried: str = ""
    """Package whose import has begun and not ended."""

    def of(self, name: str) -> dict[str, Any]:
        return self.packages.get(name, {})

    def works(self, name: str) -> bool:
        return "version" in self.of(name)

    def replaceable(self, name: str) -> bool:
        """Only what lies among Slicer's own packages may be removed: elsewhere it can be anybody's."""
        return name not in SLICERS_OWN and self.of(name).get("site", self.about.get("site")) == self.about.get("site")


def read_probe(stdout: str, exit_code: int, stderr: str = "") -> Readiness:
    """Read the output of the probe.

    Args:
        stdout: of the probe, complete or not.
        exit_code: negative or large where a package crashed.
        stderr: for the details.
    """
    found = _sorted(stdout)
    if not found.about:
        text = _("The check of the packages could not run (exit code {code}). Reinstall Slicer if it happens again.").format(code=exit_code)
        return Readiness(ready=False, torch=None, broken=text, details=f"{stdout}\n{stderr}".strip())
    problems = {name: text for name in (*PACKAGES, ENGINE, OPTIONAL) if (text := _problem(name, found, exit_code))}
    torch = found.of("torch").get("version")
    note = _device_note(found)
    enough = torch is not None and _at_least(torch, TORCH_AT_LEAST)
    return Readiness(
        ready=enough and found.works(ENGINE),
        torch=torch,
        missing=tuple(name for name in PACKAGES if found.of(name).get("absent")),
        broken=next(iter(problems.values()), None),
        device_note=note,
        replace=tuple(_to_replace(found, problems, unused_gpu=bool(note))),
        gpu=found.about.get("gpu", ""),
        details=f"{stdout}\n{stderr}".strip(),
    )


def _sorted(stdout: str) -> _Findings:
    found = _Findings()
    for line in stdout.splitlines():
        if not line.startswith(MARK):
            continue
        try:
            values = json.loads(line[len(MARK) :])
        except ValueError:
            continue
        if "importing" in values:
            found.tried = values.pop("importing")
            found.packages.setdefault(found.tried, {}).update(values)
        elif "package" in values:
            found.packages.setdefault(values.pop("package"), {}).update(values)
            found.tried = ""
        else:
            found.about.update(values)
    return found


def _problem(name: str, found: _Findings, exit_code: int) -> str:
    """The problem with a package and its cure; empty if there is none."""
    finding = found.of(name)
    if finding.get("absent"):
        return ""
    if found.tried == name:
        what = _("Loading {name} crashes Python (exit code {code}).").format(name=name, code=exit_code)
    elif "error" in finding:
        if name in (ENGINE, OPTIONAL) and not all(found.works(other) for other in PACKAGES):
            return ""  # a consequence
        what = _cause(name, finding)
    else:
        what = _flaw(name, finding)
    return f"{what} {_cure(name, found)}" if what else ""


def _cause(name: str, finding: dict[str, Any]) -> str:
    """Reason why a package does not load."""
    error = finding["error"]
    if not finding.get("whole", True) or "__version__" in error:
        return _("Only a part of {name} is installed.").format(name=name)
    if "Numpy is not available" in error or "_ARRAY_API" in error:
        return _("This {name} was built for another NumPy than Slicer's.").format(name=name)
    if re.search(r"WinError (126|127|1114|193)\b", error):
        return _("A library of {name} is missing or damaged ({error}); it may need Microsoft's Visual C++ Redistributable.").format(
            name=name, error=error
        )
    if name == OPTIONAL:
        return _("{name} does not fit the PyTorch that is installed ({error}); other extensions may fail.").format(name=name, error=error)
    return _("{name} does not load ({error}).").format(name=name, error=error)


def _flaw(name: str, finding: dict[str, Any]) -> str:
    """The problem with a package that loads. Slicer's own are not checked for records: some come without."""
    if name in SLICERS_OWN or "recorded" not in finding or "version" not in finding:
        return ""
    recorded, version = finding["recorded"], finding["version"]
    if name == "torch" and not _at_least(version, TORCH_AT_LEAST):
        return _("PyTorch {version} is too old.").format(version=version)
    if not recorded:
        return _("{name} loads, but its installation is incomplete: its record is missing.").format(name=name)
    if len(set(recorded)) > 1 or recorded[0].split("+")[0] != version.split("+")[0]:
        return _("Several versions of {name} are installed over each other ({versions}).").format(
            name=name, versions=", ".join(sorted({*recorded, version}))
        )
    return ""


def _cure(name: str, found: _Findings) -> str:
    if name in SLICERS_OWN:
        return _("It belongs to Slicer and may have been changed by another extension: reinstall Slicer.")
    if name == ENGINE:
        return _("Reinstall the extension MASSSlicer.")
    if found.replaceable(name):
        return _("Install… replaces it.")
    return _("It is in {folder}, outside Slicer: remove it there, or remove that folder from PYTHONPATH.").format(
        folder=found.of(name).get("site")
    )


def _to_replace(found: _Findings, problems: dict[str, str], *, unused_gpu: bool) -> Iterator[str]:
    """Packages to remove; torch and torchvision fit each other only when installed together."""
    faulty = {name for name in problems if found.replaceable(name)}
    if unused_gpu and found.of("torch").get("cuda") is None and found.replaceable("torch"):
        faulty.add("torch")
    if faulty & {"torch", OPTIONAL}:
        faulty |= {"torch", OPTIONAL}
    for name in ("torch", OPTIONAL, "safetensors"):
        if name in faulty and name in found.packages and not found.of(name).get("absent") and found.replaceable(name):
            yield name


def _device_note(found: _Findings) -> str:
    gpu, torch = found.about.get("gpu"), found.of("torch")
    if not gpu or not found.works("torch") or torch.get("cuda_works"):
        return ""
    if torch.get("cuda") is None:
        return _("{gpu} is not used: this PyTorch is CPU-only. Install… replaces it.").format(gpu=gpu)
    if torch.get("cuda_error"):
        return _("{gpu} is not used: this PyTorch does not run on it ({error}). Update its driver, or install another PyTorch.").format(
            gpu=gpu, error=torch["cuda_error"]
        )
    text = _("{gpu} is not used: its driver is too old for this PyTorch (CUDA {cuda}). Update the driver.")
    return text.format(gpu=gpu, cuda=torch["cuda"])


def _at_least(version: str, least: tuple[int, ...]) -> bool:
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and tuple(map(int, numbers.groups())) >= least
