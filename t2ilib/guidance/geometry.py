"""From uniform numbers to geometry: each kind of change is one matrix, so that any number of them is one product.

All matrices take output to picture, both in [-1, 1] between outer edges, and stand to the right of what they happen in.
Uniform numbers (B, n) in [0, 1) come in a dictionary, by the names of `cutouts.FIRST_COLUMNS` and `SECOND_COLUMNS`.
"""

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .augment import Augmentations

ELASTIC = 4  # control points along a side of the elastic change
PLATE = ((-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.0), (0.0, 0.0))  # control points of the thin plate, (x, y)
CORNERS = (-1, -1, 1, -1, 1, 1, -1, 1)  # of a window, clockwise: x0, y0, x1, y1, ...
Uniform = dict[str, Tensor]


def window_sizes(u: Tensor, image_size: tuple[int, int], cut_size: int, *, cut_pow: float = 1.0,
                 min_cut: float | None = None, max_cut: float = 1.0) -> Tensor:
    """Return the sides of square windows: floor(u^cut_pow (max - min) + min) pixels, u uniform in [0, 1).

    Args:
        cut_pow: above 1 favours small windows, below 1 large ones.
        min_cut, max_cut: limits as shares of the picture's shorter side; without `min_cut` the limit is `cut_size`
            pixels, or the shorter side if that is less. Above 1 the window reaches beyond the picture.
    """
    side = min(image_size)
    high = side * max_cut
    low = min(side, cut_size) if min_cut is None else side * min_cut
    low = min(low, high)
    return (u.pow(cut_pow) * (high - low) + low).floor().clamp(min=1)


def signed(u: Tensor) -> Tensor:
    """Return uniform numbers in [-1, 1) from those in [0, 1)."""
    return 2 * u - 1


def between(u: Tensor, low_high: tuple[float, float]) -> Tensor:
    """Return uniform numbers between two bounds from those in [0, 1)."""
    low, high = low_high
    return low + u * (high - low)


def _matrix(*rows: Sequence[Tensor | float]) -> Tensor:
    """Stack three rows of tensors (...) or numbers into (..., 3, 3)."""
    values = [value for row in rows for value in row]
    like = next(value for value in values if isinstance(value, Tensor))
    tensors = [value if isinstance(value, Tensor) else torch.full_like(like, value) for value in values]
    return torch.stack(tensors, dim=-1).unflatten(-1, (3, 3))


def crop_matrix(u: Uniform, size: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Place windows of `size` pixels at uniform whole-pixel offsets: within the picture where they fit, else around."""
    height, width = image_size
    x, scale_x = _centre_and_scale(u["x"], size, width)
    y, scale_y = _centre_and_scale(u["y"], size, height)
    return _matrix((scale_x, 0, x),
                   (0, scale_y, y),
                   (0, 0, 1))


def _centre_and_scale(u: Tensor, size: Tensor, extent: int) -> tuple[Tensor, Tensor]:
    """Return where the centre of a window lies along a side of `extent` pixels, and its share of that side."""
    room = extent - size  # below 0 the window is larger, and is placed around the picture
    offset = (u * (room.abs() + 1)).floor() * room.sign()
    return (2 * offset + size) / extent - 1, size / extent


def affine_matrix(u: Uniform, a: Augmentations) -> Tensor:
    """Rotate, shear, scale and move the window."""
    on = u["affine"] < a.affine
    angle = torch.where(on, signed(u["angle"]) * math.radians(a.degrees), 0.0)
    shear = torch.where(on, (signed(u["shear"]) * math.radians(a.shear)).tan(), 0.0)
    scale = torch.where(on, between(u["scale"], a.scale), 1.0)
    x = torch.where(on, signed(u["move_x"]) * 2 * a.translate, 0.0)
    y = torch.where(on, signed(u["move_y"]) * 2 * a.translate, 0.0)
    cos = angle.cos() * scale
    sin = angle.sin() * scale
    return _matrix((cos, cos * shear - sin, x),
                   (sin, sin * shear + cos, y),
                   (0, 0, 1))


def flip_matrix(u: Uniform, a: Augmentations) -> Tensor:
    """Mirror left and right."""
    direction = torch.where(u["flip"] < a.flip, -1.0, 1.0).to(u["flip"])
    return _matrix((direction, 0, 0),
                   (0, 1, 0),
                   (0, 0, 1))


def perspective_matrix(u: Uniform, a: Augmentations) -> Tensor:
    """Move the four corners of the window (Heckbert 1989, "Fundamentals of texture mapping", section 2.2.3)."""
    reach = (u["perspective"] < a.perspective).double() * a.distortion / 2
    x0, y0, x1, y1, x2, y2, x3, y3 = (reach * signed(u[f"corner{i}"]) + start for i, start in enumerate(CORNERS))
    # the projective map of the unit square onto the four corners
    dx1 = x1 - x2
    dx2 = x3 - x2
    dx3 = x0 - x1 + x2 - x3
    dy1 = y1 - y2
    dy2 = y3 - y2
    dy3 = y0 - y1 + y2 - y3
    determinant = dx1 * dy2 - dx2 * dy1
    g = (dx3 * dy2 - dx2 * dy3) / determinant
    h = (dx1 * dy3 - dx3 * dy1) / determinant
    from_unit_square = _matrix((x1 - x0 + g * x1, x3 - x0 + h * x3, x0),
                               (y1 - y0 + g * y1, y3 - y0 + h * y3, y0),
                               (g, h, 1))
    to_unit_square = torch.tensor([[0.5, 0, 0.5], [0, 0.5, 0.5], [0, 0, 1]], dtype=reach.dtype)
    return from_unit_square @ to_unit_square


def rotation_matrix(u: Uniform, a: Augmentations) -> Tensor:
    """Turn the window by up to `rotate_degrees`."""
    on = u["rotate"] < a.rotate
    angle = torch.where(on, signed(u["turn"]) * math.radians(a.rotate_degrees), 0.0)
    return _matrix((angle.cos(), -angle.sin(), 0),
                   (angle.sin(), angle.cos(), 0),
                   (0, 0, 1))


def inner_crop_matrix(u: Uniform, a: Augmentations) -> Tensor:
    """Take a window inside the window; a side that would exceed it is cut to its size."""
    on = u["crop"] < a.crop
    area = between(u["crop_area"], a.crop_area)
    low, high = a.crop_ratio
    # uniform in its logarithm, so that a ratio is as likely as its inverse
    ratio = between(u["crop_ratio"], (math.log(low), math.log(high))).exp()
    w = torch.where(on, (area * ratio).sqrt().clamp(max=1), 1.0)
    h = torch.where(on, (area / ratio).sqrt().clamp(max=1), 1.0)
    x = signed(u["crop_x"]) * (1 - w)
    y = signed(u["crop_y"]) * (1 - h)
    return _matrix((w, 0, x),
                   (0, h, y),
                   (0, 0, 1))


def erased_boxes(u: Uniform, a: Augmentations) -> Tensor:
    """Return boxes x0, y0, x1, y1 in [0, 1] of the cutout, (B, n, 4), empty where nothing is erased."""
    if a.erase_together:  # the first cutout's numbers for all
        u = {name: u[name][:, :1].expand_as(u[name]) for name in ("erase", "area", "shape", "erase_x", "erase_y")}
    area = between(u["area"], a.erase_area)
    aspect = (signed(u["shape"]) * math.log(a.erase_aspect)).exp()  # uniform in its logarithm
    w = (area * aspect).sqrt().clamp(max=1)
    h = (area / aspect).sqrt().clamp(max=1)
    x = u["erase_x"] * (1 - w)
    y = u["erase_y"] * (1 - h)
    box = torch.stack([x, y, x + w, y + h], dim=-1)  # (B, n, 4)
    on = u["erase"] < a.erase
    return torch.where(on[..., None], box, 0.0)


def control_shifts(u: Uniform, shifts: Tensor, a: Augmentations) -> Tensor:
    """Return how far the control points of `bend_basis` move, in half sides of the window.

    The thin plate is the same for all cutouts of a picture, as published; the elastic one is not.

    Shapes:
        shifts (B, n, K, 2) uniform in [0, 1) -> (B, n, 2, K)
    """
    shifts = signed(shifts).movedim(-1, -2)  # (B, n, 2, K)
    elastic, plate = shifts.split([ELASTIC**2, len(PLATE)], dim=-1)
    elastic_reach = (u["elastic"] < a.elastic)[..., None] * a.elastic_strength  # (B, n, 1)
    plate_reach = (u["thin_plate"][:, :1] < a.thin_plate)[..., None] * a.thin_plate_strength  # (B, 1, 1)
    elastic = elastic_reach[..., None] * elastic
    plate = (plate_reach[..., None] * plate[:, :1]).expand_as(plate)  # the first cutout's for all
    return torch.cat([elastic, plate], dim=-1)


@functools.lru_cache(maxsize=4)
def bend_basis(size: int) -> Tensor:
    """Return how much each control point's shift counts at each output pixel, (ELASTIC**2 + 5, size * size), float64.

    The elastic points lie on a square grid, with bicubic interpolation between them. The thin plate is the surface of
    least bending energy through its five points (Bookstein 1989, "Principal warps", eq. 1-6).
    """
    grid = torch.eye(ELASTIC**2, dtype=torch.float64).view(1, -1, ELASTIC, ELASTIC)
    elastic = F.interpolate(grid, (size, size), mode="bicubic", align_corners=False)[0].flatten(1)  # (16, size^2)
    axis = (torch.arange(size, dtype=torch.float64) * 2 + 1) / size - 1
    pixels = torch.stack([axis.repeat(size), axis.repeat_interleave(size)], dim=-1)  # (size^2, 2) in (x, y)
    points = torch.tensor(PLATE, dtype=torch.float64)  # (5, 2)
    through_points = _plate_terms(points, points)  # (5, 8): the surface passes through its points
    plane = through_points[:, len(PLATE):]  # (5, 3)
    # the bending terms contain no plane of their own
    side_conditions = torch.cat([plane.T, torch.zeros(3, 3, dtype=torch.float64)], dim=1)  # (3, 8)
    system = torch.cat([through_points, side_conditions])
    weights = torch.linalg.inv(system)[:, :len(PLATE)]  # (8, 5)
    plate = (_plate_terms(pixels, points) @ weights).T  # (5, size^2)
    return torch.cat([elastic, plate])


def _plate_terms(places: Tensor, points: Tensor) -> Tensor:
    """Return r^2 log r^2 of each place to each control point, then the terms 1, x, y of a plane: (N, 2) -> (N, 8)."""
    r2 = torch.cdist(places, points).square()  # (N, 5)
    bending = torch.xlogy(r2, r2)
    one = torch.ones_like(places[:, :1])
    return torch.cat([bending, one, places], dim=1)
