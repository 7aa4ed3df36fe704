"""Cutouts as two Triton kernels, one forward and one backward.

The backward gathers: each program owns some pixels of the picture and adds up what the cutouts send to them, so no two
programs write to one place and no atomics are needed. The definition, and the public function, are in `cutouts.py`.
"""

import math

import torch
from torch import Tensor

from ._cutouts_torch import PADDINGS, Warp
from ._dispatch import HAS_TRITON, tl, triton

PIXELS = 256  # for each program

if HAS_TRITON:

    @triton.jit
    def _pixel_centre(q, size):
        """Return the position of the output's pixel q along a side, whose outer edges are at -1 and 1."""
        return (2 * q + 1).to(tl.float32) / size - 1

    @triton.jit
    def _fold_positions(position, size, PADDING: tl.constexpr):
        """Bring positions outside the picture back inside; PADDING counts in PADDINGS."""
        if PADDING == 2:
            position = position + 0.5
            position = position - tl.floor(position / (2 * size)) * 2 * size
            position = tl.where(position > size, 2 * size - position, position) - 0.5
        if PADDING != 0:
            position = tl.minimum(tl.maximum(position, 0.0), size - 1.0)
        return position

    @triton.jit
    def _mapped(matrix, u, v):
        """Return the first two coordinates of the (3, 3) matrix times (u, v, 1), and the last, which divides them."""
        x = tl.load(matrix) * u + tl.load(matrix + 1) * v + tl.load(matrix + 2)
        y = tl.load(matrix + 3) * u + tl.load(matrix + 4) * v + tl.load(matrix + 5)
        divisor = tl.load(matrix + 6) * u + tl.load(matrix + 7) * v + tl.load(matrix + 8)
        return x, y, divisor

    @triton.jit
    def _cut_kernel(
        pyramid,  # all levels of all pictures, one after another, each (B, C, h, w)
        table,  # (levels, 3) int64: where a level begins, its h and its w
        theta,  # (B n, 9) float32
        level,  # (B n,) float32: of each cutout, between two of the pyramid
        out,  # (B n, C, size, size)
        cuts, channels, size, PADDING: tl.constexpr, C: tl.constexpr, P: tl.constexpr,
    ):  # fmt: skip
        cut = tl.program_id(0).to(tl.int64)
        q = tl.program_id(1) * P + tl.arange(0, P)  # (P,): the output's pixels
        c = tl.arange(0, C)
        u = _pixel_centre(q % size, size)
        v = _pixel_centre(q // size, size)
        x, y, divisor = _mapped(theta + cut * 9, u, v)
        divisor = tl.where(divisor == 0, 1e-30, divisor)
        x = tl.minimum(tl.maximum(x / divisor, -1e6), 1e6)
        y = tl.minimum(tl.maximum(y / divisor, -1e6), 1e6)
        exact = tl.load(level + cut)
        upper = tl.floor(exact)
        total = tl.zeros((C, P), tl.float32)
        for step in tl.static_range(2):  # the two levels between which this cutout lies
            share = 1 - tl.abs(exact - upper - step)
            if share > 0:
                row = table + (upper.to(tl.int64) + step) * 3
                begin = tl.load(row)
                h = tl.load(row + 1)
                w = tl.load(row + 2)
                px = _fold_positions(((x + 1) * w - 1) / 2, w.to(tl.float32), PADDING)
                py = _fold_positions(((y + 1) * h - 1) / 2, h.to(tl.float32), PADDING)
                left = tl.floor(px)
                top = tl.floor(py)
                planes = pyramid + begin + (cut // cuts * channels + c[:, None]) * h * w  # (C, 1)
                for corner in tl.static_range(4):
                    column = left + corner % 2
                    line = top + corner // 2
                    weight = share * (1 - tl.abs(px - column)) * (1 - tl.abs(py - line))
                    inside = (column >= 0) & (column < w) & (line >= 0) & (line < h) & (q < size * size)
                    at = line.to(tl.int64) * w + column.to(tl.int64)
                    mask = inside[None, :] & (c < channels)[:, None]
                    pixels = tl.load(planes + at[None, :], mask=mask, other=0.0)  # (C, P)
                    total += pixels.to(tl.float32) * weight[None, :]
        to = (cut * channels + c[:, None]) * size * size + q[None, :]
        inside = (c < channels)[:, None] & (q < size * size)[None, :]
        tl.store(out + to, total.to(out.dtype.element_ty), mask=inside)

    @triton.jit
    def _output_pixels(low, high, bounded, size):
        """Return the first and the last output pixel between two coordinates: all of them where these are no bounds."""
        first = tl.ceil(((tl.maximum(low, -1.0) + 1) * size - 1) / 2)
        last = tl.floor(((tl.minimum(high, 1.0) + 1) * size - 1) / 2)
        first = tl.where(bounded, tl.minimum(tl.maximum(first, 0.0), size), 0.0)
        last = tl.where(bounded, tl.minimum(tl.maximum(last, -1.0), size - 1), size - 1)
        return first.to(tl.int32), last.to(tl.int32)

    @triton.jit
    def _readers(back, column, line, h, w, size, P: tl.constexpr):
        """Return the output pixels that may read these pixels of the picture: the first and last u, first and last v.

        They come from the neighbourhood of a pixel, two pixels wide. Mapped back to the output it lies within the
        places of its four corners, unless the horizon of the perspective crosses it: then any pixel may read it.
        """
        nearest = tl.full((P,), float("inf"), tl.float32)
        farthest = tl.full((P,), float("-inf"), tl.float32)
        left = nearest
        right = farthest
        top = nearest
        bottom = farthest
        for corner in tl.static_range(4):
            x = (2 * (column + corner % 2 * 2) - 1) / w - 1
            y = (2 * (line + corner // 2 * 2) - 1) / h - 1
            u, v, divisor = _mapped(back, x, y)
            nearest = tl.minimum(nearest, divisor)
            farthest = tl.maximum(farthest, divisor)
            divisor = tl.where(divisor == 0, 1.0, divisor)
            # twice what rounding may have done to u and v, and a little of a pixel
            loss = 1e-6 / tl.abs(divisor)
            loss_u = 0.1 / size + loss * (tl.abs(tl.load(back) * x) + tl.abs(tl.load(back + 1) * y)
                                          + tl.abs(tl.load(back + 2)))
            loss_v = 0.1 / size + loss * (tl.abs(tl.load(back + 3) * x) + tl.abs(tl.load(back + 4) * y)
                                          + tl.abs(tl.load(back + 5)))
            u = u / divisor
            v = v / divisor
            left = tl.minimum(left, u - loss_u)
            right = tl.maximum(right, u + loss_u)
            top = tl.minimum(top, v - loss_v)
            bottom = tl.maximum(bottom, v + loss_v)
        rounding = 1e-3 * (tl.abs(tl.load(back + 6)) + tl.abs(tl.load(back + 7)) + tl.abs(tl.load(back + 8)))
        bounded = (nearest > rounding) | (farthest < -rounding)
        first_u, last_u = _output_pixels(left, right, bounded, size)
        first_v, last_v = _output_pixels(top, bottom, bounded, size)
        return first_u, last_u, first_v, last_v

    @triton.jit
    def _gather_kernel(
        grad,  # (B n, C, size, size)
        theta, inverse, level,  # (B n, 9), its inverse up to a factor, and as above
        out,  # (B, C, h + 2 margin, w + 2 margin) float32: the gradient of one level, drawn out by a margin
        depth, cuts, channels, size, h, w, margin, C: tl.constexpr, P: tl.constexpr,
    ):  # fmt: skip
        b = tl.program_id(0).to(tl.int64)
        p = tl.program_id(1) * P + tl.arange(0, P)  # (P,): pixels of the level, with its margin
        c = tl.arange(0, C)
        wide = w + 2 * margin
        high = h + 2 * margin
        column = (p % wide - margin).to(tl.float32)
        line = (p // wide - margin).to(tl.float32)
        total = tl.zeros((C, P), tl.float32)
        for i in range(cuts):
            cut = b * cuts + i
            share = 1 - tl.abs(tl.load(level + cut) - depth)
            if share > 0:
                first_u, last_u, first_v, last_v = _readers(inverse + cut * 9, column, line, h, w, size, P)
                is_read = (p < wide * high) & (last_u >= first_u) & (last_v >= first_v)
                count_u = tl.max(tl.where(is_read, last_u - first_u + 1, 0), axis=0)
                count_v = tl.max(tl.where(is_read, last_v - first_v + 1, 0), axis=0)
                for k in range(count_v):
                    qv = first_v + k
                    v = _pixel_centre(qv, size)
                    for j in range(count_u):
                        qu = first_u + j
                        x, y, divisor = _mapped(theta + cut * 9, _pixel_centre(qu, size), v)
                        divisor = tl.where(divisor == 0, 1e-30, divisor)
                        px = ((x / divisor + 1) * w - 1) / 2
                        py = ((y / divisor + 1) * h - 1) / 2
                        weight = tl.maximum(1 - tl.abs(column - px), 0.0) * tl.maximum(1 - tl.abs(line - py), 0.0)
                        reads = is_read & (qu <= last_u) & (qv <= last_v) & (weight > 0)
                        rows = ((cut * channels + c[:, None]) * size + qv.to(tl.int64)[None, :]) * size
                        at = rows + qu.to(tl.int64)[None, :]
                        pixels = tl.load(grad + at, mask=reads[None, :] & (c < channels)[:, None], other=0.0)
                        total += pixels.to(tl.float32) * tl.where(reads, share * weight, 0.0)[None, :]
        to = (b * channels + c[:, None]) * wide * high + p[None, :]
        inside = (c < channels)[:, None] & (p < wide * high)[None, :]
        tl.store(out + to, total, mask=inside)


def _corners(theta: Tensor) -> Tensor:
    """Return where the corners of the output lie, before the division: (..., 3, 3) -> (..., 3, 4)."""
    return theta @ theta.new_tensor([[-1, 1, -1, 1], [-1, -1, 1, 1], [1, 1, 1, 1]])


def crosses_horizon(theta: Tensor) -> bool:
    """Say whether a cutout contains points at infinity, up to which an edge would have to be drawn out.

    Shapes:
        theta: (..., 3, 3)
    """
    divisor = _corners(theta)[..., 2, :]  # (..., 4)
    crosses = (divisor.amin(-1) <= 0) & (divisor.amax(-1) >= 0)
    return bool(crosses.any())


def _margins(theta: Tensor, sides: list[torch.Size], padding: str) -> list[int]:
    """Return how many pixels beyond each level's edge a cutout reads, where padding takes them from the edge."""
    if padding == "zeros":
        return [0] * len(sides)
    placed = _corners(theta)
    reach = float((placed[..., :2, :] / placed[..., 2:, :]).abs().max())  # in half sides of the picture
    return [math.ceil(max(0.0, reach - 1) / 2 * max(side)) + 1 for side in sides]


def _fold_matrix(size: int, margin: int, padding: str, like: Tensor) -> Tensor:
    """Return (size, size + 2 margin) of zeros and ones: to which pixel each place of a drawn-out line belongs."""
    place = torch.arange(-margin, size + margin, device=like.device)
    if padding == "reflection":
        place = place.remainder(2 * size)
        place = torch.where(place < size, place, 2 * size - 1 - place)
    pixel = torch.arange(size, device=like.device)
    belongs = pixel[:, None] == place.clamp(0, size - 1)[None]
    return belongs.to(like.dtype)


def _inverse(theta: Tensor) -> Tensor:
    """Return the adjugate (..., 3, 3), which is the inverse up to a factor and exists for every matrix.

    Its largest entry is 1 or -1.
    """
    a, b, c = theta.double().unbind(-2)  # (..., 3) each
    adjugate = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], dim=-1)
    return adjugate / adjugate.abs().amax((-2, -1), keepdim=True).clamp(min=1e-300)


def _level_table(levels: list[Tensor]) -> Tensor:
    """Return where each level begins in the concatenation of all, its height and its width: (levels, 3) int64."""
    rows = []
    begin = 0
    for picture in levels:
        rows.append([begin, *picture.shape[-2:]])
        begin += picture.numel()
    return torch.tensor(rows)


def forward(levels: list[Tensor], warp: Warp, dtype: torch.dtype) -> Tensor:
    """Return all cutouts, in this type.

    Shapes:
        levels of the mip map: (B, C, h, w) each -> (B, n, C, size, size)
    """
    batch, channels = levels[0].shape[:2]
    device = levels[0].device
    cuts = warp.theta.shape[1]
    size = warp.size
    theta = warp.theta.to(device, torch.float32).contiguous()
    level = warp.level.to(device, torch.float32).contiguous()
    pyramid = torch.cat([x.flatten() for x in levels])
    table = _level_table(levels).to(device)
    out = pyramid.new_empty((batch, cuts, channels, size, size), dtype=dtype)
    grid = (batch * cuts, triton.cdiv(size * size, PIXELS))
    _cut_kernel[grid](
        pyramid, table, theta, level, out, cuts, channels, size,
        PADDING=PADDINGS.index(warp.padding), C=triton.next_power_of_2(channels), P=PIXELS)
    return out


def backward(grad: Tensor, shapes: list[torch.Size], warp: Warp) -> list[Tensor]:
    """Return the gradients of all levels of the mip map, which have these shapes.

    Where padding reads pixels of the edge again, the gradient is first computed for a picture drawn out by a margin,
    whose pixels are then added to those that they repeat.

    Shapes:
        grad: (B, n, C, size, size)
    """
    batch, cuts, channels, size = grad.shape[:4]
    device = grad.device
    theta = warp.theta.to(device, torch.float32).contiguous()
    inverse = _inverse(warp.theta).to(device, torch.float32).contiguous()
    level = warp.level.to(device, torch.float32).contiguous()
    grad = grad.contiguous()
    sides = [shape[-2:] for shape in shapes]
    margins = _margins(warp.theta, sides, warp.padding)
    gradients = []
    for depth, (height, width) in enumerate(sides):
        margin = margins[depth]
        out = grad.new_empty((batch, channels, height + 2 * margin, width + 2 * margin), dtype=torch.float32)
        grid = (batch, triton.cdiv(out[0, 0].numel(), PIXELS))
        _gather_kernel[grid](
            grad, theta, inverse, level, out, depth, cuts, channels, size, height, width, margin,
            C=triton.next_power_of_2(channels), P=PIXELS)
        if margin:
            rows = _fold_matrix(height, margin, warp.padding, out)
            columns = _fold_matrix(width, margin, warp.padding, out)
            with torch.autocast(device.type, enabled=False):
                out = rows @ out @ columns.T  # (B, C, h, w)
        gradients.append(out)
    return gradients
