"""Draw coloured shapes on white, at any size: what there is to draw, where it stands, and how it is rendered.

A scene stands on a grid of 128 x 128 units whatever the size of the picture, so that the same scene at 64 and at 128
pixels is the same picture. y points down.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .colors import oklab
from ..errors import check_name

UNITS = 128  # of a picture's side
# sRGB. In OKLab any two are at least 0.17 apart, and all are at least 0.20 from white.
COLORS = {
    "red": (227, 36, 43), "orange": (255, 140, 26), "yellow": (255, 217, 26), "green": (31, 163, 68),
    "blue": (31, 79, 224), "purple": (138, 47, 184), "pink": (255, 143, 196), "brown": (122, 69, 34),
    "grey": (154, 154, 154), "black": (26, 26, 26),
}
_NEAR = 0.1  # of two sizes, GenEval's POSITION_THRESHOLD
_FINEST = 8  # samples along each side of a pixel
_MOST_SAMPLES = 2048  # along the side of one shape


class Placed(Protocol):
    """What has a place in a picture."""

    @property
    def x(self) -> float: ...

    @property
    def y(self) -> float: ...

    @property
    def size(self) -> float: ...


@dataclass(frozen=True)
class Thing:
    """One coloured shape of a scene.

    Attributes:
        shape, color: of `SHAPES` and `COLORS`.
        x, y: its centre, in units. size: side of the square that it fits into, in units.
    """

    shape: str
    color: str
    x: int
    y: int
    size: int


def relations_between(first: Placed, second: Placed) -> list[str]:
    """Return where the first is, seen from the second: up to two of "left of", "right of", "above", "below".

    The rule is GenEval's (Ghosh et al. 2023, `relative_position` of its code): an offset of less than a tenth of both
    sizes together does not count, and an axis counts if it has more than half of the offset's length.
    """
    slack = _NEAR * (first.size + second.size)
    across = first.x - second.x
    down = first.y - second.y
    across = math.copysign(max(abs(across) - slack, 0.0), across)
    down = math.copysign(max(abs(down) - slack, 0.0), down)
    length = math.hypot(across, down)
    shares = {"left of": -across, "right of": across, "above": -down, "below": down}
    return [relation for relation, share in shares.items() if share > 0.5 * length]


def _polygon(x: np.ndarray, y: np.ndarray, corners: Sequence[tuple[float, float]]) -> np.ndarray:
    """Return which points lie inside a polygon: those from which a ray to the right crosses its outline oddly often."""
    inside = np.zeros(np.broadcast(x, y).shape, dtype=bool)
    for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], corners[0]], strict=True):
        if y1 == y2:
            continue
        in_height = (y1 > y) != (y2 > y)
        crossing = x1 + (y - y1) * (x2 - x1) / (y2 - y1)
        inside ^= in_height & (x < crossing)
    return inside


def _star_corners(inner: float) -> list[tuple[float, float]]:
    """Return the ten corners of a star with five points, the first of which points up."""
    corners = []
    for i in range(10):
        radius = 0.5 if i % 2 == 0 else inner
        angle = math.pi * i / 5
        corners.append((radius * math.sin(angle), -radius * math.cos(angle)))
    return corners


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x ** 2 + y ** 2 < 0.25


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (abs(x) < 0.45) & (abs(y) < 0.45)


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _polygon(x, y, [(0.0, -0.48), (0.5, 0.42), (-0.5, 0.42)])


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _polygon(x, y, _star_corners(0.22))


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    nearer = np.minimum(abs(x), abs(y))
    farther = np.maximum(abs(x), abs(y))
    return (nearer < 0.16) & (farther < 0.5)


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    square = x ** 2 + y ** 2
    return (square < 0.25) & (square > 0.28 ** 2)


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The curve (u^2 + v^2 - 1)^3 = u^2 v^3."""
    u = 2.32 * x
    v = 0.12 - 2.32 * y
    return (u ** 2 + v ** 2 - 1) ** 3 < u ** 2 * v ** 3


def _crescent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A circle without another one, which lies to its right."""
    x = x - 0.07
    bitten = (x - 0.25) ** 2 + y ** 2 < 0.39 ** 2
    return (x ** 2 + y ** 2 < 0.25) & ~bitten


# Each says which points (x, y) of the square [-0.5, 0.5] x [-0.5, 0.5] lie inside a shape.
SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": _circle, "square": _square, "triangle": _triangle, "star": _star, "cross": _cross, "ring": _ring,
    "heart": _heart, "crescent": _crescent,
}


def coverage(shape: str, x: float, y: float, size: float, pixels: int, *, samples: int = _FINEST) -> np.ndarray:
    """Return how much of each pixel a shape covers: (pixels, pixels) in [0, 1].

    Args:
        x, y: centre of the shape, in pixels from the upper left corner. size: its side in pixels.
        samples: along each side of a pixel.
    """
    places = (np.arange(pixels * samples) + 0.5) / samples
    across = (places - x) / size
    down = (places - y) / size
    inside = SHAPES[shape](across[None, :], down[:, None])  # (pixels samples, pixels samples)
    return inside.reshape(pixels, samples, pixels, samples).mean((1, 3))


@functools.lru_cache(maxsize=4096)
def _coverage_at(shape: str, x_rest: int, y_rest: int, size: int, image_size: int) -> np.ndarray:
    """Return the coverage of a shape whose square begins `x_rest`, `y_rest` (of 256) pixels inside the first pixel.

    Shapes of one size at one place between pixels are drawn once, whatever the picture.
    """
    scale = image_size / UNITS
    side = size * scale
    x = x_rest / (2 * UNITS) + side / 2
    y = y_rest / (2 * UNITS) + side / 2
    pixels = math.ceil(max(x, y) + side / 2)
    samples = min(max(_MOST_SAMPLES // pixels, 2), _FINEST)
    return coverage(shape, x, y, side, pixels, samples=samples).astype(np.float32)


def draw_scene(things: Sequence[Thing], image_size: int) -> np.ndarray:
    """Draw things on white, with soft edges; things do not hang over the border.

    Shapes:
        result: (image_size, image_size, 3) uint8.

    Raises:
        UnknownName: If there is no such shape or colour.
    """
    picture = np.full((image_size, image_size, 3), 255, dtype=np.float32)
    for thing in things:
        check_name("shape", thing.shape, SHAPES)
        check_name("colour", thing.color, COLORS)
        # whole numbers, so that places between pixels are the same on every machine
        left, x_rest = divmod((2 * thing.x - thing.size) * image_size, 2 * UNITS)
        top, y_rest = divmod((2 * thing.y - thing.size) * image_size, 2 * UNITS)
        opacity = _coverage_at(thing.shape, x_rest, y_rest, thing.size, image_size)
        part = picture[top:top + len(opacity), left:left + len(opacity)]  # a view
        opacity = opacity[:part.shape[0], :part.shape[1], None]
        part += opacity * (np.array(COLORS[thing.color], dtype=np.float32) - part)
    return np.rint(picture).astype(np.uint8)


def color_table() -> np.ndarray:
    """Return the colours in OKLab: (number of colours, 3), in the order of `COLORS`."""
    return oklab(np.array(list(COLORS.values())) / 255)
