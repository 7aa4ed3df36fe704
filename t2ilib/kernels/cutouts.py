"""Many affine cutouts of each picture in one batched warp, filtered where they shrink it.

Used by: guidance (VQGAN+CLIP shows each picture to CLIP many times).   Papers: Jaderberg et al. 2015 (eq. 1, 5);
Williams 1983 (mip maps).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _cutouts_torch as some_at_a_time
from ..errors import BadParameter, unknown_name
from ._dispatch import HAS_TRITON, choose, reference_gradients, require_floating, second_order_via, tl, triton

PADDINGS = some_at_a_time.PADDINGS


def warp_reference(images: Tensor, grid: Tensor, padding: str) -> Tensor:
    """Sample pictures bilinearly by explicit gathers; differentiable any number of times in both arguments.

    A coordinate of -1 or 1 is the outer edge of the picture (`align_corners=False`).

    Shapes:
        images: (B, C, H, W); grid: (B, P, Q, 2) as (x, y) -> (B, C, P, Q)
    """
    height, width = images.shape[-2:]
    x = _fold(((grid[..., 0] + 1) * width - 1) / 2, width, padding)  # (B, P, Q), in pixels
    y = _fold(((grid[..., 1] + 1) * height - 1) / 2, height, padding)
    x_low, y_low = x.detach().floor(), y.detach().floor()
    total = torch.zeros((), dtype=images.dtype, device=images.device)
    for step_y in (0, 1):
        for step_x in (0, 1):
            column, row = x_low + step_x, y_low + step_y
            weight = (1 - (x - column).abs()) * (1 - (y - row).abs())
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long()  # (B, P, Q)
            index = index.flatten(1).unsqueeze(1).expand(-1, images.shape[1], -1)
            pixels = images.flatten(2).gather(2, index).unflatten(2, x.shape[1:])  # (B, C, P, Q)
            total = total + pixels * (weight * inside).unsqueeze(1).to(images.dtype)
    return total


def _fold(position: Tensor, size: int, padding: str) -> Tensor:
    """Bring pixel positions outside the picture back inside, as the padding mode asks."""
    if padding == "reflection":  # mirror at the outer edges, -0.5 and size - 0.5
        position = (position + 0.5).remainder(2 * size)
        position = torch.where(position > size, 2 * size - position, position) - 0.5
    if padding in ("border", "reflection"):
        position = position.clamp(0, size - 1)
    return position


def cutouts_reference(images: Tensor, theta: Tensor, size: int, padding: str, antialias: bool) -> Tensor:
    """Warp all cutouts of a picture at once: their grids, stacked, are one tall grid, so no picture is copied.

    Shapes:
        images: (B, C, H, W); theta: (B, n, 2, 3) -> (B, n, C, size, size)
    """
    count, n = theta.shape[:2]
    channels = images.shape[1]
    grid = F.affine_grid(theta.flatten(0, 1).to(images.device), (count * n, 1, size, size), align_corners=False)
    grid = grid.reshape(count, n * size, size, 2)
    level = _mip_level(theta, images.shape[-2:], size) if antialias else torch.zeros_like(theta[..., 0, 0])
    deepest = math.ceil(float(level.max())) if level.numel() else 0
    total = None
    for depth, picture in enumerate(_pyramid(images, deepest)):
        share = (1 - (level - depth).abs()).clamp(min=0)  # (B, n): linear blend of the two nearest levels
        if depth < deepest and not bool((share > 0).any()):
            continue
        share = share.to(images.device)
        picture = warp_reference(picture, grid, padding).reshape(count, channels, n, size, size)
        picture = picture if deepest == 0 else picture * share[:, None, :, None, None].to(picture.dtype)
        total = picture if total is None else total + picture
    return total.movedim(2, 1)  # (B, n, C, size, size)


def _mip_level(theta: Tensor, image_size: tuple[int, int], size: int) -> Tensor:
    """Return log2 of the source pixels per output pixel along the more shrunken axis, at least 0.

    Shapes:
        theta: (B, n, 2, 3) -> (B, n)
    """
    height, width = image_size
    extent = torch.tensor([width, height], dtype=theta.dtype, device=theta.device)
    step = theta.detach()[..., :2] * extent[:, None] / size  # source pixels for one output pixel along x and along y
    finest = max(0.0, math.log2(min(height, width)))
    return torch.linalg.vector_norm(step, dim=-2).amax(dim=-1).clamp(min=1).log2().clamp(max=finest)


def _pyramid(images: Tensor, deepest: int) -> list[Tensor]:
    """Return the picture and its halved copies, `deepest` of them."""
    levels = [images]
    for _ in range(deepest):
        levels.append(_halve(levels[-1]))
    return levels


def _halve(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    return F.adaptive_avg_pool2d(images, (max(1, (height + 1) // 2), max(1, (width + 1) // 2)))


if HAS_TRITON:

    @triton.jit
    def _fold_positions(position, size, PADDING: tl.constexpr):
        """The same as `_fold`; PADDING counts in PADDINGS."""
        if PADDING == 2:
            position = position + 0.5
            position = position - tl.floor(position / (2 * size)) * 2 * size
            position = tl.where(position > size, 2 * size - position, position) - 0.5
        if PADDING != 0:
            position = tl.minimum(tl.maximum(position, 0.0), size - 1.0)
        return position

    @triton.jit
    def _cut_kernel(
        pyramid,  # all levels of all pictures, one after another, each (B, C, h, w)
        table,  # (levels, 3) int64: where a level begins, its h and its w
        theta,  # (B n, 6) float32
        level,  # (B n,) float32: of each cutout, between two of the pyramid
        out,  # (B n, C, size, size)
        cuts, channels, size, PADDING: tl.constexpr, C: tl.constexpr, P: tl.constexpr,
    ):  # fmt: skip
        cut = tl.program_id(0).to(tl.int64)
        q = tl.program_id(1) * P + tl.arange(0, P)
        c = tl.arange(0, C)
        u = (2 * (q % size) + 1).to(tl.float32) / size - 1
        v = (2 * (q // size) + 1).to(tl.float32) / size - 1
        a = theta + cut * 6
        x = tl.load(a) * u + tl.load(a + 1) * v + tl.load(a + 2)
        y = tl.load(a + 3) * u + tl.load(a + 4) * v + tl.load(a + 5)
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
    def _gather_kernel(
        grad,  # (B n, C, size, size)
        theta, level,  # as above
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
                a = theta + cut * 6  # output pixel q lies at (xx, xy; yx, yy) q + (x, y) among the pixels of this level
                xx, xy = tl.load(a) * w / size, tl.load(a + 1) * w / size
                yx, yy = tl.load(a + 3) * h / size, tl.load(a + 4) * h / size
                x = (xx + xy + (tl.load(a + 2) - tl.load(a) - tl.load(a + 1) + 1) * w - 1) / 2
                y = (yx + yy + (tl.load(a + 5) - tl.load(a + 3) - tl.load(a + 4) + 1) * h - 1) / 2
                area = xx * yy - xy * yx
                flat = tl.abs(area) < 1e-8  # all on one line: look at every output pixel
                area = tl.where(flat, 1.0, area)
                reach_u = tl.where(flat, size, (tl.abs(yy) + tl.abs(xy)) / tl.abs(area))
                reach_v = tl.where(flat, size, (tl.abs(yx) + tl.abs(xx)) / tl.abs(area))
                u = tl.where(flat, size / 2, (yy * (column - x) - xy * (line - y)) / area)
                v = tl.where(flat, size / 2, (xx * (line - y) - yx * (column - x)) / area)
                first_u, first_v = (tl.maximum(tl.ceil(u - reach_u - 1e-3), 0.0),
                                    tl.maximum(tl.ceil(v - reach_v - 1e-3), 0.0))
                count_u, count_v = (tl.minimum(tl.floor(2 * reach_u + 2.01), size).to(tl.int32),
                                    tl.minimum(tl.floor(2 * reach_v + 2.01), size).to(tl.int32))
                for k in range(count_v):
                    qv = first_v + k
                    for j in range(count_u):
                        qu = first_u + j
                        weight = (tl.maximum(1 - tl.abs(column - xx * qu - xy * qv - x), 0.0)
                                  * tl.maximum(1 - tl.abs(line - yx * qu - yy * qv - y), 0.0))
                        seen = (qu >= 0) & (qu < size) & (qv >= 0) & (qv < size) & (weight > 0) & (p < wide * high)
                        at = ((cut * channels + c[:, None]) * size + qv.to(tl.int64)[None, :]) * size
                        pixels = tl.load(grad + at + qu.to(tl.int64)[None, :],
                                         mask=seen[None, :] & (c < channels)[:, None], other=0.0)
                        total += pixels.to(tl.float32) * (share * weight)[None, :]
        to = (b * channels + c[:, None]) * wide * high + p[None, :]
        tl.store(out + to, total, mask=(c < channels)[:, None] & (p < wide * high)[None, :])


def _margins(theta: Tensor, shapes: list[torch.Size], padding: str) -> list[int]:
    """Return how many pixels of each level a cutout reaches past the edge, where the edge's gradient wants them."""
    if padding == "zeros":
        return [0] * len(shapes)
    reach = float((theta[..., :2].abs().sum(-1) + theta[..., 2].abs()).max())  # in half sides of the picture
    return [math.ceil(max(0.0, reach - 1) / 2 * max(shape)) + 1 for shape in shapes]


def _fold_matrix(size: int, margin: int, padding: str, like: Tensor) -> Tensor:
    """Return (size, size + 2 margin) of zeros and ones: to which pixel each place of a drawn-out line belongs."""
    place = torch.arange(-margin, size + margin, device=like.device)
    if padding == "reflection":
        place = place.remainder(2 * size)
        place = torch.where(place < size, place, 2 * size - 1 - place)
    inside = torch.arange(size, device=like.device)[:, None] == place.clamp(0, size - 1)[None]
    return inside.to(like.dtype)


def _cut(levels: list[Tensor], theta: Tensor, level: Tensor, size: int, padding: str, dtype: torch.dtype) -> Tensor:
    """Launch one program for each 256 pixels of each cutout."""
    (batch, channels), cuts, device = levels[0].shape[:2], theta.shape[1], levels[0].device
    starts = torch.tensor([0, *(x.numel() for x in levels)]).cumsum(0)[:-1]
    table = torch.cat([starts[:, None], torch.tensor([x.shape[-2:] for x in levels])], 1).to(device)
    pyramid = torch.cat([x.flatten() for x in levels])
    out = pyramid.new_empty((batch, cuts, channels, size, size), dtype=dtype)
    _cut_kernel[batch * cuts, triton.cdiv(size * size, 256)](
        pyramid, table, *(t.to(device, torch.float32).contiguous() for t in (theta, level)), out, cuts, channels, size,
        PADDING=PADDINGS.index(padding), C=triton.next_power_of_2(channels), P=256)
    return out


def _gather(grad: Tensor, shapes: list[torch.Size], theta: Tensor, level: Tensor, padding: str) -> list[Tensor]:
    """Return the gradient of each level, drawn out by a margin for what lies past its edge, and folded back."""
    (batch, cuts, channels, size), found = grad.shape[:4], []
    placed = [t.to(grad.device, torch.float32).contiguous() for t in (theta, level)]
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


class _Cutouts(torch.autograd.Function):
    """All cutouts without what lies between; of the pyramid the backward needs the shapes alone."""

    @staticmethod
    def forward(ctx, images: Tensor, theta: Tensor, size: int, padding: str, antialias: bool, fused: bool) -> Tensor:
        level = (_mip_level(theta, images.shape[-2:], size) if antialias else torch.zeros_like(theta[..., 0, 0])).cpu()
        ctx.save_for_backward(images, theta, level)
        # the pyramid in the precision of theta
        levels = _pyramid(images.to(theta.dtype), math.ceil(float(level.max())))
        ctx.inputs_saved, ctx.fused, ctx.shapes = 2, fused, [x.shape for x in levels]
        ctx.constants = dict(size=size, padding=padding, antialias=antialias)
        cut = _cut if fused else some_at_a_time.forward
        return cut(levels, theta, level, size, padding, images.dtype)

    @staticmethod
    @second_order_via(cutouts_reference)
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        images, theta, level = ctx.saved_tensors
        if ctx.needs_input_grad[1]:  # rare, and the definition's gradient will do
            with torch.enable_grad():
                found = reference_gradients(cutouts_reference, ctx, (grad,))
            return tuple(g if g is None else g.detach() for g in found)
        gather = _gather if ctx.fused else some_at_a_time.backward
        found = gather(grad, ctx.shapes, theta, level, ctx.constants["padding"])
        while len(found) > 1:  # each level was made of the one before it
            below = found.pop()
            found[-1] += torch.ops.aten._adaptive_avg_pool2d_backward(below, found[-1])
        return found[0].to(images.dtype), None, None, None, None, None


def cutouts(
    images: Tensor, theta: Tensor, size: int, *, padding: str = "zeros", antialias: bool = True, backend: str = "auto"
) -> Tensor:
    """Cut many affine windows out of each picture and resample each to `size` x `size`, in one warp.

    `theta` maps output to source in normalised coordinates, where -1 and 1 are the outer edges: identity takes the
    whole picture (stretched to a square), `[[s, 0, x], [0, s, y]]` a window of relative side `s` around (x, y).
    Where a window holds more pixels than the output, it is read from averaged copies of the picture (trilinear
    mip map), so that no pixel goes unseen and no false texture arises. Gradients reach every pixel and theta,
    except through the choice of mip level; second derivatives are exact.

    Args:
        images: pictures in any range, [0, 1] in guidance.
        theta: one matrix for each cutout; without the leading B all pictures share the cutouts. It may stay on the
            CPU: the choice of mip levels then does not wait for the GPU.
        size: output side in pixels.
        padding: what lies outside the picture: "zeros", "border" or "reflection".
        antialias: filter where a window shrinks; off gives plain bilinear sampling.
        backend: "auto", "torch" or "triton".

    Shapes:
        images: (B, C, H, W); theta: (B, n, 2, 3) or (n, 2, 3) -> (B, n, C, size, size); `.flatten(0, 1)` for CLIP

    Raises:
        BadParameter: shapes do not fit, size < 1, or padding is not known.
        KernelUnavailable: backend "triton" where it cannot run.
    """
    require_floating("cutouts", images=images, theta=theta)
    if images.ndim != 4 or 0 in images.shape:
        raise BadParameter(f"cutouts: images must be a non-empty (B, C, H, W), got {tuple(images.shape)}")
    if theta.ndim == 3:
        theta = theta.expand(images.shape[0], *theta.shape)
    if theta.ndim != 4 or theta.shape[-2:] != (2, 3) or theta.shape[0] != images.shape[0] or theta.shape[1] == 0:
        expected = f"({images.shape[0]}, n, 2, 3) or (n, 2, 3) with n >= 1"
        raise BadParameter(f"cutouts: theta must be {expected}, got {tuple(theta.shape)}")
    if size < 1:
        raise BadParameter(f"cutouts: size must be at least 1, got {size}; CLIP's input size is usual")
    if padding not in PADDINGS:
        raise unknown_name("padding", padding, PADDINGS)
    chosen = choose(backend, images, theta.to(images.device), name="cutouts", kernel="unproven")
    theta = theta.to(torch.promote_types(images.dtype, torch.float32))
    with torch.autocast(images.device.type, enabled=False):  # sampling positions need more than half precision
        return _Cutouts.apply(images, theta, size, padding, antialias, chosen == "triton")
