"""Many cutouts of each picture, also in perspective, in one batched warp, filtered where they shrink it.

Used by: guidance (VQGAN+CLIP shows each picture to CLIP many times).   Papers: Jaderberg et al. 2015 (eq. 1, 5);
Williams 1983 (mip maps).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _cutouts_torch, _cutouts_triton
from ._cutouts_torch import FAR, PADDINGS, Warp, level_share, pixel_centres
from ._dispatch import choose, reference_gradients, require_floating, second_order_via
from ..errors import BadParameter, KernelUnavailable, check_name


def warp_reference(images: Tensor, grid: Tensor, padding: str) -> Tensor:
    """Sample pictures bilinearly by explicit gathers; differentiable any number of times in both arguments.

    A coordinate of -1 or 1 is the outer edge of the picture (`align_corners=False`).

    Shapes:
        images: (B, C, H, W); grid: (B, P, Q, 2) as (x, y) -> (B, C, P, Q)
    """
    height, width = images.shape[-2:]
    x = _fold(((grid[..., 0] + 1) * width - 1) / 2, width, padding)  # (B, P, Q), in pixels
    y = _fold(((grid[..., 1] + 1) * height - 1) / 2, height, padding)
    left = x.detach().floor()
    top = y.detach().floor()
    pixels = images.flatten(2)  # (B, C, H * W)
    total = torch.zeros((), dtype=images.dtype, device=images.device)
    for row in (top, top + 1):
        for column in (left, left + 1):
            weight = (1 - (x - column).abs()) * (1 - (y - row).abs())
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long()  # (B, P, Q)
            index = index.flatten(1).unsqueeze(1).expand(-1, images.shape[1], -1)  # (B, C, P * Q)
            corner = pixels.gather(2, index).unflatten(2, x.shape[1:])  # (B, C, P, Q)
            total = total + corner * (weight * inside).unsqueeze(1).to(images.dtype)
    return total


def _fold(position: Tensor, size: int, padding: str) -> Tensor:
    """Bring pixel positions outside the picture back inside, as the padding mode asks."""
    if padding == "reflection":  # mirror at the outer edges, -0.5 and size - 0.5
        position = (position + 0.5).remainder(2 * size)
        position = torch.where(position > size, 2 * size - position, position) - 0.5
    if padding in ("border", "reflection"):
        position = position.clamp(0, size - 1)
    return position


def cutouts_reference(images: Tensor, theta: Tensor, positions: Tensor | None, size: int, padding: str,
                      antialias: bool) -> Tensor:
    """Warp all cutouts of a picture at once: their grids, stacked, are one tall grid, so no picture is copied.

    Shapes:
        images: (B, C, H, W); theta: (B, n, 3, 3); positions: (B, n, size, size, 2) -> (B, n, C, size, size)
    """
    batch, n = theta.shape[:2]
    channels = images.shape[1]
    if positions is None:
        positions = _positions(theta.to(images.device), size)
    grid = positions.reshape(batch, n * size, size, 2)
    level = _mip_level(theta, images.shape[-2:], size, antialias)
    deepest = math.ceil(level.max().item())
    parts = []
    for depth, picture in enumerate(_pyramid(images, deepest)):
        share = level_share(level, depth)  # (B, n): linear blend of the two nearest levels
        used = bool((share > 0).any())
        if depth < deepest and not used:
            continue
        crops = warp_reference(picture, grid, padding)  # (B, C, n * size, size)
        crops = crops.reshape(batch, channels, n, size, size)
        if deepest > 0:
            crops = crops * share[:, None, :, None, None].to(crops)
        parts.append(crops)
    return sum(parts[1:], start=parts[0]).movedim(2, 1)  # (B, n, C, size, size)


def _positions(theta: Tensor, size: int) -> Tensor:
    """Return where the output pixels' centres lie in the picture: (B, n, 3, 3) -> (B, n, size, size, 2)."""
    axis = pixel_centres(size, theta)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1)  # (size, size, 3)
    placed = pixels @ theta.mT.unsqueeze(2)  # (B, n, size, size, 3)
    return (placed[..., :2] / placed[..., 2:]).clamp(-FAR, FAR)


def centre_jacobian(theta: Tensor, image_size: Sequence[int], size: int) -> Tensor:
    """Return the picture's pixels moved through per output pixel (columns: along x, along y) at a cutout's centre.

    Shapes:
        theta: (..., 3, 3) -> (..., 2, 2)
    """
    linear = theta[..., :2, :2]
    centre = theta[..., :2, 2:]  # (..., 2, 1)
    tilt = theta[..., 2:, :2]  # (..., 1, 2)
    divisor = theta[..., 2:, 2:]  # (..., 1, 1)
    step = linear / divisor - centre @ tilt / divisor.square()  # the quotient rule, at output position 0
    height, width = image_size
    return step * torch.tensor([[width], [height]], dtype=theta.dtype, device=theta.device) / size


def _mip_level(theta: Tensor, image_size: Sequence[int], size: int, antialias: bool) -> Tensor:
    """Return log2 of the source pixels per output pixel along the more shrunken axis, at least 0.

    Shapes:
        theta: (B, n, 3, 3) -> (B, n), all 0 without antialiasing
    """
    if not antialias:
        return torch.zeros_like(theta[..., 0, 0])
    step = centre_jacobian(theta.detach(), image_size, size)  # (B, n, 2, 2)
    pixels = torch.linalg.vector_norm(step, dim=-2).amax(dim=-1)  # (B, n)
    finest = max(0.0, math.log2(min(image_size)))
    return pixels.clamp(min=1).log2().clamp(max=finest)


def _pyramid(images: Tensor, deepest: int) -> list[Tensor]:
    """Return the picture and its halved copies, `deepest` of them."""
    levels = [images]
    for _ in range(deepest):
        levels.append(_halve(levels[-1]))
    return levels


def _halve(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    return F.adaptive_avg_pool2d(images, (max(1, (height + 1) // 2), max(1, (width + 1) // 2)))


class _Cutouts(torch.autograd.Function):
    """All cutouts by one of the two implementations; the backward needs only the shapes of the mip map's levels."""

    @staticmethod
    def forward(ctx, images: Tensor, theta: Tensor, positions: Tensor | None, size: int, padding: str, antialias: bool,
                backend: str) -> Tensor:
        level = _mip_level(theta, images.shape[-2:], size, antialias).cpu()
        levels = _pyramid(images.to(theta.dtype), math.ceil(level.max().item()))
        ctx.save_for_backward(images, theta, positions, level)
        ctx.inputs_saved = 3
        ctx.constants = {"size": size, "padding": padding, "antialias": antialias}
        ctx.backend = backend
        ctx.shapes = [x.shape for x in levels]
        warp = Warp(theta, positions, level, size, padding)
        if backend == "triton":
            return _cutouts_triton.forward(levels, warp, images.dtype)
        return _cutouts_torch.forward(levels, warp, images.dtype)

    @staticmethod
    @second_order_via(cutouts_reference)
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        images, theta, positions, level = ctx.saved_tensors
        if any(ctx.needs_input_grad[1:3]):  # of theta or positions: rare, so the definition's gradient will do
            with torch.enable_grad():
                found = reference_gradients(cutouts_reference, ctx, (grad,))
            return tuple(g if g is None else g.detach() for g in found)
        warp = Warp(theta, positions, level, ctx.constants["size"], ctx.constants["padding"])
        if ctx.backend == "triton":
            gradients = _cutouts_triton.backward(grad, ctx.shapes, warp)
        else:
            gradients = _cutouts_torch.backward(grad, ctx.shapes, warp)
        while len(gradients) > 1:  # each level was made from the one before it
            coarse = gradients.pop()
            gradients[-1] += torch.ops.aten._adaptive_avg_pool2d_backward(coarse, gradients[-1])
        return gradients[0].to(images.dtype), None, None, None, None, None, None


def _check(batch: int, theta: Tensor, size: int, padding: str, positions: Tensor | None) -> None:
    """Refuse arguments of `cutouts` that do not fit this many pictures; theta has its leading B."""
    are_matrices = theta.ndim == 4 and theta.shape[-2:] in ((2, 3), (3, 3))
    if not are_matrices or theta.shape[0] != batch or theta.shape[1] == 0:
        expected = f"({batch}, n, 2, 3) or (n, 2, 3) with n >= 1, or with three rows"
        raise BadParameter(f"cutouts: theta must be {expected}, got {tuple(theta.shape)}")
    if size < 1:
        raise BadParameter(f"cutouts: size must be at least 1, got {size}; CLIP's input size is usual")
    check_name("padding", padding, PADDINGS)
    places = (*theta.shape[:2], size, size, 2)
    if positions is not None and positions.shape != places:
        raise BadParameter(f"cutouts: positions must be {places}, got {tuple(positions.shape)}")


def _with_third_row(theta: Tensor) -> Tensor:
    """Return (B, n, 3, 3) for matrices of two or three rows: an affine map is a perspective that divides by 1."""
    if theta.shape[-2] == 3:
        return theta
    row = theta.new_tensor([0, 0, 1]).expand(*theta.shape[:2], 1, 3)
    return torch.cat([theta, row], dim=2)


def cutouts(images: Tensor, theta: Tensor, size: int, *, padding: str = "zeros", antialias: bool = True,
            positions: Tensor | None = None, backend: str = "auto") -> Tensor:
    """Cut many windows out of each picture and resample each to `size` x `size`, in one warp.

    `theta` maps output to source in normalised coordinates, where -1 and 1 are the outer edges: identity takes the
    whole picture (stretched to a square), `[[s, 0, x], [0, s, y]]` a window of relative side `s` around (x, y). With
    a third row it is a perspective, whose result is divided by its last coordinate.

    Where a window holds more pixels than the output, it is read from averaged copies of the picture (trilinear
    mip map, one level for a cutout, that of its centre). Every pixel then counts, and no false texture arises.
    Gradients reach every pixel and theta, except through the choice of mip level; second derivatives are exact.

    Args:
        images: pictures in any range, [0, 1] in guidance.
        theta: one matrix for each cutout; without the leading B all pictures share the cutouts. It may stay on the
            CPU: the choice of mip levels then does not wait for the GPU.
        size: output side in pixels.
        padding: what lies outside the picture: "zeros", "border" or "reflection".
        antialias: filter where a window shrinks; off gives plain bilinear sampling.
        positions: where each output pixel lies in the picture, as (x, y), for a warp that no matrix describes; `theta`
            then decides the mip levels alone.
        backend: "auto", "torch" or "triton".

    Shapes:
        images: (B, C, H, W); theta: (B, n, 2 or 3, 3) or (n, 2 or 3, 3); positions: (B, n, size, size, 2) ->
        (B, n, C, size, size); `.flatten(0, 1)` for CLIP

    Raises:
        BadParameter: shapes do not fit, size < 1, or padding is not known.
        KernelUnavailable: backend "triton" where it cannot run.
    """
    require_floating("cutouts", images=images, theta=theta)
    if images.ndim != 4 or 0 in images.shape:
        raise BadParameter(f"cutouts: images must be a non-empty (B, C, H, W), got {tuple(images.shape)}")
    if theta.ndim == 3:
        theta = theta.expand(images.shape[0], *theta.shape)
    _check(images.shape[0], theta, size, padding, positions)
    kernel = "unproven" if positions is None else "none"
    chosen = choose(backend, images, theta.to(images.device), name="cutouts", kernel=kernel)
    theta = _with_third_row(theta.to(torch.promote_types(images.dtype, torch.float32)))
    if positions is not None:
        positions = positions.to(images.device, theta.dtype)
    if chosen == "triton" and padding != "zeros" and _cutouts_triton.crosses_horizon(theta):
        raise KernelUnavailable("cutouts: backend 'triton' cannot draw the edge out to the horizon of a perspective, "
                                "which a cutout sees; use 'auto' or 'torch'")
    with torch.autocast(images.device.type, enabled=False):  # sampling positions need more than half precision
        return _Cutouts.apply(images, theta, positions, size, padding, antialias, chosen)
