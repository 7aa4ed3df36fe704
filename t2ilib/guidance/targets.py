"""Prompts as one CLIP sees them, and the loss that pulls a picture towards them.

The loss is that of the original VQGAN+CLIP notebook (Crowson et al. 2022, arXiv 2204.08583): half the squared angle
between the embedding of a cutout and that of a prompt.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .ops import replace_grad
from .prompts import Prompt
from ..errors import BadParameter
from ..runtime import generator


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
    """Embedded prompts of a batch of pictures; pictures with fewer of them are padded with weight 0.

    An image prompt has one row for each of its views, which share its weight.

    Shapes:
        embedding (B, P, D) of unit norm, weight (B, P), stop (B, P)

    Attributes:
        owners: for each picture, the prompt to which each row belongs.
    """

    embedding: Tensor
    weight: Tensor
    stop: Tensor
    owners: tuple[tuple[Prompt, ...], ...]

    def select(self, index: slice | Sequence[int] | Tensor) -> "Targets":
        """Return the targets of some of the pictures."""
        rows = range(len(self.owners))[index] if isinstance(index, slice) else torch.as_tensor(index).tolist()
        return Targets(self.embedding[index], self.weight[index], self.stop[index],
                       tuple(self.owners[i] for i in rows))

    def at(self, progress: float) -> "Targets":
        """Return the targets with the weights that they have at a moment of the run in [0, 1]."""
        if all(p.span == (0.0, 1.0) for owners in self.owners for p in owners):
            return self
        strength = torch.tensor([[p.strength(progress) for p in owners] for owners in self.owners])
        return dataclasses.replace(self, weight=self.weight * strength.to(self.weight))


def embed_prompts(clip, prompts: Sequence[Sequence[Prompt]], *, look: Callable[[Prompt], Tensor] | None = None,
                  long: str = "truncate") -> Targets:
    """Embed the prompts of every picture with one CLIP; equal ones are embedded once.

    Args:
        clip: an object with `encode_text(list[str]) -> (N, D)` of unit norm.
        prompts: for each of B pictures, its prompts.
        look: embeds an image prompt, as (V, D) for V views of it.
        long: what happens to a text longer than the CLIP reads: "truncate" (it warns) or the mean of "windows".

    Raises:
        BadParameter: a vector's width is not that of the CLIP, or there is an image prompt and no `look`.
    """
    every = list(dict.fromkeys(p for group in prompts for p in group))
    features = _embed_texts(clip, list(dict.fromkeys(p.text for p in every if p.kind == "text")), long)
    width = next(iter(features.values())).shape[1] if features else clip.encode_text(["a"]).shape[1]
    rows = {p: features[p.text] if p.kind == "text" else _embed_other(p, width, look) for p in every}
    longest = max(sum(len(rows[p]) for p in group) for group in prompts)
    table = [_pad(group, rows, longest) for group in prompts]
    device = next(iter(features.values())).device if features else clip.encode_text(["a"]).device
    embedding = torch.stack([torch.stack([f.to(device) for f, _, _ in row]) for row in table])
    weight = torch.tensor([[w for _, w, _ in row] for row in table], device=device)
    owners = tuple(tuple(p for _, _, p in row) for row in table)
    stop = torch.tensor([[p.stop for p in row] for row in owners], device=device)
    return Targets(embedding, weight, stop, owners)


@torch.no_grad()
def _embed_texts(clip, texts: list[str], long: str) -> dict[str, Tensor]:
    if not texts:
        return {}
    options = {} if long == "truncate" else {"long": long}
    features = F.normalize(clip.encode_text(texts, **options).float(), dim=-1)
    return {text: f[None] for text, f in zip(texts, features, strict=True)}


def _embed_other(prompt: Prompt, width: int, look: Callable[[Prompt], Tensor] | None) -> Tensor:
    """Return the rows (V, D) of a prompt that is not text."""
    if prompt.kind == "image":
        if look is None:
            raise BadParameter(f"image prompt {prompt.text!r} needs look=..., a function that embeds its views")
        return F.normalize(look(prompt).detach().float(), dim=-1)
    if prompt.kind == "noise":
        if not prompt.text.strip().isdigit():
            raise BadParameter(f"a noise prompt is a seed, a whole number of at least 0, got {prompt.text!r}")
        return F.normalize(torch.randn(1, width, generator=generator(int(prompt.text), "noise prompt")), dim=-1)
    if len(prompt.vector) != width:
        raise BadParameter(f"vector {prompt.text!r} has {len(prompt.vector)} numbers, this CLIP's space has {width}; "
                           "use a vector of the same CLIP")
    return F.normalize(torch.tensor([prompt.vector]), dim=-1)


def _pad(group: Sequence[Prompt], rows: dict[Prompt, Tensor], longest: int) -> list[tuple[Tensor, float, Prompt]]:
    """Return (feature, weight, owner) of each row of a picture's prompts, filled up with rows of weight 0."""
    found = [(f, p.weight / len(rows[p]), p) for p in group for f in rows[p]]
    return found + [(found[0][0], 0.0, found[0][2])] * (longest - len(found))


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
