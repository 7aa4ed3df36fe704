"""Augmentation that generated and real pictures share, so that a discriminator cannot learn few drawings by heart.

Karras et al. 2020, "Training generative adversarial networks with limited data", arXiv:2006.06676; Zhao et al. 2020,
"Differentiable augmentation for data-efficient GAN training", arXiv:2006.10738. Every operation is differentiable, and
each is left out with a probability above 0: otherwise the generator would learn to draw augmented pictures.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import BadParameter

MOST = 0.8  # probability up to which augmentations do not leak (Karras et al. 2020, section 2.2)
SHIFT = 0.125  # largest move, as part of the side
ZOOM = 0.2  # standard deviation of the logarithm of the size, to the base 2
BRIGHTNESS = 0.2  # standard deviation, in units of [-1, 1]
CONTRAST = 0.5  # standard deviation of the logarithm, to the base 2
HOLE = 0.35  # side of the erased square, as part of the picture's


@dataclass(frozen=True)
class DrawnAugmentation:
    """What is done to each of B pictures, at whatever size.

    Attributes:
        affine: (B, 2, 3), from places in the result to places in the picture. brightness, contrast, saturation: (B,).
        hole: (B, 4), x0, y0, x1, y1 in [0, 1]; of no area where nothing is erased.
    """

    affine: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hole: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return augmented pictures: (B, 3, H, W) in [-1, 1]; what enters from outside is white."""
        grid = F.affine_grid(self.affine.to(x), list(x.shape), align_corners=False)
        x = F.grid_sample(x - 1, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + 1
        grey = x.mean(dim=1, keepdim=True)
        x = grey + (x - grey) * _over(self.saturation, x)
        middle = x.mean(dim=(1, 2, 3), keepdim=True)
        x = middle + (x - middle) * _over(self.contrast, x) + _over(self.brightness, x)
        return x * ~self._erased(x)

    def share(self, rank: int, world_size: int) -> "DrawnAugmentation":
        """Return what is done to every `world_size`-th picture: the share of one process."""
        parts = [getattr(self, field.name)[rank::world_size] for field in fields(self)]
        return DrawnAugmentation(*parts)

    def each(self, pictures: Sequence[Tensor]) -> list[Tensor]:
        """Return pictures of several sizes, all augmented alike."""
        return [self(x) for x in pictures]

    def _erased(self, x: Tensor) -> Tensor:
        """Return which places are erased: (B, 1, H, W) bool."""
        height, width = x.shape[-2:]
        hole = self.hole.to(x.device)[:, :, None, None]  # (B, 4, 1, 1)
        rows = (torch.arange(height, device=x.device) + 0.5)[:, None] / height
        columns = (torch.arange(width, device=x.device) + 0.5)[None] / width
        inside = (columns >= hole[:, 0]) & (columns < hole[:, 2]) & (rows >= hole[:, 1]) & (rows < hole[:, 3])
        return inside[:, None]


def _over(values: Tensor, x: Tensor) -> Tensor:
    return values.to(x)[:, None, None, None]


def draw_augmentation(count: int, probability: float, generator: torch.Generator) -> DrawnAugmentation:
    """Draw what is done to each of so many pictures.

    Args:
        probability: with which each operation is applied to a picture: a move, a change of size, brightness, contrast,
            saturation, a hole; in [0, 0.8]. generator: on the CPU.

    Raises:
        BadParameter: a probability that would leak.
    """
    if not 0 <= probability <= MOST:
        raise BadParameter(f"probability must be in [0, {MOST}], above which the generator learns to draw augmented "
                           f"pictures; got {probability}")

    def chosen() -> Tensor:
        return (torch.rand(count, generator=generator) < probability).float()

    def normal() -> Tensor:
        return torch.randn(count, generator=generator)

    size = torch.exp2(chosen() * ZOOM * normal())
    moved = chosen()[:, None] * SHIFT * 2 * (2 * torch.rand(count, 2, generator=generator) - 1)
    affine = torch.zeros(count, 2, 3)
    affine[:, 0, 0] = 1 / size
    affine[:, 1, 1] = 1 / size
    affine[:, :, 2] = moved
    brightness = chosen() * BRIGHTNESS * normal()
    contrast = torch.exp2(chosen() * CONTRAST * normal())
    saturation = torch.exp2(chosen() * CONTRAST * normal())
    middle = torch.rand(count, 2, generator=generator)
    half = chosen()[:, None] * HOLE / 2
    hole = torch.cat([middle - half, middle + half], dim=1)  # (B, 4)
    return DrawnAugmentation(affine, brightness, contrast, saturation, hole)


class AdaptiveProbability:
    """The probability of augmentation, raised where the discriminator is too sure of real pictures.

    Its sign says how sure it is: r = E[sign(D(real))] is about 0 for one that guesses and 1 for one that knows all
    drawings (Karras et al. 2020, eq. 1, r_t). Where a guess has another score than 0, pass scores less that of a guess.

    Args:
        start: the first probability. target: of r. pictures: so many raise the probability from 0 to 1.

    Attributes:
        value: the probability now. sign: mean of r, smoothed.
    """

    def __init__(self, start: float = 0.0, *, target: float = 0.6, pictures: int = 20_000):
        self.value = start
        self.target = target
        self.pictures = pictures
        self.sign = 0.0

    def update(self, on_real: Tensor) -> None:
        """Move towards the target, after a step whose real pictures had these scores (..., B)."""
        sign = on_real.sign().mean().item()
        self.sign += 0.05 * (sign - self.sign)
        step = on_real.shape[-1] / self.pictures
        self.value += math.copysign(step, self.sign - self.target)
        self.value = min(max(self.value, 0.0), MOST)

    def state_dict(self) -> dict[str, float]:
        return {"value": self.value, "sign": self.sign}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.value = state["value"]
        self.sign = state["sign"]
