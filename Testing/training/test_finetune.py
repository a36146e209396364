"""Finetuning end to end with a tiny network: it learns, keeps its best, resumes exactly, and its weights need no reference."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mass_core import load_model
from mass_core.cli import main as mass
from mass_core.encoding.task import Task
from mass_core.volumes.appearance import read_appearance
from mass_core.volumes.volume import Volume
from mass_core.weights.store import classes
from Testing.waiting import PATIENCE_S
from training.curves import draw
from training.finetune import command as finetune_command
from training.finetune import loop as finetune
from training.finetune import recipes as finetune_recipes
from training.finetune.cases import hold_out
from training.finetune.fixed_classes import rates
from training.finetune.reporting import FinetuneProgress
from training.finetune.validation import Validator
from training.run_log import read_log
from training.runs.state import saved

from .balls import SHAPE, SPLITS, write_dataset, write_files, write_weights

QUICK = ["batch_size=2", "steps_per_epoch=2", "log_every=1", "save_every=100", "workers=0"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("balls"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture
def tune(weights, dataset, tmp_path, capsys):
    """Runs the command; returns its exit code and the last line it printed as JSON."""

    def run(*words, settings=(), output=None, data=True, recipe="smoke"):
        given = ["--data", str(dataset)] if data else []
        common = ["--weights", str(weights), "--device", "cpu", "--recipe", recipe, "--json", "--output", str(output or tmp_path / "run")]
        code = finetune_command.main([*common, *given, *map(str, words), "--set", *QUICK, *settings])
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return code, lines[-1], lines

    return run


def state_of(output):
    return torch.load(saved(output / "state")[0], weights_only=True)


def stop_after(monkeypatch, steps):
    """The run is told to stop after so many steps."""
    told = []
    monkeypatch.setattr(FinetuneProgress, "stopping", lambda self: told.append(0) or len(told) == steps)


def test_weights_segment_without_a_reference(tune, weights, tmp_path):
    code, result, _ = tune("--epochs", 2)
    assert code == 0 and result["event"] == "result" and result["output"] == str(tmp_path / "run" / "best.safetensors")
    assert [(label["value"], label["name"]) for label in result["labels"]] == [(1, "bright ball"), (2, "dark ball")]
    named = {value: look.name for value, look in classes(tmp_path / "run/best.safetensors").items()}
    assert named == {1: "bright ball", 2: "dark ball"}
    model = load_model(tmp_path / "run/last.safetensors", "cpu")
    assert not model.config.task_encoding and model.licence == "CC0-1.0"
    assert model.provenance["finetuned_from"] == "tiny" and model.provenance["steps"] == 4
    assert model.recipe.modality == "mr" and model.recipe.window_zyx == (16, 16, 16)
    assert model.provenance["fingerprint"] == load_model(weights, "cpu").fingerprint
    images, _ = write_files(tmp_path / "new", 1)
    command = ["segment", "--weights", str(tmp_path / "run/best.safetensors"), "--target", str(images / "scan0.nii.gz"), "--device", "cpu"]
    assert mass([*command, "--output", str(tmp_path / "out.seg.nrrd")]) == 0
    found = Volume.read(tmp_path / "out.seg.nrrd")
    assert found.array.shape == SHAPE
    assert {look.name for look in read_appearance(tmp_path / "out.seg.nrrd").values()} <= {"bright ball", "dark ball"}


def test_the_start_is_the_mean_of_the_task_embeddings(tune, weights, tmp_path):
    """With learning rates of 0 nothing moves: network and tokens are those of in-context segmentation."""
    assert tune("--epochs", 1, settings=["optim.learning_rate=0", "optim.token_rate=0"])[0] == 0
    start, tuned, plain = (
        Task.load(tmp_path / "run/start.masstask"),
        load_model(tmp_path / "run/last.safetensors", "cpu"),
        load_model(weights, "cpu"),
    )
    assert start.fingerprint == plain.fingerprint and [label.references for label in start.labels] == [3, 3]
    for ours, theirs in zip(tuned.task.labels, start.labels, strict=True):
        assert all(torch.allclose(a, b, atol=2e-3) for a, b in zip(ours.tokens, theirs.tokens, strict=True))  # stored in half precision
    assert torch.allclose(tuned.network.encoder.stem.weight, plain.network.encoder.stem.weight, atol=1e-3)


@pytest.mark.slow
def test_it_learns(tune):
    settings = ["steps_per_epoch=25", "batch_size=4", "optim.learning_rate=3e-3", "optim.token_rate=3e-3", "patience=0", "validate_every=2"]
    code, result, lines = tune("--epochs", 8, settings=settings)
    scores = [line["values"]["val_dice"] for line in lines if "val_dice" in line.get("values", {})]
    assert code == 0 and scores[0] < 0.1 and result["best_dice"] == max(scores) > 0.5


def test_a_run_stopped_and_resumed_is_the_run_that_never_stopped(tune, tmp_path, monkeypatch):
    """Bit-identical, in the middle of an epoch: network, average, optimiser, scores and the weights kept."""
    settings = ["steps_per_epoch=3", "optim.ema_decay=0.9", "optim.schedule=cosine", "crops.elastic_probability=0.5"]
    assert tune("--epochs", 2, settings=settings, output=tmp_path / "whole")[0] == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        _, result, _ = tune("--epochs", 2, settings=settings, output=tmp_path / "parts")
    assert result["stopped"] == "budget" and state_of(tmp_path / "parts")["step"] == 4
    assert tune("--epochs", 2, "--resume", settings=settings, output=tmp_path / "parts")[0] == 0
    whole, parts = state_of(tmp_path / "whole"), state_of(tmp_path / "parts")
    assert whole["step"] == parts["step"] == 6
    for part in ("network", "average"):
        assert all(torch.equal(value, parts[part][name]) for name, value in whole[part].items())
    for number, moments in whole["optimiser"]["state"].items():
        assert torch.equal(moments["exp_avg_sq"], parts["optimiser"]["state"][number]["exp_avg_sq"])
    assert (whole["scores"], whole["best_epoch"]) == (parts["scores"], parts["best_epoch"])
    a, b = (load_model(tmp_path / run / "best.safetensors", "cpu") for run in ("whole", "parts"))
    assert a.fingerprint == b.fingerprint
    logs = [read_log(tmp_path / run / "log.jsonl") for run in ("whole", "parts")]
    assert logs[0]["loss"] == logs[1]["loss"] and logs[0]["val_dice"] == logs[1]["val_dice"]


def test_a_folder_with_a_run_is_not_entered_by_chance(tune, capsys):
    assert tune("--epochs", 1)[0] == 0
    code, failed, _ = tune("--epochs", 1)
    assert code == 2 and "already contains a run" in failed["message"]
    code, failed, _ = tune("--epochs", 1, "--resume", settings=["batch_size=4"])
    assert code == 2 and "batch_size was 2, now 4" in failed["message"]


def test_a_run_goes_on_with_its_own_scans_only(tune):
    assert tune("--epochs", 1)[0] == 0
    code, failed, _ = tune("--epochs", 2, "--resume", "--shots", 1)
    assert code == 2 and "scans was 'balls (scans: 3" in failed["message"] and "now 'balls (scans: 1" in failed["message"]


def test_no_progress_ends_the_run_and_the_best_is_kept(tune, tmp_path, monkeypatch):
    scores = iter([0.3, 0.6, 0.5, 0.55, 0.4, 0.9])
    monkeypatch.setattr(Validator, "scores", lambda *_: {"val_dice": (score := next(scores)), "dice_1": score, "dice_2": score})
    code, result, _ = tune("--epochs", 9, settings=["patience=3"])
    assert code == 0
    assert {name: result[name] for name in ("stopped", "best_epoch", "best_dice", "epochs")} == {
        "stopped": "early", "best_epoch": 1, "best_dice": 0.6, "epochs": 4,
    }  # fmt: skip
    assert load_model(tmp_path / "run/best.safetensors", "cpu").provenance["steps"] == 2
    assert load_model(tmp_path / "run/last.safetensors", "cpu").provenance["steps"] == 8
    assert result["labels"][0]["dice"] == 0.6


def test_validation_has_the_precision_of_training(tune, monkeypatch):
    asked = []

    def scores(validator, *_):
        asked.append(validator._segmenter.precision)
        return {"val_dice": 0.5, "dice_1": 0.5, "dice_2": 0.5}

    monkeypatch.setattr(Validator, "scores", scores)
    assert tune("--epochs", 1, settings=["precision=bfloat16"])[0] == 0
    assert asked == ["bfloat16", "bfloat16"]


def test_nothing_better_than_the_start_is_said(tune, monkeypatch):
    monkeypatch.setattr(Validator, "scores", lambda *_: {"val_dice": 0.5})
    _, result, _ = tune("--epochs", 2)
    assert result["best_epoch"] == 0 and any("No epoch was better than the start" in text for text in result["warnings"])


def test_the_validation_is_the_users_segmentation(tune, dataset, tmp_path, capsys):
    """The score of the weights that are kept is that of `mass segment` on the same scans."""
    from mass_core.data.dataset import Dataset
    from mass_core.evaluation.metrics import dice
    from mass_core.evaluation.scoring import scan, segmenter_for
    from mass_core.inference.segmenter import Segmenter

    _, result, _ = tune("--epochs", 2, settings=["optim.learning_rate=3e-3", "steps_per_epoch=10"])
    model = load_model(result["output"], "cpu")
    segmenter, found = segmenter_for(Segmenter(model), Dataset.read(dataset)), []
    for name in SPLITS["val"]:
        image, truth = scan(Dataset.read(dataset), name)
        labels = segmenter.segment(image, model.task).labels.array
        found.append([dice(truth.array == value, labels == value) for value in (1, 2)])
    assert np.allclose(np.mean(found, 0), [label["dice"] for label in result["labels"]], atol=0.02)  # stored in half precision


def test_what_progress_tells(tune):
    _, _, lines = tune("--epochs", 1)
    stages = [line["stage"] for line in lines if line["event"] == "progress"]
    assert [stage for i, stage in enumerate(stages) if stage not in stages[:i]] == ["labels", "encode", "validate", "train"]
    values = [line["values"] for line in lines if "values" in line]
    assert {"epoch", "step", "val_dice"} <= set(values[0]) and {"epoch", "step", "loss"} == set(values[1])
    assert [value["step"] for value in values if "loss" in value] == [1, 2]


def test_from_scratch_nothing_is_left_of_the_weights(tune, weights, tmp_path):
    assert tune("--epochs", 1, "--scratch", settings=["optim.learning_rate=0", "optim.token_rate=0"])[0] == 0
    tuned, plain = load_model(tmp_path / "run/last.safetensors", "cpu"), load_model(weights, "cpu")
    assert tuned.provenance["finetuned_from"] is None and tuned.licence == ""
    assert not torch.allclose(tuned.network.encoder.stem.weight, plain.network.encoder.stem.weight, atol=1e-2)
    start = Task.load(tmp_path / "run/start.masstask")
    assert not torch.allclose(tuned.task.labels[0].tokens[0], start.labels[0].tokens[0], atol=1e-2)
    assert [x.spacing_zyx for x in tuned.task.labels] == [x.spacing_zyx for x in start.labels]


def test_shots_are_drawn_by_the_seed(tune, tmp_path):
    def cases(*words):
        assert tune(*words, "--epochs", 1, "--shots", 1, output=tmp_path / "-".join(map(str, words)))[0] == 0
        return Task.load(tmp_path / "-".join(map(str, words)) / "start.masstask").labels[0]

    draws = [cases("--draw", draw) for draw in range(3)]
    assert all(label.references == 1 for label in draws)
    tokens = [label.tokens[0] for label in [*draws, cases("--draw", 3)]]
    assert not torch.equal(tokens[0], tokens[1]) and not torch.equal(tokens[1], tokens[2])
    assert torch.equal(tokens[0], tokens[3])  # three scans: the fourth draw is the first again


def test_chosen_labels_and_scans(tune, tmp_path):
    _, result, _ = tune("--epochs", 1, "--labels", 2, "--train-cases", "a", "c")
    assert [label["name"] for label in result["labels"]] == ["dark ball"]
    assert Task.load(tmp_path / "run/start.masstask").labels[0].references == 2


def test_files_are_prepared_and_some_kept_apart(tune, tmp_path):
    images, labels = write_files(tmp_path / "files", 5)
    code, result, lines = tune("--images", images, "--labels-dir", labels, "--epochs", 1, data=False)
    assert code == 0 and result["best_dice"] is not None
    splits = json.loads((tmp_path / "run/data/dataset.json").read_text())["splits"]
    assert len(splits["train"]) == 4 and len(splits["val"]) == 1
    assert [line for line in lines if line.get("stage") == "prepare"]
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "run/data/cases").rglob("*.npy")}
    assert tune("--images", images, "--labels-dir", labels, "--epochs", 2, "--resume", data=False)[0] == 0
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "run/data/cases").rglob("*.npy")}


@pytest.mark.parametrize("given", [["--names", "1=bright", "2=dark, small"], None])
def test_classes_of_files_have_the_names_given_or_those_of_a_description(tune, tmp_path, given):
    images, labels = write_files(tmp_path / "files", 2)
    (tmp_path / "files/dataset.json").write_text('{"labels": {"background": 0, "bright": 1, "dark, small": 2}}')
    code, result, _ = tune("--images", images, "--labels-dir", labels, "--epochs", 1, *(given or []), data=False)
    assert code == 0 and [label["name"] for label in result["labels"]] == ["bright", "dark, small"]
    code, failed, _ = tune("--names", "1=x", output=tmp_path / "other")
    assert code == 2 and "a dataset names its labels itself" in failed["message"]
    code, failed, _ = tune("--modality", "ct", output=tmp_path / "other")
    assert code == 2 and "a dataset records" in failed["message"]
    code, failed, _ = tune("--images", images, "--labels-dir", labels, "--names", "liver", data=False, output=tmp_path / "other")
    assert code == 2 and "'liver'" in failed["message"] and not (tmp_path / "other").exists()


def test_the_log_tells_rate_and_time_and_only_what_it_holds_is_drawn(tune, tmp_path, monkeypatch, drawn):
    assert tune("--epochs", 1)[0] == 0 and (tmp_path / "run/curves.png").stat().st_size > 1000
    log = read_log(tmp_path / "run/log.jsonl")
    assert set(log["rate"].values()) == {1e-4} and list(log["minutes"].values()) == sorted(log["minutes"].values())
    before = max(log["minutes"].values())
    assert tune("--epochs", 2, "--resume")[0] == 0
    assert min(value for step, value in read_log(tmp_path / "run/log.jsonl")["minutes"].items() if step > 2) >= before
    drawn = []
    monkeypatch.setattr("training.curves.write_by", lambda path, write: drawn.append(write.__closure__))
    draw(tmp_path / "run")
    (figure,) = (cell.cell_contents for cell in drawn[0])
    titles = [[line.get_label() for line in axes.get_lines()] for axes in figure.axes]
    assert titles == [["loss"], ["dice", "val_dice"], ["rate"], ["norm"], ["samples_per_s"], ["minutes"]]


def test_who_is_held_out():
    both = {name: {1, 2} for name in "abcdefghij"}
    train, val = hold_out(both, seed=0)
    assert len(train) == 8 and len(val) == 2 and not set(train) & set(val)
    assert hold_out(both, seed=0) == (train, val) != hold_out(both, seed=1)
    assert hold_out({"a": {1}}, seed=0) == (("a",), ())
    assert len(hold_out({"a": {1}, "b": {1}}, seed=0)[1]) == 1
    for seed in range(5):  # nobody else shows label 3: who shows it trains
        assert "a" in hold_out({"a": {1, 3}, "b": {1}, "c": {1}}, seed)[0]
    assert hold_out({"a": {1}, "b": {2}}, seed=0)[1] == ()


# Recipes


def test_the_recipes_are_what_they_say():
    paper, released = finetune_recipes.paper(), finetune_recipes.released()
    assert (paper.epochs, paper.optim.learning_rate, paper.patience > 0) == (50, 1e-4, True)
    assert rates(0, paper) == rates(49 * 100, paper) == (1e-4, 1e-4)
    assert rates(0, released) == rates(99, released) == (5e-4, 5e-4)
    assert rates(25 * 100, released) == pytest.approx((1e-6 + (5e-4 - 1e-6) / 2,) * 2)
    optim = released.optim
    assert (optim.weight_decay, optim.clip_norm, optim.ema_decay, optim.loss) == (1e-3, 1.0, 0.999, "tversky")
    assert (released.epochs, released.steps_per_epoch, released.crops.foreground_share) == (50, 100, 0.0)
    assert [finetune_recipes.named(None, size).name for size in (4_000_000, 120_000_000)] == ["small", "paper"]


@pytest.mark.parametrize("recipe", ["paper", "released", "small"])
def test_every_recipe_runs(tune, recipe):
    code, result, _ = tune("--epochs", 1, recipe=recipe, settings=["validate_cases=1"])
    assert code == 0 and result["epochs"] == 1 and np.isfinite(result["best_dice"])


_THREADS_AT_THE_END = """
import atexit, runpy, sys
from pathlib import Path

def tell():
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]  # none but on Linux
    sys.stdout.write(f"threads of the group: {sum('gloo' in name for name in names)}\\n")

atexit.register(tell)  # called after what the run registers
runpy.run_module("training.finetune", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def tune_by_two(weights, dataset, tmp_path):
    """Runs the command in two processes, which tell at their end how many threads of their group are left: they could abort it."""

    def run(data=dataset):
        program = tmp_path / "program.py"
        program.write_text(_THREADS_AT_THE_END)
        words = ["--weights", weights, "--data", data, "--device", "cpu", "--recipe", "smoke", "--output", tmp_path / "run", "--epochs", 2]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
        root = Path(finetune.__file__).parents[2]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
        command = [*launcher, *map(str, words), "--set", *QUICK]
        return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    return run


def test_two_processes_train_and_no_parameter_is_idle(tune_by_two, tmp_path):
    """DistributedDataParallel refuses a step in which a parameter had no part, as with the tokens of a group that is not trained."""
    done = tune_by_two()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("threads of the group: 0") == 2, done.stdout
    assert state_of(tmp_path / "run")["step"] == 4 and done.stdout.count("best.safetensors") == 1


@pytest.mark.slow
def test_two_processes_that_fail_end_their_group_as_well(tune_by_two, tmp_path):
    """torchrun ends the second one when the first one has ended, maybe before it tells."""
    done = tune_by_two(tmp_path / "nowhere")
    assert done.returncode != 0 and "nowhere" in done.stderr
    assert "threads of the group: 0" in done.stdout and "terminate called" not in done.stderr, done.stdout


def test_all_tokens_get_gradients_though_one_group_is_trained(weights):
    from training.finetune.fixed_classes import start

    model = load_model(weights, "cpu")
    image = torch.randn(1, 1, 16, 16, 16)
    mask = torch.zeros(1, 2, 16, 16, 16)
    mask[:, :, 4:8, 4:8, 4:8] = 1
    (tokens,) = model.network.encode_reference(image, mask)
    from mass_core.encoding.task import TaskLabel

    labels = tuple(TaskLabel(value=v, name=str(v), spacing_zyx=(v, v, v), tokens=(tokens[0, v - 1],)) for v in (1, 2))
    task = Task(labels=labels, fingerprint=model.fingerprint, weights="tiny", recipe=model.recipe, modality="mr")
    state = start(model, task, replace(finetune_recipes.smoke()), scratch=False)
    state.network(image, [1]).square().mean().backward()
    assert all(parameter.grad is not None for parameter in state.network.parameters())
    assert state.network.tokens[0].grad[0].abs().max() == 0 < state.network.tokens[0].grad[1].abs().max()


def test_it_runs_where_only_the_packages_of_slicer_are(weights, dataset, tmp_path):
    """3D Slicer has PyTorch and safetensors; curves are not drawn there."""
    missing = ["matplotlib", "tqdm", "rich", "h5py", "skimage", "tensorboard", "monai", "einops", "PIL", "nibabel"]
    words = ["--weights", str(weights), "--data", str(dataset), "--device", "cpu", "--recipe", "smoke", "--epochs", "1", "--json"]
    code = f"import sys\nfor name in {missing!r}: sys.modules[name] = None\nfrom training.finetune.command import main\nsys.exit(main())"
    command = [sys.executable, "-c", code, *words, "--output", str(tmp_path / "run"), "--set", *QUICK]
    done = subprocess.run(command, cwd=Path(finetune.__file__).parents[2], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["event"] == "result" and not (tmp_path / "run/curves.png").exists()
