"""Inputs of a run are never overwritten, under any name or link."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from mass_core.cli import main
from mass_core.data import phantoms
from mass_core.errors import OutputError
from mass_core.outputs import check_free
from mass_core.volumes.volume import Geometry, Volume
from Testing.training.balls import write_dataset


def _link(path: Path, other: Path) -> Path:
    other.symlink_to(path)
    return other


def _hard(path: Path, other: Path) -> Path:
    os.link(path, other)
    return other


def _beside(path: Path, other: Path) -> Path:
    """Through the folder above and back."""
    return path.parent / ".." / path.parent.name / path.name


def _through(path: Path, other: Path) -> Path:
    """Through a link to the folder."""
    other.with_suffix("").symlink_to(path.parent, target_is_directory=True)
    return other.with_suffix("") / path.name


SPELLINGS: dict[str, Callable[[Path, Path], Path]] = {
    "itself": lambda path, other: path,
    "link": _link,
    "hard link": _hard,
    "dots": _beside,
    "linked folder": _through,
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_an_input_is_refused_as_output_by_every_name(tmp_path: Path, spelling: Callable[[Path, Path], Path]) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    path = folder / "scan.nii.gz"
    path.write_bytes(b"precious")
    output = spelling(path, tmp_path / "other.nii.gz")
    with pytest.raises(OutputError, match="is an input of this run"):
        check_free([output], overwrite=True, inputs=[path])
    with pytest.raises(OutputError, match="is an input of this run"):
        check_free([output], overwrite=True, inputs=[folder])
    check_free([tmp_path / "new.nii.gz"], overwrite=False, inputs=[path, folder, tmp_path / "absent"])


@pytest.mark.parametrize("header", ["ElementDataFile = {}", "data file: {}", "datafile:{}"])
def test_the_data_file_of_a_header_counts(tmp_path: Path, header: str) -> None:
    ending = ".mhd" if "Element" in header else ".nhdr"
    (tmp_path / f"a{ending}").write_text(f"NDims = 3\n{header.format('b.raw')}\n")
    (tmp_path / "b.raw").write_bytes(b"voxels")
    with pytest.raises(OutputError, match=r"b.raw is an input"):
        check_free([tmp_path / "b.mhd"], overwrite=True, inputs=[tmp_path / f"a{ending}"])
    with pytest.raises(OutputError, match=r"b.raw exists already"):
        check_free([tmp_path / "b.mhd"], overwrite=False)


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_is_no_place_for_a_file(tmp_path: Path, overwrite: bool) -> None:
    """Seen before anything is computed."""
    (tmp_path / "result.nii.gz").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        check_free([tmp_path / "result.nii.gz"], overwrite=overwrite)


# --- the commands


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    image, labels = phantoms.subject(0, shape_zyx=(24, 30, 34), spacing_zyx=(12.0, 10.0, 10.0))
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    image.write(tmp_path / "images" / "p.nii.gz")
    image.write(tmp_path / "images" / "q.nii.gz")
    labels.write(tmp_path / "labels" / "p.nii.gz")
    return tmp_path


@pytest.fixture
def refused(scans: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    def run(*words: object) -> None:
        before = {path: path.read_bytes() for path in scans.rglob("*") if path.is_file()}
        assert main([str(word) for word in words]) == 2
        assert "is an input of this run" in capsys.readouterr().err
        assert {path: path.read_bytes() for path in scans.rglob("*") if path.is_file()} == before

    return run


@pytest.mark.parametrize("victim", ["images/p.nii.gz", "images/q.nii.gz", "labels/p.nii.gz"])
def test_segment_and_features_keep_their_inputs(scans: Path, tiny_weights: Path, refused: Callable[..., None], victim: str) -> None:
    more = ["--target", scans / "images" / "q.nii.gz", "--output", scans / victim, "--overwrite", "--weights", tiny_weights]
    refused("segment", "--reference", scans / "images" / "p.nii.gz", scans / "labels" / "p.nii.gz", *more)
    if victim == "images/q.nii.gz":
        refused("features", *more)


@pytest.mark.parametrize("command", ["encode", "adapt"])
def test_encode_and_adapt_keep_their_inputs(scans: Path, tiny_weights: Path, refused: Callable[..., None], command: str) -> None:
    _link(scans / "labels" / "p.nii.gz", scans / "t.masstask")
    pair = [scans / "images" / "p.nii.gz", scans / "labels" / "p.nii.gz"]
    refused(command, "--weights", tiny_weights, "--reference", *pair, "--output", scans / "t.masstask", "--overwrite")


def test_masks_keep_what_they_are_compared_with(scans: Path, refused: Callable[..., None]) -> None:
    (scans / "labels" / "p.nii.gz").rename(scans / "labels" / "summary.csv")
    Volume(np.ones((3, 3, 3), np.uint8), Geometry(shape_zyx=(3, 3, 3))).write(scans / "labels" / "p.nii.gz")
    refused("masks", scans / "images", "--output", scans / "labels", "--compare", scans / "labels", "--overwrite")


def test_prepare_keeps_the_file_of_splits_and_the_scans(scans: Path, refused: Callable[..., None]) -> None:
    (scans / "set" / "cases" / "p").mkdir(parents=True)
    (scans / "set" / "dataset.json").write_text('{"train": ["p"]}')
    words = ["prepare", scans / "images", "--labels", scans / "labels", "--output", scans / "set", "--modality", "ct"]
    refused(*words, "--split", scans / "set" / "dataset.json")
    (scans / "set" / "dataset.json").unlink()
    os.link(scans / "images" / "p.nii.gz", scans / "set" / "cases" / "p" / "image.npy")
    refused(*words)


@pytest.mark.parametrize(("name", "more"), [("summary.csv", []), ("self_reference.csv", ["--self-reference"])])
def test_evaluations_keep_what_they_read(scans: Path, tiny_weights: Path, refused: Callable[..., None], name: str, more: list[str]) -> None:
    write_dataset(scans / "set")
    (scans / "out").mkdir()
    os.link(scans / "set" / "dataset.json", scans / "out" / name)
    refused("evaluate", "--dataset", scans / "set", "--output", scans / "out", "--weights", tiny_weights, "--overwrite", *more)


def test_converted_weights_do_not_replace_their_source(tmp_path: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "own.safetensors"
    copy.write_bytes(tiny_weights.read_bytes())
    assert main(["weights", "convert", str(copy), str(copy), "--overwrite"]) == 2
    assert "is an input of this run" in capsys.readouterr().err
    assert copy.read_bytes() == tiny_weights.read_bytes()


def test_finetuned_weights_do_not_replace_what_they_come_from(tmp_path: Path, tiny_weights: Path) -> None:
    from mass_core.worker.finetuning import finetune

    copy = tmp_path / "own.safetensors"
    copy.write_bytes(tiny_weights.read_bytes())
    order = {"weights": str(copy), "cases": [{"image": "a", "mask": "b"}], "output": str(copy), "overwrite": True}
    with pytest.raises(OutputError, match="is an input of this run"):
        finetune(order)


def test_weights_are_not_pulled_over_themselves(tmp_path: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mass_core.weights import store

    assert main(["weights", "push", str(tiny_weights), str(tmp_path / "shared")]) == 0
    place = store.place_of("mine")
    place.parent.mkdir(parents=True)
    os.link(tmp_path / "shared" / "model.safetensors", place)
    assert main(["weights", "pull", str(tmp_path / "shared"), "--name", "mine", "--overwrite"]) == 2
    assert "is an input of this run" in capsys.readouterr().err
    assert place.read_bytes() == (tmp_path / "shared" / "model.safetensors").read_bytes() == tiny_weights.read_bytes()


def test_an_imported_dataset_does_not_replace_the_file_of_its_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "theirs").mkdir()
    np.save(tmp_path / "theirs" / "a_image.npy", np.zeros((8, 8, 8), np.float32))
    (tmp_path / "ours").mkdir()
    split = tmp_path / "ours" / "dataset.json"
    split.write_text('{"train": ["a"]}')
    assert main(["dataset", "import", str(tmp_path / "theirs"), "--output", str(tmp_path / "ours"), "--split", str(split)]) == 2
    assert "is an input of this run" in capsys.readouterr().err and split.read_text() == '{"train": ["a"]}'


@pytest.mark.parametrize("training", ["pretrain", "classify"])
def test_training_does_not_replace_the_weights_it_starts_from(
    tmp_path: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str], training: str
) -> None:
    import importlib

    (tmp_path / "run").mkdir()
    weights = tmp_path / "run" / "best.safetensors"
    weights.write_bytes(tiny_weights.read_bytes())
    (tmp_path / "labels.csv").write_text("filename,split,label\np.nii.gz,train,0\nq.nii.gz,train,1\nr.nii.gz,val,0\ns.nii.gz,test,1\n")
    for name in "pqrs":
        sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkInt16), str(tmp_path / f"{name}.nii.gz"))
    words = {
        "pretrain": ["--init", weights, "--recipe", "smoke", "--data", write_dataset(tmp_path / "set", masked=True)],
        "classify": ["--weights", weights, "--labels", tmp_path / "labels.csv", "--images", tmp_path],
    }[training]
    program = importlib.import_module(f"training.{training}.loop")
    assert program.main([*map(str, words), "--output", str(tmp_path / "run"), "--device", "cpu"]) == 2
    assert "is an input of this run" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == [
        "best.safetensors"
    ] and weights.read_bytes() == tiny_weights.read_bytes()


@pytest.mark.parametrize("command", ["segment", "features", "encode"])
def test_other_computers_write_over_no_input_either(scans: Path, tiny_weights: Path, refused: Callable[..., None], command: str) -> None:
    """Seen before anything is sent."""
    pair = ["--reference", scans / "images" / "p.nii.gz", scans / "labels" / "p.nii.gz"]
    output = scans / "t.masstask" if command == "encode" else scans / "images" / "q.nii.gz"
    if command == "encode":
        _link(scans / "labels" / "p.nii.gz", output)
    words = [*([] if command == "features" else pair), *([] if command == "encode" else ["--target", scans / "images" / "q.nii.gz"])]
    refused(command, *words, "--output", output, "--overwrite", "--weights", tiny_weights, "--on", "nowhere.invalid")


def test_a_result_beside_the_slices_of_a_series_is_no_harm(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkInt16), str(tmp_path / "scan.nii.gz"))
    check_free([tmp_path / "scan_seg.nii.gz"], overwrite=False, inputs=[tmp_path])
    with pytest.raises(OutputError, match="is an input of this run"):
        check_free([tmp_path / "scan.nii.gz"], overwrite=True, inputs=[tmp_path])
