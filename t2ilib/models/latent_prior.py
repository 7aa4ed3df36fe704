"""A text-conditional diffusion U-Net over VQGAN latents: the prior from which VQGAN+CLIP starts.

Rombach et al. 2022, "High-resolution image synthesis with latent diffusion models", at the size of a laptop:
residual blocks with a time- and text-dependent scale and shift, self-attention over the picture and cross-attention
over the text tokens at the lower resolutions.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoint import configurable
from ..errors import BadParameter
from ..layers.attention import attend, merge_heads, split_heads
from ..layers.conv_blocks import norm_silu
from ..layers.unet_blocks import DropsText, TextResnetBlock, timestep_embedding, zero_

GROUPS = 16


class TextAttention(nn.Module):
    """One attention in which the picture's positions attend to one another and to the text tokens.

    Shapes:
        x: (B, C, H, W), text: (B, T, E), mask: (B, T) bool, True at real tokens -> (B, C, H, W)
    """

    def __init__(self, *, channels: int, text_dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.text_kv = nn.Linear(text_dim, 2 * channels)
        self.out = zero_(nn.Linear(channels, channels))

    def forward(self, x: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        b, c, h, w = x.shape
        places = self.norm(x).flatten(2).transpose(1, 2)  # (B, HW, C)
        q, k, v = self.qkv(places).chunk(3, dim=-1)  # (B, HW, C) each
        text_k, text_v = self.text_kv(text).chunk(2, dim=-1)  # (B, T, C) each
        k = torch.cat([k, text_k], dim=1)  # (B, HW + T, C)
        v = torch.cat([v, text_v], dim=1)
        keep = F.pad(mask, (h * w, 0), value=True)[:, None, None, :]  # (B, 1, 1, HW + T)
        y = attend(split_heads(q, self.heads), split_heads(k, self.heads), split_heads(v, self.heads), keep)
        y = self.out(merge_heads(y))  # (B, HW, C)
        return x + y.transpose(1, 2).reshape(b, c, h, w)


class Stage(nn.Module):
    """A residual block, and attention after it where the resolution has it.

    Shapes:
        x: (B, in_channels, H, W), condition: (B, E), text: (B, T, D), mask: (B, T) -> (B, out_channels, H, W)
    """

    def __init__(self, *, in_channels: int, out_channels: int, condition_dim: int, dropout: float, attention: bool,
                 text_dim: int, heads: int):
        super().__init__()
        # The attention is made first, so that a seed gives the initial weights that it always gave.
        attend = TextAttention(channels=out_channels, text_dim=text_dim, heads=heads) if attention else None
        self.resnet = TextResnetBlock(in_channels=in_channels, out_channels=out_channels,
                                      condition_dim=condition_dim, dropout=dropout, groups=GROUPS)
        self.attention = attend

    def forward(self, x: Tensor, condition: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        h = self.resnet(x, condition)
        if self.attention is not None:
            h = self.attention(h, text, mask)
        return h


class HalvingConv(nn.Module):
    """Halve the side, rounded up, by a 3x3 convolution of stride 2.

    Shapes:
        x: (B, C, H, W) -> (B, C, ceil(H / 2), ceil(W / 2))
    """

    def __init__(self, *, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class EnlargingConv(nn.Module):
    """Repeat pixels up to a size, then a 3x3 convolution. The size is twice that of x, or one less where it was odd.

    Shapes:
        x: (B, C, h, w), size (H, W) -> (B, C, H, W)
    """

    def __init__(self, *, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


class Level(nn.Module):
    """The stages of one resolution, and the convolution that leads to the next one, None at the last.

    The U-Net runs them itself, because skips are kept and taken between them.
    """

    def __init__(self, stages: Sequence[Stage], *, downsample: HalvingConv | None = None,
                 upsample: EnlargingConv | None = None):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.downsample = downsample
        self.upsample = upsample


@configurable
class LatentPrior(DropsText, nn.Module):
    """Predict v for noised VQGAN latents, given the time and a text.

    Args:
        latent_channels: D of the VQGAN. channels: width at the highest resolution.
        channel_mults: width factor for each resolution, halving each time. attention: which of them attend.
        num_res_blocks: stages at each resolution, one more on the way up.
        text_dim: width of the text encoder's tokens and of its pooled feature.
        latent_mean, latent_std: per channel, of the training latents; inputs and outputs are in normalised units.

    Shapes:
        x_t: (B, D, H, W), t: (B,) in [0, 1], tokens: (B, T, E), mask: (B, T) bool, pooled: (B, E) -> v: (B, D, H, W)
    """

    def __init__(self, *, latent_channels: int = 8, channels: int = 128, channel_mults: tuple[int, ...] = (1, 2, 2),
                 attention: tuple[bool, ...] = (False, True, True), num_res_blocks: int = 2, text_dim: int = 384,
                 heads: int = 4, dropout: float = 0.1, latent_mean: list[float] | None = None,
                 latent_std: list[float] | None = None):
        super().__init__()
        if channels % math.lcm(GROUPS, heads) or len(channel_mults) != len(attention):
            raise BadParameter(f"channels must be a multiple of {GROUPS} and of heads, and attention as long as "
                               f"channel_mults; got {channels}, {heads}, {list(attention)}, {list(channel_mults)}")
        dim = 4 * channels  # of the condition
        self.channels = channels
        self.register_buffer("mean", torch.tensor(latent_mean or [0.0] * latent_channels).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(latent_std or [1.0] * latent_channels).view(1, -1, 1, 1))
        self.time = nn.Sequential(nn.Linear(channels, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.text = nn.Linear(text_dim, dim)
        # what stands for "no text": learned, one token long
        self.null_token = nn.Parameter(torch.zeros(text_dim))
        self.null_pooled = nn.Parameter(torch.zeros(text_dim))
        self.conv_in = nn.Conv2d(latent_channels, channels, 3, padding=1)

        widths = [channels * m for m in channel_mults]
        resnet = {"condition_dim": dim, "dropout": dropout}
        text = {"text_dim": text_dim, "heads": heads}
        self.down, skips = _levels_down(channels, widths, attention, num_res_blocks, **resnet, **text)
        self.up = nn.ModuleList()  # here, so that parameters keep their order in the states of optimisers
        c = skips[-1]
        self.middle = nn.ModuleList([
            TextResnetBlock(in_channels=c, out_channels=c, groups=GROUPS, **resnet),
            TextAttention(channels=c, **text),
            TextResnetBlock(in_channels=c, out_channels=c, groups=GROUPS, **resnet),
        ])
        self.up.extend(_levels_up(skips, widths, attention, num_res_blocks, **resnet, **text))
        self.norm_out = nn.GroupNorm(GROUPS, widths[0])
        self.conv_out = zero_(nn.Conv2d(widths[0], latent_channels, 3, padding=1))

    def current_key(self, key: str) -> str:
        """Return the name that a tensor of an older checkpoint has now.

        Shipped files number stages and changes of resolution through all levels: `down.2.0.conv1.weight` is the third
        thing on the way down, and in it 0 is the residual block, or the only convolution, and 1 the attention.
        """
        old = re.fullmatch(r"(down|up)\.(\d+)\.([01])\.(.+)", key)
        if old is None:
            return key
        way, number, part, rest = old.groups()
        stages = self.config["num_res_blocks"] + (way == "up")
        level, position = divmod(int(number), stages + 1)
        if position == stages:
            return f"{way}.{level}.{way}sample.conv.{rest}"
        if part == "1":
            return f"{way}.{level}.stages.{position}.attention.{rest}"
        rest = re.sub(r"^skip\.", "shortcut.", rest)
        return f"{way}.{level}.stages.{position}.resnet.{rest}"

    def normalize(self, z: Tensor) -> Tensor:
        """Map VQGAN latents to the units in which the network works (mean 0, variance 1 per channel)."""
        return (z - self.mean) / self.std

    def denormalize(self, x: Tensor) -> Tensor:
        """Map the network's units back to VQGAN latents."""
        return x * self.std + self.mean

    def forward(self, x_t: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, pooled: Tensor) -> Tensor:
        condition = F.silu(self.time(timestep_embedding(t, self.channels)) + self.text(pooled))  # (B, 4 channels)
        h = self.conv_in(x_t)
        skips = [h]
        for level in self.down:
            for stage in level.stages:
                h = stage(h, condition, tokens, mask)
                skips.append(h)
            if level.downsample is not None:
                h = level.downsample(h)
                skips.append(h)
        first, attention, second = self.middle
        h = first(h, condition)
        h = attention(h, tokens, mask)
        h = second(h, condition)
        for level in self.up:
            for stage in level.stages:
                h = stage(torch.cat([h, skips.pop()], dim=1), condition, tokens, mask)
            if level.upsample is not None:
                h = level.upsample(h, size=skips[-1].shape[-2:])
        return self.conv_out(norm_silu(self.norm_out, h))


def _levels_down(channels: int, widths: Sequence[int], attention: Sequence[bool], num_res_blocks: int,
                 **stage: Any) -> tuple[nn.ModuleList, list[int]]:
    """Return the levels from the highest resolution to the lowest, and the channels of the skips, the first's first."""
    levels = nn.ModuleList()
    c = channels
    skips = [c]
    for i, width in enumerate(widths):
        stages = []
        for _ in range(num_res_blocks):
            stages.append(Stage(in_channels=c, out_channels=width, attention=attention[i], **stage))
            c = width
            skips.append(c)
        downsample = None
        if i < len(widths) - 1:
            downsample = HalvingConv(channels=c)
            skips.append(c)
        levels.append(Level(stages, downsample=downsample))
    return levels, skips


def _levels_up(skips: Sequence[int], widths: Sequence[int], attention: Sequence[bool], num_res_blocks: int,
               **stage: Any) -> nn.ModuleList:
    """Return the levels from the lowest resolution to the highest; each stage takes the latest skip that is left."""
    levels = nn.ModuleList()
    remaining = list(skips)
    c = remaining[-1]
    for i in reversed(range(len(widths))):
        stages = []
        for _ in range(num_res_blocks + 1):
            joined = c + remaining.pop()
            stages.append(Stage(in_channels=joined, out_channels=widths[i], attention=attention[i], **stage))
            c = widths[i]
        upsample = EnlargingConv(channels=c) if i > 0 else None
        levels.append(Level(stages, upsample=upsample))
    return levels
