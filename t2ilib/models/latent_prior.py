"""A text-conditional diffusion U-Net over VQGAN latents: the prior from which VQGAN+CLIP starts.

Rombach et al. 2022, "High-resolution image synthesis with latent diffusion models", at the size of a laptop:
residual blocks with a time- and text-dependent scale and shift, self-attention over the picture and cross-attention
over the text tokens at the lower resolutions.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoint import configurable
from ..errors import BadParameter
from ..layers.attention import attend
from ..layers.conv_blocks import norm_silu
from ..layers.unet_blocks import DropsText, timestep_embedding, zero_

GROUPS = 16


class ResBlock(nn.Module):
    """Two 3x3 convolutions; the condition scales and shifts the second normalisation.

    Shapes:
        x: (B, C, H, W), condition: (B, E) -> (B, C_out, H, W)
    """

    def __init__(self, channels: int, out_channels: int, condition_dim: int, dropout: float):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(GROUPS, channels), nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, out_channels)
        self.conv2 = zero_(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.condition, self.dropout = nn.Linear(condition_dim, 2 * out_channels), nn.Dropout(dropout)
        self.skip = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.conv1(norm_silu(self.norm1, x))
        scale, shift = self.condition(condition)[:, :, None, None].chunk(2, dim=1)
        h = self.conv2(self.dropout(F.silu(self.norm2(h) * (1 + scale) + shift)))
        return self.skip(x) + h


class TextAttention(nn.Module):
    """One attention in which the picture's positions look at one another and at the text tokens.

    Shapes:
        x: (B, C, H, W), text: (B, T, E), mask: (B, T) bool, True at real tokens -> (B, C, H, W)
    """

    def __init__(self, channels: int, text_dim: int, heads: int):
        super().__init__()
        self.heads, self.norm = heads, nn.GroupNorm(GROUPS, channels)
        self.qkv, self.text_kv = nn.Linear(channels, 3 * channels), nn.Linear(text_dim, 2 * channels)
        self.out = zero_(nn.Linear(channels, channels))

    def forward(self, x: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x).flatten(2).transpose(1, 2)).chunk(3, dim=-1)  # (B, HW, C) each
        text_k, text_v = self.text_kv(text).chunk(2, dim=-1)
        k, v = torch.cat([k, text_k], dim=1), torch.cat([v, text_v], dim=1)
        keep = F.pad(mask, (h * w, 0), value=True)[:, None, None, :]  # (B, 1, 1, HW + T)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        y = attend(q, k, v, keep)
        return x + self.out(y.transpose(1, 2).flatten(2)).transpose(1, 2).reshape(b, c, h, w)


@configurable
class LatentPrior(DropsText, nn.Module):
    """Predict v for noised VQGAN latents, given the time and a text.

    Args:
        latent_channels: D of the VQGAN. channels: width at the highest resolution.
        channel_mults: width factor for each resolution, halving each time. attention: which of them attend.
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
        dim = 4 * channels
        self.channels = channels
        self.register_buffer("mean", torch.tensor(latent_mean or [0.0] * latent_channels).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(latent_std or [1.0] * latent_channels).view(1, -1, 1, 1))
        self.time = nn.Sequential(nn.Linear(channels, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.text = nn.Linear(text_dim, dim)
        # what stands for "no text": learned, one token long
        self.null_token, self.null_pooled = nn.Parameter(torch.zeros(text_dim)), nn.Parameter(torch.zeros(text_dim))
        self.conv_in = nn.Conv2d(latent_channels, channels, 3, padding=1)

        def stage(c_in: int, c_out: int, attend: bool) -> nn.ModuleList:
            attn = TextAttention(c_out, text_dim, heads) if attend else None
            return nn.ModuleList([ResBlock(c_in, c_out, dim, dropout)] + ([attn] if attn else []))

        widths, skips, c = [channels * m for m in channel_mults], [channels], channels
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            for _ in range(num_res_blocks):
                self.down.append(stage(c, width, attention[level]))
                c = width
                skips.append(c)
            if level < len(widths) - 1:
                self.down.append(nn.ModuleList([nn.Conv2d(c, c, 3, stride=2, padding=1)]))
                skips.append(c)
        self.middle = nn.ModuleList([ResBlock(c, c, dim, dropout), TextAttention(c, text_dim, heads),
                                     ResBlock(c, c, dim, dropout)])
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(num_res_blocks + 1):
                self.up.append(stage(c + skips.pop(), width, attention[level]))
                c = width
            if level:
                self.up.append(nn.ModuleList([nn.Conv2d(c, c, 3, padding=1)]))
        self.norm_out, self.conv_out = nn.GroupNorm(GROUPS, c), zero_(nn.Conv2d(c, latent_channels, 3, padding=1))

    def normalize(self, z: Tensor) -> Tensor:
        """Map VQGAN latents to the units in which the network works (mean 0, variance 1 per channel)."""
        return (z - self.mean) / self.std

    def denormalize(self, x: Tensor) -> Tensor:
        """Map the network's units back to VQGAN latents."""
        return x * self.std + self.mean

    def forward(self, x_t: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, pooled: Tensor) -> Tensor:
        condition = F.silu(self.time(timestep_embedding(t, self.channels)) + self.text(pooled))
        h = self.conv_in(x_t)
        skips = [h]
        for block in self.down:
            h = self._stage(block, h, condition, tokens, mask)
            skips.append(h)
        h = self.middle[0](h, condition)
        h = self.middle[2](self.middle[1](h, tokens, mask), condition)
        for block in self.up:
            if isinstance(block[0], nn.Conv2d):
                h = block[0](F.interpolate(h, size=skips[-1].shape[-2:], mode="nearest"))  # twice; odd sizes less one
            else:
                h = self._stage(block, torch.cat([h, skips.pop()], dim=1), condition, tokens, mask)
        return self.conv_out(norm_silu(self.norm_out, h))

    @staticmethod
    def _stage(block: nn.ModuleList, h: Tensor, condition: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        if isinstance(block[0], nn.Conv2d):
            return block[0](h)
        h = block[0](h, condition)
        return block[1](h, tokens, mask) if len(block) > 1 else h
