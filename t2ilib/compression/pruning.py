"""Magnitude pruning: the smallest weights become zero, and stay so while the others are trained on.

Han et al. 2015, "Learning both weights and connections", arXiv:1506.02626. Scattered zeros make a file smaller, and
nothing faster: dense kernels multiply by them as by any number.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import BadParameter, check_name

SCOPES = ("network", "layer")
SMALLEST_ROW = 16  # numbers of an output channel; what has fewer (norms, biases, depthwise kernels) is left alone


def compressible(state: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that are worth compressing: matrices and kernels, the same that 8 bits take."""
    names = []
    for name, tensor in state.items():
        numbers_in_a_row = math.prod(tensor.shape[1:])
        if tensor.is_floating_point() and tensor.ndim >= 2 and len(tensor) and numbers_in_a_row >= SMALLEST_ROW:
            names.append(name)
    return names


def magnitude_masks(state: Mapping[str, Tensor], sparsity: float, *, scope: str = "network") -> dict[str, Tensor]:
    """Return which weights stay: name -> bool tensor of the weight's shape.

    Args:
        state: the weights to prune, by name. sparsity: share of them that becomes zero, in [0, 1).
        scope: "network" ranks all weights together, each in units of its tensor's standard deviation, as Han et al.
            set their thresholds; "layer" prunes the same share of each tensor.

    Raises:
        BadParameter: sparsity out of range. UnknownName: another scope.
    """
    if not 0 <= sparsity < 1:
        raise BadParameter(f"sparsity must be in [0, 1), got {sparsity}")
    check_name("scope of pruning", scope, SCOPES)
    sizes = {name: _relative_size(tensor) for name, tensor in state.items()}
    if not sizes:
        return {}
    all_sizes = torch.cat([size.flatten() for size in sizes.values()])
    common_threshold = _quantile(all_sizes, sparsity)
    masks = {}
    for name, size in sizes.items():
        threshold = common_threshold
        if scope == "layer":
            threshold = _quantile(size, sparsity)
        masks[name] = size > threshold
    return masks


def _relative_size(tensor: Tensor) -> Tensor:
    """Return the size of each weight in units of the tensor's standard deviation."""
    tensor = tensor.detach()
    deviation = tensor.std(correction=0)
    return tensor.abs() / deviation.clamp(min=1e-12)


def _quantile(values: Tensor, share: float) -> Tensor:
    """Return the value that a share of all values does not exceed; -1, below all, where the share is none."""
    count = int(share * values.numel())
    if count == 0:
        return values.new_tensor(-1.0)
    return values.flatten().kthvalue(count).values


def gradual_sparsity(step: int, steps: int, final: float) -> float:
    """Return the sparsity to have after `step` of `steps`: quick at first, slow at the end.

    Zhu and Gupta 2017, arXiv:1710.01878, eq. 1, from none to `final`.
    """
    left = 1 - min(1.0, step / max(1, steps))
    return final * (1 - left**3)


class Pruning:
    """Keeps the pruned weights of a network at zero.

    Args:
        network: its weights are changed in place. names: of parameters; None takes those that `compressible` names.

    Attributes:
        masks: name -> bool, which weights stay; all of them at first.
    """

    def __init__(self, network: nn.Module, names: list[str] | None = None):
        parameters = dict(network.named_parameters())
        chosen = compressible(parameters) if names is None else names
        self.weights = {name: parameters[name] for name in chosen}
        self.masks = magnitude_masks(self.weights, 0.0)

    @property
    def sparsity(self) -> float:
        """Return the share of the weights that are pruned."""
        kept = 0
        count = 0
        for mask in self.masks.values():
            kept += int(mask.sum())
            count += mask.numel()
        return 1 - kept / count

    def prune(self, sparsity: float, *, scope: str = "network") -> None:
        """Choose the weights that stay anew; those at zero already are the smallest, and stay pruned."""
        self.masks = magnitude_masks(self.weights, sparsity, scope=scope)
        self.apply()

    @torch.no_grad()
    def apply(self) -> None:
        """Set the pruned weights to zero: after each step of an optimiser, which has no reason to leave them there."""
        for name, weight in self.weights.items():
            weight.mul_(self.masks[name])
