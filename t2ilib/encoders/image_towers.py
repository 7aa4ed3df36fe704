"""Image towers of the embedded CLIPs: a ResNet and a ConvNeXt for small pictures, in plain torch.

Their parameters have the names that timm and open_clip give to those of the same networks (`open_clip_form`).
"""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import BadParameter, check_name

# Named image towers: family, channels and blocks of each stage, stride of the stem, normalisation.
# The ConvNeXt has another block, another normalisation and another stem than the ResNets.
TOWERS: dict[str, dict[str, Any]] = {
    "resnet": {
        "family": "resnet", "channels": (32, 64, 160, 320), "layers": (2, 2, 2, 2), "stem": 2, "norm": "batch"},
    "resnet_small": {
        "family": "resnet", "channels": (32, 64, 128, 256), "layers": (2, 2, 2, 2), "stem": 2, "norm": "batch"},
    "resnet_fast": {
        "family": "resnet", "channels": (64, 128, 256, 256), "layers": (2, 2, 2, 1), "stem": 4, "norm": "batch"},
    "convnext": {
        "family": "convnext", "channels": (48, 96, 192, 320), "layers": (1, 2, 4, 1), "stem": 2, "norm": "layer"},
}
NORMS = {"resnet": ("batch", "group"), "convnext": ("layer",)}  # what each family can take
NORM_GROUPS = 8
NORM_EPS = 1e-6  # of the ConvNeXt
LAYER_SCALE = 1e-6  # what a ConvNeXt block adds at the start of training


def tower_spec(tower: str, *, channels: list[int] | None = None, layers: list[int] | None = None,
               stem: int | None = None, norm: str | None = None) -> dict[str, Any]:
    """Return the full description of a named tower with some of its values replaced.

    Raises:
        UnknownName: no such tower.
        BadParameter: a value that the family cannot take.
    """
    check_name("image tower", tower, TOWERS)
    spec = dict(TOWERS[tower])
    for key, value in {"channels": channels, "layers": layers, "stem": stem, "norm": norm}.items():
        if value is not None:
            spec[key] = value
    norms = NORMS[spec["family"]]
    if spec["norm"] not in norms:
        raise BadParameter(f"norm of tower {tower}: got {spec['norm']!r}, expected {' or '.join(norms)}")
    if spec["stem"] not in (2, 4):
        raise BadParameter(f"stem of tower {tower}: got {spec['stem']}, expected a stride of 2 or 4")
    for key in ("channels", "layers"):
        values = list(spec[key])
        if len(values) != 4 or any(not isinstance(value, int) or value < 1 for value in values):
            raise BadParameter(f"{key} of tower {tower}: got {values}, expected four positive whole numbers")
        spec[key] = values
    if spec["norm"] == "group" and any(c % NORM_GROUPS for c in spec["channels"]):
        raise BadParameter(f"channels of tower {tower}: got {spec['channels']}, expected multiples of {NORM_GROUPS} "
                           "for group norm")
    return spec


class ImageTower(nn.Module):
    """A tower and the projection of its features into the shared space.

    Args:
        spec: from `tower_spec`. embed_dim: E. drop_path: stochastic depth of the last block, while training.

    Shapes:
        normalised pictures (B, 3, S, S) -> (B, E), not of unit norm
    """

    def __init__(self, spec: dict[str, Any], embed_dim: int, *, drop_path: float = 0.0):
        super().__init__()
        shape = {"channels": spec["channels"], "layers": spec["layers"], "stem": spec["stem"], "drop_path": drop_path}
        if spec["family"] == "resnet":
            self.trunk = ResNet(norm=spec["norm"], **shape)
        else:
            self.trunk = ConvNeXt(**shape)
        self.head = nn.ModuleDict({"proj": nn.Linear(spec["channels"][-1], embed_dim, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        return self.head["proj"](self.trunk(x))

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """Return what each depth makes of normalised pictures (B, 3, S, S), fine to coarse: each (B, C, H, W)."""
        return self.trunk.feature_maps(x)


class ResNet(nn.Module):
    """A ResNet for small pictures: three 3x3 convolutions as stem, no max pooling.

    Stem stride 2 keeps a 64 px picture at 32 x 32 in the first stage; stride 4 has one more strided convolution.

    Shapes:
        (B, 3, S, S) -> (B, channels[-1])

    References:
        He et al. 2016, arXiv:1512.03385; the stem of He et al. 2018, arXiv:1812.01187, figure 2b.
    """

    def __init__(self, *, channels: list[int], layers: list[int], stem: int, norm: str, drop_path: float):
        super().__init__()
        make_norm = _group_norm if norm == "group" else nn.BatchNorm2d
        # at stride 4 a wide stem would be half of all the work
        inner = 16 if stem == 4 else max(16, channels[0] // 2)
        width = 2 * inner
        self.conv1 = nn.Sequential(
            _conv3x3(3, inner, stride=2), make_norm(inner), nn.ReLU(inplace=True),
            _conv3x3(inner, inner), make_norm(inner), nn.ReLU(inplace=True),
            _conv3x3(inner, width))
        self.bn1 = make_norm(width)
        self.act1 = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity()  # called so in every ResNet; here a convolution does it
        if stem == 4:
            self.maxpool = nn.Sequential(_conv3x3(width, width, stride=2), make_norm(width), nn.ReLU(inplace=True))
        drops = iter(_drop_rates(drop_path, sum(layers)))
        for stage, (out, depth) in enumerate(zip(channels, layers, strict=True), start=1):
            blocks = []
            for block in range(depth):
                stride = 2 if stage > 1 and block == 0 else 1
                blocks.append(BasicBlock(width, out, stride, make_norm, next(drops)))
                width = out
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self._start()

    def _start(self) -> None:
        """Give the weights their values at the start of training."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)  # each block is the identity at first

    def _stem(self, x: Tensor) -> Tensor:
        return self.act1(self.bn1(self.conv1(x)))

    def _stages(self) -> list[nn.Module]:
        return [self.layer1, self.layer2, self.layer3, self.layer4]

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self._stem(x))
        for stage in self._stages():
            x = stage(x)
        return F.adaptive_avg_pool2d(x, 1).flatten(1)  # (B, C)

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """Return the maps after the stem and after each of the four stages."""
        x = self._stem(x)
        maps = [x]
        x = self.maxpool(x)
        for stage in self._stages():
            x = stage(x)
            maps.append(x)
        return maps


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016, figure 2)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, make_norm: Callable[[int], nn.Module],
                 drop_path: float):
        super().__init__()
        self.conv1 = _conv3x3(in_channels, out_channels, stride=stride)
        self.bn1 = make_norm(out_channels)
        self.conv2 = _conv3x3(out_channels, out_channels)
        self.bn2 = make_norm(out_channels)
        self.downsample = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                                            make_norm(out_channels))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)), inplace=True)
        h = self.drop_path(self.bn2(self.conv2(h)))
        h += self.downsample(x)
        return F.relu(h, inplace=True)


class ConvNeXt(nn.Module):
    """A ConvNeXt whose stem cuts patches of `stem` pixels.

    Shapes:
        (B, 3, S, S) -> (B, channels[-1])

    References:
        Liu et al. 2022, arXiv:2201.03545.
    """

    def __init__(self, *, channels: list[int], layers: list[int], stem: int, drop_path: float):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels[0], stem, stride=stem), ChannelNorm(channels[0]))
        drops = iter(_drop_rates(drop_path, sum(layers)))
        stages = []
        before = channels[0]
        for stage, (out, depth) in enumerate(zip(channels, layers, strict=True)):
            halve = stage > 0 or stem == 2
            stages.append(ConvNeXtStage(before, out, halve, list(itertools.islice(drops, depth))))
            before = out
        self.stages = nn.Sequential(*stages)
        self.head = nn.ModuleDict({"norm": ChannelNorm(before)})
        self._start()

    def _start(self) -> None:
        """Give the weights their values at the start of training."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.stem(x))
        return self.head["norm"](F.adaptive_avg_pool2d(x, 1)).flatten(1)  # (B, C)

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """Return the maps after each of the four stages."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class ConvNeXtStage(nn.Module):
    """Halve the sides where asked, then some blocks."""

    def __init__(self, in_channels: int, out_channels: int, halve: bool, drop_paths: list[float]):
        super().__init__()
        self.downsample = nn.Identity()
        if halve or in_channels != out_channels:
            side = 2 if halve else 1
            self.downsample = nn.Sequential(ChannelNorm(in_channels),
                                            nn.Conv2d(in_channels, out_channels, side, stride=side))
        self.blocks = nn.Sequential(*[ConvNeXtBlock(out_channels, drop_path) for drop_path in drop_paths])

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class ConvNeXtBlock(nn.Module):
    """A depthwise 7x7 convolution, then two layers for each pixel, scaled, beside the input (Liu et al., figure 4)."""

    def __init__(self, channels: int, drop_path: float):
        super().__init__()
        self.conv_dw = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(channels, 4 * channels), "fc2": nn.Linear(4 * channels, channels)})
        self.gamma = nn.Parameter(torch.full((channels,), LAYER_SCALE))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_dw(x).permute(0, 2, 3, 1)  # (B, H, W, C)
        h = F.gelu(self.mlp["fc1"](self.norm(h)))
        h = self.mlp["fc2"](h).permute(0, 3, 1, 2)  # (B, C, H, W)
        return self.drop_path(h * self.gamma.view(1, -1, 1, 1)) + x


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel of (B, C, H, W)."""

    def __init__(self, channels: int):
        super().__init__(channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class DropPath(nn.Module):
    """Stochastic depth: while training, leave a block out for some pictures (Huang et al. 2016, arXiv:1603.09382).

    Args:
        rate: share of pictures; the others are scaled up, so that the mean stays.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0 or not self.training:
            return x
        keep = 1 - self.rate
        kept = x.new_empty(len(x), 1, 1, 1).bernoulli_(keep)
        return x * (kept / keep)


def _conv3x3(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(NORM_GROUPS, channels)


def _drop_rates(last: float, blocks: int) -> list[float]:
    """Return the rate of each block: from none at the first to `last`, in equal steps."""
    return [last * block / max(1, blocks - 1) for block in range(blocks)]
