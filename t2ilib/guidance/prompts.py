"""Prompts with weights and stops, and the loss that pulls a picture towards them.

The loss is that of the original VQGAN+CLIP notebook (Crowson et al. 2022, arXiv 2204.08583): half the squared angle
between the embedding of a cutout and that of a prompt.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import BadParameter
from .ops import replace_grad

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
CLOCK_TIME = re.compile(r"(^|\D)([01]?\d|2[0-3]):[0-5]\d$")
NO_STOP = -math.inf


@dataclass(frozen=True)
class Prompt:
    """One text with its pull on the picture.

    Attributes:
        text: what the picture shall show, or shall not show if `weight` is negative.
        weight: strength of the pull; a negative one pushes away.
        stop: once the loss of a cutout falls below it, that cutout pulls no further; -inf never stops. For a negative
            weight the loss itself is negative (-theta^2 / 2), so a useful stop is negative too.
    """

    text: str
    weight: float = 1.0
    stop: float = NO_STOP

    def __post_init__(self):
        if not isinstance(self.text, str) or not self.text.strip():
            raise BadParameter(f"a prompt needs text, got {self.text!r}; write for example 'a red heart:0.5'")
        if not math.isfinite(self.weight):
            raise BadParameter(f"weight of prompt {self.text!r} must be finite, got {self.weight}")
        if math.isnan(self.stop) or self.stop == math.inf:
            raise BadParameter(f"stop of prompt {self.text!r} must be a number or -inf, got {self.stop}")


def parse_prompt(spec: str | Prompt) -> Prompt:
    r"""Read `text`, `text:weight` or `text:weight:stop`; only numbers at the end are peeled off.

    Colons inside the text are safe ("Star Wars: a poster:0.5" has weight 0.5), and so is a time of day at the end
    ("a clock at 12:30"). Where a number after a colon belongs to the text all the same, write the colon as `\:`.

    Raises:
        BadParameter: no text is left, or a number is out of range.
    """
    if isinstance(spec, Prompt):
        return spec
    if not isinstance(spec, str):
        raise BadParameter(f"a prompt must be text or a Prompt, got {type(spec).__name__}")
    text, numbers = spec.strip(), []
    while len(numbers) < 2 and not CLOCK_TIME.search(text):
        match = re.search(r"(?<!\\):\s*([^:]*)$", text)
        if not match:
            break
        value = match.group(1).strip()
        # "-inf" is a stop, so it can only be the last of two numbers; "nan" and "infinity" are words
        if not (NUMBER.fullmatch(value) or (value == "-inf" and not numbers)):
            break
        numbers.insert(0, float(value))
        text = text[:match.start()]
    if numbers == [NO_STOP]:
        raise BadParameter(f"prompt {spec!r}: -inf is a stop and follows a weight, as in 'text:1:-inf'")
    return Prompt(text.replace(r"\:", ":").strip(), *numbers)


def parse_prompts(spec: str | Prompt | Sequence[str | Prompt]) -> list[Prompt]:
    r"""Read several prompts for one picture, separated by `|` (a `|` that belongs to the text is written `\|`).

    Example:
        parse_prompts("a castle | oil painting:0.5 | text:-0.3")

    Raises:
        BadParameter: a part is empty, or no prompt has a weight other than zero.
    """
    parts = list(spec) if isinstance(spec, (list, tuple)) else [spec]
    prompts = []
    for part in parts:
        pieces = re.split(r"(?<!\\)\|", part) if isinstance(part, str) else [part]
        if len(pieces) > 1 and not all(p.strip() for p in pieces):
            raise BadParameter(f"prompt {part!r} has an empty part; write one '|' between two texts")
        prompts += [parse_prompt(p.replace(r"\|", "|") if isinstance(p, str) else p) for p in pieces]
    if not any(p.weight for p in prompts):
        raise BadParameter(f"no prompt pulls: got {spec!r}; give at least one a weight other than 0")
    return prompts


def main_text(prompts: Sequence[Prompt]) -> str:
    """Return the texts that pull (weight above 0), strongest first, as one phrase: what a prior is conditioned on."""
    wanted = sorted((p for p in prompts if p.weight > 0), key=lambda p: -p.weight)
    return ", ".join(p.text for p in wanted)


def spherical_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return theta^2 / 2 for the angle theta between unit vectors; shapes broadcast.

    Kahan's form theta = 2 atan2(|a - b|, |a + b|) is exact at both ends, where arcsin(|a - b| / 2) has an infinite
    derivative at the antipode (and so a NaN gradient) and arccos(a . b) at coincidence.

    Shapes:
        a (..., D), b (..., D) -> (...), range [0, pi^2 / 2]
    """
    apart = torch.linalg.vector_norm(a - b, dim=-1)
    together = torch.linalg.vector_norm(a + b, dim=-1)
    return 2 * torch.atan2(apart, together).square()


@dataclass(frozen=True)
class Targets:
    """Embedded prompts of a batch of pictures; pictures with fewer prompts are padded with weight 0.

    Shapes:
        embedding (B, P, D) of unit norm, weight (B, P), stop (B, P)
    """

    embedding: Tensor
    weight: Tensor
    stop: Tensor

    def select(self, index: slice | list[int] | Tensor) -> "Targets":
        """Return the targets of some of the pictures."""
        return Targets(self.embedding[index], self.weight[index], self.stop[index])


def embed_prompts(clip, prompts: Sequence[Sequence[Prompt]]) -> Targets:
    """Embed the prompts of every picture with one CLIP; equal texts are embedded once.

    Args:
        clip: an object with `encode_text(list[str]) -> (N, D)` of unit norm.
        prompts: for each of B pictures, its prompts.
    """
    texts = list(dict.fromkeys(p.text for group in prompts for p in group))
    with torch.no_grad():
        features = torch.nn.functional.normalize(clip.encode_text(texts).float(), dim=-1)
    row = {text: i for i, text in enumerate(texts)}
    width = max(map(len, prompts))
    padded = [[*group, *[Prompt(group[0].text, 0.0)] * (width - len(group))] for group in prompts]
    index = torch.tensor([[row[p.text] for p in group] for group in padded], device=features.device)
    weight = torch.tensor([[p.weight for p in group] for group in padded], device=features.device)
    stop = torch.tensor([[p.stop for p in group] for group in padded], device=features.device)
    return Targets(features[index], weight, stop)


def prompt_loss(features: Tensor, targets: Targets) -> Tensor:
    """Return the loss of each picture: the sum over its prompts of |w| mean_cutouts(sign(w) theta^2 / 2).

    The value is not divided by the sum of weights. A cutout whose signed loss lies below the prompt's `stop` still
    counts in the value but has no gradient.

    Shapes:
        features (B, n, D) of unit norm -> (B,)
    """
    distance = spherical_distance(features[:, :, None], targets.embedding[:, None])
    signed = distance * targets.weight.sign()[:, None]
    signed = replace_grad(signed, torch.maximum(signed, targets.stop[:, None]))
    return (signed.mean(dim=1) * targets.weight.abs()).sum(dim=1)
