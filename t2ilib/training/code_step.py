"""One training step of a network that predicts codes from a text: what it learns from, its loss, and the update.

Notebook 09 trains with it, and the benchmark `text_transformer` times it.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .network_training import NetworkTraining, draw_captions
from ..data.text_features import EncodedTexts
from ..diffusion import stratified_times
from ..models.text_transformer import MEAN_MASK_RATIO, TextTransformer, mask_ratio


@dataclass(frozen=True)
class CodeBatch:
    """What one step learns from.

    Attributes:
        codes: (B, N) int64, the codes that are to be predicted.
        inputs: (B, N), the codes that the network is given: some are masked, some exchanged for others.
        predicted: (B, N) bool, where the prediction counts: at masked codes, or everywhere in a causal network.
        text: tokens (B, T, E), mask (B, T) bool and pooled (B, E), as from `EncodedTexts.batch`.
        drop: (B,) bool, whose text is replaced by the learned "no text".
    """

    codes: Tensor
    inputs: Tensor
    predicted: Tensor
    text: tuple[Tensor, Tensor, Tensor]
    drop: Tensor

    def to(self, device: torch.device | str) -> "CodeBatch":
        """Return the batch on a device."""
        text = tuple(part.to(device) for part in self.text)
        return CodeBatch(self.codes.to(device), self.inputs.to(device), self.predicted.to(device), text,
                         self.drop.to(device))


def draw_code_batch(codes: Tensor, captions: Tensor, texts: EncodedTexts, generator: torch.Generator, *,
                    network: TextTransformer, drop_text: float = 0.1, exchange: float = 0.0, rank: int = 0,
                    world_size: int = 1, device: torch.device | str = "cpu") -> CodeBatch:
    """Draw what a step needs beside its codes: a caption of each picture, which are dropped, masked and exchanged.

    All random numbers are drawn for the common batch, of which each process takes every `world_size`-th picture: so
    several processes learn from what one would. The same stream draws the same for a causal network and for another.

    Args:
        codes: (B, N) of the common batch, on the CPU.
        captions: (B, n), where in `texts` the captions of each picture stand; one of the n is drawn.
        generator: on the CPU. network: decides whether codes are masked, and by what.
        drop_text: share of captions replaced by "no text", for classifier-free guidance.
        exchange: share of given codes that become random ones, so that the network does not rely on codes of its own
            that are wrong.
        rank, world_size: this process, and how many there are. device: where the result goes.

    Raises:
        BadParameter: not a row of captions for each picture.
    """
    n, places = codes.shape
    # in this order: a training that goes on from its state must draw the same again
    caption, drop = draw_captions(captions, n, generator, drop_text)
    masked = draw_mask(mask_ratio(stratified_times(n, generator)), places, generator)
    is_exchanged = torch.rand((n, places), generator=generator) < exchange
    others = torch.randint(network.codes, (n, places), generator=generator)

    inputs = torch.where(is_exchanged, others, codes)
    if network.causal:
        predicted = torch.ones_like(masked)
    else:
        predicted = masked
        inputs = inputs.masked_fill(masked, network.mask_token)
    share = slice(rank, None, world_size)
    batch = CodeBatch(codes[share], inputs[share], predicted[share], texts.batch(caption[share], device), drop[share])
    return batch.to(device)


def draw_mask(ratio: Tensor, places: int, generator: torch.Generator) -> Tensor:
    """Return which codes of each picture are masked: a share (B,) of its places, rounded up, at least one.

    Shapes:
        result: (B, places) bool
    """
    count = (ratio * places).ceil().clamp(min=1)  # (B,)
    rank = torch.rand((len(ratio), places), generator=generator).argsort(dim=1).argsort(dim=1)
    return rank < count[:, None]


def code_cross_entropy(logits: Tensor, codes: Tensor, predicted: Tensor, *, mean_share: float = 1.0,
                       label_smoothing: float = 0.0) -> Tensor:
    """Return the mean cross entropy over the codes that count, in nats.

    Their number is taken as its expectation, so that the shares of several processes add up to what one would find.

    Args:
        predicted: (B, N) bool, which count. mean_share: of the codes that count, over many batches.
        label_smoothing: share of the target that is spread over all codes (Szegedy et al. 2016).

    Shapes:
        logits: (B, N, K), codes: (B, N)
    """
    losses = _cross_entropy(logits, codes, label_smoothing)  # (B, N)
    return (losses * predicted).mean() / mean_share


def expected_code_error(logits: Tensor, codes: Tensor, predicted: Tensor, codebook: Tensor, *,
                        mean_share: float = 1.0) -> Tensor:
    """Return the mean squared error between the expected code vector under the softmax and the vector of the code.

    A regression, for comparison: where several codes are possible, its best answer is their mean, which is none of
    them.

    Args:
        predicted, mean_share: as in `code_cross_entropy`.

    Shapes:
        logits: (B, N, K), codes: (B, N), codebook: (K, D)
    """
    expected = logits.float().softmax(dim=-1) @ codebook  # (B, N, D)
    errors = (expected - F.embedding(codes, codebook)).square().mean(-1)  # (B, N)
    return (errors * predicted).mean() / mean_share


class CodeTraining(NetworkTraining):
    """A network that predicts codes, in training; see `NetworkTraining`.

    Args:
        network: `(codes, tokens, mask, pooled) -> logits`, with `without_text`; moved in place.
        label_smoothing: see `code_cross_entropy`.
        codebook: (K, D) trains by `expected_code_error` instead of cross entropy.
        training: further arguments of `NetworkTraining`.
    """

    def __init__(self, network: TextTransformer, fabric: Any, *, label_smoothing: float = 0.0,
                 codebook: Tensor | None = None, **training: Any):
        super().__init__(network, fabric, **training)
        self.label_smoothing = label_smoothing
        self.codebook = codebook
        self.mean_share = 1.0 if network.causal else MEAN_MASK_RATIO

    def loss(self, batch: CodeBatch) -> Tensor:
        """Return the loss of the predicted codes, with gradient."""
        text = self.network.without_text(*batch.text, batch.drop)
        logits = self.forward(batch.inputs, *text)  # (B, N, K)
        if self.codebook is not None:
            return expected_code_error(logits, batch.codes, batch.predicted, self.codebook, mean_share=self.mean_share)
        return code_cross_entropy(logits, batch.codes, batch.predicted, mean_share=self.mean_share,
                                  label_smoothing=self.label_smoothing)


@torch.no_grad()
def bits_per_code(network: TextTransformer, codes: Tensor, text: tuple[Tensor, Tensor, Tensor],
                  generator: torch.Generator, *, draws: int = 4) -> Tensor:
    """Return the bits per code that the network needs for each picture, given its text.

    Exact for a causal network. For another one it is an upper bound, estimated by `draws` random masks: the mean over
    all orders in which codes can be revealed equals the mean over uniform numbers of masked codes of the mean cross
    entropy among them (Uria et al. 2014, eq. 9).

    Shapes:
        codes: (B, N), text: tokens (B, T, E), mask (B, T), pooled (B, E) -> (B,)
    """
    if network.causal:
        return _cross_entropy(network(codes, *text), codes).mean(1) / math.log(2)
    n, places = codes.shape
    total = torch.zeros(n, device=codes.device)
    for _ in range(draws):
        masked = draw_mask(1 - stratified_times(n, generator), places, generator).to(codes.device)
        logits = network(codes.masked_fill(masked, network.mask_token), *text)
        nats = _cross_entropy(logits, codes)
        total += (nats * masked).sum(1) / masked.sum(1)
    return total / draws / math.log(2)


def _cross_entropy(logits: Tensor, codes: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the cross entropy of each code in nats: (B, N, K), (B, N) -> (B, N)."""
    flat = logits.float().flatten(0, 1)  # (B N, K): the codes last, where the memory runs on
    losses = F.cross_entropy(flat, codes.flatten(), reduction="none", label_smoothing=label_smoothing)
    return losses.view_as(codes)
