"""Cutouts: what CLIP sees of a picture. Parameters are drawn first, then all cutouts are made in one batched warp.

Crop, flip, rotation, shear, scale, translation and perspective compose into one matrix per cutout, so a picture is
sampled once; no step loops over cutouts. Drawn parameters are an object that can be kept and applied again.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import kernels
from ..errors import BadParameter
from .augment import (FIXED_FILLS, Augmentations, border_colour, change_colours, colour_matrices, recolour_background)
from .ops import clamp_with_grad

# columns of the block of uniform numbers that one picture's cutouts consume in one step
COLUMNS = ("size", "x", "y", "flip", "affine", "angle", "shear", "move_x", "move_y", "scale", "perspective",
           *(f"corner{i}" for i in range(8)), "jitter", "brightness", "contrast", "saturation", "hue", "noise",
           "recolour", "red", "green", "blue", "erase", "area", "shape", "erase_x", "erase_y")


@dataclass(frozen=True)
class CutoutParameters:
    """Everything random about the cutouts of one step; independent of the size they are rendered at.

    Shapes:
        matrix (B, n, 3, 3): output to picture, both in [-1, 1] between outer edges; colour (B, n, 3, 3), gain (B, n):
        see `colour_matrices`; recolour (B, n) in {0, 1}; background (B, n, 3): random colour; erase (B, n, 4): box
        x0, y0, x1, y1 in [0, 1], empty for none; noise (B, n): standard deviation; noise_seed: B integers
    """

    matrix: Tensor
    colour: Tensor
    gain: Tensor
    recolour: Tensor
    background: Tensor
    erase: Tensor
    noise: Tensor
    noise_seed: tuple[int, ...]
    fill: str = "background"

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> "CutoutParameters":
        """Return a copy on a device, in a precision."""
        moved = {f.name: v.to(dtype).to(device) for f in dataclasses.fields(self)
                 if isinstance(v := getattr(self, f.name), Tensor)}
        return dataclasses.replace(self, **moved)

    def select(self, pictures: slice) -> "CutoutParameters":
        """Return the parameters of some of the pictures."""
        chosen = {f.name: v[pictures] for f in dataclasses.fields(self)
                  if isinstance(v := getattr(self, f.name), (Tensor, tuple))}
        return dataclasses.replace(self, **chosen)

    def expand(self, pictures: int) -> "CutoutParameters":
        """Return the parameters of one picture for several, so that all are seen through the same cutouts."""
        wide = {f.name: v.expand(pictures, *v.shape[1:]) for f in dataclasses.fields(self)
                if isinstance(v := getattr(self, f.name), Tensor)}
        return dataclasses.replace(self, **wide, noise_seed=self.noise_seed[:1] * pictures)


def draw_cutouts(generators: Sequence[torch.Generator], num: int, image_size: tuple[int, int], *, cut_size: int,
                 cut_pow: float = 1.0, min_cut: float | None = None, max_cut: float = 1.0, noise: float = 0.0,
                 augmentations: Augmentations = Augmentations()) -> CutoutParameters:
    """Draw the cutouts of one step, the picture i from its own stream `generators[i]` (on the CPU).

    Args:
        num: cutouts of each picture.
        image_size: (H, W) of the pictures.
        cut_size: side of CLIP's input: the smallest window in pixels unless `min_cut` is given.
        cut_pow, min_cut, max_cut: see `window_sizes`.
        noise: the standard deviation of each cutout's noise is uniform in [0, noise].
        augmentations: what else may happen.

    Returns:
        Parameters on the CPU, in float64.
    """
    rows = [torch.rand(num, len(COLUMNS), generator=g, dtype=torch.float64) for g in generators]
    seeds = tuple(int(torch.randint(2**62, (), generator=g)) for g in generators)
    u = dict(zip(COLUMNS, torch.stack(rows).unbind(-1), strict=True))
    a = augmentations
    size = window_sizes(u["size"], image_size, cut_size, cut_pow=cut_pow, min_cut=min_cut, max_cut=max_cut)
    matrix = _crop(u, size, image_size) @ _affine(u, a) @ _perspective(u, a) @ _flip(u, a)
    on = u["jitter"] < a.jitter
    factors = {k: torch.where(on, 1 + _signed(u[k]) * getattr(a, k), 1.0)
               for k in ("brightness", "contrast", "saturation")}
    colour, gain = colour_matrices(**factors, hue=torch.where(on, _signed(u["hue"]) * a.hue, 0.0))
    background = torch.stack([u["red"], u["green"], u["blue"]], dim=-1)
    return CutoutParameters(matrix, colour, gain, (u["recolour"] < a.recolour).double(), background, _erase(u, a),
                            u["noise"] * noise, seeds, a.fill)


def whole_picture(pictures: int, image_size: tuple[int, int]) -> CutoutParameters:
    """Return one cutout per picture that shows all of it, centred, at its aspect, on its border's colour."""
    height, width = image_size
    side = max(image_size)
    matrix = torch.diag(torch.tensor([side / width, side / height, 1.0], dtype=torch.float64)).repeat(pictures, 1, 1, 1)
    none = torch.zeros(pictures, 1, 4, dtype=torch.float64)
    return CutoutParameters(matrix, torch.eye(3, dtype=none.dtype).expand_as(matrix), none[..., 0], none[..., 0],
                            none[..., :3], none, none[..., 0], (0,) * pictures)


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


def _crop(u: dict[str, Tensor], size: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Window of `size` pixels at a uniform whole-pixel offset, within the picture where it fits, else around it."""
    def centre_and_scale(u: Tensor, extent: int) -> tuple[Tensor, Tensor]:
        room = extent - size
        offset = (u * (room.abs() + 1)).floor() * room.sign()
        return (2 * offset + size) / extent - 1, size / extent

    height, width = image_size
    cx, sx = centre_and_scale(u["x"], width)
    cy, sy = centre_and_scale(u["y"], height)
    return _matrix((sx, 0, cx), (0, sy, cy), (0, 0, 1))


def _affine(u: dict[str, Tensor], a: Augmentations) -> Tensor:
    on = u["affine"] < a.affine
    angle = torch.where(on, _signed(u["angle"]) * math.radians(a.degrees), 0.0)
    shear = torch.where(on, (_signed(u["shear"]) * math.radians(a.shear)).tan(), 0.0)
    scale = torch.where(on, a.scale[0] + u["scale"] * (a.scale[1] - a.scale[0]), 1.0)
    x, y = (torch.where(on, _signed(u[k]) * 2 * a.translate, 0.0) for k in ("move_x", "move_y"))
    cos, sin = angle.cos() * scale, angle.sin() * scale
    return _matrix((cos, cos * shear - sin, x), (sin, sin * shear + cos, y), (0, 0, 1))


def _flip(u: dict[str, Tensor], a: Augmentations) -> Tensor:
    return _matrix((torch.where(u["flip"] < a.flip, -1.0, 1.0).to(u["flip"]), 0, 0), (0, 1, 0), (0, 0, 1))


def _perspective(u: dict[str, Tensor], a: Augmentations) -> Tensor:
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


def _erase(u: dict[str, Tensor], a: Augmentations) -> Tensor:
    area = a.erase_area[0] + u["area"] * (a.erase_area[1] - a.erase_area[0])
    aspect = (_signed(u["shape"]) * math.log(2)).exp()
    w, h = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    x, y = u["erase_x"] * (1 - w), u["erase_y"] * (1 - h)
    box = torch.stack([x, y, x + w, y + h], dim=-1)
    return torch.where((u["erase"] < a.erase)[..., None], box, 0.0)


def centre_jacobian(matrix: Tensor, image_size: tuple[int, int], size: int) -> Tensor:
    """Return the picture's pixels moved through per output pixel (columns: along x, along y) at a cutout's centre.

    Shapes:
        matrix (..., 3, 3) -> (..., 2, 2)
    """
    w = matrix[..., 2:, 2:]
    step = matrix[..., :2, :2] / w - matrix[..., :2, 2:] @ matrix[..., 2:, :2] / w.square()
    height, width = image_size
    return step * torch.tensor([[width], [height]], dtype=matrix.dtype, device=matrix.device) / size


def _positions(matrix: Tensor, size: int) -> Tensor:
    """Return where each output pixel's centre lies in the picture, as (B, n, size, size, 2) in (x, y)."""
    axis = (torch.arange(size, dtype=matrix.dtype, device=matrix.device) * 2 + 1) / size - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)]).flatten(1)
    x, y, w = (matrix @ points).unbind(dim=-2)
    return torch.stack([x / w, y / w], dim=-1).unflatten(-2, (size, size))


def _coverage(positions: Tensor, footprint: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return the share of each output pixel inside the picture: 1 within, a ramp one output pixel wide at the edge.

    Shapes:
        positions (B, n, S, S, 2), footprint (B, n): pixels of the picture per output pixel -> (B, n, 1, S, S)
    """
    height, width = image_size
    extent = torch.tensor([width, height], dtype=positions.dtype, device=positions.device) / 2
    inside = (1 - positions.abs()) * extent / footprint[..., None, None, None]
    # a crop's outermost centres lie half an output pixel inside; the small surplus absorbs rounding
    return (inside + 0.5 + 1e-4).clamp(0, 1).prod(dim=-1)[:, :, None]


def _warp_perspective(images: Tensor, positions: Tensor, level: Tensor) -> Tensor:
    """Sample as `kernels.cutouts` does (mip levels blended linearly, edges drawn out), at any positions."""
    batch, n, size = positions.shape[:3]
    grid = positions.reshape(batch, n * size, size, 2)  # stacked grids: no picture is copied for its cutouts
    total = 0.0
    for depth in range(math.ceil(float(level.max())) + 1):
        if depth:
            images = F.adaptive_avg_pool2d(images, [max(1, (s + 1) // 2) for s in images.shape[-2:]])
        share = (1 - (level - depth).abs()).clamp(min=0)
        seen = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        total = total + seen.unflatten(2, (n, size)).movedim(2, 1) * share[..., None, None, None]
    return total


def warp(images: Tensor, matrix: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Make all cutouts of all pictures at once, filtered where they shrink the picture.

    Shapes:
        images (B, C, H, W), matrix (B, n, 3, 3) -> cutouts (B, n, C, size, size), coverage (B, n, 1, size, size);
        outside the picture its edge is drawn out and the coverage is 0
    """
    image_size = images.shape[-2:]
    steps = torch.linalg.vector_norm(centre_jacobian(matrix, image_size, size), dim=-2)  # along x and along y
    positions = _positions(matrix, size)
    coverage = _coverage(positions, steps.prod(dim=-1).sqrt(), image_size)
    affine = matrix / matrix[..., 2:, 2:]
    if not bool((affine[..., 2, :2] != 0).any()):
        return kernels.cutouts(images, affine[..., :2, :], size, padding="border"), coverage
    level = steps.amax(dim=-1).clamp(min=1).log2().clamp(max=math.log2(max(min(image_size), 1)))
    return _warp_perspective(images, positions, level), coverage


def apply_cutouts(images: Tensor, parameters: CutoutParameters, size: int, *, clamp: bool = True) -> Tensor:
    """Render the cutouts of pictures at CLIP's input size.

    Args:
        images: pictures in [0, 1].
        parameters: from `draw_cutouts`, for the same number of pictures.
        size: side of the output.
        clamp: bring the result back to [0, 1], with the gradient of `clamp_with_grad`.

    Shapes:
        images (B, 3, H, W) -> (B, n, 3, size, size)

    Raises:
        BadParameter: the number of pictures differs.
    """
    if len(parameters.matrix) != len(images):
        raise BadParameter(f"cutout parameters are for {len(parameters.matrix)} pictures, got {len(images)}; "
                           "use parameters.expand(n) to share one picture's")
    p = parameters.to(images.device, images.dtype)
    x, coverage = warp(images, p.matrix, size)
    old, plain = border_colour(images)
    recolour = p.recolour * plain.to(p.recolour)[:, None]
    border = old[:, None].expand_as(p.background) if p.fill == "background" else p.background
    if p.fill in FIXED_FILLS:
        border = torch.full_like(p.background, FIXED_FILLS[p.fill])
    # once a background is recoloured, what lies outside and what is erased has that colour too
    fill = torch.where(recolour[..., None] > 0, p.background, border)[..., None, None]
    if recolour.any():
        x = recolour_background(x, old, p.background, recolour)
    if p.fill != "edge":
        x = fill + coverage * (x - fill)
    x = change_colours(x, p.colour, p.gain)
    x = torch.where(_boxes(p.erase, size), fill, x)
    if bool((p.noise > 0).any()):
        x = x + p.noise[..., None, None, None] * _unit_noise(p.noise_seed, x)
    return clamp_with_grad(x) if clamp else x


def _boxes(erase: Tensor, size: int) -> Tensor:
    """Return which pixels' centres lie in the boxes: (B, n, 4) -> (B, n, 1, size, size) bool."""
    axis = (torch.arange(size, dtype=erase.dtype, device=erase.device) + 0.5) / size
    x0, y0, x1, y1 = erase[..., None].unbind(dim=-2)
    rows, columns = (axis >= y0) & (axis < y1), (axis >= x0) & (axis < x1)
    return (rows[..., :, None] & columns[..., None, :])[:, :, None]


def _unit_noise(seeds: Sequence[int], like: Tensor) -> Tensor:
    """Return standard normal noise, for each picture from its own seed, on the device where it is used."""
    streams = [torch.Generator(like.device).manual_seed(seed) for seed in seeds]
    return torch.stack([torch.randn(like.shape[1:], generator=g, device=like.device) for g in streams]).to(like.dtype)
