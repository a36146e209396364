"""mass prepare and mass masks on public datasets: each kind's miniature is found, mended and prepared as the real one should be."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from mass_core.cli import main
from mass_core.data.dataset import Dataset
from mass_core.data.public_cases import find_cases
from mass_core.data.public_layouts import KINDS
from mass_core.errors import GeometryError, InputError
from mass_core.masks.mask_set import MaskSet
from mass_core.volumes.volume import Volume
from Testing.core.dataset_lookalikes import LOOKALIKES, SHAPE, SPACING_XYZ, arrays, block, pair, write

AS_STORED = ("--spacing", "native", "--body-crop", "none")


def mass(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def prepare(folder: Path, kind: str, *more: object) -> Dataset:
    """The miniature as a dataset, voxel for voxel."""
    assert mass("prepare", folder, "--dataset-kind", kind, "--output", folder / "prepared", *AS_STORED, *more) == 0
    return Dataset.read(folder / "prepared")


def labels_of(dataset: Dataset, name: str) -> np.ndarray:
    labels = dataset.labels(name)
    assert labels is not None
    return labels


def test_every_kind_has_a_miniature() -> None:
    assert set(LOOKALIKES) == set(KINDS)


@pytest.mark.parametrize("kind", LOOKALIKES)
def test_cases_patients_modalities_and_labels_are_found(kind: str, tmp_path: Path) -> None:
    build, names, value = LOOKALIKES[kind]
    expected = build(tmp_path)
    dataset = prepare(tmp_path, kind)
    assert {case.name: (case.patient, case.modality) for case in dataset.cases} == {name: e[:2] for name, e in expected.items()}
    assert names.items() <= dataset.label_names.items() and 0 not in dataset.label_names and max(dataset.label_names) >= value
    values = set()
    for name in expected:
        image, labels = dataset.image(name).astype(np.float32), labels_of(dataset, name)
        assert image.shape == labels.shape == SHAPE and (labels > 0).sum() == 16
        assert image[labels > 0].min() > image[labels == 0].max()  # the label map is that of the image, and lies where it lies
        values |= set(np.unique(labels)) - {0}
    assert max(values) == value


@pytest.mark.parametrize("kind", LOOKALIKES)
def test_splits_are_the_official_ones_or_by_patient(kind: str, tmp_path: Path) -> None:
    expected = LOOKALIKES[kind][0](tmp_path)
    splits = prepare(tmp_path, kind, "--shares", 1, 0, 0).splits
    sides = {name: split for split, members in splits.items() for name in members}
    assert sides == {name: official or "train" for name, (_, _, official) in expected.items()}


@pytest.mark.parametrize("kind", LOOKALIKES)
def test_masks_are_named_like_the_prepared_cases(kind: str, tmp_path: Path) -> None:
    LOOKALIKES[kind][0](tmp_path)
    cases, _ = find_cases([tmp_path], KINDS[kind])
    labelled = {case.name for case in cases if case.labels}
    code = mass("masks", tmp_path, "--dataset-kind", kind, "--method", "labels", "--output", tmp_path / "masks", "--body-crop", "none")
    assert code == (0 if len(labelled) == len(cases) else 3)  # scans without a label map fail alone
    assert {path.stem for path in (tmp_path / "masks").glob("*.masks")} == labelled
    dataset = prepare(tmp_path, kind, "--masks", tmp_path / "masks", "--min-voxels", 1)
    assert {case.name for case in dataset.cases} == labelled
    for case in dataset.cases:
        assert np.array_equal(dataset.masks(case.name).full(0), labels_of(dataset, case.name) > 0)


def test_a_modality_selects_scans_and_overrules_none(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    LOOKALIKES["amos"][0](tmp_path)
    dataset = prepare(tmp_path, "amos", "--modality", "mr")
    assert [(case.name, case.modality) for case in dataset.cases] == [("amos_0507", "mr")]
    assert "2 scans of other modalities than mr are left out" in capsys.readouterr().err
    common = ("--dataset-kind", "amos", "--body-crop", "none", "--output")
    assert mass("masks", tmp_path, "--method", "labels", "--modality", "ct", *common, tmp_path / "m") == 0
    assert {path.stem for path in (tmp_path / "m").glob("*.masks")} == {"amos_0001", "amos_0010"}
    assert mass("prepare", tmp_path, "--modality", "pet", *common, tmp_path / "p") == 2
    assert "--modality is pet, but the scans of this dataset are ct, mr." in capsys.readouterr().err and not (tmp_path / "p").exists()


def test_bcv_axes_are_mended_in_image_and_label(tmp_path: Path) -> None:
    """The files say left, posterior, superior; the voxels run left, anterior, superior."""
    LOOKALIKES["bcv"][0](tmp_path)
    dataset = prepare(tmp_path, "bcv")
    z, y, x = block(1)
    expected = np.zeros(SHAPE, bool)
    expected[z, y, x] = True
    # Stored order x to the left, y to anterior: towards RAS only x turns round.
    assert np.array_equal(labels_of(dataset, "img0001") > 0, expected[:, :, ::-1])
    image = dataset.image("img0001")
    assert np.array_equal(np.sort(image.argsort(axis=None)[-16:]), np.flatnonzero(expected[:, :, ::-1]))
    case = dataset.case("img0001")
    assert case.direction == (-1, 0, 0, 0, -1, 0, 0, 0, 1) and case.origin_xyz == (5.0 + 11 * 1.0, 6.0, 7.0)
    assert Volume.read(tmp_path / "RawData/Training/img/img0001.nii.gz").geometry.direction == (1, 0, 0, 0, 1, 0, 0, 0, 1)


def test_lits_spacing_is_mended_where_it_is_wrong(tmp_path: Path) -> None:
    LOOKALIKES["lits"][0](tmp_path)
    dataset = prepare(tmp_path, "lits")
    assert dataset.spacing_zyx("volume-28") == dataset.spacing_zyx("volume-34") == (2.5, 0.7, 0.7)
    assert dataset.spacing_zyx("volume-3") == SPACING_XYZ[::-1]


@pytest.mark.parametrize("kind", ["totalsegmentator-mr", "mnms"])
def test_axes_off_right_angles_are_straightened(kind: str, tmp_path: Path) -> None:
    """Such files are refused elsewhere; here they are read, image and labels alike, and the environment is as before."""
    expected = LOOKALIKES[kind][0](tmp_path)
    images = [path for path in tmp_path.rglob("*.nii.gz")]
    for path in images:
        shear(path)
    with pytest.raises(GeometryError, match="right angles"):
        Volume.read(images[0], 0)
    dataset = prepare(tmp_path, kind)
    assert len(dataset.cases) == len(expected)
    for case in dataset.cases:
        image, labels = dataset.image(case.name).astype(np.float32), labels_of(dataset, case.name)
        assert (labels > 0).sum() == 16 and image[labels > 0].min() > image[labels == 0].max()
        axes = np.reshape(case.direction, (3, 3))
        assert np.allclose(axes @ axes.T, np.eye(3), atol=1e-6) and 0.001 < abs(axes[0, 1]) < 0.02
    with pytest.raises(GeometryError, match="right angles"):
        Volume.read(images[0], 0)


def shear(path: Path) -> None:
    """Tilt the y axis of a NIfTI file 0.01 mm a voxel towards x (sform rows begin at byte 280)."""
    data = bytearray(gzip.decompress(path.read_bytes()))
    row = list(struct.unpack_from("<4f", data, 280))
    row[1] += 0.02
    struct.pack_into("<4f", data, 280, *row)
    struct.pack_into("<2h", data, 252, 0, 1)
    path.write_bytes(gzip.compress(bytes(data)))


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    LOOKALIKES["msd"][0](tmp_path)
    assert {case.patient for case in find_cases([tmp_path], KINDS["msd"])[0]} == {"BRATS_001", "BRATS_002", "BRATS_003"}


def test_each_labelled_frame_is_a_case(tmp_path: Path) -> None:
    LOOKALIKES["mnms"][0](tmp_path)
    dataset = prepare(tmp_path, "mnms", "--orientation", "none")
    for frame, seed, value in (("00", 0, 1), ("02", 3, 3)):
        labels = labels_of(dataset, f"A0S9V9_frame{frame}")
        assert np.array_equal(labels, arrays(seed, value)[1]) and set(np.unique(labels)) == {0, value}


def test_channels_are_cases_of_one_patient(tmp_path: Path) -> None:
    LOOKALIKES["brats"][0](tmp_path)
    dataset = prepare(tmp_path, "brats", "--shares", 0.5, 0, 0.5)
    sides = [split for split, members in dataset.splits.items() for _ in members]
    assert sides.count("train") == sides.count("test") == 4
    assert {name.rsplit("_", 1)[0] for name in dataset.splits["train"]} in ({"Brats18_2013_2_1"}, {"BraTS20_Training_001"})


def test_later_classes_stand_where_files_overlap_and_numbers_follow_the_alphabet(tmp_path: Path) -> None:
    for case, classes in (("s0001", ("liver", "aorta")), ("s0002", ("spleen", "aorta"))):
        array, labels = arrays(0)
        write(tmp_path / case / "ct.nii.gz", array)
        for name in classes:
            write(tmp_path / case / "segmentations" / f"{name}.nii.gz", labels)
    dataset = prepare(tmp_path, "totalsegmentator-ct")
    assert dataset.label_names == {1: "aorta", 2: "liver", 3: "spleen"}
    assert [set(np.unique(labels_of(dataset, case))) for case in ("s0001", "s0002")] == [{0, 2}, {0, 3}]


def test_classes_on_different_grids_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    array, labels = arrays(0)
    write(tmp_path / "s0001" / "ct.nii.gz", array)
    write(tmp_path / "s0001" / "segmentations" / "aorta.nii.gz", labels)
    write(tmp_path / "s0001" / "segmentations" / "liver.nii.gz", labels, spacing=(2.0, 2.0, 2.0))
    assert mass("prepare", tmp_path, "--dataset-kind", "totalsegmentator-ct", "--output", tmp_path / "d", *AS_STORED) == 2
    assert "liver.nii.gz has another grid" in capsys.readouterr().err


def test_missing_splits_are_dealt_out_of_the_training_patients(tmp_path: Path) -> None:
    """ACDC has no validation part."""
    for number in range(1, 5):
        place = tmp_path / "training" / f"patient00{number}"
        pair(place / f"patient00{number}_frame01.nii.gz", place / f"patient00{number}_frame01_gt.nii.gz", number)
    pair(tmp_path / "testing/patient101/patient101_frame01.nii.gz", tmp_path / "testing/patient101/patient101_frame01_gt.nii.gz", 5)
    splits = prepare(tmp_path, "acdc", "--shares", 0.5, 0.25, 0.25).splits
    assert {split: len(members) for split, members in splits.items()} == {"train": 3, "val": 1, "test": 1}
    assert splits["test"] == ("patient101_frame01",)


def test_unlabelled_scans_with_masks_are_test_and_without_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    LOOKALIKES["kits"][0](tmp_path)
    assert "case_00210" not in [case.name for case in prepare(tmp_path, "kits").cases]
    assert "1 scans have neither a label map nor masks" in capsys.readouterr().err
    (tmp_path / "masks").mkdir()
    place = {"origin_xyz": [5 + 11 * 1.0, 6 + 7 * 1.5, 7], "direction": [-1, 0, 0, 0, -1, 0, 0, 0, 1]}
    cube = (((1, 1, 1), (3, 3, 3)), np.ones((2, 2, 2), bool))
    MaskSet.of([cube], SHAPE, SPACING_XYZ[::-1], place).write(tmp_path / "masks" / "case_00210.masks")
    dataset = prepare(tmp_path, "kits", "--masks", tmp_path / "masks", "--shares", 1, 0, 0)
    assert dataset.splits == {"train": ("case_00000", "case_00001"), "val": (), "test": ("case_00210",)}
    assert dataset.labels("case_00210") is None
    assert "1 scans have masks but no label map, such as case_00210" in capsys.readouterr().err
    dealt = prepare(tmp_path, "kits", "--masks", tmp_path / "masks", "--shares", 0.5, 0, 0.5).splits
    assert len(dealt["train"]) == 1 and len(dealt["test"]) == 2  # scans without labels alone are no test


def test_a_dataset_without_any_label_map_is_for_training_if_there_are_masks(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pair(tmp_path / "case_00001" / "imaging.nii.gz", None, 0)
    assert mass("prepare", tmp_path, "--dataset-kind", "kits", "--output", tmp_path / "d") == 2
    assert "None of the 1 scans has a label map or masks" in capsys.readouterr().err
    assert [case.split for case in find_cases([tmp_path], KINDS["kits"])[0]] == ["train"]


def test_other_label_maps_and_splits_may_take_the_place_of_the_datasets_own(tmp_path: Path) -> None:
    LOOKALIKES["kits"][0](tmp_path)
    write(tmp_path / "mine" / "case_00001.nii.gz", arrays(4, 9)[1])
    (tmp_path / "split.json").write_text(json.dumps({"test": ["case_00001"]}))
    dataset = prepare(tmp_path, "kits", "--labels", tmp_path / "mine", "--split", tmp_path / "split.json")
    assert dataset.splits == {"train": (), "val": (), "test": ("case_00001",)} and dataset.label_names == {}
    assert set(np.unique(labels_of(dataset, "case_00001"))) == {0, 9}


def test_other_label_maps_drawn_on_the_files_are_mended_like_them(tmp_path: Path) -> None:
    LOOKALIKES["bcv"][0](tmp_path)
    write(tmp_path / "mine" / "img0001.nii.gz", arrays(1, 7)[1])
    dataset = prepare(tmp_path, "bcv", "--labels", tmp_path / "mine")
    image, labels = dataset.image("img0001").astype(np.float32), labels_of(dataset, "img0001")
    assert [case.name for case in dataset.cases] == ["img0001"] and set(np.unique(labels)) == {0, 7}
    assert image[labels > 0].min() > image[labels == 0].max()


def test_a_patient_on_two_official_sides_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for part in ("training", "testing"):
        for frame in ("01", "02")[part == "testing" :][:1]:
            place = tmp_path / part / "patient001"
            pair(place / f"patient001_frame{frame}.nii.gz", place / f"patient001_frame{frame}_gt.nii.gz", 0)
    assert mass("prepare", tmp_path, "--dataset-kind", "acdc", "--output", tmp_path / "d", "--shares", 1, 0, 0) == 2
    assert "Patient 'patient001'" in capsys.readouterr().err and not (tmp_path / "d").exists()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "kits"])
def test_a_folder_of_another_kind_is_refused(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    LOOKALIKES["kits"][0](tmp_path)
    for command in ("prepare", "masks"):
        assert mass(command, tmp_path, "--dataset-kind", kind, "--output", tmp_path / "d") == 2
        told = capsys.readouterr().err
        assert KINDS[kind].title in told and KINDS[kind].example in told and "case_00000/imaging.nii.gz" in told
    assert not (tmp_path / "d").exists()


def test_folders_that_hold_nothing_or_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="it is empty"):
        find_cases([tmp_path / "empty"], KINDS["kits"])
    for name in ("absent", "file"):
        with pytest.raises(InputError, match="There is no folder"):
            find_cases([tmp_path / name], KINDS["kits"])


def test_unknown_kinds_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        mass("prepare", tmp_path, "--dataset-kind", "kitz", "--output", tmp_path / "d")
    assert stopped.value.code == 2 and "kitz" in capsys.readouterr().err


def test_a_label_map_without_an_image_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    expected = LOOKALIKES["kits"][0](tmp_path)
    (tmp_path / "data" / "case_00001" / "imaging.nii.gz").unlink()
    dataset = prepare(tmp_path, "kits")
    assert [case.name for case in dataset.cases] == [next(iter(expected))]
    assert "1 label maps of KiTS have no image and are left out, such as data/case_00001/segmentation" in capsys.readouterr().err


def test_a_bad_scan_fails_alone(tmp_path: Path) -> None:
    LOOKALIKES["kits"][0](tmp_path)
    (tmp_path / "data" / "case_00001" / "segmentation.nii.gz").write_bytes(b"cut off")
    assert mass("prepare", tmp_path, "--dataset-kind", "kits", "--output", tmp_path / "d", *AS_STORED) == 3
    assert [case.name for case in Dataset.read(tmp_path / "d").cases] == ["case_00000"]


def test_frames_need_their_table(tmp_path: Path) -> None:
    LOOKALIKES["mnms"][0](tmp_path)
    table = next(tmp_path.glob("*.csv"))
    table.write_text("code,ED\nA0S9V9,0")
    with pytest.raises(InputError, match="lacks the columns ES, External code"):
        find_cases([tmp_path], KINDS["mnms"])
    table.unlink()
    with pytest.raises(InputError, match="columns ED, ES that list the labelled frames"):
        find_cases([tmp_path], KINDS["mnms"])


def test_descriptions_must_be_whole_and_of_one_dataset(tmp_path: Path) -> None:
    LOOKALIKES["msd"][0](tmp_path)
    other = tmp_path / "Task09_Spleen"
    pair(other / "imagesTr" / "spleen_2.nii.gz", other / "labelsTr" / "spleen_2.nii.gz", 0)
    with pytest.raises(InputError, match="cannot be read"):
        find_cases([tmp_path], KINDS["msd"])
    for broken in ({"labels": {"1": "spleen"}}, {"labels": {"one": "spleen"}, "modality": {"0": "CT"}}, {"labels": {}, "modality": {}}):
        (other / "dataset.json").write_text(json.dumps(broken))
        with pytest.raises(InputError, match="lacks labels or modality"):
            find_cases([tmp_path], KINDS["msd"])
    (other / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "spleen"}, "modality": {"0": "CT"}}))
    with pytest.raises(InputError, match="different labels"):
        find_cases([tmp_path], KINDS["msd"])
    cases, _ = find_cases([other], KINDS["msd"])
    assert [(case.name, case.frame, case.modality) for case in cases] == [("spleen_2", None, "ct")]


def nnunet(tmp_path: Path) -> tuple[Path, dict]:
    """The miniature of nnU-Net, and what its dataset.json says."""
    LOOKALIKES["nnunet"][0](tmp_path)
    folder = tmp_path / "nnUNet_raw" / "Dataset007_Two"
    return folder, json.loads((folder / "dataset.json").read_text())


def test_channels_of_nnunet_are_those_its_description_names(tmp_path: Path) -> None:
    folder, described = nnunet(tmp_path)
    (folder / "imagesTr" / "k_2_0001.nrrd").unlink()
    with pytest.raises(InputError, match="imagesTr/k_2 has the channels 0000, but dataset.json names 0000, 0001") as caught:
        find_cases([folder], KINDS["nnunet"])
    assert "Add imagesTr/k_2_0001" in caught.value.cure
    (folder / "dataset.json").write_text(json.dumps({**described, "channel_names": {"0": "CT"}}))
    with pytest.raises(InputError, match="names 0000"):
        find_cases([folder], KINDS["nnunet"])
    (folder / "dataset.json").unlink()
    with pytest.raises(InputError, match=r"dataset.json cannot be read"):
        find_cases([folder], KINDS["nnunet"])


def test_regions_of_nnunet_are_explained_and_ignored_voxels_refused(tmp_path: Path) -> None:
    folder, described = nnunet(tmp_path)
    labels = {"background": 0, "kidney with cyst": [1, 3], "cyst": [3]}
    (folder / "dataset.json").write_text(json.dumps({**described, "labels": labels, "regions_class_order": [1, 3]}))
    cases, (told,) = find_cases([folder], KINDS["nnunet"])
    assert cases[0].label_names == {1: "kidney with cyst", 3: "cyst"} and told.startswith("kidney with cyst are regions")
    (folder / "dataset.json").write_text(json.dumps({**described, "labels": {"background": 0, "kidney": 1, "ignore": 2}}))
    with pytest.raises(InputError, match="not annotated"):
        find_cases([folder], KINDS["nnunet"])


@pytest.mark.parametrize(("kind", "place", "source"), [
    ("nnunet", "nnUNet_raw/Dataset007_Two/labelsTr/k_1.nrrd", "dataset.json"),
    ("msd", "Task01_BrainTumour/labelsTr/BRATS_001.nii.gz", "dataset.json"),
    ("kits", "data/case_00000/segmentation.nii.gz", "the list of labels of KiTS"),
])  # fmt: skip
def test_values_without_a_name_are_told(kind: str, place: str, source: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    LOOKALIKES[kind][0](tmp_path)
    labels = Volume.read(tmp_path / place)
    array = labels.array.astype(np.int16)
    array[0, 0, :3], array[0, 1, :2], array[0, 2, :1] = 7, 9, -1
    Volume(array, labels.geometry).write(tmp_path / place)
    dataset = prepare(tmp_path, kind)
    name = Path(place).name
    told = f": {name} holds values that {source} does not name: 7 (3 voxels), 9 (2 voxels). They are kept as labels without a name."
    assert told in capsys.readouterr().err
    marked = next(labels_of(dataset, case.name) for case in dataset.cases if 7 in labels_of(dataset, case.name))
    assert set(np.unique(marked)) == {0, LOOKALIKES[kind][2], 7, 9}, "below 0 is background"


def test_folds_of_nnunet_must_be_a_list(tmp_path: Path) -> None:
    folder, _ = nnunet(tmp_path)
    for broken in ("{}", "[]", '[{"train": ["k_1"]}]', "["):
        (folder / "splits_final.json").write_text(broken)
        with pytest.raises(InputError, match="not a list of folds"):
            find_cases([folder], KINDS["nnunet"])


def test_a_fold_is_chosen(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder, _ = nnunet(tmp_path)
    assert {case.name: case.split for case in find_cases([folder], KINDS["nnunet"], fold=1)[0]}["k_1_CT"] == "val"
    with pytest.raises(InputError, match="has 2 folds; there is no fold 2"):
        find_cases([folder], KINDS["nnunet"], fold=2)
    (folder / "splits_final.json").rename(tmp_path / "folds.json")
    LOOKALIKES["msd"][0](tmp_path / "msd")
    for lacking in (folder, tmp_path / "msd"):
        with pytest.raises(InputError, match="contains no list of folds"):
            find_cases([lacking], KINDS["nnunet" if lacking == folder else "msd"], fold=1)
    (tmp_path / "folds.json").write_text(json.dumps([{"train": ["a"], "val": ["b"]}, {"train": ["amos_0001"], "val": ["amos_0507"]}]))
    LOOKALIKES["amos"][0](tmp_path / "amos")
    dataset = prepare(tmp_path / "amos", "amos", "--split", tmp_path / "folds.json", "--fold", 1)
    assert dataset.splits == {"train": ("amos_0001",), "val": ("amos_0507",), "test": ()}
    (tmp_path / "one.json").write_text('{"train": ["amos_0001"]}')
    options = ("--dataset-kind", "amos", "--output", tmp_path / "out", "--split", tmp_path / "one.json", "--fold", 1)
    assert mass("prepare", tmp_path / "amos", *options) == 2 and "lists one split" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "places"), [("nnunet", ("", "imagesTr")), ("msd", ("", "imagesTr")), ("bids", ("",))], ids=["nnunet", "msd", "bids"]
)
def test_general_layouts_are_recognised(kind: str, places: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    LOOKALIKES[kind][0](tmp_path)
    root = {"nnunet": "nnUNet_raw/Dataset007_Two", "msd": "Task01_BrainTumour", "bids": "study"}[kind]
    for given in (tmp_path / root / place for place in places):
        mass("masks", given, "--method", "labels", "--labels", tmp_path, "--output", tmp_path / "masks")
        assert f"{given} looks like a dataset of {KINDS[kind].title}; --dataset-kind {kind}" in capsys.readouterr().err
        assert mass("evaluate", "--dataset", given, "--output", tmp_path / "results") == 2
        assert f"mass prepare {given} --dataset-kind {kind} --output" in capsys.readouterr().err


def test_label_maps_beside_the_scans_are_no_scans(tmp_path: Path) -> None:
    for number in (1, 2):
        pair(tmp_path / f"raw/imagesTr/k_{number}_0000.nii.gz", tmp_path / f"raw/labelsTr/k_{number}.nii.gz", number)
    labels = ("--labels", tmp_path / "raw/labelsTr")
    assert mass("prepare", tmp_path / "raw", *labels, "--output", tmp_path / "d", *AS_STORED) == 0
    assert [case.name for case in Dataset.read(tmp_path / "d").cases] == ["k_1_0000", "k_2_0000"]
    assert mass("masks", tmp_path / "raw/labelsTr", *labels, "--method", "labels", "--output", tmp_path / "m") == 0
    assert len(list((tmp_path / "m").glob("*.masks"))) == 2, "of a folder of label maps alone"


def test_which_label_map_of_bids_is_meant_must_be_said_once(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    LOOKALIKES["bids"][0](tmp_path)
    other = tmp_path / "study/derivatives/auto"
    pair(tmp_path / "drawn.nii.gz", other / "sub-1/anat/sub-1_space-T1w_dseg.nii.gz", 1, 7)
    pair(tmp_path / "drawn.nii.gz", other / "sub-1/anat/sub-1_space-MNI152_dseg.nii.gz", 1, 7)
    with pytest.raises(InputError, match="sub-1_T1w.nii.gz has 2 label maps: .*auto/sub-1.*manual/sub-1") as caught:
        find_cases([tmp_path], KINDS["bids"])
    assert "--derivative" in caught.value.cure
    cases, (told,) = find_cases([tmp_path], KINDS["bids"], derivative="auto")
    assert [len(case.labels) for case in cases] == [1, 0, 0] and cases[0].label_names == {}
    assert "1 label maps of BIDS have no image" in told and "MNI152" in told
    assert mass("prepare", tmp_path, "--output", tmp_path / "out", "--labels", tmp_path, "--derivative", "auto") == 2
    assert "Add --dataset-kind bids" in capsys.readouterr().err


def test_tables_of_bids_are_inherited_and_must_agree(tmp_path: Path) -> None:
    LOOKALIKES["bids"][0](tmp_path)
    made = tmp_path / "study/derivatives/manual"
    table = made / "sub-2/ses-a/anat/sub-2_ses-a_space-T2w_desc-corrected_dseg.tsv"
    table.write_text("index\tname\n9\tcaudate\n")
    (made / "desc-other_dseg.tsv").write_text("index\tname\n5\tnot of these\n")
    assert find_cases([tmp_path], KINDS["bids"])[0][0].label_names == {2: "amygdala", 5: "hippocampus", 9: "caudate"}
    table.write_text("index\tname\n5\tcaudate\n")
    with pytest.raises(InputError, match="calls 5 'caudate', another table 'hippocampus'"):
        find_cases([tmp_path], KINDS["bids"])
    table.write_text("value\tname\n5\tcaudate\n")
    with pytest.raises(InputError, match="does not name its labels"):
        find_cases([tmp_path], KINDS["bids"])


def test_parts_of_a_dataset_may_lie_apart_but_names_must_differ(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for part, number in (("a", 1), ("b", 2)):
        case = tmp_path / part / f"case_0000{number}"
        pair(case / "imaging.nii.gz", case / "segmentation.nii.gz", number)
    found = ("--dataset-kind", "kits", "--output", tmp_path / "d", *AS_STORED)
    assert mass("prepare", tmp_path / "a", tmp_path / "b", *found) == 0
    assert len(Dataset.read(tmp_path / "d").cases) == 2
    assert mass("prepare", tmp_path / "a", tmp_path / "a" / ".." / "a", *found) == 2
    assert "would both be called case_00001" in capsys.readouterr().err


def test_pelvic_label_maps_are_found_by_their_names(tmp_path: Path) -> None:
    """Copies of the dataset call the folders differently."""
    pair(tmp_path / "a" / "dataset6_CLINIC_0007_data.nii.gz", tmp_path / "b" / "c" / "dataset6_CLINIC_0007_mask_4label.nii.gz", 0, 4)
    assert set(np.unique(labels_of(prepare(tmp_path, "ctpelvic1k"), "dataset6_CLINIC_0007"))) == {0, 4}


def test_only_what_changed_is_prepared_again(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A new class file moves the numbers of the others, so every case is made anew."""
    LOOKALIKES["totalsegmentator-ct"][0](tmp_path)
    prepare(tmp_path, "totalsegmentator-ct")
    prepare(tmp_path, "totalsegmentator-ct")
    assert "3 already present" in capsys.readouterr().out
    write(tmp_path / "s0001" / "segmentations" / "brain.nii.gz", arrays(0)[1] * 0)
    dataset = prepare(tmp_path, "totalsegmentator-ct")
    assert "3 made" in capsys.readouterr().out and dataset.label_names[4] == "spleen"
    assert set(np.unique(labels_of(dataset, "s0002"))) == {0, 4}
