"""Cutouts as two Triton kernels: one pass forward, and a backward that gathers, so that no two programs add to one
place. The definition, and the public function, are in `cutouts.py`.
"""

import math

import torch
from torch import Tensor

from ._cutouts_torch import PADDINGS
from ._dispatch import HAS_TRITON, tl, triton

if HAS_TRITON:

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
        return x, y, tl.load(matrix + 6) * u + tl.load(matrix + 7) * v + tl.load(matrix + 8)

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
        q = tl.program_id(1) * P + tl.arange(0, P)
        c = tl.arange(0, C)
        u = (2 * (q % size) + 1).to(tl.float32) / size - 1
        v = (2 * (q // size) + 1).to(tl.float32) / size - 1
        x, y, far = _mapped(theta + cut * 9, u, v)
        far = tl.where(far == 0, 1e-30, far)
        x, y = (tl.minimum(tl.maximum(x / far, -1e6), 1e6), tl.minimum(tl.maximum(y / far, -1e6), 1e6))
        exact = tl.load(level + cut)
        upper = tl.floor(exact)
        total = tl.zeros((C, P), tl.float32)
        for step in tl.static_range(2):  # the two levels between which this cutout lies
            share = 1 - tl.abs(exact - upper - step)
            if share > 0:
                row = table + (upper.to(tl.int64) + step) * 3
                begin, h, w = tl.load(row), tl.load(row + 1), tl.load(row + 2)
                px = _fold_positions(((x + 1) * w - 1) / 2, w.to(tl.float32), PADDING)
                py = _fold_positions(((y + 1) * h - 1) / 2, h.to(tl.float32), PADDING)
                left, top = tl.floor(px), tl.floor(py)
                planes = pyramid + begin + (cut // cuts * channels + c[:, None]) * h * w
                for corner in tl.static_range(4):
                    column, line = left + corner % 2, top + corner // 2
                    weight = share * (1 - tl.abs(px - column)) * (1 - tl.abs(py - line))
                    inside = (column >= 0) & (column < w) & (line >= 0) & (line < h) & (q < size * size)
                    at = line.to(tl.int64) * w + column.to(tl.int64)
                    pixels = tl.load(planes + at[None, :], mask=inside[None, :] & (c < channels)[:, None], other=0.0)
                    total += pixels.to(tl.float32) * weight[None, :]
        to = (cut * channels + c[:, None]) * size * size + q[None, :]
        tl.store(out + to, total.to(out.dtype.element_ty), mask=(c < channels)[:, None] & (q < size * size)[None, :])

    @triton.jit
    def _output_pixels(low, high, bounded, size):
        """Return the first and the last output pixel between two coordinates: all of them where these are no bounds."""
        first = tl.ceil(((tl.maximum(low, -1.0) + 1) * size - 1) / 2)
        last = tl.floor(((tl.minimum(high, 1.0) + 1) * size - 1) / 2)
        first = tl.where(bounded, tl.minimum(tl.maximum(first, 0.0), size), 0.0)
        last = tl.where(bounded, tl.minimum(tl.maximum(last, -1.0), size - 1), size - 1)
        return first.to(tl.int32), last.to(tl.int32)

    @triton.jit
    def _gather_kernel(
        grad,  # (B n, C, size, size)
        theta, inverse, level,  # (B n, 9), its inverse up to a factor, and as above
        out,  # (B, C, h + 2 margin, w + 2 margin) float32: the gradient of one level, drawn out by a margin
        depth, cuts, channels, size, h, w, margin, C: tl.constexpr, P: tl.constexpr,
    ):  # fmt: skip
        b = tl.program_id(0).to(tl.int64)
        p = tl.program_id(1) * P + tl.arange(0, P)
        c = tl.arange(0, C)
        wide, high = w + 2 * margin, h + 2 * margin
        column, line = (p % wide - margin).to(tl.float32), (p // wide - margin).to(tl.float32)
        total = tl.zeros((C, P), tl.float32)
        for i in range(cuts):
            cut = b * cuts + i
            share = 1 - tl.abs(tl.load(level + cut) - depth)
            if share > 0:
                # The output pixels that see this one lie where its neighbourhood, two pixels wide, comes from: within
                # the four places of its corners, unless the horizon lies between them.
                back = inverse + cut * 9
                near, far = tl.full((P,), float("inf"), tl.float32), tl.full((P,), float("-inf"), tl.float32)
                left, right, top, bottom = near, far, near, far
                for corner in tl.static_range(4):
                    x = (2 * (column + corner % 2 * 2) - 1) / w - 1
                    y = (2 * (line + corner // 2 * 2) - 1) / h - 1
                    u, v, divisor = _mapped(back, x, y)
                    near, far = tl.minimum(near, divisor), tl.maximum(far, divisor)
                    divisor = tl.where(divisor == 0, 1.0, divisor)
                    # twice what rounding may have done to u and v, and a little of a pixel
                    loss = 1e-6 / tl.abs(divisor)
                    loss_u = 0.1 / size + loss * (tl.abs(tl.load(back) * x) + tl.abs(tl.load(back + 1) * y)
                                                  + tl.abs(tl.load(back + 2)))
                    loss_v = 0.1 / size + loss * (tl.abs(tl.load(back + 3) * x) + tl.abs(tl.load(back + 4) * y)
                                                  + tl.abs(tl.load(back + 5)))
                    u, v = u / divisor, v / divisor
                    left, right = tl.minimum(left, u - loss_u), tl.maximum(right, u + loss_u)
                    top, bottom = tl.minimum(top, v - loss_v), tl.maximum(bottom, v + loss_v)
                sure = 1e-3 * (tl.abs(tl.load(back + 6)) + tl.abs(tl.load(back + 7)) + tl.abs(tl.load(back + 8)))
                bounded = (near > sure) | (far < -sure)
                first_u, last_u = _output_pixels(left, right, bounded, size)
                first_v, last_v = _output_pixels(top, bottom, bounded, size)
                seen_at_all = (p < wide * high) & (last_u >= first_u) & (last_v >= first_v)
                count_u = tl.max(tl.where(seen_at_all, last_u - first_u + 1, 0), axis=0)
                count_v = tl.max(tl.where(seen_at_all, last_v - first_v + 1, 0), axis=0)
                for k in range(count_v):
                    qv = first_v + k
                    v = (2 * qv + 1).to(tl.float32) / size - 1
                    for j in range(count_u):
                        qu = first_u + j
                        x, y, divisor = _mapped(theta + cut * 9, (2 * qu + 1).to(tl.float32) / size - 1, v)
                        divisor = tl.where(divisor == 0, 1e-30, divisor)
                        px, py = ((x / divisor + 1) * w - 1) / 2, ((y / divisor + 1) * h - 1) / 2
                        weight = (tl.maximum(1 - tl.abs(column - px), 0.0) * tl.maximum(1 - tl.abs(line - py), 0.0))
                        seen = seen_at_all & (qu <= last_u) & (qv <= last_v) & (weight > 0)
                        at = ((cut * channels + c[:, None]) * size + qv.to(tl.int64)[None, :]) * size
                        pixels = tl.load(grad + at + qu.to(tl.int64)[None, :],
                                         mask=seen[None, :] & (c < channels)[:, None], other=0.0)
                        total += pixels.to(tl.float32) * tl.where(seen, share * weight, 0.0)[None, :]
        to = (b * channels + c[:, None]) * wide * high + p[None, :]
        tl.store(out + to, total, mask=(c < channels)[:, None] & (p < wide * high)[None, :])


def _corners(theta: Tensor) -> Tensor:
    """Return where the corners of the output lie, before the division: (..., 3, 3) -> (..., 3, 4)."""
    return theta @ theta.new_tensor([[-1, 1, -1, 1], [-1, -1, 1, 1], [1, 1, 1, 1]])


def crosses_horizon(theta: Tensor) -> bool:
    """Say whether a cutout holds points at infinity, so that its edge would be drawn out without end."""
    far = _corners(theta)[..., 2, :]
    return bool(((far.amin(-1) <= 0) & (far.amax(-1) >= 0)).any())


def _margins(theta: Tensor, sides: list[torch.Size], padding: str) -> list[int]:
    """Return how many pixels of each level a cutout reaches past the edge, where the edge's gradient wants them."""
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
    inside = torch.arange(size, device=like.device)[:, None] == place.clamp(0, size - 1)[None]
    return inside.to(like.dtype)


def _inverse(theta: Tensor) -> Tensor:
    """Return the adjugate, the inverse up to a factor, which no matrix lacks; its largest entry is 1 or -1."""
    a, b, c = theta.double().unbind(-2)
    found = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], dim=-1)
    return found / found.abs().amax((-2, -1), keepdim=True).clamp(min=1e-300)


def forward(levels: list[Tensor], theta: Tensor, positions: None, level: Tensor, size: int, padding: str,
            dtype: torch.dtype) -> Tensor:
    """Return all cutouts: one program for each 256 pixels of each of them.

    Shapes:
        levels: (B, C, h, w) each; theta: (B, n, 3, 3); level: (B, n) -> (B, n, C, size, size)
    """
    (batch, channels), cuts, device = levels[0].shape[:2], theta.shape[1], levels[0].device
    starts = torch.tensor([0, *(x.numel() for x in levels)]).cumsum(0)[:-1]
    table = torch.cat([starts[:, None], torch.tensor([x.shape[-2:] for x in levels])], 1).to(device)
    pyramid = torch.cat([x.flatten() for x in levels])
    out = pyramid.new_empty((batch, cuts, channels, size, size), dtype=dtype)
    _cut_kernel[batch * cuts, triton.cdiv(size * size, 256)](
        pyramid, table, *(t.to(device, torch.float32).contiguous() for t in (theta, level)), out, cuts, channels, size,
        PADDING=PADDINGS.index(padding), C=triton.next_power_of_2(channels), P=256)
    return out


def backward(grad: Tensor, shapes: list[torch.Size], theta: Tensor, positions: None, level: Tensor,
             padding: str) -> list[Tensor]:
    """Return the gradient of each level, drawn out by a margin for what lies past its edge, and folded back."""
    (batch, cuts, channels, size), found = grad.shape[:4], []
    placed = [t.to(grad.device, torch.float32).contiguous() for t in (theta, _inverse(theta), level)]
    grad, sides = grad.contiguous(), [shape[-2:] for shape in shapes]
    for depth, ((h, w), margin) in enumerate(zip(sides, _margins(theta, sides, padding), strict=True)):
        out = grad.new_empty((batch, channels, h + 2 * margin, w + 2 * margin), dtype=torch.float32)
        _gather_kernel[batch, triton.cdiv(out[0, 0].numel(), 256)](
            grad, *placed, out, depth, cuts, channels, size, h, w, margin, C=triton.next_power_of_2(channels), P=256)
        if margin:
            rows, columns = (_fold_matrix(side, margin, padding, out) for side in (h, w))
            with torch.autocast(grad.device.type, enabled=False):
                out = rows @ out @ columns.T
        found.append(out)
    return found
