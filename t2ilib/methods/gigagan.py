"""GigaGAN-lite as a method: one pass of a generator for each draft, of which guides keep the best."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .code_checkpoints import TEXT_ENCODER, absent_message
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
from ..models.gigagan import GigaGenerator
from ..options import Option
from ..paths import checkpoints_dir
from ..sampling import GanPainter

CHECKPOINT = "emoji-gigagan"
RECIPE = "python -m t2ilib train gigagan"
CANDIDATES = 8
OPTIONS = (
    Option("truncation", 1.0, "1 draws as in training; towards 0 all pictures of a text become its mean one, cleaner "
           "and always alike", "drawing", low=0, high=1, slider=(0.0, 1.0)),
    Option("text_strength", 1.0, "1 draws as in training; above, styles move away from that of the mean text",
           "drawing", low=0, high=100, slider=(0.0, 3.0)),
    Option("candidates", CANDIDATES, "drafts for each picture, of which the guides keep the best", "guides", low=1,
           high=4096, slider=(1, 64)),
    Option("clip", ("emoji-clip-b", "emoji-clip"), "the guide that chooses, or a list, all of which choose", "guides",
           type="str | list[str]"),
    Option("checkpoint", "", f"a folder with a network of your own called {CHECKPOINT}, such as the `checkpoints` in "
           "the folder of a run of notebook 07; empty is the one that ships", "networks"),
    *MACHINE_OPTIONS,
)
ALIASES = {"best_of": "candidates", "clip_model": "clip", "truncation_psi": "truncation", "psi": "truncation",
           "guidance_scale": "text_strength", "cfg_scale": "text_strength"}


def run(prompt: str | Sequence[str], *, num_images: int, seed: int,
        **options: Any) -> tuple[list[Image.Image], dict[str, Any]]:
    """Draw pictures with GigaGAN-lite; arguments as `Method.run` describes them."""
    defaults = {option.name: option.default for option in OPTIONS}
    settings = plain_settings({**defaults, **options})
    texts, seeds = texts_and_seeds(prompt, num_images, seed)
    networks = Networks(str(runtime.pick_device(settings["device"])), home=settings["checkpoint"] or None)
    began = time.perf_counter()
    painter = build_painter(networks, precision=settings["precision"], chunk=settings["chunk"])
    guides = None
    if settings["candidates"] > 1:
        guides = choosing_guides(networks, guide_names(settings["clip"]), settings["chunk"])
    generators = [runtime.generator(s, "gigagan") for s in seeds]
    drawing = {name: settings[name] for name in ("truncation", "text_strength", "candidates")}
    pictures = painter.sample(texts, generators=generators, score=guides, **drawing)
    scores = None if guides is None else guides.scores.view(len(texts), -1)
    record = drawing_record(settings, texts, seeds, pictures, steps_done=1, began=began, device=painter.device,
                            dtype=painter.dtype, networks=networks, scores=scores)
    record["text_encoder"] = painter.text_encoder.name
    return picture_list(to_unit(pictures.cpu())), record


def load_painter(*, home: Path | None = None, device: str = "cpu", precision: str = "auto",
                 chunk: int = 32) -> GanPainter:
    """Return the generator of the checkpoint in a folder; None is that of the checkpoints that ship.

    Raises:
        MissingAsset: there is no checkpoint.
    """
    return build_painter(Networks(device, home=home), precision=precision, chunk=chunk)


def build_painter(networks: Networks, *, precision: str, chunk: int) -> GanPainter:
    """Return a painter of networks that a run hands out; raises as `load_painter` does."""
    folder = networks.home / CHECKPOINT
    if not folder.is_dir():
        raise MissingAsset(absent_message(CHECKPOINT, RECIPE, networks.home))
    network = networks.checkpoint(GigaGenerator, CHECKPOINT)
    text_encoder = networks.text_encoder(read_config(folder).get("text_encoder", TEXT_ENCODER))
    return GanPainter(network, text_encoder, precision=precision, chunk=chunk)


def absent() -> str:
    """Return what is missing before the method can draw with its defaults, "" where nothing is."""
    home = checkpoints_dir()
    return "" if (home / CHECKPOINT).is_dir() else absent_message(CHECKPOINT, RECIPE, home)


def estimate(pictures: int, options: Mapping[str, Any]) -> Estimate:
    """Return about what a call costs, from times of a network of the shipped size on one CPU core."""
    drafts = pictures * options.get("candidates", CANDIDATES)
    return Estimate(cpu_seconds(0.05 * drafts), 0.8 + 0.005 * drafts)


METHOD = Method("gigagan", "GigaGAN-lite", run, options=OPTIONS, estimate=estimate, aliases=ALIASES, absent=absent)
