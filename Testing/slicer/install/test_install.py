"""Plans and installations, with small stand-ins for the parts of Slicer that differ between its versions."""

import importlib
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from mass_core.errors import Cancelled, MassError, WeightsError
from Testing.slicer.install.stand_ins import Python, Slicer, lines


def ready(readiness: Any, **values: Any) -> Any:
    return readiness.Readiness(**{"ready": False, "torch": None, "missing": ("safetensors", "torch"), **values})


def test_plan_names_packages_sizes_and_what_stays(install: Any, readiness: Any) -> None:
    made = install.plan(ready(readiness))
    assert [p.name for p in made.packages] == ["torch", "safetensors"] and not made.obstacle and not made.by_extension
    text = made.text()
    assert (
        "torch>=2.4" in text and "250 MB" in text and "numpy, scipy, SimpleITK are not changed" in text and "pip installs PyTorch" in text
    )
    assert install.plan(ready(readiness, ready=True, missing=())).packages == ()


def test_plan_with_a_gpu_is_larger(install: Any, readiness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert install.CPU_INDEX in install.plan(ready(readiness)).pip_options
    large = install.plan(ready(readiness, gpu="NVIDIA RTX 4090"))
    assert "3.0 GB" in large.text() and install.CPU_INDEX not in large.pip_options
    monkeypatch.setattr(sys, "platform", "win32")
    windows = install.plan(ready(readiness, gpu="NVIDIA RTX 4090"))
    assert "install the PyTorch extension first" in windows.text() and "torch>=2.4,!=2.13.*" in windows.text()


def test_pytorch_for_the_processor_gives_way_to_one_for_the_card(install: Any, readiness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = readiness.read_probe(lines(readiness), 0)
    monkeypatch.setattr(sys, "platform", "linux")
    made = install.plan(found)
    assert made.remove == ("torch",) and "only. Install… replaces it" in made.text() and install.CPU_INDEX not in made.pip_options
    monkeypatch.setattr(sys, "platform", "win32")
    assert install.plan(found).packages == () and install.plan(found).remove == (), "pip would install its like again"
    extension(monkeypatch, lambda torchVersionRequirement: object())
    assert install.plan(found).by_extension and install.plan(found).remove == ("torch",)


def test_plans_that_cannot_be_carried_out(install: Any, readiness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Slicer's own scipy cannot be found" in install.plan(ready(readiness, missing=("scipy", "torch"))).obstacle
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=5e8))
    assert "needs about 628 MB of disk space" in install.plan(ready(readiness)).obstacle
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert "MASS_PYTHON" in install.plan(ready(readiness)).obstacle
    monkeypatch.setenv("MASS_PYTHON", sys.executable)
    assert install.plan(ready(readiness, ready=True, missing=())).obstacle == "", "nothing is to do"
    stopped = install.plan(ready(readiness))
    assert 'pip install "torch>=2.4" "safetensors>=0.4"' in stopped.obstacle
    with pytest.raises(MassError, match="Install the packages there yourself"):
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
        ("OSError: [Errno 13] Permission denied: '/opt/Slicer/lib'", "not writable", "folder of your own"),
        ("WARNING: Retrying: SSLError(SSLCertVerificationError(1, 'CERTIFICATE_VERIFY_FAILED'))", "not trusted", "PIP_CERT"),
        (
            f"WARNING: Retrying after connection broken by '{PROXY}'\nERROR: No matching distribution found for torch",
            "proxy",
            "HTTPS_PROXY",
        ),
        ("Max retries exceeded: getaddrinfo failed\nERROR: No matching distribution found for torch", "cannot be reached", "wheels"),
        ("UnicodeDecodeError: 'charmap' codec can't decode byte 0x9d", "characters", "without accents"),
        ("ERROR: No matching distribution found for torch>=2.4", "No build", "Update Slicer"),
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
    with pytest.raises(MassError, match="No build of the package"):
        python.install.install(torch, log=heard.append)


def test_python_slicer(slicer: Slicer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = importlib.import_module("MASSSlicerLib.processes.python")
    with pytest.raises(MassError, match=r"PythonSlicer.*was not found in .*Slicer") as caught:
        python.worker_command()
    assert "MASS_PYTHON" in caught.value.cure
    name = "PythonSlicer.exe" if os.name == "nt" else "PythonSlicer"
    for folder in (tmp_path / "Slicer/bin", tmp_path / "bin"):
        folder.mkdir(parents=True)
        (folder / name).write_bytes(b"")
        (folder / name).chmod(0o755)
        assert python.python_slicer() == str(folder / name)
    assert python.worker_command() == [str(tmp_path / "bin" / name), "-m", "mass_core", "worker"]
    monkeypatch.setenv("MASS_PYTHON", sys.executable)
    assert python.python_slicer() == sys.executable
    monkeypatch.setenv("MASS_PYTHON", "/no/such/python")
    with pytest.raises(MassError, match="/no/such/python, which cannot be run"):
        python.python_slicer()


def test_weights_are_listed_with_what_consent_needs(weights: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASS_HOME", str(tmp_path))
    known = {entry.name: entry for entry in weights.listed()}
    assert known["small"].where == "bundled" and known["mass_base"].where == "available"
    text = weights.consent_text(known["mass_base"])
    assert all(
        words in text for words in ("0.5 to 1 GB", "huggingface.co", "Licence: MIT", str(tmp_path / "weights"), "Nothing is uploaded")
    )
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/mass_base.pth").write_bytes(b"x" * 2_000_000)
    assert next(entry for entry in weights.listed() if entry.name == "mass_base").where == "downloaded"
    assert not any("sam2" in name for name in known), "they make masks, and segment nothing here"


def test_browsed_weights_are_a_file_of_weights(weights: Any, tmp_path: Path) -> None:
    path = tmp_path / "wéights of Dr. X.safetensors"
    path.write_bytes(b"x")
    weights.check_file(path)
    for wrong in (tmp_path / "nothing.pth", tmp_path):
        with pytest.raises(WeightsError, match="is not a file"):
            weights.check_file(wrong)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(WeightsError, match="is not a weights file") as caught:
        weights.check_file(tmp_path / "notes.txt")
    assert ".safetensors" in caught.value.cure
