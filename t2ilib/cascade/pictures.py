"""Pictures of two sizes: what a super-resolution network is given, in training and in sampling alike."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..diffusion import Schedule, q_sample
from ..errors import BadParameter


def enlarge(x: Tensor, size: int) -> Tensor:
    """Resize pictures (B, C, h, w) to (B, C, size, size) by bilinear interpolation, which stays in the range of x."""
    if x.shape[-2:] == (size, size):
        return x
    return F.interpolate(x, (size, size), mode="bilinear", align_corners=False)


def downsample(x: Tensor, size: int) -> Tensor:
    """Shrink pictures (B, C, H, W) in [-1, 1] to (B, C, size, size) without aliasing.

    The average of whole blocks where the sides divide, else bicubic with a low-pass filter. Where a set has drawings of
    the smaller size, those are the better pair.
    """
    if any(side < size for side in x.shape[-2:]):
        raise BadParameter(f"cannot shrink pictures of {tuple(x.shape[-2:])} to {size} pixels; use enlarge")
    if all(side % size == 0 for side in x.shape[-2:]):
        return F.adaptive_avg_pool2d(x, size)
    return F.interpolate(x, (size, size), mode="bicubic", antialias=True).clamp(-1, 1)


def draw_low_resolution_condition(low: Tensor, size: int, generator: torch.Generator, *,
                                  max_level: float = 0.5) -> tuple[Tensor, Tensor]:
    """Return what a super-resolution network learns from beside the picture: the smaller one, noised to a random time.

    Args:
        low: (B, C, h, w) in [-1, 1]. size: side of the larger pictures. generator: on the CPU.
        max_level: times are uniform between 0 and this.

    Shapes:
        result: (B, C, size, size) as from `low_resolution_condition`, and its times (B,)
    """
    level = max_level * torch.rand(len(low), generator=generator)
    eps = torch.randn((len(low), low.shape[1], size, size), generator=generator)
    return low_resolution_condition(low, size, level, eps), level


def low_resolution_condition(low: Tensor, size: int, level: float | Tensor, eps: Tensor, *,
                             schedule: str = "cosine") -> Tensor:
    """Return what a super-resolution network sees of the smaller picture: enlarged, then noised at time `level`.

    Both in units of the networks. A picture in [0, 1] that is noised and only then brought to [-1, 1] has another mean
    and twice the noise, and a network that never saw that in training answers with noise.

    Args:
        low: (B, C, h, w) in [-1, 1]. level: time in [0, 1], one or (B,). eps: noise (B, C, size, size).
    """
    level = torch.as_tensor(level, dtype=torch.float32, device=low.device).expand(len(low))
    return q_sample(enlarge(low, size), level, eps, schedule=Schedule(schedule))


def core_details(pictures: Tensor, smaller: Tensor, faintest: float) -> Tensor:
    """Take away what enlarging has added to the smaller pictures where it is faint: there it is grain, not detail.

    Coring, as for noise in wavelet coefficients (Simoncelli and Adelson 1996), of the difference to the smaller picture
    enlarged: with e its mean square among the neighbours of a pixel, (e / (e + faintest^2))^2 of it stays.

    Args:
        pictures: (B, 3, H, W) in [-1, 1]. smaller: (B, 3, h, w) in [-1, 1].
        faintest: difference of which a quarter stays, in units of the pictures; 0 keeps everything.
    """
    if faintest == 0:
        return pictures
    enlarged = F.interpolate(smaller, pictures.shape[-2:], mode="bicubic", align_corners=False).clamp(-1, 1)
    detail = pictures - enlarged
    square = detail.square().mean(1, keepdim=True)  # (B, 1, H, W)
    strength = F.avg_pool2d(F.pad(square, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    kept = strength / (strength + faintest**2)
    return (enlarged + kept**2 * detail).clamp(-1, 1)


def predict_with_margin(network: Callable[..., Tensor], x_t: Tensor, t: Tensor, margin: int, *, low: Tensor,
                        **condition: Tensor) -> Tensor:
    """Return what a super-resolution network predicts if pictures go on in their mirror image around the edges.

    Where a convolution reads zeros beyond the edge, a small network leaves dashes; they are cut off with the margin.

    Args:
        network: `(x_t, t, low=, **condition) -> prediction` for any size. x_t, low: (B, C, S, S). t: (B,).
        margin: pixels, less than S; S + 2 margin must be a size that the network takes.

    Shapes:
        result: (B, C, S, S)
    """
    size = x_t.shape[-1]
    sides = (margin,) * 4
    x_t = F.pad(x_t, sides, mode="reflect")  # (B, C, S + 2 margin, S + 2 margin)
    low = F.pad(low, sides, mode="reflect")
    prediction = network(x_t, t, low=low, **condition)
    return prediction[..., margin:margin + size, margin:margin + size]


def random_crop_pairs(high: Tensor, low: Tensor, crop: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cut the same place out of both pictures of each pair, another one in each pair.

    Training on crops suffices for super-resolution, which works with what is near. Give `low` already enlarged (the
    factor is 1 then) if crops should also see across their edges what whole pictures see there.

    Args:
        high: (B, C, H, W). low: (B, C, H / f, W / f). crop: side in pixels of `high`, a multiple of f.

    Shapes:
        result: (B, C, crop, crop), (B, C, crop / f, crop / f)

    Raises:
        BadParameter: sizes that do not belong together.
    """
    height, width = high.shape[-2:]
    h, w = low.shape[-2:]
    factor = height // max(h, 1)
    fits = len(high) == len(low) and factor >= 1 and (h * factor, w * factor) == (height, width)
    if not fits:
        raise BadParameter(f"pairs must be as many, and one size a multiple of the other; got {tuple(high.shape)} and "
                           f"{tuple(low.shape)}")
    if crop % factor or not 0 < crop <= min(height, width):
        raise BadParameter(f"crop must be a multiple of the factor {factor}, at most {min(height, width)}; got {crop}")
    side = crop // factor
    tops = torch.randint(h - side + 1, (len(low),), generator=generator).to(low.device)
    lefts = torch.randint(w - side + 1, (len(low),), generator=generator).to(low.device)
    return _crop(high, factor * tops, factor * lefts, crop), _crop(low, tops, lefts, side)


def _crop(x: Tensor, tops: Tensor, lefts: Tensor, side: int) -> Tensor:
    """Return a square of each picture: x (B, C, H, W), tops and lefts (B,) -> (B, C, side, side)."""
    offsets = torch.arange(side, device=x.device)
    rows = tops[:, None] + offsets  # (B, side)
    columns = lefts[:, None] + offsets
    pictures = torch.arange(len(x), device=x.device)
    x = x.permute(0, 2, 3, 1)  # (B, H, W, C)
    squares = x[pictures[:, None, None], rows[:, :, None], columns[:, None, :]]  # (B, side, side, C)
    return squares.permute(0, 3, 1, 2).contiguous()
