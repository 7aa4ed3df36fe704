"""Distillation of a CLIP's towers: what one step learns from, its loss, and how much of the teacher is kept."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from .losses.distillation import SCALE, distillation_loss
from .network_training import NetworkTraining


class TowerBatch(NamedTuple):
    """What one step learns from.

    Attributes:
        inputs: of the tower: normalised pictures (B, 3, S, S), or token ids (B, T) and their mask.
        targets: the teacher's unit vectors (B, D).
    """

    inputs: tuple[Tensor, ...]
    targets: Tensor


class TowerTraining(NetworkTraining):
    """A student's tower in training.

    Args:
        network: the tower; features need not be of unit norm. fabric: see `NetworkTraining`.
        weights: of `distillation_loss`. bank: (M, D), of it. scale: of the softmax in it.
        settings: of `NetworkTraining`.
    """

    def __init__(self, network: nn.Module, fabric: Any, *, weights: Mapping[str, float], bank: Tensor | None = None,
                 scale: float = SCALE, **settings: Any):
        super().__init__(network, fabric, **settings)
        self.weights = dict(weights)
        self.bank = bank
        self.scale = scale

    def loss(self, batch: TowerBatch) -> Tensor:
        features = self.forward(*batch.inputs).float()
        return distillation_loss(features, batch.targets, self.weights, self.bank, self.scale)


def embedding_report(features: Tensor, targets: Tensor, mean: Tensor) -> dict[str, float]:
    """Return how well unit vectors match the teacher's, beside one constant vector for everything.

    Args:
        features, targets: (N, D), unit norm, of the student and of the teacher. mean: (D,), of the teacher's vectors
            that the student was trained on: the best constant answer.

    Returns:
        `mse`: per number, as the original reported it. `constant mse`: of `mean` in every place. `r2`: 1 - their ratio.
        `cosine`: the mean. `centred cosine`: with `mean` subtracted from both.
    """
    mse = F.mse_loss(features, targets).item()
    constant = F.mse_loss(mean.expand_as(targets), targets).item()
    return {"mse": mse, "constant mse": constant, "r2": 1 - mse / constant,
            "cosine": F.cosine_similarity(features, targets).mean().item(),
            "centred cosine": F.cosine_similarity(features - mean, targets - mean).mean().item()}
