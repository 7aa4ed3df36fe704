"""Pruning and shared weights: which weights go, and what the others become."""

import pytest
import torch
from torch import nn

from t2ilib.compression import Pruning, SharedWeights, gradual_sparsity, kmeans_1d, magnitude_masks, share
from t2ilib.errors import BadParameter, UnknownName


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 20))


@pytest.mark.parametrize("scope", ["network", "layer"])
def test_the_smallest_weights_go(scope):
    net = network()
    pruning = Pruning(net)
    assert set(pruning.weights) == {"0.weight", "2.weight"} and pruning.sparsity == 0
    before = net[0].weight.detach().clone()
    pruning.prune(0.75, scope=scope)
    assert pruning.sparsity == pytest.approx(0.75, abs=0.01)
    mask = pruning.masks["0.weight"]
    assert before[mask].abs().min() >= before[~mask].abs().max()
    assert (net[0].weight == 0).float().mean() == pytest.approx(1 - mask.float().mean().item())
    with torch.no_grad():
        net[0].weight += 1
    pruning.apply()
    assert (net[0].weight[~mask] == 0).all() and (net[0].weight[mask] != 0).all()


def test_pruned_weights_stay_pruned_at_a_higher_sparsity():
    pruning = Pruning(network())
    pruning.prune(0.5)
    before = {name: mask.clone() for name, mask in pruning.masks.items()}
    pruning.prune(0.8)
    assert all((before[name] | ~mask).all() for name, mask in pruning.masks.items())


def test_masks_of_bad_arguments():
    weights = {"w": torch.randn(4, 4)}
    with pytest.raises(BadParameter, match=r"\[0, 1\)"):
        magnitude_masks(weights, 1.0)
    with pytest.raises(UnknownName, match="scope"):
        magnitude_masks(weights, 0.5, scope="layers")


def test_gradual_sparsity():
    values = [gradual_sparsity(step, 10, 0.8) for step in range(12)]
    assert values[0] == 0 and values[10] == values[11] == pytest.approx(0.8)
    assert values[5] == pytest.approx(0.8 * (1 - 0.5**3)) and values == sorted(values)


def test_kmeans_finds_the_clusters_and_agrees_with_plain_lloyd():
    torch.manual_seed(1)
    values = torch.cat([m + 0.01 * torch.randn(200) for m in (-1.0, 0.2, 3.0)])
    torch.testing.assert_close(kmeans_1d(values, 3), torch.tensor([-1.0, 0.2, 3.0]), atol=0.01, rtol=0)
    values = torch.randn(500)
    centroids = torch.linspace(values.min(), values.max(), 8)
    for _ in range(30):
        nearest = (values[:, None] - centroids).abs().argmin(1)
        centroids = torch.stack([values[nearest == i].mean() for i in range(8)])
    torch.testing.assert_close(kmeans_1d(values, 8), centroids, atol=1e-5, rtol=0)


def test_share_takes_the_nearest_value_and_leaves_zeros():
    weight = torch.randn(40, 30)
    mask = weight.abs() > 0.5
    shared = share(weight, 3, mask)
    dense = shared.dense()
    assert len(shared.centroids) <= 8 and (dense[~mask] == 0).all()
    distances = (weight[mask][:, None] - shared.centroids).abs()
    torch.testing.assert_close((dense[mask] - weight[mask]).abs(), distances.min(1).values)
    assert share(weight, 2, torch.zeros_like(mask)).dense().abs().max() == 0
    with pytest.raises(BadParameter, match="1 to 8"):
        share(weight, 9)
    with pytest.raises(BadParameter, match="half precision"):
        share(weight * 1e6, 4)


def test_shared_values_move_by_the_sum_of_their_gradients():
    net = network()
    shared = SharedWeights(net, {"0.weight": share(net[0].weight, 2, net[0].weight.abs() > 0.05)})
    indices = shared.indices["0.weight"]
    net(torch.randn(8, 32)).square().mean().backward()
    gradient = net[0].weight.grad.clone()
    shared.gather()
    (centroids,) = shared.parameters()
    for k in range(len(centroids)):
        torch.testing.assert_close(centroids.grad[k], gradient[indices == k].sum())
    with torch.no_grad():
        centroids -= 0.1
    shared.write()
    assert (net[0].weight[indices < 0] == 0).all()
    kept = indices >= 0
    torch.testing.assert_close(net[0].weight[kept], centroids.detach()[indices[kept]])


def test_values_that_change_places_keep_their_weights():
    net = network()
    shared = SharedWeights(net, {"0.weight": share(net[0].weight, 2)})
    (centroids,) = shared.parameters()
    with torch.no_grad():
        centroids.copy_(centroids.flip(0).half().float())
    shared.write()
    torch.testing.assert_close(shared.tensors()["0.weight"].dense(), net[0].weight.detach(), rtol=0, atol=0)
