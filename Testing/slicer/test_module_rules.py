"""Rules of the module's code that a running Slicer would punish late or only on somebody else's computer."""

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest

MODULE = Path(__file__).resolve().parents[2] / "MASSSlicer"
FILES = sorted(MODULE.rglob("*.py"))
IMAGES = {"grids.py", "node_files.py", "exchange.py", "segments.py", "selftest.py"}
"""Files that touch voxels."""
OURS = {
    *("colors", "config", "data.scan_files", "errors", "files", "outputs", "progress", "weights.store", "worker.client", "worker.protocol"),
    *("remote.connection", "remote.hosts", "remote.reasons", "remote.ssh"),
}
"""Of mass_core: what needs the standard library only."""
ALONE = {"survey.py"}
"""Run by another Python as a script of its own, where all of mass_core is to be had."""


def imports(tree):
    """Every module a file imports, with the line; those that probe.py and the like look up by name do not count."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            whole = node.module in ("mass_core", "mass_core.remote", "mass_core.weights", "mass_core.worker")
            names = [f"{node.module}.{alias.name}" for alias in node.names] if whole else [node.module]
            yield from ((name, node.lineno) for name in names)


def allowed(name, file):
    top, _, rest = name.partition(".")
    if file.name in ALONE and top in ("mass_core", "numpy"):
        return True
    if top == "mass_core":
        return rest in OURS | {""}
    if top in ("numpy", "vtk"):
        return file.name in IMAGES or (top == "vtk" and name == "vtk")
    return top in sys.stdlib_module_names or top in ("slicer", "qt", "ctk", "MASSSlicerLib", "SampleData", "DICOMLib")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_file_imports_what_slicer_has(file):
    """Nothing that would have to be installed first, and of mass_core the layer that needs the standard library only."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert [f"{name} (line {line})" for name, line in imports(tree) if not allowed(name, file)] == []


def test_the_modules_of_mass_core_used_here_need_the_standard_library_only():
    names = importlib.import_module("Testing.core.test_imports")
    assert {name for name in OURS if names.layer_of(f"mass_core.{name}") != "stdlib"} == set()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_file_is_safe_with_qt_5_and_6(file):
    """No name that Qt 6 or Python 3.12 removed, nor one of slicer.util that only slicer-core has in `slicer` itself."""
    text = file.read_text(encoding="utf-8")
    gone = r"QRegExp\b|QTextCodec|QDesktopWidget|setMargin\(|\.margin\b|\bqt\.QTime\(|^import imp$|distutils|qt\.QThread|qt\.Signal"
    assert re.findall(gone, text, re.MULTILINE) == []
    pytest.importorskip("slicer")
    import slicer.util

    util = {name for name in vars(slicer.util) if name[0].islower() and callable(getattr(slicer.util, name))}
    assert {name for name in re.findall(r"\bslicer\.([a-z]\w+)\(", text) if name in util} == set()


def calls(file):
    """Every call in a file, with what is called as text."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_constructors_of_qt_take_no_joined_flags(file):
    """They are a plain int to PythonQt, for which it takes the first overload with any enumeration."""
    made = [node for name, node in calls(file) if re.fullmatch(r"qt\.Q\w+", name)]
    values = [value for node in made for value in (*node.args, *(one.value for one in node.keywords))]
    assert [value.lineno for value in values if isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitOr)] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_process_that_does_not_start_is_noticed(file):
    """Its signal finished() is never sent."""
    text = file.read_text(encoding="utf-8")
    assert "qt.QProcess()" not in text or '"errorOccurred(QProcess::ProcessError)"' in text or ".waitForStarted(" in text


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_a_timer_calls_is_still_wanted(file):
    """A single shot cannot be taken back: what it calls looks first whether its owner still is there. Other timers are stopped."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    bodies = {
        node.name: node.body[1:] if ast.get_docstring(node) else node.body for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    }
    shots = [node.args[-1] for name, node in calls(file) if name.endswith((".singleShot", "._later"))]
    called = [bodies[shot.attr] for shot in shots if isinstance(shot, ast.Attribute)]
    assert len(called) == len([shot for shot in shots if ast.unparse(shot) != "step"]), "methods, which can look"
    assert all(any(isinstance(line, ast.If) and isinstance(line.body[-1], ast.Return) for line in body[:2]) for body in called)
    made = [name for name, _ in calls(file) if name == "qt.QTimer"]
    assert len(made) <= len([name for name, _ in calls(file) if name == "self._timer.stop"])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_names_that_slicer_gets_late_are_not_taken_for_granted(file):
    """Names that exist only after a module was opened are read with getattr."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names = {name for name in used if re.fullmatch(r"slicer(\.modules)?\.[a-zA-Z]\w*", name) and not re.match(r"slicer\.(vtk|qMRML)", name)}
    early = {"slicer.app", "slicer.modules", "slicer.mrmlScene", "slicer.packaging", "slicer.util"}
    assert names <= early | {f"slicer.modules.{name}" for name in ("MASSSlicerWidget", "plots", "sequences")}


def test_no_selector_chooses_by_itself():
    """Every selector of a node is made by `selector`, or given to `empty_when_removed`."""
    made = [file.name for file in FILES for name, _ in calls(file) if name.endswith("qMRMLNodeComboBox")]
    assert made == ["selectors.py"]
    form = (MODULE / "Resources/UI/MASSSlicer.ui").read_text(encoding="utf-8")
    emptied = [ast.unparse(node.args[0]) for file in FILES for name, node in calls(file) if name == "empty_when_removed"]
    assert {f"ui.{name}" for name in re.findall(r'class="qMRMLNodeComboBox" name="(\w+)"', form)} <= set(emptied)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_file_is_short(file):
    limit = 100 if file.name == "MASSSlicer.py" else 400
    assert len(file.read_text(encoding="utf-8").splitlines()) <= limit


def test_windows_need_no_english_only_words():
    """Texts for users go through the translator; names, formats and keys are not words."""
    words = re.compile(r"[A-Za-z]{3,} [a-z]{2,}")
    shown = {"setText", "addAction", "addItem", "setToolTip", "setWindowTitle"}
    missing = []
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            plain = (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and (node.func.attr in shown or node.func.attr.endswith("Display"))
                and node.args
                and isinstance(node.args[0], ast.Constant)
                and isinstance(node.args[0].value, str)
                and words.search(node.args[0].value)
            )
            if plain:
                missing.append(f"{file.name}:{node.lineno}")
    assert missing == []
