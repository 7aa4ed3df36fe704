"""Patch critic: one score for each overlapping patch of a picture (Isola et al. 2017, section 3.2).

GroupNorm takes the place of the original's BatchNorm. With BatchNorm one and two processes give different results, and
a critic could tell a batch of real pictures from a batch of fake ones by the statistics of the batch alone.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from .conv_blocks import group_norm
from ..errors import BadParameter


class PatchCritic(nn.Module):
    """Score patches: 4x4 convolutions, `num_layers` of them with stride 2, then two with stride 1.

    Args:
        in_channels: channels of a picture.
        ch: width of the first layer; it doubles with each layer up to eight times.
        num_layers: strided layers; 3 sees patches of 70 pixels, 2 of 34, 1 of 16.
        norm_groups: groups of GroupNorm from the second layer on; 0 leaves normalisation out.

    Shapes:
        x: (B, in_channels, H, W) in [-1, 1] -> scores (B, 1, about H / 2^num_layers, about W / 2^num_layers)
    """

    def __init__(self, *, in_channels: int = 3, ch: int = 64, num_layers: int = 3, norm_groups: int = 8):
        super().__init__()
        if num_layers < 1 or norm_groups < 0:
            raise BadParameter(f"num_layers must be >= 1 and norm_groups >= 0, got {num_layers} and {norm_groups}")
        widths = [in_channels] + [ch * min(2**i, 8) for i in range(num_layers + 1)]
        strides = [2] * num_layers + [1]
        self.convs = nn.ModuleList()
        for i, stride in enumerate(strides):
            self.convs.append(nn.Conv2d(widths[i], widths[i + 1], 4, stride=stride, padding=1))
        self.norms = nn.ModuleList()
        for width in widths[2:]:
            self.norms.append(group_norm(width, norm_groups) if norm_groups else nn.Identity())
        self.conv_out = nn.Conv2d(widths[-1], 1, 4, padding=1)
        for conv in (*self.convs, self.conv_out):
            nn.init.normal_(conv.weight, 0.0, 0.02)
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.convs[0](x), 0.2)
        for conv, norm in zip(self.convs[1:], self.norms, strict=True):
            h = F.leaky_relu(norm(conv(h)), 0.2)
        return self.conv_out(h)
