"""Group normalisation followed by SiLU, the pair that opens every residual block of VQGANs and U-Nets.

Used by: layers.conv_blocks.   Papers: Wu & He 2018 (eq. 1-2), Elfwing et al. 2018.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import BadParameter
from ._dispatch import choose, require_floating, second_order_via

# Elements handled at once on the CPU: float32 copies of this many stay in a core's cache through all passes.
_CHUNK = 2**17
# PyTorch's channels-last forward is slow for fewer positions than this, and its backward for any number.
_FEW_POSITIONS = 1024


def group_norm_silu_reference(x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float) -> Tensor:
    """Return `silu(group_norm(x))`; differentiable any number of times.

    Shapes:
        x: (B, C, ...); weight, bias: (C,) -> (B, C, ...)
    """
    return F.silu(F.group_norm(x, groups, weight, bias, eps))


def _spread(value: Tensor, channels: int) -> Tensor:
    """Repeat what belongs to a group for each of its channels: (B, groups) -> (B, 1, C)."""
    return value.repeat_interleave(channels // value.shape[1], dim=1).unsqueeze(1)


def _group_sums(value: Tensor, groups: int) -> Tensor:
    """Add up the channels of each group: (B, C) -> (B, groups)."""
    return value.unflatten(1, (groups, -1)).sum(dim=2)


def _positions(x: Tensor) -> Tensor:
    """View a channels-last (B, C, H, W) as (B, H W, C)."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _chunks(x: Tensor) -> list[slice]:
    step = max(1, _CHUNK // max(1, x[0].numel()))
    return [slice(i, i + step) for i in range(0, x.shape[0], step)]


def _pieces(x: Tensor) -> list[tuple[slice, slice]]:
    """Split pictures and positions so that each piece stays in the cache."""
    positions = x.shape[2] * x.shape[3]
    step = max(1, _CHUNK // max(1, x.shape[1]))
    return [(part, slice(i, i + step)) for part in _chunks(x) for i in range(0, positions, step)]


def _channels_last_forward(
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
    for part in _chunks(x):
        values = source[part].float()  # (b, HW, C)
        mean[part] = _group_sums(values.sum(dim=1), groups) / n
        centred = values - _spread(mean[part], channels)  # two passes: E[x^2] - E[x]^2 would cancel
        rstd[part] = torch.rsqrt(_group_sums(centred.square().sum(dim=1), groups) / n + eps)
        scale = _spread(rstd[part], channels) * weight
        target[part] = F.silu(torch.addcmul(bias, centred, scale, out=centred), inplace=True)
    return y, mean, rstd


def _channels_last_backward(
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
    mean_total = _spread(_group_sums((total * weight)[:, 0], groups), channels) / n
    mean_against = _spread(_group_sums((against_x * weight)[:, 0], groups), channels) / n
    slope = -rstd_c.square() * mean_against
    offset = -rstd_c * mean_total - slope * mean_c
    for part, where in _pieces(x):
        inner = target[part, where].float()
        target[part, where] = torch.addcmul(offset[part], source[part, where].float(), slope[part]).addcmul_(
            inner, scale[part])
    return dx, against_x.sum(dim=(0, 1)), total.sum(dim=(0, 1))


class _ChannelsLastCPU(torch.autograd.Function):
    """The same values with a backward several times faster than PyTorch's for channels-last tensors on a CPU.

    It keeps x and the statistics only, where PyTorch keeps the input of SiLU as well.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        y, mean, rstd = _channels_last_forward(x, weight, bias, groups, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.inputs_saved, ctx.constants = 3, {"groups": groups, "eps": eps}
        return y

    @staticmethod
    @second_order_via(group_norm_silu_reference)
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        dx, dweight, dbias = _channels_last_backward(grad, x, weight.float(), bias.float(), mean, rstd)
        return dx, dweight.to(weight.dtype), dbias.to(bias.dtype), None, None


class _InputKept(torch.autograd.Function):
    """The same values in the dtype of x, computed in float32, with only x and the statistics kept for the backward.

    PyTorch keeps the input of SiLU as well, and under autocast float32 copies of both.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        shape = x.shape[0], x.shape[1], x[0, 0].numel()
        y, mean, rstd = torch.native_group_norm(_plain(x), weight, bias, *shape, groups, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.inputs_saved, ctx.constants = 3, {"groups": groups, "eps": eps}
        return _like(F.silu(y, inplace=True), x)

    @staticmethod
    @second_order_via(group_norm_silu_reference)
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        shape, groups, wide = (x.shape[0], x.shape[1], x[0, 0].numel()), ctx.constants["groups"], _plain(x)
        y, _, _ = torch.native_group_norm(wide, weight, bias, *shape, groups, ctx.constants["eps"])
        inner = torch.ops.aten.silu_backward(_plain(grad), y)
        del y
        wanted = list(ctx.needs_input_grad[:3])
        dx, dweight, dbias = torch.ops.aten.native_group_norm_backward(inner, wide, mean, rstd, weight, *shape, groups,
                                                                       wanted)
        return dx if dx is None else _like(dx, x), dweight, dbias, None, None


def _plain(x: Tensor) -> Tensor:
    return x.float().contiguous()  # CUDA's normalisation copies any other layout itself


def _like(y: Tensor, x: Tensor) -> Tensor:
    """Give y the dtype of x, and its layout where that is channels-last."""
    y = y.to(x.dtype)
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return y.contiguous(memory_format=torch.channels_last) if last else y


def _suits_kept_input(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> bool:
    return (
        x.device.type == "cuda"
        and x.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and weight is not None
        and bias is not None
        and weight.dtype == bias.dtype == torch.float32
        and x.numel() > 0
        and not torch.compiler.is_compiling()  # a compiler decides by itself what to compute again
    )


def _suits_channels_last_cpu(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> bool:
    return (
        x.device.type == "cpu"
        and x.ndim == 4
        and x.dtype in (torch.float32, torch.bfloat16)
        and weight is not None
        and bias is not None
        and weight.dtype == bias.dtype == torch.float32
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and not x.is_contiguous()
        and not torch.compiler.is_compiling()  # a compiler fuses the reference better than these loops
    )


def group_norm_silu(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int = 32, eps: float = 1e-6, *, backend: str = "auto"
) -> Tensor:
    """Normalise each group of channels to mean 0 and variance 1, scale, shift, and apply x * sigmoid(x).

    Args:
        x: activations, contiguous or channels-last.
        weight: scale of each channel, or None for 1.
        bias: shift of each channel, or None for 0.
        groups: number of groups; divides C.
        eps: added to the variance (VQGAN uses 1e-6, not PyTorch's 1e-5).
        backend: "auto", "torch" or "triton".

    Shapes:
        x: (B, C, ...); weight, bias: (C,) -> (B, C, ...), dtype and memory format of x

    Raises:
        BadParameter: C is not a multiple of groups, or weight or bias is not (C,).
        KernelUnavailable: backend "triton" where it cannot run.
    """
    require_floating("group_norm_silu", x=x, weight=weight, bias=bias)
    if x.ndim < 2:
        raise BadParameter(f"group_norm_silu: x must be (B, C, ...), got {tuple(x.shape)}")
    channels = x.shape[1]
    if groups < 1 or channels % groups:
        raise BadParameter(f"group_norm_silu: {channels} channels must be a multiple of groups, got groups={groups}")
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and value.shape != (channels,):
            raise BadParameter(f"group_norm_silu: {name} must be ({channels},), got {tuple(value.shape)}")
    present = [t for t in (x, weight, bias) if t is not None]
    choose(backend, *present, name="group_norm_silu", has_triton_kernel=False)
    if _suits_channels_last_cpu(x, weight, bias):
        return _ChannelsLastCPU.apply(x, weight, bias, groups, eps)
    if _suits_kept_input(x, weight, bias):
        return _InputKept.apply(x, weight, bias, groups, eps)
    return group_norm_silu_reference(x, weight, bias, groups, eps)
