"""mass weights export: graphs give the numbers of the network for images of another size, and say what they are of."""

import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mass_core.cli import main
from mass_core.config import ModelConfig, Recipe
from mass_core.encoding.task import Task, TaskLabel
from mass_core.model import build_model
from mass_core.weights.checkpoint import load_model, save_weights
from mass_core.weights.encoder import encoder

PAGE = Path(__file__).resolve().parents[2] / "docs" / "encoder.md"
CONFIG = ModelConfig(channels=(8, 32), stages=1, position_size=16, queries=2)
onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")), reason="ONNX is not installed"
)


def export(*arguments: object) -> int:
    return main(["weights", "export", *map(str, arguments)])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that take references."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "plain.safetensors"
    save_weights(path, build_model(CONFIG), Recipe(), {}, licence="CC0")
    return path


@pytest.fixture(scope="module")
def fixed(plain: Path) -> Path:
    """Weights with two classes of their own."""
    path = plain.with_name("fixed.safetensors")
    tokens = torch.randn(1, 2, CONFIG.queries + 1, 32)
    labels = tuple(
        TaskLabel(value=value, name=name, tokens=(own,), spacing_zyx=(2.0, 2.0, 2.0), references=1, kept=1.0, parts=1)
        for value, name, own in zip((3, 5), ("liver", "spleen"), tokens[0], strict=True)
    )
    task = Task(labels=labels, weights="", fingerprint="", modality="ct", recipe=Recipe(), warnings=())
    save_weights(path, load_model(plain, "cpu").network.with_fixed_classes((tokens,)), Recipe(), {}, licence="CC0", task=task)
    return path


def logits_of(weights: Path, image: Tensor) -> Tensor:
    network = load_model(weights, "cpu").network
    return network.segment(image, tuple(stage.expand(len(image), -1, -1, -1) for stage in network.class_tokens((0, 1))))


def differs(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    return max(float((one - other).detach().abs().max()) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("part", ["network", "encoder"])
def test_a_graph_of_pytorch_gives_the_same_numbers(part: str, fixed: Path, tmp_path: Path) -> None:
    assert export(fixed, tmp_path / "out.pt2", "--part", part) == 0
    files = {"mass.json": ""}
    run = torch.export.load(tmp_path / "out.pt2", extra_files=files).module()
    for shape in ((1, 1, 6, 8, 10), (3, 1, 4, 4, 8)):  # neither is the one it was traced with
        image = torch.randn(shape)
        found, wanted = ([run(image)], [logits_of(fixed, image)]) if part == "network" else (run(image), encoder(fixed)(image))
        assert differs(found, wanted) < 1e-4
    about = json.loads(files["mass.json"])
    assert (about["part"], about["stride"], about["licence"]) == (part, 2, "CC0") and about["preprocess"]["ct_clip_hu"] == [-991.0, 500.0]
    assert [label["name"] for label in about["labels"]] == (["liver", "spleen"] if part == "network" else [])


@onnx
@pytest.mark.parametrize("part", ["network", "encoder"])
def test_onnxruntime_gives_the_same_numbers(part: str, fixed: Path, plain: Path, tmp_path: Path) -> None:
    import onnxruntime

    weights = fixed if part == "network" else plain
    assert export(weights, tmp_path / "out.onnx") == 0
    session = onnxruntime.InferenceSession(tmp_path / "out.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["mass"])["part"] == part
    for shape in ((1, 1, 6, 8, 10), (3, 1, 4, 4, 8)):
        image = torch.randn(shape)
        wanted = [logits_of(weights, image)] if part == "network" else encoder(weights)(image)
        assert differs([torch.from_numpy(one) for one in session.run(None, {"image": image.numpy()})], wanted) < 1e-4


@onnx
@pytest.mark.slow
def test_the_documented_example_runs(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert export(plain, tmp_path / "encoder.onnx") == 0
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"^```python\n([^`]*encoder\.onnx.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    exec(compile(example, PAGE.name, "exec"), {"__name__": "example"})


def test_what_no_graph_can_be_made_of_is_refused(
    plain: Path, fixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name.startswith("onnx") else there(name, *more))
    (tmp_path / "taken.pt2").touch()
    for arguments, told in (
        ((plain, tmp_path / "out.pt2", "--part", "network"), "take what to segment from references"),
        ((plain, tmp_path / "out.bin"), "End it with .pt2 or .onnx"),
        ((plain, tmp_path / "out.onnx"), "pip install onnx onnxscript"),
        ((fixed, tmp_path / "taken.pt2"), "exists already"),
    ):
        assert export(*arguments) == 2
        assert told in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken.pt2"]
