"""VQGAN+CLIP as a method: the embedded networks, their prior and the defaults that were chosen on `validation`."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .bank import SHARE, bank_options, load_bank
from .limits import cpu_seconds
from .networks import Networks
from .registry import Estimate, Method
from ..errors import BadParameter
from ..guidance import GuidanceConfig, Preview, vqgan_clip
from ..guidance.config import ALIASES
from ..guidance.prior import BANK_NOISE, DiffusionPrior
from ..guidance.reference import cutouts_reference
from ..media import picture_list
from ..models.latent_prior import LatentPrior
from ..options import Option, options_of
from ..runtime import pick_device

PRIORS = {"emoji-vqgan-128": "emoji-prior", "emoji-vqgan": "emoji-prior"}  # the two paint from the same codes
WITH_PRIOR = {  # where a prior exists: start from its best sample, then let the guides correct it
    "init": "prior", "candidates": 16, "steps": 40, "num_cutouts": 12, "learning_rate": 0.04, "ema": 0.9,
    "init_weight": 0.5, "prior_weight": 1.0, "noise": 0.05,
}
# the classic loop, for published networks
WITHOUT_PRIOR = {"init": "random", "steps": 300, "num_cutouts": 32, "precision": "auto"}
PRIOR_OPTIONS = (
    Option("guidance_scale", 3.0, "how literally the prior takes the words; 1 is free, 8 is stiff", "prior", low=0,
           high=1000, slider=(1.0, 8.0)),
    Option("prior_steps", 18, "of the prior's sampler", "prior", low=1, high=10_000),
    *bank_options(SHARE, BANK_NOISE),
    Option("checkpoint", "", "a folder with a prior of your own, such as the `checkpoints` in the folder of a run of "
           "notebook 14; empty is the one that ships", "prior"),
)
# `prompt`, `seed` and `num_images` are arguments of every method, and a basis can only be given from Python
NOT_OPTIONS = ("prompt", "seed", "num_images", "subspace_steps")


def method_options() -> tuple[Option, ...]:
    """Return the options of `GuidanceConfig` with the defaults of the shipped networks, and those of the prior."""
    options = []
    for option in options_of(GuidanceConfig):
        if option.name in NOT_OPTIONS:
            continue
        default = WITH_PRIOR.get(option.name, option.default)
        options.append(dataclasses.replace(option, default=default))
    return (*options, *PRIOR_OPTIONS)


def run(prompt: str | Sequence[str], *, num_images: int, seed: int,
        callback: Callable[[Preview], bool | None] | None = None, state: str | Path | None = None,
        **options: Any) -> tuple[list[Image.Image], dict[str, Any]]:
    """Make pictures by VQGAN+CLIP; arguments as `Method.run` describes them."""
    prior_options = {}
    for option in PRIOR_OPTIONS:
        if option.name in options:
            prior_options[option.name] = options.pop(option.name)
    model = options.get("model", GuidanceConfig.model)
    defaults = WITH_PRIOR if model in PRIORS else WITHOUT_PRIOR
    if options.get("init_image") is not None:
        options.setdefault("init", "image")  # a picture is where the search starts, unless something else is said
    config = GuidanceConfig.from_options(prompt, **{**defaults, "seed": seed, "num_images": num_images, **options})
    networks = Networks(str(pick_device(config.device)), home=prior_options.get("checkpoint") or None)
    vqgan = networks.vqgan(config.model)
    clips = [networks.clip(name) for name in config.clip]
    prior = None
    if config.init == "prior" or config.prior_weight or config.redraw:
        prior = _prior(model, networks, prior_options)
    result = vqgan_clip(config, vqgan=vqgan, clips=clips, prior=prior, callback=callback, state=state)
    record = {**result.record, "checkpoints": networks.hashes, "codes": result.codes.tolist()}
    if prior is not None:
        record["prior"] = {option.name: option.default for option in PRIOR_OPTIONS} | prior_options
    return picture_list(result.images), record


def load_prior(model: str = GuidanceConfig.model, *, device: str = "cpu", **options: Any) -> DiffusionPrior:
    """Return the learned prior over the codes of a shipped VQGAN, with its bank of drawings.

    Args:
        options: of `DiffusionPrior`.

    Raises:
        BadParameter: this VQGAN has none.
    """
    return _build_prior(model, Networks(device), options)


def _prior(model: str, networks: Networks, options: Mapping[str, Any]) -> DiffusionPrior:
    """Return the prior of a run, with the options of the method under their names in `DiffusionPrior`."""
    settings = {}
    for name in ("guidance_scale", "bank_share", "bank_noise"):
        if name in options:
            settings[name] = options[name]
    if "prior_steps" in options:
        settings["steps"] = options["prior_steps"]
    return _build_prior(model, networks, settings)


def _build_prior(model: str, networks: Networks, options: Mapping[str, Any]) -> DiffusionPrior:
    if model not in PRIORS:
        raise BadParameter(f"model {model!r} has no learned prior; use init='random', prior_weight=0 and redraw=0")
    network = networks.checkpoint(LatentPrior, PRIORS[model])
    text_encoder = networks.text_encoder("minilm")
    defaults = {"bank": load_bank(networks), "painter": networks.vqgan(model)}
    return DiffusionPrior(network, text_encoder, **{**defaults, **options})


def estimate(pictures: int, options: Mapping[str, Any]) -> Estimate:
    """Return about what a call costs, from times of the shipped networks on one CPU core."""
    shipped = options.get("model", GuidanceConfig.model) in PRIORS
    settings = {**(WITH_PRIOR if shipped else WITHOUT_PRIOR), **options}
    width = settings.get("width") or 128
    height = settings.get("height") or 128
    area = width * height / 128**2
    decoded = min(area, (settings.get("tile") or math.inf) ** 2 / 128**2)
    clip = settings.get("clip", "emoji-clip")
    guides = 1 if isinstance(clip, str) else len(clip)
    views = settings["num_cutouts"] * guides
    candidates = settings.get("candidates", 1)
    seconds = settings["steps"] * (0.11 * decoded + 0.0043 * views) + 0.17 * candidates * area + 0.5
    gib = 0.05 * decoded + 0.004 * views / 12 + 0.007 * min(candidates, 64) * area / pictures
    if not shipped:  # a published f16 network and ViT-B/32
        seconds *= 30
        gib *= 20
    return Estimate(cpu_seconds(pictures * seconds), 1.2 + pictures * gib)


def notes() -> str:
    """Return what the page of options says beside its table."""
    plain = GuidanceConfig("x")
    unchanged = ", ".join(f"`{name}={getattr(plain, name)!r}`" for name in WITH_PRIOR)
    published = ", ".join(f"`{name}={value!r}`" for name, value in WITHOUT_PRIOR.items())
    return (f"The defaults are those with the shipped networks. With published ones these differ: {published}; "
            f"`t2ilib.guidance.GuidanceConfig`, whose fields most of them are, has by itself: {unchanged}.\n\n"
            + cutouts_reference())


METHOD = Method("vqgan_clip", "VQGAN+CLIP", run, options=method_options(), previews=True, resumable=True, edits=True,
                estimate=estimate, aliases=ALIASES, notes=notes)
