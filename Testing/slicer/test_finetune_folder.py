"""Finetuning on a folder of scans and label maps. The test plays the worker's part."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from mass_core import Volume
from mass_core.errors import InputError

pytest.importorskip("slicer", reason="the package slicer-core is not installed: pip install '.[slicer]'")
from Testing.slicer.patients import LIVER, SPLEEN
from Testing.slicer.trainer import begin, lines, ready


def folder_of(clinic, folder, *people, masks="labels", ending="", names=()):
    """Scans and label maps on disk."""
    for number in people:
        image, truth = clinic.people[number]
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / masks).mkdir(exist_ok=True)
        image.write(folder / "images" / f"p{number}.nii.gz")
        kept = np.where(np.isin(truth.array, (LIVER, SPLEEN)), truth.array, 0).astype(np.uint8)
        Volume(kept, truth.geometry).write(folder / masks / f"p{number}{ending}.nii.gz")
    if names:
        (folder / "dataset.json").write_text(json.dumps({"labels": {"0": "background"} | {str(n): x for n, x in enumerate(names, 1)}}))


def add_folder(clinic, folder):
    clinic.bench.answer("folder", str(folder))
    clinic.ui.addAnnotatedButton.click()
    clinic.bench.wait_until(lambda: not clinic.window.finetune.cases.looking)


def test_a_folder_of_scans_and_label_maps(clinic, trainer, tmp_path):
    """Counted in a process of its own; segmentations of the scene come in beside it, by name."""
    folder_of(clinic, tmp_path / "data", 0, 1, names=("spleen", "liver"))
    add_folder(clinic, tmp_path / "data")
    assert lines(clinic.ui.annotatedTable) == [["p0.nii.gz", "p0.nii.gz"], ["p1.nii.gz", "p1.nii.gz"]]
    assert lines(clinic.ui.classesTable) == [["spleen", "2 of 2"], ["liver", "2 of 2"]]
    ready(clinic, ("kidney", "liver"))
    assert lines(clinic.ui.classesTable) == [["kidney", "1 of 3"], ["liver", "3 of 3"], ["spleen", "2 of 3"]]
    begin(clinic, trainer)
    assert {look["name"]: value for value, look in trainer.params["appearance"].items()} == {"kidney": "3", "liver": "2", "spleen": "1"}
    assert trainer.params["cases"][1]["image"] == str(tmp_path / "data/images/p0.nii.gz") and trainer.params["cases"][0]["labels"] == [2, 3]
    trainer.finish()
    assert (tmp_path / "data/images/p0.nii.gz").exists(), "the user's files stay"
    clinic.ui.annotatedTable.setCurrentCell(1, 0)
    clinic.ui.removeAnnotatedButton.click()
    assert clinic.ui.annotatedTable.rowCount == 2 and clinic.ui.annotatedTable.item(1, 0).text() == "p1.nii.gz"


@pytest.mark.parametrize("overlap", [False, True])
def test_segmentations_of_several_layers_are_read_unless_they_overlap(host, tmp_path, overlap):
    from MASSSlicerLib.processes import survey

    layers = np.zeros((4, 5, 6, 2), np.uint8)
    layers[1, :, :, 0], layers[1 if overlap else 2, :, :, 1] = 1, 2
    image = sitk.GetImageFromArray(layers, isVector=True)
    for number, name in enumerate(("liver", "spleen")):
        for key, text in (("Name", name), ("Layer", number), ("LabelValue", number + 1), ("Color", "1 0 0")):
            image.SetMetaData(f"Segment{number}_{key}", str(text))
    sitk.WriteImage(image, str(tmp_path / "drawn.seg.nrrd"))
    found = survey._labels_of(str(tmp_path / "drawn.seg.nrrd"))
    assert ("overlap" in found["error"]) if overlap else ([x["name"] for x in found["labels"]] == ["liver", "spleen"])


def test_label_maps_that_cannot_be_used_are_told(clinic, trainer, tmp_path):
    folder_of(clinic, tmp_path / "data", 0)
    (tmp_path / "data/images/p1.nii.gz").write_bytes(b"no image")
    (tmp_path / "data/labels/p1.nii.gz").write_bytes(b"no image")
    add_folder(clinic, tmp_path / "data")
    assert [row[0] for row in lines(clinic.ui.annotatedTable)] == ["p0.nii.gz"], "the others count"
    assert clinic.bench.shown[-1][0] == "error" and "p1.nii.gz" in clinic.bench.shown[-1][1]
    assert [row[0] for row in lines(clinic.ui.classesTable)] == ["label 1", "label 2"]
    (tmp_path / "nothing").mkdir()
    clinic.bench.answer("folder", str(tmp_path / "nothing"))
    clinic.ui.addAnnotatedButton.click()
    assert "imagesTr and labelsTr" in clinic.bench.shown[-1][1]


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["images/a.nii.gz", "labels/a.nii.gz", "labels/b.nii.gz"], ["a"]),
        (["imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"], ["a_0000"]),
        (["a.nrrd", "a.seg.nrrd", "b.nii.gz", "b_mask.nii.gz", "c.nrrd", "c-label.nrrd", "d.nrrd", "e_seg.nrrd"], ["a", "b", "c"]),
        (["a.nrrd", "a_label.nrrd", "b.nrrd"], ["a"]),
    ],
)
def test_scans_are_paired_with_label_maps_by_name(host, tmp_path, files, found):
    from MASSSlicerLib.runs import folders

    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    assert [image.name.split(".")[0] for image, _ in folders.pairs_in(tmp_path)] == found


def test_label_maps_that_disagree_are_refused(host, tmp_path):
    from MASSSlicerLib.runs import annotated

    one = annotated.of_files(Path("a"), Path("a.seg.nrrd"), [{"value": 1, "name": "liver"}], {})
    two = annotated.of_files(Path("b"), Path("b.seg.nrrd"), [{"value": 2, "name": "liver"}], {})
    three = annotated.of_files(Path("c"), Path("c.nrrd"), [{"value": 1}], {1: "spleen"})
    with pytest.raises(InputError, match="liver is 2; in others, liver is 1"):
        annotated.numbers([one, two], ["liver"])
    with pytest.raises(InputError, match="spleen is 1; in others, liver is 1"):
        annotated.numbers([one, three], ["liver"])
    assert annotated.numbers([two], ["heart", "liver"]) == {"heart": 1, "liver": 2}
    with pytest.raises(InputError, match="is empty"):
        annotated.of_files(Path("c"), Path("c.nrrd"), [], {})
    with pytest.raises(InputError, match="the name “liver”"):
        annotated.of_files(Path("c"), Path("c.nrrd"), [{"value": 1}, {"value": 2}], {1: "liver", 2: "liver"})
