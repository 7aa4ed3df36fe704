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
from ..models.code_network import CodeNetwork
from ..models.text_transformer import MEAN_MASK_RATIO, mask_ratio


@dataclass(frozen=True)
class CodeBatch:
    """What one step learns from.

    Attributes:
        codes: (B, N) int64, the codes that are to be predicted.
        inputs: (B, N), the codes that the network is given: some are masked, some exchanged for others.
        predicted: (B, N) bool, where the prediction counts: at masked codes, or everywhere in a causal network.
        text: tokens (B, T, E), mask (B, T) bool and pooled (B, E), as from `EncodedTexts.batch`.
        drop: (B,) bool, whose text is replaced by the learned "no text".
        coarse: (B, h, w), the coarse codes that the network is given, if it reads any.
    """

    codes: Tensor
    inputs: Tensor
    predicted: Tensor
    text: tuple[Tensor, Tensor, Tensor]
    drop: Tensor
    coarse: Tensor | None = None

    def to(self, device: torch.device | str) -> "CodeBatch":
        """Return the batch on a device."""
        text = tuple(part.to(device) for part in self.text)
        coarse = None if self.coarse is None else self.coarse.to(device)
        return CodeBatch(self.codes.to(device), self.inputs.to(device), self.predicted.to(device), text,
                         self.drop.to(device), coarse)


def draw_code_batch(codes: Tensor, captions: Tensor, texts: EncodedTexts, generator: torch.Generator, *,
                    network: CodeNetwork, coarse: Tensor | None = None, drop_text: float = 0.1, exchange: float = 0.0,
                    rank: int = 0, world_size: int = 1, device: torch.device | str = "cpu") -> CodeBatch:
    """Draw what a step needs beside its codes: a caption of each picture, which are dropped, masked and exchanged.

    All random numbers are drawn for the common batch, of which each process takes every `world_size`-th picture: so
    several processes learn from what one would. The same stream draws the same for a causal network and for another.

    Args:
        codes: (B, N) of the common batch, on the CPU.
        captions: (B, n), where in `texts` the captions of each picture stand; one of the n is drawn.
        generator: on the CPU. network: decides whether codes are masked, and by what.
        coarse: (B, h, w) of the common batch, for a network that reads coarse codes.
        drop_text: share of captions replaced by "no text", for classifier-free guidance.
        exchange: share of given codes, of coarse ones too, that become random ones, so that the network does not rely
            on codes of its own that are wrong.
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
    if coarse is not None:
        is_exchanged = torch.rand(coarse.shape, generator=generator) < exchange
        others = torch.randint(network.codes, coarse.shape, generator=generator)
        coarse = torch.where(is_exchanged, others, coarse)
    share = slice(rank, None, world_size)
    batch = CodeBatch(codes[share], inputs[share], predicted[share], texts.batch(caption[share], device), drop[share],
                      None if coarse is None else coarse[share])
    return batch.to(device)


def draw_mask(ratio: Tensor, places: int, generator: torch.Generator) -> Tensor:
    """Return which codes of each picture are masked: a share (B,) of its places, rounded up, at least one.

    Shapes:
        result: (B, places) bool
    """
    count = (ratio * places).ceil().clamp(min=1)  # (B,)
    rank = torch.rand((len(ratio), places), generator=generator).argsort(dim=1).argsort(dim=1)
    return rank < count[:, None]


def code_cross_entropies(logits: Tensor, codes: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the cross entropy of each code, in nats.

    Args:
        label_smoothing: share of the target that is spread over all codes (Szegedy et al. 2016).

    Shapes:
        logits: (M, K), codes: (M,) -> (M,)
    """
    return F.cross_entropy(logits.float(), codes, reduction="none", label_smoothing=label_smoothing)


def expected_code_errors(logits: Tensor, codes: Tensor, codebook: Tensor) -> Tensor:
    """Return the mean squared error between the expected code vector under the softmax and the vector of each code.

    A regression, for comparison: where several codes are possible, its best answer is their mean, which is none of
    them.

    Shapes:
        logits: (M, K), codes: (M,), codebook: (K, D) -> (M,)
    """
    expected = logits.float().softmax(dim=-1) @ codebook  # (M, D)
    return (expected - F.embedding(codes, codebook)).square().mean(-1)


class CodeTraining(NetworkTraining):
    """A network that predicts codes, in training; see `NetworkTraining`.

    Args:
        network: `(codes, tokens, mask, pooled) -> logits`, with `without_text`; moved in place. A PixelSNAIL of fine
            codes also reads `coarse`.
        label_smoothing: see `code_cross_entropies`.
        codebook: (K, D) trains by `expected_code_errors` instead of cross entropy.
        training: further arguments of `NetworkTraining`.
    """

    def __init__(self, network: CodeNetwork, fabric: Any, *, label_smoothing: float = 0.0,
                 codebook: Tensor | None = None, **training: Any):
        super().__init__(network, fabric, **training)
        self.label_smoothing = label_smoothing
        self.codebook = codebook
        self.mean_share = 1.0 if network.causal else MEAN_MASK_RATIO

    def loss(self, batch: CodeBatch) -> Tensor:
        """Return the mean loss of the predicted codes, with gradient.

        Their number is taken as its expectation, so that the shares of several processes add up to what one would find.
        """
        text = self.network.without_text(*batch.text, batch.drop)
        conditions = {} if batch.coarse is None else {"coarse": batch.coarse}
        logits = self.forward(batch.inputs, *text, batch.predicted, **conditions)  # (M, K), M predicted codes
        codes = batch.codes[batch.predicted]  # (M,)
        if self.codebook is None:
            losses = code_cross_entropies(logits, codes, self.label_smoothing)
        else:
            losses = expected_code_errors(logits, codes, self.codebook)
        return losses.sum() / (self.mean_share * batch.codes.numel())


@torch.no_grad()
def bits_per_code(network: CodeNetwork, codes: Tensor, text: tuple[Tensor, Tensor, Tensor],
                  generator: torch.Generator, *, coarse: Tensor | None = None, draws: int = 4) -> Tensor:
    """Return the bits per code that the network needs for each picture, given its text.

    Exact for a causal network. For another one it is an upper bound, estimated by `draws` random masks: the mean over
    all orders in which codes can be revealed equals the mean over uniform numbers of masked codes of the mean cross
    entropy among them (Uria et al. 2014, eq. 9).

    Shapes:
        codes: (B, N), text: tokens (B, T, E), mask (B, T), pooled (B, E), coarse: (B, h, w), for a network that reads
        coarse codes -> (B,)
    """
    if network.causal:
        everywhere = torch.ones_like(codes, dtype=torch.bool)
        conditions = {} if coarse is None else {"coarse": coarse}
        return _mean_nats(network, codes, codes, everywhere, text, **conditions) / math.log(2)
    n, places = codes.shape
    total = torch.zeros(n, device=codes.device)
    for _ in range(draws):
        masked = draw_mask(1 - stratified_times(n, generator), places, generator).to(codes.device)
        total += _mean_nats(network, codes.masked_fill(masked, network.mask_token), codes, masked, text)
    return total / draws / math.log(2)


def _mean_nats(network: CodeNetwork, inputs: Tensor, codes: Tensor, predicted: Tensor,
               text: tuple[Tensor, Tensor, Tensor], **conditions: Tensor) -> Tensor:
    """Return the mean cross entropy of each picture's predicted codes: (B, N), (B, N), (B, N) bool -> (B,)."""
    nats = torch.zeros(codes.shape, device=codes.device)
    nats[predicted] = code_cross_entropies(network(inputs, *text, predicted, **conditions), codes[predicted])
    return nats.sum(1) / predicted.sum(1)
