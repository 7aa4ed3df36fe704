"""Small towers that learn from a large CLIP: three for pictures and two for texts, in plain torch.

A picture tower maps normalised pictures (B, 3, 64, 64) to features (B, D); a text tower maps token ids (B, T) and a
mask to features (B, D). Neither normalises its features.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .efficientnet_lite import EfficientNetLite
from ..errors import BadParameter, check_name
from ..layers.attention import attend, merge_heads, split_heads

SIDE = 64  # of the pictures
POSITIONS = 77  # of a text, as in CLIP

# name -> what builds it, with its sizes
IMAGE_TOWERS: dict[str, dict[str, Any]] = {
    "plain": {"channels": (32, 64, 128), "hidden": 192},
    "separable": {"channels": (32, 96, 192, 384, 576), "blocks": (1, 2, 3, 1)},
    "efficient": {"width": 0.5, "depth": 0.6},
}
TEXT_TOWERS: dict[str, dict[str, Any]] = {
    "transformer": {"width": 128, "depth": 3, "heads": 4},
    "bag": {"width": 128},
}


class PlainTower(nn.Module):
    """Three convolutions, each followed by max pooling, and two fully connected layers: the classic small network.

    Args:
        dim: D of the features. channels: of the convolutions. hidden: width between the two layers.
    """

    def __init__(self, dim: int, *, channels: tuple[int, ...], hidden: int):
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for out in channels:
            layers += [nn.Conv2d(width, out, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
            width = out
        side = SIDE >> len(channels)
        self.convolutions = nn.Sequential(*layers)
        self.layers = nn.Sequential(nn.Linear(width * side * side, hidden), nn.ReLU(inplace=True),
                                    nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolutions(x).flatten(1)  # (B, C side side)
        return self.layers(x)


class SeparableConv(nn.Module):
    """A depthwise 3x3 and a pointwise convolution, with batch norm; the input is added where the shape stays.

    Howard et al. 2017, arXiv:1704.04861, section 3.1.
    """

    def __init__(self, width: int, out: int, stride: int):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=width, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.pointwise = nn.Conv2d(width, out, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.adds_input = stride == 1 and width == out

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.depthwise(x)))
        h = self.norm2(self.pointwise(h))
        return F.relu(h + x if self.adds_input else h)


class SeparableTower(nn.Module):
    """Depthwise-separable convolutions, the mean over all positions, one linear layer.

    Args:
        dim: D of the features. channels: of the first convolution and of each stage; each of them halves the sides.
        blocks: of each stage.
    """

    def __init__(self, dim: int, *, channels: tuple[int, ...], blocks: tuple[int, ...]):
        super().__init__()
        width = channels[0]
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width),
                                  nn.ReLU(inplace=True))
        stages: list[nn.Module] = []
        for out, count in zip(channels[1:], blocks, strict=True):
            for block in range(count):
                stages.append(SeparableConv(width, out, 2 if block == 0 else 1))
                width = out
        self.stages = nn.Sequential(*stages)
        self.proj = nn.Linear(width, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.stem(x))
        return self.proj(x.mean((2, 3)))


def fold_batch_norm(tower: nn.Module) -> nn.Module:
    """Return a copy of a picture tower in eval mode, where convolutions do what the batch norm behind them did.

    Its results are the same up to rounding; at a batch of one it takes four fifths of the time. Other towers than
    `SeparableTower` are copied as they are.
    """
    tower = copy.deepcopy(tower).eval()
    if isinstance(tower, SeparableTower):
        tower.stem[0] = fuse_conv_bn_eval(tower.stem[0], tower.stem[1])
        tower.stem[1] = nn.Identity()
        for block in tower.stages:
            block.depthwise = fuse_conv_bn_eval(block.depthwise, block.norm1)
            block.pointwise = fuse_conv_bn_eval(block.pointwise, block.norm2)
            block.norm1 = nn.Identity()
            block.norm2 = nn.Identity()
    return tower


class EfficientTower(nn.Module):
    """EfficientNet-Lite, narrower and less deep, whose classifier is the projection.

    Args:
        dim: D of the features. width, depth: factors on those of EfficientNet-Lite0.
    """

    def __init__(self, dim: int, *, width: float, depth: float):
        super().__init__()
        self.network = EfficientNetLite(width=width, depth=depth, classes=dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x * 0.5 + 0.5)  # it brings [0, 1] to [-1, 1] by itself


class TextBlock(nn.Module):
    """Self-attention and two dense layers, each on normalised input and added to it."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        q = split_heads(q, self.heads)  # (B, heads, T, d)
        k = split_heads(k, self.heads)
        v = split_heads(v, self.heads)
        attended = merge_heads(attend(q, k, v, real))  # (B, T, width)
        x = x + self.out(attended)
        h = F.gelu(self.widen(self.norm2(x)))
        return x + self.narrow(h)


class TextTransformerTower(nn.Module):
    """A small transformer over word pieces; the mean of its tokens is projected.

    Args:
        dim: D of the features. pieces: size of the table. width, depth, heads: of the transformer.
    """

    def __init__(self, dim: int, *, pieces: int, width: int, depth: int, heads: int):
        super().__init__()
        self.table = nn.Embedding(pieces, width)
        self.positions = nn.Embedding(POSITIONS, width)
        self.blocks = nn.ModuleList([TextBlock(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.proj = nn.Linear(width, dim)
        nn.init.normal_(self.table.weight, std=0.1)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.table(ids) + self.positions(places)  # (B, T, width)
        real = mask[:, None, None, :]  # (B, 1, 1, T), broadcast to (B, heads, T, T)
        for block in self.blocks:
            x = block(x, real)
        return self.proj(self.norm(_mean(x, mask)))


class BagTower(nn.Module):
    """The mean of the vectors of a text's word pieces, and two dense layers: the order of words is lost.

    Args:
        dim: D of the features. pieces: size of the table. width: of its vectors.
    """

    def __init__(self, dim: int, *, pieces: int, width: int):
        super().__init__()
        self.table = nn.Embedding(pieces, width)
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, dim))
        nn.init.normal_(self.table.weight, std=0.1)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.layers(_mean(self.table(ids), mask))


def _mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over real tokens: (B, T, C), (B, T) -> (B, C)."""
    real = mask[..., None].to(x.dtype)  # (B, T, 1)
    return (x * real).sum(1) / real.sum(1).clamp(min=1)


def image_tower(name: str, dim: int, **sizes: Any) -> nn.Module:
    """Return a picture tower by name; `sizes` replace its own.

    Raises:
        UnknownName: no such tower. BadParameter: sizes that it does not take.
    """
    check_name("student's image tower", name, IMAGE_TOWERS)
    kinds = {"plain": PlainTower, "separable": SeparableTower, "efficient": EfficientTower}
    return _build(kinds[name], dim, IMAGE_TOWERS[name] | sizes)


def text_tower(name: str, dim: int, *, pieces: int, **sizes: Any) -> nn.Module:
    """Return a text tower by name over a table of `pieces` word pieces; `sizes` replace its own.

    Raises:
        UnknownName: no such tower. BadParameter: sizes that it does not take.
    """
    check_name("student's text tower", name, TEXT_TOWERS)
    kinds = {"transformer": TextTransformerTower, "bag": BagTower}
    return _build(kinds[name], dim, TEXT_TOWERS[name] | sizes | {"pieces": pieces})


def _build(kind: type[nn.Module], dim: int, sizes: dict[str, Any]) -> nn.Module:
    try:
        return kind(dim, **sizes)
    except (TypeError, ValueError) as error:
        raise BadParameter(f"{kind.__name__}: {error}; give other sizes") from error
