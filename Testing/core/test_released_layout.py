"""Datasets of the released layout: read as they are, taken over, written, resumed; damaged ones are refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mass_core.augmentation.views import cut_views
from mass_core.cli import main
from mass_core.data.dataset import Case, Dataset, write_case
from mass_core.data.opening import open_dataset
from mass_core.data.released_layout import ReleasedDataset, read_released
from mass_core.data.released_masks import chunks_of
from mass_core.errors import InputError
from mass_core.masks.mask_set import MaskSet
from Testing.waiting import PATIENCE_S
from training.pretrain.config import EpisodeConfig
from training.pretrain.episodes import Episodes, collate

h5py = pytest.importorskip("h5py")

REPOSITORY = Path(__file__).resolve().parents[2]
SHAPE = (20, 24, 28)


def balls(seed: int, count: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """An image float32 in which ball n has brightness n + 1, and the balls [N,z,y,x]; the last mask is empty."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    image, stack = rng.normal(0, 0.1, SHAPE).astype(np.float32), np.zeros((count + 1, *SHAPE), np.uint8)
    for number in range(count):
        stack[number] = ((grid - rng.uniform(6, np.array(SHAPE) - 6)) ** 2).sum(-1) < 16
        image[stack[number] > 0] = 1 + number
    return image, stack


def write_released(folder: Path, name: str, image: np.ndarray, stack: np.ndarray | None, labels: np.ndarray | None = None) -> None:
    """As another program would: straight with NumPy and h5py."""
    np.save(folder / f"{name}_image.npy", image)
    if labels is not None:
        np.save(folder / f"{name}_gt.npy", labels)
    if stack is not None:
        with h5py.File(folder / "dataset.h5", "a") as file:
            packing = {"chunks": (2, *stack.shape[1:]), "compression": "lzf", "shuffle": True} if len(stack) else {}
            file.create_dataset(f"{name}/auto_masks", data=stack, **packing)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """a: masks and labels; b: masks; c: no mask at all; d: an image alone."""
    place = tmp_path / "bcv"
    place.mkdir()
    for seed, name in enumerate("ab"):
        image, stack = balls(seed)
        labels = (stack * np.arange(1, 7, dtype=np.uint8)[:, None, None, None]).max(0)
        write_released(place, name, image, stack, labels if name == "a" else None)
    write_released(place, "c", balls(2)[0], np.zeros((0, *SHAPE), np.uint8))
    write_released(place, "d", balls(3)[0], None)
    return place


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A dataset of ours with overlapping masks: x with labels, y without masks and labels."""
    place, shape = tmp_path / "ours", (9, 8, 11)
    identity = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    cases = [
        Case(
            name=name, patient=name, modality="ct", shape_zyx=shape, spacing_zyx=(1.5,) * 3, origin_xyz=(0.0,) * 3, direction=identity,
            masks="mask_set.masks" if full else None, labels="labels.npy" if full else None,
        )
        for name, full in (("x", True), ("y", False))
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    masks = [(((1, 2, 3), (5, 6, 10)), rng.random((4, 4, 7)) > 0.5), (((4, 0, 0), (9, 8, 11)), rng.random((5, 8, 11)) > 0.5)]
    for case in cases:
        labels = rng.integers(0, 256, shape).astype(np.uint16)
        write_case(place, case, rng.normal(size=shape).astype(np.float16), labels, MaskSet.of(masks, shape, case.spacing_zyx))
    Dataset(folder=place, name="ours", cases=tuple(cases), splits={"train": ("x", "y")}).write()
    return place


def mass(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def full(masks: MaskSet) -> np.ndarray:
    return np.stack([masks.full(index) for index in range(len(masks))])


def test_a_folder_is_read_as_it_is(folder: Path) -> None:
    dataset = open_dataset(folder)
    assert dataset.name == "bcv" and dataset.splits == {"train": ("a", "b", "c", "d"), "val": (), "test": ()}
    case = dataset.case("a")
    assert (case.patient, case.spacing_zyx, case.origin_xyz, case.shape_zyx) == ("a", (1.5, 1.5, 1.5), (0, 0, 0), SHAPE)
    image, stack = balls(0)
    assert isinstance(dataset.image("a"), np.memmap) and np.array_equal(dataset.image("a"), image)
    labels = dataset.labels("a")
    assert isinstance(labels, np.memmap) and labels.dtype == np.uint8 and labels.max() == 5 and dataset.labels("b") is None
    masks = dataset.masks("a")
    assert masks.spacing_zyx == (1.5, 1.5, 1.5) and np.array_equal(full(masks), stack[:-1])  # the empty mask is left out
    assert len(dataset.masks("c")) == len(dataset.masks("d")) == 0
    assert read_released(folder, spacing_zyx=(3.0, 1.0, 2.0)).masks("a").spacing_zyx == (3.0, 1.0, 2.0)


def test_an_episode_of_a_folder_as_it_is_equals_that_of_the_same_taken_over(folder: Path, tmp_path: Path) -> None:
    assert mass("dataset", "import", folder, "--output", tmp_path / "taken") == 0
    config = EpisodeConfig(task_slots=(3,), pose_warmup=1, absent_share=0.0, smallest_voxels=8)
    options = {"window": lambda step: 16, "batch_size": 2, "seed": 5, "steps": 10}
    as_it_is, taken = (Episodes([open_dataset(place)], config, **options) for place in (folder, tmp_path / "taken"))
    assert len(as_it_is.scans[0]) == 2  # those with masks
    for number in range(6):
        one, other = as_it_is[number], taken[number]
        assert one.image.dtype == np.float16 and np.array_equal(one.image, other.image) and np.array_equal(one.bits, other.bits)
        images, masks = cut_views(collate([one]), (16, 16, 16), config, torch.Generator().manual_seed(0))
        assert (masks[0, 0].sum((1, 2, 3)) > 0).all()
        assert images[0, 0, 0][masks[0, 0].any(0).bool()].median() > 0.9  # masks lie on the bright balls


def test_taking_over_keeps_every_voxel(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "taken"
    (tmp_path / "split.json").write_text('{"train": ["b"], "test": ["a", "c"], "labels": {"1": "ball"}}')
    options = ("--spacing", 1, 2, 3, "--modality", "mr", "--split", tmp_path / "split.json", "--name", "balls")
    assert mass("dataset", "import", folder, "--output", output, *options) == 0
    dataset, before = open_dataset(output), open_dataset(folder)
    assert isinstance(before, ReleasedDataset) and not isinstance(dataset, ReleasedDataset)
    assert (dataset.name, dataset.label_names) == ("balls", {1: "ball"})
    assert dataset.splits == {"train": ("b",), "val": (), "test": ("a", "c")}
    assert dataset.case("a").spacing_zyx == (3, 2, 1) == dataset.masks("a").spacing_zyx and dataset.case("a").modality == "mr"
    for name in "abc":
        assert dataset.image(name).dtype == np.float16
        np.testing.assert_array_equal(dataset.image(name), before.image(name).astype(np.float16))
        assert dataset.masks(name).payload.tobytes() == before.masks(name).payload.tobytes()
    np.testing.assert_array_equal(dataset.labels("a"), before.labels("a"))


def test_there_and_back_every_voxel_stays(ours: Path, tmp_path: Path) -> None:
    assert mass("dataset", "export", ours, "--output", tmp_path / "released") == 0
    assert mass("dataset", "import", tmp_path / "released", "--output", tmp_path / "back") == 0
    before, back = open_dataset(ours), open_dataset(tmp_path / "back")
    for name in "xy":
        np.testing.assert_array_equal(back.image(name), before.image(name))
        assert len(back.masks(name)) == len(before.masks(name))
    np.testing.assert_array_equal(back.labels("x"), before.labels("x"))
    assert back.labels("y") is None
    np.testing.assert_array_equal(full(back.masks("x")), full(before.masks("x")))


def test_what_is_written_is_the_released_layout(ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "released"
    assert mass("dataset", "export", ours, "--output", output) == 0
    assert "2 scans, such as x, have an axis below 128 voxels" in capsys.readouterr().err
    assert {path.name for path in output.iterdir()} == {"x_image.npy", "x_gt.npy", "y_image.npy", "dataset.h5", ".mass-export"}
    image, labels = np.load(output / "x_image.npy"), np.load(output / "x_gt.npy")
    assert image.dtype == np.float32 and image.flags.c_contiguous and labels.dtype == np.uint8
    with h5py.File(output / "dataset.h5") as file:
        assert sorted(file) == ["x", "y"] and not file.attrs
        stack, none = file["x/auto_masks"], file["y/auto_masks"]
        assert list(file["x"]) == ["auto_masks"] and not file["x"].attrs and not stack.attrs
        assert (stack.dtype, stack.compression, stack.shuffle, stack.chunks) == (np.uint8, "lzf", True, (2, 9, 8, 11))
        assert np.array_equal(stack[:], full(open_dataset(ours).masks("x")))
        assert none.shape == (0, 9, 8, 11) and none.dtype == np.uint8 and none.compression is None


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [
        ((60, 180, 200, 200), (2, 180, 200, 200)),  # these two the released exporter was seen to make
        ((60, 200, 220, 240), (1, 200, 220, 240)),
        ((3, 40, 40, 40), (3, 40, 40, 40)),
        ((9, 256, 256, 256), (1, 256, 256, 256)),
        ((9, 600, 512, 512), (1, 64, 512, 512)),
        ((9, 2, 5000, 5000), (1, 1, 3355, 5000)),
    ],
)
def test_chunks_are_the_released_ones(shape: tuple[int, ...], chunks: tuple[int, ...]) -> None:
    assert chunks_of(shape) == chunks


def test_chunks_of_part_of_a_mask_are_read(folder: Path) -> None:
    image, stack = balls(7)
    with h5py.File(folder / "dataset.h5", "a") as file:
        file.create_dataset("e/auto_masks", data=stack * 255, chunks=(3, 7, 24, 9), compression="gzip")
    np.save(folder / "e_image.npy", image)
    assert np.array_equal(full(open_dataset(folder).masks("e")), stack[:-1])


KILLED = """
import os, sys
from mass_core.data import released_masks
write = released_masks.write_masks
def dies(path, case, masks):
    if case == "y":
        write(path.with_name(f".{path.name}.partial"), case, masks)
        os._exit(9)
    write(path, case, masks)
released_masks.write_masks = dies
from mass_core.cli import main
main(sys.argv[1:])
"""


def test_a_killed_export_goes_on(ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "released"
    command = [sys.executable, "-c", KILLED, "dataset", "export", str(ours), "--output", str(output)]
    assert subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True, timeout=PATIENCE_S).returncode == 9
    assert not (output / "dataset.h5").exists() and (output / ".mass-export" / "x.h5").exists()
    written = (output / "x_image.npy").stat().st_mtime_ns
    assert mass("dataset", "export", ours, "--output", output) == 0
    assert "1 made, 1 already present" in capsys.readouterr().out and (output / "x_image.npy").stat().st_mtime_ns == written
    with h5py.File(output / "dataset.h5") as file:
        assert sorted(file) == ["x", "y"] and len(file["x/auto_masks"]) == 2
    assert {path.name for path in (output / ".mass-export").iterdir()} == {"x.json", "y.json"}


def test_a_second_export_makes_only_what_changed(ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "released"
    assert mass("dataset", "export", ours, "--output", output) == 0
    state = (output / "dataset.h5").stat().st_mtime_ns
    assert mass("dataset", "export", ours, "--output", output) == 0
    assert "2 already present" in capsys.readouterr().out and (output / "dataset.h5").stat().st_mtime_ns == state
    before = np.load(output / "x_gt.npy")
    np.save(ours / "cases" / "x" / "image.npy", np.full((9, 8, 11), 2, np.float16))
    assert mass("dataset", "export", ours, "--output", output) == 0
    assert "1 made, 1 already present" in capsys.readouterr().out
    assert (np.load(output / "x_image.npy") == 2).all() and np.array_equal(np.load(output / "x_gt.npy"), before)
    assert sorted(open_dataset(output).splits["train"]) == ["x", "y"] and len(open_dataset(output).masks("x")) == 2


def test_a_case_that_left_the_export_comes_back_with_its_masks(ours: Path, tmp_path: Path) -> None:
    record, output = ours / "dataset.json", tmp_path / "released"
    both = record.read_text()
    assert mass("dataset", "export", ours, "--output", output) == 0
    values = json.loads(both)
    record.write_text(json.dumps({**values, "cases": values["cases"][1:], "splits": {"train": ["y"]}}))
    assert mass("dataset", "export", ours, "--output", output) == 0
    with h5py.File(output / "dataset.h5") as file:
        assert list(file) == ["y"]
    record.write_text(both)
    assert mass("dataset", "export", ours, "--output", output) == 0
    assert len(open_dataset(output).masks("x")) == 2


def test_a_second_import_makes_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for expected in ("4 made", "4 already present"):
        assert mass("dataset", "import", folder, "--output", tmp_path / "taken") == 0
        assert expected in capsys.readouterr().out
    assert mass("dataset", "import", folder, "--output", tmp_path / "taken", "--spacing", 2, 2, 2) == 0
    assert "4 made" in capsys.readouterr().out


def test_labels_above_255_are_refused(ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    labels = np.load(ours / "cases" / "x" / "labels.npy")
    labels[0, 0, 0] = 256
    np.save(ours / "cases" / "x" / "labels.npy", labels)
    assert mass("dataset", "export", ours, "--output", tmp_path / "released") == 3
    assert "go up to 256" in capsys.readouterr().err
    assert open_dataset(tmp_path / "released").splits["train"] == ("y",)


def test_an_export_replaces_nothing_that_is_not_its_own(ours: Path, folder: Path, capsys: pytest.CaptureFixture) -> None:
    before = (folder / "dataset.h5").read_bytes()
    assert mass("dataset", "export", ours, "--output", folder) == 2
    assert "would be overwritten" in capsys.readouterr().err and (folder / "dataset.h5").read_bytes() == before
    assert mass("dataset", "export", ours, "--output", ours) == 2
    assert "is a MASS dataset" in capsys.readouterr().err


@pytest.mark.parametrize("action", ["import", "export"])
def test_folders_of_the_wrong_kind_are_refused(
    action: str, folder: Path, ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert mass("dataset", action, ours if action == "import" else folder, "--output", tmp_path / "new") == 2
    assert ("holds neither" if action == "import" else "already") in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_an_import_needs_a_folder_of_its_own_and_a_spacing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert mass("dataset", "import", folder, "--output", folder) == 2
    assert "is the released dataset itself" in capsys.readouterr().err
    assert mass("dataset", "import", folder, "--output", tmp_path / "new", "--spacing", 1, 0, 1) == 2
    assert "above 0" in capsys.readouterr().err


def test_a_truncated_file_of_masks_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = folder / "dataset.h5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"dataset\.h5 cannot be read"):
        open_dataset(folder)
    assert mass("dataset", "import", folder, "--output", tmp_path / "new") == 2
    assert "cannot be read" in capsys.readouterr().err


def test_damaged_masks_inside_a_file_are_refused(folder: Path) -> None:
    with h5py.File(folder / "dataset.h5") as file:
        info = file["a/auto_masks"].id.get_chunk_info(0)
    content = bytearray((folder / "dataset.h5").read_bytes())
    content[info.byte_offset : info.byte_offset + info.size] = b"\xff" * info.size
    (folder / "dataset.h5").write_bytes(content)
    dataset = open_dataset(folder)
    with pytest.raises(InputError, match="cannot be read"):
        dataset.masks("a")
    assert len(dataset.masks("b")) == 5


def test_masks_without_their_image_are_refused_and_the_others_can_be_taken_over(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (folder / "a_image.npy").unlink()
    with pytest.raises(InputError, match=r"masks of 'a', but .*a_image\.npy is missing"):
        open_dataset(folder)
    assert mass("dataset", "import", folder, "--output", tmp_path / "taken") == 3
    assert "a_image.npy is missing" in capsys.readouterr().err
    assert open_dataset(tmp_path / "taken").splits["train"] == ("b", "c", "d")


@pytest.mark.parametrize(
    ("file", "array", "message"),
    [
        ("a_image.npy", np.zeros((4, 5, 6), np.float32), "the grid"),
        ("a_gt.npy", np.zeros((4, 5, 6), np.uint8), "has shape"),
        ("a_gt.npy", np.zeros(SHAPE, np.float32), "not label numbers"),
        ("a_image.npy", np.zeros((1, *SHAPE), np.float32), "not a scan"),
        ("a_image.npy", np.zeros(SHAPE, np.int16), "not a scan"),
        ("a_image.npy", np.full(SHAPE, 1e6, np.float32), "beyond 65504"),
        ("a_image.npy", np.full(SHAPE, np.nan, np.float32), "infinite values or NaN"),
    ],
)
def test_parts_that_disagree_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, file: str, array: np.ndarray, message: str
) -> None:
    (folder / "a_gt.npy").unlink()
    np.save(folder / file, array)
    assert mass("dataset", "import", folder, "--output", tmp_path / "taken") == 3
    assert message in capsys.readouterr().err
    assert open_dataset(tmp_path / "taken").splits["train"] == ("b", "c", "d")


@pytest.mark.parametrize(
    ("stack", "message"),
    [(np.zeros(SHAPE, np.uint8), "not a stack"), (np.zeros((2, *SHAPE), np.float32), "not a stack"), (None, "no auto_masks")],
)
def test_what_is_no_stack_of_masks_is_refused(folder: Path, stack: np.ndarray | None, message: str) -> None:
    with h5py.File(folder / "dataset.h5", "a") as file:
        del file["a/auto_masks"]
        if stack is not None:
            file["a/auto_masks"] = stack
    with pytest.raises(InputError, match=message):
        open_dataset(folder).masks("a")


def test_truncated_images_are_refused(folder: Path) -> None:
    path = folder / "b_image.npy"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"b_image\.npy cannot be read"):
        open_dataset(folder)


def test_without_h5py_the_cure_is_told_and_folders_without_masks_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match="pip install h5py"):
        open_dataset(folder)
    (folder / "dataset.h5").unlink()
    dataset = open_dataset(folder)
    assert dataset.splits["train"] == ("a", "b", "c", "d") and len(dataset.masks("a")) == 0


def test_without_h5py_nothing_is_exported(
    ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert mass("dataset", "export", ours, "--output", tmp_path / "released") == 2
    assert "pip install h5py" in capsys.readouterr().err and not (tmp_path / "released").exists()


def test_hidden_files_are_no_cases(folder: Path) -> None:
    """macOS leaves files such as ._a_image.npy on drives of other systems."""
    (folder / "._a_image.npy").write_bytes(b"resource fork")
    assert open_dataset(folder).splits["train"] == ("a", "b", "c", "d")


def test_a_full_disk_is_told_and_leaves_the_earlier_file(
    ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "released"
    assert mass("dataset", "export", ours, "--output", output) == 0
    before = (output / "dataset.h5").read_bytes()
    np.save(ours / "cases" / "x" / "image.npy", np.zeros((9, 8, 11), np.float16))

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(h5py.Group, "copy", full_disk)
        assert mass("dataset", "export", ours, "--output", output) == 2
    assert "cannot be copied" in capsys.readouterr().err and (output / "dataset.h5").read_bytes() == before
    assert not list(output.glob("*.partial"))
    assert mass("dataset", "export", ours, "--output", output) == 0
    assert len(open_dataset(output).masks("x")) == 2
