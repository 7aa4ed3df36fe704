"""The text transformer as a method: a network from words to the codes of a VQGAN, and guides that choose its drafts."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .code_checkpoints import TEXT_ENCODER, VQGAN_NAME, absent_message, check_codebook
from .code_checkpoints import card_of as card_of
from .drawing import (
    MACHINE_OPTIONS,
    StepCounter,
    choosing_guides,
    drawing_record,
    guide_names,
    pictures_to_edit,
    plain_settings,
    texts_and_seeds,
)
from .limits import cpu_seconds
from .networks import Networks
from .registry import Estimate, Method
from .. import runtime
from ..checkpoint import read_config
from ..errors import CheckpointMismatch, MissingAsset
from ..media import load_mask, picture_list, to_unit
from ..models.text_transformer import TextTransformer
from ..options import Option, options_of
from ..paths import checkpoints_dir
from ..sampling import CodePainter, CodesPreview, LogitSampling, Painted
from ..sampling.decoders import PASSES

CHECKPOINT = "emoji-text-transformer"
RECIPE = "python -m t2ilib train words"
ARMS = ("auto", "masked", "autoregressive")
CANDIDATES = 8
OPTIONS = (
    Option("arm", "auto", "how the network draws: `masked`, many codes in each pass, or `autoregressive`, one after "
           "another; `auto` is what it was trained for", "drawing", choices=ARMS),
    Option("steps", PASSES, "passes of masked decoding; one code after another takes as many as there are codes",
           "drawing", low=1, high=10_000, slider=(1, 32)),
    *options_of(LogitSampling),
    Option("negative", None, "a text to be guided away from, in the place of no text", "drawing", type="str | None"),
    Option("candidates", CANDIDATES, "drafts for each picture, of which the guides keep the best", "guides", low=1,
           high=4096, slider=(1, 64)),
    Option("clip", ("emoji-clip-b", "emoji-clip"), "the guide that chooses, or a list, all of which choose", "guides",
           type="str | list[str]"),
    Option("init_image", None, "a picture file to draw anew for the prompt, or into", "edits", type="str | None"),
    Option("strength", 0.7, "the share of the codes of `init_image` that are drawn anew", "edits", low=0, low_open=True,
           high=1),
    Option("mask", None, "where to draw into `init_image`: a file, white there, or a box x0, y0, x1, y1 in shares; one "
           "code after another needs whole rows down to the lower edge", "edits", type="str | list[float] | None"),
    Option("model", VQGAN_NAME, "the VQGAN that paints, with the codebook that the network was trained on",
           "networks"),
    Option("checkpoint", "", f"a folder with a network of your own called {CHECKPOINT}, such as the `checkpoints` in "
           "the folder of a run of notebook 09; empty is the one that ships", "networks"),
    *MACHINE_OPTIONS,
)
ALIASES = {"passes": "steps", "num_steps": "steps", "timesteps": "steps", "negative_prompt": "negative",
           "cfg_scale": "guidance_scale", "cond_scale": "guidance_scale", "best_of": "candidates", "clip_model": "clip",
           "vqgan": "model"}
SAMPLING_OPTIONS = tuple(option.name for option in options_of(LogitSampling))


def run(prompt: str | Sequence[str], *, num_images: int, seed: int,
        callback: Callable[[CodesPreview], bool | None] | None = None,
        **options: Any) -> tuple[list[Image.Image], dict[str, Any]]:
    """Draw pictures with the text transformer; arguments as `Method.run` describes them."""
    defaults = {option.name: option.default for option in OPTIONS}
    settings = plain_settings({**defaults, **options})
    texts, seeds = texts_and_seeds(prompt, num_images, seed)
    networks = Networks(str(runtime.pick_device(settings["device"])), home=settings["checkpoint"] or None)
    began = time.perf_counter()
    painter = build_painter(networks, model=settings["model"], arm=settings["arm"], precision=settings["precision"],
                            chunk=settings["chunk"])
    counter = StepCounter(callback)
    generators = [runtime.generator(s, "text_transformer") for s in seeds]
    painted, scores = _draw(painter, texts, settings, networks, generators, counter)
    record = drawing_record(settings, texts, seeds, painted.pictures, steps_done=counter.steps, began=began,
                            device=painter.device, dtype=painter.dtype, networks=networks, scores=scores)
    record["arm"] = _arm_of(painter.network)
    record["text_encoder"] = painter.text_encoder.name
    record["codes"] = painted.codes.tolist()
    return picture_list(to_unit(painted.pictures.cpu())), record


def _draw(painter: CodePainter, texts: list[str], settings: dict[str, Any], networks: Networks,
          generators: list[torch.Generator], callback: StepCounter) -> tuple[Painted, Tensor | None]:
    """Draw a picture for each text, from nothing, over a picture or into one.

    Returns:
        codes and pictures, and what the guides said of the candidates (B, candidates) if they chose.
    """
    drawing = {name: settings[name] for name in ("steps", "candidates", "negative", *SAMPLING_OPTIONS)}
    drawing |= {"generators": generators, "callback": callback}
    guides = None
    if settings["candidates"] > 1:
        guides = choosing_guides(networks, guide_names(settings["clip"]), settings["chunk"])
        drawing["score"] = guides
    if not settings["init_image"]:
        painted = painter.sample(texts, **drawing)
    else:
        pictures = pictures_to_edit(settings["init_image"], painter.size, len(texts))
        if settings["mask"] is None:
            painted = painter.edit(pictures, texts, strength=settings["strength"], **drawing)
        else:
            mask = load_mask(settings["mask"], painter.size)
            painted = painter.inpaint(pictures, mask[None], texts, **drawing)
    scores = None if guides is None else guides.scores.view(len(texts), -1)
    return painted, scores


def load_painter(*, home: Path | None = None, device: str = "cpu", model: str = VQGAN_NAME, arm: str = "auto",
                 precision: str = "auto", chunk: int = 32) -> CodePainter:
    """Return the network of the checkpoint in a folder, with the VQGAN that paints.

    Args:
        home: the folder; None is that of the checkpoints that ship. model: the VQGAN. arm: one of `ARMS`.

    Raises:
        MissingAsset: there is no checkpoint. CheckpointMismatch: it was trained for another arm, or on the codes of
            another VQGAN.
    """
    return build_painter(Networks(device, home=home), model=model, arm=arm, precision=precision, chunk=chunk)


def build_painter(networks: Networks, *, model: str, arm: str, precision: str, chunk: int) -> CodePainter:
    """Return a painter of networks that a run hands out; raises as `load_painter` does."""
    folder = networks.home / CHECKPOINT
    if not folder.is_dir():
        raise MissingAsset(absent_message(CHECKPOINT, RECIPE, networks.home))
    card = read_config(folder)
    network = networks.checkpoint(TextTransformer, CHECKPOINT)
    trained_for = _arm_of(network)
    if arm not in ("auto", trained_for):
        raise CheckpointMismatch(f"{folder} holds a network for arm={trained_for!r}, and arm={arm!r} was asked for; "
                                 "leave arm out, or name a folder with another network: checkpoint=FOLDER")
    vqgan = networks.vqgan(model)
    check_codebook(card, vqgan, folder, model)
    text_encoder = networks.text_encoder(card.get("text_encoder", TEXT_ENCODER))
    return CodePainter(network, vqgan, text_encoder, precision=precision, chunk=chunk)


def _arm_of(network: TextTransformer) -> str:
    return "autoregressive" if network.causal else "masked"


def absent() -> str:
    """Return what is missing before the method can draw with its defaults, "" where nothing is."""
    home = checkpoints_dir()
    return "" if (home / CHECKPOINT).is_dir() else absent_message(CHECKPOINT, RECIPE, home)


def estimate(pictures: int, options: Mapping[str, Any]) -> Estimate:
    """Return about what a call costs, from times of networks of the shipped size on one CPU core."""
    candidates = options.get("candidates", CANDIDATES)
    if options.get("arm") == "autoregressive":
        draft = 0.7
    else:
        draft = 0.08 * options.get("steps", PASSES)
    return Estimate(cpu_seconds(pictures * candidates * (draft + 0.05)), 1.0 + 0.01 * pictures * candidates)


METHOD = Method("text_transformer", "Text transformer", run, options=OPTIONS, previews=True, edits=True,
                estimate=estimate, aliases=ALIASES, absent=absent)
