"""References to task to label map, with a network simple enough to know its answers.

The fake network's token is the mean normalised intensity under the mask; a voxel belongs to a label if its own intensity is near it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mass_core.colors import LabelStyle
from mass_core.config import ModelConfig, Recipe, recipe
from mass_core.devices import DeviceUse
from mass_core.errors import Cancelled, DeviceError, InputError, WeightsError
from mass_core.inference.segmenter import Segmenter
from mass_core.model.compute import Compute
from mass_core.volumes.preprocess import prepare
from mass_core.volumes.volume import Geometry, Volume

CONFIG = ModelConfig(channels=(8, 32, 32, 32))


class Nearness(nn.Module):
    """Labels what is as bright as the reference; counts its calls and can be made to fail."""

    sharpness = 30.0
    width = 0.3

    def __init__(self) -> None:
        super().__init__()
        self.config = CONFIG
        self.references = self.images = self.decodes = 0
        self.batches: list[int] = []
        self.fail: Callable[[int], None] = lambda call: None

    def encode_reference(self, image: Tensor, masks: Tensor) -> tuple[Tensor, ...]:
        self.references += 1
        mean = (image * masks).flatten(2).sum(2) / masks.flatten(2).sum(2).clamp_min(1)
        return (mean[:, :, None, None],)

    def encode_image(self, image: Tensor) -> list[Tensor]:
        self.images += 1
        self.batches.append(len(image))
        self.fail(self.images)
        return [image]

    def decode(self, features: Sequence[Tensor], tokens: tuple[Tensor, ...]) -> Tensor:
        self.decodes += 1
        return self.sharpness * (self.width - (features[0] - tokens[0][:, :, :, :, None]).abs())


class Brightness(Nearness):
    """Labels what is two standard deviations above the mean, whatever the reference."""

    def decode(self, features: Sequence[Tensor], tokens: tuple[Tensor, ...]) -> Tensor:
        return 10 * (features[0] - 2)


@dataclass
class FakeModel:
    network: Any = field(default_factory=Nearness)
    recipe: Recipe = field(default_factory=lambda: Recipe(window_zyx=(16, 16, 16), spacing_zyx=(2.0, 2.0, 2.0), modality="ct"))
    fingerprint: str = "a" * 64
    name: str = "nearness"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    use: DeviceUse = DeviceUse()
    provenance: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


def balls(centres: dict[int, tuple[int, int, int]], *, size: int = 32, spacing: float = 2.0, radius: float = 4.0) -> tuple[Volume, Volume]:
    """A CT of a cube of water in air, with balls in it that are each denser than the one before; and their labels."""
    grid = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"))
    image = np.full((size,) * 3, -1000, np.float32)
    image[2:-2, 2:-2, 2:-2] = 0
    labels = np.zeros(image.shape, np.uint8)
    for order, (value, centre) in enumerate(centres.items()):
        inside = ((grid - np.reshape(centre, (3, 1, 1, 1))) ** 2).sum(0) <= radius**2
        image[inside], labels[inside] = 250 + 250 * order, value
    geometry = Geometry(shape_zyx=(size,) * 3, spacing_xyz=(spacing,) * 3)
    return Volume(image, geometry), Volume(labels, geometry)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


REFERENCE = balls({1: (10, 10, 10), 2: (10, 22, 22)})
TARGET, TRUTH = balls({1: (22, 10, 16), 2: (8, 20, 10)})


def test_balls_are_found(model: FakeModel) -> None:
    segmenter = Segmenter(model)
    task = segmenter.encode([REFERENCE], appearance={1: LabelStyle(name="liver", color=(1.0, 0.0, 0.0))})
    assert [(label.value, label.name, label.kept) for label in task.labels] == [(1, "liver", 1.0), (2, "label 2", 1.0)]
    result = segmenter.segment(TARGET, task)
    assert result.labels.geometry == TARGET.geometry
    assert result.labels.array.dtype == np.uint8
    for value in (1, 2):
        assert dice(result.labels.array == value, TRUTH.array == value) > 0.97
    assert result.volumes_ml[1] == pytest.approx((result.labels.array == 1).sum() * 0.008)
    assert result.probabilities is None
    assert set(result.timings) == {"prepare", "segment", "place"}


def test_probabilities_are_made_when_asked_for(model: FakeModel) -> None:
    segmenter = Segmenter(model)
    result = segmenter.segment(TARGET, segmenter.encode([REFERENCE]), probabilities=True)
    assert result.probabilities is not None
    assert list(result.probabilities) == [1, 2]
    probability = result.probabilities[2]
    assert probability.geometry == TARGET.geometry
    assert probability.array.dtype == np.float32
    assert probability.array[8, 20, 10] > 0.9
    assert probability.array[22, 10, 16] < 0.1


def test_high_numbers_need_16_bits(model: FakeModel) -> None:
    segmenter = Segmenter(model)
    task = segmenter.encode([REFERENCE], labels=[1]).renumbered(1000)
    result = segmenter.segment(TARGET, task)
    assert result.labels.array.dtype == np.uint16
    assert np.unique(result.labels.array).tolist() == [0, 1000]


def test_references_are_averaged_where_a_label_occurs(model: FakeModel) -> None:
    darker = Volume(np.where(REFERENCE[1].array == 1, 200, REFERENCE[0].array), REFERENCE[0].geometry)
    only_first = Volume(np.where(REFERENCE[1].array == 1, 1, 0).astype(np.uint8), REFERENCE[1].geometry)
    segmenter = Segmenter(model)
    one, two = segmenter.encode([REFERENCE]), segmenter.encode([(darker, only_first)])
    both = segmenter.encode([REFERENCE, (darker, only_first)])
    assert [label.references for label in both.labels] == [2, 1]
    mean = (one.labels[0].tokens[0] + two.labels[0].tokens[0]) / 2
    assert torch.allclose(both.labels[0].tokens[0], mean)
    assert torch.equal(both.labels[1].tokens[0], one.labels[1].tokens[0])


def test_absent_label_names_those_present(model: FakeModel) -> None:
    with pytest.raises(InputError, match="Label 3, 9 is in none of the reference masks; they hold 1, 2"):
        Segmenter(model).encode([REFERENCE], labels=[1, 3, 9])


def test_empty_mask(model: FakeModel) -> None:
    empty = Volume(np.zeros_like(REFERENCE[1].array), REFERENCE[1].geometry)
    with pytest.raises(InputError, match="empty"):
        Segmenter(model).encode([(REFERENCE[0], empty)])


def test_no_reference(model: FakeModel) -> None:
    with pytest.raises(InputError, match="No reference"):
        Segmenter(model).encode([])


def test_what_did_not_change_is_not_encoded_again(model: FakeModel) -> None:
    """Mend 50: embeddings are kept by content; an edit of one label encodes that label only."""
    segmenter = Segmenter(model)
    first = segmenter.encode([REFERENCE])
    assert model.network.references == 2
    again = segmenter.encode([tuple(Volume(v.array.copy(), v.geometry) for v in REFERENCE)])  # type: ignore[list-item]
    assert model.network.references == 2
    assert torch.equal(first.labels[1].tokens[0], again.labels[1].tokens[0])
    edited = REFERENCE[1].array.copy()
    edited[10, 10, 10] = 0
    segmenter.encode([(REFERENCE[0], Volume(edited, REFERENCE[1].geometry))])
    assert model.network.references == 3
    segmenter.encode([REFERENCE], labels=[2])
    assert model.network.references == 3
    brighter = Volume(REFERENCE[0].array + 1, REFERENCE[0].geometry)
    segmenter.encode([(brighter, REFERENCE[1])])
    assert model.network.references == 5


def test_targets_are_prepared_once(model: FakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mend 50: editing the reference and segmenting again reuses the prepared target."""
    calls = []
    monkeypatch.setattr("mass_core.inference.segmenter.prepare", lambda *args: calls.append(args) or prepare(*args))
    segmenter = Segmenter(model)
    segmenter.segment(TARGET, segmenter.encode([REFERENCE]))
    segmenter.segment(Volume(TARGET.array.copy(), TARGET.geometry), segmenter.encode([REFERENCE], labels=[1]))
    assert len(calls) == 1
    segmenter.segment(Volume(TARGET.array + 1, TARGET.geometry), segmenter.encode([REFERENCE]))
    assert len(calls) == 2


def test_windows_are_encoded_once_for_all_passes(model: FakeModel) -> None:
    """Mend 50: the released script encodes every window again for each portion of the labels."""
    segmenter = Segmenter(model, model.recipe.changed(classes_per_pass=1))
    result = segmenter.segment(TARGET, segmenter.encode([REFERENCE]))
    assert result.passes == ((1,), (2,))
    assert model.network.decodes == 2 * model.network.images


def test_labels_of_one_spacing_share_a_pass_and_it_is_recorded(tiny_network: Any, tiny_config: ModelConfig) -> None:
    """Mend 17: how many labels share a pass changes results, so the policy is fixed, and told."""
    model = FakeModel(network=tiny_network, recipe=Recipe(window_zyx=(32, 32, 32), spacing_zyx=(2.0, 2.0, 2.0), modality="ct"))
    together, apart = Segmenter(model), Segmenter(model, model.recipe.changed(classes_per_pass=1))
    task = together.encode([REFERENCE])
    one, other = (s.segment(TARGET, task, probabilities=True) for s in (together, apart))
    assert (one.passes, other.passes) == (((1, 2),), ((1,), (2,)))
    assert one.probabilities is not None and other.probabilities is not None
    assert np.abs(one.probabilities[1].array - other.probabilities[1].array).max() > 1e-3
    assert apart.encode([REFERENCE]).recipe.classes_per_pass == 1


def test_labels_of_several_spacings_meet_on_the_target(model: FakeModel) -> None:
    """Each label chooses its working voxel; where two claim a voxel, the more probable has it."""
    free = Segmenter(model, replace(model.recipe, spacing_zyx=None, spacing_limits_mm=(1.0, 3.0), thickness_voxels=1.0))
    small, large = balls({1: (10, 10, 10)}, radius=2.0), balls({2: (10, 16, 16)}, radius=7.0)
    large[0].array[large[1].array == 2] = 500
    task = free.encode([small, large])
    spacings = [label.spacing_zyx[0] for label in task.labels]
    assert spacings[0] < spacings[1]
    assert len(task.groups()) == 2
    image, truth = balls({1: (8, 8, 8), 2: (20, 20, 20)}, radius=5.0)
    image.array[truth.array == 2] = 500
    result = free.segment(image, task)
    assert result.passes == ((1,), (2,))
    assert dice(result.labels.array == 1, truth.array == 1) > 0.8
    assert dice(result.labels.array == 2, truth.array == 2) > 0.8


def test_far_apart_parts_are_averaged_and_reported(model: FakeModel) -> None:
    """Mend 16: the released script looks between two distant parts and sees neither; here every part is shown."""
    image, labels = balls({1: (8, 8, 8), 2: (40, 40, 40)}, size=48)
    labels.array[labels.array == 2] = 1
    image.array[labels.array == 1] = 250
    old = Segmenter(model, recipe("released", model.recipe)).encode([(image, labels)])
    assert old.labels[0].kept == 0
    assert any("0%" in warning for warning in old.warnings)
    new = Segmenter(model).encode([(image, labels)])
    assert new.labels[0].kept == 1
    assert new.labels[0].tokens[0].item() > 1


def test_crops_count_by_what_they_show(model: FakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from mass_core.encoding import reference_encoder as tokens

    learner = Segmenter(model)._encoder
    crops = [crop_of(brightness=1.0, kept=0.75), crop_of(brightness=5.0, kept=0.25)]
    mask = Volume(np.pad(np.ones((4, 4, 4), np.uint8), 6), Geometry(shape_zyx=(16, 16, 16)))
    reference = tokens._Reference(mask, mask)
    encoded = learner._encode(crops, reference, 1, Compute(device=torch.device("cpu"), dtype=torch.float32))
    assert (encoded.parts, encoded.measured.ml, encoded.measured.extent_mm) == (1, pytest.approx(0.064), (4, 4, 4))
    assert encoded.tokens[0].item() == pytest.approx(0.75 * 1 + 0.25 * 5)
    assert tokens.unique(["a", "b", "a"]) == ("a", "b")


def crop_of(*, brightness: float, kept: float) -> Any:
    from mass_core.encoding.reference_crops import ReferenceCrop

    return ReferenceCrop(
        image=np.full((16, 16, 16), brightness, np.float32),
        mask=np.ones((16, 16, 16), np.uint8),
        value=1,
        kept=kept,
        covered=1.0,
        geometry=Geometry(shape_zyx=(16, 16, 16)),
        modality="mr",
    )


def test_largest_component_is_a_choice(model: FakeModel) -> None:
    """Mend 13: keeping one component loses the other kidney; off unless asked for."""
    image, truth = balls({1: (8, 8, 8), 2: (24, 24, 24)})
    image.array[truth.array > 0] = 250
    both, one = Segmenter(model), Segmenter(model, model.recipe.changed(parts="largest"))
    task = both.encode([balls({1: (10, 10, 10)})])
    kept_both = both.segment(image, task).labels.array
    kept_one = one.segment(image, task).labels.array
    assert kept_both[8, 8, 8] == kept_both[24, 24, 24] == 1
    assert sorted((kept_one[8, 8, 8], kept_one[24, 24, 24])) == [0, 1]


def test_as_many_parts_as_the_reference_has(model: FakeModel) -> None:
    """A label of two balls stays two, a label of one ball becomes one, and it is said that something was left out."""
    image, truth = balls({1: (8, 8, 8), 2: (24, 24, 24)})
    image.array[truth.array > 0] = 250
    segmenter = Segmenter(model, model.recipe.changed(parts="reference"))
    reference, single = balls({1: (10, 10, 10)})
    pair, double = balls({1: (8, 8, 8), 2: (24, 24, 24)})
    pair.array[double.array > 0] = 250
    double.array[double.array > 0] = 1
    one = segmenter.segment(image, segmenter.encode([(reference, single)]))
    two = segmenter.segment(image, segmenter.encode([(pair, double)]))
    assert sorted((one.labels.array[8, 8, 8], one.labels.array[24, 24, 24])) == [0, 1]
    assert two.labels.array[8, 8, 8] == two.labels.array[24, 24, 24] == 1
    assert any("removed" in warning for warning in one.warnings) and not any("removed" in w for w in two.warnings)
    near = Segmenter(model, model.recipe.changed(parts="reference", place_mm=10.0))
    for place, other in (((8, 8, 8), (24, 24, 24)), ((24, 24, 24), (8, 8, 8))):
        found = near.segment(image, near.encode([balls({1: place})])).labels.array
        assert found[place] == 1 and found[other] == 0, "of two alike, the one where the reference has it"


@pytest.mark.parametrize("name", ["default", "released"])
@pytest.mark.parametrize(("orientation", "degrees"), [("LPS", 0), ("RAS", 20), ("SAR", 0), ("AIL", 35)])
def test_result_lies_on_the_target_whatever_its_grid(name: str, orientation: str, degrees: float) -> None:
    from mass_core.data import phantoms

    model = FakeModel(Brightness(), Recipe(window_zyx=(32, 32, 32), spacing_zyx=(6.0,) * 3, modality="ct"))
    image, labels = phantoms.subject(
        1, shape_zyx=(40, 44, 48), spacing_zyx=(8.0, 7.0, 7.5), orientation=orientation, oblique_degrees=degrees
    )
    scan = Volume(np.where(labels.array == 1, 500, image.array.clip(max=-300)).astype(np.float32), image.geometry)
    segmenter = Segmenter(model, recipe(name, model.recipe))
    found = segmenter.segment(scan, segmenter.encode([(scan, labels)], labels=[1])).labels
    assert found.geometry == scan.geometry
    assert dice(found.array == 1, labels.array == 1) > 0.75


def test_small_target_is_padded_and_cut_back(model: FakeModel) -> None:
    image, labels = balls({1: (6, 6, 6)}, size=12, radius=3)
    segmenter = Segmenter(model)
    result = segmenter.segment(image, segmenter.encode([(image, labels)]))
    assert model.network.images == 1
    assert dice(result.labels.array == 1, labels.array == 1) > 0.95


def test_task_of_other_weights_or_recipe_is_refused(model: FakeModel) -> None:
    task = Segmenter(model).encode([REFERENCE])
    with pytest.raises(WeightsError, match="other"):
        Segmenter(FakeModel(fingerprint="b" * 64, name="other")).segment(TARGET, task)
    with pytest.raises(InputError, match="encoded with orientation RAS, this run uses none"):
        Segmenter(model, model.recipe.changed(orientation="none")).segment(TARGET, task)
    Segmenter(model, model.recipe.changed(overlap=0.0, threshold=0.7)).segment(TARGET, task)


def test_window_of_a_single_deepest_voxel_is_refused(model: FakeModel) -> None:
    with pytest.raises(InputError, match=r"window is \(16, 8, 16\)") as caught:
        Segmenter(model, model.recipe.changed(window_zyx=(16, 8, 16)))
    assert "at least 16" in caught.value.cure


def test_progress_runs_from_0_to_1_and_tells_the_time(model: FakeModel) -> None:
    told: list[tuple[str, float, float | None]] = []
    segmenter = Segmenter(model)
    task = segmenter.encode([REFERENCE], progress=lambda *step: told.append(step))
    assert [fraction for stage, fraction, _ in told if stage == "encode"] == [0.5, 1.0]
    told.clear()
    segmenter.segment(TARGET, task, progress=lambda *step: told.append(step))
    assert list(dict.fromkeys(stage for stage, _, _ in told)) == ["prepare", "segment", "place"]
    fractions = [fraction for stage, fraction, _ in told if stage == "segment"]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
    assert all(left is None or left >= 0 for _, _, left in told)


def test_cancelling_between_windows(model: FakeModel) -> None:
    segmenter = Segmenter(model)
    task = segmenter.encode([REFERENCE])
    with pytest.raises(Cancelled):
        segmenter.segment(TARGET, task, cancelled=lambda: model.network.images >= 3)
    assert model.network.images == 3
    with pytest.raises(Cancelled):
        segmenter.encode([balls({5: (9, 9, 9)})], cancelled=lambda: True)


def full(call: int) -> None:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_full_gpu_is_tried_once_more_with_less(model: FakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = Segmenter(model)
    task = segmenter.encode([REFERENCE])
    expected = segmenter.segment(TARGET, task).labels.array
    gpu = Compute(device=torch.device("cpu"), dtype=torch.float32, batch=4)
    monkeypatch.setattr("mass_core.inference.segmenter.choose_compute", lambda *args: gpu)
    start = model.network.images
    model.network.fail = lambda call: full(call) if call == start + 2 else None
    model.network.batches.clear()
    result = segmenter.segment(TARGET, task)
    assert any("one at a time and blended on the CPU" in warning for warning in result.warnings)
    assert model.network.batches[0] == 4 and set(model.network.batches[2:]) == {1}
    assert np.array_equal(result.labels.array, expected)
    model.network.fail = full
    with pytest.raises(DeviceError, match="Not enough memory: CUDA out of memory"):
        segmenter.segment(TARGET, task)


def test_what_is_compiled_keeps_its_number_of_windows(model: FakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run may find less memory free: then a graph of another shape would have to be compiled."""
    fitting = iter((8, 5, 3, 2))
    cpu = Compute(device=torch.device("cpu"), dtype=torch.float32)
    monkeypatch.setattr("mass_core.inference.segmenter.check_compiler", lambda *args: None)
    monkeypatch.setattr("mass_core.inference.segmenter.choose_compute", lambda *args: replace(cpu, batch=next(fitting)))
    segmenter = Segmenter(model, compile=True)
    assert [segmenter.compute(1), segmenter.compute(2), segmenter.compute(1)] == [
        replace(cpu, batch=batch, compile=True) for batch in (8, 5, 8)
    ]
    assert segmenter.with_recipe(segmenter.recipe).compile
    assert Segmenter(model).compute(1) == replace(cpu, batch=2)


def test_full_memory_without_a_gpu(model: FakeModel) -> None:
    segmenter = Segmenter(model)
    task = segmenter.encode([REFERENCE])

    def no_memory(call: int) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    model.network.fail = no_memory
    with pytest.raises(DeviceError, match="can't allocate memory"):
        segmenter.segment(TARGET, task)

    def defect(call: int) -> None:
        raise RuntimeError("a defect")

    model.network.fail = defect
    with pytest.raises(RuntimeError, match="a defect"):
        segmenter.segment(TARGET, task)
