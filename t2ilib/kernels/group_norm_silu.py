"""Group normalisation followed by SiLU, the pair that opens every residual block of VQGANs and U-Nets.

Used by: layers.conv_blocks.   Papers: Wu & He 2018 (eq. 1-2), Elfwing et al. 2018.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _group_norm_silu_cpu, _group_norm_silu_triton
from ._dispatch import choose, require_floating, second_order_via
from ..errors import BadParameter


def group_norm_silu_reference(x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float) -> Tensor:
    """Return `silu(group_norm(x))`; differentiable any number of times.

    Shapes:
        x: (B, C, ...); weight, bias: (C,) -> (B, C, ...)
    """
    return F.silu(F.group_norm(x, groups, weight, bias, eps))


def _save(ctx, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, groups: int, eps: float) -> None:
    """Keep x and the statistics for the backward pass, in the form that `second_order_via` reads."""
    ctx.save_for_backward(x, weight, bias, mean, rstd)
    ctx.inputs_saved = 3
    ctx.constants = {"groups": groups, "eps": eps}


class _Triton(torch.autograd.Function):
    """The Triton kernels."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        y, mean, rstd = _group_norm_silu_triton.forward(x, weight, bias, groups, eps)
        _save(ctx, x, weight, bias, mean, rstd, groups, eps)
        return y

    @staticmethod
    @second_order_via(group_norm_silu_reference)
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        dx, dweight, dbias = _group_norm_silu_triton.backward(grad, x, weight, bias, mean, rstd)
        return dx, dweight.to(weight.dtype), dbias.to(bias.dtype), None, None


class _ChannelsLastCPU(torch.autograd.Function):
    """For channels-last tensors with few channels in a group, on a CPU."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        y, mean, rstd = _group_norm_silu_cpu.forward(x, weight, bias, groups, eps)
        _save(ctx, x, weight, bias, mean, rstd, groups, eps)
        return y

    @staticmethod
    @second_order_via(group_norm_silu_reference)
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        dx, dweight, dbias = _group_norm_silu_cpu.backward(grad, x, weight.float(), bias.float(), mean, rstd)
        return dx, dweight.to(weight.dtype), dbias.to(bias.dtype), None, None


class _InputKept(torch.autograd.Function):
    """For CUDA: the result in the dtype of x, computed in float32; the backward keeps only x and the statistics.

    PyTorch keeps the input of SiLU as well, and under autocast float32 copies of both.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        batch, channels = x.shape[:2]
        positions = x[0, 0].numel()
        y, mean, rstd = torch.native_group_norm(_plain(x), weight, bias, batch, channels, positions, groups, eps)
        _save(ctx, x, weight, bias, mean, rstd, groups, eps)
        return _like(F.silu(y, inplace=True), x)

    @staticmethod
    @second_order_via(group_norm_silu_reference)
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        groups = ctx.constants["groups"]
        eps = ctx.constants["eps"]
        batch, channels = x.shape[:2]
        positions = x[0, 0].numel()
        plain = _plain(x)
        y, _, _ = torch.native_group_norm(plain, weight, bias, batch, channels, positions, groups, eps)
        before = torch.ops.aten.silu_backward(_plain(grad), y)  # the gradient in front of SiLU
        del y
        dx, dweight, dbias = torch.ops.aten.native_group_norm_backward(
            before, plain, mean, rstd, weight, batch, channels, positions, groups, list(ctx.needs_input_grad[:3]))
        if dx is not None:
            dx = _like(dx, x)
        return dx, dweight, dbias, None, None


def _plain(x: Tensor) -> Tensor:
    return x.float().contiguous()  # CUDA's normalisation copies any other layout itself


def _like(y: Tensor, x: Tensor) -> Tensor:
    """Give y the dtype of x, and its layout where that is channels-last."""
    y = y.to(x.dtype)
    if x.ndim != 4 or x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return y
    return y.contiguous(memory_format=torch.channels_last)


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


def _check(x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int) -> None:
    """Refuse arguments of `group_norm_silu` that do not fit."""
    require_floating("group_norm_silu", x=x, weight=weight, bias=bias)
    if x.ndim < 2:
        raise BadParameter(f"group_norm_silu: x must be (B, C, ...), got {tuple(x.shape)}")
    channels = x.shape[1]
    if groups < 1 or channels % groups:
        raise BadParameter(f"group_norm_silu: {channels} channels must be a multiple of groups, got groups={groups}")
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and value.shape != (channels,):
            raise BadParameter(f"group_norm_silu: {name} must be ({channels},), got {tuple(value.shape)}")


def group_norm_silu(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int = 32, eps: float = 1e-6, *, backend: str = "auto"
) -> Tensor:
    """Normalise each group of channels to mean 0 and variance 1, scale, shift, and apply x * sigmoid(x).

    On a CPU with channels-last x it is mostly as exact as PyTorch's own: 1e-4 where a mean is five times its deviation,
    1e-2 at fifty times.

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
    _check(x, weight, bias, groups)
    present = [t for t in (x, weight, bias) if t is not None]
    if choose(backend, *present, name="group_norm_silu", kernel="unproven") == "triton":
        channels = x.shape[1]
        if weight is None:
            weight = x.new_ones(channels, dtype=torch.float32)
        if bias is None:
            bias = x.new_zeros(channels, dtype=torch.float32)
        return _Triton.apply(x, weight, bias, groups, eps)
    if _group_norm_silu_cpu.suits(x, weight, bias, groups):
        return _ChannelsLastCPU.apply(x, weight, bias, groups, eps)
    if _suits_kept_input(x, weight, bias):
        return _InputKept.apply(x, weight, bias, groups, eps)
    return group_norm_silu_reference(x, weight, bias, groups, eps)
