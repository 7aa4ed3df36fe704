"""Read a picture of coloured shapes: which there are, in which colours, and where. No network takes part.

What differs from the white ground falls into connected parts. Each part is compared with all shapes, sharp and blurred,
at the centre and extent that make their moments equal, and its colour with all colours. A part that is like none of
them, or like two of them, is reported as unknown, never as the nearest one.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.colors import oklab
from ..data.shapes import COLORS, SHAPES, UNITS, color_table, coverage
from ..errors import BadParameter

# Calibrated on scenes of other seeds and on their perturbed copies.
MIN_OVERLAP = 0.83  # intersection over union with the best shape
MIN_LEAD = 0.04  # of the best shape before the second
MAX_COLOR_DISTANCE = 0.11  # in OKLab
MAX_OTHER_COLORS = 0.06  # share of a part's squared difference from the ground that its one colour does not explain
MAX_GROUND_DISTANCE = 0.12  # of the ground from white, in OKLab
_FOREGROUND = 0.22  # difference from the ground, as length in RGB
_LEAST_AREA = 40  # in units^2: the smallest shape of a scene covers 250
_SMOOTHING = 1.0  # standard deviation in units, against noise
_AROUND = 4  # units around a part that may belong to its soft edge
_BLURS = (0.02, 0.05, 0.08, 0.11)  # standard deviations that are tried, relative to a shape's size
_SCALES = (0.96, 1.0, 1.04)  # sizes that are tried, relative to that of equal moments
_FRAME = 1.5  # side of the square in which shapes are compared, relative to their size
_FRAME_PIXELS = 48


@dataclass(frozen=True)
class Found:
    """Something that a picture shows.

    Attributes:
        shape, color: of `SHAPES` and `COLORS`; None where it is like none of them. A thing of unknown shape has no
            colour.
        x, y, size: centre, and side of the square that the shape fits into, in units: the picture's side has 128.
        overlap: intersection over union with the best shape, in [0, 1].
        color_distance: in OKLab, to the nearest colour.
    """

    shape: str | None
    color: str | None
    x: float
    y: float
    size: float
    overlap: float
    color_distance: float


def parse_shapes(picture: Tensor) -> list[Found]:
    """Return all that a picture shows, from left to right.

    Args:
        picture: (3, S, S) in [0, 1]. From 32 pixels up all scenes of the set are read without a mistake.

    Raises:
        BadParameter: If the picture has another shape, or values outside [0, 1].
    """
    pixels = _in_units(picture)
    ground = np.median(_border(pixels), axis=0)  # (3,)
    if np.linalg.norm(oklab(ground) - oklab(np.ones(3))) > MAX_GROUND_DISTANCE:
        # nothing stands on white here: the whole picture is one thing, and no shape
        return [Found(None, None, UNITS / 2, UNITS / 2, float(UNITS), 0.0, float("inf"))]
    found = [_recognized(*part, ground) for part in _parts(pixels - ground)]
    return sorted(found, key=lambda thing: thing.x)


def _in_units(picture: Tensor) -> np.ndarray:
    """Return a picture with one pixel for each unit, smoothed: (128, 128, 3) in float64."""
    if not isinstance(picture, Tensor) or picture.ndim != 3 or picture.shape[0] != 3 or len(set(picture.shape[1:])) > 1:
        raise BadParameter(f"a picture of shapes is a tensor (3, S, S), got {_shape_of(picture)}.")
    low = float(picture.min())
    high = float(picture.max())
    if not -1e-3 <= low <= high <= 1 + 1e-3:  # also false for NaN
        raise BadParameter(f"values of a picture of shapes lie in [0, 1], got {low:.3g}..{high:.3g}.")
    x = picture.detach().cpu().double()[None]
    if x.shape[-1] != UNITS:
        x = F.interpolate(x, (UNITS, UNITS), mode="bicubic", antialias=True, align_corners=False)
    x = F.conv2d(F.pad(x, (3, 3, 3, 3), mode="replicate").transpose(0, 1), _gaussian())  # (3, 1, 128, 128)
    return x[:, 0].permute(1, 2, 0).clamp(0, 1).numpy()


def _shape_of(picture: Any) -> Any:
    return tuple(picture.shape) if isinstance(picture, Tensor) else type(picture).__name__


@functools.cache
def _gaussian() -> Tensor:
    """Return the kernel of the smoothing: (1, 1, 7, 7)."""
    places = torch.arange(-3, 4, dtype=torch.float64)
    line = torch.exp(-places ** 2 / (2 * _SMOOTHING ** 2))
    line = line / line.sum()
    return (line[:, None] * line)[None, None]


def _border(pixels: np.ndarray) -> np.ndarray:
    """Return the pixels along the border, two wide: (n, 3)."""
    inner = np.zeros(pixels.shape[:2], dtype=bool)
    inner[2:-2, 2:-2] = True
    return pixels[~inner]


def _parts(difference: np.ndarray) -> list[tuple[np.ndarray, int, int]]:
    """Return the connected parts of what differs from the ground (128, 128, 3).

    Returns:
        Of each its difference from the ground (h, w, 3), 0 where other parts are, and its left and top end.
    """
    from scipy import ndimage

    strength = np.linalg.norm(difference, axis=-1)
    labels, _ = ndimage.label(strength > _FOREGROUND, structure=np.ones((3, 3)))
    parts = []
    for number, window in enumerate(ndimage.find_objects(labels), start=1):
        if (labels[window] == number).sum() < _LEAST_AREA:
            continue
        top = max(window[0].start - _AROUND, 0)
        left = max(window[1].start - _AROUND, 0)
        wider = (slice(top, window[0].stop + _AROUND), slice(left, window[1].stop + _AROUND))
        is_own = labels[wider] == number
        near = ndimage.binary_dilation(is_own, iterations=_AROUND)
        is_own = near & ((labels[wider] == 0) | is_own)
        parts.append((difference[wider] * is_own[..., None], left, top))
    return parts


def _recognized(part: np.ndarray, left: int, top: int, ground: np.ndarray) -> Found:
    """Return what a part is, given its difference from the ground (h, w, 3)."""
    opacity, other_colors = _opacity(part)
    overlaps, centers, sizes = _compare(opacity)
    best = int(overlaps.argmax())
    shape = best // (len(_BLURS) * len(_SCALES))
    by_shape = overlaps.view(len(SHAPES), -1).amax(1)
    lead = float(by_shape[shape] - by_shape[torch.arange(len(SHAPES)) != shape].max())
    color = ground + _color(part, best, centers[best], sizes[best])
    distances = np.linalg.norm(color_table() - oklab(np.clip(color, 0, 1)), axis=1)
    is_plain = other_colors <= MAX_OTHER_COLORS
    is_shape = is_plain and float(overlaps[best]) >= MIN_OVERLAP and lead >= MIN_LEAD
    is_color = is_shape and distances.min() <= MAX_COLOR_DISTANCE  # measured where the shape is
    x, y = centers[best].tolist()
    return Found(shape=list(SHAPES)[shape] if is_shape else None,
                 color=list(COLORS)[distances.argmin()] if is_color else None,
                 x=x + left, y=y + top, size=float(sizes[best]),
                 overlap=float(overlaps[best]), color_distance=float(distances.min()))


def _opacity(part: np.ndarray) -> tuple[np.ndarray, float]:
    """Return how much each place (h, w) has of the part's strongest colour, and what that colour does not explain."""
    strength = np.linalg.norm(part, axis=-1)
    strongest = strength >= 0.85 * np.quantile(strength[strength > _FOREGROUND], 0.9)
    color = np.median(part[strongest], axis=0)  # (3,), relative to the ground
    opacity = np.maximum(part @ color / (color @ color), 0)  # (h, w)
    rest = part - opacity[..., None] * color
    return opacity, float((rest ** 2).sum() / (part ** 2).sum())


def _measured(mask: np.ndarray) -> tuple[float, float, float]:
    """Return centroid x, y (from the upper left corner) and radius of gyration of an opacity (h, w), in pixels."""
    area = mask.sum()
    down = np.arange(mask.shape[0])[:, None] + 0.5
    across = np.arange(mask.shape[1])[None, :] + 0.5
    x = (mask * across).sum() / area
    y = (mask * down).sum() / area
    square = (mask * ((across - x) ** 2 + (down - y) ** 2)).sum() / area
    return float(x), float(y), float(square ** 0.5)


@functools.cache
def _templates() -> tuple[Tensor, Tensor, Tensor]:
    """Return what parts are compared with: each shape with each blur at each scale, K in all.

    Shapes:
        results: opacities (K, 48, 48) in a frame of 1.5 sizes; centroids (K, 2), relative to the size and the centre;
            and the sizes (K,) at which the radius of gyration is 1.
    """
    from scipy import ndimage

    fine = 4 * _FRAME_PIXELS
    unit = fine / _FRAME  # pixels of the fine frame in the size of a shape
    opacities = []
    centroids = []
    sizes = []
    for shape in SHAPES:
        sharp = coverage(shape, fine / 2, fine / 2, unit, fine, samples=4)
        x, y, radius = _measured(sharp)
        for blur in _BLURS:
            blurred = ndimage.gaussian_filter(sharp, blur * unit, mode="constant")
            blurred = blurred.reshape(_FRAME_PIXELS, 4, _FRAME_PIXELS, 4).mean((1, 3))
            # a blur adds its variance along both axes to the squared radius
            radius_blurred = math.hypot(radius / unit, blur, blur)
            for scale in _SCALES:
                opacities.append(torch.from_numpy(blurred).float())
                centroids.append([(x - fine / 2) / unit, (y - fine / 2) / unit])
                sizes.append(scale / radius_blurred)
    return torch.stack(opacities), torch.tensor(centroids), torch.tensor(sizes)


def _compare(opacity: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Return intersection over union of an opacity (h, w) with all K templates, and their centres and sizes there.

    Shapes:
        results: (K,) in [0, 1], (K, 2), (K,)
    """
    templates, centroids, unit_sizes = _templates()
    x, y, radius = _measured(opacity)
    sizes = unit_sizes * radius
    centers = torch.tensor([x, y]) - centroids * sizes[:, None]
    framed = _framed(torch.from_numpy(opacity).float()[None], centers, sizes)[:, 0]  # (K, 48, 48)
    # the strongest place of a small or blurred shape is not all of its colour: equal sums make them comparable
    framed = framed * (templates.sum((1, 2)) / framed.sum((1, 2)).clamp(min=1e-6))[:, None, None]
    both = torch.minimum(templates, framed).sum((1, 2))
    either = torch.maximum(templates, framed).sum((1, 2))
    return both / either, centers, sizes


def _framed(values: Tensor, centers: Tensor, sizes: Tensor) -> Tensor:
    """Return values (C, h, w) as seen in frames around centres (K, 2), of 1.5 sizes (K,): (K, C, 48, 48)."""
    height, width = values.shape[-2:]
    places = (torch.arange(_FRAME_PIXELS) + 0.5) / _FRAME_PIXELS - 0.5
    places = _FRAME * places * sizes[:, None]  # (K, 48), in pixels from the centre
    across = 2 * (centers[:, :1] + places) / width - 1  # (K, 48), in [-1, 1] inside the window
    down = 2 * (centers[:, 1:] + places) / height - 1
    grid = torch.stack(torch.broadcast_tensors(across[:, None, :], down[:, :, None]), dim=-1)  # (K, 48, 48, 2)
    expanded = values.expand(len(sizes), -1, -1, -1)
    return F.grid_sample(expanded, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _color(part: np.ndarray, template: int, center: Tensor, size: Tensor) -> np.ndarray:
    """Return the colour, relative to the ground, that makes a template most like a part (least squares): (3,)."""
    opacity = _templates()[0][template]
    values = torch.from_numpy(part).float().permute(2, 0, 1)  # (3, h, w)
    framed = _framed(values, center[None], size[None])[0]  # (3, 48, 48)
    return ((framed * opacity).sum((1, 2)) / (opacity ** 2).sum()).double().numpy()
