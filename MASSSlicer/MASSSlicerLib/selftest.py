"""The self test inside Slicer: from a drawn reference to a result in another scan, on the sample phantoms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import slicer
from slicer.i18n import tr as _

from .install.packages import torch_at_hand
from .logic import MASSSlicerLogic
from .runs.order import Reference
from .sample_data import load_samples
from .scene import exchange as scene

if TYPE_CHECKING:
    from slicer.ScriptedLoadableModule import ScriptedLoadableModuleTest

LEAST_DICE = 0.4
"""Of the liver. Far below the bundled weights' result, far above a shifted, flipped or empty one."""


def run_self_test(test: ScriptedLoadableModuleTest) -> None:
    """Segment the liver of one phantom after that of another.

    Args:
        test: shows progress by `delayDisplay`, and asserts.

    Raises:
        unittest.SkipTest: where PyTorch is not installed, as on the machines that build Slicer's extensions.
    """
    if not torch_at_hand():
        test.skipTest(_("PyTorch is not installed: see Status, Install…"))
    logic = MASSSlicerLogic()
    try:
        test.delayDisplay(_("Loading two phantoms"))
        samples = load_samples()
        test.delayDisplay(_("Segmenting the second with the first as reference"))
        run = logic.segment([Reference(samples.reference, samples.segmentation)], [samples.target])
        logic.wait(run, seconds=600)
        (case,) = run.cases
        test.assertEqual(case.status, "done", case.message)
        segmentation = slicer.mrmlScene.GetNodeByID(case.segmentation_id)
        (segment_id,) = case.segment_ids
        names = [style.name for style in scene.label_styles(segmentation, [segment_id]).values()]
        test.assertEqual(names, ["liver"])
        found = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment_id, samples.target) > 0
        truth = slicer.util.arrayFromSegmentBinaryLabelmap(samples.truth, scene.segment_ids(samples.truth)[0], samples.target) > 0
        dice = 2 * np.count_nonzero(found & truth) / (np.count_nonzero(found) + np.count_nonzero(truth))
        test.assertGreater(dice, LEAST_DICE)
        test.delayDisplay(_("Test passed: Dice {dice:.2f}").format(dice=dice))
    finally:
        logic.close()
