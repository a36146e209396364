"""mass masks --method sam2 and labels: with a network whose answers are known, and with SAM2's own where it is installed."""

import functools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mass_core.cli import main
from mass_core.cli import masks as command
from mass_core.masks.mask_set import MaskSet
from mass_core.volumes.volume import Geometry, Volume
from Testing.core.test_from_slices import SPACING, Seer, scene

GEOMETRY = Geometry(shape_zyx=scene().shape, spacing_xyz=SPACING[::-1], origin_xyz=(3.0, -4.0, 5.0))


def mass(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """images/ and labels/ of four scans."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name in "abcd":
        Volume(scene(), GEOMETRY).write(tmp_path / "images" / f"{name}.nii.gz")
        Volume((scene() == 150).astype(np.uint8) * 5, GEOMETRY).write(tmp_path / "labels" / f"{name}.nii.gz")
    return tmp_path


@pytest.fixture
def seer(monkeypatch: pytest.MonkeyPatch) -> list[Seer]:
    """Stands in for the network; the list holds one for each time it was loaded."""
    loaded: list[Seer] = []

    def load(arguments: Any, config: Any) -> Seer:
        loaded.append(Seer())
        return loaded[-1]

    monkeypatch.setattr(command, "_loaded", load)
    return loaded


def run(scans: Path, *more: object, images: str = "images") -> int:
    fine = (
        "--points-per-side",
        16,
        "--crop-layers",
        0,
        "--min-voxels",
        60,
        "--interval",
        12,
        "--modality",
        "mr",
        "--profile",
        "cardiac_mr",
    )
    return mass("masks", scans / images, "--output", scans / "masks", "--method", "sam2", *fine, "--body-crop", "none", *more)


def test_masks_lie_on_the_scans_own_voxels_and_tell_where_they_come_from(scans: Path, seer: list[Seer]) -> None:
    assert run(scans, "--picture", images="images/a.nii.gz") == 0
    assert (scans / "masks" / "a.png").read_bytes().startswith(b"\x89PNG")
    masks = MaskSet.read(scans / "masks" / "a.masks")
    assert masks.shape_zyx == GEOMETRY.shape_zyx and masks.spacing_zyx == GEOMETRY.spacing_zyx
    # Stored in LPS, the masks lie in RAS: first axis kept, the other two turned round.
    expected = scene()[:, ::-1, ::-1]
    values = [np.unique(expected[masks.full(number)]).tolist() for number in range(len(masks))]
    assert [200.0] in values and all(len(value) == 1 for value in values)
    assert masks.meta["method"] == "sam2" and masks.meta["settings"]["grid"]["points_per_side"] == 16
    assert set(masks.meta["per_mask"]) == {"predicted_iou", "stability", "axis", "slice"}
    assert all(len(column) == len(masks) for column in masks.meta["per_mask"].values())


def test_shards_share_the_work(scans: Path, seer: list[Seer], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(scans, "--shard", "2/3") == 0
    assert sorted(path.name for path in (scans / "masks").iterdir()) == ["b.masks", "summary_2of3.csv"]
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(scans) == 0
    assert sorted(path.name for path in (scans / "masks").glob("*.masks")) == ["a.masks", "b.masks", "c.masks"]
    assert (scans / "masks" / "summary_1of2.csv").exists()
    assert run(scans, "--shard", "1/1") == 0 and len(seer) == 3
    assert run(scans, "--shard", "1/1") == 0 and len(seer) == 3, "nothing is loaded where nothing is to be done"


@pytest.mark.parametrize("shard", ["0/3", "4/3", "2", "a/b", "1/0", "-1/2"])
def test_shards_that_do_not_exist_are_refused(scans: Path, shard: str, capsys: pytest.CaptureFixture) -> None:
    assert run(scans, f"--shard={shard}") == 2
    assert "I from 1 to N" in capsys.readouterr().err


def test_more_shards_than_scans(scans: Path, seer: list[Seer]) -> None:
    assert run(scans, "--shard", "9/9") == 0 and seer == []


def test_progress_tells_the_stages(scans: Path, seer: list[Seer], capsys: pytest.CaptureFixture) -> None:
    assert run(scans, "--json", images="images/a.nii.gz") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"masks", "2D masks", "3D masks"} == {event["stage"] for event in events if event["event"] == "progress"}


def test_labels_alone_and_with_other_masks(scans: Path, seer: list[Seer]) -> None:
    output = ("--modality", "mr", "--body-crop", "none", "--output", scans / "labelled")
    assert mass("masks", scans / "images", "--method", "labels", "--labels", scans / "labels", *output) == 0
    masks = MaskSet.read(scans / "labelled" / "c.masks")
    assert len(masks) == 1 and np.array_equal(masks.full(0), scene()[:, ::-1, ::-1] == 150) and masks.meta["per_mask"] == {"label": [5]}
    assert run(scans, "--labels", scans / "labels", images="images/a.nii.gz") == 0
    mixed = MaskSet.read(scans / "masks" / "a.masks")
    assert mixed.meta["per_mask"]["label"] == [None] * (len(mixed) - 1) + [5]


def test_a_scan_without_label_map_is_told_and_the_others_go_on(scans: Path, capsys: pytest.CaptureFixture) -> None:
    (scans / "labels" / "b.nii.gz").unlink()
    assert mass("masks", scans / "images", "--method", "labels", "--labels", scans / "labels", "--output", scans / "out") == 3
    assert "There is no label map of b" in capsys.readouterr().err and len(list((scans / "out").glob("*.masks"))) == 3


def test_what_is_missing_is_told_before_anything_is_computed(scans: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    assert mass("masks", scans / "images", "--method", "labels", "--output", scans / "out") == 2
    assert "Add --labels DIR" in capsys.readouterr().err
    assert mass("masks", scans / "images", "--method", "labels", "--labels", scans / "none", "--output", scans / "out") == 2
    assert "There is no folder" in capsys.readouterr().err
    for missing in ("sam2", "sam2.build_sam"):
        monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "mass_core.masks.slicewise.sam2", raising=False)
    assert run(scans) == 2
    assert "docs/masks.md" in capsys.readouterr().err and not (scans / "masks").exists()


def test_a_wrong_profile_is_told(scans: Path, seer: list[Seer], capsys: pytest.CaptureFixture) -> None:
    assert run(scans, "--profile", "abdomen_ct", images="images/a.nii.gz") == 2
    assert "is for CT, the scan is MR" in capsys.readouterr().err


def test_long_work_is_told_once_before_it_begins(
    scans: Path, seer: list[Seer], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Six seed slices of 20 minutes are two hours; what takes minutes is not worth a word."""
    monkeypatch.setattr("mass_core.masks.slicewise.pipeline.seconds_per_slice", lambda *_: 1200.0)
    assert run(scans) == 0
    warned = capsys.readouterr().err
    assert warned.count("take about 2.0 h: 6 seed slices of 20.0 min.") == 1 and "--crop-layers 0" in warned
    monkeypatch.setattr("mass_core.masks.slicewise.pipeline.seconds_per_slice", lambda *_: 10.0)
    assert run(scans, "--overwrite") == 0 and "seed slices" not in capsys.readouterr().err


@pytest.mark.parametrize("strategy", ["three", "linear", "single"])
def test_channels_are_those_asked_for(scans: Path, seer: list[Seer], strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three ranges show a grey value differently, one range alike."""
    pictures = []
    monkeypatch.setattr(Seer, "encode_image", lambda self, image: pictures.append(image) or image[..., 0])
    assert run(scans, "--channels", strategy, images="images/a.nii.gz") == 0
    colours = np.unique(np.stack(pictures).reshape(-1, 3), axis=0)
    assert np.any(colours != colours[:, :1]) == (strategy == "three") and len(colours) > 1
    assert MaskSet.read(scans / "masks" / "a.masks").meta["settings"]["channels"] == strategy


def test_the_real_network_goes_the_whole_way(scans: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Random weights of SAM2.1 tiny at 128 pixels, from a file, on a scan of few slices."""
    pytest.importorskip("sam2", reason="SAM2 is not installed: see docs/masks.md")
    import torch

    from mass_core.masks.slicewise import sam2 as sam2_backend
    from Testing.core.random_sam2 import random_network

    network = random_network("configs/sam2.1/sam2.1_hiera_t.yaml", 128)
    torch.save({"model": network.state_dict()}, scans / "tiny.pt")
    monkeypatch.setattr(sam2_backend, "build", functools.partial(sam2_backend.build, image_size=128))
    part = Volume(scene()[:8], GEOMETRY.cropped(((0, 0, 0), (8, 40, 48))))
    part.write(scans / "few.nii.gz")
    more = ("--weights", scans / "tiny.pt", "--device", "cpu", "--min-voxels", 1, "--points-per-side", 4)
    assert run(scans, *more, images="few.nii.gz") == 0
    masks = MaskSet.read(scans / "masks" / "few.masks")
    assert masks.shape_zyx == (8, 40, 48) and masks.meta["settings"]["weights"] == str(scans / "tiny.pt")
    assert masks.meta["settings"]["fill_holes"] == 8 and masks.meta["settings"]["grid"]["small_regions"] == 0
    if not torch.cuda.is_available():
        assert run(scans, *more, "--compile", "--overwrite", images="few.nii.gz") == 2
        assert "needs a CUDA device and Triton" in capsys.readouterr().err
    assert run(scans, *more, "--fill-holes", -1, "--overwrite", images="few.nii.gz") == 2
    assert "Give 0 to fill none" in capsys.readouterr().err
    assert run(scans, "--weights", "sam2.1_hiera_large", "--overwrite", images="few.nii.gz") == 2
    assert "mass weights download sam2.1_hiera_large" in capsys.readouterr().err
