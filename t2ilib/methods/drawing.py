"""What methods share that draw for a list of texts: seeds, steps, guides that choose, pictures to edit, the record."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .networks import Networks
from .registry import read_prompts
from .. import runtime
from ..encoders.choosing import GuideScore
from ..errors import BadParameter
from ..media import fit_picture, load_picture, to_signed
from ..options import Option

MACHINE_OPTIONS = (
    Option("device", "auto", "`cpu`, `cuda`, `mps`", "machine"),
    Option("precision", "auto", "`float32`, `bfloat16`, `float16`", "machine", choices=("auto", *runtime.DTYPES)),
    Option("chunk", 32, "pictures in a batch", "machine", low=1, high=4096),
)


def guide_options(candidates: int) -> tuple[Option, Option]:
    """Return the options by which guides choose among drafts; `candidates` is how many are drawn by default."""
    return (
        Option("candidates", candidates, "drafts for each picture, of which the guides keep the best", "guides", low=1,
               high=4096, slider=(1, 32 if candidates == 1 else 64)),
        Option("clip", ("emoji-clip-b", "emoji-clip"), "the guide that chooses, or a list, all of which choose",
               "guides", type="str | list[str]"),
    )


class StepCounter:
    """A callback that counts the steps, and hands each preview on."""

    def __init__(self, callback: Callable[[Any], bool | None] | None):
        self.callback = callback
        self.steps = 0

    def __call__(self, preview: Any) -> bool | None:
        self.steps += 1
        return None if self.callback is None else self.callback(preview)


def texts_and_seeds(prompt: str | Sequence[str], num_images: int, seed: int) -> tuple[list[str], list[int]]:
    """Return the text and the seed of each picture, those of one prompt next to one another."""
    texts: list[str] = []
    seeds: list[int] = []
    for text in read_prompts(prompt):
        texts += [text] * num_images
        seeds += [seed + j for j in range(num_images)]
    return texts, seeds


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as plain JSON types, after checking those that every such method has.

    Raises:
        BadParameter: a mask without a picture, or no guide.
    """
    if settings.get("mask") is not None and not settings.get("init_image"):
        raise BadParameter("a mask needs init_image=..., the picture into which to draw")
    if not settings["clip"]:
        raise BadParameter("clip must name a guide or a list of guides; got an empty list")
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def guide_names(clip: str | Sequence[str]) -> list[str]:
    """Return the option `clip`, a name or a list of names, as a list."""
    return [clip] if isinstance(clip, str) else list(clip)


def choosing_guides(networks: Networks, names: Sequence[str], batch_size: int) -> GuideScore:
    """Return what chooses among candidates: the guides of these names."""
    return GuideScore([networks.clip(name) for name in names], batch_size)


def pictures_to_edit(path: str, size: tuple[int, int], count: int) -> Tensor:
    """Return a picture file, fitted to a size, as often as there are texts: (count, 3, H, W) in [-1, 1]."""
    picture = fit_picture(load_picture(path), size)
    return to_signed(picture.expand(count, -1, -1, -1))


def drawing_record(settings: dict[str, Any], texts: list[str], seeds: list[int], pictures: Tensor, *, steps_done: int,
                   began: float, device: torch.device, dtype: torch.dtype, networks: Networks,
                   scores: Tensor | None) -> dict[str, Any]:
    """Return what the record of a run says of every such method.

    Args:
        began: `time.perf_counter()` at the start. scores: of the candidates (B, candidates) if guides chose.
    """
    height, width = pictures.shape[-2:]
    record = {
        "config": settings, "prompts": texts, "final_texts": texts, "seeds": seeds, "height": height, "width": width,
        "steps_done": steps_done, "seconds": round(time.perf_counter() - began, 3),
        "device": runtime.device_name(device), "dtype": str(dtype).removeprefix("torch."),
        "versions": runtime.versions(), "checkpoints": networks.hashes,
    }
    if scores is not None:
        record["candidate_chosen"] = scores.argmax(1).tolist()
        record["guide_similarity"] = scores.tolist()
    return record
