"""The testbench's parameterNodeWrapper: Slicer's rules, Slicer's storage."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest


class Kind(Enum):
    ONE = 1
    TWO = 2


@pytest.fixture
def parameters(request):
    """One parameter of each type in its node, on a bench where the test has one, else on a host."""
    request.getfixturevalue("bench" if "bench" in request.fixturenames else "host")
    import slicer
    from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper

    @parameterNodeWrapper
    class Parameters:
        name: str = "a"
        count: Annotated[int, WithinRange(0, 10)] = 3
        share: float = 0.5
        on: bool
        kind: Kind
        path: Path
        choice: Annotated[str, Choice(("u", "v"))] = "v"
        node: slicer.vtkMRMLScalarVolumeNode
        nodes: list[slicer.vtkMRMLScalarVolumeNode]
        words: list[str]

    Parameters.__module__ = __name__
    return Parameters(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))


def test_parameters_have_defaults_and_refuse_what_does_not_fit(parameters):
    assert (parameters.name, parameters.count, parameters.share, parameters.on) == ("a", 3, 0.5, False)
    assert (parameters.kind, parameters.path, parameters.choice, parameters.node) == (Kind.ONE, Path(), "v", None)
    for name, value, error in (
        ("count", 11, ValueError),
        ("count", 1.5, TypeError),
        ("name", None, ValueError),
        ("choice", "w", ValueError),
        ("kind", "ONE", TypeError),
        ("path", "/tmp", TypeError),
        ("words", [1], TypeError),
    ):
        with pytest.raises(error):
            setattr(parameters, name, value)
    assert (parameters.count, parameters.choice, list(parameters.words)) == (3, "v", [])


def test_lists_write_through(parameters):
    import slicer

    volumes = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name) for name in ("a", "b")]
    parameters.nodes.append(volumes[0])
    parameters.nodes += [volumes[1]]
    again = type(parameters)(parameters.parameterNode)
    assert [node.GetName() for node in again.nodes] == ["a", "b"]
    with pytest.raises(TypeError):
        parameters.nodes.append(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode"))
    assert len(again.nodes) == 2
    parameters.nodes.remove(volumes[0])
    assert list(again.nodes) == [volumes[1]]
    slicer.mrmlScene.RemoveNode(volumes[1])
    assert list(type(parameters)(parameters.parameterNode).nodes) == [None]
    with pytest.raises(NotImplementedError):
        parameters.words + ["x"]


def test_two_wrappers_of_one_node_agree(parameters):
    other = type(parameters)(parameters.parameterNode)
    other.name = "changed"
    assert parameters.name == "changed"
    parameters.words = ["x", "y"]
    assert other.words == ["x", "y"]


@pytest.mark.parametrize("ending", [".mrb", ".mrml"])
def test_parameters_come_back_with_the_scene(parameters, tmp_path, ending):
    import slicer

    parameters.count, parameters.kind, parameters.words = 7, Kind.TWO, ["x"]
    parameters.node = slicer.util.addVolumeFromArray(np.zeros((3, 3, 3), np.int16), name="scan")
    parameters.nodes = [parameters.node]
    if ending == ".mrml":
        assert slicer.util.saveNode(parameters.node, str(tmp_path / "scan.nrrd"))
    path = str(tmp_path / f"scene{ending}")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(path, {"clear": True})
    again = type(parameters)(slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")[0])
    assert (again.count, again.kind, list(again.words)) == (7, Kind.TWO, ["x"])
    assert again.node.GetName() == "scan"
    assert again.nodes[0] is again.node


@pytest.mark.parametrize(
    ("widget", "name", "bound"),
    [
        ("qt.QCheckBox", "on", True),
        ("ctk.ctkCheckBox", "on", True),
        ("qt.QToolButton", "on", False),
        ("qt.QSpinBox", "count", True),
        ("ctk.ctkSliderWidget", "count", True),
        ("ctk.ctkSliderWidget", "share", False),  # no range
        ("ctk.ctkDoubleSpinBox", "share", True),
        ("qt.QLineEdit", "name", True),
        ("ctk.ctkPathLineEdit", "path", True),
        ("ctk.ctkPathLineEdit", "name", False),  # takes Path, not str
        ("qt.QComboBox", "kind", True),
        ("qt.QComboBox", "choice", True),
        ("qt.QComboBox", "name", False),  # no choices
        ("slicer.qMRMLNodeComboBox", "node", True),
        ("slicer.qMRMLNodeComboBox", "nodes", False),
    ],
)
def test_only_pairs_of_widget_and_type_that_slicer_knows_are_bound(bench, parameters, widget, name, bound):
    from importlib import import_module

    module, kind = widget.split(".")
    made = getattr(import_module(module), kind)()
    if not bound:
        with pytest.raises(RuntimeError):
            parameters.connectParametersToGui({name: made})
        return
    tag = parameters.connectParametersToGui({name: made})
    parameters.disconnectGui(tag)
    parameters.disconnectGui(tag)
