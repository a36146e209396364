"""The demo runs on phantoms with any weights and leaves what it promises."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mass_core.cli import demo, main
from mass_core.cli.demo import Scan, file_names, table
from mass_core.data.phantoms import LABELS, subject
from mass_core.volumes.volume import Volume
from mass_core.weights.checkpoint import save_weights


@pytest.fixture
def coarse_weights(tiny_network, tiny_recipe, tmp_path: Path) -> str:
    """Random weights that see a phantom in a few windows."""
    path = tmp_path / "coarse.safetensors"
    save_weights(path, tiny_network, replace(tiny_recipe, spacing_zyx=(10.0, 10.0, 10.0), overlap=0.25), {"recipe": "tests"})
    return str(path)


def test_demo_writes_scans_masks_results_and_a_picture(
    coarse_weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "SUBJECTS", (2,))
    folder = tmp_path / "new" / "demo"
    assert main(["demo", "--output", str(folder), "--weights", coarse_weights, "--device", "cpu", "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    last = events[-1]
    assert last["event"] == "result" and set(last["dice"]) == {"ct_subject1", "mr_subject1"}
    assert sorted(folder.iterdir()) == sorted(file_names(folder))
    truth, found = Volume.read(folder / "mr_subject1_truth.nii.gz"), Volume.read(folder / "mr_subject1_seg.nii.gz")
    assert found.geometry.matches(truth.geometry)
    np.testing.assert_array_equal(truth.array, subject(2, "mr")[1].array)
    with Image.open(folder / "demo.png") as picture:
        assert min(picture.size) > 500 and len(picture.getcolors(1 << 24) or []) > 1000


def test_demo_does_not_replace_files_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "ct_reference.nii.gz"
    kept.write_bytes(b"mine")
    assert main(["demo", "--output", str(tmp_path)]) == 2
    assert "ct_reference.nii.gz exists already" in capsys.readouterr().err
    assert kept.read_bytes() == b"mine" and list(tmp_path.iterdir()) == [kept]


def test_table_shows_each_subject_and_the_mean() -> None:
    image, labels = subject(0, shape_zyx=(8, 8, 8), spacing_zyx=(40.0, 40.0, 40.0))
    scans = [Scan(name="", title="", image=image, truth=labels, dice={v: share * v / 10 for v in LABELS}) for share in (0, 0.5, 1)]
    lines = table({"ct": scans, "mr": scans}).splitlines()
    assert lines[3].split() == ["liver", "0.00", "0.05", "0.10", "0.05", "0.00", "0.05", "0.10", "0.05"]
    assert lines[-1].split() == ["mean", "0.00", "0.20", "0.40", "0.20", "0.00", "0.20", "0.40", "0.20"]
