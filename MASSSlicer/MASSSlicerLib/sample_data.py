"""The sample scans of the tutorial: two phantoms that come with the extension, so nothing is downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import slicer

FOLDER = Path(__file__).resolve().parents[1] / "Resources/SampleData"
FILES = {
    "phantom_reference.nrrd": "SHA256:08438234afbcf7a4f9690da0f32e7a14231760c73317b9b8c9cf85aa99fd2a95",
    "phantom_reference_liver.seg.nrrd": "SHA256:fbf4b3e3f4dcabd6bf4b92d063f6f56d441b1f87db521c94911ff9f156fcf2e0",
    "phantom_target.nrrd": "SHA256:fe56951e121602bc4c03d83ea6f3d10c1de9d6e0ba4b84e920b2a89311b6ecfd",
    "phantom_target_liver.seg.nrrd": "SHA256:74d5998b9d7006972add28e6f10774d0b973f6d4f995342957fef51e46d7a111",
}
"""Files and their checksums, as Slicer's module Sample Data verifies them."""
NAME = "MASS phantoms"


@dataclass(frozen=True)
class Samples:
    """The phantoms in the scene."""

    reference: slicer.vtkMRMLScalarVolumeNode
    segmentation: slicer.vtkMRMLSegmentationNode
    """Liver of the reference."""
    target: slicer.vtkMRMLScalarVolumeNode
    truth: slicer.vtkMRMLSegmentationNode
    """Liver of the target, to compare with."""


def register_sample_data() -> None:
    """Offer the phantoms in the module Sample Data."""
    import SampleData

    names = list(FILES)
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="MASS",
        sampleName=NAME,
        uris=[(FOLDER / name).as_uri() for name in names],
        fileNames=names,
        checksums=list(FILES.values()),
        nodeNames=[name.split(".")[0] for name in names],
        loadFileType=["SegmentationFile" if ".seg." in name else "VolumeFile" for name in names],
        thumbnailFileName=str(FOLDER.parent / "Icons/MASSSlicer.png"),
    )


def load_samples() -> Samples:
    """Load the phantoms into the scene."""
    reference, target = (slicer.util.loadVolume(str(FOLDER / f"phantom_{which}.nrrd")) for which in ("reference", "target"))
    drawn, truth = (slicer.util.loadSegmentation(str(FOLDER / f"phantom_{which}_liver.seg.nrrd")) for which in ("reference", "target"))
    return Samples(reference, drawn, target, truth)
