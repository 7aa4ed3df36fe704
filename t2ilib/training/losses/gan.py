"""Losses of adversarial training: logistic, hinge, relativistic, Wasserstein, and penalties on the gradient."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...errors import BadParameter


def hinge_critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return the critic's hinge loss, half the sum of both sides; 1 for a critic that always says 0.

    Paper: Lim & Ye 2017; Esser et al. 2021 use it for their patches.

    Shapes:
        real, fake: scores of any shape, e.g. (B, 1, h, w) for patches -> scalar
    """
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def logistic_critic_loss(real: Tensor, fake: Tensor, *, real_label: float = 1.0) -> Tensor:
    """Return the discriminator's loss of the first GAN (Goodfellow et al. 2014, eq. 1), half the sum of both sides.

    Args:
        real, fake: logits of any shape.
        real_label: what real pictures count as; 0.9 is one-sided label smoothing (Salimans et al. 2016, section 3.4).
    """
    on_real = real_label * F.softplus(-real) + (1 - real_label) * F.softplus(real)
    return 0.5 * (on_real.mean() + F.softplus(fake).mean())


def saturating_generator_loss(fake: Tensor) -> Tensor:
    """Return the mean of log(1 - D(fake)), which the minimax game asks for (Goodfellow et al. 2014, eq. 1).

    Its derivative at a logit l is -sigmoid(l): where the discriminator is sure, at l = -10, nothing (4.5e-5) is left.
    """
    return -F.softplus(fake).mean()


def nonsaturating_generator_loss(fake: Tensor) -> Tensor:
    """Return the mean of -log D(fake) (Goodfellow et al. 2014, section 3), whose derivative at l is -sigmoid(-l)."""
    return F.softplus(-fake).mean()


def relativistic_loss(better: Tensor, worse: Tensor) -> Tensor:
    """Return how often, softly, one logit is not above the other (Jolicoeur-Martineau 2018, eq. 8, in pairs).

    With (real, fake) it is the discriminator's loss, with (fake, real) the generator's; Huang et al. 2024 ("R3GAN").
    """
    return F.softplus(worse - better).mean()


def wasserstein_critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return minus the critic's estimate of the Wasserstein distance (Arjovsky et al. 2017, eq. 2): negative is good.

    The generator's side is `generator_score_loss`.
    """
    return fake.mean() - real.mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """Return the mean of (|gradient| - 1)^2 at mixtures of real and fake pictures (Gulrajani et al. 2017, eq. 3).

    Computed in full precision. The norm goes over all of a picture, and each has one alpha, not each pixel.

    Args:
        critic: without batch normalisation, which would let one picture's score depend on the others.
        real, fake: (B, ...), without gradient. alpha: (B,) uniform in [0, 1]; the share of the real one.

    Raises:
        BadParameter: pictures of different shapes, or not one alpha for each.
    """
    if real.shape != fake.shape or alpha.shape != real.shape[:1]:
        got = f"{tuple(real.shape)}, {tuple(fake.shape)} and {tuple(alpha.shape)}"
        raise BadParameter(f"gradient_penalty needs pairs of equal shape and an alpha for each pair, got {got}")
    alpha = alpha.view(-1, *[1] * (real.ndim - 1)).to(real)  # (B, 1, ...)
    mixed = torch.lerp(fake.detach(), real.detach(), alpha)
    # 1e-12: the root has no derivative at 0, the gradient of a critic that ignores its input
    norm = squared_gradients(critic, mixed).add(1e-12).sqrt()  # (B,)
    return (norm - 1).square().mean()


def zero_centred_penalty(critic: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return half the mean squared gradient: R1 at real pictures, R2 at fake ones (Mescheder et al. 2018, eq. 9)."""
    return 0.5 * squared_gradients(critic, x.detach()).mean()


def squared_gradients(critic: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return |d critic(x) / dx|^2 of each picture, differentiable, in full precision: (B, ...) -> (B,).

    Attention is computed by plain operations: fused kernels have no second derivative.
    """
    with torch.autocast(x.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
        x = x.to(torch.promote_types(x.dtype, torch.float32)).requires_grad_()
        gradient, = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
        return gradient.flatten(1).square().sum(1)


def generator_score_loss(fake: Tensor) -> Tensor:
    """Return minus the mean score: the generator's side of the hinge and of the Wasserstein loss."""
    return -fake.mean()


def adaptive_weight(reconstruction_loss: Tensor, generator_loss: Tensor, last_layer: Tensor, *, eps: float = 1e-4,
                    maximum: float = 1e4) -> Tensor:
    """Return the weight at which both losses pull equally hard on the last layer (Esser et al. 2021, eq. 7).

    The graph is kept, so that both losses can still be backpropagated.

    Args:
        reconstruction_loss, generator_loss: scalars that depend on last_layer.
        last_layer: weight of the decoder's last convolution.
        eps: keeps the quotient finite.
        maximum: upper limit of the result.

    Returns:
        A scalar in [0, maximum] without gradient.
    """
    reconstruction_norm = _gradient_norm(reconstruction_loss, last_layer)
    generator_norm = _gradient_norm(generator_loss, last_layer)
    return (reconstruction_norm / (generator_norm + eps)).clamp(0, maximum).detach()


def _gradient_norm(loss: Tensor, weight: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
    return torch.linalg.vector_norm(gradient.float())
