"""Training steps of feed-forward generators: what they learn from, their losses, and the update.

`CodeGeneratorTraining` learns the codes of drawings; notebook 05 and the recipe `generator` train with it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .code_step import code_cross_entropies
from .network_training import NetworkTraining
from ..errors import BadParameter
from ..models.feed_forward import CodeGenerator


@dataclass(frozen=True)
class GeneratorBatch:
    """What one step of a `CodeGenerator` learns from.

    Attributes:
        codes: (B, N) int64, of the drawings. predicted: (B, N) bool, where the prediction counts.
        pooled: (B, E), of a caption of each. style: (B, S) weights of the styles. noise: (B, E) standard normal.
        hidden: (B, M) bool, rows of the memory that the network must do without.
    """

    codes: Tensor
    predicted: Tensor
    pooled: Tensor
    style: Tensor
    noise: Tensor
    hidden: Tensor

    def to(self, device: torch.device | str) -> "GeneratorBatch":
        """Return the batch on a device."""
        parts = (self.codes, self.predicted, self.pooled, self.style, self.noise, self.hidden)
        return GeneratorBatch(*[part.to(device) for part in parts])


def draw_generator_batch(codes: Tensor, captions: Tensor, style: Tensor, relatives: Tensor, texts: Tensor,
                         generator: torch.Generator, *, plain_share: float = 0.5, predicted_share: float = 0.5,
                         hidden_share: float = 0.5, rank: int = 0, world_size: int = 1,
                         device: torch.device | str = "cpu") -> GeneratorBatch:
    """Draw a caption, noise and the counted places of each picture, for the common batch of all processes.

    Args:
        codes: (B, N) of the common batch. captions: (B, n), where in `texts` the captions of each picture stand, the
            plain name first. style: (B, S). relatives: (B, M) bool, the rows of the memory that show
            the thing itself or one of its family. texts: (T, E) pooled features of all captions.
        generator: on the CPU. plain_share: share of pictures that go by their plain name, the others by any caption.
        predicted_share: share of places whose code counts in this step, the same number in each picture.
        hidden_share: share of pictures whose relatives are hidden, so that the network learns to draw what it does not
            know by heart.
        rank, world_size: this process, which takes every `world_size`-th picture. device: where the result goes.

    Raises:
        BadParameter: rows do not fit, or a share is out of range.
    """
    count, places = codes.shape
    if len(captions) != count or len(style) != count:
        raise BadParameter(f"need captions and a style for each of {count} pictures, got {len(captions)} and "
                           f"{len(style)}")
    if not 0 <= plain_share <= 1 or not 0 < predicted_share <= 1:
        raise BadParameter(f"plain_share lies in [0, 1] and predicted_share in (0, 1], got {plain_share} and "
                           f"{predicted_share}")
    variant = torch.randint(captions.shape[1], (count,), generator=generator)
    is_plain = torch.rand(count, generator=generator) < plain_share
    variant = variant.masked_fill(is_plain, 0)
    pooled = texts[captions[torch.arange(count), variant]]  # (B, E)
    noise = torch.randn(pooled.shape, generator=generator)
    kept = max(1, round(predicted_share * places))
    order = torch.rand((count, places), generator=generator).argsort(dim=1).argsort(dim=1)
    is_hidden = torch.rand(count, generator=generator) < hidden_share
    hidden = relatives & is_hidden[:, None]  # (B, M)
    share = slice(rank, None, world_size)
    batch = GeneratorBatch(codes[share], (order < kept)[share], pooled[share].float(), style[share], noise[share],
                           hidden[share])
    return batch.to(device)


class CodeGeneratorTraining(NetworkTraining):
    """A `CodeGenerator` in training by cross entropy; see `NetworkTraining`.

    Args:
        network: moved in place. label_smoothing: see `code_cross_entropies`.
        training: further arguments of `NetworkTraining`.
    """

    def __init__(self, network: CodeGenerator, fabric: Any, *, label_smoothing: float = 0.0, **training: Any):
        super().__init__(network, fabric, **training)
        self.label_smoothing = label_smoothing

    def loss(self, batch: GeneratorBatch) -> Tensor:
        """Return the mean cross entropy of the codes that count, in nats, with gradient."""
        logits = self.forward(batch.pooled, batch.style, batch.noise, batch.predicted, batch.hidden)  # (M, K)
        return code_cross_entropies(logits, batch.codes[batch.predicted], self.label_smoothing).mean()
