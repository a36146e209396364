"""Slicer stays usable: with large scans, with many of them, and when memory runs short."""

import pytest

from mass_core.errors import MemoryShort
from mass_core.worker.client import Client

pytest.importorskip("slicer", reason="the package slicer-core is not installed: pip install '.[slicer]'")
import slicer

from Testing.slicer import patients


@pytest.fixture
def handled(clinic, monkeypatch):
    """Files Slicer's own process writes and reads for the worker: ("write" or "read", number of voxels, whether compressed)."""
    from MASSSlicerLib.scene import node_files

    found, write, read = [], node_files.write, node_files.read

    def noted_write(node, path, *, compressed=False):
        found.append(("write", node.GetImageData().GetNumberOfPoints(), compressed))
        write(node, path, compressed=compressed)

    def noted_read(path, node):
        result = read(path, node)
        found.append(("read", result.GetImageData().GetNumberOfPoints(), False))
        return result

    monkeypatch.setattr(node_files, "write", noted_write)
    monkeypatch.setattr(node_files, "read", noted_read)
    return found


@pytest.mark.slow
def test_little_of_a_large_scan_passes_through_the_window(clinic, handled):
    """The scan is written once, as it is; of masks and results what holds something; surfaces, which take longest, wait for the end."""
    clinic.reference, clinic.segmentation = patients.large(1, "abdomen", (2, 2, 2))
    clinic.segmentation.CreateClosedSurfaceRepresentation()
    clinic.bench.process_events()
    clinic.choose_reference()
    clinic.parameters.targetVolumes = [clinic.reference]
    clinic.bench.process_events()
    whole = clinic.reference.GetImageData().GetNumberOfPoints()
    clinic.press(clinic.ui.segmentButton)
    clinic.press(clinic.ui.segmentButton)
    assert clinic.results()[0][1] == "done", clinic.results()
    assert handled.count(("write", whole, False)) == 1
    assert not any(compressed for _, _, compressed in handled)
    assert all(voxels < whole / 4 for kind, voxels, _ in handled if (kind, voxels) != ("write", whole)), (whole, handled)
    segmentations = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    assert len(segmentations) == 3 and not has_surface(segmentations[-1]), "not before the run is over"
    clinic.bench.wait_until(lambda: all(map(has_surface, segmentations)))


def has_surface(segmentation):
    return segmentation.GetSegmentation().ContainsRepresentation("Closed surface")


@pytest.mark.usefixtures("quick")
def test_the_processor_goes_on_where_the_graphics_card_lacks_memory(clinic, monkeypatch):
    """With the user's consent only; what is done stays."""
    from PySide6 import QtCore

    clinic.ready("first", "second")
    original, asked = Client.request, []

    def request(client, method, params, **callbacks):
        """A card on which only the first target has room."""
        if method != "segment":
            return original(client, method, params, **callbacks)
        asked.append(params["device"])
        if len(asked) == 1 or params["device"] == "cpu":
            return original(client, method, {**params, "device": "cpu"}, **callbacks)
        QtCore.QTimer.singleShot(1, lambda: callbacks["failed"](MemoryShort("Not enough memory: 2 GiB.")))
        return None

    monkeypatch.setattr(Client, "request", request)
    monkeypatch.setattr(type(clinic.window.status), "gpu", True)
    clinic.bench.answer("question", False)
    clinic.press(clinic.ui.segmentButton)
    assert [row[1] for row in clinic.results()] == ["done", "failed"] and asked == ["auto", "auto"]
    assert "Continue on the processor?" in clinic.bench.shown[-1][1]
    clinic.bench.answer("question", True)
    clinic.press(clinic.ui.resumeButton)
    clinic.bench.wait_until(lambda: not clinic.widget.logic.busy)
    assert [row[1] for row in clinic.results()] == ["done", "done"] and asked == ["auto", "auto", "auto", "cpu"]


@pytest.mark.usefixtures("quick")
def test_many_scans_leave_nothing_behind(study, tmp_path):
    """Nodes, temporary files and the worker's memory stay what they are after the first few."""
    from MASSSlicerLib.runs.cases import Case

    scans = [tmp_path / f"{number}.nrrd" for number in range(10)]
    for number, path in enumerate(scans):
        study.people[number % 3][0].write(path)
    reference = study.reference()
    nodes, memory = slicer.mrmlScene.GetNumberOfNodes(), []
    original = study.client.request

    def request(method, params, *, done, **others):
        return original(method, params, done=lambda reply: (memory.append(reply["peak_memory"]), done(reply)), **others)

    study.client.request = request
    try:
        (tmp_path / "results").mkdir()
        destination = study.module.Destination(folder=tmp_path / "results", ending=".nii.gz")
        run = study.run([reference], [Case(path.stem, path=path) for path in scans], destination=destination)
    finally:
        del study.client.request
    assert [case.status for case in run.cases] == ["done"] * 10
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes
    left = sorted(path.suffix for path in study.exports.folder.iterdir())
    assert left == [".masstask", ".nrrd", ".nrrd"], "the task, and the reference with its mask"
    # 10 scans of 0.4 MB are kept within their limit of 1 GiB; what every scan left behind beside that would add up.
    assert max(memory[-3:]) < max(memory[3:6]) + (20 << 20)
