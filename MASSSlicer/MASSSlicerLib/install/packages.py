"""Packages the worker needs: what works, what would be installed, and installing it. Without user interface: the widget asks and shows.

Nothing here runs when Slicer starts or the module opens. The widget runs `probe_command` as a process, gives its output to `read_probe`,
shows the `plan`, and calls `install` if the user agrees. The next probe then shows the result.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import slicer
from slicer.i18n import tr as _

import mass_core
from mass_core.errors import Cancelled, MassError, OutputError

from .failures import explained
from .readiness import SLICERS_OWN, Readiness

REQUIREMENTS = Path(__file__).resolve().parents[2] / "Resources/requirements.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
RESTART_KEY = "MASSSlicer/restart"
GIGABYTE = 1_000_000_000
DISK_PER_DOWNLOAD = 2.5
"""Unpacked packages beside their downloads."""


def torch_at_hand() -> bool:
    """True if PyTorch seems installed, checked without loading it; that of another Python (MASS_PYTHON) is taken for granted."""
    return bool(os.environ.get("MASS_PYTHON")) or importlib.util.find_spec("torch") is not None


def probe_command(python: str) -> list[str]:
    """Program and arguments of the check; its standard output and exit code are for `readiness.read_probe`."""
    return [python, str(Path(__file__).with_name("probe.py")), str(Path(mass_core.__file__).resolve().parents[1])]


@dataclass(frozen=True, kw_only=True)
class Package:
    """One package to be installed."""

    name: str
    requirement: str
    """As pip reads it."""
    download: float
    """Bytes, roughly, with what it brings along."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The steps of an installation, for the user to agree to."""

    packages: tuple[Package, ...] = ()
    remove: tuple[str, ...] = ()
    """Broken or unfit ones that go first."""
    by_extension: bool = False
    """PyTorch comes by the PyTorch extension, which chooses the build for the graphics card; else by pip."""
    pip_options: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    obstacle: str = ""
    """Reason why nothing can be installed, with the cure."""

    def text(self) -> str:
        """Summary for the question whether to install: packages, sizes, source, and packages left alone."""
        lines = [_("{requirement} (download about {size})").format(requirement=p.requirement, size=size(p.download)) for p in self.packages]
        lines += [_("{names} will be removed first.").format(names=", ".join(self.remove))] if self.remove else []
        lines += [_("Slicer's own {names} are not changed.").format(names=", ".join(SLICERS_OWN)), *self.notes]
        return "\n".join(lines)


def plan(readiness: Readiness, *, wheels: str = "") -> Plan:
    """Plan the installation of all that is missing or broken.

    Args:
        readiness: what the probe found.
        wheels: a folder with wheel files to install from, without a network.
    """
    extension = _pytorch_extension() is not None and not wheels
    # torchvision is not ours: it comes back where it was removed for being of another PyTorch.
    known = requirements() if extension else {**requirements(), "torchvision": "torchvision"}
    replaced = () if _same_again(readiness, extension, wheels) else readiness.replace
    wanted = {name: requirement for name, requirement in known.items() if name in (*readiness.missing, *replaced)}
    packages = tuple(Package(name=n, requirement=r, download=_download(n, readiness, extension)) for n, r in wanted.items())
    options = ("--no-index", "--find-links", wheels) if wheels else ()
    # pip's usual build for Linux carries gigabytes of CUDA libraries along.
    options += ("--extra-index-url", CPU_INDEX) if not wheels and sys.platform == "linux" and not readiness.gpu else ()
    return Plan(
        packages=packages,
        remove=replaced,
        by_extension=extension and "torch" in wanted,
        pip_options=("--only-binary", ":all:", *options),
        notes=tuple(_notes(readiness, wanted, extension, wheels)),
        obstacle=_obstacle(readiness, packages),
    )


def requirements() -> dict[str, str]:
    """Package to requirement, from Resources/requirements.txt."""
    lines = (line.split("#")[0].strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines())
    found = {re.split(r"[<>=!~ ]", line)[0]: line for line in lines if line}
    if sys.platform == "win32":
        found["torch"] += ",!=2.13.*"  # holds paths that are too long for Windows where Slicer usually lies
    return found


def install(chosen: Plan, *, log: Callable[[str], None]) -> bool:
    """Install the packages of a plan; takes minutes, in which Slicer responds only now and then.

    Args:
        chosen: what the user agreed to.
        log: gets every line the installers print.

    Returns:
        Whether Slicer should be restarted because it holds an older copy of something; remembered over the restart.

    Raises:
        MassError: with the cause and what to do; some packages may have been installed by then.
        Cancelled: if the PyTorch extension reports that the user declined.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("Packages are installed on the main thread only: pip's windows crash elsewhere.")
    if slicer.app.testingEnabled():
        raise MassError(_("Nothing is installed in Slicer's testing mode."), _("Start Slicer without --testing."))
    if chosen.obstacle:
        raise MassError(chosen.obstacle)
    in_use = [name for name in (*chosen.remove, *(p.name for p in chosen.packages)) if name in sys.modules]
    lines: list[str] = []
    # Slicer's installers pass on pip's output by printing it.
    with contextlib.redirect_stdout(_Tee(sys.stdout, lines, log)):
        try:
            _remove(chosen.remove)
            _install_all(chosen)
        except (MassError, Cancelled):
            raise
        except Exception as error:  # noqa: BLE001 what installers and other extensions raise is not ours to know
            raise explained(error, lines) from error
        finally:
            if in_use:
                remember_restart(in_use)
    return bool(in_use)


def remember_restart(packages: list[str]) -> None:
    """Remember in Slicer's settings that it holds older copies of these packages, until a good probe after the restart."""
    slicer.app.userSettings().setValue(RESTART_KEY, json.dumps({"packages": packages, "process": os.getpid()}))


def restart_pending() -> bool:
    """True if this Slicer still has to be restarted."""
    return _restart_marker().get("process") == os.getpid()


def resumed_after_restart() -> bool:
    """True if Slicer was restarted for an installation that no good probe has confirmed yet."""
    return _restart_marker().get("process") not in (None, os.getpid())


def confirm(readiness: Readiness) -> None:
    """Clear the pending restart after a good probe."""
    if readiness.ready and resumed_after_restart():
        slicer.app.userSettings().remove(RESTART_KEY)


def size(number: float) -> str:
    """Bytes in readable units."""
    return f"{number / GIGABYTE:.1f} GB" if number >= 0.95 * GIGABYTE else f"{max(number / 1e6, 1):.0f} MB"


def _restart_marker() -> dict[str, Any]:
    try:
        marker = json.loads(slicer.app.userSettings().value(RESTART_KEY) or "{}")
    except ValueError:
        return {}
    return marker if isinstance(marker, dict) else {}


def _pytorch_extension() -> ModuleType | None:
    """Its Python module, if the extension is installed."""
    try:
        return importlib.import_module("PyTorchUtils")
    except ImportError:
        return None


def _same_again(readiness: Readiness, extension: bool, wheels: str) -> bool:
    """True if a working PyTorch without GPU support would be replaced by the same build: pip has no other for Windows."""
    return readiness.ready and readiness.broken is None and sys.platform == "win32" and not extension and not wheels


def _download(name: str, readiness: Readiness, extension: bool) -> float:
    """Bytes, of 2026's builds: with the CUDA libraries on a computer with an NVIDIA GPU."""
    if name != "torch":
        return 1e6
    with_cuda = bool(readiness.gpu) and sys.platform != "darwin" and (extension or sys.platform == "linux")
    return 3 * GIGABYTE if with_cuda else 0.25 * GIGABYTE


def _notes(readiness: Readiness, wanted: dict[str, str], extension: bool, wheels: str) -> Iterator[str]:
    if readiness.device_note:
        yield readiness.device_note
    if "torch" not in wanted or wheels:
        return
    if extension:
        yield _("The PyTorch extension installs PyTorch, with torchvision.")
    elif readiness.gpu and sys.platform == "win32":
        yield _("pip installs a CPU-only PyTorch. For {gpu}, install the PyTorch extension first (Extensions Manager).").format(
            gpu=readiness.gpu
        )
    else:
        yield _("pip installs PyTorch, because the PyTorch extension is not installed.")


def _obstacle(readiness: Readiness, packages: tuple[Package, ...]) -> str:
    names = [p.requirement for p in packages]
    own = [name for name in SLICERS_OWN if name in readiness.missing]
    if not (names or own):
        return ""
    if os.environ.get("MASS_PYTHON"):
        command = " ".join(["pip install", *(f'"{n}"' for n in (*names, *own))])
        return _("MASS_PYTHON is set to another Python than Slicer's. Install the packages there yourself: {command}").format(
            command=command
        )
    if own:
        return _("Slicer's own {names} cannot be found. Reinstall Slicer.").format(names=", ".join(own))
    if any(p.name == "torch" for p in packages) and sys.platform == "darwin" and platform.machine() == "x86_64":
        return _(
            "Current versions of PyTorch do not support this Slicer, an Intel build for the Mac. On Apple silicon, create an environment"
            " with a native Python and the packages (pip install torch safetensors SimpleITK scipy), set MASS_PYTHON to it and restart"
            " Slicer."
        )
    needed, free = DISK_PER_DOWNLOAD * sum(p.download for p in packages), shutil.disk_usage(_site()).free
    if needed > free:
        return _("The installation needs about {needed} of disk space in {folder}; {free} are free.").format(
            needed=size(needed), folder=_site(), free=size(free)
        )
    return ""


def _install_all(chosen: Plan) -> None:
    wanted = {p.name: p.requirement for p in chosen.packages}
    torch = wanted.pop("torch") if chosen.by_extension else ""
    if wanted:
        with _constraints() as file:
            _pip_install([*wanted.values(), *chosen.pip_options, "--constraint", file])
    if torch:
        _install_torch(torch.removeprefix("torch"))


def _install_torch(versions: str) -> None:
    """Install PyTorch by the PyTorch extension, whose older releases know fewer arguments."""
    logic = importlib.import_module("PyTorchUtils").PyTorchUtilsLogic()
    wanted = {"askConfirmation": False, "torchVersionRequirement": versions}
    if logic.installTorch(**_known(logic.installTorch, wanted)) is None:
        raise Cancelled


def _pip_install(arguments: list[str]) -> None:
    try:
        pip_install = importlib.import_module("slicer.packaging").pip_install
    except ImportError:  # before Slicer 5.12
        slicer.util.pip_install(arguments)
    else:
        pip_install(arguments, **_known(pip_install, {"requester": "MASSSlicer"}))


def _known(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Those of the arguments the function has in this release."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in arguments.items() if name in names}


def _remove(names: tuple[str, ...]) -> None:
    """Uninstall packages, then delete what pip left or could not see of them."""
    if not names:
        return
    # pip gives up on packages without records, which is one of the reasons to be here.
    with contextlib.suppress(subprocess.CalledProcessError):
        slicer.util.pip_uninstall(list(names))
    for path in (p for name in names for p in remains(name)):
        shutil.rmtree(path)


def remains(name: str) -> list[Path]:
    """Folders of a package among Slicer's own packages: its code, its records, and what pip set aside (~orch)."""
    patterns = (name, f"{name}-*.dist-info", f"~{name[1:]}*")
    return sorted({path for pattern in patterns for path in _site().glob(pattern) if path.is_dir()})


def _site() -> Path:
    return Path(sysconfig.get_path("purelib"))


@contextlib.contextmanager
def _constraints() -> Iterator[str]:
    """Constraints file that keeps pip from replacing Slicer's own packages."""
    lines = []
    for name in SLICERS_OWN:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            lines.append(f"{name}=={importlib.metadata.version(name)}\n")
    try:
        folder = tempfile.TemporaryDirectory(prefix="MASSSlicer-", ignore_cleanup_errors=True)
    except OSError as error:
        raise OutputError(_("No temporary folder can be made: {reason}.").format(reason=error.strerror), _("Free some space.")) from error
    with folder:
        file = Path(folder.name) / "constraints.txt"
        file.write_text("".join(lines), encoding="utf-8")
        yield str(file)


class _Tee(io.TextIOBase):
    """A stream that also copies its lines to a list and the log."""

    def __init__(self, stream: Any, lines: list[str], log: Callable[[str], None]) -> None:
        self._stream, self._lines, self._log = stream, lines, log
        self._rest = ""

    def write(self, text: str) -> int:
        self._stream.write(text)
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            self._lines.append(line)
            self._log(line)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()
