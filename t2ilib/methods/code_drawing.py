"""What methods share that draw codes with a painter: options, the drawing itself, the record."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image

from .bank import SHARE_OF_CANDIDATES, drawings_to_redraw
from .drawing import (
    Choice,
    StepCounter,
    choosing_guides,
    drawing_record,
    guide_options,
    pictures_to_edit,
    plain_settings,
    texts_and_seeds,
)
from .networks import Networks
from .. import runtime
from ..media import load_mask, picture_list, to_unit
from ..options import Option, options_of
from ..sampling import CodePainter, CodesPreview, LogitSampling, Painted
from ..sampling.evidence import LEAST_NOISE, NOISE

SAMPLING_OPTIONS = tuple(option.name for option in options_of(LogitSampling))
DRAWING_ALIASES = {"negative_prompt": "negative", "cfg_scale": "guidance_scale", "cond_scale": "guidance_scale",
                   "best_of": "candidates", "clip_model": "clip"}
BuildPainter = Callable[[Networks, dict[str, Any]], CodePainter]


def drawing_options(candidates: int) -> tuple[Option, ...]:
    """Return the options of drawing, guides and edits; `candidates` is how many drafts there are by default."""
    return (
        *options_of(LogitSampling),
        Option("negative", None, "a text to be guided away from, in the place of no text", "drawing",
               type="str | None"),
        *guide_options(candidates),
        SHARE_OF_CANDIDATES,
        Option("bank_noise", NOISE, "noise through which the network sees those drawings, in standard "
               "deviations of the codebook: at 0.5 it is nearly the drawing, at 1 its shape, at 2 its layout",
               "guides", low=LEAST_NOISE, high=100, slider=(0.3, 3.0)),
        Option("init_image", None, "a picture file to draw anew for the prompt, or into", "edits", type="str | None"),
        Option("strength", 0.7, "the share of the codes of `init_image` that are drawn anew", "edits", low=0,
               low_open=True, high=1),
        Option("mask", None, "where to draw into `init_image`: a file, white there, or a box x0, y0, x1, y1 in shares; "
               "one code after another needs whole rows down to the lower edge", "edits",
               type="str | list[float] | None"),
    )


def run_painter(method: str, build: BuildPainter, defaults: dict[str, Any], prompt: str | Sequence[str], *,
                num_images: int, seed: int, callback: Callable[[CodesPreview], bool | None] | None,
                options: dict[str, Any]) -> tuple[list[Image.Image], dict[str, Any], CodePainter]:
    """Draw pictures with a painter, as `Method.run` describes it.

    Args:
        method: its name, of which the streams of random numbers are made. build: makes the painter of the networks of
            this run and the settings. defaults: of all options. options: those that the caller gave.

    Returns:
        pictures, their record, and the painter, of which the record may say more
    """
    settings = plain_settings({**defaults, **options})
    texts, seeds = texts_and_seeds(prompt, num_images, seed)
    networks = Networks(str(runtime.pick_device(settings["device"])), home=settings["checkpoint"] or None)
    began = time.perf_counter()
    painter = build(networks, settings)
    counter = StepCounter(callback)
    generators = [runtime.generator(s, method) for s in seeds]
    painted, choice = _draw(painter, texts, settings, networks, generators, counter)
    record = drawing_record(settings, texts, seeds, painted.pictures, steps_done=counter.steps, began=began,
                            device=painter.device, dtype=painter.dtype, networks=networks, choice=choice)
    record["text_encoder"] = painter.text_encoder.name
    record["codes"] = painted.codes.tolist()
    return picture_list(to_unit(painted.pictures.cpu())), record, painter


def _draw(painter: CodePainter, texts: list[str], settings: dict[str, Any], networks: Networks,
          generators: list[torch.Generator], callback: StepCounter) -> tuple[Painted, Choice | None]:
    """Draw a picture for each text, from nothing, over a picture or into one.

    Returns:
        codes and pictures, and what chose among the candidates, if anything did.
    """
    names = ["candidates", "negative", *SAMPLING_OPTIONS]
    if "steps" in settings:
        names.append("steps")
    drawing = {name: settings[name] for name in names}
    drawing |= {"generators": generators, "callback": callback}
    guides = None
    if settings["candidates"] > 1:
        guides = choosing_guides(networks, settings)
        drawing["score"] = guides
    redrawn = drawings_to_redraw(networks, texts, settings)
    if not settings["init_image"]:
        painted = painter.sample(texts, redrawn=redrawn, noise=settings["bank_noise"], **drawing)
    else:
        pictures = pictures_to_edit(settings["init_image"], painter.size, len(texts))
        if settings["mask"] is None:
            painted = painter.edit(pictures, texts, strength=settings["strength"], **drawing)
        else:
            mask = load_mask(settings["mask"], painter.size)
            painted = painter.inpaint(pictures, mask[None], texts, **drawing)
    return painted, None if guides is None else guides.choice
