"""Batched augmentation of RGBA pictures: one warp, any background, colour, blur, noise, erasing.

Everything is drawn from one generator and applied to the whole batch at once, so that a two-core laptop keeps up.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .captioned import CaptionedImages
from ..errors import BadParameter
from ..media import to_signed

# groups of the emoji set whose left and right mean the same; elsewhere hands point and signs are read
MIRRORED_GROUPS = frozenset({"Animals & Nature", "Food & Drink", "Objects", "Activities", "Travel & Places"})


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _rgba(images: Tensor) -> Tensor:
    """Return uint8 pictures (B, 4 or 3, S, S) as floats (B, 4, S, S) in [0, 1], opaque where they have no alpha."""
    if images.ndim != 4 or images.shape[1] not in (3, 4) or images.shape[2] != images.shape[3]:
        raise BadParameter(f"pictures must be square, (B, 3 or 4, S, S), got {tuple(images.shape)}")
    if images.dtype != torch.uint8:
        raise BadParameter(f"pictures must be uint8 in 0 .. 255, got {images.dtype}")
    x = images.float() / 255
    if x.shape[1] == 3:
        opaque = torch.ones_like(x[:, :1])
        x = torch.cat([x, opaque], dim=1)
    return x


def random_affine(n: int, generator: torch.Generator, *, degrees: float = 15.0,
                  scale: tuple[float, float] = (0.75, 1.15),
                  stretch: float = 0.1, shift: float = 0.12) -> Tensor:
    """Return n sampling matrices (n, 2, 3) in normalised coordinates, ready for `affine_grid`.

    Args:
        degrees: largest rotation to either side. scale: size of the picture in the result.
        stretch: largest relative change of the aspect. shift: largest move, as part of the side.
    """
    angle = math.pi / 180 * _uniform((n,), -degrees, degrees, generator)
    size = _uniform((n,), *scale, generator)
    aspect = torch.exp(_uniform((n,), -stretch, stretch, generator) / 2)
    move = 2 * _uniform((n, 2), -shift, shift, generator)
    # from a place in the result to a place in the picture, hence divided by the size
    cos = torch.cos(angle) / size
    sin = torch.sin(angle) / size
    linear = torch.stack([cos * aspect, -sin * aspect, sin / aspect, cos / aspect], dim=1)
    linear = linear.view(n, 2, 2)
    offset = linear @ move[:, :, None]  # (n, 2, 1)
    return torch.cat([linear, offset], dim=2)


def random_backgrounds(n: int, size: int, generator: torch.Generator, *, white: float = 0.4) -> Tensor:
    """Return n backgrounds (n, 3, size, size) in [0, 1]: white with probability `white`, else soft colour gradients."""
    start, end = torch.rand((2, n, 3, 1, 1), generator=generator)
    contrast = 0.5 * torch.rand((n, 1, 1, 1), generator=generator)
    end = torch.lerp(start, end, contrast)
    angle = _uniform((n, 1, 1), 0, 2 * math.pi, generator)
    axis = torch.linspace(-1, 1, size)
    along = torch.cos(angle) * axis[None, None, :] + torch.sin(angle) * axis[None, :, None]  # (n, size, size)
    ramp = 0.5 + 0.35 * along
    gradient = torch.lerp(start, end, ramp[:, None])  # (n, 3, size, size)
    is_white = torch.rand((n, 1, 1, 1), generator=generator) < white
    return torch.where(is_white, torch.ones(()), gradient)


def composite(rgba: Tensor, background: Tensor) -> Tensor:
    """Lay pictures (B, 4, H, W) in [0, 1], not premultiplied, over backgrounds that broadcast to (B, 3, H, W)."""
    background = background.expand(len(rgba), 3, *rgba.shape[2:])
    return torch.lerp(background, rgba[:, :3], rgba[:, 3:])


def blur(x: Tensor, amount: Tensor) -> Tensor:
    """Mix each picture with its 5x5 binomial blur; `amount` (B,) in [0, 1]."""
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=x.device) / 16
    channels = x.shape[1]
    weight = (kernel[:, None] * kernel[None]).expand(channels, 1, 5, 5)
    padded = F.pad(x, (2, 2, 2, 2), mode="replicate")
    blurred = F.conv2d(padded, weight, groups=channels)
    return torch.lerp(x, blurred, amount.view(-1, 1, 1, 1))


def erase(x: Tensor, generator: torch.Generator, *, probability: float = 0.5,
          side: tuple[float, float] = (0.15, 0.4)) -> Tensor:
    """Fill one rectangle of each picture with a random colour, with this probability; sides as parts of the picture."""
    n, _, h, w = x.shape
    half = _uniform((n, 2), *side, generator) / 2
    centre = torch.rand((n, 2), generator=generator)
    rows = (torch.linspace(0, 1, h) - centre[:, :1]).abs() < half[:, :1]  # (n, h)
    columns = (torch.linspace(0, 1, w) - centre[:, 1:]).abs() < half[:, 1:]  # (n, w)
    inside = rows[:, :, None] & columns[:, None, :]  # (n, h, w)
    inside &= torch.rand((n, 1, 1), generator=generator) < probability
    colour = torch.rand((n, 3, 1, 1), generator=generator)
    return torch.where(inside[:, None].to(x.device), colour.to(x), x)


def augment(images: Tensor, generator: torch.Generator, *, strength: float = 1.0) -> Tensor:
    """Turn uint8 pictures (B, 4 or 3, H, W) into varied training pictures (B, 3, H, W) in [0, 1].

    Warp, background, brightness and contrast, blur, noise, and an erased rectangle. Hue stays: colour words are part
    of the captions. `strength` 0 gives the plain pictures on white.

    Args:
        generator: CPU stream; the same stream gives the same pictures on every device.
        strength: in [0, 2].

    Raises:
        BadParameter: pictures that are not square or not uint8, or a strength out of range.
    """
    if not 0 <= strength <= 2:
        raise BadParameter(f"strength must be in [0, 2], got {strength}")
    x = _rgba(images)
    if strength == 0:
        return composite(x, torch.ones((), device=x.device))
    x = _warped(x, generator, strength)
    x = _recoloured(x, generator, strength)
    amount = (torch.rand(len(x), generator=generator) * 2 - 1).clamp(min=0)  # half of the pictures stay sharp
    x = blur(x, amount.to(x.device))
    noise = torch.randn(x.shape, generator=generator)
    noise *= _uniform((len(x), 1, 1, 1), -0.06 * strength, 0.06 * strength, generator).clamp(min=0)
    x = (x + noise.to(x.device)).clamp(0, 1)
    return erase(x, generator, probability=0.4 * strength)


def _warped(x: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Turn, scale, stretch and move pictures (B, 4, S, S), and lay them over backgrounds: (B, 3, S, S)."""
    n = len(x)
    size = x.shape[-1]
    scale = (1 - 0.25 * strength, 1 + 0.15 * strength)
    theta = random_affine(n, generator, degrees=15 * strength, scale=scale, stretch=0.15 * strength,
                          shift=0.1 * strength)
    # premultiplied: no dark fringe from interpolation
    x = torch.cat([x[:, :3] * x[:, 3:], x[:, 3:]], dim=1)
    grid = F.affine_grid(theta, [n, 4, size, size], align_corners=False).to(x.device)  # (B, S, S, 2)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    background = random_backgrounds(n, size, generator).to(x.device)
    return x[:, :3] + (1 - x[:, 3:]) * background


def _recoloured(x: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Change contrast and brightness of pictures (B, 3, S, S) in [0, 1]."""
    shape = (len(x), 1, 1, 1)
    gain = _uniform(shape, 1 - 0.2 * strength, 1 + 0.2 * strength, generator).to(x.device)
    offset = _uniform(shape, -0.1 * strength, 0.1 * strength, generator).to(x.device)
    return ((x - 0.5) * gain + 0.5 + offset).clamp(0, 1)


def augment_exact(images: Tensor, generator: torch.Generator, *, shift: int = 4, mirror: float | Tensor = 0.5,
                  recolour: float = 0.3, white: float = 0.7) -> Tensor:
    """Vary uint8 pictures (B, 4 or 3, H, W) without resampling a pixel -> (B, 3, H, W) in [-1, 1].

    For autoencoders, which are to keep edges sharp: mirror, move by whole pixels, exchange colour channels, lay over
    a background.

    Args:
        shift: largest move in pixels. mirror: probability of a left-right mirror, one for all or one each (B,).
        recolour: share of pictures whose channels are exchanged.
        white: share of white backgrounds; the others are soft colour gradients.
    """
    x = _rgba(images)
    n = len(x)
    size = x.shape[-1]
    order = torch.rand((n, 3), generator=generator).argsort(dim=1)
    keep = torch.rand((n, 1), generator=generator) >= recolour
    order = torch.where(keep, torch.arange(3), order)
    order = torch.cat([order, torch.full((n, 1), 3)], dim=1)  # (n, 4), the transparency stays last
    pixels = torch.arange(size)
    is_mirrored = torch.rand((n, 1), generator=generator) < torch.as_tensor(mirror).reshape(-1, 1)
    columns = torch.where(is_mirrored, pixels.flip(0), pixels)
    columns = columns + torch.randint(-shift, shift + 1, (n, 1), generator=generator)  # (n, size)
    rows = pixels + torch.randint(-shift, shift + 1, (n, 1), generator=generator)  # (n, size)
    column_inside = (columns >= 0) & (columns < size)
    row_inside = (rows >= 0) & (rows < size)
    inside = row_inside[:, None, :, None] & column_inside[:, None, None, :]  # (n, 1, size, size)
    batch = torch.arange(n)[:, None, None, None].to(x.device)
    order = order[:, :, None, None].to(x.device)
    rows = rows.clamp(0, size - 1)[:, None, :, None].to(x.device)
    columns = columns.clamp(0, size - 1)[:, None, None, :].to(x.device)
    x = x[batch, order, rows, columns]  # (n, 4, size, size)
    x[:, 3:] *= inside.to(x)
    background = random_backgrounds(n, size, generator, white=white).to(x)
    return to_signed(composite(x, background))


def mirror_chances(data: CaptionedImages) -> Tensor:
    """Return the probability of a left-right mirror for each picture (N,), as `augment_exact` takes it.

    One half where left and right mean the same, and 0 for clocks, for hands and signs, and for sets without groups.
    """
    unknown = [""] * len(data)
    groups = data.columns.get("group", unknown)
    subgroups = data.columns.get("subgroup", unknown)
    chances = []
    for group, subgroup in zip(groups, subgroups, strict=True):
        mirrored = group in MIRRORED_GROUPS and subgroup != "time"
        chances.append(0.5 if mirrored else 0.0)
    return torch.tensor(chances)
