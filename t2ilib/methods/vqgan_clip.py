"""VQGAN+CLIP as a method: the embedded networks, their prior and the defaults that were chosen on `validation`."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..checkpoint import load_model, short_hash
from ..encoders import TextEncoder, load_clip, load_text_encoder
from ..errors import BadParameter
from ..guidance import GuidanceConfig, Preview, vqgan_clip
from ..guidance.prior import DiffusionPrior
from ..media import to_pil
from ..models.latent_prior import LatentPrior
from ..models.start_bank import StartBank
from ..models.vqgan import load_vqgan
from ..paths import checkpoints_dir
from ..runtime import pick_device

PRIORS = {"emoji-vqgan-128": "emoji-prior", "emoji-vqgan": "emoji-prior"}  # the two paint from the same codes
BANK = "emoji-starts"  # the training drawings in those codes
WITH_PRIOR = {  # where a prior exists: start from its best sample, then let the guides correct it
    "init": "prior", "candidates": 16, "steps": 40, "num_cutouts": 12, "learning_rate": 0.04, "ema": 0.9,
    "init_weight": 0.5, "prior_weight": 1.0, "noise": 0.05,
}
# the classic loop, for published networks
WITHOUT_PRIOR = {"init": "random", "steps": 300, "num_cutouts": 32, "precision": "auto"}
PRIOR_OPTIONS = {"guidance_scale": "guidance_scale", "prior_steps": "steps", "bank_share": "bank_share",
                 "bank_noise": "bank_noise"}  # here -> in `DiffusionPrior`


def run(prompt: str | Sequence[str], *, num_images: int, seed: int,
        callback: Callable[[Preview], bool | None] | None = None, state: str | Path | None = None,
        **options: Any) -> tuple[list[Image.Image], dict[str, Any]]:
    """Make pictures by VQGAN+CLIP.

    Args:
        callback: called after every step with a preview; a true return value ends the run early.
        state: file that keeps the state of the run; if it exists, the run goes on from there.
        options: fields of `GuidanceConfig`; beside them `guidance_scale`, `prior_steps`, `bank_share` and
            `bank_noise` of the prior.
    """
    prior_options = {k: options.pop(k) for k in PRIOR_OPTIONS if k in options}
    model = options.get("model", GuidanceConfig.model)
    defaults = WITH_PRIOR if model in PRIORS else WITHOUT_PRIOR
    config = GuidanceConfig.from_options(prompt, **{**defaults, "seed": seed, "num_images": num_images, **options})
    device = str(pick_device(config.device))
    vqgan, clips = _vqgan(config.model, device), [_clip(name, device) for name in config.clip]
    prior = None
    if config.init == "prior" or config.prior_weight or config.redraw:
        if model not in PRIORS:
            raise BadParameter(f"model {model!r} has no learned prior; use init='random', prior_weight=0 and redraw=0")
        prior = load_prior(model, device=device, **{PRIOR_OPTIONS[k]: v for k, v in prior_options.items()})
    result = vqgan_clip(config, vqgan=vqgan, clips=clips, prior=prior, callback=callback, state=state)
    names = [config.model, *config.clip] + ([PRIORS[model], BANK] if prior is not None else [])
    checkpoints = {n: short_hash(checkpoints_dir() / n) for n in names if (checkpoints_dir() / n).is_dir()}
    return to_pil(result.images), {**result.record, **prior_options, "checkpoints": checkpoints,
                                   "codes": result.codes.tolist()}


def load_prior(model: str = GuidanceConfig.model, *, device: str = "cpu", **options: Any) -> DiffusionPrior:
    """Return the learned prior over the codes of a shipped VQGAN, with its bank of drawings.

    Args:
        options: of `DiffusionPrior`.
    """
    network, text_encoder, bank = _prior_networks(PRIORS[model], device)
    return DiffusionPrior(network, text_encoder, **{"bank": bank, **options})


@functools.lru_cache(maxsize=2)
def _vqgan(name: str, device: str):
    return load_vqgan(name, device=device)


@functools.lru_cache(maxsize=4)
def _clip(name: str, device: str):
    return load_clip(name, device=device)


@functools.lru_cache(maxsize=2)
def _prior_networks(name: str, device: str) -> tuple[LatentPrior, TextEncoder, StartBank]:
    network = load_model(LatentPrior, checkpoints_dir() / name, device=device)
    return network, load_text_encoder("minilm", device=device), load_model(StartBank, checkpoints_dir() / BANK)
