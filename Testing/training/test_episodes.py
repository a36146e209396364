"""Episodes: reproducible by number, masks both views hold, no needless voxels."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mass_core.augmentation.views import cut_views
from mass_core.data.dataset import Dataset, case_folder, write_array
from mass_core.errors import InputError
from training.pretrain.config import EpisodeConfig
from training.pretrain.episodes import Episodes, collate
from training.pretrain.synthetic import synthetic_image

from .conftest import SHAPE

CONFIG = EpisodeConfig(task_slots=(4,), pose_warmup=1, absent_share=0.0, smallest_voxels=8)
WINDOW = 16


def episodes(folder, config=CONFIG, **options):
    settings = {"window": lambda step: WINDOW, "batch_size": 2, "seed": 5, "steps": 100, **options}
    return Episodes([Dataset.read(folder)], config, **settings)


def views(episode, config=CONFIG):
    return cut_views(collate([episode]), (WINDOW,) * 3, config, torch.Generator().manual_seed(0))


def test_an_episode_depends_on_its_number_and_the_seed_alone(blob_dataset):
    forwards, backwards = episodes(blob_dataset), episodes(blob_dataset)
    late = backwards[9]
    for number in range(9):
        forwards[number]
    np.testing.assert_array_equal(forwards[9].affines, late.affines)
    np.testing.assert_array_equal(forwards[9].bits, late.bits)
    assert not np.array_equal(episodes(blob_dataset, seed=6)[9].affines, late.affines)


def test_every_mask_shows_in_the_reference_and_its_blob_is_bright_in_both_views(blob_dataset):
    """The mask of a view must lie on the blob of that view: image and mask take the same way through the affine."""
    for number in range(10):
        images, masks = views(episodes(blob_dataset)[number])
        assert (masks[0, 0].sum((1, 2, 3)) > 0).all()
        for view in range(2):
            inside = images[0, view, 0][masks[0, view].any(0).bool()]
            assert len(inside) == 0 or inside.median() > 0.9


def test_few_slots_are_empty_unless_asked_for(blob_dataset):
    def empty(share):
        config = replace(CONFIG, absent_share=share)
        found = [views(episodes(blob_dataset, config)[n], config)[1][0, 1].sum((1, 2, 3)) == 0 for n in range(40)]
        return float(torch.stack(found).float().mean())

    assert empty(0.0) < 0.1 < empty(0.9)


def test_far_views_see_other_parts_of_the_scan(blob_dataset):
    """A window of 18 mm in a scan of 48 x 40 x 40 mm seldom lies on the mask by chance."""

    def empty(share):
        config = replace(CONFIG, far_share=share, extent_fraction=(0.6, 0.7), affine_probability=0.0, target_jitter=0.0)
        found = [views(episodes(blob_dataset, config)[n], config)[1][0] for n in range(2, 40)]
        assert all((masks[0].sum((1, 2, 3)) > 0).all() for masks in found)
        return float(torch.stack([masks[1].sum((1, 2, 3)) == 0 for masks in found]).float().mean())

    assert empty(0.0) == 0 and empty(1.0) > 0.2


def test_views_have_the_size_of_their_step(blob_dataset):
    growing = episodes(blob_dataset, window=lambda step: 8 if step < 3 else 24)
    edges = [np.abs(np.linalg.inv(growing[n].affines[0, :, :3])).sum(1).max() for n in (0, 5, 6)]
    assert edges[0] < edges[2] and edges[1] < edges[2]


def test_the_slots_change_by_step_not_within_a_batch(blob_dataset):
    many = episodes(blob_dataset, replace(CONFIG, task_slots=(1, 2, 3)))
    slots = [many[number].slots for number in range(40)]
    assert all(a == b for a, b in zip(slots[::2], slots[1::2], strict=True)) and set(slots) == {1, 2, 3}


def test_fewer_masks_than_slots_are_repeated(make_dataset, tmp_path):
    folder = make_dataset(tmp_path, scans=1, masks=1)
    _, masks = views(episodes(folder)[0])
    assert masks.shape[2] == 4 and torch.equal(masks[0, 0, 0], masks[0, 0, 3]) and masks[0, 0, 0].any()


def test_spacing_stays_near_what_the_scan_can_show(blob_dataset):
    for number in range(30):
        linear = episodes(blob_dataset, replace(CONFIG, affine_probability=0.0))[number].affines[0, :, :3]
        spacing = np.linalg.norm(linear * np.array([2.0, 1.0, 1.0])[:, None], axis=0)
        assert spacing.min() >= 0.7 - 1e-6 and spacing.max() <= 1.3 * 48 / WINDOW + 1e-6


def test_only_the_part_seen_travels(blob_dataset):
    small = episodes(blob_dataset, replace(CONFIG, extent_fraction=(0.9, 1.0), affine_probability=0.0, target_jitter=0.0))[0]
    assert np.prod(small.image.shape) < 24 * 40 * 40


def test_scans_without_masks_are_left_out_and_none_left_is_an_error(make_dataset, tmp_path):
    with pytest.raises(InputError, match="masks"):
        episodes(make_dataset(tmp_path, scans=2, masks=0))


def test_weights_must_fit_the_datasets(blob_dataset):
    with pytest.raises(InputError, match="2 dataset weights"):
        episodes(blob_dataset, weights=(1.0, 2.0))


def with_labels(folder):
    """The dataset of blobs, its first two scans with a label map: values 3 and 7, boxes no blob fills."""
    dataset = Dataset.read(folder)
    for case in dataset.cases[:2]:
        labels = np.zeros(SHAPE, np.uint8)
        labels[4:12, 5:15, 5:15], labels[14:20, 20:32, 18:34] = 3, 7
        write_array(case_folder(folder, case.name) / "labels.npy", labels)
    cases = tuple(replace(case, labels="labels.npy" if number < 2 else None) for number, case in enumerate(dataset.cases))
    replace(dataset, cases=cases).write()
    return folder


def by_experts(episode):
    """True if the masks of an episode are the boxes: as many voxels as theirs at most, and full."""
    boxes = [np.argwhere(episode.bits >> slot & 1) for slot in range(episode.slots)]
    return all(len(box) == np.prod(np.ptp(box, axis=0) + 1) for box in boxes if len(box))


def test_masks_are_never_full_boxes_unless_experts_are_asked(make_dataset, tmp_path):
    plain = episodes(with_labels(make_dataset(tmp_path)))
    assert not any(by_experts(plain[number]) for number in range(20))


def test_the_asked_share_of_the_tasks_is_of_the_label_map_where_there_is_one(make_dataset, tmp_path):
    """Three scans drawn alike, two of them with a label map: a share of 0.6 makes 0.4 of all tasks."""
    config = replace(CONFIG, expert_share=0.6, absent_share=0.0, smallest_voxels=1)
    mixed = episodes(with_labels(make_dataset(tmp_path)), config)
    share = np.mean([by_experts(mixed[number]) for number in range(200)])
    assert share == pytest.approx(0.4, abs=0.1)


def test_structures_take_the_same_way_as_other_masks(make_dataset, tmp_path):
    """All tasks by experts: what a task marks in the scan is a structure, voxel for voxel."""
    folder = with_labels(make_dataset(tmp_path, scans=2))
    config = replace(CONFIG, expert_share=1.0, task_slots=(2,), extent_fraction=(0.2, 0.2), affine_probability=0.0)
    sizes = {np.count_nonzero(episodes(folder, config)[n].bits >> slot & 1) for n in range(6) for slot in range(2)}
    assert sizes == {8 * 10 * 10, 6 * 12 * 16}


def test_a_scan_with_a_label_map_alone_is_of_use(make_dataset, tmp_path):
    folder = with_labels(make_dataset(tmp_path, scans=2, masks=0))
    with pytest.raises(InputError, match="No scan"):
        episodes(folder)
    found = episodes(folder, replace(CONFIG, expert_share=0.1))
    assert all(by_experts(found[number]) for number in range(10))


def test_without_a_share_nothing_changes(make_dataset, tmp_path):
    """Datasets with label maps give the episodes they gave before."""
    plain, labelled = episodes(make_dataset(tmp_path / "a")), episodes(with_labels(make_dataset(tmp_path / "b")))
    for number in range(5):
        np.testing.assert_array_equal(plain[number].bits, labelled[number].bits)
        np.testing.assert_array_equal(plain[number].affines, labelled[number].affines)


def moved_structures(folder):
    """The labels of the second scan moved by 3 voxels along x, and each structure as bright as its value in both scans."""
    dataset = Dataset.read(with_labels(folder))
    for number, case in enumerate(dataset.cases[:2]):
        labels = np.roll(np.array(dataset.labels(case.name)), 3 * number, axis=2)
        write_array(case_folder(folder, case.name) / "labels.npy", labels)
        write_array(case_folder(folder, case.name) / "image.npy", labels.astype(np.float16))
    return folder


PAIRS = replace(CONFIG, expert_share=1.0, pair_share=1.0, task_slots=(2,), extent_fraction=(0.2, 0.5), elastic_probability=0.0)


def test_a_pair_shows_the_same_structure_in_two_scans(make_dataset, tmp_path):
    """Each mask lies on its own structure in both views, though the structures lie elsewhere in the second scan."""
    made, other = episodes(moved_structures(make_dataset(tmp_path, scans=2)), PAIRS), 0
    for number in range(20):
        images, masks = views(made[number], PAIRS)
        other += made[number].target is not None
        for slot in range(2):
            seen = [images[0, view, 0][masks[0, view, slot].bool()] for view in range(2)]
            bright = [float(part.median()) > 5 for part in seen if len(part)]  # border voxels lie between 0 and the structure's value
            assert len(set(bright)) <= 1
    assert other > 5


def test_synthetic_images_have_the_contrast_asked_for():
    """Both sides of the body look alike, another contrast looks different, and labels keep their places."""
    labels = np.zeros((24, 40, 40), np.int16)
    labels[4:20, 4:36, 4:18], labels[4:20, 4:36, 22:36] = 17, 53  # left and right hippocampus
    labels[8:16, 12:28, 8:14] = 2

    def means(seed, contrast):
        image = synthetic_image(labels, np.random.default_rng(seed), contrast)
        inner = [np.median(image[6:18, 5:11, 5:17]), np.median(image[6:18, 5:11, 23:35]), np.median(image[10:14, 14:26, 10:12])]
        return np.array(inner), image

    one, image = means(0, 1)
    assert image.shape == labels.shape and abs(image.mean()) < 1e-3 and abs(image.std() - 1) < 1e-3
    again, _ = means(1, 1)
    others = [means(0, contrast)[0] for contrast in range(2, 8)]
    assert abs(one[0] - one[1]) < 0.5  # shading alone makes them differ
    assert np.abs(one - again).max() < 0.6 < np.max([np.abs(one - other).max() for other in others])


def test_synthetic_images_need_label_maps(make_dataset, tmp_path):
    with pytest.raises(InputError, match="no label map"):
        episodes(make_dataset(tmp_path, scans=2), replace(PAIRS, synthetic=("blobs",)))
