"""Blocks of text-conditional diffusion U-Nets: times, residual blocks, attention, changes of resolution.

Saharia et al. 2022, "Photorealistic text-to-image diffusion models with deep language understanding", appendix B.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import attend, merge_heads, split_heads
from .conv_blocks import norm_silu
from ..errors import BadParameter

GROUPS = 8  # of every GroupNorm, unless the network chooses another number


def timestep_embedding(t: Tensor, dim: int, *, scale: float = 1000.0) -> Tensor:
    """Return sinusoidal features (B, dim) of times t (B,) in [0, 1] (Vaswani et al. 2017, section 3.5)."""
    half = dim // 2
    freqs = torch.exp(-math.log(10000.0) * torch.arange(half, device=t.device) / half)
    angles = scale * t[:, None].float() * freqs  # (B, dim / 2)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def zero_(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    """Set weights and bias of a layer to zero, so that the branch it ends adds nothing before training."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class DropsText:
    """For networks whose `null_token` and `null_pooled` (E,) stand for "no text": learned, one token long."""

    def without_text(self, tokens: Tensor, mask: Tensor, pooled: Tensor, drop: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Replace the text by the learned "no text" where `drop` (B,) is True, for classifier-free guidance."""
        return *self.without_tokens(tokens, mask, drop), self.without_pooled(pooled, drop)

    def without_tokens(self, tokens: Tensor, mask: Tensor, drop: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens and the mask of `without_text`."""
        first = torch.arange(tokens.shape[1], device=tokens.device) == 0  # (T,)
        tokens = torch.where(drop[:, None, None], self.null_token.to(tokens), tokens)
        return tokens, torch.where(drop[:, None], first, mask)

    def without_pooled(self, pooled: Tensor, drop: Tensor) -> Tensor:
        """Return the pooled features of `without_text`."""
        return torch.where(drop[:, None], self.null_pooled.to(pooled), pooled)


class CrossEmbed(nn.Module):
    """First convolution, with several kernel sizes side by side.

    Half of the channels come from the smallest kernel, a quarter from the next, and so on.

    Shapes:
        x: (B, in_channels, H, W) -> (B, out_channels, H, W)
    """

    def __init__(self, *, in_channels: int, out_channels: int, kernels: Sequence[int] = (3, 7, 15)):
        super().__init__()
        if not kernels or any(k % 2 == 0 for k in kernels):
            raise BadParameter(f"the first convolution needs odd kernel sizes, got {list(kernels)}")
        widths = [out_channels // 2 ** (i + 1) for i in range(len(kernels) - 1)]
        widths.append(out_channels - sum(widths))
        self.convs = nn.ModuleList()
        for width, k in zip(widths, sorted(kernels), strict=True):
            self.convs.append(nn.Conv2d(in_channels, width, k, padding=k // 2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([conv(x) for conv in self.convs], dim=1)


class CrossAttention(nn.Module):
    """Each place of the picture attends to the text, or to one learned key and value that stand for none of it.

    Attributes:
        attend: the function that attends, see `set_attention`.

    Shapes:
        x: (B, N, C), context: (B, T, E), keep: (B, T) bool, True at real tokens -> (B, N, C)
    """

    def __init__(self, *, dim: int, context_dim: int, heads: int, dim_head: int):
        super().__init__()
        inner = heads * dim_head
        self.heads = heads
        self.attend = attend
        self.norm = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(context_dim, 2 * inner, bias=False)
        self.null_kv = nn.Parameter(torch.randn(2, inner) * inner**-0.5)
        self.out = zero_(nn.Linear(inner, dim))

    def forward(self, x: Tensor, context: Tensor, keep: Tensor) -> Tensor:
        return self.answer(x, self.keys_values(context), self.keep_with_null(keep))

    @staticmethod
    def keep_with_null(keep: Tensor) -> Tensor:
        """Return the mask of the keys that `keys_values` returns: keep (B, T) -> (B, 1, 1, 1 + T)."""
        return F.pad(keep, (1, 0), value=True)[:, None, None]

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of a text and of "none of it": (B, T, E) -> (B, heads, 1 + T, d) each."""
        kv = self.to_kv(context)  # (B, T, 2 * heads * d)
        null_kv = self.null_kv.flatten().expand(len(context), 1, -1).to(kv)
        kv = torch.cat([null_kv, kv], dim=1)  # (B, 1 + T, 2 * heads * d)
        k, v = kv.chunk(2, dim=-1)
        return split_heads(k, self.heads), split_heads(v, self.heads)

    def answer(self, x: Tensor, keys_values: tuple[Tensor, Tensor], keep: Tensor | None) -> Tensor:
        """Return what places x (B, N, C) read in a text whose keys and values are known, (B, N, C).

        Args:
            keep: from `keep_with_null`; None if all tokens are real.
        """
        q = split_heads(self.to_q(self.norm(x)), self.heads)  # (B, heads, N, d)
        k, v = keys_values
        return self.out(merge_heads(self.attend(q, k, v, keep)))


class SelfAttention(nn.Module):
    """Self-attention in which all heads share one key and one value (Shazeer 2019), then a feed-forward layer.

    Attributes:
        attend: the function that attends, see `set_attention`.

    Shapes:
        x: (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self, *, dim: int, heads: int, dim_head: int, ff_mult: float = 2.0):
        super().__init__()
        inner = heads * dim_head
        hidden = int(ff_mult * dim)
        self.heads = heads
        self.attend = attend
        self.norm = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * dim_head, bias=False)
        self.null_kv = nn.Parameter(torch.randn(2 * dim_head) * dim_head**-0.5)
        self.out = zero_(nn.Linear(inner, dim))
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, hidden),
            nn.GELU(),
            zero_(nn.Linear(hidden, dim)),
        )

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)  # (B, HW, C)
        h = self.norm(x)
        q = split_heads(self.to_q(h), self.heads)  # (B, heads, HW, d)
        null_kv = self.null_kv.expand(len(x), 1, -1).to(q)
        kv = torch.cat([null_kv, self.to_kv(h)], dim=1)  # (B, 1 + HW, 2 d)
        k, v = kv[:, None].chunk(2, dim=-1)  # (B, 1, 1 + HW, d) each
        x = x + self.out(merge_heads(self.attend(q, k, v)))
        x = x + self.feed_forward(x)
        return x.transpose(1, 2).unflatten(2, (height, width))  # (B, C, H, W)


def set_attention(network: nn.Module, function: Callable[..., Tensor]) -> None:
    """Let these blocks of a network attend by another function with the arguments of `attention.attend`."""
    for module in network.modules():
        if isinstance(module, (CrossAttention, SelfAttention)):
            module.attend = function


class TextResnetBlock(nn.Module):
    """Norm, SiLU, 3x3 convolution, twice, around a shortcut.

    The condition scales and shifts the second norm. With `context_dim`, each place attends to the text in between.

    Shapes:
        x: (B, in_channels, H, W), condition: (B, E), and with `context_dim` context: (B, T, D), keep: (B, T)
        -> (B, out_channels, H, W)
    """

    def __init__(self, *, in_channels: int, out_channels: int, condition_dim: int, dropout: float = 0.0,
                 context_dim: int | None = None, heads: int = 8, dim_head: int = 64, groups: int = GROUPS):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out_channels)
        self.conv2 = zero_(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.condition = nn.Linear(condition_dim, 2 * out_channels)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1)
        self.attention = None
        if context_dim is not None:
            self.attention = CrossAttention(dim=out_channels, context_dim=context_dim, heads=heads, dim_head=dim_head)

    def forward(self, x: Tensor, condition: Tensor, context: Tensor | None = None,
                keep: Tensor | None = None) -> Tensor:
        h = self.conv1(norm_silu(self.norm1, x))
        if self.attention is not None:
            places = h.flatten(2).transpose(1, 2)  # (B, HW, C)
            answer = self.attention(places, context, keep)
            h = h + answer.transpose(1, 2).unflatten(2, h.shape[-2:])  # (B, C, H, W)
        scale, shift = self.condition(condition)[:, :, None, None].chunk(2, dim=1)  # (B, C, 1, 1) each
        h = F.silu(self.norm2(h) * (1 + scale) + shift)
        h = self.conv2(self.dropout(h))
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
        x = F.pixel_unshuffle(x, 2)  # (B, 4 * in_channels, H, W)
        return self.conv(x)


class PixelUp(nn.Module):
    """Double the side: a 1x1 convolution to four times the channels, which become 2x2 blocks (Shi et al. 2016).

    The four start equal; otherwise a chessboard pattern would have to be unlearned (Aitken et al. 2017).

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
        x = self.conv(x)  # (B, 4 * out_channels, H, W)
        return F.pixel_shuffle(x, 2)
