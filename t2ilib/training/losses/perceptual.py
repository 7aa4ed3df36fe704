"""Perceptual distance: how far the feature maps of two pictures lie from each other."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import BadParameter


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
