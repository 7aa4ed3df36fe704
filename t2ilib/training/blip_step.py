"""One training step of a BLIP: matching, comparing and writing from one batch of hard pairs, and what they learn from.

Half of a batch is drawn, and each of its pictures brings a partner: another concept of the same subgroup. The caption
of the one is the hard negative of the other, so that mismatched pairs need no further pictures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .network_training import NetworkTraining
from ..data.hard_pairs import draw_partners
from ..encoders.emoji_blip import NOT_LEARNT, PAD, EmojiBlip, Ids, pad_rows


@dataclass(frozen=True)
class BlipTexts:
    """Texts that a training draws from, cut into tokens once.

    Attributes:
        rows: of each text, ids from [CLS] to [SEP]. targets: (texts, D), what a frozen encoder says of each.
        matching: (N, n), where in `rows` the captions of each picture stand that may match it.
        captions: of each picture, ids from [DEC] to [SEP] that the writing half is to say.
        prompt: number of their first tokens that are given, [DEC] included.
        concepts: (N,), which concept each picture shows. names: (C,), where in `rows` the name of each concept stands.
        phrases: where in `rows` further texts stand that no picture has; only the text encoder reads them.
    """

    rows: Sequence[Sequence[int]]
    targets: Tensor
    matching: Tensor
    captions: Sequence[Sequence[int]]
    prompt: int
    concepts: Tensor
    names: Tensor
    phrases: Tensor


@dataclass(frozen=True)
class BlipBatch:
    """What one step learns from: B pictures, of which the second half are the partners of the first.

    Attributes:
        x: normalised pictures (B, 3, S, S).
        text: B captions, then E further phrases, then M names of concepts. targets: (B + E + M, D).
        captions: what the writing half is to say. labels: (B, T), the token after each of theirs, `NOT_LEARNT` where
            it is given or there is none.
        concepts: (B,). named: (M,), the concepts of the names.
    """

    x: Tensor
    text: Ids
    targets: Tensor
    captions: Ids
    labels: Tensor
    concepts: Tensor
    named: Tensor

    def to(self, device: torch.device | str) -> "BlipBatch":
        """Return the batch on a device."""
        return BlipBatch(self.x.to(device), self.text.to(device), self.targets.to(device), self.captions.to(device),
                         self.labels.to(device), self.concepts.to(device), self.named.to(device))


def draw_blip_batch(rows: Tensor, partners: Sequence[Tensor], texts: BlipTexts, generator: torch.Generator, *,
                    draw_pictures: Callable[[Tensor, torch.Generator], Tensor], phrases: int = 64, names: int = 128,
                    rank: int = 0, world_size: int = 1) -> BlipBatch:
    """Draw what a step learns from.

    All random numbers are drawn for the common batch, of which each process takes every `world_size`-th pair. It
    compares its own pictures with its own captions, and with the same further names as the others.

    Args:
        rows: (B / 2,) pictures of the common batch; each brings a partner. partners: from `partner_rows`.
        draw_pictures: rows and generator -> normalised pictures, varied.
        phrases: how many further texts the text encoder reads. names: how many concepts, whose names every picture is
            compared with beside the captions of the batch.
        rank, world_size: this process, and how many there are.
    """
    count = len(rows)
    rows = torch.cat([rows, draw_partners(partners, rows, generator)])  # (B,)
    variant = torch.randint(texts.matching.shape[1], (count,), generator=generator)
    variant = variant.repeat(2)  # partners are asked in the same words, so that no form gives the answer away
    further = texts.phrases[:0]
    if len(texts.phrases):
        further = texts.phrases[torch.randint(len(texts.phrases), (phrases,), generator=generator)]  # (E,)
    named = torch.randperm(len(texts.names), generator=generator)[:names]  # (M,)
    x = draw_pictures(rows, generator)

    pairs = torch.arange(count)[rank::world_size]
    share = torch.cat([pairs, pairs + count])  # of the common batch, partners last
    rows = rows[share]
    chosen = torch.cat([texts.matching[rows, variant[share]], further, texts.names[named]])  # (B + E + M,)
    text = pad_rows([texts.rows[i] for i in chosen.tolist()])
    captions = pad_rows([texts.captions[row] for row in rows.tolist()])
    return BlipBatch(x[share], text, texts.targets[chosen], captions, caption_labels(captions.ids, texts.prompt),
                     texts.concepts[rows], named)


def caption_labels(ids: Tensor, prompt: int) -> Tensor:
    """Return the token after each token of captions, and `NOT_LEARNT` inside the prompt and past the end.

    Shapes:
        (B, T) -> (B, T)
    """
    end = torch.full_like(ids[:, :1], PAD)
    labels = torch.cat([ids[:, 1:], end], dim=1)
    labels = labels.masked_fill(labels == PAD, NOT_LEARNT)
    labels[:, :prompt - 1] = NOT_LEARNT
    return labels


class BlipTraining(NetworkTraining):
    """A small BLIP in training; see `NetworkTraining`.

    Args:
        network: moved in place.
        contrast, match, write, distil: weights of the four losses; those of 0 are left out of the sum.
        label_smoothing: of the caption's tokens, 0.1 in BLIP.
        training: further arguments of `NetworkTraining`.

    Attributes:
        losses: of the last step, by name, for the record.
    """

    def __init__(self, network: EmojiBlip, fabric: Any, *, contrast: float = 1.0, match: float = 1.0,
                 write: float = 1.0, distil: float = 1.0, label_smoothing: float = 0.1, **training: Any):
        super().__init__(network, fabric, **training)
        self.weights = {"contrast": contrast, "match": match, "write": write, "distil": distil}
        self.label_smoothing = label_smoothing
        self.losses: dict[str, float] = {}

    def loss(self, batch: BlipBatch) -> Tensor:
        """Return the weighted sum of the losses, with gradient.

        References:
            Li et al. 2022, section 3.2; the distillation is ours.
        """
        n = len(batch.x)
        partner = torch.arange(n, device=batch.x.device).roll(n // 2)
        out = self.forward(batch.x, *batch.text, partner, *batch.captions)
        names = out.texts[len(out.texts) - len(batch.named):].float()  # (M, D)
        losses = {
            "contrast": contrastive_loss(out.images.float(), out.texts[:n].float(), out.scale, batch.concepts,
                                         names, batch.named),
            "match": match_loss(out.matches.float()),
            "write": caption_loss(out.caption_logits, batch.labels, self.label_smoothing),
            "distil": distillation_loss(out.text_states.float(), batch.targets),
        }
        self.losses = {name: loss.item() for name, loss in losses.items()}
        total = sum(weight * losses[name] for name, weight in self.weights.items() if weight)
        return total


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, concepts: Tensor, names: Tensor,
                     named: Tensor) -> Tensor:
    """Return the loss that brings pictures to their texts, away from those of other concepts.

    Each picture chooses among the texts of the batch and further names, each text among the pictures of the batch.
    Others of the same concept are no rivals. The names are read by the same weights in the same step. (Vectors that are
    kept from earlier steps, without a gradient, are a trap unless they come from a slow average, as in BLIP: all new
    vectors together move away from the old ones, which lowers the loss and teaches nothing.)

    Shapes:
        images, texts: (B, D) of unit norm, concepts: (B,), names: (M, D) of unit norm, named: (M,) their concepts

    References:
        Radford et al. 2021, figure 3.
    """
    rows = torch.arange(len(images), device=images.device)
    twins = (concepts[:, None] == concepts[None]).fill_diagonal_(False)  # (B, B)
    logits = (scale * images @ texts.T).masked_fill(twins, -1e4)
    to_picture = F.cross_entropy(logits.T, rows)
    is_own = concepts[:, None] == named[None]  # (B, M)
    others = (scale * images @ names.T).masked_fill(is_own, -1e4)
    to_text = F.cross_entropy(torch.cat([logits, others], dim=1), rows)
    return (to_text + to_picture) / 2


def match_loss(logits: Tensor) -> Tensor:
    """Return the cross entropy of logits (2B, 2), of which the first half belong together and the second do not."""
    labels = torch.ones(len(logits), dtype=torch.long, device=logits.device)
    labels[len(logits) // 2:] = 0
    return F.cross_entropy(logits, labels)


def caption_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean cross entropy of the tokens that are to be written: (B, T, V), (B, T) -> a number."""
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=NOT_LEARNT,
                           label_smoothing=label_smoothing)


def distillation_loss(states: Tensor, targets: Tensor) -> Tensor:
    """Return one minus the mean cosine of states (B, D) and targets (B, D)."""
    return 1 - F.cosine_similarity(states, targets, dim=-1).mean()


def reduced(features: Tensor, dim: int, fit: Tensor | None = None) -> Tensor:
    """Return features in fewer dimensions, centred and of unit norm: what a narrower encoder is to agree with.

    Args:
        features: (N, E). dim: D. fit: the features whose mean and principal components are used; None is all.

    Shapes:
        (N, E) -> (N, D)
    """
    base = features if fit is None else fit
    mean = base.mean(0)
    covariance = (base - mean).T @ (base - mean)  # (E, E)
    directions = torch.linalg.eigh(covariance).eigenvectors[:, -dim:]  # (E, D), the largest eigenvalues
    return F.normalize((features - mean) @ directions, dim=-1)


class TextHalf(nn.Module):
    """The text encoder of a BLIP alone: ids (B, T), mask (B, T) -> states of [CLS] (B, D)."""

    def __init__(self, network: EmojiBlip):
        super().__init__()
        self.text_encoder = network.retrieval.text_encoder

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.text_encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state[:, 0]


class TextTraining(NetworkTraining):
    """The text encoder of a BLIP, which learns what a frozen encoder says before it sees a picture.

    The original begins with BERT; a quarter of the width begins with the answers of MiniLM.

    Args:
        network: whose text encoder is moved in place. training: further arguments of `NetworkTraining`.
    """

    def __init__(self, network: EmojiBlip, fabric: Any, **training: Any):
        super().__init__(TextHalf(network), fabric, **training)

    def loss(self, batch: tuple[Ids, Tensor]) -> Tensor:
        """Return the distillation loss of texts and targets (B, D)."""
        text, targets = batch
        return distillation_loss(self.forward(*text).float(), targets)


class WritingHalf(nn.Module):
    """The parts of a BLIP that write: normalised pictures, captions from [DEC] on (B, T) -> logits (B, T, V)."""

    def __init__(self, network: EmojiBlip):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        return self.network.caption_logits(Ids(ids, mask), self.network.image_states(x))


class CaptionTraining(NetworkTraining):
    """A BLIP that only learns to write, in less than half of the time; see `NetworkTraining`.

    Args:
        network: moved in place; its average is `ema.model.network`. label_smoothing: of the caption's tokens.
        training: further arguments of `NetworkTraining`.
    """

    def __init__(self, network: EmojiBlip, fabric: Any, *, label_smoothing: float = 0.1, **training: Any):
        super().__init__(WritingHalf(network), fabric, **training)
        self.label_smoothing = label_smoothing

    def loss(self, batch: BlipBatch) -> Tensor:
        """Return the mean cross entropy of the caption's tokens, with gradient."""
        return caption_loss(self.forward(batch.x, *batch.captions), batch.labels, self.label_smoothing)
