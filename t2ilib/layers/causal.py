"""Causal layers of a grid, for whole pictures and for one place at a time: convolutions, gated blocks, attention.

Chen et al. 2018, "PixelSNAIL: an improved autoregressive generative model". All take pictures (B, H, W, C), or, with
`Columns`, the column (B, C) of one place: what the layers found at the places before it is kept, so that a place costs
one column of work (Ramachandran et al. 2017, "Fast generation for convolutional autoregressive models").
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import attend, merge_heads, split_heads
from .transformer import INIT_STD, KeysValues, KVCache
from .unet_blocks import zero_


class Columns:
    """What causal layers have found at the places of a grid so far, in raster order, of B pictures.

    Attributes:
        place: the one whose column is computed next. attention: of each layer of attention, its keys and values.
    """

    def __init__(self, grid: tuple[int, int]):
        self.grid = grid
        self.place = 0
        self.attention: dict[nn.Module, KVCache] = {}
        self._convs: dict[nn.Module, _ConvColumns] = {}
        self._conditions: dict[nn.Module, Tensor] = {}

    @property
    def row_and_column(self) -> tuple[int, int]:
        """Return where the place lies."""
        return divmod(self.place, self.grid[1])

    def keep(self, conv: "CausalConv", x: Tensor, place: int) -> None:
        """Keep the input x (B, C) of a convolution at a place."""
        if conv not in self._convs:
            self._convs[conv] = _ConvColumns(conv, self.grid, x)
        self._convs[conv].keep(x, *divmod(place, self.grid[1]))

    def answer(self, conv: "CausalConv") -> Tensor:
        """Return what a convolution makes of the inputs that were kept, at the current place: (B, out)."""
        return self._convs[conv].answer(*self.row_and_column)

    def condition(self, layer: nn.Module, condition: Tensor) -> Tensor:
        """Return what a layer makes of a condition (B, 1 or H, 1 or W, D) at the current place, computed once."""
        if layer not in self._conditions:
            answer = layer(condition)
            is_everywhere_equal = answer.shape[1:3] == (1, 1)
            self._conditions[layer] = answer[:, 0, 0] if is_everywhere_equal else answer
        answer = self._conditions[layer]
        if answer.ndim == 2:
            return answer
        row, column = self.row_and_column
        return answer[:, row, column]


class _ConvColumns:
    """The inputs of one convolution so far.

    What it sees of the rows above is computed for a whole row of places, once these rows are finished: each place alone
    would read all those weights anew. Few operations a place matter as much, because each is small.
    """

    def __init__(self, conv: "CausalConv", grid: tuple[int, int], x: Tensor):
        height, width = grid
        self.conv = conv
        self.width = width
        self.padded = (height + conv.top, width + conv.left + max(0, conv.right))
        self.inputs = x.new_zeros(len(x), self.padded[0] * self.padded[1], x.shape[-1])  # 0 where nothing is yet
        self.row = -1  # of `above`
        self.above: tuple[Tensor, ...] = ()  # at each place of the row what the rows above give, (B, out)
        own_row = conv.weight[:, :, conv.top, :conv.own_row] if conv.own_row else conv.weight[:, :, 0, :0]
        self.own_row = own_row.permute(0, 2, 1).flatten(1).contiguous().t()  # (visible columns * C, out)

    def keep(self, x: Tensor, row: int, column: int) -> None:
        """Keep the input of a place."""
        at = (row + self.conv.top) * self.padded[1] + column + self.conv.left
        self.inputs.select(1, at).copy_(x)

    def answer(self, row: int, column: int) -> Tensor:
        """Return what the convolution gives at a place, (B, out)."""
        if row != self.row:
            self.row = row
            self.above = self._see_rows_above()
        if self.conv.own_row == 0:
            return self.above[column]
        first = (row + self.conv.top) * self.padded[1] + column
        window = self.inputs.narrow(1, first, self.conv.own_row).flatten(1)  # (B, visible columns * C)
        return torch.addmm(self.above[column], window, self.own_row)

    def _see_rows_above(self) -> tuple[Tensor, ...]:
        rows = self.inputs.unflatten(1, self.padded)[:, self.row:self.row + self.conv.top]  # (B, top, ..., C)
        h = F.conv2d(rows.permute(0, 3, 1, 2), self.conv.weight[:, :, :self.conv.top], self.conv.bias)
        return h[:, :, 0, :self.width].permute(2, 0, 1).contiguous().unbind(0)  # W times (B, out)


class CausalConv(nn.Module):
    """A convolution that sees a window of places, none of which comes later.

    Args:
        kernel: rows and columns of the window. top, left: how many rows and columns of it lie above and to the left of
            the place itself; more than there are if the place lies outside.
        hidden_from: in the window's last row, places from this column on are not seen; None sees all.

    Shapes:
        x: (B, H, W, in_channels) -> (B, H, W, out_channels)
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel: tuple[int, int], top: int, left: int,
                 hidden_from: int | None = None):
        super().__init__()
        conv = nn.Conv2d(in_channels, out_channels, kernel)  # for its initial weights
        self.weight = conv.weight
        self.bias = conv.bias
        self.top = top
        self.left = left
        self.bottom = kernel[0] - 1 - top  # below 0 where the place lies below the window
        self.right = kernel[1] - 1 - left
        visible = torch.ones(kernel)
        if hidden_from is not None:
            visible[-1, hidden_from:] = 0
        # how many columns it sees of the place's own row
        self.own_row = 0
        if self.bottom == 0:
            self.own_row = kernel[1] if hidden_from is None else hidden_from
        self.register_buffer("visible", visible, persistent=False)

    def masked_weight(self) -> Tensor:
        """Return the kernel (out, in, rows, columns) with zeros where it must not see."""
        return self.weight * self.visible

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2)  # (B, C, H, W)
        x = F.pad(x, (self.left, self.right, self.top, self.bottom))  # a number below 0 cuts off
        return F.conv2d(x, self.masked_weight(), self.bias).permute(0, 2, 3, 1)


class CodesIn(nn.Module):
    """The first layer: at each place, a window of the codes before it, and never its own.

    One convolution sees the rows above, another the codes to the left in the rows down to the place's own. Where there
    is no row above, or no code to the left, it adds nothing.

    Shapes:
        x: (B, H, W, in_channels) -> (B, H, W, channels)
    """

    def __init__(self, in_channels: int, channels: int, *, kernel: int):
        super().__init__()
        half = kernel // 2
        self.channels = channels
        self.above = CausalConv(in_channels, channels, kernel=(half, kernel), top=half, left=half)
        self.before = CausalConv(in_channels, channels, kernel=((kernel + 1) // 2, half), top=(kernel - 1) // 2,
                                 left=half)

    def forward(self, x: Tensor) -> Tensor:
        above = self.above(x)[:, 1:]
        before = self.before(x)[:, :, 1:]
        return F.pad(above, (0, 0, 0, 0, 1, 0)) + F.pad(before, (0, 0, 1, 0))

    def read(self, x: Tensor, columns: Columns, place: int) -> None:
        """Keep what a code (B, in_channels) was embedded as."""
        columns.keep(self.above, x, place)
        columns.keep(self.before, x, place)

    def column(self, columns: Columns, batch: int) -> Tensor:
        """Return the current place's column, (B, channels)."""
        row, column = columns.row_and_column
        h = self.above.bias.new_zeros(batch, self.channels)
        if row > 0:
            h = h + columns.answer(self.above)
        if column > 0:
            h = h + columns.answer(self.before)
        return h


class GatedResBlock(nn.Module):
    """ELU, layer, ELU, layer to twice the channels, one half of which gates the other, beside the input.

    Args:
        hidden: channels between the layers. kernel: of the causal convolutions; 1 makes them linear layers.
        sees_itself: whether a convolution sees its own place. The public port's do not, although its first layer has
            already hidden the code there.
        extra: channels of a further input, added behind the first layer. condition: numbers that the gate reads.

    Shapes:
        x: (..., channels), extra: (..., extra), condition: (B, 1 or H, 1 or W, condition) -> (..., channels)
    """

    def __init__(self, channels: int, hidden: int, *, kernel: int = 1, sees_itself: bool = True, extra: int = 0,
                 condition: int = 0, dropout: float = 0.0):
        super().__init__()
        self.first = _layer(channels, hidden, kernel, sees_itself)
        self.second = _layer(hidden, 2 * channels, kernel, sees_itself)
        zero_(self.second)  # the block changes nothing before training
        self.extra = nn.Linear(extra, hidden) if extra else None
        self.condition = nn.Linear(condition, 2 * channels, bias=False) if condition else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, *, extra: Tensor | None = None, condition: Tensor | None = None,
                columns: Columns | None = None) -> Tensor:
        h = _answer(self.first, F.elu(x), columns)
        if self.extra is not None:
            h = h + self.extra(F.elu(extra))
        h = F.elu(h)
        if columns is None:
            h = self.dropout(h)
        h = _answer(self.second, h, columns)
        if self.condition is not None:
            answer = self.condition(condition) if columns is None else columns.condition(self.condition, condition)
            h = h + answer
        return x + F.glu(h, dim=-1)


def _answer(layer: nn.Module, x: Tensor, columns: Columns | None) -> Tensor:
    if columns is None or isinstance(layer, nn.Linear):
        return layer(x)
    columns.keep(layer, x, columns.place)
    return columns.answer(layer)


def _layer(in_channels: int, out_channels: int, kernel: int, sees_itself: bool) -> nn.Module:
    if kernel == 1:
        return nn.Linear(in_channels, out_channels)
    half = kernel // 2
    hidden_from = half + 1 if sees_itself else half
    return CausalConv(in_channels, out_channels, kernel=(kernel, kernel), top=kernel - 1, left=half,
                      hidden_from=hidden_from)


class CausalAttention(nn.Module):
    """Each place attends to the places before it, and never to itself.

    Args:
        query_dim, key_dim: widths of what queries, and keys with values, are made of. dim: of all heads together.
        text_dim: width of a text's tokens, which every place sees; 0 is none.
        has_null: a learned key and value, which every place sees too; without them the first place gets zeros.

    Shapes:
        query: (B, N, query_dim), key: (B, N, key_dim) -> (B, N, dim), or (B, dim) for a column
    """

    def __init__(self, *, query_dim: int, key_dim: int, dim: int, heads: int, text_dim: int = 0,
                 has_null: bool = True):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(query_dim, dim)
        self.key = nn.Linear(key_dim, dim)
        self.value = nn.Linear(key_dim, dim)
        self.text = nn.Linear(text_dim, 2 * dim) if text_dim else None
        self.null = nn.Parameter(torch.randn(2, dim) * INIT_STD) if has_null else None

    def prefix(self, tokens: Tensor | None, batch: int) -> KeysValues | None:
        """Return keys and values of what every place sees, of tokens (B, T, text_dim): (B, heads, 1 + T, d) each."""
        if self.null is None:
            return None
        null = self.null.expand(batch, 1, -1, -1)  # (B, 1, 2, dim)
        k, v = null.unbind(2)  # (B, 1, dim) each
        if self.text is not None:
            text_k, text_v = self.text(tokens).chunk(2, dim=-1)  # (B, T, dim) each
            k = torch.cat([k.to(text_k.dtype), text_k], dim=1)
            v = torch.cat([v.to(text_v.dtype), text_v], dim=1)
        return split_heads(k, self.heads), split_heads(v, self.heads)

    def forward(self, query: Tensor, key: Tensor, tokens: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """Attend in a whole picture; `keep` (B, 1 + T) is True where a prefix counts, None if it does everywhere."""
        q = split_heads(self.query(query), self.heads)  # (B, heads, N, d)
        k = split_heads(self.key(key), self.heads)
        v = split_heads(self.value(key), self.heads)
        return merge_heads(strictly_causal(q, k, v, self.prefix(tokens, len(query)), keep))

    def column(self, query: Tensor, key: Tensor, cache: KVCache, keep: Tensor | None = None) -> Tensor:
        """Attend from one place, (B, query_dim), to those in the cache, which has the prefix and takes this place."""
        shape = (len(query), self.heads, 1, -1)
        q = self.query(query).view(shape)  # (B, heads, 1, d)
        k = self.key(key).view(shape)
        v = self.value(key).view(shape)
        keys, values = cache.extend(k, v)  # (B, heads, prefix + places so far, d)
        before = keys.shape[2] - 1
        if before == 0:
            return torch.zeros_like(q).flatten(1)
        if keep is not None:
            keep = F.pad(keep, (0, before - keep.shape[1]), value=True)[:, None, None]  # (B, 1, 1, before)
        return attend(q, keys[:, :, :before], values[:, :, :before], keep).flatten(1)


def strictly_causal(q: Tensor, k: Tensor, v: Tensor, prefix: KeysValues | None = None,
                    keep: Tensor | None = None) -> Tensor:
    """Return attention in which place i sees the places before it and a prefix; without any, the first gets zeros.

    Shapes:
        q, k, v: (B, heads, N, d), prefix: (B, heads, P, d) each, keep: (B, P) bool -> (B, heads, N, d)
    """
    places = q.shape[2]
    if prefix is None:
        order = torch.ones(places - 1, places - 1, dtype=torch.bool, device=q.device).tril()
        later = attend(q[:, :, 1:], k[:, :, :-1], v[:, :, :-1], order)  # (B, heads, N - 1, d)
        return F.pad(later, (0, 0, 1, 0))
    length = prefix[0].shape[2]
    k = torch.cat([prefix[0].to(k.dtype), k], dim=2)  # (B, heads, P + N, d)
    v = torch.cat([prefix[1].to(v.dtype), v], dim=2)
    order = torch.ones(places, length + places, dtype=torch.bool, device=q.device).tril(length - 1)
    if keep is not None:
        order = order & F.pad(keep, (0, places), value=True)[:, None, None]  # (B, 1, N, P + N)
    return attend(q, k, v, order)
