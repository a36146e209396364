"""The released script's results, reproduced by the command with `--recipe released`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mass_core.cli import main
from mass_core.volumes.volume import Volume

from .golden import recipe

CASES = ("ct_oblique_multilabel", "mr_sagittal_two_refs_ema", "ct_small_target_flipped", "auto_modality_bspline_no_reorient")
OPTIONS = {
    "--image-interp": "--interpolation",
    "--target-spacing": "--spacing",
    "--max-classes-per-forward": "--classes-per-pass",
    "--reference-label": "--labels",
    "--use-ema": "--ema",
    "--no-largest-component": "--no-keep-largest",
    "--body-method": "--body-crop",
}
"""The released script's options that have another name here."""


def checkpoint(shared: Path, case: dict[str, Any], path: Path) -> None:
    """A released checkpoint, as the golden outputs were computed from."""
    golden = recipe(shared)
    weights = {key: torch.from_numpy(value) for key, value in golden.state_dict(case["weights"], case["salt"]).items()}
    averaged = {key: value * case["ema_scale"] for key, value in weights.items()}
    config = {"evaluation": {"window_size": case["window_zyx"], "overlap": case["overlap"]}}
    torch.save({"config": config, "model": weights, "ema_model": averaged, "epoch": 1}, path)


@pytest.mark.parametrize("name", CASES)
def test_same_as_the_released_script(name: str, shared: Path, tmp_path: Path) -> None:
    folder = shared / "golden/e2e" / name
    case = json.loads((folder / "case.json").read_text())
    checkpoint(shared, case, tmp_path / "weights.pth")
    references = [
        ["--reference", str(folder / f"reference{n}.nii.gz"), str(folder / f"reference{n}_mask.nii.gz")] for n in range(case["references"])
    ]
    options = [OPTIONS.get(option, option) for option in case["options"]]
    result = tmp_path / "result.nii.gz"
    run = ["segment", "--weights", str(tmp_path / "weights.pth"), "--recipe", "released", *sum(references, []), *options]
    run += ["--target", str(folder / "target.nii.gz"), "--output", str(result), "--save-probabilities", "--device", "cpu"]
    assert main(run) == 0

    expected, found = Volume.read(folder / "expected.nii.gz"), Volume.read(result)
    assert found.geometry.matches(expected.geometry, 1e-3)
    values = [int(v) for v in np.unique(expected.array) if v]
    assert values, "the case shows something"
    for value in values:
        a, b = found.array == value, expected.array == value
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) >= 0.999
    maps = sorted(folder.glob("expected_label*_prob.nii.gz"))
    assert maps
    for path in maps:
        ours = Volume.read(tmp_path / path.name.replace("expected", "result"))
        difference = np.abs(ours.array - Volume.read(path).array).max()
        assert difference <= 2e-3, f"{path.name}: {difference}"
