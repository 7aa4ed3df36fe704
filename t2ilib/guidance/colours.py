"""Changes of a cutout's colours: jitter as one matrix, sharpness, and the colour of a plain background."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def per_cutout(values: Tensor) -> Tensor:
    """Return values (B, n) as (B, n, 1, 1, 1), to be combined with cutouts (B, n, 3, S, S)."""
    return values[..., None, None, None]


def colour_matrices(brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor) -> tuple[Tensor, Tensor]:
    """Compose brightness, contrast, saturation and hue into y = matrix x + gain * (mean luma of x).

    All four are linear in colour once the mean grey level is known, so one product does them all. Hue turns the
    chroma plane of YIQ, which keeps greys grey.

    Args:
        brightness, contrast, saturation: factors, 1 changes nothing. hue: fraction of a full turn.

    Shapes:
        four of (...) -> matrix (..., 3, 3), gain (...)
    """
    luma = torch.tensor(LUMA, dtype=hue.dtype).expand(3, 3)  # maps a colour to its grey
    to_yiq = torch.tensor(TO_YIQ, dtype=hue.dtype)
    eye = torch.eye(3, dtype=hue.dtype)
    share = saturation[..., None, None]  # (..., 1, 1)
    saturate = share * eye + (1 - share) * luma  # (..., 3, 3)
    cos = (2 * math.pi * hue).cos()
    sin = (2 * math.pi * hue).sin()
    zero = torch.zeros_like(hue)
    one = torch.ones_like(hue)
    turn = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], dim=-1)
    turn = turn.unflatten(-1, (3, 3))  # (..., 3, 3)
    rotate = torch.linalg.inv(to_yiq) @ turn @ to_yiq  # back to RGB
    matrix = rotate @ saturate * (contrast * brightness)[..., None, None]
    gain = (1 - contrast) * brightness
    return matrix, gain


def change_colours(cutouts: Tensor, matrix: Tensor, gain: Tensor) -> Tensor:
    """Apply what `colour_matrices` composed; the mean luma is that of each cutout.

    Shapes:
        cutouts (B, n, 3, S, S), matrix (B, n, 3, 3), gain (B, n) -> (B, n, 3, S, S)
    """
    luma = torch.tensor(LUMA, dtype=cutouts.dtype, device=cutouts.device)
    mean_luma = (cutouts.mean(dim=(-1, -2)) * luma).sum(-1)  # (B, n)
    pixels = cutouts.flatten(-2)  # (B, n, 3, S S)
    changed = (matrix @ pixels).view_as(cutouts)
    return changed + per_cutout(gain * mean_luma)


def sharpen(cutouts: Tensor, factor: Tensor) -> Tensor:
    """Blend each cutout with itself smoothed over 3 x 3 pixels (the centre counts 5/13, the others 1/13).

    The outermost pixels stay as they are.

    Shapes:
        cutouts (B, n, 3, S, S), factor (B, n): 0 is smoothed, 1 unchanged, above it is sharpened -> (B, n, 3, S, S)
    """
    if cutouts.shape[-1] < 3:
        return cutouts
    inner = cutouts[..., 1:-1, 1:-1]  # (B, n, 3, S - 2, S - 2)
    mean = F.avg_pool2d(cutouts.flatten(0, 1), 3, stride=1).view_as(inner)
    # smoothed = 9/13 mean + 4/13 centre, so this is smoothed - centre
    difference = F.pad((mean - inner) * (9 / 13), (1, 1, 1, 1))
    return cutouts + per_cutout(1 - factor) * difference


def border_colour(images: Tensor, tolerance: float = 0.1) -> tuple[Tensor, Tensor]:
    """Return the median colour along the border of each picture, and whether most of the border has that colour.

    Shapes:
        images (B, 3, H, W) -> colour (B, 3), plain (B,) bool; neither carries a gradient
    """
    images = images.detach()
    height, width = images.shape[-2:]
    k = max(1, min(height, width) // 32)  # how many pixels wide the border is
    top = images[:, :, :k].flatten(2)  # (B, 3, k W)
    bottom = images[:, :, -k:].flatten(2)
    left = images[:, :, :, :k].flatten(2)
    right = images[:, :, :, -k:].flatten(2)
    border = torch.cat([top, bottom, left, right], dim=2)  # (B, 3, pixels)
    colour = border.median(dim=2).values  # (B, 3)
    near = (border - colour[:, :, None]).abs().amax(dim=1) < tolerance  # (B, pixels)
    return colour, near.to(border.dtype).mean(dim=1) > 0.5


def recolour_background(cutouts: Tensor, old: Tensor, new: Tensor, where: Tensor, tolerance: float = 0.15) -> Tensor:
    """Shift pixels near the colour `old` to `new`; pixels that differ by `tolerance` or more stay as they are.

    Only a shift is added, so the gradient with respect to `cutouts` is the identity.

    Shapes:
        cutouts (B, n, 3, S, S), old (B, 3), new (B, n, 3), where (B, n) in {0, 1} -> (B, n, 3, S, S)
    """
    old = old[:, None, :, None, None]  # (B, 1, 3, 1, 1)
    distance = (cutouts.detach() - old).abs().amax(dim=2, keepdim=True)  # (B, n, 1, S, S)
    background = (1 - distance / tolerance).clamp(min=0) * per_cutout(where)
    shift = new[..., None, None] - old  # (B, n, 3, 1, 1)
    return cutouts + background * shift
