"""Slab-wise residual blocks on a CPU without gradients: the same numbers in less time and memory.

Three observations replace the straightforward computation:

- relu(norm(x)) = relu(x - mean) / deviation, and the division moves into the weights of the following convolution. A block then
  needs each channel's two moments and, of the normalised tensor, only the few slices (a slab) one call of the convolution reads.
- The upsampled half of a concatenation is made slab by slab, too. Its moments come from the coarse tensor c: upsampling is a
  matrix A, the sum of squares of A c is c'(A'A)c, and A'A is one small matrix per axis.
- Channels last in memory and oneDNN called by name: PyTorch gives small maps at batch 1 to a slower convolution.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .interpolation import along_axis, upsampling_matrix
from .threads import in_threads

SLAB_VOXELS = 2**16
"""Voxels of one slab: the convolution is fastest, and temporary memory least, on a few slices (measured at 32 to 192 channels)."""
PLANAR_VOXELS = 2**12
"""From this size of map on, `convolve_pairs` saves more than its weights cost."""
LAST = torch.channels_last_3d
EPS = 1e-4
"""Of the instance norm in residual blocks."""


def apply_to(x: Tensor) -> bool:
    """True if x is computed in slabs: on a CPU, in float32 or autocast to bfloat16, without gradients or compilation."""
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") == torch.bfloat16 and x.dtype in (torch.float32, torch.bfloat16)
    return x.dtype == torch.float32


class Source(Protocol):
    """A tensor [1,C,D,H,W] that can be read slab by slab."""

    shape: torch.Size

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of each channel, [C]."""

    def slab(self, start: int, stop: int) -> Tensor:
        """Slices start <= z < stop, [1,C,stop-start,H,W]."""


class Stored:
    """A tensor in memory."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.float().contiguous(memory_format=LAST)
        self.shape = tensor.shape

    def moments(self) -> tuple[Tensor, Tensor]:
        """See `Source`."""
        parts = self.tensor[0].permute(1, 2, 3, 0).flatten(0, 2).split(SLAB_VOXELS)
        shift = parts[0].mean(0)  # about the mean: sums of squares around it lose no digits

        def sums(part_VC: Tensor) -> Tensor:
            shifted = part_VC - shift
            return torch.stack([shifted.sum(0), shifted.square_().sum(0)])

        total = torch.stack(in_threads(sums, parts)).double().sum(0)
        offset, square = total / self.shape[2:].numel()
        return (shift + offset).float(), (square - offset**2).float()

    def slab(self, start: int, stop: int) -> Tensor:
        """See `Source`."""
        return self.tensor[:, :, start:stop]


class Upsampled:
    """A coarse tensor seen through trilinear upsampling with aligned corners to a size [D,H,W]."""

    def __init__(self, coarse: Tensor, size: torch.Size) -> None:
        self.shape = torch.Size((*coarse.shape[:2], *size))
        self.coarse_dhwC = coarse[0].float().permute(1, 2, 3, 0).contiguous()
        self.matrices = [upsampling_matrix(fine, n, coarse.device) for fine, n in zip(size, coarse.shape[2:], strict=True)]

    def moments(self) -> tuple[Tensor, Tensor]:
        """See `Source`."""
        mean = self.coarse_dhwC
        for axis, matrix in enumerate(self.matrices):
            mean = along_axis(matrix.mean(0, keepdim=True), mean, axis)
        centred = self.coarse_dhwC - mean
        square = centred
        for axis, matrix in enumerate(self.matrices):
            square = along_axis(matrix.T @ matrix / len(matrix), square, axis)
        return mean.flatten(), (centred * square).flatten(0, 2).sum(0)

    def slab(self, start: int, stop: int) -> Tensor:
        """See `Source`."""
        rows = self.matrices[0][start:stop]
        first, last = int(rows[0].nonzero()[0]), int(rows[-1].nonzero()[-1])
        slices_zhwC = along_axis(rows[:, first : last + 1], self.coarse_dhwC[first : last + 1], 0)
        planes_zCHW = F.interpolate(slices_zhwC.permute(0, 3, 1, 2), size=self.shape[3:], mode="bilinear", align_corners=True)
        return planes_zCHW.transpose(0, 1)[None]


def residual_block(sources: Sequence[Source], first: Tensor, second: Tensor, shortcut: Tensor | None, *, inplace: bool) -> Tensor:
    """Output of a `ResidualBlock` for the concatenated sources, [1,C_out,D,H,W] with channels last.

    Args:
        sources: its input, in the order of their channels.
        first: kernels [C_out,C_in,3,3,3] of its first convolution.
        second: of its second one.
        shortcut: of the shortcut, if that is a convolution.
        inplace: without a shortcut, the input's memory may become the result's.
    """
    channels, size = len(first), sources[0].shape[2:]
    hidden = torch.empty(1, channels, *size, memory_format=LAST)
    if shortcut is None:
        total = sources[0].slab(0, size[0])
        total = total if inplace else total.clone()
        weight = first
    else:
        total = torch.empty_like(hidden)
        weight = torch.cat([first, shortcut])

    def keep(z: slice, result: Tensor) -> None:
        hidden[:, :, z] = result[:, :channels]
        if shortcut is not None:
            total[:, :, z] = result[:, channels:]

    def add(z: slice, result: Tensor) -> None:
        total[:, :, z] += result

    dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32
    with torch.autocast("cpu", enabled=False):  # only convolutions are worth rounding for
        convolve_all(sources, weight, dtype, keep)
        convolve_all([Stored(hidden)], second, dtype, add)
    return total


def convolve_all(sources: Sequence[Source], weight: Tensor, dtype: torch.dtype, write: Callable[[slice, Tensor], None]) -> None:
    """The 3x3x3 convolution of the normalised, rectified, concatenated sources.

    Args:
        sources: its input.
        weight: of the convolution.
        dtype: of what is multiplied.
        write: is given slices of z and what belongs there, by several threads.
    """
    moments = [source.moments() for source in sources]
    means = [mean.view(1, -1, 1, 1, 1) for mean, _ in moments]
    weight = weight / torch.cat([variance for _, variance in moments]).add(EPS).sqrt().view(1, -1, 1, 1, 1)
    pairs = dtype == torch.float32 and sources[0].shape[2:].numel() >= PLANAR_VOXELS
    planar = planar_weights(weight) if pairs else []
    weight = weight.to(dtype)

    def convolve_span(span: range) -> None:
        for z, window in rectified(sources, means, span, dtype):
            if planar and window.shape[2] % 2 == 0:
                even, odd = convolve_pairs(window, planar)
                write(slice(z.start, z.stop, 2), even)
                write(slice(z.start + 1, z.stop, 2), odd)
            else:
                write(z, convolve(window, weight, padding=(0, 1, 1)).float())

    in_threads(convolve_span, spans(sources[0].shape[2:]))


def spans(size: torch.Size) -> list[range]:
    """Ranges of z to work on side by side, with a slab's slices as their step."""
    depth, plane = size[0], size[1] * size[2]
    step = max(2, SLAB_VOXELS // plane // 2 * 2)
    if depth * plane < 2 * SLAB_VOXELS:
        return [range(0, depth, step)]
    tasks = 4 * torch.get_num_threads()  # some more than threads: a core may be busy with something else
    length = max(2, -(-depth // tasks) // 2 * 2)
    return [range(start, min(start + length, depth), min(step, length)) for start in range(0, depth, length)]


def planar_weights(weight: Tensor) -> list[Tensor]:
    """The four 3x3 kernels [C_out,C_in,3,3] of `convolve_pairs`."""
    below, here, above = weight.unbind(2)
    return [below.contiguous(), (below + here + above) / 2, (below - here + above) / 2, above.contiguous()]


def convolve_pairs(window: Tensor, planar: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The 3x3x3 convolution without padding along z, by four planar convolutions for every two slices instead of six.

    This is Winograd's minimal filtering F(2,3) along z (Lavin and Gray 2016, https://arxiv.org/abs/1509.09308).

    Args:
        window: [1,C_in,2n+2,H,W].
        planar: see `planar_weights`.

    Returns:
        The first, third, ... and the second, fourth, ... slices of the result, [1,C_out,n,H,W] each.
    """
    slices = window[0].transpose(0, 1)
    a, b, c, d = (slices[i : len(slices) - 2 + i - i % 2 : 2] for i in range(4))
    p, q, r, s = (convolve(x, weight, (1, 1)) for x, weight in zip((a - c, b + c, c - b, b - d), planar, strict=True))
    even = p.add_(q).add_(r)
    odd = q.sub_(r).sub_(s)
    return even.transpose(0, 1)[None], odd.transpose(0, 1)[None]


def rectified(sources: Sequence[Source], means: Sequence[Tensor], span: range, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """relu(source - mean), concatenated: slices of z, each with a window that has one more slice, or zeros, on either side."""
    depth, height, width = sources[0].shape[2:]
    step = min(span.step, len(range(span.start, span.stop)))
    window = torch.empty(1, sum(source.shape[1] for source in sources), step + 2, height, width, dtype=dtype, memory_format=LAST)
    have = max(span.start - 1, 0)
    for start in range(span.start, span.stop, step):
        stop = min(start + step, span.stop)
        if start > span.start:
            window[:, :, :2] = window[:, :, step:]
        elif start == 0:
            window[:, :, 0] = 0
        need = min(stop + 1, depth)
        window[:, :, need - start + 1 :] = 0
        first = 0
        for source, mean in zip(sources, means, strict=True):
            if have < need:
                new = window[:, first : first + source.shape[1], have - start + 1 : need - start + 1]
                if dtype == torch.float32:
                    torch.sub(source.slab(have, need), mean, out=new).clamp_min_(0)
                else:  # rounding while subtracting is slow
                    new.copy_((source.slab(have, need) - mean).clamp_min_(0))
            first += source.shape[1]
        have = need
        yield slice(start, stop), window[:, :, : stop - start + 2]


def convolve(x: Tensor, weight: Tensor, padding: tuple[int, ...]) -> Tensor:
    """Convolution of [B,C,(D,)H,W] with a 3x3(x3) kernel, channels last."""
    x = x.to(memory_format=LAST if x.ndim == 5 else torch.channels_last)  # `to` also marks a single channel as last
    ones = (1,) * len(padding)
    if torch.backends.mkldnn.is_available():
        return torch.mkldnn_convolution(x, weight, None, padding, ones, ones, 1)
    return torch.convolution(x, weight, None, ones, padding, ones, False, (0,) * len(padding), 1)


def per_image(function: Callable[..., Tensor], *batches: Tensor) -> Tensor:
    """Apply a function of single images to batches [B,...]."""
    if batches[0].shape[0] == 1:
        return function(*batches)
    return torch.cat([function(*(batch[i : i + 1] for batch in batches)) for i in range(batches[0].shape[0])])
