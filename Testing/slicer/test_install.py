"""Packages and weights: the probe against really broken packages in processes of their own; plans and installations with small stand-ins
for the parts of Slicer that differ between its versions."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import threading
import venv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from mass_core import __version__
from mass_core.errors import Cancelled, InputError, MassError, WeightsError

REPOSITORY = Path(__file__).resolve().parents[2]


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


@pytest.fixture
def slicer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slicer]:
    """Slicer 5.10, without the PyTorch extension and without PythonSlicer."""
    made = Slicer(tmp_path / "Slicer")
    for name in [name for name in sys.modules if name.split(".")[0] in ("slicer", "MASSSlicerLib")]:
        monkeypatch.delitem(sys.modules, name)
    for module in (made, made.util, made.i18n):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.syspath_prepend(str(REPOSITORY / "MASSSlicer"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("MASS_PYTHON", raising=False)
    yield made
    for name in [name for name in sys.modules if name.split(".")[0] == "MASSSlicerLib"]:
        del sys.modules[name]


@pytest.fixture
def install(slicer: Slicer) -> Any:
    return importlib.import_module("MASSSlicerLib.install")


@pytest.fixture
def readiness(slicer: Slicer) -> Any:
    return importlib.import_module("MASSSlicerLib.readiness")


@pytest.fixture
def weights(slicer: Slicer) -> Any:
    return importlib.import_module("MASSSlicerLib.weights")


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
        done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False, timeout=120)
        return self.readiness.read_probe(done.stdout, done.returncode, done.stderr)


@pytest.fixture
def python(install: Any, readiness: Any, tmp_path: Path) -> Python:
    try:
        return Python(tmp_path / "Pythón with späces", install, readiness)
    except OSError as error:
        pytest.skip(f"this computer makes no symbolic links: {error}")


COMPUTES = """
from types import SimpleNamespace
__version__ = "2.6.0"
print("a banner")
version = SimpleNamespace(cuda=None)
cuda = SimpleNamespace(is_available=lambda: False)
class ones:
    def __init__(self, n): pass
    def __add__(self, other): return self
    def numpy(self): return [2.0, 2.0]
"""
"""A torch that passes its own check; the network cannot be built with it."""


def test_probe_of_what_works(install: Any, readiness: Any) -> None:
    """The packages these tests run with."""
    done = subprocess.run(install.probe_command(sys.executable), capture_output=True, text=True, check=False, timeout=120)
    found = readiness.read_probe(done.stdout, done.returncode)
    assert found.ready and found.missing == () and found.broken is None and found.replace == ()
    assert found.torch == importlib.import_module("torch").__version__
    assert __version__ in found.details and str(REPOSITORY / "mass_core") in found.details


def test_torchvision_of_another_torch_is_told_but_no_obstacle(install: Any, readiness: Any, tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")')
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = install.probe_command(sys.executable)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
    found = readiness.read_probe(done.stdout, done.returncode)
    assert found.ready and "torchvision does not fit" in found.broken and "nms" in found.broken
    assert str(tmp_path) in found.broken and found.replace == (), "it lies outside Slicer: not ours to remove"


def test_torch_is_missing(python: Python) -> None:
    found = python.probe()
    assert not found.ready and found.torch is None and found.missing == ("torch",) and found.broken is None and found.replace == ()


def test_safetensors_is_missing_too(python: Python) -> None:
    for path in python.site.glob("safetensors*"):
        path.unlink()
    assert python.probe().missing == ("safetensors", "torch")


@pytest.mark.parametrize(
    ("code", "recorded", "told"),
    [
        ("", ("2.6.0",), "Only a part of torch is installed"),
        (COMPUTES, (), "the record of it is missing"),
        (COMPUTES, ("2.5.1", "2.6.0"), r"Several versions of torch lie on top of each other \(2.5.1, 2.6.0\)"),
        (COMPUTES, ("2.5.1+cu121",), r"Several versions of torch .*2.5.1\+cu121, 2.6.0"),
        (COMPUTES.replace("2.6.0", "2.1.2"), ("2.1.2",), "PyTorch 2.1.2 is too old"),
        (COMPUTES.replace("return [2.0, 2.0]", 'raise RuntimeError("Numpy is not available")'), ("2.6.0",), "built for another NumPy"),
        ('raise OSError("[WinError 126] module not found: fbgemm.dll")', ("2.6.0",), "library of torch is missing.*fbgemm.*Visual C"),
        ("import typing_extensions_of_torch", ("2.6.0",), "torch does not load .*typing_extensions_of_torch"),
        ("import os; os._exit(7)", ("2.6.0",), r"Loading torch ends Python \(exit code 7\)"),
        ("import sys; sys.stdout.write('{half a line'); raise ImportError('cannot')", ("2.6.0",), "torch does not load .*cannot"),
    ],
)
def test_broken_torch_is_told_and_replaced(code: str, recorded: tuple[str, ...], told: str, python: Python) -> None:
    python.add("torch", code, recorded=recorded)
    found = python.probe()
    assert not found.ready and found.missing == ()
    with pytest.raises(AssertionError, match=told):
        raise AssertionError(found.broken)
    assert found.broken.endswith("Install… replaces it.") and found.replace == ("torch",)


def test_torch_without_its_init_file(python: Python) -> None:
    """Python imports the bare folder without complaint."""
    (python.site / "torch/lib").mkdir(parents=True)
    found = python.probe()
    assert "Only a part of torch is installed" in found.broken and found.replace == ("torch",) and found.missing == ()


def test_torchvision_goes_with_a_broken_torch(python: Python) -> None:
    python.add("torch", "")
    python.add("torchvision", "import torch; torch.__version__")
    found = python.probe()
    assert "torch is installed" in found.broken and found.replace == ("torch", "torchvision")


def test_broken_torch_outside_slicer_is_left_alone(python: Python, tmp_path: Path) -> None:
    python.add("torch", "", place=tmp_path / "elsewhere")
    found = python.probe(PYTHONPATH=str(tmp_path / "elsewhere"))
    assert found.replace == () and str(tmp_path / "elsewhere") in found.broken and "PYTHONPATH" in found.broken


def test_slicers_own_package_broken(python: Python) -> None:
    (python.site / "SimpleITK").unlink()
    python.add("SimpleITK", "raise ImportError('undefined symbol')")
    found = python.probe()
    assert "SimpleITK does not load" in found.broken and "reinstall Slicer" in found.broken and "SimpleITK" not in found.replace


def test_probe_that_did_not_run(readiness: Any) -> None:
    found = readiness.read_probe("", 127, "no such file")
    assert not found.ready and "exit code 127" in found.broken and found.details == "no such file"


def lines(readiness: Any, **torch: Any) -> str:
    """A probe on a computer with a GPU."""
    found: list[dict[str, Any]] = [{"site": "/s", "gpu": "NVIDIA RTX 4090"}, {"importing": "torch", "site": "/s", "recorded": ["2.6.0"]}]
    found += [{"package": name, "version": "1.0"} for name in (*readiness.SLICERS_OWN, "safetensors", readiness.ENGINE)]
    found += [{"package": "torch", "version": "2.6.0", "cuda": None, "cuda_error": "", "cuda_works": False, **torch}]
    return "\n".join(readiness.MARK + json.dumps(values) for values in found)


@pytest.mark.parametrize(
    ("torch", "note", "replace"),
    [
        ({"cuda": "12.6", "cuda_works": True}, "", ()),
        ({}, "RTX 4090 is not used: this PyTorch is for the processor only", ("torch",)),
        ({"cuda": "12.6"}, "driver is too old for this PyTorch (CUDA 12.6)", ()),
        ({"cuda": "12.6", "cuda_error": "no kernel image is available"}, "no kernel image is available", ()),
    ],
)
def test_unused_graphics_card(torch: dict[str, Any], note: str, replace: tuple[str, ...], readiness: Any) -> None:
    found = readiness.read_probe(lines(readiness, **torch), 0)
    assert found.ready and found.broken is None and found.replace == replace
    assert note in found.device_note and bool(note) == bool(found.device_note)


def ready(readiness: Any, **values: Any) -> Any:
    return readiness.Readiness(**{"ready": False, "torch": None, "missing": ("safetensors", "torch"), **values})


def test_plan_names_packages_sizes_and_what_stays(install: Any, readiness: Any) -> None:
    made = install.plan(ready(readiness))
    assert [p.name for p in made.packages] == ["torch", "safetensors"] and not made.obstacle and not made.by_extension
    text = made.text()
    assert (
        "torch>=2.4" in text and "250 MB" in text and "numpy, scipy, SimpleITK stay as they are" in text and "pip installs PyTorch" in text
    )
    assert install.plan(ready(readiness, ready=True, missing=())).packages == ()


def test_plan_with_a_gpu_is_larger(install: Any, readiness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert install.CPU_INDEX in install.plan(ready(readiness)).pip_options
    large = install.plan(ready(readiness, gpu="NVIDIA RTX 4090"))
    assert "3.0 GB" in large.text() and install.CPU_INDEX not in large.pip_options
    monkeypatch.setattr(sys, "platform", "win32")
    windows = install.plan(ready(readiness, gpu="NVIDIA RTX 4090"))
    assert "install the extension PyTorch first" in windows.text() and "torch>=2.4,!=2.13.*" in windows.text()


def test_pytorch_for_the_processor_gives_way_to_one_for_the_card(install: Any, readiness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = readiness.read_probe(lines(readiness), 0)
    monkeypatch.setattr(sys, "platform", "linux")
    made = install.plan(found)
    assert made.remove == ("torch",) and "only. Install… gets the one for it" in made.text() and install.CPU_INDEX not in made.pip_options
    monkeypatch.setattr(sys, "platform", "win32")
    assert install.plan(found).packages == () and install.plan(found).remove == (), "pip would install its like again"
    extension(monkeypatch, lambda torchVersionRequirement: object())
    assert install.plan(found).by_extension and install.plan(found).remove == ("torch",)


def test_plans_that_cannot_be_carried_out(install: Any, readiness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Slicer's own scipy cannot be found" in install.plan(ready(readiness, missing=("scipy", "torch"))).obstacle
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=5e8))
    assert "Installing needs about 628 MB on the disk" in install.plan(ready(readiness)).obstacle
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert "MASS_PYTHON" in install.plan(ready(readiness)).obstacle
    monkeypatch.setenv("MASS_PYTHON", sys.executable)
    assert install.plan(ready(readiness, ready=True, missing=())).obstacle == "", "nothing is to do"
    stopped = install.plan(ready(readiness))
    assert 'pip install "torch>=2.4" "safetensors>=0.4"' in stopped.obstacle
    with pytest.raises(MassError, match="Install there yourself"):
        install.install(stopped, log=print)


def test_install_by_pip_pins_slicers_own(install: Any, readiness: Any, slicer: Slicer) -> None:
    pinned: list[str] = []

    def pip_install(arguments: list[str]) -> None:
        pinned.append(Path(arguments[arguments.index("--constraint") + 1]).read_text())
        slicer.installed.append(arguments)

    slicer.util.pip_install = pip_install
    loaded = "safetensors" in sys.modules
    assert install.install(install.plan(ready(readiness, missing=("safetensors",))), log=print) is loaded
    (arguments,) = slicer.installed
    assert arguments[0] == "safetensors>=0.4" and arguments[1:3] == ["--only-binary", ":all:"]
    assert f"numpy=={importlib.import_module('numpy').__version__}" in pinned[0]
    assert not Path(arguments[-1]).parent.exists(), "the temporary folder is gone"


def test_install_by_slicers_packaging_where_it_exists(
    install: Any, readiness: Any, slicer: Slicer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[list[str], str]] = []
    packaging = ModuleType("slicer.packaging")
    packaging.pip_install = lambda requirements, constraints=None, requester=None: calls.append((requirements, requester))
    monkeypatch.setitem(sys.modules, "slicer.packaging", packaging)
    install.install(install.plan(ready(readiness)), log=print)
    assert calls[0][0][:2] == ["torch>=2.4", "safetensors>=0.4"] and calls[0][1] == "MASSSlicer" and slicer.installed == []


def extension(monkeypatch: pytest.MonkeyPatch, install_torch: Callable[..., object]) -> None:
    """The PyTorch extension, with an `installTorch` of some release."""
    module = ModuleType("PyTorchUtils")
    module.PyTorchUtilsLogic = lambda: SimpleNamespace(installTorch=install_torch)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", module)


def test_install_torch_by_the_extension_of_any_release(
    install: Any, readiness: Any, slicer: Slicer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    def of_2022(askConfirmation: bool = True, forceComputationBackend: str | None = None) -> object:  # noqa: N803
        calls.append(askConfirmation)
        return object()

    def of_2023(
        askConfirmation: bool = True, torchVersionRequirement: str | None = None, torchvisionVersionRequirement: str = ""
    ) -> object:  # noqa: N803
        calls.append((askConfirmation, torchVersionRequirement))
        return object()

    monkeypatch.setattr(sys, "platform", "linux")
    for install_torch in (of_2022, of_2023):
        extension(monkeypatch, install_torch)
        made = install.plan(ready(readiness))
        assert made.by_extension and "The PyTorch extension installs PyTorch" in made.text()
        install.install(made, log=print)
    assert calls == [False, (False, ">=2.4")]
    assert [arguments[0] for arguments in slicer.installed] == ["safetensors>=0.4"] * 2, "pip gets the rest"
    extension(monkeypatch, lambda askConfirmation: None)
    with pytest.raises(Cancelled):
        install.install(install.plan(ready(readiness)), log=print)


def test_repair_removes_what_pip_cannot(
    install: Any, readiness: Any, slicer: Slicer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torch", "torch-2.6.0.dist-info", "~orch", "torchmetrics", "torchvision-0.21.dist-info", "numpy"):
        (tmp_path / name / "inside").mkdir(parents=True)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))

    def fails(names: list[str]) -> None:
        slicer.uninstalled.append(names)
        raise subprocess.CalledProcessError(1, "pip")

    slicer.util.pip_uninstall = fails
    made = install.plan(ready(readiness, missing=(), replace=("torch",)))
    assert "torch will be removed first" in made.text()
    install.install(made, log=print)
    assert slicer.uninstalled == [["torch"]] and slicer.installed[0][0] == "torch>=2.4"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "Slicer") == ["numpy", "torchmetrics", "torchvision-0.21.dist-info"]
    both = install.plan(ready(readiness, missing=(), replace=("torch", "torchvision")))
    assert [p.name for p in both.packages] == ["torch", "torchvision"], "other extensions may need it back"


PROXY = "ProxyError('Cannot connect to proxy.', OSError('Tunnel connection failed: 407'))"


@pytest.mark.parametrize(
    ("printed", "cause", "cure"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full", "gigabytes"),
        ("OSError: [WinError 206] The filename or extension is too long", "longer than Windows allows", "C:.Slicer"),
        ("HINT: This error might have occurred since this system does not have Windows Long Path support enabled.", "longer", "long paths"),
        ("[WinError 32] The process cannot access the file: it is being used by another process", "in use", "Restart Slicer"),
        ("OSError: [Errno 13] Permission denied: '/opt/Slicer/lib'", "may not be written to", "folder of your own"),
        ("WARNING: Retrying: SSLError(SSLCertVerificationError(1, 'CERTIFICATE_VERIFY_FAILED'))", "not trusted", "PIP_CERT"),
        (
            f"WARNING: Retrying after connection broken by '{PROXY}'\nERROR: No matching distribution found for torch",
            "proxy",
            "HTTPS_PROXY",
        ),
        ("Max retries exceeded: getaddrinfo failed\nERROR: No matching distribution found for torch", "cannot be reached", "wheels"),
        ("UnicodeDecodeError: 'charmap' codec can't decode byte 0x9d", "letters", "without accents"),
        ("ERROR: No matching distribution found for torch>=2.4", "no build", "Update Slicer"),
        ("error: uninstall-no-record-file\n× Cannot uninstall torch None", "records are missing", "removes the folder"),
        ("something nobody has seen yet", "something nobody has seen yet", "log"),
    ],
)
def test_failures_are_explained(printed: str, cause: str, cure: str, install: Any, readiness: Any, slicer: Slicer) -> None:
    def fails(arguments: list[str]) -> None:
        print(f"Collecting torch\n{printed}")
        raise subprocess.CalledProcessError(1, arguments)

    heard: list[str] = []
    slicer.util.pip_install = fails
    with pytest.raises(MassError, match=cause) as caught:
        install.install(install.plan(ready(readiness)), log=heard.append)
    with pytest.raises(AssertionError, match=cure):
        raise AssertionError(caught.value.cure)
    assert heard == ["Collecting torch", *printed.splitlines()]
    assert bool(slicer.kept) == bool({"torch", "safetensors"} & set(sys.modules)), "what another test has loaded is in use"


def test_install_refuses_other_threads_and_testing_mode(install: Any, readiness: Any, slicer: Slicer) -> None:
    caught: list[BaseException] = []

    def on_a_thread() -> None:
        try:
            install.install(install.plan(ready(readiness)), log=print)
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=on_a_thread)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])
    slicer.app.testingEnabled = lambda: True
    with pytest.raises(MassError, match="testing mode"):
        install.install(install.plan(ready(readiness)), log=print)
    assert slicer.installed == []


def test_restart_is_remembered_until_a_good_probe_after_it(
    install: Any, readiness: Any, slicer: Slicer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", ModuleType("safetensors"))
    good = ready(readiness, ready=True, torch="2.6.0", missing=())
    assert not install.restart_pending() and not install.resumed_after_restart()
    assert install.install(install.plan(ready(readiness, missing=("safetensors",))), log=print) is True
    install.confirm(good)
    assert install.restart_pending() and not install.resumed_after_restart(), "good or not, this Slicer holds the old copy"
    process = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: process + 1)
    assert install.resumed_after_restart() and not install.restart_pending()
    install.confirm(ready(readiness))
    assert install.resumed_after_restart(), "not well yet"
    install.confirm(good)
    assert slicer.kept == {} and not install.resumed_after_restart()
    slicer.kept[install.RESTART_KEY] = "not JSON"
    assert not install.restart_pending() and not install.resumed_after_restart()


def wheel(folder: Path, name: str, version: str) -> None:
    """The smallest wheel pip takes."""
    records = f"{name}-{version}.dist-info"
    folder.mkdir()
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}/__init__.py", f"__version__ = {version!r}\n")
        file.writestr(f"{records}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{records}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{records}/RECORD", "")


def test_offline_folder_with_real_pip(python: Python, readiness: Any, slicer: Slicer, tmp_path: Path) -> None:
    """From missing to ready, and from a folder without a fitting wheel to a sentence; folders with spaces and accents."""
    pytest.importorskip("pip")

    def pip_install(arguments: list[str]) -> None:
        command = [sys.executable, "-m", "pip", "--python", str(python.program), "install", *arguments]
        environment = {**os.environ, "PYTHONUTF8": "1"}
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False, env=environment)
        print(done.stdout + done.stderr)
        done.check_returncode()

    slicer.util.pip_install = pip_install
    for path in python.site.glob("safetensors*"):
        path.unlink()
    wheel(tmp_path / "whéels here", "safetensors", "0.9.9")
    made = python.install.plan(ready(readiness, missing=("safetensors",)), wheels=str(tmp_path / "whéels here"))
    heard: list[str] = []
    python.install.install(made, log=heard.append)
    assert any("Successfully installed safetensors-0.9.9" in line for line in heard)
    assert python.probe().missing == ("torch",)
    (tmp_path / "empty").mkdir()
    torch = python.install.plan(ready(readiness, missing=("torch",)), wheels=str(tmp_path / "empty"))
    with pytest.raises(MassError, match="no build of the package"):
        python.install.install(torch, log=heard.append)


def test_python_slicer(install: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MassError, match=r"PythonSlicer.*was not found in .*Slicer") as caught:
        install.worker_command()
    assert "MASS_PYTHON" in caught.value.cure
    name = "PythonSlicer.exe" if os.name == "nt" else "PythonSlicer"
    for folder in (tmp_path / "Slicer/bin", tmp_path / "bin"):
        folder.mkdir(parents=True)
        (folder / name).write_bytes(b"")
        (folder / name).chmod(0o755)
        assert install.python_slicer() == str(folder / name)
    assert install.worker_command() == [str(tmp_path / "bin" / name), "-m", "mass_core", "worker"]
    monkeypatch.setenv("MASS_PYTHON", sys.executable)
    assert install.python_slicer() == sys.executable
    monkeypatch.setenv("MASS_PYTHON", "/no/such/python")
    with pytest.raises(MassError, match="/no/such/python, which cannot be run"):
        install.python_slicer()


def test_weights_are_listed_with_what_consent_needs(weights: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASS_HOME", str(tmp_path))
    known = {entry.name: entry for entry in weights.listed()}
    assert known["small"].where == "bundled" and known["small"].size == "10 MB" and not known["small"].removable
    base = known["mass_base"]
    text = weights.consent_text(base)
    assert base.where == "available" and base.host == "huggingface.co" and base.licence == "MIT"
    assert all(words in text for words in ("0.5 to 1 GB", "huggingface.co", "Licence: MIT", str(tmp_path / "weights"), "nothing is sent"))
    (weights.folder() / "mass_base.pth").write_bytes(b"x" * 2_000_000)
    there = next(entry for entry in weights.listed() if entry.name == "mass_base")
    assert there.removable and there.size == "2 MB"
    assert weights.remove("mass_base") == tmp_path / "weights/mass_base.pth"
    with pytest.raises(InputError):
        weights.remove("mass_base")


def test_browsed_weights_are_verified_where_they_are(
    weights: Any, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASS_PYTHON", sys.executable)
    path = tmp_path / "wéights of Dr. X.safetensors"
    shutil.copy(tiny_weights, path)
    chosen = weights.browsed(path)
    assert (chosen.where, chosen.path, chosen.removable) == ("file", path, False)

    def verified() -> dict[str, Any]:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "utf-8"}
        command = weights.verify_command(chosen)
        done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=False, timeout=120)
        return json.loads(done.stdout.splitlines()[-1])

    assert verified()["event"] == "result"
    path.write_bytes(path.read_bytes()[:-100])
    assert verified()["event"] == "failed"
    for wrong in (tmp_path / "nothing.pth", tmp_path):
        with pytest.raises(WeightsError, match="is not a file"):
            weights.browsed(wrong)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(WeightsError, match="no weights file") as caught:
        weights.browsed(tmp_path / "notes.txt")
    assert ".safetensors" in caught.value.cure
    assert weights.download_command("mass_base")[1:] == ["-m", "mass_core", "weights", "download", "mass_base", "--json"]
