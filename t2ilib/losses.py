"""Loss functions; a loss that needs a network takes it, or its outputs, as an argument."""

from collections.abc import Sequence

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


def logistic_critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return the critic's non-saturating loss (Goodfellow et al. 2014), half the sum of both sides."""
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def generator_score_loss(fake: Tensor) -> Tensor:
    """Return minus the mean score: the generator's side of the hinge loss."""
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
