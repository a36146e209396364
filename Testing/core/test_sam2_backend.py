"""SAM2's real network with random weights on small pictures: our lock step against the package's own video predictor."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

pytest.importorskip("sam2", reason="SAM2 is not installed: see docs/masks.md")

import torch  # noqa: E402
from scipy import ndimage  # noqa: E402

from mass_core.errors import DeviceError, InputError, WeightsError  # noqa: E402
from mass_core.masks.slicewise.channels import Profile, one_range  # noqa: E402
from mass_core.masks.slicewise.frames import Frames  # noqa: E402
from mass_core.masks.slicewise.plane_masks import GridConfig, PlaneMasker  # noqa: E402
from mass_core.masks.slicewise.propagate import Seed  # noqa: E402
from mass_core.masks.slicewise.sam2 import Sam2, Sam2Tracker, _configuration, load_sam2  # noqa: E402
from Testing.core.random_sam2 import by_stock, in_lock_step, random_network, stock_predictor  # noqa: E402

TINY = "configs/sam2.1/sam2.1_hiera_t.yaml"
SIZE, COUNT, SHAPE = 128, 20, (96, 112)


@pytest.fixture(scope="module")
def network() -> Any:
    """SAM2.1 tiny."""
    return random_network(TINY, SIZE)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """A bright ball and a darker block, drifting over noise."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    slices = []
    for index in range(COUNT):
        picture = generator.integers(0, 40, (*SHAPE, 3))
        picture[(y - 40) ** 2 + (x - 30 - index) ** 2 < 15**2] += 150
        picture[(abs(y - 70) < 10) & (abs(x - 80 + index) < 14)] += np.array([20, 90, 60])
        slices.append(picture)
    return np.stack(slices).astype(np.uint8)


def regions(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Stand-in for the package's CUDA extension: number and size of the region that each pixel of [N,1,h,w] belongs to."""
    numbers, areas = np.zeros(mask.shape, np.int32), np.zeros(mask.shape, np.int32)
    for index, (plane,) in enumerate(mask.numpy()):
        numbers[index, 0], _ = ndimage.label(plane, np.ones((3, 3)))
        areas[index, 0] = np.where(plane, np.bincount(numbers[index, 0].ravel())[numbers[index, 0]], 0)
    return torch.from_numpy(numbers), torch.from_numpy(areas)


def seeds_of(images: np.ndarray, at: int) -> list[Seed]:
    """The two objects, and one that is there by chance."""
    generator = np.random.default_rng(at)
    top, left = generator.integers(5, 50, 2)
    chance = np.zeros(SHAPE, bool)
    chance[top : top + 20, left : left + 25] = True
    return [Seed(at, images[at, ..., 0] > 120), Seed(at, (images[at, ..., 1] > 80) & (images[at, ..., 0] < 70)), Seed(at, chance)]


@pytest.fixture(scope="module")
def predictor(network: Any) -> Any:
    """The package's video predictor with the same weights."""
    return stock_predictor(network, TINY, SIZE)


def until_empty(masks: np.ndarray, at: int) -> np.ndarray:
    """Masks [n,h,w] with everything beyond the first empty slice in either direction left out."""
    result = masks.copy()
    empty = ~masks.any(axis=(1, 2))
    later, earlier = np.flatnonzero(empty[at + 1 :]), np.flatnonzero(empty[:at])
    if len(later):
        result[at + 1 + later[0] :] = False
    if len(earlier):
        result[: earlier[-1]] = False
    return result


@pytest.mark.parametrize(
    ("count", "holes"), [pytest.param(COUNT, 8, marks=pytest.mark.slow), (9, 8), pytest.param(9, 0, marks=pytest.mark.slow)]
)
def test_lock_step_is_the_packages_own_predictor_voxel_for_voxel(
    network: Any, predictor: Any, images: np.ndarray, count: int, holes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All objects of three seed slices together, against one by one; films longer and shorter than what the network remembers."""
    monkeypatch.setattr("sam2.utils.misc.get_connected_components", regions)
    monkeypatch.setattr(predictor, "fill_hole_area", holes)
    ours, images = Sam2(network, fill_holes=holes), images[:count]
    places = (0, count // 2, count - 1) if count == COUNT else (2, 7)
    seeds = [seed for at in places for seed in seeds_of(images, at)]
    monkeypatch.setattr(ours, "encode_image", Mock(side_effect=ours.encode_image))
    masks, _ = in_lock_step(ours, images, seeds, 100)
    assert ours.encode_image.call_count == count, "each slice is encoded once"
    expected = by_stock(predictor, ours, images, seeds)
    compared = differing = 0
    for first, at in zip(range(0, len(seeds), 3), places, strict=True):
        for number in range(3):
            wanted = until_empty(expected[first + number], at)
            wanted[at] = seeds[first + number].mask
            differing += np.count_nonzero(masks[first + number] != wanted)
            compared += int(wanted.any(axis=(1, 2)).sum())
    # Zero where it was written; sums of batches may round differently. One pointer less, say, changes 65 voxels of two million, memories
    # in single precision 7.
    assert differing <= 2e-6 * masks.size
    assert compared > 5 * len(seeds), f"tracks are too short to show much: {compared} slices"


def test_small_holes_are_filled_in_objects_that_are_followed(network: Any, images: np.ndarray) -> None:
    """The same way with and without; what is remembered of an object is not filled, so that only voxels are gained."""
    seeds = seeds_of(images, 3)
    plain, filled = (in_lock_step(Sam2(network, fill_holes=holes), images[:6], seeds, 100)[0] for holes in (0, 8))
    assert not (plain & ~filled).any() and 0 < (filled & ~plain).sum() < 0.2 * plain.sum()
    with pytest.raises(InputError, match="Give 0"):
        Sam2(network, fill_holes=-1)


def test_as_many_features_are_kept_as_memory_holds(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 128 pixels: 32 x 32 x 32, 16 x 16 x 64 and 8 x 8 x 256 numbers of four bytes a slice; two fifths of the memory."""
    a_slice = 4 * (32**3 + 16 * 16 * 64 + 8 * 8 * 256)
    for free, most in ((10 * a_slice, 4), (0, 1), (None, None)):
        monkeypatch.setattr("mass_core.masks.slicewise.sam2.free_memory", lambda free=free: free)
        assert Sam2(network).slices_in_memory() == most


@pytest.mark.slow
def test_compiled_parts_make_the_same_masks(images: np.ndarray) -> None:
    """Traced by PyTorch's compiler but run as they are: the switch reaches both parts, for any number of objects and memories."""
    from torch._dynamo.testing import CompileCounter

    plain, compiled = Sam2(random_network(TINY, SIZE)), Sam2(random_network(TINY, SIZE))
    counter = CompileCounter()
    compiled.compile(counter)
    seeds = seeds_of(images, 2)
    assert counter.frame_count == 1, "the encoder, at once"
    expected, _ = in_lock_step(plain, images[:5], seeds, 2)
    assert counter.frame_count == 1
    found, _ = in_lock_step(compiled, images[:5], seeds, 2)
    assert 2 <= counter.frame_count <= 8, "graphs of the image encoder and of the attention, not one for each step"
    assert np.count_nonzero(found != expected) <= 2e-6 * found.size
    assert compiled.network.state_dict().keys() == plain.network.state_dict().keys()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_compiling_without_a_compiler_is_refused(network: Any) -> None:
    with pytest.raises(DeviceError, match="needs a CUDA device and Triton; the device is cpu"):
        Sam2(network).compile()


def test_a_compiler_that_fails_is_told_before_anything_is_computed() -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no C compiler was found")

    with pytest.raises(DeviceError, match="no C compiler was found") as caught:
        Sam2(random_network(TINY, SIZE)).compile(broken)
    assert caught.value.cure == "Leave out --compile."


def test_pictures_are_stretched_and_standardised(network: Any) -> None:
    """Red 124 = 0.486 is about the mean of photographs, 0.485; the picture of the package's transforms."""
    picture = Sam2(network).picture(np.full((50, 70, 3), (124, 0, 255), np.uint8))
    assert picture.shape == (1, 3, SIZE, SIZE)
    expected = torch.tensor([(124 / 255 - 0.485) / 0.229, -0.456 / 0.224, (1 - 0.406) / 0.225])
    torch.testing.assert_close(picture[0], expected[:, None, None].expand(3, SIZE, SIZE))


def test_batches_do_not_change_the_masks(network: Any, images: np.ndarray) -> None:
    seeds = [seed for at in (1, 5) for seed in seeds_of(images, at)]
    together, one_by_one = (in_lock_step(Sam2(network), images[:8], seeds, batch)[0] for batch in (100, 1))
    assert np.count_nonzero(together != one_by_one) <= 2e-6 * together.size


def test_memory_stays_as_long_as_the_network_looks_back(network: Any, images: np.ndarray) -> None:
    """Six maps and fifteen pointers beside the seed, whatever the number of steps."""
    ours = Sam2(network)
    tracker = Sam2Tracker(ours, Frames(images, ours.encode_image))
    seed = seeds_of(images, 0)[0]
    memories = tracker.start([0], seed.mask[None])
    for index in range(1, COUNT):
        _, memories = tracker.step([index], memories)
    (memory,) = memories
    assert memory.steps == COUNT - 1 and len(memory.recent) == 15
    assert [glance.map is not None for glance in memory.recent] == [True] * 6 + [False] * 9


def test_points_are_answered_with_three_masks_that_survive_the_generator(network: Any, images: np.ndarray) -> None:
    """Random weights find no objects, but their masks go the whole way."""
    ours = Sam2(network)
    features = ours.encode_image(images[0])
    logits, scores = ours.propose(features, np.array([[0.4, 0.3], [0.7, 0.7]], np.float32))
    assert logits.shape == (2, 3, SIZE // 4, SIZE // 4) and scores.shape == (2, 3) and logits.dtype == torch.float32
    assert not torch.equal(logits[0], logits[1])
    alone, _ = ours.propose(features, np.array([[0.7, 0.7]], np.float32))
    torch.testing.assert_close(alone[0], logits[1], rtol=1e-3, atol=1e-3)
    profile = Profile(modality="ct", channels=one_range((0, 1)), min_predicted_iou=0.3, min_stability=0.3, min_pixels=1)
    masks = PlaneMasker(ours, profile, GridConfig(points_per_side=4, crop_layers=1, box_iou=1.0))(images[0], np.ones(SHAPE, bool), features)
    assert masks and all(mask.mask.shape == SHAPE and mask.mask.any() for mask in masks)


def test_weights_tell_which_network_they_are_of(network: Any, tmp_path: Path) -> None:
    tensors = network.state_dict()
    assert _configuration(tensors, Path("x")) == TINY
    older = {name: value for name, value in tensors.items() if name != "no_obj_embed_spatial"}
    assert _configuration(older, Path("x")) == "configs/sam2/sam2_hiera_t.yaml"
    torch.save({"model": tensors}, tmp_path / "sam2.1_hiera_tiny.pt")
    loaded = load_sam2(tmp_path / "sam2.1_hiera_tiny.pt", "cpu")
    assert loaded.dtype == torch.float32 and loaded.network.image_size == 1024
    assert all(torch.equal(value, tensors[name]) for name, value in loaded.network.state_dict().items())


def test_weights_that_do_not_fit_are_refused(network: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    with pytest.raises(WeightsError, match="There are no weights"):
        load_sam2(path, "cpu")
    path.write_bytes(b"not weights")
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        load_sam2(path, "cpu")
    torch.save({"model": {"weight": torch.zeros(3)}}, path)
    with pytest.raises(WeightsError, match="does not hold weights of SAM2"):
        load_sam2(path, "cpu")
    torch.save([torch.zeros(3)], path)
    with pytest.raises(WeightsError, match="not a checkpoint"):
        load_sam2(path, "cpu")
    tensors = dict(network.state_dict())
    del tensors["no_mem_embed"]
    torch.save({"model": tensors}, path)
    with pytest.raises(WeightsError, match="does not fit SAM2: 1 tensors missing: no_mem_embed"):
        load_sam2(path, "cpu")
    path.write_bytes(path.read_bytes()[:1_000_000])
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        load_sam2(path, "cpu")
