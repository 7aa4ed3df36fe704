"""What methods share that draw for a list of texts: seeds, steps, guides that choose, pictures to edit, the record."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .networks import Networks
from .registry import read_prompts
from .. import runtime
from ..data.recoloring import color_match
from ..encoders.choosing import GuideScore
from ..errors import BadParameter
from ..guidance import GuidanceConfig
from ..media import fit_picture, load_picture, to_signed
from ..options import Option, options_of

MACHINE_OPTIONS = (
    Option("device", "auto", "`cpu`, `cuda`, `mps`", "machine"),
    Option("precision", "auto", "`float32`, `bfloat16`, `float16`", "machine", choices=("auto", *runtime.DTYPES)),
    Option("chunk", 32, "pictures in a batch", "machine", low=1, high=4096),
)


COLOR_WEIGHT = replace(next(option for option in options_of(GuidanceConfig) if option.name == "color_weight"),
                       group="guides")


def guide_options(candidates: int) -> tuple[Option, Option, Option]:
    """Return the options by which guides choose among drafts; `candidates` is how many are drawn by default."""
    return (
        Option("candidates", candidates, "drafts for each picture, of which the guides keep the best", "guides", low=1,
               high=4096, slider=(1, 32 if candidates == 1 else 64)),
        Option("clip", ("emoji-clip-b", "emoji-clip"), "the guide that chooses, or a list, all of which choose",
               "guides", type="str | list[str]"),
        COLOR_WEIGHT,
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


@dataclass(frozen=True)
class Choice:
    """What was chosen among candidates.

    Attributes:
        similarity: of all candidates, by the guides alone (B, candidates), on the CPU. chosen: which one (B,).
    """

    similarity: Tensor
    chosen: Tensor


class ColorScore:
    """Choose as guides do, and prefer pictures that have the colour that their text asks for.

    Args:
        guides: say how similar pictures and texts are. candidates: how many pictures each text has, one after another.
        weight: of the colour, in standard deviations of what the guides say of a text's candidates.

    Attributes:
        choice: of the pictures that were asked for last, None before.
    """

    def __init__(self, guides: GuideScore, candidates: int, weight: float):
        self.guides = guides
        self.candidates = candidates
        self.weight = weight
        self.choice: Choice | None = None

    def __call__(self, pictures: Tensor, texts: list[Any]) -> Tensor:
        similarity = self.guides(pictures, texts).view(-1, self.candidates)  # (B, candidates)
        match = color_match(pictures, texts).view(-1, self.candidates)
        spread = similarity.std(dim=1, keepdim=True, correction=0)  # (B, 1)
        scores = similarity + self.weight * spread * match
        self.choice = Choice(similarity, scores.argmax(1))
        return scores.flatten()


def choosing_guides(networks: Networks, settings: Mapping[str, Any]) -> ColorScore:
    """Return what chooses among candidates by the options `clip` and `color_weight`."""
    guides = GuideScore([networks.clip(name) for name in guide_names(settings["clip"])], settings["chunk"])
    return ColorScore(guides, settings["candidates"], settings["color_weight"])


def pictures_to_edit(path: str, size: tuple[int, int], count: int) -> Tensor:
    """Return a picture file, fitted to a size, as often as there are texts: (count, 3, H, W) in [-1, 1]."""
    picture = fit_picture(load_picture(path), size)
    return to_signed(picture.expand(count, -1, -1, -1))


def drawing_record(settings: dict[str, Any], texts: list[str], seeds: list[int], pictures: Tensor, *, steps_done: int,
                   began: float, device: torch.device, dtype: torch.dtype, networks: Networks,
                   choice: Choice | None) -> dict[str, Any]:
    """Return what the record of a run says of every such method.

    Args:
        began: `time.perf_counter()` at the start. choice: what chose among candidates, if anything did.
    """
    height, width = pictures.shape[-2:]
    record = {
        "config": settings, "prompts": texts, "final_texts": texts, "seeds": seeds, "height": height, "width": width,
        "steps_done": steps_done, "seconds": round(time.perf_counter() - began, 3),
        "device": runtime.device_name(device), "dtype": str(dtype).removeprefix("torch."),
        "versions": runtime.versions(), "checkpoints": networks.hashes,
    }
    if choice is not None:
        record["candidate_chosen"] = choice.chosen.tolist()
        record["guide_similarity"] = choice.similarity.tolist()
    return record
