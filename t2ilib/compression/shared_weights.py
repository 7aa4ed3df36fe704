"""Shared weights: each weight of a tensor becomes the nearest of a few values, which can be trained on.

Han et al. 2016, arXiv:1510.00149, section 3: k-means over the weights of one tensor that are left after pruning, begun
with values in equal steps; then each shared value moves by the sum of the gradients of all weights that share it.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import BadParameter

ITERATIONS = 30
MOST_LEVELS = 256


class SharedTensor(NamedTuple):
    """A tensor of shared weights.

    Attributes:
        centroids: (k,) float32, ascending, each a number that half precision holds. indices: of the tensor's shape,
            int16; -1 where the weight is pruned.
    """

    centroids: Tensor
    indices: Tensor

    def dense(self) -> Tensor:
        """Return the weights themselves: 0 where they are pruned."""
        values = F.pad(self.centroids, (0, 1))  # -1 finds the zero at the end
        return values[self.indices.long()]


def kmeans_1d(values: Tensor, count: int, *, iterations: int = ITERATIONS) -> Tensor:
    """Return at most `count` centroids of numbers (n,), ascending (Lloyd 1982), begun in equal steps.

    On a line clusters are intervals, so the numbers are sorted once, and each iteration only moves the borders.

    Raises:
        BadParameter: no values, or a count out of range.
    """
    if values.numel() == 0 or not 1 <= count <= MOST_LEVELS:
        raise BadParameter(f"k-means needs values and 1 to {MOST_LEVELS} clusters, got {values.numel()} and {count}")
    numbers = values.detach().double().flatten()
    ordered = numbers.sort().values
    sums = F.pad(ordered.cumsum(0), (1, 0))  # (n + 1,), sums[i] of the first i numbers
    lowest = ordered[0].item()
    highest = ordered[-1].item()
    centroids = torch.linspace(lowest, highest, count, dtype=torch.double)
    for _ in range(iterations):
        inner = torch.searchsorted(ordered, _middles(centroids), right=True)  # (count - 1,)
        borders = F.pad(inner, (1, 0))  # the first cluster begins at 0,
        borders = F.pad(borders, (0, 1), value=len(ordered))  # the last one ends at n
        sizes = borders.diff()  # (count,)
        means = sums[borders].diff() / sizes.clamp(min=1)
        moved = torch.where(sizes > 0, means, centroids)  # an empty cluster stays where it is
        if torch.equal(moved, centroids):
            break
        centroids = moved
    return centroids.float().unique()


def share(tensor: Tensor, bits: int, mask: Tensor | None = None, *, iterations: int = ITERATIONS) -> SharedTensor:
    """Return a tensor whose weights share at most 2**bits values.

    Args:
        mask: of the tensor's shape, the weights that are left; others are zero and take no value.

    Raises:
        BadParameter: bits outside 1 to 8, or weights that are no finite numbers in half precision.
    """
    if not 1 <= bits <= 8:
        raise BadParameter(f"bits of shared weights: got {bits}, expected 1 to 8")
    tensor = tensor.detach().float().cpu().contiguous()
    keep = torch.ones_like(tensor, dtype=torch.bool)
    if mask is not None:
        keep = mask.cpu()
    kept = tensor[keep]  # (n,)
    if not kept.half().isfinite().all():
        raise BadParameter("weights that are infinite in half precision cannot be shared; look at the training")
    centroids = torch.zeros(1)
    if len(kept):
        centroids = kmeans_1d(kept, 2**bits, iterations=iterations)
        centroids = centroids.half().float().unique()
    nearest = torch.bucketize(tensor, _middles(centroids))
    indices = nearest.masked_fill(~keep, -1)
    return SharedTensor(centroids, indices.to(torch.int16))


def _middles(centroids: Tensor) -> Tensor:
    """Return the numbers half-way between neighbours, where the nearest of ascending centroids changes."""
    return (centroids[1:] + centroids[:-1]) / 2


class SharedWeights:
    """Shared weights of a network, in training: the few values are the parameters.

    Args:
        network: changed in place, and moved to its shared values at once.
        tensors: name of a parameter -> its shared weights.

    Example:
        shared = SharedWeights(network, tensors)
        optimizer = torch.optim.Adam(shared.parameters(), lr=1e-4)
        for batch in batches:
            loss(network, batch).backward()
            shared.gather()          # the sum of the gradients of all weights that share a value
            optimizer.step()
            shared.write()
    """

    def __init__(self, network: nn.Module, tensors: Mapping[str, SharedTensor]):
        parameters = dict(network.named_parameters())
        self.weights = {name: parameters[name] for name in tensors}
        self.indices = {name: tensor.indices.long() for name, tensor in tensors.items()}
        self.centroids = {name: nn.Parameter(tensor.centroids.clone()) for name, tensor in tensors.items()}
        self.write()

    def parameters(self) -> list[nn.Parameter]:
        """Return the shared values, one parameter (k,) for each tensor."""
        return list(self.centroids.values())

    def gather(self) -> None:
        """Give each shared value the sum of the gradients of its weights, and clear theirs."""
        for name, weight in self.weights.items():
            indices = self.indices[name]
            kept = indices >= 0
            gradient = torch.zeros_like(self.centroids[name])
            if weight.grad is not None:
                of_weights = weight.grad.float().cpu()
                gradient.index_add_(0, indices[kept], of_weights[kept])
            self.centroids[name].grad = gradient
            weight.grad = None

    @torch.no_grad()
    def write(self) -> None:
        """Give the network's weights their shared values."""
        for name, weight in self.weights.items():
            tensor = SharedTensor(self.centroids[name].detach(), self.indices[name])
            weight.copy_(tensor.dense())

    def tensors(self) -> dict[str, SharedTensor]:
        """Return the shared weights as they are now, as `pack` takes them."""
        result = {}
        for name, centroids in self.centroids.items():
            stored = centroids.detach().half().float()
            result[name] = _ordered(stored, self.indices[name])
        return result


def _ordered(centroids: Tensor, indices: Tensor) -> SharedTensor:
    """Return shared weights with ascending values, each once: training may have moved one past another."""
    values, place = centroids.unique(return_inverse=True)
    place = F.pad(place, (0, 1), value=-1)  # -1 stays -1
    moved = place[indices]
    return SharedTensor(values, moved.to(torch.int16))
