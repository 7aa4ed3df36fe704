"""Losses on layers: equalised by their first values, resumed with them, and LPIPS where its trunk is."""

import pytest
import torch
from torch.nn import functional as F

from t2ilib.encoders.perceptual import load_perceptual
from t2ilib.errors import BadParameter, CheckpointMismatch, MissingAsset, UnknownName
from t2ilib.runtime import generator
from t2ilib.training import load_training, losses, save_training
from t2ilib.training.losses.layers import _lpips


@pytest.fixture(scope="module")
def network():
    return load_perceptual("efficientnet-lite0")


def pictures(seed, count=2):
    return torch.rand(count, 3, 32, 32, generator=generator(seed, "pictures"))


def test_every_layer_weighs_alike_at_first(network):
    layers = ["pixels", "stage1", "stage6"]
    loss = losses.LayerLoss(network, layers)
    first, other, target = pictures(0), pictures(1), pictures(2)
    assert loss(first, target).item() == pytest.approx(1.0, abs=1e-6)
    expected = 0.0
    for name in layers:
        a, b, c = (network(x, [name])[name] for x in (first, other, target))
        expected += ((b - c).square().mean() / (a - c).square().mean()).item() / len(layers)
        assert loss.first[name] == pytest.approx((a - c).square().mean().item(), rel=1e-5)
    assert loss(other, target).item() == pytest.approx(expected, rel=1e-5)
    assert loss(target, target).item() == 0


def test_a_single_layer_of_pixels_is_mse_over_its_first_value(network):
    loss = losses.LayerLoss(network, ["pixels"])
    target = pictures(2)
    loss(pictures(0), target)
    images = pictures(1).requires_grad_()
    value = loss(images, target)
    mse = F.mse_loss(images, target)
    torch.testing.assert_close(value, mse / loss.first["pixels"])
    (gradient,) = torch.autograd.grad(value, images)
    torch.testing.assert_close(gradient, 2 * (images - target) / images.numel() / loss.first["pixels"])


def test_first_values_are_part_of_a_trainings_state(network, tmp_path):
    loss = losses.LayerLoss(network, ["stage1", "stage2"])
    loss(pictures(0), pictures(2))
    save_training(tmp_path / "state.pt", step=1, settings={}, loss=loss)
    again = losses.LayerLoss(network, ["stage1", "stage2"])
    load_training(tmp_path / "state.pt", settings={}, loss=again)
    assert torch.equal(again(pictures(1), pictures(2)), loss(pictures(1), pictures(2)))
    with pytest.raises(CheckpointMismatch, match="go on with the same loss"):
        losses.LayerLoss(network, ["stage3"]).load_state_dict(loss.state_dict())


def test_terms_of_any_kind_weigh_alike():
    loss = losses.EqualisedLoss({"L1": F.l1_loss, "1000 MSE": lambda a, b: 1000 * F.mse_loss(a, b)})
    target = pictures(2)
    assert loss(pictures(0), target).item() == pytest.approx(1.0, abs=1e-6)
    l1 = F.l1_loss(pictures(1), target) / F.l1_loss(pictures(0), target)
    mse = F.mse_loss(pictures(1), target) / F.mse_loss(pictures(0), target)
    torch.testing.assert_close(loss(pictures(1), target), (l1 + mse) / 2)


def test_equal_pictures_at_first_do_not_divide_by_zero(network):
    loss = losses.LayerLoss(network, ["pixels"])
    assert loss(pictures(0), pictures(0)).item() == 0


def test_bad_layers(network):
    with pytest.raises(BadParameter, match="got none"):
        losses.LayerLoss(network, [])
    with pytest.raises(UnknownName):
        losses.LayerLoss(network, ["stage9"])


def test_lpips_takes_the_weights_of_a_whole_squeezenet(monkeypatch, tmp_path):
    from torchvision.models import squeezenet1_1

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("T2I_CACHE", str(tmp_path))
    with pytest.raises(MissingAsset, match="squeezenet1_1"):
        losses.load_lpips()
    trunk = squeezenet1_1()
    torch.save(trunk.state_dict(), tmp_path / "trunk.pth")
    network = losses.load_lpips(tmp_path / "trunk.pth")
    reference = _lpips()
    for part in reference.net.children():
        for name, module in part.named_children():
            module.load_state_dict(trunk.features[int(name)].state_dict())
    a, b = pictures(0), pictures(1)
    assert torch.equal(network(a, b, normalize=True), reference(a, b, normalize=True))
    assert network(a, a, normalize=True).abs().max() == 0
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointMismatch, match="does not fit"):
        losses.load_lpips(tmp_path / "other.pth")
