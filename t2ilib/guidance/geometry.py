"""From uniform numbers to geometry: each kind of change is one matrix, so that any number of them is one product.

All matrices take output to picture, both in [-1, 1] between outer edges, and stand to the right of what they happen in.
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
    low = min(min(side, cut_size) if min_cut is None else side * min_cut, high)
    return (u.pow(cut_pow) * (high - low) + low).floor().clamp(min=1)


def _signed(u: Tensor) -> Tensor:
    return 2 * u - 1


def _matrix(*rows: Sequence) -> Tensor:
    """Stack three rows of tensors or numbers into (..., 3, 3)."""
    like = next(v for row in rows for v in row if isinstance(v, Tensor))
    flat = [v if isinstance(v, Tensor) else torch.full_like(like, v) for row in rows for v in row]
    return torch.stack(flat, dim=-1).unflatten(-1, (3, 3))


def crop_matrix(u: dict[str, Tensor], size: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Place windows of `size` pixels at uniform whole-pixel offsets: within the picture where they fit, else around."""
    def centre_and_scale(u: Tensor, extent: int) -> tuple[Tensor, Tensor]:
        room = extent - size
        offset = (u * (room.abs() + 1)).floor() * room.sign()
        return (2 * offset + size) / extent - 1, size / extent

    height, width = image_size
    cx, sx = centre_and_scale(u["x"], width)
    cy, sy = centre_and_scale(u["y"], height)
    return _matrix((sx, 0, cx), (0, sy, cy), (0, 0, 1))


def affine_matrix(u: dict[str, Tensor], a: Augmentations) -> Tensor:
    """Rotate, shear, scale and move the window."""
    on = u["affine"] < a.affine
    angle = torch.where(on, _signed(u["angle"]) * math.radians(a.degrees), 0.0)
    shear = torch.where(on, (_signed(u["shear"]) * math.radians(a.shear)).tan(), 0.0)
    scale = torch.where(on, a.scale[0] + u["scale"] * (a.scale[1] - a.scale[0]), 1.0)
    x, y = (torch.where(on, _signed(u[k]) * 2 * a.translate, 0.0) for k in ("move_x", "move_y"))
    cos, sin = angle.cos() * scale, angle.sin() * scale
    return _matrix((cos, cos * shear - sin, x), (sin, sin * shear + cos, y), (0, 0, 1))


def flip_matrix(u: dict[str, Tensor], a: Augmentations) -> Tensor:
    """Mirror left and right."""
    return _matrix((torch.where(u["flip"] < a.flip, -1.0, 1.0).to(u["flip"]), 0, 0), (0, 1, 0), (0, 0, 1))


def perspective_matrix(u: dict[str, Tensor], a: Augmentations) -> Tensor:
    """Move the four corners of the window (Heckbert 1989, "Fundamentals of texture mapping", section 2.2.3)."""
    on = (u["perspective"] < a.perspective).double() * a.distortion / 2
    x0, y0, x1, y1, x2, y2, x3, y3 = (on * _signed(u[f"corner{i}"]) + start for i, start in
                                      enumerate((-1, -1, 1, -1, 1, 1, -1, 1)))
    dx1, dx2, dx3 = x1 - x2, x3 - x2, x0 - x1 + x2 - x3
    dy1, dy2, dy3 = y1 - y2, y3 - y2, y0 - y1 + y2 - y3
    det = dx1 * dy2 - dx2 * dy1
    g, h = (dx3 * dy2 - dx2 * dy3) / det, (dx1 * dy3 - dx3 * dy1) / det
    from_unit_square = _matrix((x1 - x0 + g * x1, x3 - x0 + h * x3, x0), (y1 - y0 + g * y1, y3 - y0 + h * y3, y0),
                               (g, h, 1))
    to_unit_square = torch.tensor([[0.5, 0, 0.5], [0, 0.5, 0.5], [0, 0, 1]], dtype=on.dtype)
    return from_unit_square @ to_unit_square


def erased_boxes(u: dict[str, Tensor], a: Augmentations) -> Tensor:
    """Return boxes x0, y0, x1, y1 in [0, 1] of the cutout, (B, n, 4), empty where nothing is erased."""
    if a.erase_together:
        u = {k: u[k][:, :1].expand_as(u[k]) for k in ("erase", "area", "shape", "erase_x", "erase_y")}
    area = a.erase_area[0] + u["area"] * (a.erase_area[1] - a.erase_area[0])
    aspect = (_signed(u["shape"]) * math.log(a.erase_aspect)).exp()
    w, h = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    x, y = u["erase_x"] * (1 - w), u["erase_y"] * (1 - h)
    box = torch.stack([x, y, x + w, y + h], dim=-1)
    return torch.where((u["erase"] < a.erase)[..., None], box, 0.0)


def rotation_matrix(u: dict[str, Tensor], a: Augmentations) -> Tensor:
    """Turn the window by up to `rotate_degrees`."""
    angle = torch.where(u["rotate"] < a.rotate, _signed(u["turn"]) * math.radians(a.rotate_degrees), 0.0)
    return _matrix((angle.cos(), -angle.sin(), 0), (angle.sin(), angle.cos(), 0), (0, 0, 1))


def inner_crop_matrix(u: dict[str, Tensor], a: Augmentations) -> Tensor:
    """Take a window inside the window; a side that would exceed it is cut to its size."""
    area = a.crop_area[0] + u["crop_area"] * (a.crop_area[1] - a.crop_area[0])
    low, high = (math.log(r) for r in a.crop_ratio)
    ratio = (low + u["crop_ratio"] * (high - low)).exp()
    on = u["crop"] < a.crop
    w, h = (torch.where(on, s.sqrt().clamp(max=1), 1.0) for s in (area * ratio, area / ratio))
    return _matrix((w, 0, _signed(u["crop_x"]) * (1 - w)), (0, h, _signed(u["crop_y"]) * (1 - h)), (0, 0, 1))


def control_shifts(u: dict[str, Tensor], shifts: Tensor, a: Augmentations) -> Tensor:
    """Return how far the control points of `bend_basis` move, in half sides of the window.

    The thin plate is the same for all cutouts of a picture, as published; the elastic one is not.

    Shapes:
        shifts (B, n, K, 2) uniform in [0, 1) -> (B, n, 2, K)
    """
    on = (u["elastic"] < a.elastic)[..., None] * a.elastic_strength
    plate_on = (u["thin_plate"][:, :1] < a.thin_plate)[..., None] * a.thin_plate_strength
    elastic, plate = _signed(shifts).movedim(-1, -2).split([ELASTIC**2, len(PLATE)], dim=-1)
    plate = (plate_on[..., None] * plate[:, :1]).expand_as(plate)
    return torch.cat([on[..., None] * elastic, plate], dim=-1)


@functools.lru_cache(maxsize=4)
def bend_basis(size: int) -> Tensor:
    """Return how much each control point's shift counts at each output pixel, (ELASTIC**2 + 5, size * size), float64.

    The elastic points lie on a square grid, with bicubic interpolation between them. The thin plate is the surface of
    least bending energy through its five points (Bookstein 1989, "Principal warps", eq. 1-6).
    """
    grid = torch.eye(ELASTIC**2, dtype=torch.float64).view(1, -1, ELASTIC, ELASTIC)
    elastic = F.interpolate(grid, (size, size), mode="bicubic", align_corners=False)[0].flatten(1)
    axis = (torch.arange(size, dtype=torch.float64) * 2 + 1) / size - 1
    places = torch.stack([axis.repeat(size), axis.repeat_interleave(size)], dim=-1)
    points = torch.tensor(PLATE, dtype=torch.float64)

    def terms(x: Tensor) -> Tensor:  # r^2 log r^2 to each point, then a plane
        r2 = torch.cdist(x, points).square()
        return torch.cat([torch.xlogy(r2, r2), torch.ones_like(x[:, :1]), x], dim=1)

    system = terms(points)
    plane = torch.cat([system[:, len(PLATE):].T, torch.zeros(3, 3, dtype=torch.float64)], dim=1)
    weights = torch.linalg.inv(torch.cat([system, plane]))[:, :len(PLATE)]
    return torch.cat([elastic, (terms(places) @ weights).T])
