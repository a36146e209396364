"""The user's choices, saved and restored with the scene."""

from __future__ import annotations

from typing import Annotated

from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper

EPOCHS, MINUTES = "epochs", "minutes"


@parameterNodeWrapper
class MASSSlicerParameterNode:
    """Parameters of a scene, whose choices fill the combo boxes. Device and window layout belong to the computer: Slicer's settings."""

    # Three lists in step: the reference number i.
    referenceVolumes: list[vtkMRMLScalarVolumeNode]
    referenceSegmentations: list[vtkMRMLSegmentationNode]
    referenceSegments: list[str]
    """Segment IDs as a JSON list; an empty list stands for all segments."""
    taskFile: str
    """Task file used instead of references; empty: references."""

    targetVolumes: list[vtkMRMLScalarVolumeNode]
    targetFiles: list[str]
    """Image files, or folders with one DICOM series."""

    allFrames: bool = False
    """Of targets that show a sequence: every frame, not only the one that is shown."""

    toFiles: bool = False
    outputSegmentation: vtkMRMLSegmentationNode
    """Gets the new segments; None: a new segmentation for each target."""
    outputFolder: str
    outputFormat: Annotated[str, Choice((".seg.nrrd", ".nii.gz"))] = ".seg.nrrd"
    skipDone: bool = True
    resultName: str = "{target} MASS"
    assess: bool = False
    """Also estimate the quality of each result."""
    adaptSeconds: Annotated[int, WithinRange(1, 3600)] = 30

    weights: str = "small"
    recipe: Annotated[str, Choice(("default", "released"))] = "default"
    align: Annotated[str, Choice(("auto", "off", "only"))] = "auto"
    """auto: alignment and network together. off: the network alone. only: the aligned masks alone."""
    precision: Annotated[str, Choice(("auto", "float32", "bfloat16", "float16"))] = "auto"
    ownSettings: bool = False
    """Off: window, overlap, threshold and parts are those the weights were made for."""
    window: Annotated[int, WithinRange(16, 256)] = 32
    overlap: Annotated[float, WithinRange(0.0, 0.9)] = 0.25
    threshold: Annotated[float, WithinRange(0.05, 0.95)] = 0.5
    parts: Annotated[str, Choice(("reference", "largest", "all"))] = "reference"

    # Two lists in step: the annotated scan number i, to finetune on.
    tuneSegmentations: list[vtkMRMLSegmentationNode]
    tuneVolumes: list[vtkMRMLScalarVolumeNode]
    tuneFiles: list[str]
    """Scans with label maps on disk, and the labels found in them, as JSON objects."""
    tuneUnticked: list[str]
    """Names of the structures that are not learned."""
    tuneWeights: str = "small"
    tuneAmount: Annotated[int, WithinRange(1, 100000)] = 20
    tuneUnit: Annotated[str, Choice((EPOCHS, MINUTES))] = EPOCHS
    tuneName: str
