"""Wrong input to the command: exit code 2, a message with cause and cure, nothing written."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import save_file

from mass_core.cli import main
from mass_core.data import phantoms
from mass_core.errors import as_mass_error
from mass_core.outputs import serious
from mass_core.volumes.volume import Geometry, Volume

SHAPE = (24, 30, 34)


@dataclass(frozen=True)
class Case:
    """The files of one run, any of which a test may spoil."""

    folder: Path
    weights: Path
    image: Volume
    labels: Volume

    def path(self, name: str) -> Path:
        return self.folder / name

    def run(self, *more: object, reference: str = "reference.nii.gz", target: str = "target.nii.gz") -> int:
        pair = [str(self.path(reference)), str(self.path("mask.nii.gz"))]
        run = ["segment", "--weights", str(self.weights), "--reference", *pair, "--target", str(self.path(target))]
        run += ["--output", str(self.path("result.nii.gz")), "--spacing", "10", "10", "10", "--device", "cpu", "--modality", "ct"]
        return main(run + list(map(str, more)))


@pytest.fixture(scope="module")
def subject() -> tuple[Volume, Volume]:
    image, labels = phantoms.subject(0, shape_zyx=SHAPE, spacing_zyx=(12.0, 10.0, 10.0))
    return image, Volume((labels.array == 1).astype(np.uint8), labels.geometry)


@pytest.fixture
def case(subject: tuple[Volume, Volume], tiny_weights: Path, tmp_path: Path) -> Case:
    image, labels = subject
    case = Case(tmp_path, tiny_weights, image, labels)
    image.write(case.path("reference.nii.gz"))
    image.write(case.path("target.nii.gz"))
    labels.write(case.path("mask.nii.gz"))
    return case


Refused = Callable[..., str]


@pytest.fixture
def refused(case: Case, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run the case; it must be refused with one message and leave the folder as it was. Returns the message."""

    def run(*more: object, **files: str) -> str:
        before = sorted(case.folder.rglob("*"))
        code = case.run(*more, **files)
        message = capsys.readouterr().err
        assert code == 2, message
        assert "error:" in message and "Traceback" not in message
        assert len(message.strip().splitlines()) >= 2, f"no cure in: {message}"
        assert sorted(case.folder.rglob("*")) == before
        return message

    return run


def test_the_case_itself_is_good(case: Case) -> None:
    assert case.run() == 0
    assert case.path("result.nii.gz").is_file()


@pytest.mark.parametrize("name", ["reference.nii.gz", "mask.nii.gz", "target.nii.gz"])
def test_missing_file(case: Case, refused: Refused, name: str) -> None:
    case.path(name).unlink()
    assert f"There is no file {case.path(name)}" in refused()


@pytest.mark.parametrize("name", ["reference.nii.gz", "mask.nii.gz", "target.nii.gz"])
def test_not_an_image(case: Case, refused: Refused, name: str) -> None:
    case.path(name).write_text("just words")
    assert f"{name} is not an image" in refused()


def test_cut_off_image(case: Case, refused: Refused) -> None:
    data = case.path("target.nii.gz").read_bytes()
    case.path("target.nii.gz").write_bytes(data[: len(data) // 2])
    assert "damaged" in refused()


def test_flat_image(case: Case, refused: Refused) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((9, 9), np.float32)), str(case.path("target.nii.gz")))
    assert "is flat" in refused()


def test_4d_image_needs_a_frame(case: Case, refused: Refused) -> None:
    volume = case.image.to_sitk()
    sitk.WriteImage(sitk.JoinSeries([volume, volume]), str(case.path("target.nii.gz")))
    assert "holds 2 volumes" in refused()
    assert "Frame 2 is requested" in refused("--frame", 2)
    assert case.run("--frame", 1) == 0


def test_vector_image_needs_a_frame(case: Case, refused: Refused) -> None:
    volume = case.image.to_sitk()
    sitk.WriteImage(sitk.Compose([volume, volume, volume]), str(case.path("reference.nii.gz")))
    assert "3 values per voxel" in refused()
    assert case.run("--reference-frame", 0) == 0


def test_mask_somewhere_else(case: Case, refused: Refused) -> None:
    far = Geometry(shape_zyx=SHAPE, spacing_xyz=(10.0, 10.0, 12.0), origin_xyz=(5000.0, 0.0, 0.0))
    Volume(case.labels.array, far).write(case.path("mask.nii.gz"))
    assert "but another position or spacing" in refused()


def test_mask_of_another_grid_is_resampled_and_that_is_said(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    image = case.labels.to_sitk()
    finer = sitk.Expand(image, [2, 2, 2], sitk.sitkNearestNeighbor)
    sitk.WriteImage(finer, str(case.path("mask.nii.gz")))
    assert case.run() == 0
    assert "The mask has another grid than its image and was resampled by position." in capsys.readouterr().err


def test_empty_mask(case: Case, refused: Refused) -> None:
    Volume(np.zeros(SHAPE, np.uint8), case.labels.geometry).write(case.path("mask.nii.gz"))
    assert "mask is empty" in refused()


def test_absent_label(case: Case, refused: Refused) -> None:
    assert "Label 5 is in none of the reference masks; they hold 1" in refused("--labels", 1, 5)


def test_probability_map_as_mask(case: Case, refused: Refused) -> None:
    Volume(case.labels.array * np.float32(0.7), case.labels.geometry).write(case.path("mask.nii.gz"))
    assert "fractional values" in refused()


def test_reference_larger_than_the_window_is_told(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    Volume(np.ones(SHAPE, np.uint8), case.labels.geometry).write(case.path("mask.nii.gz"))
    pair = [str(case.path("reference.nii.gz")), str(case.path("mask.nii.gz"))]
    encode = ["--json", "encode", "--weights", str(case.weights), "--reference", *pair, "--spacing", "5", "5", "5", "--device", "cpu"]
    assert main([*encode, "--output", str(case.path("x.masstask"))]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    [result] = [line for line in lines if line["event"] == "result"]
    # 58 x 60 x 68 voxels of 5 mm, of which four windows of 32 show at most 131072.
    assert 0.3 < result["labels"][0]["kept"] <= 131072 / (57 * 60 * 68)
    assert any("exceeds the reference window" in text for text in serious(line.get("message", "") for line in lines))


@pytest.mark.parametrize("name", ["reference", "target"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("ending", ["nii.gz", "nii", "mha"])
def test_voxels_that_are_no_numbers(case: Case, refused: Refused, name: str, value: float, ending: str) -> None:
    """ITK's NIfTI reader makes them 0 without a word, so they are looked for in the file itself."""
    array = case.image.array.copy()
    array[3, 4, 5] = value
    array[9, 9, 9] = value
    Volume(array, case.image.geometry).write(case.path(f"bad.{ending}"))
    message = refused(**{name: f"bad.{ending}"})
    assert message.startswith("error: 2 ")
    assert "are not numbers (NaN or infinite), the first at index x, y, z (5, 4, 3)" in message


@pytest.mark.parametrize("name", ["reference", "target"])
def test_constant_image(case: Case, refused: Refused, name: str) -> None:
    Volume(np.full(SHAPE, 7, np.int16), case.image.geometry).write(case.path(f"{name}.nii.gz"))
    assert "nothing to segment" in refused()


def test_window_the_network_cannot_take(refused: Refused) -> None:
    assert "multiple of 16" in refused("--window", 40, 32, 32)
    assert "at most 32" in refused("--window", 48, 48, 48)
    assert "at least 32" in refused("--window", 16, 16, 16)


# Weights and tasks


def with_weights(case: Case, path: Path) -> Case:
    return Case(case.folder, path, case.image, case.labels)


def refuses_weights(case: Case, path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    before = sorted(case.folder.rglob("*"))
    assert with_weights(case, path).run() == 2
    message = capsys.readouterr().err
    assert "error:" in message and "Traceback" not in message
    assert sorted(case.folder.rglob("*")) == before
    return message


def test_missing_weights(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere" in refuses_weights(case, case.path("nowhere.safetensors"), capsys)
    assert "no_such_name" in refuses_weights(case, Path("no_such_name"), capsys)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_truncated_weights(case: Case, share: float, capsys: pytest.CaptureFixture[str]) -> None:
    data = case.weights.read_bytes()
    path = case.path("cut.safetensors")
    path.write_bytes(data[: int(share * len(data))])
    assert "cut.safetensors" in refuses_weights(case, path, capsys)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_weights_of_something_else(case: Case, ending: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = case.path(f"other.{ending}")
    tensors = {"layer.weight": torch.zeros(3, 3)}
    if ending == "pth":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    assert "other" in refuses_weights(case, path, capsys)


class Malicious:
    """Code that a careless reader would run."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.trace),))


def test_weights_with_code_in_them_are_not_run(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    path, trace = case.path("evil.pth"), case.path("it_ran")
    torch.save({"model": {"a": torch.zeros(1)}, "extra": Malicious(trace)}, path)
    assert "evil.pth" in refuses_weights(case, path, capsys)
    assert not trace.exists()


def test_task_of_other_weights(case: Case, tiny_network: torch.nn.Module, capsys: pytest.CaptureFixture[str]) -> None:
    from mass_core.config import Recipe
    from mass_core.model import MASS
    from mass_core.weights.checkpoint import save_weights

    other = case.path("other.safetensors")
    torch.manual_seed(1)
    assert isinstance(tiny_network, MASS)
    recipe = Recipe(window_zyx=(32, 32, 32), spacing_zyx=(3.0, 3.0, 3.0))
    save_weights(other, MASS(tiny_network.config), recipe, {}, dtype=torch.float32)
    pair = [str(case.path("reference.nii.gz")), str(case.path("mask.nii.gz"))]
    task, target, result = (str(case.path(name)) for name in ("x.masstask", "target.nii.gz", "result.nii.gz"))
    encode = ["encode", "--weights", str(case.weights), "--reference", *pair, "--spacing", "10", "10", "10", "--device", "cpu"]
    assert main([*encode, "--output", task]) == 0
    assert main(["segment", "--weights", str(other), "--task", task, "--target", target, "--output", result, "--device", "cpu"]) == 2
    message = capsys.readouterr().err
    assert "was encoded with the weights" in message and "encode the references again" in message
    assert not Path(result).exists()


def test_reference_and_task_at_once(refused: Refused) -> None:
    assert "given exactly once" in refused("--task", "x.masstask")


# Places to write to


def test_existing_result(case: Case, refused: Refused) -> None:
    case.path("result.nii.gz").write_text("precious")
    assert "exists already" in refused()
    assert case.path("result.nii.gz").read_text() == "precious"


def test_existing_probability_map(case: Case, refused: Refused) -> None:
    case.path("result_label1_prob.nii.gz").write_text("precious")
    assert "result_label1_prob.nii.gz exists already" in refused("--save-probabilities")


def test_folder_that_cannot_be_made(case: Case, refused: Refused) -> None:
    assert "cannot be made" in refused("--output", case.path("mask.nii.gz") / "sub" / "x.nii.gz", "--overwrite")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the owner of the machine may write everywhere")
def test_folder_without_permission(case: Case, refused: Refused) -> None:
    case.path("locked").mkdir(mode=0o500)
    assert "Cannot write into" in refused("--output", case.path("locked") / "x.nii.gz")


def test_full_disk(case: Case, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(image: sitk.Image, path: str, **_: object) -> None:
        Path(path).write_bytes(b"half a file")
        raise RuntimeError("itk::ERROR: File cannot be written: No space left on device")

    monkeypatch.setattr(sitk, "WriteImage", full)
    assert "No space left on device" in refused()


def test_unknown_ending(refused: Refused) -> None:
    assert "names an image format" in refused("--output", "result.txt")


# Devices


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_compiling_without_a_gpu(refused: Refused) -> None:
    assert "Compiling the network needs a CUDA device and Triton" in refused("--device", "cpu", "--compile")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_that_is_not_there(refused: Refused, device: str) -> None:
    assert "cuda" in refused("--device", device).lower()


def test_unknown_device(refused: Refused) -> None:
    assert "abacus" in refused("--device", "abacus")


def test_out_of_memory(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr("mass_core.inference.segmenter.sliding_window_inference", full)
    message = refused()
    assert "Not enough memory: CUDA out of memory" in message and "device cpu" in message


def test_out_of_memory_anywhere(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 90 GiB")

    monkeypatch.setattr("mass_core.volumes.volume.Volume.read", full)
    assert "Unable to allocate 90 GiB" in refused()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "/data/x"), "The disk is full: /data/x"),
        (PermissionError(13, "Permission denied", "/data/x"), "No permission for /data/x"),
        (FileNotFoundError(2, "No such file or directory", "/data/x"), "/data/x: No such file"),
        (MemoryError(), "Not enough memory"),
    ],
)
def test_failures_of_the_system(error: Exception, message: str) -> None:
    known = as_mass_error(error)
    assert known is not None and message in known.message and known.cure


def test_defects_are_not_dressed_up() -> None:
    assert as_mass_error(RuntimeError("shape mismatch")) is None
    assert as_mass_error(KeyError("x")) is None
