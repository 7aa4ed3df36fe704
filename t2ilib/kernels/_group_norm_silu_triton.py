"""Group normalisation and SiLU as Triton kernels: two passes over x forward, two backward, in any layout.

The definition, and the public function, are in `group_norm_silu.py`.
"""

import torch
from torch import Tensor

from ._dispatch import HAS_TRITON, tl, triton
from ._group_norm_silu_cpu import group_sums

TILE = 2048  # values that a program holds at once

if HAS_TRITON:

    @triton.jit
    def _tile(x, b, c, p, channels, positions, x_b, x_c, x_p):
        """Load the tile (c, p) of picture b as float32, 0 outside."""
        inside = (c < channels)[:, None] & (p < positions)[None, :]
        at = b.to(tl.int64) * x_b + c[:, None].to(tl.int64) * x_c + p[None, :].to(tl.int64) * x_p
        return tl.load(x + at, mask=inside, other=0.0).to(tl.float32), at, inside

    @triton.jit
    def _column(values, index, real):
        """Load a number for each channel of a tile as a float32 column, 0 where there is no such channel."""
        return tl.load(values + index, mask=real, other=0.0).to(tl.float32)[:, None]

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
        scale = _column(rstd, group, real) * _column(weight, c, real)
        centred = values - _column(mean, group, real)
        inner = centred * scale + _column(bias, c, real)
        result = inner * tl.sigmoid(inner)
        tl.store(y + at, result.to(y.dtype.element_ty), mask=inside)

    @triton.jit
    def _backward_kernel(
        x, grad,  # (B, C, P), any strides of their own
        out,  # sums (2, B, C, blocks) float32, or the gradient of x, with the strides of x
        mean, rstd,  # (B, groups) float32
        weight, bias,  # (C,)
        slope, offset,  # (B, groups) float32: of the gradient through mean and rstd; not read for the sums
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
        inverse = _column(rstd, group, real)
        normal = (values - _column(mean, group, real)) * inverse
        scale = _column(weight, c, real)
        inner = normal * scale + _column(bias, c, real)
        sigmoid = tl.sigmoid(inner)
        before = upstream * sigmoid * (1 + inner * (1 - sigmoid))  # the gradient in front of SiLU
        if SUMS:
            before = tl.where(inside, before, 0.0)
            to = (b.to(tl.int64) * channels + c) * blocks + tl.program_id(2)
            half = tl.num_programs(0).to(tl.int64) * channels * blocks  # where the second kind of sums begins
            tl.store(out + to, tl.sum(before, axis=1), mask=real)
            tl.store(out + half + to, tl.sum(before * normal, axis=1), mask=real)
        else:
            through_statistics = _column(slope, group, real) * normal + _column(offset, group, real)
            dx = inverse * (before * scale - through_statistics)
            tl.store(out + at, dx.to(out.dtype.element_ty), mask=inside)


def _flat(x: Tensor) -> Tensor:
    """View (B, C, ...) as (B, C, P), with the positions of a channels-last x as far apart as they are."""
    return x.flatten(2) if x.ndim > 2 else x.unsqueeze(2)


def _tiles(x: Tensor) -> tuple[tuple[int, int, int], dict[str, int]]:
    """Return the grid over (B, C, P) and the tile, which is long in the direction in which x is dense."""
    batch, channels, positions = x.shape
    wide = triton.next_power_of_2(channels)
    long = triton.next_power_of_2(positions)
    if x.stride(2) == 1:
        p = min(TILE, long)
        c = min(wide, max(1, TILE // long))
    else:
        c = min(128, wide)
        p = min(long, max(1, TILE // c))
    grid = (batch, triton.cdiv(channels, c), triton.cdiv(positions, p))
    return grid, {"C": c, "P": p}


def _group_moments(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Return mean and inverse deviation of each group, (B, groups) float32, from those of blocks (Chan et al. 1983)."""
    batch, channels, positions = x.shape
    grid, tile = _tiles(x)
    blocks = grid[2]
    means, spreads = x.new_empty((2, batch, channels, blocks), dtype=torch.float32)
    _moments_kernel[grid](x, means, spreads, channels, positions, blocks, *x.stride(), **tile)
    size = torch.full((blocks,), tile["P"], dtype=torch.float32, device=x.device)
    size[-1] = positions - (blocks - 1) * tile["P"]  # the last block may be shorter
    n = positions * channels // groups
    means = means.reshape(batch, groups, -1, blocks)  # (B, groups, C / groups, blocks)
    spreads = spreads.reshape(batch, groups, -1, blocks)
    mean = (means * size).sum((2, 3)) / n  # (B, groups)
    between = ((means - mean[..., None, None]).square() * size).sum((2, 3))
    variance = (spreads.sum((2, 3)) + between) / n
    return mean, (variance + eps).rsqrt()


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the result and each group's mean and inverse deviation, (B, groups) in float32."""
    flat = _flat(x)  # (B, C, P)
    y = torch.empty_like(flat)
    mean, rstd = _group_moments(flat, groups, eps)
    grid, tile = _tiles(flat)
    _, channels, positions = flat.shape
    _apply_kernel[grid](flat, y, mean, rstd, weight, bias, channels, positions, groups, *flat.stride(), **tile)
    return y.view(x.shape), mean, rstd


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias: one pass for sums over positions, one that uses them."""
    groups = mean.shape[1]
    flat = _flat(x)  # (B, C, P)
    upstream = _flat(grad)
    batch, channels, positions = flat.shape
    grid, tile = _tiles(flat)
    blocks = grid[2]
    sizes = (channels, positions, groups, blocks, *flat.stride(), *upstream.stride())
    sums = flat.new_empty((2, batch, channels, blocks), dtype=torch.float32)
    _backward_kernel[grid](
        flat, upstream, sums, mean, rstd, weight, bias, mean, mean, *sizes, SUMS=True, **tile)
    # (B, C): of the gradient in front of SiLU, and of that times the normalised x
    total, against = sums.sum(3)
    n = positions * channels // groups
    offset = group_sums(total * weight.float(), groups) / n  # (B, groups)
    slope = group_sums(against * weight.float(), groups) / n
    dx = torch.empty_like(flat)
    _backward_kernel[grid](
        flat, upstream, dx, mean, rstd, weight, bias, slope, offset, *sizes, SUMS=False, **tile)
    return dx.view(x.shape), against.sum(0), total.sum(0)
