"""Runs without a window: Slicer's scene, a real worker, the bundled weights, small phantoms."""

import csv
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mass_core import Volume
from mass_core.errors import InputError

pytest.importorskip("slicer", reason="the package slicer-core is not installed: pip install '.[slicer]'")
from Testing.slicer.patients import LIVER, SPACING_ZYX, SPLEEN


def test_one_reference_segments_another_person(study):
    import slicer

    target = study.volume(1, "target")
    run = study.run([study.reference()], [study.case(target)])
    (case,) = run.cases
    assert study.ends == [None] and case.status == "done", case.message
    node = slicer.mrmlScene.GetNodeByID(case.segmentation_id)
    assert node.GetName() == "target MASS"
    (segment_id,) = case.segment_ids
    segment = node.GetSegmentation().GetSegment(segment_id)
    assert segment.GetName() == "liver"
    np.testing.assert_allclose(segment.GetColor(), (0.9, 0.5, 0.4))
    assert study.dice(case, target, 1) > 0.4
    found = study.mask(case, target)
    assert case.volumes_ml["liver"] == pytest.approx(found.sum() * np.prod(SPACING_ZYX) / 1000, rel=1e-6)
    assert study.told == [("target", "running"), ("target", "done")]
    fractions = [p.fraction for p in study.progress]
    assert fractions == sorted(fractions) and fractions[-1] > 0.5


def test_the_result_is_that_of_the_command(study, tmp_path):
    """The same voxels as `mass segment` finds with the same files."""
    import subprocess
    import sys

    reference, target = study.reference(), study.volume(1, "target")
    study.scene.write_volume(reference.volume, tmp_path / "reference.nrrd")
    study.scene.write_volume(target, tmp_path / "target.nrrd")
    study.scene.write_masks(reference.volume, reference.segmentation, dict.fromkeys(reference.chosen(), 1), tmp_path / "mask.nrrd")
    names = ("--reference", "reference.nrrd", "mask.nrrd", "--target", "target.nrrd", "--output", "out.nrrd")
    command = [sys.executable, "-m", "mass_core", "segment", *names, "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, env=environment)
    run = study.run([reference], [study.case(target)])
    np.testing.assert_array_equal(study.mask(run.cases[0], target), Volume.read(tmp_path / "out.nrrd").array)


@pytest.mark.usefixtures("quick")
def test_segments_of_one_name_are_one_structure(study):
    """Two references of the liver, one of which also shows the spleen."""
    references = [study.reference(0), study.reference(1, (SPLEEN, "spleen"))]
    run = study.run(references, [study.case(study.volume(2, "target"))])
    assert list(run.cases[0].volumes_ml) == ["liver", "spleen"]


@pytest.mark.usefixtures("quick")
def test_chosen_segments_only(study):
    reference = study.reference(0, (SPLEEN, "spleen"))
    only = study.module.Reference(reference.volume, reference.segmentation, ("spleen",))
    run = study.run([only], [study.case(study.volume(2, "target"))])
    assert list(run.cases[0].volumes_ml) == ["spleen"]


@pytest.mark.usefixtures("quick")
def test_one_bad_case_does_not_stop_the_others(study, tmp_path):
    from MASSSlicerLib.runs.cases import Case

    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    empty = study.slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    good = study.volume(1, "good")
    gone = study.volume(2, "gone")
    cases = [Case("broken", path=tmp_path / "broken.nii.gz"), study.case(empty), study.case(gone), study.case(good)]
    study.slicer.mrmlScene.RemoveNode(gone)
    run = study.run([study.reference()], cases)
    assert [case.status for case in run.cases] == ["failed", "failed", "failed", "done"]
    assert "no image data" in run.cases[1].message and "removed" in run.cases[2].message
    assert all("\n" in case.message for case in run.cases[:3]), "cause and cure"


def test_bad_references_stop_the_whole_run_before_it_begins(study):
    target = study.volume(1, "target")
    reference = study.reference()
    reference.segmentation.GetSegmentation().RemoveAllSegments()
    with pytest.raises(InputError, match="no segment"):
        study.begin([reference], [study.case(target)])
    with pytest.raises(InputError, match="no target"):
        study.begin([study.reference()], [])
    assert study.told == [] and study.ends == []


def test_weights_that_are_not_there_end_the_run_with_the_reason(study):
    settings = study.module.Settings(weights="nowhere.safetensors", device="cpu")
    run = study.run([study.reference()], [study.case(study.volume(1, "target"))], settings=settings)
    (error,) = study.ends
    assert "nowhere" in error.message and error.cure
    assert run.cases[0].status == "stopped"


@pytest.mark.usefixtures("quick")
def test_files_and_table(study, tmp_path):
    from MASSSlicerLib.runs.cases import Case

    scans = [study.volume(1, "a/b: c"), study.volume(2, "a/b: c")]
    study.scene.write_volume(scans[0], tmp_path / "on disk.nrrd")
    folder = tmp_path / "results é"
    folder.mkdir()
    destination = study.module.Destination(folder=folder, ending=".nii.gz")
    cases = [*map(study.case, scans), Case("on disk", path=tmp_path / "on disk.nrrd")]
    before = study.slicer.mrmlScene.GetNumberOfNodes()
    reference = study.reference()
    made = study.slicer.mrmlScene.GetNumberOfNodes()
    run = study.run([reference], cases, destination=destination)
    assert study.slicer.mrmlScene.GetNumberOfNodes() == made > before, "the scene stays as it is"
    names = ["MASS_summary.csv", "a_b_ c_2_seg.nii.gz", "a_b_ c_seg.nii.gz", "on disk_seg.nii.gz"]
    assert sorted(path.name for path in folder.iterdir()) == names
    with (folder / "MASS_summary.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["done"] * 3
    assert [float(row["volume_ml"]) for row in rows] == [pytest.approx(case.volumes_ml["liver"], rel=1e-3) for case in run.cases]
    np.testing.assert_array_equal(Volume.read(cases[0].output).array, Volume.read(cases[2].output).array)

    # Once more: nothing is computed anew, but for what is gone.
    cases[1].output.unlink()
    again = study.run([reference], [study.case(scan) for scan in scans], destination=destination)
    assert [case.status for case in again.cases] == ["skipped", "done"]


@pytest.mark.usefixtures("quick")
def test_files_of_references_and_targets_are_not_written_over(study, tmp_path):
    """Also where results replace older ones, and by another name of the folder."""
    folder, link = tmp_path / "patients", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder, target_is_directory=True)
    reference, names = study.reference(), ("drawn", "scan", "file", "other")
    assert study.slicer.util.saveNode(reference.segmentation, str(folder / "drawn.seg.nrrd"))
    scans = [study.volume(1, name) for name in names]
    assert study.slicer.util.saveNode(scans[1], str(folder / "scan.seg.nrrd"))
    study.scene.write_volume(scans[2], folder / "file.seg.nrrd")
    cases = [study.case(scan) for scan in scans]
    cases[2] = replace(cases[2], volume_id="", path=folder / "file.seg.nrrd")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    destination = study.module.Destination(folder=link, ending=".seg.nrrd", skip_done=False)
    run = study.run([reference], cases, destination=destination)
    assert [case.status for case in run.cases] == ["failed", "failed", "failed", "done"]
    assert all("is an input of this run" in case.message and "another name" in case.message for case in run.cases[:3])
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.usefixtures("quick")
def test_a_segmentation_file_carries_names_and_colours(study, tmp_path):
    destination = study.module.Destination(folder=tmp_path, ending=".seg.nrrd")
    run = study.run([study.reference()], [study.case(study.volume(1, "target"))], destination=destination)
    assert run.cases[0].output == tmp_path / "target.seg.nrrd"
    segment = study.slicer.util.loadSegmentation(str(run.cases[0].output)).GetSegmentation().GetNthSegment(0)
    assert segment.GetName() == "liver"


@pytest.mark.usefixtures("quick")
def test_cancel_and_resume(study):
    cases = [study.case(study.volume(number, f"target {number}")) for number in (1, 2)]
    before = study.slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    run = study.begin([study.reference()], cases)
    study.wait(run, until=lambda: ("target 1", "running") in study.told)
    run.cancel()
    assert not run.active, "the window is free at once"
    assert [case.status for case in run.cases] == ["stopped", "stopped"] and study.ends == [None]
    study.until(lambda: not study.client.busy)
    assert len(study.slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == len(before) + 1, "the reference only"
    run.resume()
    study.wait(run)
    assert [case.status for case in run.cases] == ["done", "done"]
    assert study.ends == [None, None]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
@pytest.mark.usefixtures("quick")
def test_a_worker_killed_in_mid_run_costs_its_target_only(study):
    cases = [study.case(study.volume(number, f"target {number}")) for number in (1, 2)]
    run = study.begin([study.reference()], cases)
    study.wait(run, until=lambda: any(p.fraction > 0.1 for p in study.progress))
    os.kill(study.client.transport.pid, signal.SIGKILL)
    study.wait(run)
    assert [case.status for case in run.cases] == ["failed", "done"]
    assert "worker ended" in run.cases[0].message


@pytest.mark.usefixtures("quick")
def test_the_second_run_reuses_what_did_not_change(study):
    """An edited reference is encoded anew; network and prepared target stay."""
    reference, target = study.reference(), study.volume(1, "target")
    study.run([reference], [study.case(target)])
    exported = study.exports.volume(target)
    mask = study.patients.mask_of(reference.segmentation, "liver", reference.volume)
    mask[mask.nonzero()[0][:50]] = 0
    study.patients.redraw(reference.segmentation, reference.volume, mask, "liver")
    replies = []
    original = study.client.request

    def spy(method, params, *, done=None, **others):
        return original(method, params, done=lambda reply: (replies.append((method, reply)), done(reply)), **others)

    study.client.request = spy
    try:
        study.run([reference], [study.case(target)])
    finally:
        study.client.request = original
    (_, encoded), (_, segmented) = replies
    assert encoded["result"]["reused"]["model"] and encoded["result"]["reused"]["labels"] == 0
    assert segmented["result"]["reused"]["target"]
    assert study.exports.volume(target) == exported


def test_a_saved_task_needs_no_reference(study, tmp_path):
    first = study.run([study.reference()], [study.case(study.volume(1, "target"))])
    task = tmp_path / "liver.masstask"
    task.write_bytes(first.task_file.read_bytes())
    second = study.run(task, [study.case(study.volume(1, "the same"))])
    # The file holds no image to align: the network alone decides, and the note says so.
    assert second.cases[0].status == "done" and set(second.cases[0].volumes_ml) == set(first.cases[0].volumes_ml)
    assert any("no images to align" in note for note in second.cases[0].warnings)
    look = study.scene.label_styles(study.slicer.mrmlScene.GetNodeByID(second.cases[0].segmentation_id), second.cases[0].segment_ids)
    assert [(x.name, x.color) for x in look.values()] == [("liver", pytest.approx((0.9, 0.5, 0.4)))]


@pytest.mark.usefixtures("quick")
def test_results_for_a_segmentation_that_was_removed_are_told(study):
    into = study.slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    run = study.begin([study.reference()], [study.case(study.volume(1, "target"))], destination=study.module.Destination(into=into))
    study.slicer.mrmlScene.RemoveNode(into)
    study.wait(run)
    assert run.cases[0].status == "failed" and "removed" in run.cases[0].message


def test_every_frame_of_a_sequence(study):
    """Results browse along with the volume, and the frame that is shown stays what it is."""
    import slicer

    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "breathing")
    for number in (1, 2):
        frame = study.volume(number, f"frame {number}")
        sequence.SetDataNodeAtValue(frame, str(number))
        slicer.mrmlScene.RemoveNode(frame)
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    proxy = browser.GetProxyNode(sequence)
    proxy.SetName("breathing")
    browser.SetSelectedItemNumber(0)
    from MASSSlicerLib.runs.cases import Case
    from MASSSlicerLib.scene import sequences

    assert sequences.frames(proxy) == 2 and sequences.frames(study.volume(1)) == 0
    volumes = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")
    cases = [Case(f"breathing [{number + 1}]", volume_id=proxy.GetID(), frame=number) for number in range(2)]
    run = study.run([study.reference()], cases)
    assert [case.status for case in run.cases] == ["done", "done"], [case.message for case in run.cases]
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == volumes + 1, "the reference only"
    assert browser.GetSelectedItemNumber() == 0
    found = slicer.mrmlScene.GetNodeByID(run.cases[0].segmentation_id)
    assert run.cases[1].segmentation_id == found.GetID() and browser.IsProxyNodeID(found.GetID())
    for number, person in enumerate((1, 2)):
        browser.SetSelectedItemNumber(number)
        slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
        mask = study.patients.mask_of(found, study.scene.segment_ids(found)[0], proxy)
        assert study.patients.dice(mask, study.people[person][1].array == LIVER) > 0.3


@pytest.mark.usefixtures("quick")
def test_a_full_disk_is_told_and_costs_that_target_only(study, tmp_path, monkeypatch):
    """The table cannot be written either; the run goes on and says so once."""
    from MASSSlicerLib.runs import cases
    from MASSSlicerLib.runs import segmentation as run

    from mass_core.errors import OutputError

    def full(*arguments):
        raise OutputError("The disk is full.", "Free some space.")

    original = run.write_bytes
    monkeypatch.setattr(cases, "write_summary", full)
    monkeypatch.setattr(run, "write_bytes", lambda path, data: full() if "first" in path.name else original(path, data))
    destination = study.module.Destination(folder=tmp_path)
    ended = study.run(
        [study.reference()], [study.case(study.volume(n, name)) for n, name in ((1, "first"), (2, "second"))], destination=destination
    )
    assert [case.status for case in ended.cases] == ["failed", "done"]
    assert ended.warnings.count("The disk is full.\nFree some space.") == 1


@pytest.mark.usefixtures("quick")
def test_a_defect_costs_one_target_only(study, monkeypatch):
    from MASSSlicerLib.scene import exchange as scene

    original = scene.place_result
    monkeypatch.setattr(scene, "place_result", lambda volume, *a, **k: 1 / 0 if volume.GetName() == "first" else original(volume, *a, **k))
    run = study.run([study.reference()], [study.case(study.volume(n, name)) for n, name in ((1, "first"), (2, "second"))])
    assert [case.status for case in run.cases] == ["failed", "done"]
    assert "defect" in run.cases[0].message and "ZeroDivisionError" in run.cases[0].message
    assert "Traceback" in "".join(study.log)


@pytest.mark.usefixtures("quick")
def test_the_reference_as_a_target_is_told(study):
    reference = study.reference()
    run = study.run([reference], [study.case(reference.volume)])
    assert run.cases[0].status == "done" and "itself a reference" in run.cases[0].warnings[0]
