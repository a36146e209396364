"""SAM2 (Ravi et al. 2024) as promptable network and tracker.

Only the network of the package `sam2` is used (`SAM2Base`), not its predictors: neither torchvision nor JPEG files are needed, and objects
of all seed slices go through it together. In float32 the masks are those of the package's own video predictor, but for rounding.

Counted from its seed an object is on frame 0, 1, 2 .. of a film of its own, whichever way it goes. What is remembered of it is the seed
and the last few slices, as many as the network can use.
"""

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sam2.build_sam import build_sam2
from torch import Tensor
from torch.nn import functional

from ...devices import check_compiler, choose_device, free_memory, has_bfloat16, not_compiled
from ...errors import InputError, WeightsError, is_out_of_memory
from ...weights.fit import check_fit
from ...weights.store import keep_compiled, locate
from ..mask_set import Bools
from .channels import Bytes
from .frames import Frames
from .small_regions import without_small_regions

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the photographs the network was trained with, per channel, brightest 1."""
_SIZES = {(96, 12): "t", (96, 16): "s", (112, 24): "b+", (144, 48): "l"}
"""Letter of the configuration by first width and number of blocks of the image encoder."""
_AS_PREDICTORS = ("++model.binarize_mask_from_pts_for_mem_enc=true",)
"""Changes the package's video predictor makes to the configuration it ships."""
_FILL_HOLES = 8
"""Pixels of the network's masks, a quarter of its picture wide: what the package fills if its CUDA extension is there."""
_BARELY = 0.1
"""Logit of those pixels."""
_AGAIN = "Get it again: mass weights download sam2.1_hiera_large."


Features = tuple[Tensor, ...]
"""Output of the image encoder for a picture: maps [1,C,a,b] from fine to coarse."""


class _Glance(NamedTuple):
    """Memory of an object on one slice."""

    map: Tensor | None
    """[1,C,a,b]; None: too old for the network to use."""
    pointer: Tensor
    """[1,C]."""


class _Memory(NamedTuple):
    """Memory of an object."""

    seed: _Glance
    recent: tuple[_Glance, ...]
    """The last slices, the latest first."""
    steps: int
    """Slices since the seed."""


class Sam2:
    """Answers points, see `Promptable`.

    Args:
        network: a `SAM2Base`, evaluating.
        dtype: of what it computes; bfloat16 needs a GPU that has it.
        fill_holes: holes of at most this many pixels of the network's masks are filled in objects that are followed; 0: none.

    Raises:
        InputError: for holes of less than no pixels.
    """

    def __init__(self, network: Any, dtype: torch.dtype = torch.float32, fill_holes: int = _FILL_HOLES) -> None:
        if fill_holes < 0:
            raise InputError(f"Holes of at most {fill_holes} pixels are to be filled.", "Give 0 to fill none, or more.")
        self.network = network
        self.dtype = dtype
        self.fill_holes = fill_holes
        self.device = next(network.parameters()).device
        self.place: tuple[Tensor, ...] = ()
        """Encodings of position [1,C,a,b] beside the maps; the same for every picture."""

    def encode_image(self, image: Bytes) -> Features:
        """See `Promptable`."""
        with self.computing():
            seen = self.network.forward_image(self.picture(image))
        self.place = tuple(seen["vision_pos_enc"])
        return tuple(seen["backbone_fpn"])

    def picture(self, image: Bytes) -> Tensor:
        """Input of the network: a picture [h,w,3] stretched to a square and standardised, [1,3,size,size]."""
        size = self.network.image_size
        picture = torch.from_numpy(np.ascontiguousarray(image)).to(self.device).permute(2, 0, 1)[None].float() / 255
        picture = functional.interpolate(picture, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
        return (picture - picture.new_tensor(_MEAN)[:, None, None]) / picture.new_tensor(_STD)[:, None, None]

    def propose(self, features: Features, points: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        """See `Promptable`."""
        network = self.network
        *fine, coarse = features
        # The prompt encoder takes pixels, x first.
        places = torch.from_numpy(points[:, ::-1] * np.float32(network.image_size)).to(self.device)[:, None]
        with self.computing():
            if network.directly_add_no_mem_embed:
                coarse = coarse + network.no_mem_embed.view(1, -1, 1, 1)
            labels = torch.ones(places.shape[:2], dtype=torch.int32, device=self.device)
            sparse, dense = network.sam_prompt_encoder(points=(places, labels), boxes=None, masks=None)
            logits, scores, _, _ = network.sam_mask_decoder(
                image_embeddings=coarse,
                image_pe=network.sam_prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
                repeat_image=True,
                high_res_features=fine,
            )
        return logits.float(), scores.float()

    def tracker(self, frames: Frames) -> "Sam2Tracker":
        """Follows objects through slices whose features `encode_image` computed."""
        return Sam2Tracker(self, frames)

    def slices_in_memory(self) -> int | None:
        """Slices whose features fit into 40 % of the free memory; None: not known on this system."""
        free = torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else free_memory()
        if free is None:
            return None
        side = self.network.image_size
        numbers = (side // 4) ** 2 * 32 + (side // 8) ** 2 * 64 + (side // 16) ** 2 * 256
        return max(1, int(0.4 * free) // (numbers * self.dtype.itemsize))

    def compile(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile the two parts that take most of the time: the image encoder now, the attention to memories at its first use.

        Args:
            backend: of `torch.compile`.

        Raises:
            DeviceError: if what the default backend needs is not there, a CUDA device and Triton, or it fails.
        """
        if backend == "inductor":
            check_compiler("SAM2", self.device)
            keep_compiled()
        self.network.image_encoder.compile(backend=backend)
        # The number of objects and of what is remembered of them changes from step to step.
        self.network.memory_attention.compile(backend=backend, dynamic=True)
        try:
            self.encode_image(np.zeros((8, 8, 3), np.uint8))
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise not_compiled("SAM2", error) from error

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Context of all passes of the network: its precision, no gradients."""
        with torch.inference_mode(), torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            yield


class Sam2Tracker:
    """Follows objects through slices, see `Tracker`.

    Args:
        sam2: the network.
        frames: the slices, with features by `sam2.encode_image`.
    """

    def __init__(self, sam2: Sam2, frames: Frames) -> None:
        self._sam2 = sam2
        self._network = sam2.network
        self._frames = frames
        self._map_place: Tensor | None = None
        # A short film makes the network look less far back and count time in other steps: so does the package's predictor.
        self._pointers = min(len(frames), self._network.max_obj_ptrs_in_encoder) - 1
        self._maps = self._network.num_maskmem - 1

    def start(self, slices: Sequence[int], masks: Bools) -> list[_Memory]:
        """See `Tracker`."""
        given = torch.from_numpy(masks).to(self._sam2.device)[:, None].float()
        size = (self._network.image_size, self._network.image_size)
        if given.shape[-2:] != size:
            given = functional.interpolate(given, size=size, mode="bilinear", align_corners=False, antialias=True)
        with self._sam2.computing():
            film = self._film(slices)
            seen = self._network.track_step(
                frame_idx=0,
                is_init_cond_frame=True,
                point_inputs=None,
                mask_inputs=(given >= 0.5).float(),
                output_dict={"cond_frame_outputs": {}, "non_cond_frame_outputs": {}},
                num_frames=len(self._frames),
                run_mem_encoder=False,
                **film,
            )
            maps, places = self._network._encode_new_memory(
                current_vision_feats=film["current_vision_feats"],
                feat_sizes=film["feat_sizes"],
                pred_masks_high_res=functional.interpolate(seen["pred_masks"], size=size, mode="bilinear", align_corners=False),
                object_score_logits=seen["object_score_logits"],
                is_mask_from_pts=True,
            )
        self._map_place = places[-1][:1]
        return [_Memory(glance, (), 0) for glance in _glances(maps, seen["obj_ptr"])]

    def step(self, slices: Sequence[int], memories: Sequence[_Memory]) -> tuple[Bools, list[_Memory]]:
        """See `Tracker`."""
        now = memories[0].steps + 1
        earlier = {now - 1 - back: self._output([memory.recent[back] for memory in memories]) for back in range(len(memories[0].recent))}
        with self._sam2.computing():
            seen = self._network.track_step(
                frame_idx=now,
                is_init_cond_frame=False,
                point_inputs=None,
                mask_inputs=None,
                output_dict={
                    "cond_frame_outputs": {0: self._output([memory.seed for memory in memories])},
                    "non_cond_frame_outputs": earlier,
                },
                num_frames=len(self._frames),
                **self._film(slices),
            )
            coarse = without_small_regions(seen["pred_masks"][:, 0], self._sam2.fill_holes, 0, _BARELY)[:, None]
            logits = functional.interpolate(coarse, size=self._frames.shape, mode="bilinear", align_corners=False)
        glances = _glances(seen["maskmem_features"], seen["obj_ptr"])
        return (logits[:, 0] > 0).cpu().numpy(), [self._later(memory, glance) for memory, glance in zip(memories, glances, strict=True)]

    def _later(self, memory: _Memory, glance: _Glance) -> _Memory:
        """With the latest slice; what is too old for the network is dropped."""
        recent = (glance, *memory.recent)[: max(self._pointers, self._maps)]
        kept = tuple(old if back < self._maps else old._replace(map=None) for back, old in enumerate(recent))
        return _Memory(memory.seed, kept, memory.steps + 1)

    def _output(self, glances: Sequence[_Glance]) -> dict[str, Any]:
        """Stored output of earlier frames in the form the network expects."""
        assert self._map_place is not None
        maps = [glance.map for glance in glances if glance.map is not None]
        return {
            "maskmem_features": torch.cat(maps) if maps else None,
            "maskmem_pos_enc": [self._map_place.expand(len(glances), -1, -1, -1)],
            "obj_ptr": torch.cat([glance.pointer for glance in glances]),
        }

    def _film(self, slices: Sequence[int]) -> dict[str, Any]:
        """Features of each object's slice as the network takes them: [pixels,B,C] from fine to coarse, with their positions and sizes."""
        seen = {index: self._frames[index] for index in dict.fromkeys(slices)}
        levels = range(len(self._sam2.place))
        maps = [torch.cat([seen[index][level] for index in slices]) for level in levels]
        places = [place.expand(len(slices), -1, -1, -1) for place in self._sam2.place]
        return {
            "current_vision_feats": [_flat(values) for values in maps],
            "current_vision_pos_embeds": [_flat(values) for values in places],
            "feat_sizes": [tuple(values.shape[-2:]) for values in maps],
        }


def _flat(maps: Tensor) -> Tensor:
    """[B,C,a,b] to [a b,B,C]."""
    return maps.flatten(2).permute(2, 0, 1)


def _glances(maps: Tensor, pointers: Tensor) -> list[_Glance]:
    # Half precision is what the network's own predictor remembers in, on every device.
    halved = maps.to(torch.bfloat16)
    return [_Glance(halved[n : n + 1], pointers[n : n + 1]) for n in range(len(pointers))]


def load_sam2(weights: str | Path, device: str = "auto", precision: str = "auto", fill_holes: int = _FILL_HOLES) -> Sam2:
    """SAM2 with weights of Meta's, 2.0 or 2.1, of any size: which, is read off the tensors.

    Args:
        weights: a file, or the name of downloaded weights.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, float32 or bfloat16; auto is bfloat16 on CUDA devices that have it.
        fill_holes: see `Sam2`.

    Raises:
        WeightsError: if they are missing, damaged or something else.
        DeviceError: if the device is absent.
    """
    path = locate(weights)
    tensors = _tensors(path)
    chosen = choose_device(device)
    network = build(_configuration(tensors, path))
    check_fit(network.state_dict(), tensors, path, "SAM2", _AGAIN)
    network.load_state_dict(tensors)
    half = chosen.type == "cuda" and has_bfloat16(chosen) if precision == "auto" else precision == "bfloat16"
    return Sam2(network.to(chosen), torch.bfloat16 if half else torch.float32, fill_holes)


def build(configuration: str, image_size: int = 1024) -> Any:
    """The network of a configuration of the package, such as `configs/sam2.1/sam2.1_hiera_t.yaml`, with random weights, on the CPU."""
    return build_sam2(configuration, None, device="cpu", hydra_overrides_extra=[*_AS_PREDICTORS, f"++model.image_size={image_size}"])


def _configuration(tensors: dict[str, Tensor], path: Path) -> str:
    """The configuration whose network has these tensors."""
    first = tensors.get("image_encoder.trunk.patch_embed.proj.weight")
    blocks = len({name.split(".")[3] for name in tensors if name.startswith("image_encoder.trunk.blocks.")})
    letter = None if first is None else _SIZES.get((first.shape[0], blocks))
    if letter is None:
        raise WeightsError(f"{path} does not hold weights of SAM2.", _AGAIN)
    version = "sam2.1" if "no_obj_embed_spatial" in tensors else "sam2"
    return f"configs/{version}/{version}_hiera_{letter}.yaml"


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint; a file that could run code is refused."""
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise WeightsError(f"{path} cannot be read as weights: {str(error).partition('. ')[0] or 'it ends early'}.", _AGAIN) from error
    values = values.get("model", values) if isinstance(values, dict) else None
    if not isinstance(values, dict) or not all(isinstance(value, Tensor) for value in values.values()):
        raise WeightsError(f"{path} is not a checkpoint of SAM2.", _AGAIN)
    return values
