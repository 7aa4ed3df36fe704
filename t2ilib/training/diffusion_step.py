"""One training step of a diffusion network that reads a text: what it learns from, its loss, and the update.

Notebooks 08 and 14 train with it, and the benchmark `minimagen` times it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .network_training import NetworkTraining, draw_captions
from ..data.text_features import EncodedTexts
from ..diffusion import COSINE, Schedule, diffusion_loss, stratified_times


@dataclass(frozen=True)
class DiffusionBatch:
    """What one step learns from.

    Attributes:
        x_0: data (B, C, H, W), as the network is to draw them.
        text: tokens (B, T, E), mask (B, T) bool and pooled (B, E), as from `EncodedTexts.batch`.
        drop: (B,) bool, whose text is replaced by the learned "no text".
        t: times (B,) in [0, 1). eps: standard normal noise of the shape of x_0.
        low: for super-resolution, the smaller picture (B, C, H, W), enlarged and noised, and the time of that noise
            (B,); else empty.
    """

    x_0: Tensor
    text: tuple[Tensor, Tensor, Tensor]
    drop: Tensor
    t: Tensor
    eps: Tensor
    low: tuple[()] | tuple[Tensor, Tensor] = ()

    def to(self, device: torch.device | str) -> "DiffusionBatch":
        """Return the batch on a device."""
        text = tuple(part.to(device) for part in self.text)
        low = tuple(part.to(device) for part in self.low)
        return DiffusionBatch(self.x_0.to(device), text, self.drop.to(device), self.t.to(device), self.eps.to(device),
                              low)


def draw_diffusion_batch(x_0: Tensor, captions: Tensor, texts: EncodedTexts, generator: torch.Generator, *,
                         drop_text: float = 0.1, low: tuple[()] | tuple[Tensor, Tensor] = (), rank: int = 0,
                         world_size: int = 1, device: torch.device | str = "cpu") -> DiffusionBatch:
    """Draw what a step needs beside its data: a caption of each picture, which are dropped, times, and noise.

    All random numbers are drawn for the common batch, of which each process takes every `world_size`-th picture: so
    several processes learn from what one would.

    Args:
        x_0: data (B, C, H, W) of the common batch, on the CPU. low: see `DiffusionBatch`.
        captions: (B, n), where in `texts` the captions of each picture stand; one of the n is drawn.
        generator: on the CPU. drop_text: share of captions replaced by "no text", for classifier-free guidance.
        rank, world_size: this process, and how many there are. device: where the result goes.

    Raises:
        BadParameter: not a row of captions for each picture.
    """
    n = len(x_0)
    # in this order: a training that goes on from its state must draw the same again
    caption, drop = draw_captions(captions, n, generator, drop_text)
    t = stratified_times(n, generator)
    eps = torch.randn(x_0.shape, generator=generator)

    share = slice(rank, None, world_size)
    batch = DiffusionBatch(x_0[share], texts.batch(caption[share], device), drop[share], t[share], eps[share],
                           tuple(part[share] for part in low))
    return batch.to(device)


class DiffusionTraining(NetworkTraining):
    """A diffusion network in training; see `NetworkTraining`.

    Args:
        network: `(x_t, t, tokens, mask, pooled, *low) -> prediction`, with `without_text`; moved in place.
        target, weighting, huber, schedule: see `diffusion.diffusion_loss`.
        training: further arguments of `NetworkTraining`.
    """

    def __init__(self, network: nn.Module, fabric: Any, *, target: str = "v", weighting: str = "none",
                 huber: float = 0.0, schedule: Schedule = COSINE, **training: Any):
        super().__init__(network, fabric, **training)
        self.target = target
        self.weighting = weighting
        self.huber = huber
        self.schedule = schedule

    def loss(self, batch: DiffusionBatch) -> Tensor:
        """Return the mean squared error of the prediction, with gradient."""
        tokens, mask, pooled = self.network.without_text(*batch.text, batch.drop)

        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            return self.forward(x_t, t, tokens, mask, pooled, *batch.low)

        return diffusion_loss(predict, batch.x_0, batch.t, batch.eps, target=self.target, weighting=self.weighting,
                              huber=self.huber, schedule=self.schedule)
