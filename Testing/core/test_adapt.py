"""In-context tuning: what it changes, what it leaves alone, how long it takes; through the library, the command and the worker."""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from mass_core.augmentation.appearance import AppearanceConfig, appearance
from mass_core.augmentation.poses import PoseConfig, random_linear
from mass_core.cli import main
from mass_core.config import Shape, Triple
from mass_core.encoding.placed_masks import PlacedMask, masks_on
from mass_core.encoding.reference_encoder import content_key
from mass_core.encoding.task import Task
from mass_core.errors import Cancelled, GeometryError, InputError, MemoryShort, WeightsError
from mass_core.inference import adapt as adapting
from mass_core.inference.adapt import Adapted, adapt
from mass_core.inference.adapt_views import Augmentation, Views, Window, windows
from mass_core.inference.segmenter import Segmenter
from mass_core.model import MASS
from mass_core.volumes.boxes import Box
from mass_core.volumes.volume import Geometry, Volume
from mass_core.weights.checkpoint import load_model
from Testing.core.worker_process import Files, Recorder, scan


@pytest.fixture
def tiny(tiny_weights: Path) -> Segmenter:
    model = load_model(tiny_weights, "cpu")
    return Segmenter(model, model.recipe.changed(modality="ct"))


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves on by a second whenever it is asked: the same number of steps on every machine."""
    seconds = itertools.count()
    monkeypatch.setattr(adapting, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))


def state(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def unchanged(network: torch.nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def tokens(task: Task) -> torch.Tensor:
    return torch.cat([stage.flatten() for label in task.labels for stage in label.tokens])


def test_a_few_steps_find_the_references_better_and_leave_the_network_alone(ticking: None) -> None:
    model = load_model("small", "cpu")
    segmenter = Segmenter(model, model.recipe.changed(modality="ct"))
    task, before = segmenter.encode([scan()]), state(model.network)
    fitted = adapt(segmenter, [scan()], task, seconds=30)
    assert 3 <= fitted.steps <= 10
    assert fitted.dice_after > fitted.dice_before + 0.05 and fitted.dice_after <= 1
    assert unchanged(model.network, before) and not model.network.training
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.network.parameters())
    plain = [{k: v for k, v in vars(label).items() if k != "tokens"} for label in task.labels]
    assert [{k: v for k, v in vars(label).items() if k != "tokens"} for label in fitted.task.labels] == plain
    changed = {"labels", "adapted"}
    assert {k: v for k, v in vars(fitted.task).items() if k not in changed} == {k: v for k, v in vars(task).items() if k not in changed}
    assert [stage.shape for label in fitted.task.labels for stage in label.tokens] == [s.shape for x in task.labels for s in x.tokens]
    assert not torch.equal(tokens(fitted.task), tokens(task)) and not tokens(fitted.task).requires_grad
    assert segmenter.segment(scan(1)[0], fitted.task).labels.array.any(), "it is a task like any other"


def test_the_same_steps_give_the_same_task(tiny: Segmenter, ticking: None, tmp_path: Path) -> None:
    task = tiny.encode([scan()])
    once, again = (adapt(tiny, [scan()], task, seconds=16.0, seed=3) for _ in range(2))
    assert once.steps == again.steps and torch.equal(tokens(once.task), tokens(again.task))
    once.task.save(tmp_path / "fitted.masstask")
    assert torch.equal(tokens(Task.load(tmp_path / "fitted.masstask")), tokens(once.task))


def test_what_does_worse_is_not_kept(tiny: Segmenter, ticking: None, monkeypatch: pytest.MonkeyPatch) -> None:
    told = itertools.cycle([torch.tensor([0.5, 0.5]), torch.tensor([0.4, 0.5])])
    monkeypatch.setattr(adapting._Group, "_dice", lambda self, batches, tokens: next(told))
    task = tiny.encode([scan()])
    fitted = adapt(tiny, [scan()], task, seconds=16.0)
    assert fitted.steps > 0 and torch.equal(tokens(fitted.task), tokens(task))
    assert fitted.facts()["dice"] == [0.5, 0.5]


def test_time_is_kept_and_every_spacing_gets_a_step(tiny: Segmenter, ticking: None) -> None:
    task = tiny.encode([scan()])
    first = adapt(tiny, [scan()], task, seconds=1e-3)
    assert first.steps == 1
    long = adapt(tiny, [scan()], task, seconds=4 * first.seconds)
    assert long.steps > 1
    assert 3 * first.seconds < long.seconds < 5 * first.seconds, "the last step and the look at its result may take longer"
    apart = replace(task, labels=(task.labels[0], replace(task.labels[1], spacing_zyx=(4.0, 4.0, 4.0))))
    assert adapt(tiny, [scan()], apart, seconds=1e-3).steps == 2


def test_a_cancel_stops_before_the_next_step(tiny: Segmenter) -> None:
    task, heard = tiny.encode([scan()]), []

    def heard_twice() -> bool:
        return len(heard) >= 2

    with pytest.raises(Cancelled):
        adapt(tiny, [scan()], task, seconds=1000, progress=lambda stage, share, left: heard.append((stage, share)), cancelled=heard_twice)
    assert [stage for stage, _ in heard] == ["adapt"] * 2 and all(0 <= share < 0.5 for _, share in heard)


def views(pool: Sequence[Window], window: Shape, spacing_zyx: Triple = (3.0, 3.0, 3.0)) -> Views:
    return Augmentation(window, spacing_zyx, np.random.default_rng(1), torch.device("cpu")).views(pool)


def test_views_are_those_of_pretraining() -> None:
    """The draws of pretraining around a window's centre, on voxels and windows with unequal sides, of more masks than a word holds."""
    rng, window, spacing = np.random.default_rng(0), (8, 10, 12), np.array([2.0, 1.0, 1.0])
    array = rng.standard_normal((16, 20, 24)).astype(np.float32)
    masks = {value: PlacedMask(array=np.ones((1, 1, value), np.uint8), box=Box((8, 10, 12), (9, 11, 12 + value))) for value in range(1, 11)}
    values = list(range(1, 41))
    pool = windows(array, masks, values, window, rng)[:2]
    found = views(pool, window, (2.0, 1.0, 1.0))
    rng = np.random.default_rng(1)
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 31)))
    images = []
    for number, one in enumerate(pool):
        linear = random_linear(rng, spacing, PoseConfig(), 1.0) / spacing[:, None]
        middle, centre = (np.array(window) - 1) / 2, (np.array(one.image.shape) - 1) / 2
        points = np.einsum("ij,jzyx->izyx", linear, np.indices(window) - middle[:, None, None, None]) + centre[:, None, None, None]
        image = torch.from_numpy(map_coordinates(one.image, points, order=1, mode="grid-constant"))
        images.append(image)
        for k in range(40):
            mask = map_coordinates(one.bits[k // 32].view(np.uint32) >> k % 32 & 1, np.rint(points), order=0, mode="constant")
            assert np.array_equal(found.masks[number, k], mask)
    torch.testing.assert_close(found.images, appearance(torch.stack(images)[:, None], AppearanceConfig(), generator), atol=1e-4, rtol=1e-4)
    assert found.masks[:, :10].any() and not found.masks[:, 10:].any() and found.shown.tolist() == [[*range(1, 11), *[0] * 30]] * 2


def test_references_that_do_not_show_a_label_say_nothing_about_it(tiny: Segmenter) -> None:
    """A scan in which only one of two structures is marked must not teach that the other one is not there."""
    image, both = scan()
    first = Volume(np.where(both.array == 1, 1, 0).astype(np.uint8), both.geometry)
    prepared = tiny.prepared(image, content_key(image), (3.0, 3.0, 3.0))
    masks = masks_on(image, first, [1, 2], prepared.record.working, tiny.recipe)
    rng = np.random.default_rng(0)
    batch = views(windows(prepared.array, masks, [1, 2], (32, 32, 32), rng)[:4], (32, 32, 32))
    assert (batch.shown[:, 0] > 100).all() and not batch.shown[:, 1].any() and not batch.masks[:, 1].any()


def test_views_show_the_structure_where_it_is(tiny: Segmenter) -> None:
    """A window's image is brightest exactly where its mask is; half of the windows hold the middle of a structure."""
    image, labels = scan()
    prepared = tiny.prepared(image, content_key(image), (3.0, 3.0, 3.0))
    bright = (prepared.array > (prepared.array[tuple(np.argwhere(labels.array == 2)[0])] + prepared.array.min()) / 2).astype(np.float32)
    masks = masks_on(image, labels, [2], prepared.record.working, tiny.recipe)
    pool = windows(bright, masks, [2], (16, 16, 16), np.random.default_rng(0))
    assert pool[0].image.shape == (24, 24, 24) and len(pool) == 48
    with_structure = [one for one in pool if one.bits.any()]
    assert len(with_structure) >= 20
    for one in with_structure:
        assert one.image[one.bits[0] > 0].mean() > 0.95, "image and mask lie on each other"
    batch = views(with_structure[:8], (16, 16, 16))
    assert batch.images.shape == (8, 1, 16, 16, 16) and batch.images.dtype == torch.float32
    assert batch.masks.shape == (8, 1, 16, 16, 16) and set(batch.masks.unique().tolist()) == {0, 1}


def nowhere(labels: Volume) -> Volume:
    return Volume(labels.array, Geometry(shape_zyx=labels.array.shape, spacing_xyz=(3.0,) * 3, origin_xyz=(9e3, 9e3, 9e3)))


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (lambda given: {**given, "seconds": 0}, InputError, "time to adapt is 0"),
        (lambda given: {**given, "seconds": -3.0}, InputError, "time to adapt is -3"),
        (lambda given: {**given, "seconds": float("nan")}, InputError, "time to adapt is nan"),
        (lambda given: {**given, "references": []}, InputError, "No reference"),
        (lambda given: {**given, "references": [(scan()[0], nowhere(scan()[1]))]}, GeometryError, "but another position or spacing"),
        (
            lambda given: {**given, "references": [(scan()[0], Volume((scan()[1].array == 1).astype(np.uint8), scan()[1].geometry))]},
            InputError,
            r"Nothing is left of label 2 \(label 2\)",
        ),
    ],
)
def test_what_cannot_be_used_is_told(
    change: Callable[[dict[str, Any]], dict[str, Any]], error: type[Exception], told: str, tiny: Segmenter
) -> None:
    given = {"references": [scan()], "task": tiny.encode([scan()]), "seconds": 1.0}
    with pytest.raises(error, match=told):
        adapt(tiny, **change(given))


def test_a_task_of_other_weights_is_refused(tiny: Segmenter) -> None:
    other = load_model("small", "cpu")
    with pytest.raises(WeightsError, match="encoded with the weights tiny"):
        adapt(Segmenter(other), [scan()], tiny.encode([scan()]), seconds=1.0)


def test_weights_of_fixed_classes_are_refused(tiny: Segmenter) -> None:
    task = tiny.encode([scan()])
    fixed = MASS(replace(tiny.model.config, task_encoding=False)).eval()
    with pytest.raises(InputError, match="finetuned to fixed classes"):
        adapt(Segmenter(replace(tiny.model, network=fixed), tiny.recipe), [scan()], task, seconds=1.0)


def test_short_memory_is_told(tiny: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    task = tiny.encode([scan()])

    def full(self: MASS, features: Any, tokens: Any) -> torch.Tensor:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(MASS, "decode", full)
        with pytest.raises(MemoryShort, match="Not enough memory"):
            adapt(tiny, [scan()], task, seconds=1.0)


def test_the_command(files: Files, tmp_path: Path, tiny_weights: Path, capsys: pytest.CaptureFixture) -> None:
    pair = ["--weights", str(tiny_weights), "--reference", str(files.image), str(files.mask), "--device", "cpu", "--modality", "ct"]
    output = tmp_path / "fitted.masstask"
    assert main(["adapt", *pair, "--seconds", "0.5", "--seed", "3", "--output", str(output), "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"encode", "adapt"} == {line["stage"] for line in told if line["event"] == "progress"}
    assert told[-1]["steps"] >= 1 and told[-1]["dice"][1] >= told[-1]["dice"][0] and told[-1]["seconds"] > 0
    assert [label["value"] for label in told[-1]["labels"]] == [1, 2] == [label.value for label in Task.load(output).labels]
    assert Task.load(output).adapted == {"seed": 3, "steps": told[-1]["steps"]} and told[-1]["seed"] == 3
    for arguments, message in (
        (["--seconds", "0", "--output", str(tmp_path / "x.masstask")], "--seconds is 0"),
        (["--output", str(tmp_path / "x.nii.gz")], "not a valid file name for a task"),
        (["--output", str(output)], "exists"),
    ):
        assert main(["adapt", *pair, *arguments]) == 2
        assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.glob("*.masstask")) == ["fitted.masstask"]


def test_the_worker(worker: Recorder, files: Files) -> None:
    plain = worker.ask("encode", files.encode())["result"]
    reply = worker.ask("adapt", files.encode(seconds=0.5))
    result = reply["result"]
    assert {**result, "reused": None} == {**plain, "reused": None, **{name: result[name] for name in ("steps", "seconds", "dice")}}
    assert result["steps"] >= 1 and len(result["dice"]) == 2 and result["reused"]["labels"] == 2
    assert {"read", "encode", "adapt"} <= set(reply["timings"])
    assert worker.ask("segment", files.segment(task=str(files.task)))["result"]["labels"]
    with pytest.raises(InputError, match="seconds is '5'"):
        worker.ask("adapt", files.encode(seconds="5"))
    with pytest.raises(InputError, match="time to adapt is 0"):
        worker.ask("adapt", files.encode(seconds=0))


def test_a_cancelled_order_leaves_no_file(worker: Recorder, files: Files) -> None:
    call = worker.request("adapt", files.encode(seconds=600.0))
    worker.until(lambda: any(kind == "adapt" and share > 0 for kind, share in worker.events))
    call.cancel()
    worker.until(lambda: worker.events[-1][0] == "cancelled")
    assert files.task.name not in files.names()


def test_a_result_tells_its_facts() -> None:
    fitted = Adapted(task=None, steps=7, seconds=1.23456, dice_before=0.123456, dice_after=0.5)  # type: ignore[arg-type]
    assert fitted.facts() == {"steps": 7, "seconds": 1.235, "dice": [0.1235, 0.5]}
