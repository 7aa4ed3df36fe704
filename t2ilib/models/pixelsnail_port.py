"""Weights of the public PyTorch port of PixelSNAIL, under its names, as weights of `models.pixelsnail`.

In the port every layer is weight-normalised (Salimans and Kingma 2016): w = g v / |v|, with one norm for each output.
Its first layers read one-hot codes, its convolutions never see their own place, and its first place attends to nothing.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .pixelsnail import PixelSNAIL
from ..checkpoint import load_strict
from ..errors import BadParameter

HEADS = 8  # the port has no argument for it
# a name in the port, without the parameter's, and what it is here
NAMES = [
    (r"horizontal\.conv\.conv", "codes_in.above"),
    (r"vertical\.conv\.conv", "codes_in.before"),
    (r"blocks\.(\d+)\.resblocks\.(\d+)\.", r"blocks.\1.res_blocks.\2."),
    (r"blocks\.(\d+)\.(key|query|out)_resblock\.", r"blocks.\1.\2_block."),
    (r"blocks\.(\d+)\.causal_attention\.", r"blocks.\1.attention."),
    (r"blocks\.(\d+)\.out\.conv", r"blocks.\1.out"),
    (r"cond_resnet\.blocks\.0\.conv", "coarse.conv_in"),
    (r"\.conv([12])(\.conv)+$", r".conv\1"),
    (r"\.conv1$", ".first"),
    (r"\.conv2$", ".second"),
    (r"\.aux_conv\.conv$", ".extra"),
    (r"\.condition\.conv$", ".condition"),
]


def load_port(state: Mapping[str, Tensor], *, dropout: float = 0.1) -> PixelSNAIL:
    """Return a network with the weights of the port; its arguments are read from their names and shapes.

    Args:
        state: `state_dict()` of the port's network, the one of coarse codes or the one that coarse codes condition.

    Raises:
        BadParameter: names of another network, or conditions of another width than the picture's.
        CheckpointMismatch: tensors are missing, left over, or of another shape.
    """
    if "background" not in state or "horizontal.conv.conv.weight_v" not in state:
        raise BadParameter("these are no weights of the port of PixelSNAIL: background or "
                           "horizontal.conv.conv.weight_v is missing; give the state_dict of its network")
    network = PixelSNAIL(**_arguments(state), dropout=dropout)
    load_strict(network, _converted(state, network), source="the port's state")
    return network.eval()


def _arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    channels, codes, _, kernel = state["horizontal.conv.conv.weight_v"].shape
    height, width = state["background"].shape[-2:]
    first = "blocks.0.resblocks.0."
    inner = [int(number) for number in _numbers(state, r"cond_resnet\.blocks\.(\d+)\.")]
    if inner and state["cond_resnet.blocks.0.conv.weight_v"].shape[0] != channels:
        raise BadParameter("coarse codes must be read with as many channels as the picture has; other widths of the "
                           "port's cond_res_channel are not supported")
    return dict(
        codes=codes, height=height, width=width, channels=channels, kernel=kernel,
        hidden=state[first + "conv1.conv.conv.weight_v"].shape[0],
        blocks=len(_numbers(state, r"blocks\.(\d+)\.")),
        res_blocks=len(_numbers(state, r"blocks\.0\.resblocks\.(\d+)\.")),
        attention="blocks.0.causal_attention.query.weight_v" in state, heads=HEADS,
        out_blocks=len(_numbers(state, r"out\.(\d+)\.conv1\.")),
        coarse_blocks=max(0, len(inner) - 1), text_dim=0, embedding=False, sees_itself=False,
    )


def _numbers(state: Mapping[str, Tensor], pattern: str) -> set[str]:
    """Return the numbers that stand in names that begin so."""
    matches = [re.match(pattern, name) for name in state]
    return {match[1] for match in matches if match}


def _converted(state: Mapping[str, Tensor], network: PixelSNAIL) -> dict[str, Tensor]:
    expected = network.state_dict()
    visible = {name: module.visible for name, module in network.named_modules() if hasattr(module, "visible")}
    converted = {}
    for name, tensor in state.items():
        layer, _, parameter = name.rpartition(".")
        if name == "background" or parameter == "weight_g":
            continue
        layer = _renamed(layer, len(network.out_blocks))
        if parameter == "weight_v":
            parameter = "weight"
            tensor = tensor * visible.get(layer, 1)  # the port sets what it must not see to zero before the norm
            tensor = torch._weight_norm(tensor, state[name.removesuffix("_v") + "_g"], 0)
        key = f"{layer}.{parameter}"
        if key in expected:
            tensor = tensor.reshape(expected[key].shape)  # convolutions of one place are linear layers here
        converted[key] = tensor
    return converted


def _renamed(layer: str, out_blocks: int) -> str:
    """Return the name of a layer in `PixelSNAIL`."""
    last = re.fullmatch(r"out\.(\d+)(.*)", layer)
    if last is not None:
        number = int(last[1])
        if number > out_blocks:
            return "out"  # behind the blocks and an ELU
        layer = f"out_blocks.{number}{last[2]}"
    inner = re.fullmatch(r"cond_resnet\.blocks\.([1-9]\d*)\.(.*)", layer)
    if inner is not None:
        layer = f"coarse.blocks.{int(inner[1]) - 1}.{inner[2]}"
    for pattern, replacement in NAMES:
        layer = re.sub(pattern, replacement, layer)
    return layer
