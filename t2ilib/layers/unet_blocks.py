"""Blocks of Imagen's U-Net: times, residual blocks that read text, self-attention, changes of resolution.

Saharia et al. 2022, "Photorealistic text-to-image diffusion models with deep language understanding", appendix B.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import attend
from .conv_blocks import norm_silu
from ..errors import BadParameter

GROUPS = 8


def timestep_embedding(t: Tensor, dim: int, *, scale: float = 1000.0) -> Tensor:
    """Return sinusoidal features (B, dim) of times t (B,) in [0, 1] (Vaswani et al. 2017, section 3.5)."""
    freqs = torch.exp(-math.log(10000.0) * torch.arange(dim // 2, device=t.device) / (dim // 2))
    angles = scale * t[:, None].float() * freqs
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def zero_(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    """Set weights and bias of a layer to zero, so that the branch which it ends says nothing at first."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class DropsText:
    """For networks whose `null_token` and `null_pooled` (E,) stand for "no text": learned, one token long."""

    def without_text(self, tokens: Tensor, mask: Tensor, pooled: Tensor, drop: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Replace the text by the learned "no text" where `drop` (B,) is True, for classifier-free guidance."""
        first = torch.arange(tokens.shape[1], device=tokens.device) == 0
        tokens = torch.where(drop[:, None, None], self.null_token.to(tokens), tokens)
        pooled = torch.where(drop[:, None], self.null_pooled.to(pooled), pooled)
        return tokens, torch.where(drop[:, None], first, mask), pooled


class CrossEmbed(nn.Module):
    """First convolution, with several kernel sizes side by side: half of the channels from the smallest kernel, a
    quarter from the next, and so on.

    Shapes:
        x: (B, in_channels, H, W) -> (B, out_channels, H, W)
    """

    def __init__(self, *, in_channels: int, out_channels: int, kernels: Sequence[int] = (3, 7, 15)):
        super().__init__()
        if not kernels or any(k % 2 == 0 for k in kernels):
            raise BadParameter(f"the first convolution needs odd kernel sizes, got {list(kernels)}")
        widths = [out_channels // 2 ** (i + 1) for i in range(len(kernels) - 1)]
        widths.append(out_channels - sum(widths))
        self.convs = nn.ModuleList(nn.Conv2d(in_channels, width, k, padding=k // 2)
                                   for width, k in zip(widths, sorted(kernels), strict=True))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([conv(x) for conv in self.convs], dim=1)


class CrossAttention(nn.Module):
    """Each place of the picture asks the text; one learned key and value stand for "nothing of that".

    Shapes:
        x: (B, N, C), context: (B, T, E), keep: (B, T) bool, True at real tokens -> (B, N, C)
    """

    def __init__(self, *, dim: int, context_dim: int, heads: int, dim_head: int):
        super().__init__()
        inner = heads * dim_head
        self.heads, self.norm = heads, nn.LayerNorm(dim)
        self.to_q, self.to_kv = nn.Linear(dim, inner, bias=False), nn.Linear(context_dim, 2 * inner, bias=False)
        self.null_kv = nn.Parameter(torch.randn(2, inner) * inner**-0.5)
        self.out = zero_(nn.Linear(inner, dim))

    def forward(self, x: Tensor, context: Tensor, keep: Tensor) -> Tensor:
        q = self.to_q(self.norm(x))
        kv = torch.cat([self.null_kv.flatten().expand(len(x), 1, -1).to(q), self.to_kv(context)], dim=1)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, *kv.chunk(2, dim=-1)))
        y = attend(q, k, v, F.pad(keep, (1, 0), value=True)[:, None, None])
        return self.out(y.transpose(1, 2).flatten(2))


class SelfAttention(nn.Module):
    """Self-attention in which all heads share one key and one value (Shazeer 2019), then a feed-forward layer.

    Shapes:
        x: (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self, *, dim: int, heads: int, dim_head: int, ff_mult: float = 2.0):
        super().__init__()
        inner, hidden = heads * dim_head, int(ff_mult * dim)
        self.heads, self.norm = heads, nn.LayerNorm(dim)
        self.to_q, self.to_kv = nn.Linear(dim, inner, bias=False), nn.Linear(dim, 2 * dim_head, bias=False)
        self.null_kv = nn.Parameter(torch.randn(2 * dim_head) * dim_head**-0.5)
        self.out = zero_(nn.Linear(inner, dim))
        self.feed_forward = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(),
                                          zero_(nn.Linear(hidden, dim)))

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)  # (B, HW, C)
        h = self.norm(x)
        q = self.to_q(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        kv = torch.cat([self.null_kv.expand(len(x), 1, -1).to(q), self.to_kv(h)], dim=1)
        k, v = (y[:, None] for y in kv.chunk(2, dim=-1))
        x = x + self.out(attend(q, k, v).transpose(1, 2).flatten(2))
        x = x + self.feed_forward(x)
        return x.transpose(1, 2).unflatten(2, size)


class TextResnetBlock(nn.Module):
    """Norm, SiLU, 3x3 convolution, twice, around a shortcut. The condition scales and shifts the second norm; where a
    context is given, each place asks it in between.

    Shapes:
        x: (B, in_channels, H, W), condition: (B, E), context: (B, T, D), keep: (B, T) -> (B, out_channels, H, W)
    """

    def __init__(self, *, in_channels: int, out_channels: int, condition_dim: int, dropout: float = 0.0,
                 context_dim: int | None = None, heads: int = 8, dim_head: int = 64):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(GROUPS, in_channels), nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, out_channels)
        self.conv2 = zero_(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.condition, self.dropout = nn.Linear(condition_dim, 2 * out_channels), nn.Dropout(dropout)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        self.attention = None if context_dim is None else CrossAttention(
            dim=out_channels, context_dim=context_dim, heads=heads, dim_head=dim_head)

    def forward(self, x: Tensor, condition: Tensor, context: Tensor, keep: Tensor) -> Tensor:
        h = self.conv1(norm_silu(self.norm1, x))
        if self.attention is not None:
            places = h.flatten(2).transpose(1, 2)
            h = h + self.attention(places, context, keep).transpose(1, 2).unflatten(2, h.shape[-2:])
        scale, shift = self.condition(condition)[:, :, None, None].chunk(2, dim=1)
        h = self.conv2(self.dropout(F.silu(self.norm2(h) * (1 + scale) + shift)))
        return self.shortcut(x) + h


class PixelDown(nn.Module):
    """Halve the side: each 2x2 block becomes one place with four times the channels, then a 1x1 convolution.

    Shapes:
        x: (B, in_channels, 2 H, 2 W) -> (B, out_channels, H, W)
    """

    def __init__(self, *, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(4 * in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pixel_unshuffle(x, 2))


class PixelUp(nn.Module):
    """Double the side: a 1x1 convolution to four times the channels, which become 2x2 blocks (Shi et al. 2016).

    The four start equal, so that no chessboard has to be unlearned (Aitken et al. 2017).

    Shapes:
        x: (B, in_channels, H, W) -> (B, out_channels, 2 H, 2 W)
    """

    def __init__(self, *, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 4 * out_channels, 1)
        with torch.no_grad():
            self.conv.weight.copy_(self.conv.weight[::4].repeat_interleave(4, dim=0))
            self.conv.bias.copy_(self.conv.bias[::4].repeat_interleave(4))

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x), 2)
