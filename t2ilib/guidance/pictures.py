"""Pictures that enter a run: files to start from or to be guided by, masks, and noise of several kinds."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.decoding import open_rgba
from ..errors import BadParameter, MissingAsset
from .prompts import check_box

NOISES = ("pixels", "gradient", "fractal")


def load_picture(path: str | Path) -> Tensor:
    """Read a picture file, transparent parts on white: (3, H, W) in [0, 1].

    Raises:
        MissingAsset: there is no such file. BadParameter: it cannot be read as a picture.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise MissingAsset(f"no picture at {path}; correct the path")
    try:
        image = open_rgba(path)
    except (OSError, ValueError, SyntaxError) as error:  # what PIL raises for broken files, by format
        raise BadParameter(f"{path} cannot be read as a picture ({error}); give a PNG, JPEG or WebP file") from error
    pixels = torch.from_numpy(np.asarray(image).copy()).movedim(-1, 0).float() / 255
    return pixels[:3] * pixels[3:] + (1 - pixels[3:])


def fit_picture(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale a picture until it covers the size and cut off what is too much at both ends; nothing is squashed.

    Shapes:
        picture (C, H, W) -> (C, size[0], size[1])
    """
    height, width = picture.shape[-2:]
    scale = max(size[0] / height, size[1] / width)
    inner = max(size[0], round(height * scale)), max(size[1], round(width * scale))
    if inner != (height, width):
        picture = F.interpolate(picture[None], inner, mode="bicubic", antialias=True)[0].clamp(0, 1)
    top, left = (inner[0] - size[0]) // 2, (inner[1] - size[1]) // 2
    return picture[:, top:top + size[0], left:left + size[1]]


def load_mask(mask: str | Sequence[float], size: tuple[int, int]) -> Tensor:
    """Return where a picture may change: 1 there, 0 where it is kept, (1, H, W).

    Args:
        mask: path of a picture that is white where it may change, or a box x0, y0, x1, y1 in shares of the picture.
    """
    if isinstance(mask, str):
        return fit_picture(load_picture(mask).mean(dim=0, keepdim=True), size)
    check_box(mask, "mask")
    return F.pad(torch.ones(1, *[b - a for a, b in box_pixels(mask, size)]), _margins(mask, size))


def box_pixels(box: Sequence[float], size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the rows and the columns, as (first, end), that a box in shares of a picture of this size touches."""
    x0, y0, x1, y1 = box
    height, width = size
    return ((math.floor(y0 * height), math.ceil(y1 * height)), (math.floor(x0 * width), math.ceil(x1 * width)))


def _margins(box: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    (top, bottom), (left, right) = box_pixels(box, size)
    return left, size[1] - right, top, size[0] - bottom


def crop(images: Tensor, box: Sequence[float] | None) -> Tensor:
    """Return the part of pictures (B, C, H, W) inside a box in shares; None is all of them."""
    if box is None:
        return images
    (top, bottom), (left, right) = box_pixels(box, tuple(images.shape[-2:]))
    return images[:, :, top:bottom, left:right]


def noise_picture(kind: str, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return a random picture (3, H, W) in [0, 1].

    Args:
        kind: "pixels" (each pixel by itself), "gradient" (each colour runs linearly in a random direction) or "fractal"
            (smooth noise, each octave twice as fine and half as strong: Perlin 1985).
    """
    height, width = size
    if kind == "pixels":
        return torch.rand(3, height, width, generator=generator)
    if kind == "gradient":
        angle = 2 * math.pi * torch.rand(3, 1, 1, generator=generator)
        ends = torch.rand(2, 3, 1, 1, generator=generator)
        y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
        along = (x * angle.cos() + y * angle.sin()) / (angle.cos().abs() + angle.sin().abs())
        return ends[0] + (ends[1] - ends[0]) * (along + 1) / 2
    total, cells = torch.zeros(3, height, width), 2
    while cells <= max(2, min(size)):
        grid = torch.randn(1, 3, cells, math.ceil(cells * width / height), generator=generator)
        total += F.interpolate(grid, size, mode="bicubic", align_corners=False)[0] / cells
        cells *= 2
    return (0.5 + 0.5 * total).clamp(0, 1)  # the coarsest octave has a deviation of a quarter of the range
