"""Device, precision and batch size of inference, and the retry when memory runs out."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch

from ..config import Recipe
from ..devices import DeviceUse, has_bfloat16
from ..errors import is_out_of_memory, known_failures, out_of_memory
from .mass import MASS

Found = TypeVar("Found")

_ACTIVATIONS = 24
"""Full-resolution feature maps a window may need at once, in multiples of the first level's channels: a cautious guess. Where it is too
low, the run is repeated with one window at a time."""
_WINDOWS, _VOXELS = 8, 1 << 21
"""At most so many windows in one pass, or so many voxels if windows are small: enough to fill a device."""
_BLENDED_ON_CPU = "The GPU's memory did not suffice; windows were computed one at a time and blended on the CPU."


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Device, precision and batch size of inference."""

    device: torch.device
    dtype: torch.dtype
    """Of the convolutions and products; float32 switches autocast off."""
    batch: int = 1
    """Windows in one pass."""
    blend_device: torch.device = torch.device("cpu")
    """Device on which windows are summed."""
    compile: bool = False
    """Passes of the network are compiled, for `batch` windows each."""
    use: DeviceUse = DeviceUse()

    @property
    def ahead(self) -> int:
        """Passes of the network a device is given before the windows of an earlier one are blended: a GPU shall never wait for its host."""
        return 1 if self.use.run_ahead and self.blend_device.type == "cuda" else 0

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """The context to run the network in."""
        with ExitStack() as contexts:
            if self.dtype != torch.float32:
                contexts.enter_context(torch.autocast(self.device.type, dtype=self.dtype))
            if not self.use.fused_attention:
                from torch.nn.attention import SDPBackend, sdpa_kernel

                contexts.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield

    def frugal(self) -> "Compute":
        """The same with the least memory on the device."""
        return replace(self, batch=1, blend_device=torch.device("cpu"), compile=False)


def choose_compute(
    device: torch.device,
    precision: str,
    network: MASS,
    recipe: Recipe,
    labels: int,
    use: DeviceUse = DeviceUse(),  # noqa: B008 - frozen
) -> Compute:
    """Precision and number of windows that suit the device's free memory.

    Args:
        device: where the network is.
        precision: auto, float32, bfloat16 or float16. auto is bfloat16 on CUDA devices that have it, else float32.
        network: for the size of its feature maps.
        recipe: for the window.
        labels: decoded together.
        use: switches.
    """
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    automatic = torch.bfloat16 if device.type == "cuda" and has_bfloat16(device) else torch.float32
    dtype = automatic if precision == "auto" else names[precision]
    if device.type != "cuda":
        return Compute(device=device, dtype=dtype, use=use)
    blend_device = device if use.gpu_blending else torch.device("cpu")
    if not use.batches:
        return Compute(device=device, dtype=dtype, blend_device=blend_device, use=use)
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # what PyTorch keeps of earlier runs
    voxels = int(np.prod(recipe.window_zyx))
    # Logits, and the probabilities of this pass and of the one before it.
    window = voxels * (_ACTIVATIONS * network.config.channels[0] * dtype.itemsize + 12 * labels)
    batch = int(np.clip(free // 2 // window, 1, max(_WINDOWS, _VOXELS // voxels)))
    return Compute(device=device, dtype=dtype, batch=batch, blend_device=blend_device, use=use)


def with_one_retry(found: Callable[[Compute], Found], compute: Compute) -> tuple[Found, tuple[str, ...]]:
    """Run; if memory runs out, run once more with the least memory and return a warning.

    Raises:
        DeviceError: if that does not suffice either.
    """
    try:
        return found(compute), ()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if compute == compute.frugal():
            raise out_of_memory(error) from error
    # Outside the handler: the error held on to the tensors that filled the memory.
    if compute.device.type == "cuda":
        torch.cuda.empty_cache()
    with known_failures():
        return found(compute.frugal()), (_BLENDED_ON_CPU,)
