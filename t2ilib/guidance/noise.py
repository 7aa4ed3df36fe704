"""Random pictures of several kinds, from which a run may start."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

NOISES = ("pixels", "gradient", "fractal")


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
