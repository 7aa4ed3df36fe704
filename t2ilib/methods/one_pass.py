"""What methods share that draw each draft in one pass: the drawing itself, and its record."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from .bank import colors_to_paint
from .drawing import choosing_guides, drawing_record, plain_settings, texts_and_seeds
from .networks import Networks
from .. import runtime
from ..data.recoloring import missing_color, recolored
from ..media import picture_list, to_signed, to_unit
from ..options import Option
from ..sampling import GanPainter, OnePassPainter

PAINT = Option("paint", True, "a picture that has nothing of the colour that it was asked for is painted in it; where "
               "`emoji-starts` says that no training drawing has the colour, as of `a blue car`, `a car` is drawn "
               "for that", "drawing")
Painter = GanPainter | OnePassPainter
BuildPainter = Callable[[Networks, dict[str, Any]], Painter]
# (painter, texts, further arguments of `sample`) -> pictures in [-1, 1], and what the record says of them
Sample = Callable[[Any, list[str], dict[str, Any]], tuple[Tensor, dict[str, Any]]]


def run_one_pass(method: str, build: BuildPainter, sample: Sample, drawing: Sequence[str], defaults: dict[str, Any],
                 prompt: str | Sequence[str], *, num_images: int, seed: int,
                 options: dict[str, Any]) -> tuple[list[Image.Image], dict[str, Any]]:
    """Draw pictures with a painter that needs one pass, as `Method.run` describes it.

    Args:
        method: its name, of which the streams of random numbers are made. build: makes the painter of the networks of
            this run and the settings. sample: draws. drawing: names of the options that the painter takes.
        defaults: of all options, `PAINT` among them. options: those that the caller gave.
    """
    settings = plain_settings({**defaults, **options})
    texts, seeds = texts_and_seeds(prompt, num_images, seed)
    networks = Networks(str(runtime.pick_device(settings["device"])), home=settings["checkpoint"] or None)
    began = time.perf_counter()
    painter = build(networks, settings)
    guides = None
    if settings["candidates"] > 1:
        guides = choosing_guides(networks, settings)
    arguments = {name: settings[name] for name in (*drawing, "candidates")}
    arguments |= {"generators": [runtime.generator(s, method) for s in seeds], "score": guides}
    colors: list[str | None] = [None] * len(texts)
    things = texts
    if settings["paint"]:
        colors, things = colors_to_paint(networks, texts)
    pictures, details = sample(painter, things, arguments)
    if settings["paint"]:
        colors = _paint(pictures, texts, colors)
    record = drawing_record(settings, texts, seeds, pictures, steps_done=1, began=began, device=painter.device,
                            dtype=painter.dtype, networks=networks, choice=None if guides is None else guides.choice)
    record["text_encoder"] = painter.text_encoder.name
    record["painted"] = colors
    return picture_list(to_unit(pictures.cpu())), record | details


def _paint(pictures: Tensor, texts: list[str], colors: list[str | None]) -> list[str | None]:
    """Paint pictures (B, 3, H, W) in [-1, 1] in their colours, and in those that texts ask for where they have none.

    Returns:
        the colour of each picture that was painted, None for the others
    """
    painted = []
    for i, text in enumerate(texts):
        picture = to_unit(pictures[i])
        color = colors[i] or missing_color(picture, text)
        if color is not None:
            pictures[i] = to_signed(recolored(picture[None], color))[0]
        painted.append(color)
    return painted
