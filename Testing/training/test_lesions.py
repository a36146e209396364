"""Artificial lesions: one look at any place, masks where they are, tasks that pair them."""

from dataclasses import replace

import numpy as np

from training.pretrain.lesions import Kind, add_lesions, draw_kinds

from .test_episodes import CONFIG, episodes, views

SPACING = np.array([2.0, 1.0, 1.0])


def scan(seed=0):
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 0.05, (30, 60, 60))
    image[5:25, 10:50, 10:50] += 1
    return image


def test_masks_lie_on_what_changed_and_nothing_else_did():
    image = scan()
    changed, found = add_lesions(image, SPACING, [Kind(2.0, 0.5, 0.0, 0.5)], np.random.default_rng(1))
    ((start, stop), mask) = found[1]
    everywhere = np.zeros(image.shape, bool)
    everywhere[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = mask
    difference = np.abs(changed - image)
    assert mask.any() and difference[everywhere].min() > 0.5
    # Beyond the soft edge nothing changes.
    far = ~np.asarray([np.roll(everywhere, s, a) for a in range(3) for s in range(-4, 5)]).any(0)
    assert np.median(difference[far]) < 1e-6 and image.shape == changed.shape


def test_one_kind_looks_alike_in_two_scans_and_lies_elsewhere():
    kind = Kind(-1.5, 1.0, 0.0, 0.3)
    first, second = (add_lesions(scan(seed), SPACING, [kind], np.random.default_rng(seed)) for seed in (1, 2))
    means, places = [], []
    for changed, found in (first, second):
        (start, stop), mask = found[1]
        means.append(np.median(changed[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))][mask]))
        places.append(start)
    assert abs(means[0] - means[1]) < 0.4 and places[0] != places[1]


def test_the_last_kind_is_never_hidden():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        kinds = draw_kinds(rng)
        assert len(kinds) in add_lesions(scan(), SPACING, kinds, rng)[1]


def test_tasks_about_lesions_hold_them_in_both_views(blob_dataset):
    config = replace(CONFIG, lesion_share=1.0, smallest_voxels=1)
    held = 0
    for number in range(20):
        images, masks = views(episodes(blob_dataset, config)[number], config)
        assert np.isfinite(images.numpy()).all()
        held += bool(masks[0, 0].any() and masks[0, 1].any())
    assert held > 10
