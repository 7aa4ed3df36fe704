"""The feed-forward generator as a method: a network predicts all codes of a picture at once, without any steps."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .code_checkpoints import TEXT_ENCODER, VQGAN_NAME, absent_message, check_codebook
from .drawing import (
    MACHINE_OPTIONS,
    choosing_guides,
    drawing_record,
    guide_names,
    plain_settings,
    texts_and_seeds,
)
from .limits import cpu_seconds
from .networks import Networks
from .registry import Estimate, Method
from .. import runtime
from ..checkpoint import read_config
from ..errors import MissingAsset
from ..media import picture_list, to_unit
from ..models.feed_forward import CodeGenerator
from ..options import Option
from ..paths import checkpoints_dir
from ..sampling import ANY_STYLE, OnePassPainter

CHECKPOINT = "emoji-generator"
RECIPE = "python -m t2ilib train generator"
CANDIDATES = 1
OPTIONS = (
    Option("style", ANY_STYLE, "one of the checkpoint's styles, such as `noto`, `twemoji`, `fluent` or `fluent-flat`; "
           "`any` is drawn by the seed", "drawing"),
    Option("noise", 1.0, "how far the seed moves the words: 1 as in training, which hardly moves a name that it knows; "
           "10 moves to other things", "drawing", low=0, high=100, slider=(0.0, 12.0)),
    Option("temperature", 0.5, "of the probabilities by which codes are mixed at each place; 0 takes the likeliest "
           "alone, which has harder edges and blotches", "drawing", low=0, high=100, slider=(0.0, 2.0)),
    Option("candidates", CANDIDATES, "drafts for each picture, of which the guides keep the best", "guides", low=1,
           high=4096, slider=(1, 32)),
    Option("clip", ("emoji-clip-b", "emoji-clip"), "the guide that chooses, or a list, all of which choose", "guides",
           type="str | list[str]"),
    Option("model", VQGAN_NAME, "the VQGAN that paints, with the codebook that the network was trained on",
           "networks"),
    Option("checkpoint", "", f"a folder with a network of your own called {CHECKPOINT}, such as the `checkpoints` in "
           "the folder of a run of notebook 05; empty is the one that ships", "networks"),
    *MACHINE_OPTIONS,
)
ALIASES = {"best_of": "candidates", "clip_model": "clip", "vqgan": "model", "artist": "style",
           "noise_scale": "noise", "truncation": "noise"}


def run(prompt: str | Sequence[str], *, num_images: int, seed: int,
        **options: Any) -> tuple[list[Image.Image], dict[str, Any]]:
    """Draw pictures with the feed-forward generator; arguments as `Method.run` describes them."""
    defaults = {option.name: option.default for option in OPTIONS}
    settings = plain_settings({**defaults, **options})
    texts, seeds = texts_and_seeds(prompt, num_images, seed)
    networks = Networks(str(runtime.pick_device(settings["device"])), home=settings["checkpoint"] or None)
    began = time.perf_counter()
    painter = build_painter(networks, model=settings["model"], precision=settings["precision"],
                            chunk=settings["chunk"])
    guides = None
    if settings["candidates"] > 1:
        guides = choosing_guides(networks, guide_names(settings["clip"]), settings["chunk"])
    generators = [runtime.generator(s, "generator") for s in seeds]
    drawing = {name: settings[name] for name in ("style", "noise", "temperature", "candidates")}
    painted = painter.sample(texts, generators=generators, score=guides, **drawing)
    scores = None if guides is None else guides.scores.view(len(texts), -1)
    record = drawing_record(settings, texts, seeds, painted.pictures, steps_done=1, began=began, device=painter.device,
                            dtype=painter.dtype, networks=networks, scores=scores)
    record["text_encoder"] = painter.text_encoder.name
    record["codes"] = painted.codes.tolist()
    return picture_list(to_unit(painted.pictures.cpu())), record


def load_painter(*, home: Path | None = None, device: str = "cpu", model: str = VQGAN_NAME, precision: str = "auto",
                 chunk: int = 32) -> OnePassPainter:
    """Return the network of the checkpoint in a folder, with the VQGAN that paints.

    Args:
        home: the folder; None is that of the checkpoints that ship. model: the VQGAN.

    Raises:
        MissingAsset: there is no checkpoint. CheckpointMismatch: it was trained on the codes of another VQGAN.
    """
    return build_painter(Networks(device, home=home), model=model, precision=precision, chunk=chunk)


def build_painter(networks: Networks, *, model: str, precision: str, chunk: int) -> OnePassPainter:
    """Return a painter of networks that a run hands out; raises as `load_painter` does."""
    folder = networks.home / CHECKPOINT
    if not folder.is_dir():
        raise MissingAsset(absent_message(CHECKPOINT, RECIPE, networks.home))
    card = read_config(folder)
    network = networks.checkpoint(CodeGenerator, CHECKPOINT)
    vqgan = networks.vqgan(model)
    check_codebook(card, vqgan, folder, model)
    text_encoder = networks.text_encoder(card.get("text_encoder", TEXT_ENCODER))
    return OnePassPainter(network, vqgan, text_encoder, precision=precision, chunk=chunk)


def absent() -> str:
    """Return what is missing before the method can draw with its defaults, "" where nothing is."""
    home = checkpoints_dir()
    return "" if (home / CHECKPOINT).is_dir() else absent_message(CHECKPOINT, RECIPE, home)


def estimate(pictures: int, options: Mapping[str, Any]) -> Estimate:
    """Return about what a call costs, from times of networks of the shipped size on one CPU core."""
    drafts = pictures * options.get("candidates", CANDIDATES)
    return Estimate(cpu_seconds(0.06 * drafts), 0.8 + 0.005 * drafts)


METHOD = Method("generator", "Feed-forward generator", run, options=OPTIONS, live=True, estimate=estimate,
                aliases=ALIASES, absent=absent)
