"""MinImagen as a method: a cascade of small diffusion networks, and guides that steer and choose its drafts.

Its variants differ in where the first network draws: `pixels`, as Imagen does, or the `latents` of a VQGAN.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .bank import SHARE_OF_CANDIDATES, bank_options, drawings_to_redraw
from .code_checkpoints import checkpoint_folder
from .drawing import (
    COLOR_WEIGHT,
    MACHINE_OPTIONS,
    Choice,
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
from ..cascade import Cascade, CascadePreview, ClipGuidance, LatentSpace, Sampling, Stage
from ..checkpoint import read_config
from ..errors import BadParameter, CheckpointMismatch
from ..guidance.prior import BANK_NOISE
from ..media import load_mask, picture_list, to_unit
from ..models.imagen_unet import ImagenUNet
from ..models.latent_prior import LatentPrior
from ..options import Option, options_of
from ..paths import checkpoints_dir

STAGES = ("emoji-minimagen-base", "emoji-minimagen-sr64", "emoji-minimagen-sr128")  # small to large
LATENT_STAGE = ("emoji-prior", "emoji-vqgan")  # a network among the latents of another: 64 pixels
LATENT_SIZE = 64
PIXEL_BANK_NOISE = 0.6  # time to which drawings are noised, among pixels
VARIANTS = {"pixels": STAGES, "latents": (*LATENT_STAGE, STAGES[-1])}
TEXT_ENCODER = "minilm"  # where a checkpoint names no other
SIMILARITY_THRESHOLD = 0.55  # as similar as half of the training drawings are to their names by `emoji-clip-b`
RECIPE = "python -m t2ilib run 08 --profile full"
OPTIONS = (
    Option("variant", "pixels", "where the first network draws: `pixels`, as Imagen does, or the `latents` of a VQGAN",
           "drawing", choices=tuple(VARIANTS)),
    *options_of(Sampling),
    Option("candidates", 32, "drafts for each picture, of which the guides keep the best; 1 with `init_image`",
           "guides", low=1, high=4096, slider=(1, 128)),
    *bank_options(SHARE_OF_CANDIDATES, PIXEL_BANK_NOISE),
    Option("clip", ("emoji-clip-b", "emoji-clip"), "the guide, or a list: the first steers, and all of them choose",
           "guides", type="str | list[str]"),
    COLOR_WEIGHT,
    Option("clip_guidance_scale", ClipGuidance.scale, "how far the guide moves the first network's picture in each "
           "early step, root mean square of pixels in [-1, 1]; 0 is not at all, and the default among latents",
           "guides", low=0, high=10, slider=(0.0, 1.0)),
    Option("clip_guidance_threshold", SIMILARITY_THRESHOLD, "similarity from which the guide leaves a picture alone, "
           "in its units; less is cleaner and follows unknown words less, none is never", "guides",
           type="float | None", low=-1, high=1),
    Option("init_image", None, "a picture file to draw anew for the prompt, or into; one candidate then", "edits",
           type="str | None"),
    Option("strength", 0.9, "how much of `init_image` is lost; plain areas keep their colour below 0.85", "edits",
           low=0, low_open=True, high=1),
    Option("mask", None, "where to draw into `init_image`: a file, white there, or a box x0, y0, x1, y1 in shares",
           "edits", type="str | list[float] | None"),
    Option("checkpoint", "", "a folder with a cascade of your own, such as the `checkpoints` in the folder of a run of "
           "notebook 08; empty is the one that ships", "networks"),
    *MACHINE_OPTIONS,
)
ALIASES = {"negative_prompt": "negative", "cfg_scale": "guidance_scale", "cond_scale": "guidance_scale",
           "num_steps": "steps", "timesteps": "steps", "best_of": "candidates", "clip_model": "clip",
           "clip_guidance_enough": "clip_guidance_threshold"}
SAMPLING_OPTIONS = tuple(option.name for option in options_of(Sampling))


def run(prompt: str | Sequence[str], *, num_images: int, seed: int,
        callback: Callable[[CascadePreview], bool | None] | None = None,
        **options: Any) -> tuple[list[Image.Image], dict[str, Any]]:
    """Make pictures with the cascade whose checkpoints are here; arguments as `Method.run` describes them."""
    settings = _settings(options)
    texts, seeds = texts_and_seeds(prompt, num_images, seed)
    networks = Networks(str(runtime.pick_device(settings["device"])), home=settings["checkpoint"] or None)
    began = time.perf_counter()
    cascade = build_cascade(settings["variant"], networks, precision=settings["precision"], chunk=settings["chunk"])
    counter = StepCounter(callback)
    generators = [runtime.generator(s, "minimagen") for s in seeds]
    pictures, choice = _draw(cascade, texts, settings, networks, generators, counter)
    record = drawing_record(settings, texts, seeds, pictures, steps_done=counter.steps, began=began,
                            device=cascade.device, dtype=cascade.dtype, networks=networks, choice=choice)
    record["stages"] = [stage.card() for stage in cascade.stages]
    record["text_encoder"] = cascade.text_encoder.name
    return picture_list(to_unit(pictures.cpu())), record


def _settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return every option as plain JSON types, the given ones and the defaults that go with them."""
    settings = {option.name: option.default for option in OPTIONS}
    if options.get("init_image"):
        settings["candidates"] = 1
    if options.get("variant") == "latents":
        settings["clip_guidance_scale"] = 0.0
        settings["bank_noise"] = BANK_NOISE
    settings.update(options)
    if settings["candidates"] != 1 and settings["init_image"]:
        raise BadParameter("candidates are chosen among first drafts, and init_image replaces those; leave one out")
    if settings["clip_guidance_scale"] and settings["variant"] == "latents":
        raise BadParameter("clip_guidance_scale must be 0 with the variant `latents`; got "
                           f"{settings['clip_guidance_scale']}")
    return plain_settings(settings)


def _draw(cascade: Cascade, texts: list[str], settings: dict[str, Any], networks: Networks,
          generators: list[torch.Generator], callback: StepCounter) -> tuple[Tensor, Choice | None]:
    """Draw a picture for each text, from nothing, over a picture or into one.

    Returns:
        pictures (B, 3, H, W) in [-1, 1], and what chose among the candidates, if anything did.
    """
    names = guide_names(settings["clip"])
    drawing = {name: settings[name] for name in SAMPLING_OPTIONS}
    drawing |= {"generators": generators, "callback": callback}
    if settings["clip_guidance_scale"]:
        drawing["clip_guidance"] = ClipGuidance(networks.clip(names[0]), settings["clip_guidance_scale"],
                                                similarity_threshold=settings["clip_guidance_threshold"])
    redrawn = drawings_to_redraw(networks, texts, settings)
    if settings["init_image"]:
        return _edit(cascade, texts, settings, drawing), None
    if settings["candidates"] == 1:
        return cascade.sample(texts, **drawing)[-1], None
    guides = choosing_guides(networks, settings)
    pictures = cascade.sample(texts, candidates=settings["candidates"], score=guides, redrawn=redrawn,
                              strength=settings["bank_noise"], **drawing)[-1]
    return pictures, guides.choice


def _edit(cascade: Cascade, texts: list[str], settings: dict[str, Any], drawing: dict[str, Any]) -> Tensor:
    """Return `init_image` drawn anew for each text, or where the mask is."""
    side = cascade.stages[-1].size
    pictures = pictures_to_edit(settings["init_image"], (side, side), len(texts))
    if settings["mask"] is None:
        return cascade.edit(pictures, texts, strength=settings["strength"], **drawing)[-1]
    mask = load_mask(settings["mask"], (side, side))
    return cascade.inpaint(pictures, mask[None], texts, **drawing)[-1]


def present(variant: str = "pixels", *, home: Path | None = None) -> list[str]:
    """Return the names of the variant's checkpoints that are in a folder, in the order in which they draw.

    Args:
        home: the folder; None is that of the checkpoints that ship.
    """
    folder = checkpoints_dir() if home is None else home
    return [name for name in VARIANTS[variant] if (folder / name).is_dir()]


def load_cascade(variant: str = "pixels", *, home: Path | None = None, device: str = "cpu", precision: str = "auto",
                 chunk: int = 32) -> Cascade:
    """Return the cascade of the checkpoints that are in a folder.

    Args:
        home: the folder; None is that of the checkpoints that ship.

    Raises:
        MissingAsset: what draws first is not there. CheckpointMismatch: a checkpoint does not say what it was trained
            for, or two were trained with different text encoders.
    """
    return build_cascade(variant, Networks(device, home=home), precision=precision, chunk=chunk)


def build_cascade(variant: str, networks: Networks, *, precision: str, chunk: int) -> Cascade:
    """Return a cascade of networks that a run hands out; raises as `load_cascade` does."""
    names = present(variant, home=networks.home)
    for name in LATENT_STAGE if variant == "latents" else STAGES[:1]:
        checkpoint_folder(networks.home, name, RECIPE)  # raises where what draws first is missing
    stages = []
    if variant == "latents":
        stages.append(_latent_stage(networks))
    stages += [_stage(name, networks) for name in names if name in STAGES]
    text_encoder = networks.text_encoder(_text_encoder_name(networks.home, names))
    return Cascade(stages, text_encoder, precision=precision, chunk=chunk)


def _text_encoder_name(home: Path, names: Sequence[str]) -> str:
    """Return the one text encoder that all checkpoints were trained with, on one set of pictures."""
    encoders = {}
    sets = {}
    for name in names:
        if name != LATENT_STAGE[1]:  # a VQGAN reads no text
            config = read_config(home / name)
            encoders[name] = config.get("text_encoder", TEXT_ENCODER)
            sets[name] = config.get("data", {}).get("name", "emoji")
    for used, words in ((encoders, "read one text encoder, these read"), (sets, "draw one set, these were trained on")):
        if len(set(used.values())) > 1:
            raise CheckpointMismatch(f"the stages of a cascade {words} {used}; train them alike")
    return next(iter(encoders.values()))


def _latent_stage(networks: Networks) -> Stage:
    prior_name, vqgan_name = LATENT_STAGE
    prior = networks.checkpoint(LatentPrior, prior_name)
    return Stage(prior, LATENT_SIZE, space=LatentSpace(networks.vqgan(vqgan_name), prior))


def _stage(name: str, networks: Networks) -> Stage:
    folder = networks.home / name
    card = read_config(folder).get("stage")
    if not isinstance(card, dict) or card.keys() != Stage.card_names():
        raise CheckpointMismatch(f"{folder} does not say what it was trained for: 'stage' is {card!r}, expected "
                                 f"{', '.join(sorted(Stage.card_names()))}; save it with save_model(..., "
                                 "stage=Stage(...).card())")
    return Stage(networks.checkpoint(ImagenUNet, name), **card)


def estimate(pictures: int, options: Mapping[str, Any]) -> Estimate:
    """Return about what a call costs, from times of the shipped networks on one CPU core."""
    steps = options.get("steps", Sampling.steps)
    first_steps = steps[0] if isinstance(steps, (list, tuple)) else steps
    candidates = options.get("candidates", 1 if options.get("init_image") else 32)
    drafts = candidates * (0.011 * first_steps + 0.03)
    enlarging = 0.055 * first_steps
    return Estimate(cpu_seconds(pictures * (drafts + enlarging)), 1.2 + 0.007 * pictures)


METHOD = Method("minimagen", "MinImagen", run, options=OPTIONS, previews=True, edits=True, estimate=estimate,
                aliases=ALIASES)
