"""Cutouts: what CLIP sees of a picture. Parameters are drawn first, then all cutouts are made in one batched warp.

Crop, flip, rotation, shear, scale, translation and perspective compose into one matrix per cutout, so a picture is
sampled once; no step loops over cutouts. Drawn parameters are an object that can be kept and applied again.
"""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .augment import (
    FIXED_FILLS,
    LATER,
    Augmentations,
    border_colour,
    change_colours,
    colour_matrices,
    recolour_background,
    sharpen,
)
from .geometry import (
    ELASTIC,
    PLATE,
    affine_matrix,
    control_shifts,
    crop_matrix,
    erased_boxes,
    flip_matrix,
    inner_crop_matrix,
    perspective_matrix,
    rotation_matrix,
    window_sizes,
)
from .ops import clamp_with_grad
from .warping import pooled, warp
from ..errors import BadParameter

# columns of the block of uniform numbers that one picture's cutouts consume in one step
COLUMNS = ("size", "x", "y", "flip", "affine", "angle", "shear", "move_x", "move_y", "scale", "perspective",
           *(f"corner{i}" for i in range(8)), "jitter", "brightness", "contrast", "saturation", "hue", "noise",
           "recolour", "red", "green", "blue", "erase", "area", "shape", "erase_x", "erase_y")
# of a second block, drawn after the first and only where one of the augmentations in LATER is on
LATER_COLUMNS = ("rotate", "turn", "crop", "crop_area", "crop_ratio", "crop_x", "crop_y", "sharpness", "factor",
                 "gaussian", "elastic", "thin_plate")


@dataclass(frozen=True)
class CutoutParameters:
    """Everything random about the cutouts of one step; independent of the size they are rendered at.

    Shapes:
        matrix (B, n, 3, 3): output to picture, both in [-1, 1] between outer edges; colour (B, n, 3, 3), gain (B, n):
        see `colour_matrices`; recolour (B, n) in {0, 1}; background (B, n, 3): random colour; erase (B, n, 4): box
        x0, y0, x1, y1 in [0, 1], empty for none; noise (B, n): standard deviation; noise_seed: B integers;
        sharpness (B, n): see `sharpen`; bend (B, n, 2, K): see `bend_basis`; pool: see `pooled`;
        source (B, N, 3, 3), start: the matrices of all N cutouts of which these are a part, and where it begins
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
    sharpness: Tensor | None = None
    bend: Tensor | None = None
    pool: bool = False
    source: Tensor | None = None
    start: int = 0

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

    def cutouts(self, start: int, stop: int) -> "CutoutParameters":
        """Return the parameters of each picture's cutouts from `start` to `stop`, as views.

        Rendered part by part, they are the same bits, noise included, as rendered at once.

        Raises:
            BadParameter: there is no such part.
        """
        count = self.matrix.shape[1]
        if not 0 <= start < stop <= count:
            raise BadParameter(f"cutouts({start}, {stop}) of {count}: need 0 <= start < stop <= {count}")
        chosen = {f.name: v[:, start:stop] for f in dataclasses.fields(self)
                  if isinstance(v := getattr(self, f.name), Tensor)}
        chosen |= {"source": self.matrix if self.source is None else self.source, "start": self.start + start}
        return dataclasses.replace(self, **chosen)

    @staticmethod
    def cat(parts: Sequence["CutoutParameters"]) -> "CutoutParameters":
        """Join the cutouts of the same pictures along n; the noise of all is drawn from the first one's seeds.

        All parts of one set, in their order, are that set again, bit for bit.

        Raises:
            BadParameter: there are none, or they are for other numbers of pictures, or differ in `fill` or `pool`.
        """
        kinds = {(len(p.matrix), p.fill, p.pool) for p in parts}
        if len(kinds) != 1:
            raise BadParameter("cutouts can be joined if they are for equally many pictures and agree in fill and "
                               f"pool; got {sorted(kinds)}")
        joined = {"source": None, "start": 0}
        for name in (f.name for f in dataclasses.fields(CutoutParameters) if f.name != "source"):
            values = [getattr(p, name) for p in parts]
            like = next((v for v in values if isinstance(v, Tensor)), None)
            if like is not None:
                off = 1.0 if name == "sharpness" else 0.0
                joined[name] = torch.cat([like.new_full((*p.matrix.shape[:2], *like.shape[2:]), off) if v is None else v
                                          for v, p in zip(values, parts, strict=True)], dim=1)
        return dataclasses.replace(parts[0], **joined)


def draw_cutouts(generators: Sequence[torch.Generator], num: int, image_size: tuple[int, int], *, cut_size: int,
                 cut_pow: float = 1.0, min_cut: float | None = None, max_cut: float = 1.0, noise: float = 0.0,
                 augmentations: Augmentations = Augmentations(), whole: bool = False,
                 pool: bool = False) -> CutoutParameters:
    """Draw the cutouts of one step, the picture i from its own stream `generators[i]` (on the CPU).

    Args:
        num: cutouts of each picture.
        image_size: (H, W) of the pictures.
        cut_size: side of CLIP's input: the smallest window in pixels unless `min_cut` is given.
        cut_pow, min_cut, max_cut: see `window_sizes`.
        noise: the standard deviation of each cutout's noise is uniform in [0, noise].
        augmentations: what else may happen.
        whole: give every window the picture's longer side instead, so that it shows all of it.
        pool: cut from the picture as `pooled` shrinks it, once for all cutouts.

    Returns:
        Parameters on the CPU, in float64.
    """
    u = _uniform(generators, num, COLUMNS)
    seeds = tuple(int(torch.randint(2**62, (), generator=g)) for g in generators)
    a = augmentations
    size = torch.full_like(u["size"], max(image_size)) if whole else window_sizes(
        u["size"], image_size, cut_size, cut_pow=cut_pow, min_cut=min_cut, max_cut=max_cut)
    steps = [crop_matrix(u, size, image_size), affine_matrix(u, a), perspective_matrix(u, a), flip_matrix(u, a)]
    std, later = u["noise"] * noise, {}
    if any(getattr(a, name) for name in LATER):
        rotation, inner, gaussian, later = _draw_later(generators, num, a)
        steps[2:3] = [rotation, steps[2], inner]
        std = torch.hypot(std, gaussian)
    background = torch.stack([u["red"]] * 3 if a.fill == "random_grey" else [u["red"], u["green"], u["blue"]], dim=-1)
    recolour = (u["recolour"] < a.recolour).double()
    return CutoutParameters(functools.reduce(torch.matmul, steps), *_colours(u, a), recolour, background,
                            erased_boxes(u, a), std, seeds, a.fill, pool=pool, **later)


def _uniform(generators: Sequence[torch.Generator], num: int, columns: Sequence[str]) -> dict[str, Tensor]:
    """Return uniform numbers (B, n) for each column, each picture's from its own stream."""
    rows = [torch.rand(num, len(columns), generator=g, dtype=torch.float64) for g in generators]
    return dict(zip(columns, torch.stack(rows).unbind(-1), strict=True))


def _draw_later(generators: Sequence[torch.Generator], num: int, a: Augmentations):
    """Draw what the augmentations in LATER need: two matrices, a standard deviation, and other fields."""
    v = _uniform(generators, num, LATER_COLUMNS)
    shifts = torch.stack([torch.rand(num, ELASTIC**2 + len(PLATE), 2, generator=g, dtype=torch.float64)
                          for g in generators])
    low, high = a.sharpness_factor
    fields = {}
    if a.sharpness:
        fields["sharpness"] = torch.where(v["sharpness"] < a.sharpness, low + v["factor"] * (high - low), 1.0)
    if a.elastic or a.thin_plate:
        fields["bend"] = control_shifts(v, shifts, a)
    gaussian = (v["gaussian"] < a.gaussian).double() * a.gaussian_std
    return rotation_matrix(v, a), inner_crop_matrix(v, a), gaussian, fields


def _colours(u: dict[str, Tensor], a: Augmentations) -> tuple[Tensor, Tensor]:
    on = u["jitter"] < a.jitter
    factors = {k: torch.where(on, 1 + (2 * u[k] - 1) * getattr(a, k), 1.0)
               for k in ("brightness", "contrast", "saturation")}
    return colour_matrices(**factors, hue=torch.where(on, (2 * u["hue"] - 1) * a.hue, 0.0))


def whole_picture(pictures: int, image_size: tuple[int, int]) -> CutoutParameters:
    """Return one cutout per picture that shows all of it, centred, at its aspect, on its border's colour."""
    height, width = image_size
    side = max(image_size)
    matrix = torch.diag(torch.tensor([side / width, side / height, 1.0], dtype=torch.float64)).repeat(pictures, 1, 1, 1)
    none = torch.zeros(pictures, 1, 4, dtype=torch.float64)
    return CutoutParameters(matrix, torch.eye(3, dtype=none.dtype).expand_as(matrix), none[..., 0], none[..., 0],
                            none[..., :3], none, none[..., 0], (0,) * pictures)


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
    host = parameters.to(parameters.matrix.device, images.dtype)  # what decides stays here: no step waits for a GPU
    p = host.to(images.device, images.dtype)
    images = pooled(images, size) if p.pool else images
    x, coverage = warp(images, host.matrix, size, bend=p.bend, source=host.source, start=p.start)
    old, plain = border_colour(images)
    recolour = p.recolour * plain.to(p.recolour)[:, None]
    border = old[:, None].expand_as(p.background) if p.fill == "background" else p.background
    if p.fill in FIXED_FILLS:
        border = torch.full_like(p.background, FIXED_FILLS[p.fill])
    # once a background is recoloured, what lies outside and what is erased has that colour too
    fill = torch.where(recolour[..., None] > 0, p.background, border)[..., None, None]
    if bool((host.recolour > 0).any()):
        x = recolour_background(x, old, p.background, recolour)
    if p.fill != "edge":
        x = fill + coverage * (x - fill)
    x = change_colours(x, p.colour, p.gain)
    x = x if p.sharpness is None else sharpen(x, p.sharpness)
    x = torch.where(_boxes(p.erase, size), fill, x)
    if bool((host.noise > 0).any()):
        x = x + p.noise[..., None, None, None] * _unit_noise(p, x)
    return clamp_with_grad(x) if clamp else x


def _boxes(erase: Tensor, size: int) -> Tensor:
    """Return which pixels' centres lie in the boxes: (B, n, 4) -> (B, n, 1, size, size) bool."""
    axis = (torch.arange(size, dtype=erase.dtype, device=erase.device) + 0.5) / size
    x0, y0, x1, y1 = erase[..., None].unbind(dim=-2)
    rows, columns = (axis >= y0) & (axis < y1), (axis >= x0) & (axis < x1)
    return (rows[..., :, None] & columns[..., None, :])[:, :, None]


def _unit_noise(p: CutoutParameters, like: Tensor) -> Tensor:
    """Return standard normal noise, for each picture from its own seed, on the device where it is used.

    That of all cutouts is drawn even for a part of them, which so gets the same.
    """
    count, total = like.shape[1], like.shape[1] if p.source is None else p.source.shape[1]
    streams = [torch.Generator(like.device).manual_seed(seed) for seed in p.noise_seed]
    shape = (total, *like.shape[2:])
    drawn = [torch.randn(shape, generator=g, device=like.device)[p.start:p.start + count] for g in streams]
    return torch.stack(drawn).to(like.dtype)
