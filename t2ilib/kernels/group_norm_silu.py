"""Group normalisation followed by SiLU, the pair that opens every residual block of VQGANs and U-Nets.

Used by: layers.conv_blocks.   Papers: Wu & He 2018 (eq. 1-2), Elfwing et al. 2018.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _group_norm_silu_cpu as cpu
from ._dispatch import HAS_TRITON, choose, require_floating, second_order_via, tl, triton
from ..errors import BadParameter


def group_norm_silu_reference(x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float) -> Tensor:
    """Return `silu(group_norm(x))`; differentiable any number of times.

    Shapes:
        x: (B, C, ...); weight, bias: (C,) -> (B, C, ...)
    """
    return F.silu(F.group_norm(x, groups, weight, bias, eps))


class _ChannelsLastCPU(torch.autograd.Function):
    """What channels-last tensors of few channels in a group take on a CPU."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        y, mean, rstd = cpu.forward(x, weight, bias, groups, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.inputs_saved, ctx.constants = 3, {"groups": groups, "eps": eps}
        return y

    @staticmethod
    @second_order_via(group_norm_silu_reference)
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        dx, dweight, dbias = cpu.backward(grad, x, weight.float(), bias.float(), mean, rstd)
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


if HAS_TRITON:

    @triton.jit
    def _tile(x, b, c, p, channels, positions, x_b, x_c, x_p):
        """Load the tile (c, p) of picture b as float32, 0 outside."""
        inside = (c < channels)[:, None] & (p < positions)[None, :]
        at = b.to(tl.int64) * x_b + c[:, None].to(tl.int64) * x_c + p[None, :].to(tl.int64) * x_p
        return tl.load(x + at, mask=inside, other=0.0).to(tl.float32), at, inside

    @triton.jit
    def _moments_kernel(
        x,  # (B, C, P), any strides
        means,  # (B, C, blocks) float32: of each channel in each block of positions
        spreads,  # (B, C, blocks) float32: sum of squared differences from that mean
        channels, positions, blocks, x_b, x_c, x_p, C: tl.constexpr, P: tl.constexpr,
    ):  # fmt: skip
        b = tl.program_id(0)
        c = tl.program_id(1) * C + tl.arange(0, C)
        p = tl.program_id(2) * P + tl.arange(0, P)
        values, _, inside = _tile(x, b, c, p, channels, positions, x_b, x_c, x_p)
        count = tl.minimum(P, positions - tl.program_id(2) * P)
        mean = tl.sum(values, axis=1) / count
        centred = tl.where(inside, values - mean[:, None], 0.0)
        at = (b.to(tl.int64) * channels + c) * blocks + tl.program_id(2)
        tl.store(means + at, mean, mask=c < channels)
        tl.store(spreads + at, tl.sum(centred * centred, axis=1), mask=c < channels)

    @triton.jit
    def _apply_kernel(
        x, y,  # (B, C, P), any strides, the same for both
        mean, rstd,  # (B, groups) float32
        weight, bias,  # (C,)
        channels, positions, groups, x_b, x_c, x_p, C: tl.constexpr, P: tl.constexpr,
    ):  # fmt: skip
        b = tl.program_id(0)
        c = tl.program_id(1) * C + tl.arange(0, C)
        p = tl.program_id(2) * P + tl.arange(0, P)
        values, at, inside = _tile(x, b, c, p, channels, positions, x_b, x_c, x_p)
        real = c < channels
        group = b * groups + c // (channels // groups)
        scale = tl.load(rstd + group, mask=real, other=0.0) * tl.load(weight + c, mask=real, other=0.0).to(tl.float32)
        centred = values - tl.load(mean + group, mask=real, other=0.0)[:, None]
        inner = centred * scale[:, None] + tl.load(bias + c, mask=real, other=0.0).to(tl.float32)[:, None]
        tl.store(y + at, (inner * tl.sigmoid(inner)).to(y.dtype.element_ty), mask=inside)

    @triton.jit
    def _backward_kernel(
        x, grad,  # (B, C, P), any strides of their own
        out,  # sums (2, B, C, blocks) float32, or the gradient of x, with the strides of x
        mean, rstd,  # (B, groups) float32
        weight, bias,  # (C,)
        slope, offset,  # (B, groups) float32: what the normalisation itself takes back; not read for the sums
        channels, positions, groups, blocks, x_b, x_c, x_p, g_b, g_c, g_p,
        SUMS: tl.constexpr, C: tl.constexpr, P: tl.constexpr,
    ):  # fmt: skip
        b = tl.program_id(0)
        c = tl.program_id(1) * C + tl.arange(0, C)
        p = tl.program_id(2) * P + tl.arange(0, P)
        values, at, inside = _tile(x, b, c, p, channels, positions, x_b, x_c, x_p)
        upstream, _, _ = _tile(grad, b, c, p, channels, positions, g_b, g_c, g_p)
        real = c < channels
        group = b * groups + c // (channels // groups)
        inverse = tl.load(rstd + group, mask=real, other=0.0)[:, None]
        normal = (values - tl.load(mean + group, mask=real, other=0.0)[:, None]) * inverse
        scale = tl.load(weight + c, mask=real, other=0.0).to(tl.float32)[:, None]
        inner = normal * scale + tl.load(bias + c, mask=real, other=0.0).to(tl.float32)[:, None]
        sigmoid = tl.sigmoid(inner)
        before = upstream * sigmoid * (1 + inner * (1 - sigmoid))  # the gradient in front of SiLU
        if SUMS:
            before = tl.where(inside, before, 0.0)
            to = (b.to(tl.int64) * channels + c) * blocks + tl.program_id(2)
            all_of_them = tl.num_programs(0).to(tl.int64) * channels * blocks
            tl.store(out + to, tl.sum(before, axis=1), mask=real)
            tl.store(out + all_of_them + to, tl.sum(before * normal, axis=1), mask=real)
        else:
            back = (tl.load(slope + group, mask=real, other=0.0)[:, None] * normal
                    + tl.load(offset + group, mask=real, other=0.0)[:, None])
            tl.store(out + at, (inverse * (before * scale - back)).to(out.dtype.element_ty), mask=inside)


def _flat(x: Tensor) -> Tensor:
    """View (B, C, ...) as (B, C, P), with the positions of a channels-last x as far apart as they are."""
    return x.flatten(2) if x.ndim > 2 else x.unsqueeze(2)


def _tiles(x: Tensor) -> tuple[tuple[int, int, int], dict[str, int]]:
    """Return the grid over (B, C, P) and the tile, of up to 2048 values, long where x lies dense."""
    count, channels, positions = x.shape
    wide, long = triton.next_power_of_2(channels), triton.next_power_of_2(positions)
    if x.stride(2) == 1:
        tile = dict(P=min(2048, long), C=min(wide, max(1, 2048 // long)))
    else:
        tile = dict(C=min(128, wide), P=min(long, max(1, 2048 // min(128, wide))))
    return (count, triton.cdiv(channels, tile["C"]), triton.cdiv(positions, tile["P"])), tile


def _group_moments(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Return mean and inverse deviation of each group, (B, groups) float32, from those of blocks (Chan et al. 1983)."""
    (count, channels, positions), (grid, tile) = x.shape, _tiles(x)
    means, spreads = x.new_empty((2, count, channels, grid[2]), dtype=torch.float32)
    _moments_kernel[grid](x, means, spreads, channels, positions, grid[2], *x.stride(), **tile)
    size = torch.full((grid[2],), tile["P"], dtype=torch.float32, device=x.device)
    size[-1] = positions - (grid[2] - 1) * tile["P"]
    n = positions * channels // groups
    means, spreads = (t.reshape(count, groups, -1, grid[2]) for t in (means, spreads))
    mean = (means * size).sum((2, 3)) / n
    between = ((means - mean[..., None, None]).square() * size).sum((2, 3))
    return mean, ((spreads.sum((2, 3)) + between) / n + eps).rsqrt()


class _Fused(torch.autograd.Function):
    """Two passes over x forward, two backward, in any layout; kept for the backward: x and the statistics."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        flat = _flat(x)
        y = torch.empty_like(flat)
        mean, rstd = _group_moments(flat, groups, eps)
        grid, tile = _tiles(flat)
        _apply_kernel[grid](flat, y, mean, rstd, weight, bias, *flat.shape[1:], groups, *flat.stride(), **tile)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.inputs_saved, ctx.constants = 3, {"groups": groups, "eps": eps}
        return y.view(x.shape)

    @staticmethod
    @second_order_via(group_norm_silu_reference)
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        groups, flat, upstream = ctx.constants["groups"], _flat(x), _flat(grad)
        (count, channels, positions), (grid, tile) = flat.shape, _tiles(flat)
        sums = flat.new_empty((2, count, channels, grid[2]), dtype=torch.float32)
        shared = (channels, positions, groups, grid[2], *flat.stride(), *upstream.stride())
        given = (mean, rstd, weight, bias)
        _backward_kernel[grid](flat, upstream, sums, *given, mean, mean, *shared, SUMS=True, **tile)
        total, against = sums.sum(3)  # (B, C): of the gradient in front of SiLU, and of that times the normalised x
        n = positions * channels // groups
        offset, slope = (cpu.group_sums(s * weight.float(), groups) / n for s in (total, against))
        dx = torch.empty_like(flat)
        _backward_kernel[grid](flat, upstream, dx, *given, slope, offset, *shared, SUMS=False, **tile)
        return dx.view(x.shape), against.sum(0).to(weight.dtype), total.sum(0).to(bias.dtype), None, None


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
    if choose(backend, *present, name="group_norm_silu", kernel="unproven") == "triton":
        scale, shift = (x.new_full((channels,), k, dtype=torch.float32) if t is None else t
                        for k, t in ((1, weight), (0, bias)))
        return _Fused.apply(x, scale, shift, groups, eps)
    if cpu.suits(x, weight, bias, groups):
        return _ChannelsLastCPU.apply(x, weight, bias, groups, eps)
    if _suits_kept_input(x, weight, bias):
        return _InputKept.apply(x, weight, bias, groups, eps)
    return group_norm_silu_reference(x, weight, bias, groups, eps)
