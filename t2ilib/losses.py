"""Loss functions; a loss that needs a network takes it, or its outputs, as an argument."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import BadParameter, unknown_name

# ---- VQGAN (van den Oord et al. 2017; Esser et al. 2021) ----------------------------------------------------------


def vq_loss(z_e: Tensor, code_vectors: Tensor, *, beta: float = 0.25, beta_on_codebook: bool = False) -> Tensor:
    """Pull codes towards the encoder's vectors and the encoder towards its codes (van den Oord et al. 2017, eq. 3).

    Args:
        z_e: the encoder's vectors.
        code_vectors: the chosen rows of the codebook, with gradient (not straight-through).
        beta: weight of the second pull (commitment).
        beta_on_codebook: weigh the first pull instead, as published VQGANs were trained (by mistake).

    Shapes:
        z_e, code_vectors: any, equal -> scalar
    """
    codebook = F.mse_loss(code_vectors, z_e.detach())
    commitment = F.mse_loss(z_e, code_vectors.detach())
    return beta * codebook + commitment if beta_on_codebook else codebook + beta * commitment


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
    mixed = torch.lerp(fake.detach(), real.detach(), alpha.view(-1, *[1] * (real.ndim - 1)).to(real))
    # the root has no derivative at 0, where a dead critic is
    return (squared_gradients(critic, mixed).add(1e-12).sqrt() - 1).square().mean()


def zero_centred_penalty(critic: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return half the mean squared gradient: R1 at real pictures, R2 at fake ones (Mescheder et al. 2018, eq. 9)."""
    return 0.5 * squared_gradients(critic, x.detach()).mean()


def squared_gradients(critic: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return |d critic(x) / dx|^2 of each picture, differentiable, in full precision: (B, ...) -> (B,)."""
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(torch.promote_types(x.dtype, torch.float32)).requires_grad_()
        gradient, = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
        return gradient.flatten(1).square().sum(1)


def generator_score_loss(fake: Tensor) -> Tensor:
    """Return minus the mean score: the generator's side of the hinge and of the Wasserstein loss."""
    return -fake.mean()


CRITIC_LOSSES = {"hinge": hinge_critic_loss, "logistic": logistic_critic_loss}


def critic_loss(name: str, real: Tensor, fake: Tensor) -> Tensor:
    """Return the critic's loss by name: "hinge" or "logistic".

    Raises:
        UnknownName: for any other name.
    """
    if name not in CRITIC_LOSSES:
        raise unknown_name("critic loss", name, CRITIC_LOSSES)
    return CRITIC_LOSSES[name](real, fake)


def adaptive_weight(
    reconstruction_loss: Tensor, generator_loss: Tensor, last_layer: Tensor, *, eps: float = 1e-4, maximum: float = 1e4
) -> Tensor:
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
    norms = [
        torch.linalg.vector_norm(torch.autograd.grad(loss, last_layer, retain_graph=True)[0].float())
        for loss in (reconstruction_loss, generator_loss)
    ]
    return (norms[0] / (norms[1] + eps)).clamp(0, maximum).detach()


def feature_loss(features: Sequence[Tensor], target_features: Sequence[Tensor]) -> Tensor:
    """Return the perceptual distance between two pictures' feature maps, averaged over layers.

    Each position's feature vector is scaled to length 1 first, as in LPIPS (Zhang et al. 2018, eq. 1, unweighted),
    so that no layer or picture dominates by its contrast. The range is [0, 4].

    Args:
        features: maps of the pictures that learn, one for each layer.
        target_features: maps of the pictures to match; no gradient flows into them.

    Shapes:
        each: (B, C, h, w) or (B, C), equal in pairs -> scalar

    Raises:
        BadParameter: no layers, or not the same number of them.
    """
    if not features or len(features) != len(target_features):
        got = f"{len(features)} and {len(target_features)}"
        raise BadParameter(f"feature_loss needs the same layers of both pictures, at least one; got {got} maps")
    distances = [
        (F.normalize(a.float(), dim=1) - F.normalize(b.detach().float(), dim=1)).square().sum(dim=1).mean()
        for a, b in zip(features, target_features, strict=True)
    ]
    return torch.stack(distances).mean()
