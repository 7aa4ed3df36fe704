"""Attention by the way that is fastest where it runs."""

import torch
from torch import Tensor
from torch.nn import functional as F

SHORT = 257  # tokens up to which a CPU attends faster in half precision by plain products than by its fused kernel


def attend(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None = None) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v (Vaswani et al. 2017, eq. 1).

    PyTorch's fused attention, except in half precision on a CPU for short sequences: there its backward pass takes two
    to six times as long as three plain operations (measured at 16 to 256 tokens).

    Args:
        keep: bool, True at the keys that count, broadcast to (B, heads, N, M); every query needs one.

    Shapes:
        q: (B, heads, N, d), k and v: (B, heads or 1, M, d) -> (B, heads, N, d)
    """
    if q.device.type == "cpu" and q.dtype != torch.float32 and max(q.shape[2], k.shape[2]) <= SHORT:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if keep is not None:
            scores = scores.masked_fill(~keep, -1e4)
        return scores.softmax(dim=-1).to(v.dtype) @ v
    k, v = (x.expand(-1, q.shape[1], -1, -1) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
