"""Convolution blocks of the VQGAN family: residual block, attention block, resampling.

Names of parameters follow taming-transformers, so that its checkpoints fit; the arithmetic is our own.
Papers: He et al. 2016; Wu & He 2018; Wang et al. 2018 (non-local block); Esser et al. 2021, table 7.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import BadParameter
from ..kernels import group_norm_silu

NORM_EPS = 1e-6


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """Return the GroupNorm that all blocks use, or say which channel counts fit."""
    if channels % groups:
        raise BadParameter(
            f"channels must be a multiple of norm_groups={groups}, got {channels}; choose ch and ch_mult accordingly"
        )
    return nn.GroupNorm(groups, channels, eps=NORM_EPS)


def norm_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Apply a GroupNorm's parameters and SiLU in one operation."""
    return group_norm_silu(x, norm.weight, norm.bias, norm.num_groups, norm.eps)


class ResnetBlock(nn.Module):
    """Norm, SiLU, 3x3 convolution, twice, around a shortcut.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; where they differ the shortcut is a 1x1 convolution.
        dropout: probability between the two convolutions.
        norm_groups: groups of GroupNorm.

    Shapes:
        x: (B, in_channels, H, W) -> (B, out_channels, H, W)
    """

    def __init__(self, *, in_channels: int, out_channels: int, dropout: float = 0.0, norm_groups: int = 32):
        super().__init__()
        self.norm1 = group_norm(in_channels, norm_groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels, norm_groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.nin_shortcut = None
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(norm_silu(self.norm1, x))
        h = self.dropout(norm_silu(self.norm2, h))
        h = self.conv2(h)
        if self.nin_shortcut is not None:
            x = self.nin_shortcut(x)
        return x + h


class AttnBlock(nn.Module):
    """Single-head self-attention over all positions, with scale C^-0.5, around a shortcut.

    `explicit` switches from PyTorch's fused attention, which has no second derivative, to plain matrix products;
    gradient penalties need it.

    Shapes:
        x: (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self, *, channels: int, norm_groups: int = 32):
        super().__init__()
        self.explicit = False
        self.norm = group_norm(channels, norm_groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        h = self.norm(x)
        q = self.q(h).flatten(2).transpose(1, 2)  # (B, HW, C)
        k = self.k(h).flatten(2).transpose(1, 2)
        v = self.v(h).flatten(2).transpose(1, 2)
        if self.explicit:
            scores = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5  # (B, HW, HW)
            h = scores.softmax(dim=-1) @ v
        else:
            h = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]  # one head
        h = h.transpose(1, 2).unflatten(2, (height, width))  # (B, C, H, W)
        return x + self.proj_out(h)


class Downsample(nn.Module):
    """Halve the side: 3x3 convolution of stride 2 padded at the right and bottom only, or average pooling.

    Shapes:
        x: (B, C, H, W) -> (B, C, H // 2, W // 2)
    """

    def __init__(self, *, channels: int, with_conv: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2) if with_conv else None

    def forward(self, x: Tensor) -> Tensor:
        if self.conv is None:
            return F.avg_pool2d(x, 2)
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the side by repeating pixels, then a 3x3 convolution.

    Shapes:
        x: (B, C, H, W) -> (B, C, 2 H, 2 W)
    """

    def __init__(self, *, channels: int, with_conv: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if with_conv else None

    def forward(self, x: Tensor) -> Tensor:
        if self.conv is None:
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return double_and_convolve(x, self.conv)


def double_and_convolve(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Repeat each pixel twice along both sides, then apply a 3x3 convolution.

    Computed as one transposed convolution of stride 2: each output pixel sees only 2 x 2 different inputs, so a
    4 x 4 kernel made of sums of the 3 x 3 kernel's taps gives the same result with 4/9 of the multiplications and
    without the enlarged copy of the input.

    Shapes:
        x: (B, in, H, W) -> (B, out, 2 H, 2 W)
    """
    return F.conv_transpose2d(x, doubling_kernel(conv.weight), conv.bias, stride=2, padding=1)


def doubling_kernel(weight: Tensor) -> Tensor:
    """Return the transposed-convolution kernel equal to "repeat pixels twice, then convolve with `weight`".

    Shapes:
        weight: (out, in, 3, 3) -> (in, out, 4, 4), for stride 2 and padding 1
    """
    taps = F.pad(weight, (1, 1, 1, 1))  # (out, in, 5, 5)
    taps = taps[..., 1:, :] + taps[..., :-1, :]  # (out, in, 4, 5)
    taps = taps[..., 1:] + taps[..., :-1]  # (out, in, 4, 4): the 3x3 kernel convolved with a 2x2 block of ones
    return taps.flip(2, 3).transpose(0, 1)


def use_explicit_attention(module: nn.Module, enabled: bool = True) -> None:
    """Switch every AttnBlock inside `module` between plain matrix products and fused attention."""
    for block in module.modules():
        if isinstance(block, AttnBlock):
            block.explicit = enabled
