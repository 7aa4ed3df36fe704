"""Attention by the way that is fastest where it runs."""

import torch
from torch import Tensor
from torch.nn import functional as F

SHORT = 257  # tokens up to which a CPU attends faster in half precision by plain products than by its fused kernel


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Return the parts of x for each attention head: (B, N, heads * d) -> (B, heads, N, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Undo `split_heads`: (B, heads, N, d) -> (B, N, heads * d)."""
    return x.transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None = None) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v (Vaswani et al. 2017, eq. 1).

    PyTorch's fused attention, except in half precision on a CPU for short sequences: there its backward pass takes two
    to six times as long as three plain operations (measured at 16 to 256 tokens).

    Args:
        keep: bool, True at the keys that count, broadcast to (B, heads, N, M); every query needs one.

    Shapes:
        q: (B, heads, N, d), k and v: (B, heads or 1, M, d) -> (B, heads, N, d)
    """
    is_short = max(q.shape[2], k.shape[2]) <= SHORT
    if q.device.type == "cpu" and q.dtype != torch.float32 and is_short:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (B, heads, N, M)
        if keep is not None:
            scores = scores.masked_fill(~keep, -1e4)
        return scores.softmax(dim=-1).to(v.dtype) @ v
    return fused_attention(q, k, v, keep)


def fused_attention(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None = None) -> Tensor:
    """Return what `attend` returns, always by PyTorch's fused function."""
    k = k.expand(-1, q.shape[1], -1, -1)  # (B, heads, M, d)
    v = v.expand(-1, q.shape[1], -1, -1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
