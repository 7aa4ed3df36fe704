"""Grow a VQGAN: one that paints pictures of twice the side from the same codes, starting from the trained small one.

After Karras et al. 2018, "Progressive growing of GANs": a level of resolution is added at the top, where it first does
nothing, and is then trained. Latents and codebook keep their meaning, so whatever works on codes works for both.
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
    large = VQGAN(**{**config, "ch_mult": [config["ch_mult"][0], *config["ch_mult"]],
                     "resolution": 2 * config["resolution"]})
    state, own = {}, large.state_dict()
    for key, value in small.state_dict().items():
        part, *rest = key.split(".")
        if part in ("encoder", "decoder") and rest[0] in ("down", "up"):  # each level moves one further from the top
            key = ".".join([part, rest[0], str(int(rest[1]) + 1), *rest[2:]])
        state[key] = value
    large.load_state_dict({**own, **state})
    with torch.no_grad():
        for level in (large.encoder.down[0], large.decoder.up[0]):
            for block in level.block:  # residual blocks that add nothing yet
                nn.init.zeros_(block.conv2.weight)
                nn.init.zeros_(block.conv2.bias)
        _identity(large.decoder.up[1].upsample.conv, [(1, 1, 1.0)])
        _identity(large.encoder.down[0].downsample.conv, [(y, x, 0.25) for y in (0, 1) for x in (0, 1)])
    return large


def _identity(conv: nn.Conv2d, taps: list[tuple[int, int, float]]) -> None:
    """Make a 3x3 convolution copy each channel, weighted at the given (row, column) taps."""
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    for row, column, weight in taps:
        conv.weight[:, :, row, column] = weight * torch.eye(len(conv.weight))
