"""A picture on which a mask is drawn with mouse, pen or finger, and the mask that the strokes make.

The browser keeps nothing but strokes: [{"radius": share of the shorter side, "erase": bool, "points": [[x, y], ...]}],
x and y in shares of width and height. Python draws the mask from them.
"""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from ..errors import BadParameter, MissingAsset

SCRIPT = Path(__file__).with_name("mask_canvas.js")
MASK_SIDE = 256  # pixels at least of the longer side of a mask
MOST_POINTS = 200_000  # of all strokes


def new_canvas() -> Any:
    """Return a widget with the traits `picture` (PNG bytes, empty for none), `width`, `height` and `strokes`.

    Raises:
        MissingAsset: the package anywidget is not installed.
    """
    return _canvas_class()()


@functools.cache
def _canvas_class() -> Any:
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise MissingAsset("to draw a mask with the mouse, install the package anywidget (pip install anywidget), "
                           "start the kernel anew and reload the page") from error

    class MaskCanvas(anywidget.AnyWidget):
        _esm = SCRIPT.read_text(encoding="utf-8")
        picture = traitlets.Bytes().tag(sync=True)
        width = traitlets.Int(1).tag(sync=True)
        height = traitlets.Int(1).tag(sync=True)
        strokes = traitlets.List().tag(sync=True)

    return MaskCanvas


def mask_picture(strokes: Sequence[dict[str, Any]], size: tuple[int, int]) -> Image.Image | None:
    """Return the mask of strokes, white where they went and black elsewhere; None where nothing is white.

    Args:
        size: width and height of the picture; the mask has its aspect, and a longer side of 256 pixels at least.

    Raises:
        BadParameter: these are no strokes.
    """
    factor = math.ceil(MASK_SIDE / max(size))
    width = size[0] * factor
    height = size[1] * factor
    mask = Image.new("L", (width, height), 0)
    pen = ImageDraw.Draw(mask)
    for radius, erase, points in _read_strokes(strokes):
        r = radius * min(width, height)
        colour = 0 if erase else 255
        places = [(x * width, y * height) for x, y in points]
        pen.line(places, fill=colour, width=max(1, round(2 * r)))
        for x, y in places:  # round ends and joints
            pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    return mask if mask.getbbox() else None


def _read_strokes(strokes: Sequence[dict[str, Any]]) -> list[tuple[float, bool, list[tuple[float, float]]]]:
    """Return radius, whether it erases, and points of each stroke; raises BadParameter for anything else."""
    read = []
    count = 0
    try:
        for stroke in strokes:
            points = [(_share(x), _share(y)) for x, y in stroke["points"]]
            count += len(points)
            if points:
                read.append((_share(stroke["radius"]), bool(stroke["erase"]), points))
    except (KeyError, TypeError, ValueError) as error:
        raise BadParameter(f"the strokes of the mask cannot be read ({error}); press clear, and draw them again"
                           ) from error
    if count > MOST_POINTS:
        raise BadParameter(f"the strokes of the mask have {count:,} points, at most {MOST_POINTS:,} are drawn; press "
                           "clear, and draw with a larger brush")
    return read


def _share(value: Any) -> float:
    """Return a finite number, at most one picture beside the picture; raises ValueError."""
    number = float(value)
    if not -1 <= number <= 2:
        raise ValueError(f"{value} is no place on the picture")
    return number
