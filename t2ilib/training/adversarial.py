"""Steps of the game between a generator and a critic, whatever its losses and penalties are.

Notebooks 01, 02 and 13 train with them, and the benchmarks `gan_step` and `profile` time them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import losses
from .fabric import average_gradients
from ..errors import BadParameter, check_name
from ..runtime import autocast

CRITIC_LOSSES: dict[str, Callable[..., Tensor]] = {
    "saturating": losses.logistic_critic_loss, "non-saturating": losses.logistic_critic_loss,
    "relativistic": losses.relativistic_loss, "hinge": losses.hinge_critic_loss,
    "wasserstein": losses.wasserstein_critic_loss}
GENERATOR_LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "saturating": losses.saturating_generator_loss, "non-saturating": losses.nonsaturating_generator_loss,
    "hinge": losses.generator_score_loss, "wasserstein": losses.generator_score_loss}


@dataclass(frozen=True)
class GanRule:
    """What is played.

    Attributes:
        loss: a name in CRITIC_LOSSES.
        real_label: what real pictures count as in the logistic losses; 0.9 is one-sided label smoothing.
        r1, r2: weights of `losses.zero_centred_penalty` at real and at fake pictures.
        penalty: weight of `losses.gradient_penalty`.
        penalty_every: the penalty is computed once in so many steps of the critic, and weighs as much more ("lazy
            regularisation", Karras et al. 2020).
        one_pass: real and fake pictures go through the critic in one batch: faster, and not for a critic that compares
            the pictures of its batch.

    Raises:
        UnknownName: not a loss. BadParameter: a negative weight, or a label for a loss that has none.
    """

    loss: str = "non-saturating"
    real_label: float = 1.0
    r1: float = 0.0
    r2: float = 0.0
    penalty: float = 0.0
    penalty_every: int = 1
    one_pass: bool = False

    def __post_init__(self):
        check_name("GAN loss", self.loss, CRITIC_LOSSES)
        if min(self.r1, self.r2, self.penalty) < 0 or self.penalty_every < 1:
            raise BadParameter(f"penalties must not weigh less than 0, and penalty_every is at least 1; got {self}")
        if self.real_label != 1 and not self.logistic:
            raise BadParameter(f"only the logistic losses have a real_label, {self.loss!r} has none; got {self}")

    @property
    def logistic(self) -> bool:
        """Whether the critic is a classifier of real and fake."""
        return self.loss in ("saturating", "non-saturating")

    def penalty_due(self, count: int) -> bool:
        """Return whether the critic's step number `count` has a gradient penalty."""
        return self.penalty > 0 and count % self.penalty_every == 0


@dataclass(frozen=True)
class CriticStep:
    """What the critic said before its step, without gradients: loss, scores (B,) or of patches, and the penalty."""

    loss: Tensor
    on_real: Tensor
    on_fake: Tensor
    penalty: Tensor | None


@dataclass(frozen=True)
class GeneratorStep:
    """The generator's loss before its step, and its gradient at the pictures (B, C, H, W)."""

    loss: Tensor
    at_pictures: Tensor


@dataclass(frozen=True)
class GanStep:
    """Both sides of one step."""

    critic: CriticStep
    generator: GeneratorStep


def critic_loss(rule: GanRule, on_real: Tensor, on_fake: Tensor) -> Tensor:
    """Return the critic's loss of its scores, without penalties."""
    if rule.logistic:
        return losses.logistic_critic_loss(on_real, on_fake, real_label=rule.real_label)
    return CRITIC_LOSSES[rule.loss](on_real, on_fake)


def generator_loss(rule: GanRule, on_fake: Tensor, on_real: Tensor | None = None) -> Tensor:
    """Return the generator's loss of the critic's scores; only the relativistic one asks for those of real pictures."""
    if rule.loss == "relativistic":
        if on_real is None:
            raise BadParameter("the relativistic loss compares fake pictures with real ones; pass on_real=...")
        return losses.relativistic_loss(on_fake, on_real.detach())
    return GENERATOR_LOSSES[rule.loss](on_fake)


def critic_step(rule: GanRule, critic: nn.Module, optimizer: torch.optim.Optimizer, real: Tensor, fake: Tensor, *,
                alpha: Tensor | None = None, dtype: torch.dtype = torch.float32, fabric: Any = None) -> CriticStep:
    """Make one step of the critic, in full precision where penalties are.

    Args:
        real, fake: pictures (B, C, H, W); no gradient flows into them.
        alpha: (B,) uniform in [0, 1], where the gradient penalty is due in this step; None leaves it out.
        dtype: of autocast. fabric: takes the mean of the gradients over its processes; None is one process.
    """
    # detached: the critic's loss must not reach the generator, nor pay for a gradient that nobody uses
    fake = fake.detach().to(real.dtype)
    on_real, on_fake = _scores(rule, critic, real, fake, dtype)
    loss = critic_loss(rule, on_real, on_fake)
    penalty = None
    if alpha is not None:
        penalty = losses.gradient_penalty(critic, real, fake, alpha)
        loss = loss + rule.penalty * rule.penalty_every * penalty
    if rule.r1:
        loss = loss + rule.r1 * losses.zero_centred_penalty(critic, real)
    if rule.r2:
        loss = loss + rule.r2 * losses.zero_centred_penalty(critic, fake)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    average_gradients(fabric, critic)
    optimizer.step()
    return CriticStep(loss.detach(), on_real.detach(), on_fake.detach(), None if penalty is None else penalty.detach())


def generator_step(rule: GanRule, generator: nn.Module, critic: nn.Module, optimizer: torch.optim.Optimizer,
                   fake: Tensor, *, on_real: Tensor | None = None, dtype: torch.dtype = torch.float32,
                   fabric: Any = None) -> GeneratorStep:
    """Make one step of the generator, for which the critic's weights need no gradients.

    Args:
        fake: what the generator drew, with its graph: (B, C, H, W). on_real: scores of real pictures, see
            `generator_loss`. dtype, fabric: as in `critic_step`.
    """
    # the graph is cut at the pictures: their gradient is all that the generator needs from the critic
    pictures = fake.detach().requires_grad_()
    with autocast(pictures.device, dtype):
        on_fake = critic(pictures)
    loss = generator_loss(rule, _full(on_fake), on_real)
    (at_pictures,) = torch.autograd.grad(loss, pictures)
    optimizer.zero_grad(set_to_none=True)
    fake.backward(at_pictures)
    average_gradients(fabric, generator)
    optimizer.step()
    return GeneratorStep(loss.detach(), at_pictures)


def gan_step(rule: GanRule, generator: nn.Module, critic: nn.Module, generator_optimizer: torch.optim.Optimizer,
             critic_optimizer: torch.optim.Optimizer, real: Tensor, z: Tensor, *, alpha: Tensor | None = None,
             dtype: torch.dtype = torch.float32) -> GanStep:
    """Make one step of the critic, then one of the generator on the same fakes; no number is read from the device.

    Args:
        real: (B, C, H, W) in [-1, 1]. z: noise (B, latent_dim). alpha, dtype: as in `critic_step`.
    """
    with autocast(real.device, dtype):
        fake = generator(z)
    judged = critic_step(rule, critic, critic_optimizer, real, fake, alpha=alpha, dtype=dtype)
    learned = generator_step(rule, generator, critic, generator_optimizer, fake, on_real=judged.on_real, dtype=dtype)
    return GanStep(judged, learned)


def gradient_norm(network: nn.Module) -> Tensor:
    """Return the length of all gradients of a network together, as its last step left them: ()."""
    return torch.stack([p.grad.norm() for p in network.parameters() if p.grad is not None]).norm()


def _scores(rule: GanRule, critic: nn.Module, real: Tensor, fake: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    with autocast(real.device, dtype):
        if rule.one_pass:
            scores = critic(torch.cat([real, fake]))  # (2 B,) or (2 B, 1, h, w)
            on_real, on_fake = scores.chunk(2)
        else:
            on_real = critic(real)
            on_fake = critic(fake)
    return _full(on_real), _full(on_fake)


def _full(scores: Tensor) -> Tensor:
    """Return scores in at least float32, in which losses are computed."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))
