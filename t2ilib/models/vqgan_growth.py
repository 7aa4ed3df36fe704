"""Grow a VQGAN: one that paints pictures of twice the side from the same codes, starting from the trained small one.

After Karras et al. 2018, "Progressive growing of GANs": a level of resolution is added at the top, where it first does
nothing, and is then trained. Latents and codebook keep their meaning, so what was trained on codes fits both networks.
"""

import torch
from torch import nn

from .vqgan import VQGAN
from ..errors import BadParameter


def grow(small: VQGAN) -> VQGAN:
    """Return a VQGAN of twice the resolution and factor that shares the small one's codes.

    Up to its last convolution the decoder computes what the small one does, with every position doubled; the encoder
    reads a picture about as the small one reads the halved picture. Both are starting points for training on pictures
    of twice the side.

    Raises:
        BadParameter: the small network folds pixels into channels, or resamples without convolutions.
    """
    config = small.config
    if config["patch_size"] != 1 or not config["resamp_with_conv"]:
        raise BadParameter("only a VQGAN with patch_size=1 and resamp_with_conv=True can grow; train a larger one anew")
    ch_mult = [config["ch_mult"][0], *config["ch_mult"]]
    large = VQGAN(**{**config, "ch_mult": ch_mult, "resolution": 2 * config["resolution"]})
    state = large.state_dict()
    for key, value in small.state_dict().items():
        state[_one_level_down(key)] = value
    large.load_state_dict(state)
    with torch.no_grad():
        for level in (large.encoder.down[0], large.decoder.up[0]):
            for block in level.block:  # the new residual blocks add nothing yet
                nn.init.zeros_(block.conv2.weight)
                nn.init.zeros_(block.conv2.bias)
        _copy_channels(large.decoder.up[1].upsample.conv, [(1, 1, 1.0)])
        mean_of_four = [(0, 0, 0.25), (0, 1, 0.25), (1, 0, 0.25), (1, 1, 0.25)]
        _copy_channels(large.encoder.down[0].downsample.conv, mean_of_four)
    return large


def _one_level_down(key: str) -> str:
    """Return the name that a parameter of the small network has in the large one, whose level 0 is new."""
    part, *rest = key.split(".")
    if part in ("encoder", "decoder") and rest[0] in ("down", "up"):
        rest[1] = str(int(rest[1]) + 1)
    return ".".join([part, *rest])


def _copy_channels(conv: nn.Conv2d, taps: list[tuple[int, int, float]]) -> None:
    """Make a 3x3 convolution copy each channel, weighted at the given (row, column) taps."""
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    for row, column, weight in taps:
        conv.weight[:, :, row, column] = weight * torch.eye(len(conv.weight))  # (out, in)
