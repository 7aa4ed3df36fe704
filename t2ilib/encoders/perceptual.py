"""Perceptual networks: what each named layer of a frozen network makes of pictures, and how far apart they lie there.

Three kinds have one interface: a ResNet-18 with torchvision's names and weights (He et al. 2016, arXiv:1512.03385), the
EfficientNet-Lite0 that ships through pip, and the image tower of an embedded CLIP that may guide.
"""

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .clips_by_name import embedded_clips
from .efficientnet_lite import EfficientNetLite, load_efficientnet_lite
from .emoji_clip import EmojiClip
from .image_towers import ImageTower
from ..assets import Asset, AssetFile, fetch, find
from ..checkpoint import load_model, load_strict
from ..errors import BadParameter, CheckpointMismatch, MissingAsset, check_name
from ..paths import checkpoints_dir
from ..runtime import progress
from ..state_dicts import find_state

PIXELS = "pixels"  # the layer before all others: the pictures themselves
LITE0 = "efficientnet-lite0"
DOWNLOAD = "download"
RANDOM = "random"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

RESNET18 = Asset("resnet18", "perceptual", "ImageNet", "BSD-3-Clause; data for non-commercial research",
                 "https://github.com/pytorch/vision",
                 (AssetFile("resnet18-f37072fd.pth", ("https://download.pytorch.org/models/resnet18-f37072fd.pth",),
                            about_mb=47, sha256="f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec"),))


class PerceptualNetwork(nn.Module):
    """A frozen network whose layers have names and are computed no further than asked for.

    Args:
        name: of the network, for tables.
        stages: name of a layer -> module that makes it from the layer before; the first one reads normalised pictures.
        mean, std: of the normalisation of pictures in [0, 1].

    Attributes:
        layers: all names in order; the first is `PIXELS`, the pictures in [0, 1] themselves.

    Shapes:
        pictures (B, 3, H, W) in [0, 1] -> name of a layer -> map (B, C, h, w), or (B, D) behind pooling; gradients
        reach the pictures
    """

    def __init__(self, name: str, stages: Mapping[str, nn.Module], *, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.name = name
        self.stages = nn.ModuleDict(OrderedDict(stages))
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))
        self.layers = (PIXELS, *stages)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "PerceptualNetwork":
        """Stay in eval mode: a frozen network does not learn from the batch that it looks at either."""
        return super().train(False)

    def forward(self, images: Tensor, layers: Collection[str] | None = None) -> dict[str, Tensor]:
        """Return the maps of chosen layers, in the order of the network; None chooses all.

        Raises:
            UnknownName: no such layer. BadParameter: no layers, another shape, or whole numbers.
        """
        chosen = set(self.layers if layers is None else layers)
        for name in chosen:
            check_name(f"layer of {self.name}", name, self.layers)
        if not chosen:
            raise BadParameter(f"layers: got none, expected some of {', '.join(self.layers)}")
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise BadParameter(f"images: got {tuple(images.shape)} {images.dtype}, expected (B, 3, H, W) floats in "
                               "[0, 1]")
        images = images.to(self.mean)
        maps = {PIXELS: images} if PIXELS in chosen else {}
        h = (images - self.mean) / self.std
        for name, stage in self.stages.items():
            if len(maps) == len(chosen):
                break
            h = stage(h)
            if name in chosen:
                maps[name] = h
        return maps

    @torch.no_grad()
    def distances(self, images: Tensor, others: Tensor, layers: Collection[str] | None = None, *,
                  batch_size: int = 32) -> dict[str, Tensor]:
        """Return how far the pictures of each pair lie apart in each layer: the mean squared difference of the maps.

        Shapes:
            two of (N, 3, H, W) in [0, 1] -> name of a layer -> (N,) on the CPU

        Raises:
            BadParameter: the shapes differ.
        """
        if images.shape != others.shape:
            raise BadParameter(f"need two equal shapes, got {tuple(images.shape)} and {tuple(others.shape)}")
        parts: dict[str, list[Tensor]] = {}
        for one, other in zip(images.split(batch_size), others.split(batch_size), strict=True):
            maps = self(torch.cat([one, other]), layers)
            for name, both in maps.items():
                a, b = both.float().chunk(2)
                parts.setdefault(name, []).append((a - b).square().flatten(1).mean(1).cpu())  # (batch,)
        return {name: torch.cat(values) for name, values in parts.items()}


def perceptual_networks() -> list[str]:
    """Return the names that `load_perceptual` knows; the weights of some may be absent."""
    return [RESNET18.name, LITE0, *embedded_clips([EmojiClip])]


def load_perceptual(name: str, *, weights: str | Path = "", device: torch.device | str = "cpu") -> PerceptualNetwork:
    """Return a frozen perceptual network by name.

    Args:
        name: "resnet18", "efficientnet-lite0", or an embedded CLIP that may guide, such as "emoji-clip".
        weights: of "resnet18" alone: a file; "download"; "" looks where it may lie (`T2I_DATA`, the cache, torch's
            own cache); "random" draws them, for tests, and the network's name says so.

    Raises:
        UnknownName: another name.
        MissingAsset: the weights are not here. CheckpointMismatch: they are of another network.
        BadParameter: weights for a network that has its own.
    """
    check_name("perceptual network", name, perceptual_networks())
    if name == RESNET18.name:
        network = _resnet18(weights)
    elif weights:
        raise BadParameter(f"{name} has weights of its own, got weights={str(weights)!r}; leave them out")
    elif name == LITE0:
        network = _lite0(load_efficientnet_lite(LITE0))
    else:
        network = _clip_tower(load_model(EmojiClip, checkpoints_dir() / name), name)
    return network.to(device)


def trunk_file(asset: Asset, weights: str | Path = "") -> Path:
    """Return the file with a trunk's weights.

    Args:
        asset: what is published, one file. weights: a file, "download", or "" to look where it may lie.

    Raises:
        MissingAsset: it is not there, or cannot be downloaded; the message says how to get it.
    """
    published = asset.files[0]
    if weights and str(weights) != DOWNLOAD:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise MissingAsset(f"{asset.name}: there is no file {path}; give the path of {published.name}, or "
                               f"{DOWNLOAD!r}")
        return path
    in_torch = Path(torch.hub.get_dir()) / "checkpoints" / published.name  # where torchvision puts its downloads
    if in_torch.is_file():
        return in_torch
    folder = fetch(asset, progress=progress) if str(weights) == DOWNLOAD else find(asset)
    if folder is None:
        raise MissingAsset(f"the weights of {asset.name} are not here; give the path of {published.name}, or "
                           f"{DOWNLOAD!r} to get {asset.about_mb} MB from {published.urls[0]}")
    found = folder / published.name
    return found if found.is_file() else next(folder.glob("*.pth"))


def read_trunk(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a file of weights; CheckpointMismatch if it holds none."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file can fail in any way
        raise CheckpointMismatch(f"{path} cannot be read as weights ({type(error).__name__}); get it anew") from error
    return find_state(content, source=str(path))


def _resnet18(weights: str | Path) -> PerceptualNetwork:
    from torchvision.models import resnet18

    network = resnet18(weights=None)
    name = RESNET18.name
    if str(weights) == RANDOM:
        name = f"{name} (random weights)"
    else:
        path = trunk_file(RESNET18, weights)
        load_strict(network, read_trunk(path), source=str(path))
    stages = {
        "conv1": nn.Sequential(network.conv1, network.bn1, network.relu),
        "layer1": nn.Sequential(network.maxpool, network.layer1),
        "layer2": network.layer2, "layer3": network.layer3, "layer4": network.layer4,
        "avgpool": nn.Sequential(network.avgpool, nn.Flatten()),
        "fc": network.fc,
    }
    return PerceptualNetwork(name, stages, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def _lite0(network: EfficientNetLite) -> PerceptualNetwork:
    stages: dict[str, nn.Module] = {"stem": nn.Sequential(network.conv_stem, network.bn1, nn.ReLU6())}
    for number, stage in enumerate(network.blocks):
        stages[f"stage{number}"] = stage
    stages["head"] = nn.Sequential(network.conv_head, network.bn2, nn.ReLU6())
    stages["pooled"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return PerceptualNetwork(network.name, stages, mean=[0.5] * 3, std=[0.5] * 3)


def _clip_tower(clip: EmojiClip, name: str) -> PerceptualNetwork:
    tower: ImageTower = clip.visual
    trunk = tower.trunk
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if clip.tower_spec["family"] == "resnet":
        stages = {"stem": nn.Sequential(trunk.conv1, trunk.bn1, trunk.act1),
                  "layer1": nn.Sequential(trunk.maxpool, trunk.layer1),
                  "layer2": trunk.layer2, "layer3": trunk.layer3, "layer4": trunk.layer4,
                  "embedding": nn.Sequential(*pool, tower.head["proj"])}
    else:
        stages = {"stem": trunk.stem}
        for number, stage in enumerate(trunk.stages, start=1):
            stages[f"layer{number}"] = stage
        stages["embedding"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), trunk.head["norm"], nn.Flatten(),
                                            tower.head["proj"])
    return PerceptualNetwork(name, stages, mean=clip.image_mean, std=clip.image_std)
