"""MinImagen as a method: a cascade of small diffusion networks, and guides that steer and choose its drafts.

Its variants differ in where the first network draws: `pixels`, as Imagen does, or the `latents` of a VQGAN.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .. import runtime
from ..cascade import Cascade, CascadePreview, ClipGuidance, LatentSpace, Sampling, Stage
from ..checkpoint import load_model, read_config, short_hash
from ..encoders import load_clip, load_text_encoder
from ..errors import BadParameter, CheckpointMismatch, MissingAsset, check_name
from ..media import fit_picture, load_mask, load_picture, to_pil
from ..models.imagen_unet import ImagenUNet
from ..models.latent_prior import LatentPrior
from ..models.vqgan import load_vqgan
from ..paths import checkpoints_dir

STAGES = ("emoji-minimagen-base", "emoji-minimagen-sr64", "emoji-minimagen-sr128")  # small to large
LATENT_STAGE = ("emoji-prior", "emoji-vqgan")  # a network among the latents of another: 64 pixels
VARIANTS = {"pixels": STAGES, "latents": (*LATENT_STAGE, STAGES[-1])}
TEXT_ENCODER = "minilm"  # where a checkpoint names no other
ENOUGH = 0.55  # as similar as half of the training drawings are to their names by `emoji-clip-b`
RECIPE = "python -m t2ilib run 08 --profile full"
OPTIONS = {  # name: default, meaning
    "variant": ("pixels", "where the first network draws: `pixels`, as Imagen does, or the `latents` of a VQGAN"),
    "candidates": (32, "drafts for each picture, of which the guides keep the best"),
    "clip": (("emoji-clip-b", "emoji-clip"), "the guide, or a list: the first steers, and all of them choose"),
    "clip_guidance_scale": (ClipGuidance.scale,
                            "how far the guide moves the first network's picture in each early step, root mean square "
                            "of pixels in [-1, 1]; 0 is not at all, and the default among latents"),
    "clip_guidance_enough": (ENOUGH, "similarity from which the guide leaves a picture alone, in its units; less is "
                             "cleaner and follows unknown words less, None is never"),
    "guidance_scale": (Sampling.guidance_scale,
                       "how literally the first network takes the words; 1 is free. A list: each stage's own"),
    "steps": (Sampling.steps, "of the first network; those that enlarge take half as many. A list: each stage's own"),
    "sampler": (Sampling.sampler, "`dpm_solver`, `ddim` or `ancestral`"),
    "threshold": (Sampling.threshold, "what keeps guided pixels in range: `static`, `dynamic` or `none`"),
    "percentile": (Sampling.percentile, "of the pixels, where dynamic thresholding cuts"),
    "interval": (Sampling.interval, "times between which there is guidance; 1 is noise, 0 the picture"),
    "negative": (Sampling.negative, "a text to be guided away from"),
    "init_image": (None, "a picture file to draw anew for the prompt, or into; one candidate then"),
    "strength": (0.9, "how much of `init_image` is lost, in (0, 1]; plain areas keep their colour below 0.85"),
    "mask": (None, "where to draw into `init_image`: a file, white there, or a box x0, y0, x1, y1 in shares"),
    "device": ("auto", "`cpu`, `cuda`, `mps`"), "precision": ("auto", "`float32`, `bfloat16`, `float16`"),
    "chunk": (32, "pictures in a batch"),
}
DEFAULTS = {name: default for name, (default, _) in OPTIONS.items()}


def run(prompt: str | Sequence[str], *, num_images: int, seed: int,
        callback: Callable[[CascadePreview], bool | None] | None = None,
        **options: Any) -> tuple[list[Image.Image], dict[str, Any]]:
    """Make pictures with the cascade whose checkpoints are here: the base, and each super-resolution network.

    Args:
        callback: called after every step of the sampler with a preview; a true return value ends the run early.
        options: see `OPTIONS`; those that `Sampling` names are explained there.

    Raises:
        UnknownName: no such option. BadParameter: a value out of range. MissingAsset: no base network.
    """
    given, how = _resolve(options)
    prompts = list(prompt) if isinstance(prompt, (list, tuple)) else [prompt]
    texts = [text for text in prompts for _ in range(num_images)]
    seeds = [seed + j for _ in prompts for j in range(num_images)]
    device, began = str(runtime.pick_device(given["device"])), time.perf_counter()
    cascade = load_cascade(given["variant"], device=device, precision=given["precision"], chunk=given["chunk"])
    seen: list[int] = []
    scores: list[Tensor] = []

    def watch(preview: CascadePreview) -> bool | None:
        seen.append(preview.step)
        return callback(preview) if callback else None

    images = _draw(cascade, texts, given, scores, generators=[runtime.generator(s, "minimagen") for s in seeds],
                   callback=watch, **how)
    record = {"config": given, "prompts": texts, "seeds": seeds, "height": images.shape[-2], "width": images.shape[-1],
              "steps_done": len(seen), "seconds": round(time.perf_counter() - began, 3),
              **_used(cascade, given["variant"])}
    if scores:
        table = scores[0].view(len(texts), -1)
        record |= {"candidate_chosen": table.argmax(1).tolist(), "guide_similarity": table.tolist()}
    guides = _names(given["clip"])
    if scores:
        record["checkpoints"] |= _hashes(guides)
    elif given["clip_guidance_scale"]:  # the first steered, and nobody chose
        record["checkpoints"] |= _hashes(guides[:1])
    return to_pil(images.cpu() * 0.5 + 0.5), record


def _names(clip: str | Sequence[str]) -> list[str]:
    return [clip] if isinstance(clip, str) else list(clip)


def _used(cascade: Cascade, variant: str) -> dict[str, Any]:
    return {"stages": [stage.card() for stage in cascade.stages], "text_encoder": cascade.text_encoder.name,
            "device": runtime.device_name(cascade.device), "dtype": str(cascade.dtype).removeprefix("torch."),
            "versions": runtime.versions(), "checkpoints": _hashes(present(variant))}


def _hashes(names: Sequence[str]) -> dict[str, str]:
    return {n: short_hash(checkpoints_dir() / n) for n in names if (checkpoints_dir() / n).is_dir()}


def _resolve(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return all options with their defaults as plain JSON types, and those of them that `Sampling` takes, checked."""
    for name in options:
        check_name("option of minimagen", name, DEFAULTS)
    check_name("variant of minimagen", options.get("variant", DEFAULTS["variant"]), VARIANTS)
    given = {**DEFAULTS, **({"candidates": 1} if options.get("init_image") else {}),
             **({"clip_guidance_scale": 0.0} if options.get("variant") == "latents" else {}), **options}
    if given["candidates"] != 1 and given["init_image"]:
        raise BadParameter("candidates are chosen among first drafts, and init_image replaces those; leave one out")
    if given["mask"] is not None and not given["init_image"]:
        raise BadParameter("a mask needs init_image=..., the picture into which to draw")
    if given["clip_guidance_scale"] < 0 or given["clip_guidance_scale"] and given["variant"] == "latents":
        raise BadParameter("clip_guidance_scale must be at least 0, and 0 with the variant `latents`; got "
                           f"{given['clip_guidance_scale']}")
    how = {f.name: given[f.name] for f in fields(Sampling) if f.name in given}
    Sampling.of(how)
    if not _names(given["clip"]):
        raise BadParameter("clip must name a guide or a list of guides; got an empty list")
    plain = {tuple: list, type(Path()): str}
    return {k: plain.get(type(v), lambda x: x)(v) for k, v in given.items()}, how


def _draw(cascade: Cascade, texts: list[str], given: dict[str, Any], scores: list[Tensor], **how: Any) -> Tensor:
    """Return pictures (B, 3, H, W) in [-1, 1]; what the guides said of the candidates is added to `scores`."""
    guides = [functools.partial(_guide, name, str(cascade.device)) for name in _names(given["clip"])]
    if given["clip_guidance_scale"]:
        how["clip_guidance"] = ClipGuidance(guides[0](), given["clip_guidance_scale"],
                                            enough=given["clip_guidance_enough"])
    if given["init_image"]:
        size = (cascade.stages[-1].size,) * 2
        picture = fit_picture(load_picture(given["init_image"]), size).expand(len(texts), -1, -1, -1) * 2 - 1
        if given["mask"] is None:
            return cascade.edit(picture, texts, strength=given["strength"], **how)[-1]
        return cascade.inpaint(picture, load_mask(given["mask"], size)[None], texts, **how)[-1]
    if given["candidates"] == 1:
        return cascade.sample(texts, **how)[-1]
    choosing = [guide() for guide in guides]

    def score(pictures: Tensor, wanted: list[str]) -> Tensor:
        each = [guide.similarity(pictures, wanted, batch_size=given["chunk"]).cpu() for guide in choosing]
        scores.append(torch.stack(each).mean(0))
        return scores[-1]

    return cascade.sample(texts, candidates=given["candidates"], score=score, **how)[-1]


def present(variant: str = "pixels") -> list[str]:
    """Return the names of the variant's checkpoints that are here, in the order in which they draw."""
    return [name for name in VARIANTS[variant] if (checkpoints_dir() / name).is_dir()]


def load_cascade(variant: str = "pixels", *, device: str = "cpu", precision: str = "auto", chunk: int = 32) -> Cascade:
    """Return the cascade of the checkpoints that are here.

    Raises:
        MissingAsset: what draws first is not there. CheckpointMismatch: a checkpoint does not say what it was trained
        for, or two were trained with different text encoders.
    """
    names, first = present(variant), LATENT_STAGE if variant == "latents" else STAGES[:1]
    if absent := [name for name in first if name not in names]:
        raise MissingAsset(f"no checkpoint {absent[0]} in {checkpoints_dir()}; train the cascade with `{RECIPE}`, or "
                           "restore it with `git checkout`")
    folders = [checkpoints_dir() / name for name in names]
    read = {folder.name: read_config(folder).get("text_encoder", TEXT_ENCODER) for folder in folders
            if folder.name != LATENT_STAGE[1]}  # a VQGAN reads no text
    if len(set(read.values())) > 1:
        raise CheckpointMismatch(f"the stages of a cascade read one text encoder, these read {read}; train them alike")
    stages = [_stage(folder, device, short_hash(folder)) for folder in folders if folder.name in STAGES]
    if variant == "latents":
        stages.insert(0, _latent_stage(device, *map(short_hash, folders[:2])))
    return Cascade(stages, _text_encoder(next(iter(read.values())), device), precision=precision, chunk=chunk)


@functools.lru_cache(maxsize=2)
def _latent_stage(device: str, *sha256: str) -> Stage:
    prior, vqgan = LATENT_STAGE
    network = load_model(LatentPrior, checkpoints_dir() / prior, device=device)
    return Stage(network, 64, space=LatentSpace(load_vqgan(checkpoints_dir() / vqgan, device=device), network))


@functools.lru_cache(maxsize=6)
def _stage(folder: Path, device: str, sha256: str) -> Stage:  # the hash: what is trained anew is loaded anew
    card = read_config(folder).get("stage")
    if not isinstance(card, dict) or card.keys() != Stage.card_names():
        raise CheckpointMismatch(f"{folder} does not say what it was trained for: 'stage' is {card!r}, expected "
                                 f"{', '.join(sorted(Stage.card_names()))}; save it with save_model(..., "
                                 "stage=Stage(...).card())")
    return Stage(load_model(ImagenUNet, folder, device=device), **card)


@functools.lru_cache(maxsize=2)
def _text_encoder(name: str, device: str):
    return load_text_encoder(name, device=device)


@functools.lru_cache(maxsize=4)
def _guide(name: str, device: str):
    return load_clip(name, device=device)
