"""Group normalisation and SiLU on a CPU, for channels-last tensors with few channels in a group.

There the backward is faster than PyTorch's, and only x and the statistics are kept for it. The definition, and the
public function, are in `group_norm_silu.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Elements handled at once: float32 copies of this many stay in a core's cache through all passes.
_CHUNK = 2**17
# Up to this many channels in a group (as in the f16 VQGAN's largest pictures) this backward is the faster one.
_FEW_CHANNELS = 4
# Below this many positions this forward is faster too, and exact where PyTorch's channels-last form loses digits.
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
    """Return slices of the batch, each small enough for the cache."""
    step = max(1, _CHUNK // max(1, x[0].numel()))
    return [slice(i, i + step) for i in range(0, x.shape[0], step)]


def _pieces(x: Tensor) -> list[tuple[slice, slice]]:
    """Return slices of the batch with slices of the positions, each pair small enough for the cache."""
    positions = x.shape[2] * x.shape[3]
    step = max(1, _CHUNK // max(1, x.shape[1]))
    pieces = []
    for part in _parts(x):
        for first in range(0, positions, step):
            pieces.append((part, slice(first, first + step)))
    return pieces


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the result and each group's mean and inverse deviation, (B, groups) in float32."""
    batch, channels = x.shape[:2]
    positions = x.shape[2] * x.shape[3]
    if positions >= _FEW_POSITIONS:
        y, mean, rstd = torch.native_group_norm(x, weight, bias, batch, channels, positions, groups, eps)
        return F.silu(y, inplace=True), mean.float(), rstd.float()
    y = torch.empty_like(x)
    mean, rstd = x.new_empty((2, batch, groups), dtype=torch.float32)
    source = _positions(x)  # (B, HW, C)
    target = _positions(y)
    n = positions * channels // groups
    for part in _parts(x):
        values = source[part].float()  # (b, HW, C)
        mean[part] = group_sums(values.sum(dim=1), groups) / n
        centred = values - _spread(mean[part], channels)  # two passes: E[x^2] - E[x]^2 would cancel
        variance = group_sums(centred.square().sum(dim=1), groups) / n  # (b, groups)
        rstd[part] = torch.rsqrt(variance + eps)
        scale = _spread(rstd[part], channels) * weight
        inner = torch.addcmul(bias, centred, scale, out=centred)
        target[part] = F.silu(inner, inplace=True)
    return y, mean, rstd


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias; the normalised and scaled values are computed again, not stored."""
    batch, channels, height, width = x.shape
    groups = mean.shape[1]
    n = height * width * channels // groups
    mean = _spread(mean, channels)  # (B, 1, C), as everything that is kept for a channel
    rstd = _spread(rstd, channels)
    scale = rstd * weight
    shift = bias - mean * scale
    dx = torch.empty_like(x)
    source = _positions(x)  # (B, HW, C)
    upstream = _positions(grad)
    target = _positions(dx)
    # Sums over positions of the gradient in front of SiLU, and of that times x. The gradient waits in `target`.
    total, against_x = x.new_zeros((2, batch, 1, channels), dtype=torch.float32)
    for part, where in _pieces(x):
        values = source[part, where].float()  # (b, p, C)
        inner = torch.addcmul(shift[part], values, scale[part])
        before = torch.ops.aten.silu_backward(upstream[part, where].float(), inner)
        target[part, where] = before
        total[part] += before.sum(dim=1, keepdim=True)
        against_x[part] += before.mul_(values).sum(dim=1, keepdim=True)
    against = rstd * (against_x - mean * total)  # the sum of the gradient times the normalised x
    mean_total = _spread(group_sums((total * weight)[:, 0], groups), channels) / n
    mean_against = _spread(group_sums((against * weight)[:, 0], groups), channels) / n
    slope = -rstd.square() * mean_against
    offset = -rstd * mean_total - slope * mean
    for part, where in _pieces(x):
        values = source[part, where].float()
        before = target[part, where].float()
        through_statistics = torch.addcmul(offset[part], values, slope[part])
        target[part, where] = through_statistics.addcmul_(before, scale[part])
    return dx, against.sum(dim=(0, 1)), total.sum(dim=(0, 1))


def suits(x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int) -> bool:
    """Return whether a gradient is needed and this implementation is the faster one."""
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
