"""Group normalisation and SiLU on a CPU with channels-last tensors of few channels in a group.

The backward is faster than PyTorch's there, and x and the statistics are all that is kept. The definition, and the
public function, are in `group_norm_silu.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Elements handled at once on the CPU: float32 copies of this many stay in a core's cache through all passes.
_CHUNK = 2**17
# With so many channels in a group (the f16 VQGAN's largest pictures) this backward wins; with more PyTorch's does. With
# fewer positions than this the forward wins as well, and is exact where PyTorch's channels-last form loses digits.
_FEW_CHANNELS = 4
_FEW_POSITIONS = 1024


def _spread(value: Tensor, channels: int) -> Tensor:
    """Repeat what belongs to a group for each of its channels: (B, groups) -> (B, 1, C)."""
    return value.repeat_interleave(channels // value.shape[1], dim=1).unsqueeze(1)


def group_sums(value: Tensor, groups: int) -> Tensor:
    """Add up the channels of each group: (B, C) -> (B, groups)."""
    return value.unflatten(1, (groups, -1)).sum(dim=2)


def _positions(x: Tensor) -> Tensor:
    """View a channels-last (B, C, H, W) as (B, H W, C)."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _parts(x: Tensor) -> list[slice]:
    """Split pictures so that each part stays in the cache."""
    step = max(1, _CHUNK // max(1, x[0].numel()))
    return [slice(i, i + step) for i in range(0, x.shape[0], step)]


def _pieces(x: Tensor) -> list[tuple[slice, slice]]:
    """Split pictures and positions so that each piece stays in the cache."""
    positions = x.shape[2] * x.shape[3]
    step = max(1, _CHUNK // max(1, x.shape[1]))
    return [(part, slice(i, i + step)) for part in _parts(x) for i in range(0, positions, step)]


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the result and each group's mean and inverse deviation, (B, groups) in float32."""
    count, channels = x.shape[:2]
    positions = x.shape[2] * x.shape[3]
    if positions >= _FEW_POSITIONS:
        y, mean, rstd = torch.native_group_norm(x, weight, bias, count, channels, positions, groups, eps)
        return F.silu(y, inplace=True), mean.float(), rstd.float()
    y = torch.empty_like(x)
    mean, rstd = x.new_empty((2, count, groups), dtype=torch.float32)
    source, target, n = _positions(x), _positions(y), positions * channels // groups
    for part in _parts(x):
        values = source[part].float()  # (b, HW, C)
        mean[part] = group_sums(values.sum(dim=1), groups) / n
        centred = values - _spread(mean[part], channels)  # two passes: E[x^2] - E[x]^2 would cancel
        rstd[part] = torch.rsqrt(group_sums(centred.square().sum(dim=1), groups) / n + eps)
        scale = _spread(rstd[part], channels) * weight
        target[part] = F.silu(torch.addcmul(bias, centred, scale, out=centred), inplace=True)
    return y, mean, rstd


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias; the normalised and scaled values are computed again, not stored."""
    channels, groups = x.shape[1], mean.shape[1]
    n = x.shape[2] * x.shape[3] * channels // groups
    mean_c, rstd_c = _spread(mean, channels), _spread(rstd, channels)  # (B, 1, C)
    scale = rstd_c * weight
    shift = bias - mean_c * scale
    dx = torch.empty_like(x)
    source, upstream, target = _positions(x), _positions(grad), _positions(dx)
    total, against_x = x.new_zeros((2, x.shape[0], 1, channels), dtype=torch.float32)  # sums over positions
    for part, where in _pieces(x):
        values = source[part, where].float()  # (b, p, C)
        inner = torch.addcmul(shift[part], values, scale[part])
        inner = torch.ops.aten.silu_backward(upstream[part, where].float(), inner)  # gradient in front of SiLU
        target[part, where] = inner
        total[part] += inner.sum(dim=1, keepdim=True)
        against_x[part] += inner.mul_(values).sum(dim=1, keepdim=True)
    against_x = rstd_c * (against_x - mean_c * total)  # of grad * normalised x
    mean_total = _spread(group_sums((total * weight)[:, 0], groups), channels) / n
    mean_against = _spread(group_sums((against_x * weight)[:, 0], groups), channels) / n
    slope = -rstd_c.square() * mean_against
    offset = -rstd_c * mean_total - slope * mean_c
    for part, where in _pieces(x):
        inner = target[part, where].float()
        target[part, where] = torch.addcmul(offset[part], source[part, where].float(), slope[part]).addcmul_(
            inner, scale[part])
    return dx, against_x.sum(dim=(0, 1)), total.sum(dim=(0, 1))


def suits(x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int) -> bool:
    """Whether a gradient is wanted and this is the faster way to it."""
    return (
        x.device.type == "cpu"
        and torch.is_grad_enabled()
        and x.ndim == 4
        and x.shape[1] // groups <= _FEW_CHANNELS
        and x.dtype in (torch.float32, torch.bfloat16)
        and weight is not None
        and bias is not None
        and weight.dtype == bias.dtype == torch.float32
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and not x.is_contiguous()
        and not torch.compiler.is_compiling()  # a compiler fuses the reference better than these loops
    )
