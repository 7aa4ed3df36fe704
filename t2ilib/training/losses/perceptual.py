"""Perceptual distances: how far the feature maps of two pictures lie from each other."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import BadParameter

LITE = "efficientnet-lite0"
LITE_STAGES = (0, 1, 2, 3)  # a half, a quarter, an eighth and a sixteenth of a picture's side
# Mean distance of 512 pairs of unrelated training drawings at 128 px in each of these stages, so that the stages count
# alike and 1 means unrelated.
LITE_UNRELATED = (1.229, 1.200, 1.315, 1.224)


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
    distances = [_directions_apart(a, b).mean() for a, b in zip(features, target_features, strict=True)]
    return torch.stack(distances).mean()


def _directions_apart(features: Tensor, target: Tensor) -> Tensor:
    """Return the squared distance of unit vectors at each position, in [0, 4]: two of (B, C, ...) -> (B, ...)."""
    a = F.normalize(features.float(), dim=1)
    b = F.normalize(target.detach().float(), dim=1)
    return (a - b).square().sum(dim=1)


def lite_distance(network: Any, images: Tensor, target: Tensor) -> Tensor:
    """Return the EfficientNet-Lite0 distance of each picture to its target; its mean is a loss.

    As in LPIPS, positions are compared by the direction of their feature vectors. It is not LPIPS: another network,
    and no weights that were fitted to what people see. Instead each stage is divided by its mean distance between
    unrelated drawings, so that 0 is an equal picture and 1 an unrelated one. It is calibrated at 128 px.

    What damage to drawings comes to (mean over 64 validation drawings): 0.05 moved by a pixel, 0.06 halved and enlarged
    again, 0.08 a noise of one grey level, 0.14 through `emoji-vqgan-128`, 0.27 a noise of five grey levels, 0.39 a blur
    with sigma 4. So it sees a grain on plain ground that nobody sees, and hardly minds a small shift, unlike pixels:
    weigh it beside a loss on pixels.

    Args:
        network: `load_efficientnet_lite()`; no gradient goes into its weights.
        images: gradients reach them. target: no gradient reaches it.

    Shapes:
        two of (B, 3, H, W) in [0, 1] -> (B,)

    Raises:
        BadParameter: another network, or shapes that differ.
    """
    if getattr(network, "name", None) != LITE:
        raise BadParameter(f"lite_distance is calibrated for {LITE}, got {getattr(network, 'name', network)!r}; pass "
                           "load_efficientnet_lite()")
    if images.shape != target.shape:
        raise BadParameter(f"need two equal shapes, got {tuple(images.shape)} and {tuple(target.shape)}")
    with torch.no_grad():
        target_maps = network.feature_maps(target, LITE_STAGES)
    maps = network.feature_maps(images, LITE_STAGES)
    distances = []
    for a, b, unrelated in zip(maps, target_maps, LITE_UNRELATED, strict=True):
        of_stage = _directions_apart(a, b).mean((1, 2))  # (B,)
        distances.append(of_stage / unrelated)
    return torch.stack(distances).mean(0)
