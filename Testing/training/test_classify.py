"""Classifiers trained end to end on tiny scans: they learn, resume exactly, share a run, are judged once; bad tables are refused."""

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mass_core.config import ModelConfig, Recipe
from mass_core.inference.classifier import ClassifierConfig, classify, load_classifier
from mass_core.model import MASS
from mass_core.schema import changed
from mass_core.volumes.volume import Geometry, Volume
from mass_core.weights.checkpoint import load_model, save_weights
from Testing.training.classify_rows import ROWS, write_csv
from Testing.waiting import PATIENCE_S
from training.classify import config as classify_config
from training.classify import inputs as classify_inputs
from training.classify import loop as command
from training.classify.config import ClassifyConfig
from training.classify.inputs import draws, input_recipe
from training.classify.scores import scores
from training.classify.table import read_table
from training.runs.distributed import ProcessGroup
from training.runs.state import saved

REPOSITORY = Path(__file__).resolve().parents[2]
ALONE = ProcessGroup(0, 1, torch.device("cpu"))
TINY = ["size_zyx=16,16,16", "log_every=1"]


def scan(kind: str, seed: int, shape=(12, 15, 16)) -> Volume:
    """Noise with a bright ball, or a bright plate, of 2 mm voxels; MR to whoever guesses."""
    rng = np.random.default_rng(seed)
    values = rng.normal(100, 10, shape)
    centre = rng.uniform(5, 9, 3)
    z, y, x = (index - c for index, c in zip(np.indices(shape), centre, strict=True))
    values[z * z + y * y + x * x < 12 if kind == "ball" else abs(z) < 1.5] += 100
    return Volume(values.astype(np.float32), Geometry(shape_zyx=shape, spacing_xyz=(2.0, 2.0, 2.0)))


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """Of a network with an encoder of two levels."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    network = MASS(ModelConfig(channels=(8, 32), stages=1, task_rows=0, position_size=16))
    save_weights(path, network, Recipe(spacing_zyx=(2.0, 2.0, 2.0), window_zyx=(16, 16, 16)), {"recipe": "tests"})
    return path


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for seed in range(16):
        scan(("ball", "plate")[seed % 2], seed).write(folder / f"s{seed}.nii.gz")
    return folder


@pytest.fixture(scope="session")
def rows():
    return ROWS


@pytest.fixture
def labels(rows, tmp_path) -> Path:
    return write_csv(tmp_path / "labels.csv", rows)


def words(weights, images, labels, output, *settings, more=()):
    given = ["--weights", str(weights), "--images", str(images), "--labels", str(labels), "--output", str(output), "--recipe", "smoke"]
    return [*given, "--device", "cpu", *more, "--set", *TINY, *settings]


def state_of(output):
    return torch.load(saved(output / "state")[0], weights_only=True)


def assert_same(a, b):
    assert a["step"] == b["step"] and a["best"] == b["best"]
    assert all(torch.equal(value, b["network"][name]) for name, value in a["network"].items())
    for number, moments in a["optimiser"]["state"].items():
        assert all(torch.equal(value, b["optimiser"]["state"][number][name]) for name, value in moments.items())


# From a table to a classifier


@pytest.fixture(scope="module")
def frozen_run(weights, images, rows, tmp_path_factory):
    """A run whose encoder is frozen, with one copy of each training scan."""
    folder = tmp_path_factory.mktemp("frozen")
    labels = write_csv(folder / "labels.csv", rows)
    assert command.main(words(weights, images, labels, folder / "run", "epochs=6", "copies=1")) == 0
    return folder / "run"


def test_kinds_are_told_apart_and_judged_once(frozen_run):
    found = json.loads((frozen_run / "metrics.json").read_text())
    assert found["test"]["auc"] == found["val"]["auc"] == 1.0 and found["test"]["scans"] == 4
    lines = [json.loads(line) for line in (frozen_run / "log.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if "epoch" in line]
    assert [line["epoch"] for line in epochs] == list(range(1, 7)) and epochs[-1]["val_loss"] < epochs[0]["val_loss"]
    assert not any("test" in name for line in lines for name in line)
    best = max(epochs, key=lambda line: (line["val_auc"], -line["val_loss"]))
    assert found["steps"] == best["step"]


def test_a_frozen_encoder_is_that_of_the_weights(frozen_run, weights):
    made, start = load_classifier(frozen_run / "best.safetensors", "cpu"), load_model(weights, "cpu")
    theirs = start.network.encoder.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in made.network.encoder.state_dict().items())
    assert made.provenance["weights"] == {"name": "tiny", "fingerprint": start.fingerprint}
    assert made.config.recipe.spacing_zyx == (2.0, 2.0, 2.0), "that of the weights"


def test_a_scan_in_use_gets_the_numbers_of_training(frozen_run, images):
    """No step differs: read, prepared, padded and encoded anew, the probabilities are those behind metrics.json."""
    made = load_classifier(frozen_run / "best.safetensors", "cpu")
    table = read_table(frozen_run.parent / "labels.csv", images)
    settings = changed(classify_config.smoke(), [*TINY, "epochs=6", "copies=1"])
    files = classify_inputs.prepared(table, made.network, settings, made.config, frozen_run, ALONE)
    samples = classify_inputs.Samples([files[r.name] for r in table.splits["test"]], table.targets("test"), settings, made.config,
                                      learning=False)  # fmt: skip
    inside = command.predict(made.network.head, samples, ALONE).softmax(1)
    outside = [list(classify(made, Volume.read(row.path)).probabilities.values()) for row in table.splits["test"]]
    torch.testing.assert_close(inside, torch.tensor(outside), atol=1e-5, rtol=0)


def test_features_are_computed_once(frozen_run, weights, images, monkeypatch):
    assert len(list((frozen_run / "features").iterdir())) == 16 + 8, "one of each scan, and a copy of those to learn from"
    monkeypatch.setattr(classify_inputs.Volume, "read", None)
    again = words(weights, images, frozen_run.parent / "labels.csv", frozen_run, "epochs=6", "copies=1", more=["--resume"])
    assert command.main(again) == 0


def test_copies_differ_from_the_scan(frozen_run):
    sizes = [np.load(file) for file in (frozen_run / "features").iterdir()]
    assert {array.shape for array in sizes} == {(32, 6, 8, 8)}, "places that see some of 12 x 15 x 16 voxels"
    assert len({array.tobytes() for array in sizes}) == 24


def test_the_whole_network_learns_and_several_labels_too(weights, images, rows, tmp_path):
    both = [{"filename": f"{r['filename']}.nii.gz", "label_ball": int(r["label"] == "ball"), "label_even": int(n % 4 < 2),
             "split": r["split"]} for n, r in enumerate(rows)]  # fmt: skip
    table = write_csv(tmp_path / "labels.csv", both)
    run = words(weights, images, table, tmp_path / "run", "epochs=2", "encoder_rate=1e-3", more=["--full"])
    assert command.main(run) == 0
    made, start = load_classifier(tmp_path / "run" / "best.safetensors", "cpu"), load_model(weights, "cpu")
    assert made.config.multi_label and made.config.classes == ("ball", "even")
    assert not torch.equal(made.network.encoder.stem.weight, start.network.encoder.stem.weight)
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(found["test"]["auc_by_class"]) == {"ball", "even"} and 0 <= found["test"]["auc"] <= 1
    assert (tmp_path / "run" / "inputs").is_dir() and not (tmp_path / "run" / "features").exists()


def test_from_chance_the_encoder_is_another(weights, images, labels, tmp_path):
    assert command.main(words(weights, images, labels, tmp_path / "run", "epochs=1", "random_encoder=true")) == 0
    made, start = load_classifier(tmp_path / "run" / "best.safetensors", "cpu"), load_model(weights, "cpu")
    assert not torch.equal(made.network.encoder.stem.weight, start.network.encoder.stem.weight)


# Nothing is lost


@pytest.mark.parametrize("mode", ["--frozen", "--full"])
def test_three_epochs_are_some_steps_and_the_rest(weights, images, labels, tmp_path, mode):
    """Bit-identical, stopped in the middle of an epoch; three processes' worth of scans a batch does not divide."""
    settings = ["batch_size=3", "encoder_rate=1e-3"]
    assert command.main(words(weights, images, labels, tmp_path / "whole", *settings, more=[mode])) == 0
    clock = itertools.count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command.time, "monotonic", lambda: float(next(clock)))  # one look a step
        assert command.main(words(weights, images, labels, tmp_path / "parts", *settings, more=[mode, "--minutes", str(4 / 60)])) == 0
    assert state_of(tmp_path / "parts")["step"] == 5 and not (tmp_path / "parts" / "metrics.json").exists()
    assert command.main(words(weights, images, labels, tmp_path / "parts", *settings, more=[mode, "--resume"])) == 0
    whole, parts = state_of(tmp_path / "whole"), state_of(tmp_path / "parts")
    assert whole["step"] == 9, "three epochs of three steps"
    assert_same(whole, parts)
    for name in ("best.safetensors", "metrics.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_other_labels_or_settings_are_refused(frozen_run, weights, images, rows, tmp_path, capsys):
    other = write_csv(tmp_path / "labels.csv", rows[::-1])
    settings = ["epochs=6", "copies=1"]
    assert command.main(words(weights, images, other, frozen_run, *settings, more=["--resume"])) == 2
    assert "labels was" in capsys.readouterr().err
    same = frozen_run.parent / "labels.csv"
    assert command.main(words(weights, images, same, frozen_run, *settings, "head_rate=1", more=["--resume"])) == 2
    assert "head_rate was 0.005, now 1.0" in capsys.readouterr().err
    assert command.main(words(weights, images, same, frozen_run, *settings)) == 2
    assert "--resume" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["--frozen", "--full"])
def test_two_processes_learn_what_one_does(weights, images, labels, tmp_path, mode):
    """Defect 2: a frozen encoder has no gradients to share. The optimiser's mean after one step holds a tenth of the gradient."""
    given = words(weights, images, labels, tmp_path / "two", "epochs=1", "batch_size=8", "dropout=0", more=[mode])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "training.classify", *given]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(torchrun, cwd=REPOSITORY, env=environment, capture_output=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    assert command.main(words(weights, images, labels, tmp_path / "one", "epochs=1", "batch_size=8", "dropout=0", more=[mode])) == 0
    one, two = (state_of(tmp_path / name)["optimiser"]["state"] for name in ("one", "two"))
    assert one.keys() == two.keys() and any(moments["exp_avg"].any() for moments in one.values())
    for number, moments in one.items():
        torch.testing.assert_close(moments["exp_avg"], two[number]["exp_avg"], atol=1e-6, rtol=1e-3)
    scored = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")]
    assert scored[0] == scored[1]


def test_every_scan_is_drawn_equally_often():
    settings = changed(classify_config.smoke(), ["batch_size=4"])
    steps = list(draws(6, settings, range(3), ALONE))
    assert [len(batch) for batch in steps] == [4, 4, 4]
    drawn = [scan for batch in steps for scan, _ in batch]
    assert sorted(drawn[:6]) == sorted(drawn[6:]) == list(range(6)) and drawn[:6] != drawn[6:]
    halves = [list(draws(6, settings, range(3), ProcessGroup(rank, 2, ALONE.device))) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == steps
    assert list(draws(6, settings, range(1, 3), ALONE)) == steps[1:]


# Scores and weights, known answers


def of(multi_label=False, count=2):
    return ClassifierConfig(model=ModelConfig(), recipe=Recipe(), classes=("a", "b", "c")[:count], multi_label=multi_label)


def test_scores_of_two_classes():
    second = torch.tensor([0.1, 0.4, 0.35, 0.8])
    found = scores(torch.stack([1 - second, second], 1), torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]]), of())
    assert found["auc"] == 0.75, "three of four pairs are in order"
    assert (found["accuracy"], found["balanced_accuracy"], found["f1"]) == (0.75, 0.75, pytest.approx(2 / 3))


def test_ties_count_half_and_an_absent_class_is_left_out():
    probabilities = torch.tensor([[0.6, 0.4, 0.0], [0.6, 0.4, 0.0], [0.2, 0.8, 0.0]])
    found = scores(probabilities, torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 0]]), of(count=3))
    assert found["auc_by_class"] == {"a": 0.75, "b": 0.75, "c": None} and found["auc"] == 0.75
    assert found["balanced_accuracy"] == 0.75 and found["f1"] == pytest.approx(2 / 3)


def test_scores_of_several_labels():
    probabilities = torch.tensor([[0.9, 0.9], [0.2, 0.9], [0.7, 0.9], [0.1, 0.1]])
    found = scores(probabilities, torch.tensor([[1.0, 1], [0, 1], [0, 1], [0, 1]]), of(multi_label=True))
    assert found["auc_by_class"] == {"a": 1.0, "b": None} and found["auc"] == 1.0
    assert found["accuracy"] == 0.75 and found["balanced_accuracy"] == pytest.approx((1 + 2 / 3) / 2 / 2 + 0.75 / 2)


def test_rare_classes_weigh_more(images, rows, tmp_path):
    table = read_table(write_csv(tmp_path / "l.csv", [*rows[:3], *rows[8:]]), images)
    assert command.class_weights(table, classify_config.smoke()).tolist() == [0.75, 1.5]
    marked = [{"filename": r["filename"], "label_x": int(n == 0), "split": r["split"]} for n, r in enumerate(rows)]
    table = read_table(write_csv(tmp_path / "m.csv", marked), images)
    assert command.class_weights(table, classify_config.smoke()).tolist() == [7.0]
    assert command.class_weights(table, changed(classify_config.smoke(), ["class_weights=false"])).tolist() == [1.0]


def test_the_cosine_goes_down_from_epoch_to_epoch(weights):
    settings = changed(classify_config.released(), ["epochs=2"])
    parameter = torch.nn.Parameter(torch.zeros(1))
    learner = command.Learner(None, True, torch.optim.AdamW([{"params": [parameter], "lr": 1e-4, "rate": 1e-4}]), {})
    command.set_rates(learner, settings, 1)
    assert math.isclose(learner.optimiser.param_groups[0]["lr"], (1e-4 + 1e-6) / 2)


def test_the_spacing_is_the_finest_at_which_nearly_all_scans_fit():
    free = Recipe(spacing_zyx=None, spacing_limits_mm=(0.8, 6.0))
    small = classify_config.small()
    recipe = input_recipe(small, free, [2.0] * 19 + [9.0])
    assert recipe.spacing_zyx == (2.36,) * 3 and recipe.window_zyx == (64, 64, 64), "the 95th percentile, 2.35, rounded up"
    assert input_recipe(small, free, [0.3]).spacing_zyx == (0.8,) * 3
    assert input_recipe(small, Recipe(), [2.0]).spacing_zyx == (1.5,) * 3
    assert input_recipe(changed(small, ["spacing_mm=4"]), Recipe(), [2.0]).spacing_zyx == (4.0,) * 3


def test_the_body_decides_on_the_spacing():
    """A body of 80 mm in 320 mm of air: with 32 voxels for the whole scan it takes 8 of 10 mm, and a margin of 2 at either side."""
    values = np.full((40, 40, 40), -1000, np.float32)
    values[15:25, 15:25, 15:25] = np.random.default_rng(0).normal(40, 5, (10, 10, 10))
    volume = Volume(values, Geometry(shape_zyx=(40, 40, 40), spacing_xyz=(8.0, 8.0, 8.0)), "ct")
    recipe = Recipe(spacing_zyx=None, window_zyx=(32, 32, 32), body_margin_zyx=(2, 2, 2))
    assert classify_inputs._fitting(volume, recipe) == pytest.approx(10 * 12 / 32)


# Bad input


def test_all_bad_scans_are_named_before_anything_is_computed(weights, images, rows, tmp_path, capsys):
    folder = tmp_path / "scans"
    folder.mkdir()
    for row in rows:
        (folder / f"{row['filename']}.nii.gz").write_bytes((images / f"{row['filename']}.nii.gz").read_bytes())
    bad = scan("ball", 3)
    bad.array[0, 0, 0] = np.nan
    bad.write(folder / "s3.nii.gz")
    (folder / "s12.nii.gz").write_bytes(b"nothing")
    assert command.main(words(weights, folder, write_csv(tmp_path / "l.csv", rows), tmp_path / "run")) == 2
    told = capsys.readouterr().err
    assert "2 of 16 scans cannot be used" in told and "- s3: 1 voxels of" in told and "not numbers" in told and "s12:" in told
    assert not (tmp_path / "run" / "features").exists()


def test_one_class_in_val_is_said_and_the_loss_decides(weights, images, rows, tmp_path, capsys):
    odd = [row for row in rows if row["split"] != "val" or row["label"] == "ball"]
    assert command.main(words(weights, images, write_csv(tmp_path / "l.csv", odd), tmp_path / "run")) == 0
    told = capsys.readouterr().err
    assert "No AUC on val for ball, plate: all scans have it, or none." in told and "the lowest loss on val decides" in told
    assert "val: AUC not defined" in told
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert found["val"]["auc"] is None and found["test"]["auc"] is not None
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert found["steps"] == min((line for line in lines if "epoch" in line), key=lambda line: line["val_loss"])["step"]


@pytest.mark.parametrize(
    "given, match",
    [
        (["--recipe", "huge"], "no classification recipe 'huge'"),
        (["--set", "schedule=linear"], "one of: constant, cosine"),
        (["--set", "epochs=0"], "epochs is 0"),
        (["--set", "size_zyx=32,32"], "3 whole numbers"),
        (["--set", "size_zyx=0,16,16"], "size_zyx is (0, 16, 16)"),
        (["--set", "spacing_mm=-1"], "spacing_mm is -1.0"),
        (["--set", "size_zyx=15,16,16"], "multiple of 2"),
        (["--set", "dropout=1"], "dropout is 1"),
        (["--set", "nothing=1"], "names no field"),
    ],
)
def test_bad_words_exit_with_two(weights, images, labels, capsys, given, match):
    assert command.main([*words(weights, images, labels, labels.parent / "run"), *given]) == 2
    assert match in capsys.readouterr().err


def test_every_recipe_can_be_built():
    assert all(isinstance(make(), ClassifyConfig) and make().name == name for name, make in classify_config.RECIPES.items())
