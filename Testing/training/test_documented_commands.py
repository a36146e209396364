"""The command lines of README and docs run as they are written, page by page and in their order, on a few small scans.

Inputs have the names of the page; the end of each command makes it small: a tiny network, a step or two, one draw.
"""

import csv
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monai.networks.nets import SegResNet

from mass_core.cli import main as mass
from training.baselines.command import main as baselines
from training.classify.loop import main as classify
from training.finetune.command import main as finetune
from training.pretrain.loop import main as pretrain
from training.reproduce.command import main as reproduce

from .balls import write_dataset, write_files, write_weights
from .conftest import write_dataset as write_blobs

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PROGRAMS: dict[str, Callable[[list[str]], int]] = {
    "training.pretrain": pretrain,
    "training.finetune": finetune,
    "training.classify": classify,
    "training.baselines": baselines,
    "training.reproduce": reproduce,
}
NETWORK = ["model.channels=8,32", "model.stages=1", "model.position_size=16", "preprocess.window_zyx=16,16,16", "precision=float32"]
STEPS = ["--set", *NETWORK, "early_window=16", "episodes.task_slots=2", "episodes.smallest_voxels=8", "batch_size=2", "log_every=1"]
TUNE = ["batch_size=2", "steps_per_epoch=1", "validate_cases=1", "references=1"]
EVALUATE = ["--shots", "1", "--repeats", "1", "--cases", "1", "--labels", "1", "2", "--pictures", "0", "--seconds", "0.2", "--epochs", "1"]
EVALUATE += ["--recipe-finetune", "smoke", "--device", "cpu", "--set", *TUNE]
SMALLER: dict[str, list[str]] = {
    "training.pretrain": ["--device", "cpu", *STEPS, "steps=2", "validate_every=0"],
    "training.finetune": ["--weights", "tiny.safetensors", "--device", "cpu", "--recipe", "smoke", "--epochs", "1", "--set", *TUNE],
    "training.classify": ["--weights", "tiny.safetensors", "--device", "cpu", "--set", "size_zyx=16,16,16", "epochs=1"],
    "training.reproduce": ["--rows", "Scratch", "--datasets", "mine", "--shots", "1", "--dry-run"],
    "training.baselines": ["--device", "cpu", "--steps", "1", *STEPS],
    "mass evaluate": ["--weights", "tiny.safetensors", *EVALUATE],
    "mass masks": ["--max-masks", "50"],
    "mass prepare": ["--min-voxels", "1"],
    "mass adapt": ["--seconds", "0.2", "--weights", "tiny.safetensors", "--device", "cpu"],
    "mass classify": ["--device", "cpu", "--overwrite"],
    "mass segment": ["--device", "cpu", "--overwrite"],
    "mass assess": ["--weights", "tiny.safetensors", "--device", "cpu"],
    "mass encode": ["--weights", "tiny.safetensors", "--device", "cpu", "--overwrite"],
    "mass weights": [],
    "mass features": ["--weights", "tiny.safetensors", "--device", "cpu", "--overwrite"],
}
"""Options appended to a command here, by its beginning."""
NOT_HERE = {
    "mass masks .* --method sam2": "needs SAM2: test_cli_sam2.py",
    ".*--(print-config|config (run.json|evaluation.yaml))": "test_option_files.py, test_run_options.py",
    "mass weights export": "test_export.py",
    "mass weights (push|pull)": "test_hub.py",
    "mass weights download": "needs the network: test_weights_store.py",
    "mass (dataset|prepare /data|masks /data)": "whole datasets: test_released_layout.py, test_dataset_kinds.py",
    "python -m Testing.benchmarks.(beside_released|inference|slicer_roundtrip|quality|remote)": "measurements: test_benchmarks.py",
    "python -m Testing.benchmarks.gpu": "test_gpu_benchmark.py",
    "mass segment .*--format nnunet": "needs a dataset of nnU-Net: test_decathlon_layout.py",
    "mass .*(--on gpu01|remote gpu01)": "needs another computer: test_remote_command.py",
    "python -m training.finetune --on gpu01": "needs another computer: test_remote_command.py",
    "mass evaluate --self-reference": "test_self_reference.py",
    "python -m training.reproduce (table2|all)": "more data: reproduce/test_tables.py",
}
LONG = ("mass evaluate",)
"""Beginnings of commands that finetune networks in processes of their own, one after the other."""
RENAMED = {"IMAGE": "ct1.nii.gz", "MASK": "ct1_liver.nii.gz", "SCAN": "ct2.nii.gz"}


def commands(page: Path) -> list[str]:
    """The command lines in code blocks of a page, without what is said about them."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    lines = [line for language, block in fenced if language in ("", "bash") for line in block.replace("\\\n", " ").splitlines()]
    bare = [re.split(r"(?<! ) {3,}(?=[a-z])| #", re.sub(r"^(mass \w+) +", r"\1 ", line))[0].strip() for line in lines]
    return [line for line in bare if re.match(r"mass |python -m (training|Testing)|torchrun .*-m training", line)]


def is_here(line: str) -> bool:
    return not any(re.match(pattern, line) for pattern in NOT_HERE)


HERE = {page.name: found for page in PAGES if (found := [line for line in commands(page) if is_here(line)])}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything the pages' commands begin with, under the names they use."""
    place = tmp_path_factory.mktemp("template")
    images, labels = write_files(place / "scans", 6)
    for name in ("SCANS", "headneck_ct"):
        shutil.copytree(images, place / name)
    for name in ("LABELS", "experts", "totalsegmentator"):
        shutil.copytree(labels, place / name)
    for number in range(1, 5):
        shutil.copy(images / f"scan{number}.nii.gz", place / f"ct{number}.nii.gz")
        shutil.copy(images / f"scan{number}.nii.gz", place / f"scan{number}.nii.gz")
        if number % 2:
            shutil.copy(labels / f"scan{number}.nii.gz", place / f"ct{number}_liver.nii.gz")
    names = [f"scan{number}" for number in range(6)]
    split = {"train": names[:4], "val": names[4:5], "test": names[5:], "labels": {"1": "bright", "2": "dark"}}
    for path in (place / "train.json", place / "scans/split.json"):
        path.write_text(json.dumps(split))
    splits = {"train": tuple("abcde"), "val": ("f",), "test": ("g",)}
    for name in ("LABELLED", "hippocampus", "headneck", "dataset", "DATA/mine"):
        write_dataset(place / name, splits)
    for name in ("DATASET", "data/hippocampus_mr", "data/others"):
        write_blobs(place / name, scans=2)
    for name in ("tiny", "WEIGHTS"):
        write_weights(place / f"{name}.safetensors")
    torch.save(SegResNet(init_filters=16, blocks_down=(1, 2, 2, 4), out_channels=25).state_dict(), place / "model.pt")
    order = {"dataset": "LABELLED", "folder": "ORDERED", "weights": "tiny.safetensors", "recipe": "smoke", "epochs": 1, "settings": TUNE}
    (place / "ORDER.json").write_text(json.dumps(order))
    with (place / "labels.csv").open("w", newline="") as file:
        rows = [(f"scan{number}", "ab"[number % 2], ["train", "train", "train", "train", "val", "test"][number]) for number in range(6)]
        csv.writer(file).writerows([("filename", "label", "split"), *rows])
    return place


@pytest.fixture
def place(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(template, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    return tmp_path / "place"


def test_every_documented_command_is_run_here_or_elsewhere() -> None:
    assert sum(map(len, HERE.values())) >= 25
    lines = [line for page in PAGES for line in commands(page)]
    assert [pattern for pattern in NOT_HERE if not any(re.match(pattern, line) for line in lines)] == []
    assert [line for lines in HERE.values() for line in lines if beginning(words_of(line)) not in SMALLER and "info" not in line] == []


def words_of(line: str) -> list[str]:
    """A command without the launcher of several processes, and with the inputs there are."""
    words = shlex.split(line)
    if words[0] != "mass":
        words = words[words.index("-m") + 1 :]
    renamed = RENAMED | ({"DATASET": "LABELLED"} if words[0] == "training.finetune" else {})
    return [renamed.get(word, word) for word in words]


def beginning(words: list[str]) -> str:
    return " ".join(words[:2]) if words[0] == "mass" else words[0]


def run(line: str) -> int:
    words = words_of(line)
    output = Path(words[words.index("--output") + 1]) if "--output" in words else None
    if output is not None and output.is_dir() and beginning(words) != "mass masks":
        shutil.rmtree(output)  # of the command before
    more = SMALLER.get(beginning(words), [])
    if beginning(words) == "mass segment" and "--weights" not in words:
        more = ["--weights", "tiny.safetensors", *more]
    if words[0] == "mass":
        return mass([*words[1:], *more])
    return PROGRAMS[words[0]]([*words[1:], *more])


def is_long(line: str) -> bool:
    return beginning(words_of(line)) in LONG


@pytest.mark.parametrize("page", [page for page, lines in HERE.items() if not all(map(is_long, lines))])
def test_the_commands_of_a_page_run(page: str, place: Path) -> None:
    """All but the long ones."""
    if page == "masks.md":  # here scans/ holds scans only
        shutil.rmtree("scans/labels")
        os.remove("scans/split.json")
    for line in HERE[page]:
        assert is_long(line) or run(line) == 0, line


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, lines in HERE.items() if any(map(is_long, lines))])
def test_all_commands_of_a_page_run(page: str, place: Path) -> None:
    for line in HERE[page]:
        assert run(line) == 0, line
