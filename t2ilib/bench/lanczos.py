"""Resizing as the classic cutouts do it: a Lanczos filter, then bicubic interpolation."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import BadParameter


def resample(images: Tensor, size: tuple[int, int], *, lobes: int = 2) -> Tensor:
    """Resize as the classic cutouts do: Lanczos low-pass along each side that shrinks, then bicubic interpolation.

    The bicubic step uses `align_corners=True` and no antialiasing of its own, as in the original notebook. Padding
    reflects, which needs sides larger than half the filter.

    Shapes:
        images (B, C, H, W) -> (B, C, size[0], size[1])

    Raises:
        BadParameter: a side is too small for the filter.
    """
    batch, channels, height, width = images.shape
    x = images.reshape(batch * channels, 1, height, width)
    if size[0] < height:
        kernel = _lanczos_kernel(height, size[0], lobes, x)
        pad = (len(kernel) - 1) // 2
        padded = F.pad(x, (0, 0, pad, pad), "reflect")
        x = F.conv2d(padded, kernel[None, None, :, None])  # (B C, 1, H, W)
    if size[1] < width:
        kernel = _lanczos_kernel(width, size[1], lobes, x)
        pad = (len(kernel) - 1) // 2
        padded = F.pad(x, (pad, pad, 0, 0), "reflect")
        x = F.conv2d(padded, kernel[None, None, None, :])
    x = x.reshape(batch, channels, height, width)
    return F.interpolate(x, tuple(size), mode="bicubic", align_corners=True)


def _lanczos_kernel(old: int, new: int, lobes: int, like: Tensor) -> Tensor:
    """Return the odd-sized low-pass for shrinking a side: sinc(x) sinc(x / lobes) at steps of new / old < 1."""
    ratio = new / old
    reach = math.ceil(lobes / ratio + 1) - 1
    if reach > old:
        raise BadParameter(f"cannot shrink a side of {old} to {new} pixels with this filter: it needs more than "
                           f"{reach - 1} pixels; use torch.nn.functional.interpolate(antialias=True)")
    x = torch.arange(-reach + 1, reach, dtype=torch.float64) * ratio  # (2 reach - 1,), in output pixels
    kernel = torch.where(x.abs() < lobes, torch.sinc(x) * torch.sinc(x / lobes), 0.0)
    return (kernel / kernel.sum()).to(like)
