"""Many affine cutouts of each picture in one batched warp, filtered where they shrink it.

Used by: guidance (VQGAN+CLIP shows each picture to CLIP many times).   Papers: Jaderberg et al. 2015 (eq. 1, 5);
Williams 1983 (mip maps).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import BadParameter, unknown_name
from ._dispatch import choose, require_floating, second_order_via

PADDINGS = ("zeros", "border", "reflection")


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


class _Warp(torch.autograd.Function):
    """`grid_sample`, which is fast but has no second derivative, with the reference's second derivative."""

    @staticmethod
    def forward(ctx, images: Tensor, grid: Tensor, padding: str) -> Tensor:
        ctx.save_for_backward(images, grid)
        ctx.inputs_saved, ctx.constants = 2, {"padding": padding}
        return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)

    @staticmethod
    @second_order_via(warp_reference)
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        images, grid = ctx.saved_tensors
        mode, padding = 0, PADDINGS.index(ctx.constants["padding"])
        needed = list(ctx.needs_input_grad[:2])
        return *torch.ops.aten.grid_sampler_2d_backward(grad, images, grid, mode, padding, False, needed), None


def cutouts_reference(images: Tensor, theta: Tensor, size: int, padding: str, antialias: bool, warp) -> Tensor:
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
    for depth in range(deepest + 1):
        if depth:
            images = _halve(images)
        share = (1 - (level - depth).abs()).clamp(min=0)  # (B, n): linear blend of the two nearest levels
        if depth < deepest and not bool((share > 0).any()):
            continue
        share = share.to(images.device)
        picture = warp(images, grid, padding).reshape(count, channels, n, size, size)
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


def _halve(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    return F.adaptive_avg_pool2d(images, (max(1, (height + 1) // 2), max(1, (width + 1) // 2)))


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
    choose(backend, images, theta.to(images.device), name="cutouts", kernel="none")
    theta = theta.to(torch.promote_types(images.dtype, torch.float32))
    with torch.autocast(images.device.type, enabled=False):  # sampling positions need more than half precision
        warped = cutouts_reference(images.to(theta.dtype), theta, size, padding, antialias, _Warp.apply)
    return warped.to(images.dtype)
