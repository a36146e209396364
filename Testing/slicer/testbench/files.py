"""Files of nodes and scenes: the part of qSlicerCoreIOManager that `slicer.util` asks for."""

from __future__ import annotations

import os
from typing import Any

import slicer

# File type: node class, storage class, endings.
_KINDS = {
    "SegmentationFile": ("vtkMRMLSegmentationNode", "vtkMRMLSegmentationStorageNode", (".seg.nrrd", ".seg.nhdr", ".seg.vtm")),
    "ModelFile": ("vtkMRMLModelNode", "vtkMRMLModelStorageNode", (".vtk", ".vtp", ".stl", ".ply", ".obj")),
    "TransformFile": ("vtkMRMLTransformNode", "vtkMRMLTransformStorageNode", (".h5", ".tfm")),
    "TextFile": ("vtkMRMLTextNode", "vtkMRMLTextStorageNode", (".txt",)),
}
_LABELMAP, _CENTER, _SINGLE_FILE = 1, 2, 4


class NodeFiles:
    """Reads and writes with the real storage nodes."""

    def fileType(self, path: str) -> str:
        """The kind of file a name stands for; what is nothing else is a volume."""
        name = str(path).lower()
        if name.endswith((".mrml", ".mrb")):
            return "SceneFile"
        return next((kind for kind, (_, _, endings) in _KINDS.items() if name.endswith(endings)), "VolumeFile")

    def fileWriterFileType(self, node: slicer.vtkMRMLStorableNode) -> str:
        """The kind of file a node is written as."""
        return next((kind for kind, (node_class, _, _) in _KINDS.items() if node.IsA(node_class)), "VolumeFile")

    def loadNodes(self, kind: str, properties: dict[str, Any], nodes: Any = None, messages: Any = None) -> bool:
        """Read a file into the scene; the node read is added to the collection `nodes`."""
        path = properties["fileName"]
        if kind == "SceneFile":
            return _read_scene(path, bool(properties.get("clear", False)))
        name = properties.get("name") or os.path.basename(path).split(".")[0]
        node = _read_volume(path, name, properties) if kind == "VolumeFile" else _read_node(path, name, kind)
        if node is not None and nodes is not None:
            nodes.AddItem(node)
        return node is not None

    def saveNodes(self, kind: str, properties: dict[str, Any], messages: Any = None) -> bool:
        """Write a node of the scene, or the scene."""
        path = str(properties["fileName"])
        if kind == "SceneFile":
            return _write_scene(path)
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        node.AddDefaultStorageNode()
        storage = node.GetStorageNode()
        storage.SetFileName(path)
        storage.SetUseCompression(int(properties.get("useCompression", storage.GetUseCompression())))
        return bool(storage.WriteData(node))


def _read_scene(path: str, clear: bool) -> bool:
    scene = slicer.mrmlScene
    if path.endswith(".mrb"):
        return bool(scene.ReadFromMRB(path, clear))
    scene.SetURL(path)
    return bool(scene.Connect() if clear else scene.Import())


def _write_scene(path: str) -> bool:
    scene = slicer.mrmlScene
    if path.endswith(".mrb"):
        return bool(scene.WriteToMRB(path))
    if path.endswith(".mrml"):
        scene.SetURL(path)
        return bool(scene.Commit())
    return bool(slicer.app.applicationLogic().SaveSceneToSlicerDataBundleDirectory(path, None))


def _read_volume(path: str, name: str, properties: dict[str, Any]) -> slicer.vtkMRMLVolumeNode | None:
    flags = {"labelmap": _LABELMAP, "center": _CENTER, "singleFile": _SINGLE_FILE}
    options = sum(flag for key, flag in flags.items() if properties.get(key))
    return slicer.modules.volumes.logic().AddArchetypeVolume(path, name, options)


def _read_node(path: str, name: str, kind: str) -> slicer.vtkMRMLStorableNode | None:
    node_class, storage_class, _ = _KINDS[kind]
    scene = slicer.mrmlScene
    node = scene.AddNewNodeByClass(node_class, name)
    storage = scene.AddNewNodeByClass(storage_class)
    storage.SetFileName(path)
    if not storage.ReadData(node):
        scene.RemoveNode(storage)
        scene.RemoveNode(node)
        return None
    node.SetAndObserveStorageNodeID(storage.GetID())
    if isinstance(node, slicer.vtkMRMLDisplayableNode):
        node.CreateDefaultDisplayNodes()
    return node
