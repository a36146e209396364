"""Supervision inside the decoder: it sees every fusion, rewards features that resemble their mask's summary, and leaves no trace."""

import torch

from mass_core.config import ModelConfig
from mass_core.model import build_model
from training.pretrain.deep_supervision import FusionWatch, deep_loss

CONFIG = ModelConfig(channels=(8, 32, 64), stages=2, position_size=16, task_rows=0)
SHOWN = torch.full((1, 2), 256)


def fused(agree: float):
    """Features of two kinds of voxels, left and right, and summaries that point along (1) or against (-1) their own kind."""
    left, right = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    features = torch.stack([left, left, right, right], dim=-1).expand(4, 4, 32, 4).permute(2, 0, 1, 3)[None]
    return [(features, agree * torch.stack([left, right])[None])]


def halves():
    masks = torch.zeros(1, 2, 8, 8, 8)
    masks[0, 0, ..., :4] = 1
    masks[0, 1, ..., 4:] = 1
    return masks


def test_agreeing_features_cost_less_than_opposed_ones():
    assert deep_loss(fused(1), halves(), SHOWN, 0.5) < deep_loss(fused(-1), halves(), SHOWN, 0.5) - 1


def test_masks_not_asked_for_cost_nothing():
    assert deep_loss(fused(-1), halves(), 0 * SHOWN, 0.5) == 0


def test_watch_catches_every_fusion_once_and_reaches_the_task_encoder():
    network = build_model(CONFIG)
    watch = FusionWatch(network.decoder.fusions)
    image, masks = torch.randn(1, 1, 16, 16, 16), torch.zeros(1, 2, 16, 16, 16)
    masks[:, :, 4:9, 4:9, 4:9] = 1
    network(image, image, masks)
    caught = watch.take()
    assert [tuple(features.shape) for features, _ in caught] == [(1, 64, 4, 4, 4), (1, 32, 8, 8, 8)]
    assert [tuple(summaries.shape) for _, summaries in caught] == [(1, 2, 64), (1, 2, 32)]
    assert watch.take() == []
    deep_loss(caught, masks, SHOWN, 0.5).backward()
    assert all(encoder.squeeze.weight.grad.abs().sum() > 0 for encoder in network.task_encoders)
