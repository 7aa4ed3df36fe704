"""Perceptual networks: named layers equal those of the networks that they come from, and distances are as defined."""

import pytest
import torch

from t2ilib.checkpoint import load_model
from t2ilib.encoders import EmojiClip, embedded_clips, load_efficientnet_lite
from t2ilib.encoders.perceptual import RESNET18, PerceptualNetwork, load_perceptual, trunk_file
from t2ilib.errors import BadParameter, CheckpointMismatch, MissingAsset, UnknownName
from t2ilib.paths import checkpoints_dir
from t2ilib.runtime import generator


def pictures(count=2, side=64):
    return torch.rand(count, 3, side, side, generator=generator(0, "pictures"))


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    monkeypatch.setenv("T2I_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("T2I_DATA", raising=False)
    return tmp_path


@torch.no_grad()
def test_resnet18_has_torchvisions_names_and_maps(nowhere):
    from torchvision.models import resnet18
    from torchvision.models.feature_extraction import create_feature_extractor

    torch.manual_seed(0)
    reference = resnet18().eval()
    file = nowhere / "weights.pth"
    torch.save(reference.state_dict(), file)
    network = load_perceptual("resnet18", weights=file)
    assert network.name == "resnet18"
    nodes = {"relu": "conv1", "layer1": "layer1", "layer2": "layer2", "layer3": "layer3", "layer4": "layer4",
             "flatten": "avgpool", "fc": "fc"}
    x = pictures()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    expected = create_feature_extractor(reference, nodes)((x - mean) / std)
    maps = network(x)
    assert list(maps) == list(network.layers) == ["pixels", *nodes.values()]
    assert torch.equal(maps["pixels"], x)
    for name, map_ in expected.items():
        torch.testing.assert_close(maps[name], map_)


def test_resnet18_says_when_its_weights_are_random_or_absent(nowhere):
    assert load_perceptual("resnet18", weights="random").name == "resnet18 (random weights)"
    with pytest.raises(MissingAsset, match="give the path of resnet18-f37072fd.pth, or 'download'"):
        load_perceptual("resnet18")
    with pytest.raises(MissingAsset, match="there is no file"):
        load_perceptual("resnet18", weights=nowhere / "other.pth")
    broken = nowhere / "broken.pth"
    broken.write_bytes(b"PK" + bytes(100))
    with pytest.raises(CheckpointMismatch, match="cannot be read as weights"):
        load_perceptual("resnet18", weights=broken)


def test_weights_are_found_where_torchvision_and_users_put_them(nowhere, monkeypatch):
    folder = nowhere / "data" / "perceptual" / "resnet18"
    folder.mkdir(parents=True)
    (folder / "mine.pth").write_bytes(b"x")
    monkeypatch.setenv("T2I_DATA", str(nowhere / "data"))
    assert trunk_file(RESNET18) == folder / "mine.pth"
    in_torch = nowhere / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    in_torch.parent.mkdir(parents=True)
    in_torch.write_bytes(b"x")
    assert trunk_file(RESNET18) == in_torch


@torch.no_grad()
def test_lite0_maps_equal_its_own():
    network = load_perceptual("efficientnet-lite0")
    reference = load_efficientnet_lite()
    x = pictures()
    maps = network(x)
    expected = reference.feature_maps(x)
    for number, map_ in enumerate(expected):
        torch.testing.assert_close(maps[f"stage{number}"], map_)
    torch.testing.assert_close(maps["pooled"], reference.features(x))


@torch.no_grad()
@pytest.mark.parametrize("name", embedded_clips([EmojiClip]))
def test_a_guides_tower_is_the_guides(name):
    network = load_perceptual(name)
    guide = load_model(EmojiClip, checkpoints_dir() / name)
    x = pictures()
    maps = network(x)
    normalised = guide.normalise(x)
    torch.testing.assert_close(maps["embedding"], guide.visual(normalised))
    expected = guide.visual.feature_maps(normalised)[-4:]
    for number, map_ in enumerate(expected, start=1):
        torch.testing.assert_close(maps[f"layer{number}"], map_)


def test_the_judge_and_unknown_names_are_refused():
    for name in ("emoji-judge", "efficientnet-lite2", "resnet81"):
        with pytest.raises(UnknownName):
            load_perceptual(name)
    with pytest.raises(BadParameter, match="weights of its own"):
        load_perceptual("efficientnet-lite0", weights="random")


class Counted(torch.nn.Identity):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return x * 2


def counted():
    stages = {name: Counted() for name in "abc"}
    return PerceptualNetwork("counted", stages, mean=[0.0] * 3, std=[1.0] * 3), stages


def test_no_layer_is_computed_in_vain():
    network, stages = counted()
    maps = network(pictures(), ["b", "pixels"])
    assert list(maps) == ["pixels", "b"]
    assert [stages[name].calls for name in "abc"] == [1, 1, 0]
    network(pictures(), ["pixels"])
    assert [stages[name].calls for name in "abc"] == [1, 1, 0]


def test_distances_are_mean_squares_of_each_pair():
    network, _ = counted()
    a = pictures(5)
    b = a.flip(0)
    distances = network.distances(a, b, batch_size=2)
    expected = (a - b).square().mean((1, 2, 3))
    for factor, name in zip((1, 4, 16, 64), network.layers, strict=True):
        torch.testing.assert_close(distances[name], factor * expected)


def test_gradients_reach_pictures_alone_and_training_mode_changes_nothing():
    network = load_perceptual("efficientnet-lite0").train()
    assert not any(module.training for module in network.modules())
    x = pictures().requires_grad_()
    network(x, ["stage6"])["stage6"].square().mean().backward()
    assert x.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in network.parameters())


def test_bad_input():
    network, _ = counted()
    with pytest.raises(UnknownName, match="did you mean|layer"):
        network(pictures(), ["d"])
    with pytest.raises(BadParameter, match="got none"):
        network(pictures(), [])
    with pytest.raises(BadParameter, match="floats in"):
        network(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(BadParameter, match="equal shapes"):
        network.distances(pictures(2), pictures(3))
