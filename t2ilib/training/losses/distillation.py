"""Losses by which a small network learns the embeddings of a large one.

All take features of the student (B, D), not normalised, and unit vectors of the teacher (B, D), and return a scalar.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import BadParameter, check_name

LOSSES = ("mse", "cosine", "affinity", "contrastive")
WITH_BANK = ("affinity", "contrastive")
SCALE = 20.0  # 1 / temperature of the softmax; the embedded guides learn 15 to 30


def embedding_mse(features: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error per number, between features as they are and unit vectors.

    On unit vectors of D numbers it is (2 - 2 cos) / D: about 0.001 for D = 512 where the cosine is 0.75.
    """
    return F.mse_loss(features, targets)


def cosine_loss(features: Tensor, targets: Tensor) -> Tensor:
    """Return 1 - cosine, the mean over the batch."""
    return 1 - F.cosine_similarity(features, targets, dim=-1).mean()


def affinity_loss(features: Tensor, targets: Tensor, bank: Tensor, scale: float = SCALE) -> Tensor:
    """Return how much worse the student's choice among a bank of vectors is than the teacher's own, in nats.

    The teacher's cosines to the bank, times `scale`, make a distribution that the student's must match; the distance is
    the Kullback-Leibler divergence (Wu et al. 2023, "TinyCLIP", arXiv:2309.12314, eq. 3, with a bank in place of the
    batch).

    Args:
        bank: (M, D) unit vectors of the other tower, such as one caption of each concept.
    """
    of_teacher = (scale * targets @ bank.T).log_softmax(dim=-1)  # (B, M)
    of_student = (scale * F.normalize(features, dim=-1) @ bank.T).log_softmax(dim=-1)
    return F.kl_div(of_student, of_teacher, log_target=True, reduction="batchmean")


def contrastive_loss(features: Tensor, targets: Tensor, bank: Tensor, scale: float = SCALE) -> Tensor:
    """Return the cross entropy of finding each input's own teacher vector among those of the batch and a bank.

    Tian et al. 2020, "Contrastive representation distillation", arXiv:1910.10699, with a softmax.

    Args:
        bank: (M, D) unit vectors that are wrong answers beside those of the batch.
    """
    candidates = torch.cat([targets, bank])  # (B + M, D)
    logits = scale * F.normalize(features, dim=-1) @ candidates.T  # (B, B + M)
    # where a wrong answer is nearly the right one (another view of the same), it does not compete
    same = targets @ candidates.T > 0.98  # (B, B + M)
    is_target = torch.eye(len(targets), len(candidates), dtype=torch.bool, device=targets.device)
    logits = logits.masked_fill(same & ~is_target, -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(targets), device=targets.device))


def distillation_loss(features: Tensor, targets: Tensor, weights: Mapping[str, float],
                      bank: Tensor | None = None, scale: float = SCALE) -> Tensor:
    """Return a weighted sum of the losses above, by name.

    Args:
        weights: name in `LOSSES` -> factor. bank: for "affinity" and "contrastive".

    Raises:
        UnknownName: no such loss. BadParameter: none is named, or one needs a bank.
    """
    if not weights:
        raise BadParameter(f"name at least one loss of {', '.join(LOSSES)}")
    total = features.new_zeros(())
    for name, weight in weights.items():
        check_name("distillation loss", name, LOSSES)
        if name in WITH_BANK and bank is None:
            raise BadParameter(f"the loss {name!r} compares with a bank of vectors; give bank=...")
        total = total + weight * _one_loss(name, features, targets, bank, scale)
    return total


def _one_loss(name: str, features: Tensor, targets: Tensor, bank: Tensor | None, scale: float) -> Tensor:
    if name == "mse":
        return embedding_mse(features, targets)
    if name == "cosine":
        return cosine_loss(features, targets)
    if name == "affinity":
        return affinity_loss(features, targets, bank, scale)
    return contrastive_loss(features, targets, bank, scale)
