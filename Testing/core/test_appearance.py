"""Names, colours and meanings of labels in segmentation files."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from mass_core.colors import LabelStyle
from mass_core.volumes.appearance import appearance_of, read_appearance


def test_appearance_of_a_slicer_segmentation() -> None:
    fields = {
        "Segment0_LabelValue": "3",
        "Segment0_Name": "liver",
        "Segment0_Color": "0.5 0.25 1",
        "Segment0_Tags": "Segmentation.Status:inprogress|TerminologyEntry:Segmentation category and type~SCT^10200004^Liver|",
        "Segment1_LabelValue": "4",
    }
    found = appearance_of(fields)
    assert found[3] == LabelStyle(name="liver", color=(0.5, 0.25, 1.0), terminology="Segmentation category and type~SCT^10200004^Liver")
    assert found[4] == LabelStyle(name="label 4")


def test_read_from_a_file(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.ones((3, 3, 3), np.uint8))
    image.SetMetaData("Segment0_LabelValue", "1")
    image.SetMetaData("Segment0_Name", "left kidney")
    for name, expected in (("x.seg.nrrd", {1: LabelStyle(name="left kidney")}), ("x.nii.gz", {})):
        sitk.WriteImage(image, str(tmp_path / name))
        assert read_appearance(tmp_path / name) == expected
    (tmp_path / "broken.nrrd").write_text("no header")
    assert read_appearance(tmp_path / "broken.nrrd") == {}
