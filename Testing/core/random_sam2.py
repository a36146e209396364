"""SAM2's network with random weights, and masks carried by the package's own predictor and by ours: for tests and the benchmark."""

from typing import Any
from unittest import mock

import numpy as np
import torch
from sam2 import sam2_video_predictor
from sam2.build_sam import build_sam2_video_predictor

from mass_core.masks.slicewise.batch_size import BatchSize
from mass_core.masks.slicewise.frames import Frames
from mass_core.masks.slicewise.propagate import Seed, propagate
from mass_core.masks.slicewise.sam2 import Sam2, Sam2Tracker, build


def random_network(configuration: str, image_size: int) -> Any:
    """Random weights whose masks are as sure as trained ones', and never vanish."""
    torch.manual_seed(0)
    network = build(configuration, image_size)
    with torch.no_grad():
        for head in network.sam_mask_decoder.output_hypernetworks_mlps:
            head.layers[-1].weight *= 50
            head.layers[-1].bias *= 50
        network.sam_mask_decoder.pred_obj_score_head.layers[-1].bias += 10
    return network


def stock_predictor(network: Any, configuration: str, image_size: int) -> Any:
    """The package's video predictor with the weights of a network."""
    device = str(next(network.parameters()).device)
    predictor = build_sam2_video_predictor(configuration, None, device=device, hydra_overrides_extra=[f"++model.image_size={image_size}"])
    predictor.load_state_dict(network.state_dict())
    return predictor


class Film:
    """Slices as the package's predictor takes them, without JPEG."""

    def __init__(self, ours: Sam2, images: np.ndarray) -> None:
        self._ours, self._images = ours, images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self._ours.picture(self._images[index])[0]


def by_stock(predictor: Any, ours: Sam2, images: np.ndarray, seeds: list[Seed]) -> np.ndarray:
    """Masks [seeds,n,h,w] as the package makes them: the seeds of a slice together, a state for each direction."""
    masks = np.zeros((len(seeds), *images.shape[:3]), bool)
    film = Film(ours, images)
    with mock.patch.object(sam2_video_predictor, "load_video_frames", lambda **_: (film, *images.shape[1:3])), ours.computing():
        for at in sorted({seed.at for seed in seeds}):
            numbers = [number for number, seed in enumerate(seeds) if seed.at == at]
            for reverse in (False, True):
                state = predictor.init_state("in memory")
                for number in numbers:
                    predictor.add_new_mask(state, at, number, seeds[number].mask)
                for index, _, logits in predictor.propagate_in_video(state, reverse=reverse):
                    masks[numbers, index] = (logits[:, 0] > 0).cpu().numpy()
    return masks


def in_lock_step(ours: Sam2, images: np.ndarray, seeds: list[Seed], objects: int) -> tuple[np.ndarray, Frames]:
    """Masks [seeds,n,h,w] as we make them, and the slices they were made on."""
    masks = np.zeros((len(seeds), *images.shape[:3]), bool)
    frames = Frames(images, ours.encode_image, ours.slices_in_memory())
    for number, ((start, stop), mask) in propagate(Sam2Tracker(ours, frames), seeds, len(images), BatchSize(objects)):
        masks[number][tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = mask
    return masks, frames
