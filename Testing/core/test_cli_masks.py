"""mass masks and mass prepare: scans to a dataset, resumed, with bad scans among them."""

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("skimage")

from mass_core.cli import main  # noqa: E402
from mass_core.config import Recipe  # noqa: E402
from mass_core.data.dataset import Dataset  # noqa: E402
from mass_core.data.scan_files import find_scans  # noqa: E402
from mass_core.errors import InputError  # noqa: E402
from mass_core.masks.generator import masks_of, masks_spacing  # noqa: E402
from mass_core.masks.mask_set import MaskSet  # noqa: E402
from mass_core.volumes.volume import Geometry, Volume  # noqa: E402

FLIPPED = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
SPACING_XYZ = (2.0, 2.0, 4.0)


def scan(seed: int) -> tuple[Volume, Volume]:
    """A CT-like body with a ball (label 1) and a block (label 300), stored with flipped axes."""
    z, y, x = np.meshgrid(*(np.arange(n) * s for n, s in zip((16, 30, 32), SPACING_XYZ[::-1], strict=True)), indexing="ij")
    labels = np.zeros(z.shape, np.uint16)
    labels[(z - 30) ** 2 + (y - 24) ** 2 + (x - 22) ** 2 < 10**2] = 1
    labels[(abs(z - 30) < 9) & (abs(y - 30) < 8) & (abs(x - 44) < 6)] = 300
    body = ((y - 30) / 22) ** 2 + ((x - 32) / 24) ** 2 < 1
    array = np.where(body, 40, -1000) + 160 * (labels == 1) + 400 * (labels == 300)
    array = array + np.random.default_rng(seed).normal(0, 12, array.shape)
    geometry = Geometry(shape_zyx=(16, 30, 32), spacing_xyz=SPACING_XYZ, origin_xyz=(10.0 * seed, -50.0, 20.0), direction=FLIPPED)
    return Volume(array.astype(np.int16), geometry), Volume(labels, geometry)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/ and labels/ of three scans of two patients."""
    folder = tmp_path_factory.mktemp("scans")
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    for seed, name in enumerate(("p1_a", "p1_b", "p10_a")):
        image, labels = scan(seed)
        image.write(folder / "images" / f"{name}.nii.gz")
        labels.write(folder / "labels" / f"{name}.nrrd")
    return folder


def mass(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def made(scans: Path) -> Path:
    """Mask sets of the three scans."""
    assert mass("masks", scans / "images", "--output", scans / "masks", "--modality", "ct", "--max-masks", 400) == 0
    return scans / "masks"


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def prepare(scans: Path, made: Path, output: Path, *more: object) -> int:
    images, labels = scans / "images", scans / "labels"
    return mass("prepare", images, "--masks", made, "--labels", labels, "--output", output, "--modality", "ct", "--patient", "(.*)_", *more)


def test_masks_say_where_they_lie_and_how_they_were_made(made: Path) -> None:
    masks = MaskSet.read(made / "p1_b.masks")
    assert 200 <= len(masks) <= 400 and masks.spacing_zyx == (4.0, 2.0, 2.0)
    assert {name: masks.meta[name] for name in ("method", "seed", "modality", "source")} == {
        "method": "slic",
        "seed": 0,
        "modality": "ct",
        "source": "p1_b.nii.gz",
    }
    assert masks.meta["direction"] == [-1, 0, 0, 0, -1, 0, 0, 0, 1] and masks.meta["settings"]["masks"] == 400


def test_a_second_run_makes_nothing_and_a_stopped_one_goes_on(made: Path, scans: Path, capsys: pytest.CaptureFixture) -> None:
    before = (made / "p1_a.masks").stat().st_mtime_ns
    (made / "p1_b.masks").unlink()
    (made / ".mass-left-by-a-crash").write_bytes(b"half a file")
    assert mass("masks", scans / "images", "--output", made, "--modality", "ct", "--max-masks", 400) == 0
    assert "1 made, 2 already present" in capsys.readouterr().out
    assert (made / "p1_a.masks").stat().st_mtime_ns == before and (made / "p1_b.masks").exists()


def test_the_same_seed_gives_the_same_masks(made: Path, scans: Path, tmp_path: Path) -> None:
    assert mass("masks", scans / "images" / "p1_a.nii.gz", "--output", tmp_path, "--modality", "ct", "--max-masks", 400) == 0
    one, two = (MaskSet.read(folder / "p1_a.masks") for folder in (tmp_path, made))
    for name in ("boxes_zyx", "payload"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
    assert {**one.meta, "seconds": 0} == {**two.meta, "seconds": 0} and one.meta["seconds"] > 0


def test_a_bad_scan_is_reported_and_skipped(scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "bad.nii.gz").write_bytes(b"this is no image")
    good = scans / "images" / "p1_a.nii.gz"
    assert mass("--json", "masks", tmp_path / "bad.nii.gz", good, "--output", tmp_path / "m", "--modality", "ct", "--max-masks", 5) == 3
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    failed = [line for line in lines if line["event"] == "failed"]
    assert [Path(line["target"]).name for line in failed] == ["bad.nii.gz"]
    assert {key: lines[-1][key] for key in ("done", "present", "failed")} == {"done": 1, "present": 0, "failed": 1}
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["p1_a.masks", "summary.csv"]
    bad, fine = table(tmp_path / "m" / "summary.csv")
    assert (bad["case"], bad["status"], bad["masks"], fine["status"], fine["masks"]) == ("bad", "failed", "", "done", "5")
    assert failed[0]["message"] == bad["reason"]


def test_a_missing_scan_fails_alone(scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    given = (tmp_path / "gone.nii.gz", scans / "images" / "p1_a.nii.gz", scans / "images" / "p1_b.nii.gz")
    assert mass("masks", *given, "--output", tmp_path / "m", "--modality", "ct", "--max-masks", 5) == 3
    assert mass("prepare", *given, "--output", tmp_path / "d", "--modality", "ct", "--masks", tmp_path / "m") == 3
    assert mass("prepare", *given, "--output", tmp_path / "l", "--modality", "ct", "--labels", scans / "labels") == 3
    told = capsys.readouterr().err
    assert told.count("gone.nii.gz: There") == 3
    for name in ("d", "l"):
        assert [case.name for case in Dataset.read(tmp_path / name).cases] == ["p1_a", "p1_b"]
    assert (
        mass("masks", given[0], "--output", tmp_path / "x") == mass("masks", tmp_path / "gone", given[1], "--output", tmp_path / "x") == 2
    )


@pytest.mark.parametrize(
    "array", [np.full((4, 8, 8), 5, np.int16), np.where(np.arange(256).reshape(4, 8, 8) == 9, np.nan, 1).astype(np.float32)]
)
def test_a_single_bad_scan_is_bad_input(array: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    Volume(array, Geometry(shape_zyx=(4, 8, 8))).write(tmp_path / "x.nrrd")
    assert mass("masks", tmp_path / "x.nrrd", "--output", tmp_path / "m") == 2
    assert "error:" in capsys.readouterr().err and not (tmp_path / "m").exists()


def test_inputs_are_checked_before_anything_is_made(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    image = scans / "images" / "p1_a.nii.gz"
    assert mass("masks", tmp_path / "absent.nii", "--output", tmp_path / "m") == 2
    assert mass("masks", tmp_path / "empty", "--output", tmp_path / "m") == 2
    assert mass("masks", image, "--output", tmp_path / "m", "--max-masks", 0) == 2
    assert mass("masks", image, "--output", tmp_path / "m", "--spacing", 0, 1, 1) == 2
    assert mass("masks", image, "--output", tmp_path / "file" / "m") == 2
    assert not (tmp_path / "m").exists()


def test_mask_sets_made_before_are_drawn_and_compared(made: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Nothing is made again; what the table tells of them comes from their own files. A case without label map has no scores."""
    labels, before = tmp_path / "labels", {path.name: path.stat().st_mtime_ns for path in made.glob("*.masks")}
    labels.mkdir()
    for name in ("p1_a", "p10_a"):
        (labels / f"{name}.nrrd").write_bytes((scans / "labels" / f"{name}.nrrd").read_bytes())
    more = ("--modality", "ct", "--picture", "--compare", labels)
    assert mass("--json", "masks", scans / "images", "--output", made, *more) == 0
    assert {path.name: path.stat().st_mtime_ns for path in made.glob("*.masks")} == before
    rows = {row["case"]: row for row in table(made / "summary.csv")}
    for name, row in rows.items():
        masks = MaskSet.read(made / f"{name}.masks")
        assert (row["status"], int(row["masks"]), float(row["seconds"])) == ("present", len(masks), masks.meta["seconds"])
        assert float(row["ml_p50"]) == pytest.approx(np.median(masks.voxels) * 16e-3, rel=1e-4)
        assert (made / f"{name}.png").stat().st_size > 10_000
    assert {name: (row["labels"], row["reason"]) for name, row in rows.items()} == {
        "p1_a": ("2", ""),
        "p1_b": ("", "no label map"),
        "p10_a": ("2", ""),
    }
    scores = table(made / "labels.csv")
    assert [(row["case"], row["label"]) for row in scores] == [("p10_a", "1"), ("p10_a", "300"), ("p1_a", "1"), ("p1_a", "300")]
    assert all(float(row["best"]) > 0.8 and 0 < float(row["mean"]) < float(row["best"]) for row in scores)
    assert float(rows["p1_a"]["best"]) == pytest.approx(np.mean([float(row["best"]) for row in scores[2:]]), abs=1e-5)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = {line.get("label", line["table"]): line for line in lines if "table" in line}
    assert set(told) == {"scans", "labels", 1, 300} and told["labels"]["scans"] == 2 and told["scans"]["scans"] == 3
    assert told[300]["best"] == pytest.approx(np.mean([float(row["best"]) for row in scores[1::2]]), abs=1e-5)
    assert [line["message"] for line in lines if line["event"] == "warning"] == [f"There is no label map in {labels} for p1_b."]


def test_a_picture_that_shows_these_masks_is_left_alone(made: Path, scans: Path, tmp_path: Path) -> None:
    (tmp_path / "p1_a.masks").write_bytes((made / "p1_a.masks").read_bytes())
    (tmp_path / "p1_a.png").write_bytes(b"mine")
    command = ("masks", scans / "images" / "p1_a.nii.gz", "--output", tmp_path, "--modality", "ct", "--max-masks", 20, "--picture")
    assert mass(*command) == 0 and (tmp_path / "p1_a.png").read_bytes() == b"mine"
    assert mass(*command[:-1], "--overwrite") == 0 and (tmp_path / "p1_a.png").read_bytes() == b"mine"
    os.utime(tmp_path / "p1_a.png", ns=(0, 0))
    assert mass(*command) == 0 and (tmp_path / "p1_a.png").read_bytes().startswith(b"\x89PNG"), "the masks are newer"


def test_a_stopped_run_leaves_its_table(scans: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One set of an earlier run, one made, then Ctrl-C: rows for both, and the next run has all three."""
    from mass_core.masks.supervoxels import slic as slic_backend

    real, calls = slic_backend.generate, []

    def stopped(*arguments: object) -> list:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(slic_backend, "generate", stopped)
    (tmp_path / "p1_b.masks").write_bytes((made / "p1_b.masks").read_bytes())
    command = ("masks", scans / "images", "--output", tmp_path, "--modality", "ct", "--max-masks", 20, "--compare", scans / "labels")
    assert mass(*command) == 130
    assert [(row["case"], row["status"]) for row in table(tmp_path / "summary.csv")] == [("p10_a", "done"), ("p1_b", "present")]
    assert mass(*command) == 0
    rows = table(tmp_path / "summary.csv")
    assert [row["status"] for row in rows] == ["present", "done", "present"] and all(row["best"] and row["seconds"] for row in rows)


def test_sigterm_leaves_the_table_as_ctrl_c_does(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mass_core.masks.supervoxels import slic as slic_backend

    real, calls = slic_backend.generate, []

    def ended(*arguments: object) -> list:
        calls.append(arguments)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(slic_backend, "generate", ended)
    before = signal.getsignal(signal.SIGTERM)
    assert mass("masks", scans / "images", "--output", tmp_path, "--modality", "ct", "--max-masks", 20) == 130
    assert [(row["case"], row["status"]) for row in table(tmp_path / "summary.csv")] == [("p10_a", "done")]
    assert signal.getsignal(signal.SIGTERM) is before


def test_no_masks_and_the_most_masks_are_told(scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """No masks: the likely cause, exit status 3, also when they are there from an earlier run; `mass prepare` then refuses by name."""
    command = ("masks", scans / "images", "--modality", "ct", "--output", tmp_path / "few")
    assert mass(*command, "--min-voxels", 10**6) == 3
    told = capsys.readouterr().err
    assert "No masks were found in p10_a, p1_a, p1_b." in told and "--min-voxels" in told and "--max-masks" not in told
    assert mass(*command) == 3 and mass(*command, "--overwrite", "--max-masks", 20) == 0
    assert "A scan gets at most 20 masks" in capsys.readouterr().err
    MaskSet.of([], (4, 4, 4), (1.0, 1.0, 1.0)).write(tmp_path / "few" / "p1_b.masks")
    prepare = ("prepare", scans / "images", "--masks", tmp_path / "few", "--modality", "ct", "--spacing", 6, 6, 6, "--output")
    assert mass(*prepare, tmp_path / "d") == 3
    assert "No masks were found in p1_b." in capsys.readouterr().err
    assert [case.name for case in Dataset.read(tmp_path / "d").cases] == ["p10_a", "p1_a"]


def test_what_cannot_be_compared_fails_but_keeps_its_masks(scans: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "labels").mkdir()
    Volume(np.ones((4, 4, 4), np.uint8), Geometry(shape_zyx=(4, 4, 4), origin_xyz=(900.0, 0.0, 0.0))).write(
        tmp_path / "labels" / "p1_a.nii"
    )
    command = ("--output", tmp_path / "m", "--modality", "ct", "--max-masks", 20, "--compare", tmp_path / "labels")
    assert mass("masks", scans / "images" / "p1_a.nii.gz", *command) == 2
    assert "does not lie on its scan" in capsys.readouterr().err
    (row,) = table(tmp_path / "m" / "summary.csv")
    assert (row["status"], row["masks"], row["best"]) == ("failed", "20", "") and "does not lie on its scan" in row["reason"]
    (tmp_path / "m" / "p1_b.masks").write_bytes(b"MASSmask cut off")
    assert mass("masks", scans / "images", *command) == 3
    assert [row["status"] for row in table(tmp_path / "m" / "summary.csv")] == ["done", "failed", "failed"]
    assert mass("masks", scans / "images", "--output", tmp_path / "n", "--compare", tmp_path / "none") == 2
    assert "There is no folder" in capsys.readouterr().err


def test_thin_scans_and_scans_without_masks(tmp_path: Path) -> None:
    """One slice is no volume; two slices have a picture without the thin planes; a set of no masks has a row and a picture too."""
    array = np.random.default_rng(0).normal(100, 10, (2, 40, 50)).astype(np.float32)
    for slices in (1, 2):
        Volume(array[:slices], Geometry(shape_zyx=(slices, 40, 50), spacing_xyz=(1.0, 1.0, 4.0))).write(tmp_path / f"s{slices}.nii")
    command = ("--modality", "mr", "--body-crop", "none", "--picture", "--output")
    assert mass("masks", tmp_path / "s1.nii", tmp_path / "s2.nii", *command, tmp_path / "m") == 3
    one, two = table(tmp_path / "m" / "summary.csv")
    assert "is flat" in one["reason"] and int(two["masks"]) > 0 and (tmp_path / "m" / "s2.png").exists()
    assert mass("masks", tmp_path / "s2.nii", *command, tmp_path / "n", "--min-voxels", 10**6, "--compare", tmp_path) == 2
    (none,) = table(tmp_path / "n" / "summary.csv")
    assert (none["masks"], none["ml_p50"]) == ("0", "") and (tmp_path / "n" / "s2.png").exists()


def test_image_masks_and_labels_end_on_one_grid(scans: Path, made: Path, tmp_path: Path) -> None:
    assert prepare(scans, made, tmp_path / "d") == 0
    dataset = Dataset.read(tmp_path / "d")
    assert [case.name for case in dataset.cases] == ["p10_a", "p1_a", "p1_b"] and dataset.name == "d"
    assert {case.name: case.patient for case in dataset.cases} == {"p1_a": "p1", "p1_b": "p1", "p10_a": "p10"}
    for case in dataset.cases:
        image, labels, masks = dataset.image(case.name), dataset.labels(case.name), dataset.masks(case.name)
        assert labels is not None and image.shape == labels.shape == masks.shape_zyx and case.spacing_zyx == (1.5, 1.5, 1.5)
        assert set(np.unique(labels)) == {0, 1, 300}
        assert abs(float(image.astype(np.float32).mean())) < 0.01 and float(image.astype(np.float32).std()) == pytest.approx(1, abs=0.01)
        # The block is brighter than the ball, the ball than the rest: labels lie where their objects are.
        means = [float(image[labels == value].astype(np.float32).mean()) for value in (0, 1, 300)]
        assert means == sorted(means) and means[2] - means[1] > 0.3
        for value in (1, 300):
            truth = labels == value
            dice = max(2 * float((masks.full(i) & truth).sum()) / float(masks.voxels[i] + truth.sum()) for i in range(len(masks)))
            assert dice > 0.85, (case.name, value)


def test_native_spacing_and_margin(scans: Path, made: Path, tmp_path: Path) -> None:
    assert prepare(scans, made, tmp_path / "d", "--spacing", "native", "--body-margin", 2, 2, 2) == 0
    case = Dataset.read(tmp_path / "d").case("p1_a")
    assert case.spacing_zyx == (4.0, 2.0, 2.0) and case.shape_zyx[0] == 16 and case.shape_zyx[1] < 30


def test_only_what_changed_is_prepared_again(scans: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert prepare(scans, made, tmp_path / "d", "--spacing", 4, 4, 4) == 0
    (tmp_path / "d" / "cases" / "p1_b" / "case.json").unlink()
    capsys.readouterr()
    assert prepare(scans, made, tmp_path / "d", "--spacing", 4, 4, 4) == 0
    assert "1 made, 2 already present" in capsys.readouterr().out
    assert prepare(scans, made, tmp_path / "d", "--spacing", 5, 5, 5) == 0
    assert "3 made" in capsys.readouterr().out
    assert Dataset.read(tmp_path / "d").spacing_zyx("p1_a") == (5.0, 5.0, 5.0)


def test_patients_stay_on_one_side(scans: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert prepare(scans, made, tmp_path / "d", "--spacing", 6, 6, 6, "--shares", 0.5, 0, 0.5) == 0
    splits = Dataset.read(tmp_path / "d").splits
    assert sorted(map(len, splits.values())) == [0, 1, 2] and {"p1_a", "p1_b"} in map(set, splits.values())
    leaky = tmp_path / "leaky.json"
    leaky.write_text(json.dumps({"train": ["p1_a"], "test": ["p1_b"]}))
    assert prepare(scans, made, tmp_path / "e", "--split", leaky) == 2
    assert "Patient 'p1'" in capsys.readouterr().err and not (tmp_path / "e").exists()


def test_empty_splits_are_told(scans: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert prepare(scans, made, tmp_path / "d", "--shares", 1, 0, 0) == 0
    assert "No scan is in the split val and test" in capsys.readouterr().err


def test_a_split_file_names_the_cases_and_labels(scans: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    split = tmp_path / "split.json"
    split.write_text(
        json.dumps({"train": ["p1_a", "elsewhere"], "val": [], "test": ["p10_a"], "labels": {"300": "block"}, "clean": ["p1_a"]})
    )
    assert prepare(scans, made, tmp_path / "d", "--split", split, "--spacing", 6, 6, 6) == 0
    dataset = Dataset.read(tmp_path / "d")
    assert dataset.splits == {"train": ("p1_a",), "val": (), "test": ("p10_a",)} and dataset.label_names == {300: "block"}
    told = capsys.readouterr().err
    assert "1 cases named" in told and "1 scans are not named" in told
    split.write_text(json.dumps({"train": ["elsewhere"]}))
    assert prepare(scans, made, tmp_path / "e", "--split", split) == 2
    split.write_text(json.dumps({"train": "p1_a"}))
    assert prepare(scans, made, tmp_path / "e", "--split", split) == 2


def test_a_labelled_scan_that_lacks_its_masks_fails_alone(
    scans: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "p1_a.masks").write_bytes((made / "p1_a.masks").read_bytes())
    assert prepare(scans, tmp_path / "some", tmp_path / "d", "--spacing", 6, 6, 6) == 3
    told = capsys.readouterr().err
    assert "holds no masks of p1_b, which has labels" in told and "no masks of p10_a" in told and "leave it or --masks out" in told
    assert [case.name for case in Dataset.read(tmp_path / "d").cases] == ["p1_a"]


def test_the_seed_of_the_splits_is_written_down(scans: Path, made: Path, tmp_path: Path) -> None:
    assert prepare(scans, made, tmp_path / "d", "--spacing", 6, 6, 6, "--seed", 7) == 0
    assert json.loads((tmp_path / "d" / "dataset.json").read_text())["seed"] == 7 == Dataset.read(tmp_path / "d").seed
    (tmp_path / "split.json").write_text(json.dumps({"train": ["p1_a", "p1_b"], "test": ["p10_a"]}))
    assert prepare(scans, made, tmp_path / "d", "--spacing", 6, 6, 6, "--split", tmp_path / "split.json") == 0
    assert Dataset.read(tmp_path / "d").seed is None, "chance had no part in it"


def test_scans_without_masks_and_labels_fail_alone(scans: Path, made: Path, tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "p1_a.masks").write_bytes((made / "p1_a.masks").read_bytes())
    (tmp_path / "some" / "p1_b.masks").write_bytes(b"MASSmask cut off")
    images = scans / "images"
    assert mass("prepare", images, "--masks", tmp_path / "some", "--output", tmp_path / "d", "--modality", "ct", "--spacing", 6, 6, 6) == 3
    dataset = Dataset.read(tmp_path / "d")
    assert [case.name for case in dataset.cases] == ["p1_a"] and dataset.labels("p1_a") is None
    assert mass("prepare", images, "--output", tmp_path / "e") == 2
    assert mass("prepare", images, "--masks", tmp_path / "none", "--output", tmp_path / "e") == 2
    assert mass("prepare", images, "--masks", made, "--output", tmp_path / "e", "--patient", "(x)") == 2
    assert mass("prepare", images, "--masks", made, "--output", tmp_path / "e", "--spacing", "fine") == 2


def test_labels_of_another_place_or_kind_are_refused(scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    image = scans / "images" / "p1_a.nii.gz"
    (tmp_path / "labels").mkdir()
    far = Geometry(shape_zyx=(4, 4, 4), origin_xyz=(900.0, 0.0, 0.0))
    Volume(np.ones((4, 4, 4), np.uint8), far).write(tmp_path / "labels" / "p1_a.nii")
    assert mass("prepare", image, "--labels", tmp_path / "labels", "--output", tmp_path / "d", "--modality", "ct") == 2
    assert "does not lie on its image" in capsys.readouterr().err
    (tmp_path / "labels" / "p1_a.nii").unlink()
    Volume(scan(0)[1].array / np.float32(7), scan(0)[1].geometry).write(tmp_path / "labels" / "p1_a.mha")
    assert mass("prepare", image, "--labels", tmp_path / "labels", "--output", tmp_path / "d", "--modality", "ct") == 2
    assert "fractional values" in capsys.readouterr().err


def test_scans_of_files_folders_and_series(tmp_path: Path) -> None:
    for name in (
        "a/one.nii.gz",
        "a/two.nrrd",
        "a/notes.txt",
        "a/.hidden.nii",
        "b/patient1/1.dcm",
        "b/patient1/2.dcm",
        "b/patient2/1.dcm",
        "c/x.mha",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    found = find_scans([tmp_path / "a", tmp_path / "b", tmp_path / "c" / "x.mha"])
    assert [scan.name for scan in found] == ["one", "patient1", "patient2", "two", "x"]
    with pytest.raises(InputError, match="both be called one"):
        find_scans([tmp_path / "a", tmp_path / "a" / "one.nii.gz"])


def test_grid_of_the_masks() -> None:
    """Small scans keep their grid; flat voxels and many voxels become cubes."""

    def spacing(shape: tuple, spacing_xyz: tuple) -> tuple:
        array = np.random.default_rng(0).normal(100, 10, shape).astype(np.float32)
        volume = Volume(array, Geometry(shape_zyx=shape, spacing_xyz=spacing_xyz))
        return masks_spacing(volume, Recipe(body_crop="none", modality="mr"))

    assert spacing((20, 40, 40), (0.9, 0.9, 2.5)) == (2.5, 0.9, 0.9)
    assert spacing((10, 64, 64), (1.0, 1.0, 5.0)) == (1.0, 1.0, 1.0)
    assert spacing((128, 128, 128), (1.0, 1.0, 1.0)) == pytest.approx((1.28, 1.28, 1.28), abs=0.03)


def test_any_maker_of_masks_can_be_used() -> None:
    """The maker sees the oriented scan and its voxel size; its masks keep their place."""
    image, _ = scan(0)
    seen = []

    def brightest(part: Volume, modality: str, seed: int) -> tuple[list, dict]:
        seen.append((part.array.shape, part.geometry.spacing_zyx, modality, seed))
        z, y, x = (int(i) for i in np.unravel_index(part.array.argmax(), part.array.shape))
        return [(((z, y, x), (z + 1, y + 1, x + 1)), np.ones((1, 1, 1), bool))], {"method": "brightest"}

    masks, warnings = masks_of(image, Recipe(modality="ct"), brightest, seed=3)
    assert seen == [(masks.shape_zyx, (4.0, 2.0, 2.0), "ct", 3)] and warnings == ()
    assert len(masks) == 1 and masks.meta["method"] == "brightest"
