"""Randomness of a run: a stream for each picture, and random pictures from which a run may start."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..runtime import generator

NOISES = ("pixels", "gradient", "fractal")


def picture_streams(seeds: Sequence[int], name: str) -> list[torch.Generator]:
    """Return the random stream called `name` of each picture, independent of the rest of the batch."""
    return [generator(seed, "guidance", name) for seed in seeds]


def noise_picture(kind: str, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return a random picture (3, H, W) in [0, 1].

    Args:
        kind: "pixels" (each pixel by itself), "gradient" (each colour runs linearly in a random direction) or "fractal"
            (smooth noise, each octave twice as fine and half as strong: Perlin 1985).
    """
    if kind == "pixels":
        return torch.rand(3, *size, generator=generator)
    if kind == "gradient":
        return _gradient(size, generator)
    return _fractal(size, generator)


def _gradient(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    height, width = size
    angle = 2 * math.pi * torch.rand(3, 1, 1, generator=generator)
    ends = torch.rand(2, 3, 1, 1, generator=generator)
    y = torch.linspace(-1, 1, height)[:, None]  # (H, 1)
    x = torch.linspace(-1, 1, width)[None]  # (1, W)
    cos = angle.cos()
    sin = angle.sin()
    along = (x * cos + y * sin) / (cos.abs() + sin.abs())  # (3, H, W), from -1 in one corner to 1 in the opposite one
    return ends[0] + (ends[1] - ends[0]) * (along + 1) / 2


def _fractal(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    height, width = size
    total = torch.zeros(3, height, width)
    cells = 2
    while cells <= max(2, min(size)):
        grid = torch.randn(1, 3, cells, math.ceil(cells * width / height), generator=generator)
        octave = F.interpolate(grid, size, mode="bicubic", align_corners=False)[0]
        total += octave / cells
        cells *= 2
    # the coarsest octave has a deviation of a quarter of the range
    return (0.5 + 0.5 * total).clamp(0, 1)
