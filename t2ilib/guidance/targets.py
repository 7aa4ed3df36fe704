"""Prompts as one CLIP embeds them, and the loss that pulls a picture towards them.

The loss is that of the original VQGAN+CLIP notebook (Crowson et al. 2022, arXiv 2204.08583): half the squared angle
between the embedding of a cutout and that of a prompt.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .ops import angle_between
from .prompts import Prompt
from .protocols import ImageTextModel
from ..errors import BadParameter
from ..layers.quantize import straight_through
from ..runtime import generator


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
        if isinstance(index, slice):
            rows = range(len(self.owners))[index]
        else:
            rows = torch.as_tensor(index).tolist()
        owners = tuple(self.owners[i] for i in rows)
        return Targets(self.embedding[index], self.weight[index], self.stop[index], owners)

    def at(self, progress: float) -> "Targets":
        """Return the targets with the weights that they have at a moment of the run in [0, 1]."""
        if all(prompt.span == (0.0, 1.0) for owners in self.owners for prompt in owners):
            return self
        rows = []
        for owners in self.owners:
            rows.append([prompt.strength(progress) for prompt in owners])
        strength = torch.tensor(rows).to(self.weight)  # (B, P)
        return dataclasses.replace(self, weight=self.weight * strength)


def embed_prompts(clip: ImageTextModel, prompts: Sequence[Sequence[Prompt]], *,
                  embed_image: Callable[[Prompt], Tensor] | None = None, long: str = "truncate") -> Targets:
    """Embed the prompts of every picture with one CLIP; equal ones are embedded once.

    Args:
        clip: an object with `encode_text(list[str]) -> (N, D)`.
        prompts: for each of B pictures, its prompts.
        embed_image: image prompt -> features (V, D) of V views of it.
        long: what happens to a text longer than the CLIP reads: "truncate" (it warns) or the mean of "windows".

    Raises:
        BadParameter: a vector's width is not that of the CLIP, or there is an image prompt and no `embed_image`.
    """
    distinct = list(dict.fromkeys(prompt for group in prompts for prompt in group))
    features = _embed_distinct(clip, distinct, embed_image, long)
    most_rows = 0
    for group in prompts:
        rows = sum(len(features[prompt]) for prompt in group)
        most_rows = max(most_rows, rows)
    embeddings = []
    weights = []
    stops = []
    owners = []
    for group in prompts:
        embedding, weight, owner = _padded_rows(group, features, most_rows)
        embeddings.append(embedding)
        weights.append(weight)
        stops.append([prompt.stop for prompt in owner])
        owners.append(tuple(owner))
    embedding = torch.stack(embeddings)  # (B, P, D)
    weight = torch.tensor(weights, device=embedding.device)
    stop = torch.tensor(stops, device=embedding.device)
    return Targets(embedding, weight, stop, tuple(owners))


def _padded_rows(group: Sequence[Prompt], features: dict[Prompt, Tensor], count: int
                 ) -> tuple[Tensor, list[float], list[Prompt]]:
    """Return features (count, D), weights and owners of one picture's rows, filled up with rows of weight 0."""
    embedding = torch.cat([features[prompt] for prompt in group])  # (rows, D)
    weight = []
    owner = []
    for prompt in group:
        rows = len(features[prompt])
        weight += [prompt.weight / rows] * rows
        owner += [prompt] * rows
    missing = count - len(owner)
    embedding = torch.cat([embedding, embedding[:1].expand(missing, -1)])
    return embedding, weight + [0.0] * missing, owner + owner[:1] * missing


def _embed_distinct(clip: ImageTextModel, prompts: list[Prompt], embed_image: Callable[[Prompt], Tensor] | None,
                    long: str) -> dict[Prompt, Tensor]:
    """Return for each prompt its features (V, D) of unit norm: V is 1, or the number of an image's views."""
    texts = list(dict.fromkeys(prompt.text for prompt in prompts if prompt.kind == "text"))
    text_features = _embed_texts(clip, texts or ["a"], long)  # without texts, one that shows width and device
    any_text_feature = next(iter(text_features.values()))  # (1, D)
    width = any_text_feature.shape[1]
    features = {}
    for prompt in prompts:
        if prompt.kind == "text":
            features[prompt] = text_features[prompt.text]
        elif prompt.kind == "image":
            features[prompt] = _embed_picture(prompt, embed_image)
        elif prompt.kind == "noise":
            features[prompt] = _embed_noise(prompt, width)
        else:
            features[prompt] = _embed_vector(prompt, width)
    return {prompt: f.to(any_text_feature.device) for prompt, f in features.items()}


@torch.no_grad()
def _embed_texts(clip: ImageTextModel, texts: list[str], long: str) -> dict[str, Tensor]:
    options = {} if long == "truncate" else {"long": long}
    features = F.normalize(clip.encode_text(texts, **options).float(), dim=-1)  # (N, D)
    return dict(zip(texts, features[:, None], strict=True))  # each (1, D)


def _embed_picture(prompt: Prompt, embed_image: Callable[[Prompt], Tensor] | None) -> Tensor:
    if embed_image is None:
        raise BadParameter(f"image prompt {prompt.text!r} needs embed_image=..., a function that embeds its views")
    return F.normalize(embed_image(prompt).detach().float(), dim=-1)


def _embed_noise(prompt: Prompt, width: int) -> Tensor:
    if not prompt.text.strip().isdigit():
        raise BadParameter(f"a noise prompt is a seed, a whole number of at least 0, got {prompt.text!r}")
    stream = generator(int(prompt.text), "noise prompt")
    return F.normalize(torch.randn(1, width, generator=stream), dim=-1)


def _embed_vector(prompt: Prompt, width: int) -> Tensor:
    if len(prompt.vector) != width:
        raise BadParameter(f"vector {prompt.text!r} has {len(prompt.vector)} numbers, this CLIP's space has {width}; "
                           "use a vector of the same CLIP")
    return F.normalize(torch.tensor([prompt.vector]), dim=-1)


def spherical_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return theta^2 / 2 for the angle theta between unit vectors; shapes broadcast.

    Shapes:
        a (..., D), b (..., D) -> (...), range [0, pi^2 / 2]
    """
    return angle_between(a, b).square() / 2


def prompt_loss(features: Tensor, targets: Targets) -> Tensor:
    """Return the loss of each picture: the sum over its prompts of |w| mean_cutouts(sign(w) theta^2 / 2).

    The value is not divided by the sum of weights. A cutout whose signed loss lies below the prompt's `stop` still
    counts in the value but has no gradient.

    Shapes:
        features (B, n, D) of unit norm -> (B,)
    """
    distance = spherical_distance(features[:, :, None], targets.embedding[:, None])  # (B, n, P)
    signed = distance * targets.weight.sign()[:, None]
    # where the stop is the larger one, the gradient ends at it
    at_least_stop = torch.maximum(signed, targets.stop[:, None])
    signed = straight_through(signed, at_least_stop)
    of_prompts = signed.mean(dim=1) * targets.weight.abs()  # (B, P)
    return of_prompts.sum(dim=1)
