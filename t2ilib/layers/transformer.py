"""Transformers over a grid of codes: pre-norm blocks, positions in two dimensions, a cache for one code at a time.

Vaswani et al. 2017, "Attention is all you need", with the norm in front of each branch (Xiong et al. 2020).
"""

import torch
from torch import Tensor, nn

from .attention import attend, merge_heads
from .conv_blocks import ResnetBlock
from .unet_blocks import CrossAttention, zero_
from ..errors import BadParameter

BASE = 100.0  # of rotary frequencies; 10,000 as for texts would hardly turn within a grid
INIT_STD = 0.02

Rotation = tuple[Tensor, Tensor]  # from `rotation_by`, (N, d) each
KeysValues = tuple[Tensor, Tensor]  # (B, heads, M, d) each


def rotary_grid(height: int, width: int, dim_head: int, *, base: float = BASE) -> Tensor:
    """Return the angles by which rotary positions turn the places of a grid (Su et al. 2021, in two dimensions).

    Half of the pairs of a head turn with the row, the other half with the column.

    Shapes:
        result: (height * width, dim_head / 2), in raster order

    Raises:
        BadParameter: dim_head is no multiple of 4.
    """
    if dim_head % 4:
        raise BadParameter(f"rotary positions need heads of a multiple of 4 numbers, got {dim_head}; change heads")
    quarter = dim_head // 4
    frequencies = base ** (-torch.arange(quarter) / quarter)
    rows = torch.arange(height)[:, None] * frequencies  # (height, d / 4)
    columns = torch.arange(width)[:, None] * frequencies  # (width, d / 4)
    by_row = rows[:, None].expand(height, width, quarter)
    by_column = columns[None].expand(height, width, quarter)
    return torch.cat([by_row, by_column], dim=-1).flatten(0, 1)  # (H W, d / 2)


def rotation_by(angles: Tensor) -> Rotation:
    """Return what `rotate` takes, for angles (N, d / 2): cosines, and sines with the sign of each half, (N, d) each."""
    cos = torch.cat([angles.cos(), angles.cos()], dim=-1)
    sin = torch.cat([-angles.sin(), angles.sin()], dim=-1)
    return cos, sin


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn each pair of numbers of queries or keys by its angle: (..., N, d) -> (..., N, d).

    A pair is a number of the first half and the one that stands as far in the second half.
    """
    cos, sin = rotation
    partners = x.roll(x.shape[-1] // 2, dims=-1)
    return (x * cos + partners * sin).to(x.dtype)


class KVCache:
    """Keys and values that a layer of self-attention has computed so far.

    Args:
        capacity: most positions that it holds.

    Attributes:
        length: positions so far.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.length = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def extend(self, k: Tensor, v: Tensor) -> KeysValues:
        """Keep those of n further positions, (B, heads, n, d); return those of all positions so far.

        Raises:
            BadParameter: more positions than it can hold.
        """
        end = self.length + k.shape[2]
        if end > self.capacity:
            raise BadParameter(f"this cache holds {self.capacity} positions, got {end}; start decoding anew")
        if self._keys is None:
            batch, heads, _, dim_head = k.shape
            self._keys = k.new_empty(batch, heads, self.capacity, dim_head)
            self._values = v.new_empty(batch, heads, self.capacity, dim_head)
        self._keys[:, :, self.length:end] = k
        self._values[:, :, self.length:end] = v
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]


class RotarySelfAttention(nn.Module):
    """Multi-head self-attention, with rotary positions and a cache where they are given.

    Shapes:
        x: (B, N, dim), rotation: of these N places, keep: bool, broadcast to (B, heads, N, M) -> (B, N, dim)
    """

    def __init__(self, *, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = zero_(nn.Linear(dim, dim))

    def forward(self, x: Tensor, *, rotation: Rotation | None = None, keep: Tensor | None = None,
                cache: KVCache | None = None) -> Tensor:
        qkv = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, heads, d)
        qkv = qkv.permute(2, 0, 3, 1, 4)  # (3, B, heads, N, d)
        q, k = qkv[:2] if rotation is None else rotate(qkv[:2], rotation)  # (B, heads, N, d) each
        v = qkv[2]
        if cache is not None:
            k, v = cache.extend(k, v)  # (B, heads, M, d)
        return self.out(merge_heads(attend(q, k, v, keep)))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to a text where there is one, and a feed-forward layer, each added to its input.

    Args:
        context: attend to a text of the same width.

    Shapes:
        x: (B, N, dim) -> (B, N, dim)
    """

    def __init__(self, *, dim: int, heads: int, ff_mult: float = 4.0, context: bool = False, dropout: float = 0.0):
        super().__init__()
        hidden = int(ff_mult * dim)
        self.attention = RotarySelfAttention(dim=dim, heads=heads)
        self.cross_attention = None
        if context:
            self.cross_attention = CrossAttention(dim=dim, context_dim=dim, heads=heads, dim_head=dim // heads)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, hidden),
            nn.GELU(),
            zero_(nn.Linear(hidden, dim)),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, *, rotation: Rotation | None = None, keep: Tensor | None = None,
                cache: KVCache | None = None, context: KeysValues | None = None,
                context_keep: Tensor | None = None) -> Tensor:
        x = x + self.dropout(self.attention(x, rotation=rotation, keep=keep, cache=cache))
        if self.cross_attention is not None:
            x = x + self.dropout(self.cross_attention.answer(x, context, context_keep))
        return x + self.dropout(self.feed_forward(x))


class Transformer(nn.Module):
    """A stack of blocks, causal or not, which reads a text by cross-attention if it has `context`.

    Args:
        dim: width. depth: blocks. heads: of every attention; dim must be a multiple of it.
        ff_mult: width of the feed-forward layers over dim. causal: no place sees a later one.

    Shapes:
        x: (B, N, dim), rotation: of these N places, key_keep: (B, M) bool, True at places that count -> (B, N, dim)

    Raises:
        BadParameter: widths that do not fit.
    """

    def __init__(self, *, dim: int, depth: int, heads: int, ff_mult: float = 4.0, context: bool = False,
                 causal: bool = False, dropout: float = 0.0):
        super().__init__()
        if depth < 1 or heads < 1 or dim % heads:
            raise BadParameter(f"need depth >= 1 and dim a multiple of heads, got depth={depth}, dim={dim}, "
                               f"heads={heads}")
        self.causal = causal
        blocks = []
        for _ in range(depth):
            blocks.append(TransformerBlock(dim=dim, heads=heads, ff_mult=ff_mult, context=context, dropout=dropout))
        self.blocks = nn.ModuleList(blocks)

    def caches(self, capacity: int) -> list[KVCache]:
        """Return an empty cache for each block."""
        return [KVCache(capacity) for _ in self.blocks]

    def read_context(self, context: Tensor) -> list[KeysValues]:
        """Return each block's keys and values of a text (B, T, dim), which stay the same for every code."""
        return [block.cross_attention.keys_values(context) for block in self.blocks]

    def forward(self, x: Tensor, *, rotation: Rotation | None = None, prefix: int = 0, key_keep: Tensor | None = None,
                caches: list[KVCache] | None = None, context: list[KeysValues] | None = None,
                context_keep: Tensor | None = None) -> Tensor:
        """Return the features of places that follow those in the caches.

        Args:
            prefix: the first so many of all M places see one another, and all others see them, causal or not.
            caches: from `caches`; None means that there are no places before.
            context: from `read_context`. context_keep: (B, T) bool, True at real tokens; None if all are.
        """
        if context_keep is not None:
            context_keep = CrossAttention.keep_with_null(context_keep)  # (B, 1, 1, 1 + T)
        past = caches[0].length if caches else 0
        keep = self._visible(x, past, prefix, key_keep)
        for i, block in enumerate(self.blocks):
            cache = caches[i] if caches else None
            keys_values = context[i] if context else None
            x = block(x, rotation=rotation, keep=keep, cache=cache, context=keys_values, context_keep=context_keep)
        return x

    def _visible(self, x: Tensor, past: int, prefix: int, key_keep: Tensor | None) -> Tensor | None:
        """Return which of M = past + N keys each of N queries sees, broadcast to (B, heads, N, M); None is all."""
        n = x.shape[1]
        keep = None
        if key_keep is not None:
            keep = key_keep[:, None, None]  # (B, 1, 1, M)
        sees_all = not self.causal or n == 1
        if sees_all:
            return keep
        keys = torch.arange(past + n, device=x.device)
        queries = keys[past:, None]  # (N, 1)
        order = (keys <= queries) | (keys < prefix)  # (N, M)
        return order if keep is None else order & keep


class Squares(nn.Module):
    """The ends of an hourglass: places join to squares, which a transformer reads, and squares split to places again.

    The work of a transformer grows at least in proportion to its places, so that squares of 2 x 2 places cost a quarter
    (Nawrot et al. 2021, "Hierarchical transformers are more efficient language models", for a text). A residual block
    of convolutions on either side sees the single places and their neighbours.

    Args:
        grid: rows and columns of places. merge: side of a square. local_dim: width of a place. dim: of a square.
        norm_groups: of the blocks' GroupNorm.

    Raises:
        BadParameter: squares do not tile the grid, or a width is no multiple of norm_groups.

    Example:
        places, h = squares.join(x)
        x = squares.split(transformer(h), places)
    """

    def __init__(self, *, grid: tuple[int, int], merge: int, local_dim: int, dim: int, norm_groups: int = 8):
        super().__init__()
        height, width = grid
        if merge < 2 or height % merge or width % merge:
            raise BadParameter(f"squares of {merge} x {merge} do not tile a grid of {height} x {width}; merge must be "
                               "a divisor of both, above 1")
        self.grid = grid
        self.merged_grid = (height // merge, width // merge)
        block = dict(in_channels=local_dim, out_channels=local_dim, norm_groups=norm_groups)
        self.before = ResnetBlock(**block)
        self.conv_in = nn.Conv2d(local_dim, dim, merge, stride=merge)
        self.norm = nn.LayerNorm(dim)
        self.conv_out = nn.ConvTranspose2d(dim, local_dim, merge, stride=merge)
        self.after = ResnetBlock(**block)

    def join(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `split` needs of places x (B, H W, local_dim), and the squares (B, H W / merge^2, dim)."""
        x = x.transpose(1, 2).unflatten(2, self.grid)  # (B, local_dim, H, W)
        places = self.before(x)
        h = self.conv_in(places)  # (B, dim, H / merge, W / merge)
        return places, h.flatten(2).transpose(1, 2)

    def split(self, h: Tensor, places: Tensor) -> Tensor:
        """Return places (B, H W, local_dim) from squares h (B, H W / merge^2, dim) and what `join` returned."""
        h = self.norm(h).transpose(1, 2).unflatten(2, self.merged_grid)  # (B, dim, H / merge, W / merge)
        x = self.after(places + self.conv_out(h))  # (B, local_dim, H, W)
        return x.flatten(2).transpose(1, 2)
