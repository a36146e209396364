"""The phantoms the extension ships."""

import hashlib
import sys
import types

import numpy as np


def test_files_are_those_the_checksums_tell(host):
    from MASSSlicerLib.sample_data import FILES, FOLDER

    found = {path.name: f"SHA256:{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in FOLDER.iterdir()}
    assert found == FILES


def test_they_are_offered_in_sample_data(host, monkeypatch):
    """As Slicer's module Sample Data takes them: lists in step, addresses of files on this computer."""
    offered = []
    logic = types.SimpleNamespace(registerCustomSampleDataSource=lambda **values: offered.append(values))
    monkeypatch.setitem(sys.modules, "SampleData", types.SimpleNamespace(SampleDataLogic=logic))
    from MASSSlicerLib.sample_data import register_sample_data

    register_sample_data()
    (source,) = offered
    lists = [source[name] for name in ("uris", "fileNames", "checksums", "nodeNames", "loadFileType")]
    assert {len(values) for values in lists} == {4}
    assert all(uri.startswith("file://") for uri in source["uris"])
    assert sorted(source["loadFileType"]) == ["SegmentationFile"] * 2 + ["VolumeFile"] * 2


def test_they_are_phantoms_with_the_liver_marked(host):
    import slicer
    from MASSSlicerLib.sample_data import load_samples

    from mass_core.data.phantoms import subject
    from Testing.slicer.make_samples import LIVER, PEOPLE, SHAPE_ZYX, SPACING_ZYX

    samples = load_samples()
    for volume, segmentation, name in (
        (samples.reference, samples.segmentation, "reference"),
        (samples.target, samples.truth, "target"),
    ):
        image, labels = subject(PEOPLE[name], "ct", shape_zyx=SHAPE_ZYX, spacing_zyx=SPACING_ZYX)
        # The files hold whole numbers, and processors round the last digit of what is drawn differently: one unit, a few voxels of a mask.
        np.testing.assert_allclose(slicer.util.arrayFromVolume(volume), image.array, atol=1.01)
        segment_id = segmentation.GetSegmentation().GetNthSegmentID(0)
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment_id, volume) > 0
        assert np.count_nonzero(mask != (labels.array == LIVER)) <= 3
        segment = segmentation.GetSegmentation().GetSegment(segment_id)
        assert segment.GetName() == "liver" and "Liver" in segment.GetTerminology()
