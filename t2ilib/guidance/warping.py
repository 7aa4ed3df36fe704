"""Sampling: all cutouts of all pictures in one warp, filtered where they shrink the picture."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry import bend_basis
from .. import kernels
from ..kernels.cutouts import centre_jacobian


def warp(images: Tensor, matrix: Tensor, size: int, *, bend: Tensor | None = None, source: Tensor | None = None,
         start: int = 0) -> tuple[Tensor, Tensor]:
    """Make all cutouts of all pictures at once, filtered where they shrink the picture.

    What the matrices decide, such as the filter, is computed on the device where they lie: if that is the CPU, no step
    waits for a GPU.

    Args:
        bend: shifts of the control points of `bend_basis`, which the sampling positions take in; the filter ignores
            them.
        source, start: the matrices of which `matrix` is the part from `start` on, so that it gets the same bits.

    Shapes:
        images (B, C, H, W), matrix (B, n, 3, 3), bend (B, n, 2, K), source (B, N, 3, 3) -> cutouts (B, n, C, size,
        size), coverage (B, n, 1, size, size); outside the picture its edge is drawn out and the coverage is 0
    """
    image_size = images.shape[-2:]
    device = images.device
    all_matrices = matrix if source is None else source
    part = slice(start, start + matrix.shape[1])
    positions = _positions(all_matrices.to(device), size, part, bend)
    steps = torch.linalg.vector_norm(centre_jacobian(matrix, image_size, size), dim=-2)  # (B, n, 2): along x, along y
    footprint = steps.prod(dim=-1).sqrt()  # (B, n): pixels of the picture per output pixel
    coverage = _coverage(positions, footprint.to(device), image_size)
    if bend is None and device.type != "cpu":
        return kernels.cutouts(images, matrix, size, padding="border"), coverage
    # No matrix describes a bent window, and on a CPU positions are read faster than they are made again. A kernel in
    # Triton makes its own, so torch samples here whatever `use_backend` says.
    cutouts = kernels.cutouts(images, matrix, size, padding="border", positions=positions, backend="torch")
    return cutouts, coverage


def _positions(matrix: Tensor, size: int, part: slice, bend: Tensor | None) -> Tensor:
    """Return where the output pixels of the cutouts `part` lie in the picture, (B, n, size, size, 2) in (x, y).

    The product runs over all cutouts because its rounding depends on their number, and a part is to get the same bits.
    """
    axis = (torch.arange(size, dtype=matrix.dtype, device=matrix.device) * 2 + 1) / size - 1  # centres of pixels
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)]).flatten(1)  # (3, size^2)
    placed = (matrix @ points)[:, part]  # (B, n, 3, size^2)
    if bend is not None:
        shift = _bend(bend, size)  # (B, n, 2, size^2)
        linear = matrix[:, part, :, :2, None]  # (B, n, 3, 2, 1)
        placed = placed + linear[..., 0, :] * shift[:, :, :1]
        placed = placed + linear[..., 1, :] * shift[:, :, 1:]
    x, y, w = placed.unbind(dim=-2)  # (B, n, size^2) each
    positions = torch.stack([x / w, y / w], dim=-1)  # (B, n, size^2, 2)
    return positions.unflatten(-2, (size, size))


def _bend(bend: Tensor, size: int) -> Tensor:
    """Return the shift of each output pixel from those of the control points: (B, n, 2, K) -> (B, n, 2, size^2)."""
    basis = bend_basis(size).to(bend)  # (K, size^2)
    shifts = bend.flatten(0, 1)  # (B n, 2, K)
    shifts = torch.bmm(shifts, basis.expand(len(shifts), *basis.shape))
    return shifts.unflatten(0, bend.shape[:2])


def _coverage(positions: Tensor, footprint: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return the share of each output pixel inside the picture: 1 within, a ramp one output pixel wide at the edge.

    Shapes:
        positions (B, n, S, S, 2), footprint (B, n): pixels of the picture per output pixel -> (B, n, 1, S, S)
    """
    height, width = image_size
    half_size = torch.tensor([width, height], dtype=positions.dtype, device=positions.device) / 2
    # from the edge inwards, in output pixels
    inside = (1 - positions.abs()) * half_size / footprint[..., None, None, None]
    # a crop's outermost centres lie half an output pixel inside; the small surplus absorbs rounding
    share = (inside + 0.5 + 1e-4).clamp(0, 1)  # along x and along y
    return share.prod(dim=-1)[:, :, None]


def pooled(images: Tensor, size: int) -> Tensor:
    """Shrink pictures by the mean of average and maximum pooling, at their aspect, the longer side to `size` pixels.

    Smaller pictures stay as they are.

    Shapes:
        images (B, C, H, W) -> (B, C, h, w) with max(h, w) <= size
    """
    height, width = images.shape[-2:]
    longest = max(height, width)
    if longest <= size:
        return images
    small = (max(1, round(height * size / longest)), max(1, round(width * size / longest)))
    average = F.adaptive_avg_pool2d(images, small)
    maximum = F.adaptive_max_pool2d(images, small)
    return (average + maximum) / 2
