"""Cutouts by `grid_sample`, a chunk of them at a time, forward and backward.

On a CPU the values of a chunk stay in its cache, and nothing of the size of all cutouts is allocated but the result.
The definition, and the public function, are in `cutouts.py`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

PADDINGS = ("zeros", "border", "reflection")  # in the order of grid_sample's numbers
FAR = 1e6  # half sides of the picture; the horizon of a perspective is put there
# On a CPU a chunk is an eighth of the cutouts, or as many cutouts as have this many values if those are more.
_CHUNK_VALUES = 2**18


class Warp(NamedTuple):
    """Which cutouts are taken, and how the picture is read.

    Shapes:
        theta: (B, n, 3, 3); positions: (B, n, size, size, 2), used in place of theta, or None; level: (B, n), on the
        CPU: the level of the mip map that a cutout is read from, which may lie between two
    """

    theta: Tensor
    positions: Tensor | None
    level: Tensor
    size: int
    padding: str


@dataclass(frozen=True)
class _Chunk:
    """Some cutouts of all pictures.

    `grid_sample` takes one thread for each picture. A single picture is therefore shown to it once for each thread,
    each time with other cutouts.

    Attributes:
        index: of these m cutouts among all of a picture, for a tensor (B, n, ...).
        threads: how often each picture is shown, 1 where there are several pictures.
        grid: where the output pixels lie in the picture, (B * threads, m / threads * size, size, 2).
        shares: each level of the mip map that is needed, with its weight (B * threads, m / threads, 1, 1, 1), or None
            where all cutouts are read from this level alone.
    """

    index: tuple[Any, Any]
    threads: int
    grid: Tensor
    shares: list[tuple[int, Tensor | None]]


def pixel_centres(size: int, like: Tensor) -> Tensor:
    """Return the positions (size,) of a side's pixels, whose outer edges are at -1 and 1, with the type of `like`."""
    return (torch.arange(size, dtype=like.dtype, device=like.device) * 2 + 1) / size - 1


def level_share(level: Tensor, depth: int) -> Tensor:
    """Return the weight in [0, 1] of one level of the mip map, for cutouts that are read from `level`."""
    return (1 - (level - depth).abs()).clamp(min=0)


def _chunks(levels: list[Tensor], warp: Warp) -> Iterator[_Chunk]:
    """Yield all cutouts, a chunk at a time; those of a chunk have similar mip levels."""
    images = levels[0]
    batch = images.shape[0]
    n = warp.theta.shape[1]
    threads, step = _chunk_size(images, n, warp.size)
    axis = pixel_centres(warp.size, images)
    last_row = warp.theta[..., 2, :]
    divides = warp.positions is None and not bool((last_row == last_row.new_tensor([0, 0, 1])).all())
    level = warp.level
    order = None
    if step < n and len(levels) > 1:
        level, order = level.sort(dim=1)
    for first in range(0, n, step):
        here = slice(first, first + step)
        index: tuple[Any, Any] = (slice(None), here)
        if order is not None:
            index = (torch.arange(batch)[:, None], order[:, here])
        if warp.positions is None:
            grid = _grid(warp.theta[index].to(images), axis, divides)  # (B, m, size, size, 2)
        else:
            grid = warp.positions[index]
        count = grid.shape[1]
        over = threads if count % threads == 0 else 1
        grid = grid.reshape(batch * over, -1, warp.size, 2)
        shares = _shares(level[:, here], images, batch * over)
        yield _Chunk(index, over, grid, shares)


def _chunk_size(images: Tensor, n: int, size: int) -> tuple[int, int]:
    """Return over how many threads a picture's cutouts are spread, and how many of them are handled at once."""
    if images.device.type != "cpu":
        return 1, n
    batch, channels = images.shape[:2]
    threads = torch.get_num_threads() if batch == 1 else 1
    step = max(_CHUNK_VALUES // (batch * channels * size * size), math.ceil(n / 8))
    return threads, math.ceil(step / threads) * threads


def _shares(level: Tensor, images: Tensor, rows: int) -> list[tuple[int, Tensor | None]]:
    """Return the mip levels that cutouts with these levels (B, m) need, each with its weight."""
    low = level.min().item()
    high = level.max().item()
    shares = []
    for depth in range(math.floor(low), math.ceil(high) + 1):
        alone = low == high == depth
        share = level_share(level, depth).to(images).reshape(rows, -1, 1, 1, 1)
        shares.append((depth, None if alone else share))
    return shares


def _grid(theta: Tensor, axis: Tensor, divides: bool) -> Tensor:
    """Return where output pixels lie in the picture.

    Shapes:
        theta: (B, m, 3, 3), axis: (size,) -> (B, m, size, size, 2), as (x, y)
    """
    # x and y as one complex number x + iy: both are computed in one pass over memory
    columns = torch.view_as_complex(theta[..., :2, :].mT.contiguous())  # (B, m, 3)
    grid = torch.view_as_real(_at_all_pixels(columns, axis))
    if not divides:
        return grid
    divisor = _at_all_pixels(theta[..., 2, :], axis)  # (B, m, size, size)
    return grid.div_(divisor[..., None]).clamp_(-FAR, FAR)


def _at_all_pixels(coefficients: Tensor, axis: Tensor) -> Tensor:
    """Return a u + b v + c at the output pixels (u, v): coefficients (B, m, 3) -> (B, m, size, size)."""
    a, b, c = coefficients.unbind(-1)  # (B, m) each
    rows = b[..., None] * axis + c[..., None]  # (B, m, size)
    return a[..., None, None] * axis + rows[..., None]


def forward(levels: list[Tensor], warp: Warp, dtype: torch.dtype) -> Tensor:
    """Return all cutouts, in this type.

    Shapes:
        levels of the mip map: (B, C, h, w) each -> (B, n, C, size, size)
    """
    batch, channels = levels[0].shape[:2]
    n = warp.theta.shape[1]
    size = warp.size
    out = None
    for chunk in _chunks(levels, warp):
        first, *others = chunk.shares
        crops = _read(levels, first, chunk, warp)
        for share in others:
            crops.add_(_read(levels, share, chunk, warp))
        crops = crops.to(dtype).reshape(batch, -1, channels, size, size)  # (B, m, C, size, size)
        if crops.shape[1] == n:
            return crops
        if out is None:
            out = crops.new_empty((batch, n, channels, size, size))
        out[chunk.index] = crops
    assert out is not None  # n is at least 1
    return out


def _read(levels: list[Tensor], share: tuple[int, Tensor | None], chunk: _Chunk, warp: Warp) -> Tensor:
    """Return what one level of the mip map adds to a chunk: (B * threads, m / threads, C, size, size)."""
    depth, weight = share
    pictures = levels[depth].expand(chunk.threads * len(levels[depth]), -1, -1, -1)
    crops = F.grid_sample(pictures, chunk.grid, padding_mode=warp.padding, align_corners=False)
    crops = crops.unflatten(2, (-1, warp.size)).movedim(2, 1)
    return crops if weight is None else crops.mul_(weight)


def backward(grad: Tensor, shapes: list[torch.Size], warp: Warp) -> list[Tensor]:
    """Return the gradients of all levels of the mip map, which have these shapes.

    Shapes:
        grad: (B, n, C, size, size)
    """
    batch = len(grad)
    mode = PADDINGS.index(warp.padding)
    gradients = [warp.theta.new_zeros(shape, device=grad.device) for shape in shapes]
    for chunk in _chunks(gradients, warp):
        upstream = grad[chunk.index].to(warp.theta.dtype)  # (B, m, C, size, size)
        upstream = upstream.reshape(batch * chunk.threads, -1, *grad.shape[2:])
        for depth, share in chunk.shares:
            from_level = upstream if share is None else upstream * share
            from_level = from_level.movedim(1, 2).flatten(2, 3)  # (B * threads, C, m / threads * size, size)
            # this operation asks for pictures, but reads only their shape if theirs is the only gradient
            pictures = gradients[depth].expand(batch * chunk.threads, -1, -1, -1)
            to_pictures, _ = torch.ops.aten.grid_sampler_2d_backward(
                from_level, pictures, chunk.grid, 0, mode, False, [True, False])
            if chunk.threads > 1:
                to_pictures = to_pictures.sum(0, keepdim=True)
            gradients[depth] += to_pictures
    return gradients
