"""Small differentiable operations of the VQGAN+CLIP loop (Crowson et al. 2022, arXiv 2204.08583)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import BadParameter


class _ReplaceGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value: Tensor, carrier: Tensor) -> Tensor:
        ctx.shape = carrier.shape
        return value.view_as(value)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return None, grad.sum_to_size(ctx.shape)


class _ClampWithGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, low: float, high: float) -> Tensor:
        ctx.bounds = low, high
        ctx.save_for_backward(x)
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (x,) = ctx.saved_tensors
        outside = x - x.clamp(*ctx.bounds)
        return grad * (grad * outside >= 0), None, None


def replace_grad(value: Tensor, carrier: Tensor) -> Tensor:
    """Return `value`, with the gradient going to `carrier` alone (summed to its shape if it was broadcast)."""
    return _ReplaceGrad.apply(value, carrier)


def clamp_with_grad(x: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Clamp to [low, high]; outside, the gradient passes only where a descent step would move x back in.

    With `torch.clamp` a saturated pixel gets no gradient and never recovers.
    """
    return _ClampWithGrad.apply(x, low, high)


def straight_through(z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Replace each latent by its nearest codebook row; the gradient passes as through the identity.

    Shapes:
        z (B, D, h, w), codebook (K, D) -> z_q (B, D, h, w), codes (B, h, w) int64
    """
    from ..kernels import nearest_code

    codes = nearest_code(z.detach().movedim(1, -1), codebook.detach())
    z_q = F.embedding(codes, codebook.detach()).movedim(-1, 1)
    return replace_grad(z_q.to(z.dtype), z), codes


def z_bounds(codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest value of each channel over the codebook.

    Shapes:
        codebook (K, D) -> two of (1, D, 1, 1)
    """
    low, high = codebook.detach().aminmax(dim=0)
    return low[None, :, None, None], high[None, :, None, None]


def total_variation(images: Tensor) -> Tensor:
    """Return the mean squared difference of neighbouring pixels of each image.

    Shapes:
        images (B, C, H, W) -> (B,)
    """
    down = (images[:, :, 1:] - images[:, :, :-1]).square()
    right = (images[:, :, :, 1:] - images[:, :, :, :-1]).square()
    count = max(down[0].numel() + right[0].numel(), 1)
    return (down.flatten(1).sum(1) + right.flatten(1).sum(1)) / count


def _lanczos_kernel(ratio: float, lobes: int, like: Tensor) -> Tensor:
    """Return the odd-sized low-pass filter for shrinking by `ratio` < 1: sinc(x) sinc(x / lobes) at steps of ratio."""
    reach = math.ceil(lobes / ratio + 1) - 1
    x = torch.arange(-reach + 1, reach, dtype=torch.float64) * ratio
    kernel = torch.where(x.abs() < lobes, torch.sinc(x) * torch.sinc(x / lobes), 0.0)
    return (kernel / kernel.sum()).to(like)


def resample(images: Tensor, size: tuple[int, int], *, lobes: int = 2) -> Tensor:
    """Resize as the classic cutouts do: Lanczos low-pass along each side that shrinks, then bicubic interpolation.

    The bicubic step uses `align_corners=True` and no antialiasing of its own, as in the original notebook. Padding
    reflects, which needs sides larger than half the filter.

    Shapes:
        images (B, C, H, W) -> (B, C, size[0], size[1])

    Raises:
        BadParameter: a side is too small for the filter.
    """
    batch, channels, height, width = images.shape
    x = images.reshape(batch * channels, 1, height, width)
    for dim, (old, new) in enumerate(zip((height, width), size, strict=True)):
        if new >= old:
            continue
        kernel = _lanczos_kernel(new / old, lobes, x)
        pad = (len(kernel) - 1) // 2
        if pad >= old:
            raise BadParameter(f"cannot shrink a side of {old} to {new} pixels with this filter: it needs more than "
                               f"{pad} pixels; use torch.nn.functional.interpolate(antialias=True)")
        if dim == 0:
            x = F.conv2d(F.pad(x, (0, 0, pad, pad), "reflect"), kernel[None, None, :, None])
        else:
            x = F.conv2d(F.pad(x, (pad, pad, 0, 0), "reflect"), kernel[None, None, None, :])
    x = x.reshape(batch, channels, height, width)
    return F.interpolate(x, tuple(size), mode="bicubic", align_corners=True)


class LatentEMA:
    """Exponential moving average of a latent, corrected for its start at zero (as Adam corrects its moments).

    Args:
        decay: weight of the past in [0, 1); 0 keeps the newest value only.
    """

    def __init__(self, decay: float):
        if not 0 <= decay < 1:
            raise BadParameter(f"ema must be in [0, 1), got {decay}; 0.95 averages about 20 steps")
        self.decay = decay
        self.sum: Tensor | None = None
        self.weight = 0.0

    @torch.no_grad()
    def update(self, z: Tensor) -> None:
        """Take in the value after one step."""
        past = torch.zeros_like(z) if self.sum is None else self.sum
        self.sum = past.mul(self.decay).add(z.detach(), alpha=1 - self.decay)
        self.weight = self.weight * self.decay + 1 - self.decay

    def value(self) -> Tensor:
        """Return the average so far."""
        if self.sum is None:
            raise BadParameter("the average is empty; call update(z) first")
        return self.sum / self.weight
