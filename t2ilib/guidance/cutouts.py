"""Cutouts: what CLIP is shown of a picture. Parameters are drawn first, then all cutouts are made in one batched warp.

Crop, flip, rotation, shear, scale, translation and perspective compose into one matrix per cutout, so a picture is
sampled once; no step loops over cutouts. Drawn parameters are an object that can be kept and applied again.
"""

import dataclasses
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from .augment import FIXED_FILLS, SECOND_BLOCK, Augmentations
from .colours import border_colour, change_colours, colour_matrices, per_cutout, recolour_background, sharpen
from .cutout_parameters import CutoutParameters
from .geometry import (
    ELASTIC,
    PLATE,
    Uniform,
    affine_matrix,
    between,
    control_shifts,
    crop_matrix,
    erased_boxes,
    flip_matrix,
    inner_crop_matrix,
    perspective_matrix,
    rotation_matrix,
    signed,
    window_sizes,
)
from .ops import clamp_with_grad
from .warping import pooled, warp
from ..errors import BadParameter

# columns of the block of uniform numbers that one picture's cutouts consume in one step
FIRST_COLUMNS = ("size", "x", "y", "flip", "affine", "angle", "shear", "move_x", "move_y", "scale", "perspective",
                 *(f"corner{i}" for i in range(8)), "jitter", "brightness", "contrast", "saturation", "hue", "noise",
                 "recolour", "red", "green", "blue", "erase", "area", "shape", "erase_x", "erase_y")
# of a second block, drawn after the first and only where one of the augmentations in SECOND_BLOCK is on
SECOND_COLUMNS = ("rotate", "turn", "crop", "crop_area", "crop_ratio", "crop_x", "crop_y", "sharpness", "factor",
                  "gaussian", "elastic", "thin_plate")


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
    a = augmentations
    u = _uniform(generators, num, FIRST_COLUMNS)
    noise_seed = tuple(int(torch.randint(2**62, (), generator=g)) for g in generators)
    if whole:
        size = torch.full_like(u["size"], max(image_size))
    else:
        size = window_sizes(u["size"], image_size, cut_size, cut_pow=cut_pow, min_cut=min_cut, max_cut=max_cut)
    changes = [crop_matrix(u, size, image_size), affine_matrix(u, a), perspective_matrix(u, a), flip_matrix(u, a)]
    colour, gain = _draw_colours(u, a)
    parameters = CutoutParameters(
        matrix=functools.reduce(torch.matmul, changes),
        colour=colour,
        gain=gain,
        recolour=(u["recolour"] < a.recolour).double(),
        background=_draw_background(u, a),
        erase=erased_boxes(u, a),
        noise=u["noise"] * noise,
        noise_seed=noise_seed,
        fill=a.fill,
        pool=pool,
    )
    if any(getattr(a, name) for name in SECOND_BLOCK):
        parameters = _add_second_block(parameters, changes, generators, a)
    return parameters


def _uniform(generators: Sequence[torch.Generator], num: int, columns: Sequence[str]) -> Uniform:
    """Return uniform numbers (B, n) for each column, each picture's from its own stream."""
    rows = [torch.rand(num, len(columns), generator=g, dtype=torch.float64) for g in generators]
    table = torch.stack(rows)  # (B, n, columns)
    return dict(zip(columns, table.unbind(-1), strict=True))


def _add_second_block(parameters: CutoutParameters, changes: Sequence[Tensor], generators: Sequence[torch.Generator],
                      a: Augmentations) -> CutoutParameters:
    """Draw what the augmentations in SECOND_BLOCK need, and return the parameters with it.

    Args:
        changes: the matrices of crop, affine, perspective and flip that the parameters' own are products of.
    """
    num = parameters.matrix.shape[1]
    u = _uniform(generators, num, SECOND_COLUMNS)
    points = ELASTIC**2 + len(PLATE)
    shifts = [torch.rand(num, points, 2, generator=g, dtype=torch.float64) for g in generators]
    shifts = torch.stack(shifts)  # (B, n, K, 2)
    crop, affine, perspective, flip = changes
    matrices = [crop, affine, rotation_matrix(u, a), perspective, inner_crop_matrix(u, a), flip]
    gaussian = (u["gaussian"] < a.gaussian).double() * a.gaussian_std
    sharpness = None
    if a.sharpness:
        sharpness = torch.where(u["sharpness"] < a.sharpness, between(u["factor"], a.sharpness_factor), 1.0)
    bend = control_shifts(u, shifts, a) if a.elastic or a.thin_plate else None
    return dataclasses.replace(parameters, matrix=functools.reduce(torch.matmul, matrices), sharpness=sharpness,
                               bend=bend, noise=torch.hypot(parameters.noise, gaussian))


def _draw_colours(u: Uniform, a: Augmentations) -> tuple[Tensor, Tensor]:
    """Return the matrix (B, n, 3, 3) and the gain (B, n) of each cutout's colour jitter."""
    on = u["jitter"] < a.jitter
    brightness = torch.where(on, 1 + signed(u["brightness"]) * a.brightness, 1.0)
    contrast = torch.where(on, 1 + signed(u["contrast"]) * a.contrast, 1.0)
    saturation = torch.where(on, 1 + signed(u["saturation"]) * a.saturation, 1.0)
    hue = torch.where(on, signed(u["hue"]) * a.hue, 0.0)
    return colour_matrices(brightness, contrast, saturation, hue)


def _draw_background(u: Uniform, a: Augmentations) -> Tensor:
    """Return the random colour (B, n, 3) of a background: a grey where the fill is one."""
    if a.fill == "random_grey":
        return torch.stack([u["red"]] * 3, dim=-1)
    return torch.stack([u["red"], u["green"], u["blue"]], dim=-1)


def whole_picture(pictures: int, image_size: tuple[int, int]) -> CutoutParameters:
    """Return one cutout per picture that shows all of it, centred, at its aspect, on its border's colour."""
    height, width = image_size
    side = max(image_size)
    scale = torch.tensor([side / width, side / height, 1.0], dtype=torch.float64)
    return CutoutParameters.plain(torch.diag(scale).repeat(pictures, 1, 1, 1))


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
    # Where Python decides by a value it asks the parameters as they were drawn, on the CPU: no step waits for a GPU.
    drawn = parameters.to(parameters.matrix.device, images.dtype)
    p = drawn.to(images.device, images.dtype)
    if p.pool:
        images = pooled(images, size)
    x, coverage = warp(images, drawn.matrix, size, bend=p.bend, source=drawn.source, start=p.start)
    border, is_plain = border_colour(images)
    recolour = p.recolour * is_plain.to(p.recolour)[:, None]  # (B, n)
    fill = _fill_colour(p, border, recolour)[..., None, None]  # (B, n, 3, 1, 1)
    if bool((drawn.recolour > 0).any()):
        x = recolour_background(x, border, p.background, recolour)
    if p.fill != "edge":
        x = fill + coverage * (x - fill)
    x = change_colours(x, p.colour, p.gain)
    if p.sharpness is not None:
        x = sharpen(x, p.sharpness)
    x = torch.where(_erased(p.erase, size), fill, x)
    if bool((drawn.noise > 0).any()):
        x = x + per_cutout(p.noise) * _unit_noise(p, x)
    return clamp_with_grad(x) if clamp else x


def _fill_colour(p: CutoutParameters, border: Tensor, recolour: Tensor) -> Tensor:
    """Return the colour (B, n, 3) of what lies outside the picture and of what is erased."""
    if p.fill in FIXED_FILLS:
        colour = torch.full_like(p.background, FIXED_FILLS[p.fill])
    elif p.fill == "background":
        colour = border[:, None].expand_as(p.background)  # (B, n, 3)
    else:
        colour = p.background
    # where a background is recoloured, these get its new colour
    return torch.where(recolour[..., None] > 0, p.background, colour)


def _erased(boxes: Tensor, size: int) -> Tensor:
    """Return which pixels' centres lie in the boxes: (B, n, 4) -> (B, n, 1, size, size) bool."""
    axis = (torch.arange(size, dtype=boxes.dtype, device=boxes.device) + 0.5) / size
    x0, y0, x1, y1 = boxes[..., None].unbind(dim=-2)  # (B, n, 1) each
    rows = (axis >= y0) & (axis < y1)  # (B, n, size)
    columns = (axis >= x0) & (axis < x1)
    box = rows[..., :, None] & columns[..., None, :]  # (B, n, size, size)
    return box[:, :, None]


def _unit_noise(p: CutoutParameters, like: Tensor) -> Tensor:
    """Return standard normal noise, for each picture from its own seed, on the device where it is used.

    A part of the cutouts gets its part of the noise of all of them, so that it does not depend on the division.
    """
    count = like.shape[1]
    total = count if p.source is None else p.source.shape[1]
    noise = []
    for seed in p.noise_seed:
        stream = torch.Generator(like.device).manual_seed(seed)
        of_all = torch.randn((total, *like.shape[2:]), generator=stream, device=like.device)
        noise.append(of_all[p.start:p.start + count])
    return torch.stack(noise).to(like.dtype)
