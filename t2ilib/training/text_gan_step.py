"""One step of a text-conditional GAN: what the discriminator and the generator learn from a batch, term by term.

Kang et al. 2023, "Scaling up GANs for text-to-image synthesis", arXiv:2303.05511, section 3.3 and appendix A. The loss
of real pictures is backpropagated before generated ones are looked at, so that no more than one graph is in memory.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .averaging import EMA
from .fabric import average_gradients, gather_shares
from .gan_augment import DrawnAugmentation
from .losses import zero_centred_penalty
from .schedule import set_lr
from ..errors import BadParameter
from ..runtime import autocast

Text = tuple[Tensor, Tensor, Tensor]
BETAS = (0.0, 0.99)


def mismatch(concepts: Tensor, generator: torch.Generator) -> Tensor:
    """Return a permutation that gives every picture the text of another concept.

    Pictures are ordered by concept, the concepts and their pictures in random order, and the texts moved on by the size
    of the largest concept: then no text stays with its concept, as long as none has more than half of the batch.

    Args:
        concepts: (B,) int64, which concept each text names: those of one concept count as one text.

    Shapes:
        result: (B,) int64

    Raises:
        BadParameter: a concept has more than half of the batch.
    """
    count = len(concepts)
    _, label, sizes = concepts.unique(return_inverse=True, return_counts=True)
    largest = int(sizes.max())
    if 2 * largest > count:
        raise BadParameter(f"of {count} texts {largest} name one concept: not every picture can have the text of "
                           "another; take a larger batch")
    shuffled = torch.randperm(count, generator=generator)
    rank = torch.randperm(len(sizes), generator=generator)[label]  # (B,), a random order of the concepts
    order = shuffled[rank[shuffled].argsort(stable=True)]  # equal concepts stand together
    result = torch.empty_like(order)
    result[order] = order.roll(-largest)
    return result


@dataclass(frozen=True)
class TextGanRule:
    """What is played, and how much each term weighs.

    Attributes:
        matching: real pictures, and generated ones, with the text of another concept count as generated.
        clip: of the contrastive loss of a CLIP; 0 leaves it out. clip_scale: of its cosines, inverse temperature.
        features: of a discriminator on frozen features, beside the first; 0 leaves it out.
        paired: of the distance between pictures and the drawings that text and noise name (Kang et al. 2024,
            "Distilling diffusion models into conditional GANs", arXiv:2405.05967); 0 leaves it out.
        r1: of the penalty on the gradient at real pictures. r1_every: it is computed once in so many steps, and
            weighs as much more.
    """

    matching: float = 1.0
    clip: float = 0.5
    clip_scale: float = 20.0
    features: float = 0.0
    paired: float = 0.0
    r1: float = 1.0
    r1_every: int = 16

    def __post_init__(self):
        if min(self.matching, self.clip, self.features, self.paired, self.r1) < 0 or self.r1_every < 1:
            raise BadParameter(f"no term weighs less than 0, and r1_every is at least 1; got {self}")

    @property
    def guess(self) -> float:
        """Return the score by which a discriminator loses least that knows nothing.

        Of 2 + 2 matching pairs, by weight, one is real: a score s that is the same for all loses least where its
        sigmoid is 1 / (2 + 2 matching).
        """
        return -math.log(1 + 2 * self.matching)


@dataclass(frozen=True)
class TextGanBatch:
    """What one step learns from.

    Attributes:
        real: pictures (B, 3, H, W) in [-1, 1]. text: tokens, mask and pooled of their captions. z: (B, latent_dim).
        wrong: (B, E), pooled, the text of another concept for each picture: `pooled[mismatch(...)]`.
        augmentation: of the discriminator's pictures, in the order real, generated; None is none.
        clip_text: (B, D), unit vectors of the captions by the CLIP of the loss, or None. concepts: (B,) int64, which
            concept each caption names, for the same loss; None takes each for another.
        targets: (B, 3, H, W), the drawings that noise and texts name, for the paired loss; None is none.
    """

    real: Tensor
    text: Text
    z: Tensor
    wrong: Tensor
    augmentation: tuple[DrawnAugmentation, DrawnAugmentation] | None = None
    clip_text: Tensor | None = None
    concepts: Tensor | None = None
    targets: Tensor | None = None

    def share(self, rank: int, world_size: int) -> "TextGanBatch":
        """Return every `world_size`-th picture and what belongs to it: the share of one process."""
        if len(self.real) % world_size:
            raise BadParameter(f"a batch of {len(self.real)} pictures cannot be shared among {world_size} processes "
                               "alike; take a multiple")
        share = slice(rank, None, world_size)
        tokens, mask, pooled = self.text
        augmentation = None
        if self.augmentation is not None:
            of_real, of_drawn = self.augmentation
            augmentation = (of_real.share(rank, world_size), of_drawn.share(rank, world_size))
        clip_text = None if self.clip_text is None else self.clip_text[share]
        concepts = None if self.concepts is None else self.concepts[share]
        targets = None if self.targets is None else self.targets[share]
        return TextGanBatch(self.real[share], (tokens[share], mask[share], pooled[share]), self.z[share],
                            self.wrong[share], augmentation, clip_text, concepts, targets)


@dataclass(frozen=True)
class TextGanStep:
    """What a step reports, of the batch of all processes and without gradients.

    Attributes:
        losses: by name. on_real: scores (P, B) of real pictures, less that of a guess (`TextGanRule.guess`): above 0
            where the discriminator says "real".
    """

    losses: dict[str, Tensor]
    on_real: Tensor


def says_real(scores: Tensor) -> Tensor:
    """Return -log D, the mean over pictures and heads: stable for any score, in float32."""
    return F.softplus(-scores.float()).mean()


def says_generated(scores: Tensor) -> Tensor:
    """Return -log(1 - D), the mean over pictures and heads."""
    return F.softplus(scores.float()).mean()


def contrastive_loss(image_features: Tensor, text_features: Tensor, scale: float,
                     concepts: Tensor | None = None) -> Tensor:
    """Return the cross entropy of each picture's own text among the batch's (Kang et al. 2023, eq. 8).

    Another text of a picture's own concept is no wrong answer, and does not compete.

    Shapes:
        two of (B, D), of length 1; concepts (B,) int64, None if all differ -> scalar
    """
    logits = scale * image_features.float() @ text_features.float().T  # (B, B)
    if concepts is not None:
        alike = concepts[:, None] == concepts
        alike.fill_diagonal_(False)
        logits = logits.masked_fill(alike, -math.inf)
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def contrastive_gradient(pictures: Tensor, text_features: Tensor, encode: Callable[[Tensor], Tensor], scale: float, *,
                         chunk: int = 16, concepts: Tensor | None = None,
                         fabric: Any = None) -> tuple[Tensor, Tensor]:
    """Return the contrastive loss of pictures and its gradient at them, with the graph of one chunk in memory.

    The features of all pictures are computed without a graph, and the gradient of the loss at them; then each chunk is
    encoded once more, and that gradient sent through it (Gao et al. 2021, "GradCache", arXiv:2101.06983).

    Args:
        encode: pictures (b, 3, H, W) -> unit vectors (b, D), differentiable. concepts: see `contrastive_loss`.
        fabric: of several processes, each with its share: pictures compete with the texts of all, and the mean of the
            processes' gradients is that of the whole batch.

    Shapes:
        pictures: (B, 3, H, W), text_features: (B, D) -> (), (B, 3, H, W)
    """
    parts = pictures.detach().split(chunk)
    with torch.no_grad():
        features = torch.cat([encode(part) for part in parts])
    rank, world_size = (0, 1) if fabric is None else (fabric.global_rank, fabric.world_size)
    features = gather_shares(fabric, features).requires_grad_()
    text_features = gather_shares(fabric, text_features)
    if concepts is not None:
        concepts = gather_shares(fabric, concepts)
    loss = contrastive_loss(features, text_features, scale, concepts)
    at_all, = torch.autograd.grad(loss, features)
    at_features = world_size * at_all[rank::world_size]
    gradients = []
    for part, at_part in zip(parts, at_features.split(chunk), strict=True):
        part = part.requires_grad_()
        gradient, = torch.autograd.grad(encode(part), part, at_part)
        gradients.append(gradient)
    return loss.detach(), torch.cat(gradients)


@dataclass(frozen=True)
class _Term:
    """One term of the discriminators' loss: what it says about scores with a text (B, E), and how much it weighs."""

    name: str
    loss: Callable[[Tensor], Tensor]
    text: Tensor
    weight: float


def _backpropagate(terms: Sequence[_Term], scores: Sequence[Tensor], weight: float) -> dict[str, Tensor]:
    """Backpropagate the weighted sum of terms, each of its own scores; return their values by name."""
    values = {}
    total = torch.zeros((), device=scores[0].device)
    for term, of_text in zip(terms, scores, strict=True):
        value = term.loss(of_text)
        values[term.name] = value.detach()
        total = total + weight * term.weight * value
    total.backward()
    return values


class TextGanTraining:
    """A generator and its discriminators in training.

    Args:
        generator: `(z, tokens, mask, pooled, largest) -> pictures` from that side to the smallest; with `without_text`.
        discriminator: `(pictures, pooled) -> scores (P, B)`, with `scores` of several texts, and `pyramid`.
        rule: what weighs how much.
        features: the discriminator on frozen features, where `rule.features` is above 0.
        encode: of the CLIP, where `rule.clip` is above 0; see `contrastive_gradient`.
        distance: pictures and targets, two of (B, 3, H, W) in [-1, 1] -> (B,), where `rule.paired` is above 0.
        learning_rate: of both optimisers. ema_decay: of the average that is drawn with. dtype: of autocast.
        chunk: pictures that the CLIP sees at a time.
        fabric: of several processes, each of which is given its share of the batch; None is one process.

    Raises:
        BadParameter: a term weighs something and has no network.
    """

    def __init__(self, generator: nn.Module, discriminator: nn.Module, rule: TextGanRule, *,
                 features: nn.Module | None = None, encode: Callable[[Tensor], Tensor] | None = None,
                 distance: Callable[[Tensor, Tensor], Tensor] | None = None,
                 learning_rate: float = 3e-4, ema_decay: float = 0.999, dtype: torch.dtype = torch.float32,
                 chunk: int = 32, fabric: Any = None):
        needed = {"clip": ("encode", encode), "features": ("features", features), "paired": ("distance", distance)}
        missing = [f"{term} needs {name}=..." for term, (name, given) in needed.items()
                   if getattr(rule, term) and given is None]
        if missing:
            raise BadParameter(f"the rule weighs what has no network: {', '.join(missing)}")
        self.generator = generator
        self.discriminator = discriminator
        self.features = features if rule.features else None
        self.encode = encode
        self.distance = distance
        self.rule = rule
        self.dtype = dtype
        self.chunk = chunk
        self.fabric = fabric
        self.count = 0
        self.ema = EMA(generator, ema_decay)
        judging = [discriminator] if self.features is None else [discriminator, self.features]
        self.discriminators = nn.ModuleList(judging)
        if next(discriminator.parameters()).device.type != "mps":
            discriminator.to(memory_format=torch.channels_last)  # a fifth less time for its step on a CPU
        self.generator_optimizer = torch.optim.Adam(generator.parameters(), lr=learning_rate, betas=BETAS)
        self.discriminator_optimizer = torch.optim.Adam(self.discriminators.parameters(), lr=learning_rate, betas=BETAS)

    def parts(self) -> dict[str, Any]:
        """Return what `save_training` and `load_training` keep of it, by name."""
        kept = {"generator": self.generator, "discriminator": self.discriminator, "ema": self.ema,
                "generator_optimizer": self.generator_optimizer,
                "discriminator_optimizer": self.discriminator_optimizer, "counter": self}
        if self.features is not None:
            kept["features"] = self.features
        return kept

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]

    def step(self, batch: TextGanBatch, learning_rate: float | None = None) -> TextGanStep:
        """Make one step of the discriminators, then one of the generator on the same noise and texts.

        Both work at the side of the batch's real pictures, which may be smaller than the largest that they know: a GAN
        that grows begins with small ones (Karras et al. 2018, arXiv:1710.10196).
        """
        if learning_rate is not None:
            set_lr(self.generator_optimizer, learning_rate)
            set_lr(self.discriminator_optimizer, learning_rate)
        with autocast(batch.real.device, self.dtype):
            drawn = self.generator(batch.z, *batch.text, largest=batch.real.shape[-1])
        losses, on_real = self._judge(batch, [x.detach().float() for x in drawn])
        losses |= self._draw(batch, drawn)
        self.count += 1
        self.ema.update(self.generator)
        return TextGanStep(self._means(losses), gather_shares(self.fabric, on_real, dim=1))

    def step_pairs(self, batch: TextGanBatch, learning_rate: float | None = None) -> dict[str, Tensor]:
        """Make a step of the generator towards the drawings that text and noise name, without the game; return losses.

        A network that already draws about the right thing leaves the game to draw it well (Ledig et al. 2017,
        arXiv:1609.04802, section 3.2).

        Raises:
            BadParameter: the rule weighs no pairs, or the batch has no targets.
        """
        if not self.rule.paired:
            raise BadParameter("steps of pairs need a rule with paired above 0")
        if learning_rate is not None:
            set_lr(self.generator_optimizer, learning_rate)
        with autocast(batch.real.device, self.dtype):
            drawn = self.generator(batch.z, *batch.text, largest=batch.real.shape[-1])[0].float()
            paired = self._paired(drawn, batch)
        self.generator_optimizer.zero_grad(set_to_none=True)
        paired.backward()
        average_gradients(self.fabric, self.generator)
        self.generator_optimizer.step()
        self.ema.update(self.generator)
        return self._means({"paired": paired.detach()})

    def _paired(self, drawn: Tensor, batch: TextGanBatch) -> Tensor:
        """Return the mean distance between the largest pictures and what they should show."""
        if batch.targets is None:
            raise BadParameter("a paired loss needs batches with targets")
        return self.distance(drawn, batch.targets).mean()

    def _means(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the mean of each loss over all processes."""
        if self.fabric is None:
            return losses
        return {name: self.fabric.all_reduce(value, reduce_op="mean") for name, value in losses.items()}

    def _judge(self, batch: TextGanBatch, drawn: list[Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Make the discriminators' step: real pictures, then generated ones, each with their own and with wrong texts.

        Returns:
            name of a loss -> value, and the scores (P, B) of real pictures, less that of a guess
        """
        pooled = batch.text[2]
        reals = self.discriminator.pyramid(batch.real)
        if batch.augmentation is not None:
            # at each size, as drawn pictures are: shrunk afterwards, holes and shifts would look otherwise
            of_real, of_drawn = batch.augmentation
            reals = of_real.each(reals)
            drawn = of_drawn.each(drawn)
        matching = self.rule.matching
        of_reals = [_Term("real", says_real, pooled, 1.0)]
        of_drawns = [_Term("drawn", says_generated, pooled, 1.0)]
        if matching:
            of_reals.append(_Term("real, wrong text", says_generated, batch.wrong, matching))
            of_drawns.append(_Term("drawn, wrong text", says_generated, batch.wrong, matching))
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        losses, on_real = self._learn(of_reals, reals)
        losses |= self._learn(of_drawns, drawn)[0]
        if self.rule.r1 and self.count % self.rule.r1_every == 0:
            penalty = zero_centred_penalty(lambda x: self._mean_score(x, pooled), reals[0])
            (self.rule.r1 * self.rule.r1_every * penalty).backward()
            losses["r1"] = penalty.detach()
        average_gradients(self.fabric, *self.discriminators)
        self.discriminator_optimizer.step()
        return losses, on_real - self.rule.guess

    def _mean_score(self, pictures: Tensor, pooled: Tensor) -> Tensor:
        """Return the mean of all scores of each picture, (B,): R1 is that of one number, however many there are."""
        return self.discriminator(self.discriminator.pyramid(pictures), pooled).mean(dim=0)

    def _learn(self, terms: Sequence[_Term], pictures: Sequence[Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Backpropagate terms of the discriminators' loss about the same pictures, which are looked at once.

        Returns:
            name of a loss -> value, and the scores (P, B) of the first term
        """
        texts = [term.text for term in terms]
        with autocast(texts[0].device, self.dtype):
            scores = self.discriminator.scores(pictures, texts)
        losses = _backpropagate(terms, scores, 1.0)
        if self.features is not None:
            with autocast(texts[0].device, self.dtype):
                others = self.features.scores(pictures[0], texts)
            _backpropagate(terms, others, self.rule.features)
        return losses, scores[0].detach()

    def _draw(self, batch: TextGanBatch, drawn: list[Tensor]) -> dict[str, Tensor]:
        """Make the generator's step: gradients are collected at the pictures, and sent through it once.

        Returns:
            name of a loss -> value
        """
        pooled = batch.text[2]
        # the graph is cut at the pictures, and the weights that judge get no gradient
        leaves = [x.detach().float().requires_grad_() for x in drawn]
        shown = leaves
        if batch.augmentation is not None:
            shown = batch.augmentation[1].each(leaves)
        with autocast(pooled.device, self.dtype):
            scores = self.discriminator(shown, pooled)
        loss = says_real(scores)
        losses = {"generator": loss.detach()}
        if self.features is not None:
            with autocast(pooled.device, self.dtype):
                others = self.features(shown[0], pooled)
            loss = loss + self.rule.features * says_real(others)
        if self.rule.paired:
            with autocast(pooled.device, self.dtype):
                paired = self._paired(leaves[0], batch)
            losses["paired"] = paired.detach()
            loss = loss + self.rule.paired * paired
        found = torch.autograd.grad(loss, leaves, allow_unused=True)
        gradients = []
        for leaf, gradient in zip(leaves, found, strict=True):
            gradients.append(torch.zeros_like(leaf) if gradient is None else gradient)
        if self.rule.clip:
            value, at_largest = contrastive_gradient(leaves[0], batch.clip_text, self._encode, self.rule.clip_scale,
                                                     chunk=self.chunk, concepts=batch.concepts, fabric=self.fabric)
            losses["clip"] = value
            gradients[0] = gradients[0] + self.rule.clip * at_largest
        self.generator_optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(drawn, [g.to(x.dtype) for g, x in zip(gradients, drawn, strict=True)])
        average_gradients(self.fabric, self.generator)
        self.generator_optimizer.step()
        return losses

    def _encode(self, pictures: Tensor) -> Tensor:
        """Return the CLIP's features of pictures (b, 3, H, W) in [-1, 1]."""
        with autocast(pictures.device, self.dtype):
            return self.encode((pictures.clamp(-1, 1) + 1) / 2).float()
