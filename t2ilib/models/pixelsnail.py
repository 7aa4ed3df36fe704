"""PixelSNAIL: codes of a picture one after another, by causal convolutions and causal attention, from a text.

Chen et al. 2018, "PixelSNAIL: an improved autoregressive generative model"; for codes of a VQ-VAE, the coarse ones from
a text and the fine ones from the coarse ones, Razavi et al. 2019, "Generating diverse high-fidelity images with
VQ-VAE-2".
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoint import configurable
from ..errors import BadParameter
from ..layers.causal import CausalAttention, CodesIn, Columns, GatedResBlock
from ..layers.conv_blocks import Upsample
from ..layers.text_plan import TextPlan
from ..layers.transformer import INIT_STD, KVCache
from ..layers.unet_blocks import DropsText

BACKGROUND = 2  # channels that say where a place lies


@dataclass
class _Condition:
    """What the blocks read beside codes.

    Attributes:
        gates: (B, 1, 1, C) or (B, H, W, C), for the gates; None if there is nothing.
        tokens: (B, T, C), for attention. keep: (B, 1 + T) bool, where the null and the tokens count; None if all do.
    """

    gates: Tensor | None
    tokens: Tensor | None
    keep: Tensor | None


@dataclass
class Decoding:
    """What a network has read of B pictures.

    Attributes:
        condition: beside codes. columns: what each layer found so far. read: how many codes.
    """

    condition: _Condition
    columns: Columns
    read: int = 0


class PixelBlock(nn.Module):
    """Gated residual blocks of causal convolutions, and then attention to all places before, or a linear layer.

    Shapes:
        x: (B, H, W, channels), background: (H, W, 2) -> (B, H, W, channels); with `columns` (B, channels) and (2,)
    """

    def __init__(self, *, channels: int, hidden: int, kernel: int, res_blocks: int, attention: bool, heads: int,
                 sees_itself: bool, condition: int, text: bool, dropout: float):
        super().__init__()
        blocks = []
        for _ in range(res_blocks):
            blocks.append(GatedResBlock(channels, hidden, kernel=kernel, sees_itself=sees_itself, condition=condition,
                                        dropout=dropout))
        self.res_blocks = nn.ModuleList(blocks)
        self.attention = None
        if not attention:
            self.out = nn.Linear(channels + BACKGROUND, channels)
            return
        key_dim = 2 * channels + BACKGROUND
        query_dim = channels + BACKGROUND
        self.key_block = GatedResBlock(key_dim, channels, dropout=dropout)
        self.query_block = GatedResBlock(query_dim, channels, dropout=dropout)
        self.attention = CausalAttention(query_dim=query_dim, key_dim=key_dim, dim=channels // 2, heads=heads,
                                         text_dim=channels if text else 0, has_null=sees_itself)
        self.out_block = GatedResBlock(channels, channels, extra=channels // 2, dropout=dropout)

    def forward(self, x: Tensor, background: Tensor, condition: _Condition, gates: Tensor | None,
                columns: Columns | None = None) -> Tensor:
        h = x
        for block in self.res_blocks:
            h = block(h, condition=gates, columns=columns)
        background = background.to(h.dtype).expand(*h.shape[:-1], BACKGROUND)
        query = torch.cat([h, background], dim=-1)
        if self.attention is None:
            return self.out(query)
        key = self.key_block(torch.cat([x, h, background], dim=-1))
        query = self.query_block(query)
        if columns is None:
            found = self.attention(query.flatten(1, 2), key.flatten(1, 2), condition.tokens, condition.keep)
            found = found.unflatten(1, h.shape[1:3])  # (B, H, W, channels / 2)
        else:
            found = self.attention.column(query, key, columns.attention[self.attention], condition.keep)
        return self.out_block(h, extra=found)


class CoarseCodes(nn.Module):
    """Features of coarse codes, which have been drawn already and are seen in full, at each place of the finer grid.

    Shapes:
        codes: (B, h, w) int64 -> (B, 2 h, 2 w, channels)
    """

    def __init__(self, *, codes: int, channels: int, blocks: int):
        super().__init__()
        self.codes = codes
        self.conv_in = nn.Conv2d(codes, channels, 3, padding=1)
        self.blocks = nn.ModuleList(GatedConvBlock(channels) for _ in range(blocks))
        self.upsample = Upsample(channels=channels, with_conv=False)

    def forward(self, codes: Tensor) -> Tensor:
        h = F.one_hot(codes, self.codes).movedim(-1, 1)  # (B, K, h, w)
        h = self.conv_in(h.to(self.conv_in.weight.dtype))
        for block in self.blocks:
            h = block(h)
        return self.upsample(h).movedim(1, -1)


class GatedConvBlock(nn.Module):
    """The gated residual block of `layers.causal` with 3x3 convolutions that see all around: (B, C, H, W) -> same."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, 2 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(F.elu(self.first(F.elu(x))))
        return x + F.glu(h, dim=1)


@configurable
class PixelSNAIL(DropsText, nn.Module):
    """Predict each code of a picture from those before it in raster order and from a text.

    What it is given are the codes themselves; its first layer hides from each place its own code and all later ones.

    Args:
        codes: K of the codebook. height, width: of the grid.
        channels: of all places. hidden: inside the gated blocks. kernel: side of their convolutions, odd.
        blocks: each of `res_blocks` gated blocks and one of attention, if `attention`. heads: of attention.
        out_blocks: gated blocks without neighbours behind all others.
        text_dim: width of the text encoder's tokens and of its pooled feature; 0 reads no text.
        plan_depth: blocks of the transformer that plans from the text what each place shall hold; 0 plans nothing.
        coarse_blocks: gated blocks that read a grid of coarse codes of half the sides; 0 reads none.
        embedding: codes enter as vectors of `channels` numbers; False lets the first layer read one-hot codes.
        sees_itself: False masks the place itself in every convolution, as the public port does.

    Shapes:
        codes: (B, N) int64 in raster order, N up to height * width, tokens: (B, T, E), mask: (B, T) bool,
        pooled: (B, E), coarse: (B, height / 2, width / 2) -> logits (B, N, K)

    Raises:
        BadParameter: an argument is out of range, or inputs do not fit.

    Example:
        logits = network(codes, *network.without_text(tokens, mask, pooled, drop))
        decoding = network.start(tokens, mask, pooled)         # the same logits, one code after another
        first = network.next_logits(codes[:, :0], decoding)    # (B, K)
        second = network.next_logits(codes[:, :1], decoding)
    """

    causal = True

    def __init__(self, *, codes: int = 512, height: int = 16, width: int = 16, channels: int = 128, hidden: int = 80,
                 kernel: int = 5, blocks: int = 2, res_blocks: int = 3, attention: bool = True, heads: int = 8,
                 out_blocks: int = 0, text_dim: int = 384, plan_depth: int = 0, coarse_blocks: int = 0,
                 embedding: bool = True, sees_itself: bool = True, dropout: float = 0.1):
        super().__init__()
        if codes < 2 or height < 1 or width < 1 or blocks < 1:
            raise BadParameter("need a codebook of at least 2 codes, a grid and a block, got "
                               f"{codes} codes, {height} x {width} and {blocks} blocks")
        if kernel < 3 or kernel % 2 == 0 or channels % (2 * heads):
            raise BadParameter("need an odd kernel of at least 3 and channels that are a multiple of 2 * heads, got "
                               f"{kernel}, {channels} and {heads}")
        if text_dim and not (attention and sees_itself):
            raise BadParameter("attention=False and sees_itself=False are of the port, which reads no text; take "
                               "text_dim=0")
        if plan_depth and not text_dim:
            raise BadParameter("a plan is made from a text; take text_dim above 0, or plan_depth=0")
        if coarse_blocks and (height % 2 or width % 2):
            raise BadParameter(f"a grid above coarse codes needs even sides, got {height} x {width}")
        self.codes = codes
        self.grid = (height, width)
        self.grids = (self.grid,)
        self.embedding = nn.Embedding(codes, channels) if embedding else None
        self.codes_in = CodesIn(channels if embedding else codes, channels, kernel=kernel)
        self.has_text = text_dim > 0
        if self.has_text:
            self.null_token = nn.Parameter(torch.zeros(text_dim))
            self.null_pooled = nn.Parameter(torch.zeros(text_dim))
            self.token_in = nn.Linear(text_dim, channels)
            self.token_norm = nn.LayerNorm(channels)
            self.pooled_in = nn.Linear(text_dim, channels)
        self.plan = None
        if plan_depth:
            self.plan = TextPlan(grid=self.grid, text_dim=channels, out_dim=channels, depth=plan_depth)
        self.coarse = None
        if coarse_blocks:
            self.coarse = CoarseCodes(codes=codes, channels=channels, blocks=coarse_blocks)
        condition = channels if self.has_text or coarse_blocks else 0
        self.blocks = nn.ModuleList()
        for _ in range(blocks):
            self.blocks.append(PixelBlock(channels=channels, hidden=hidden, kernel=kernel, res_blocks=res_blocks,
                                          attention=attention, heads=heads, sees_itself=sees_itself,
                                          condition=condition, text=self.has_text, dropout=dropout))
        self.out_blocks = nn.ModuleList(GatedResBlock(channels, hidden, dropout=dropout) for _ in range(out_blocks))
        self.out = nn.Linear(channels, codes)
        nn.init.normal_(self.out.weight, std=INIT_STD)
        self.register_buffer("background", _background(height, width), persistent=False)

    @property
    def places(self) -> int:
        """Return N, the number of codes of a picture."""
        return self.grid[0] * self.grid[1]

    def forward(self, codes: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None,
                pooled: Tensor | None = None, at: Tensor | None = None, *, coarse: Tensor | None = None) -> Tensor:
        """Return the logits of all codes, or those (M, K) of the M places where `at` (B, N) is True."""
        self._check(codes, self.places)
        condition = self._read(tokens, mask, pooled, coarse)
        batch, count = codes.shape
        width = self.grid[1]
        rows = math.ceil(count / width)
        codes = F.pad(codes, (0, rows * width - count)).unflatten(1, (rows, width))  # (B, rows, W)
        gates = condition.gates
        if gates is not None:
            gates = gates[:, :rows]
        h = self.codes_in(self._embed(codes))  # (B, rows, W, channels)
        for block in self.blocks:
            h = block(h, self.background[:rows], condition, gates)
        h = h.flatten(1, 2)[:, :count]  # (B, N, channels)
        return self._logits(h if at is None else h[at])

    # --- one code after another ---------------------------------------------------------------------------------------

    def start(self, tokens: Tensor | None = None, mask: Tensor | None = None, pooled: Tensor | None = None,
              coarse: Tensor | None = None) -> Decoding:
        """Return the state of a decoding that has read its conditions and no code."""
        condition = self._read(tokens, mask, pooled, coarse)
        if condition.keep is not None and bool(condition.keep.all()):
            condition.keep = None  # attention without a mask is faster
        return Decoding(condition, Columns(self.grid))

    def next_logits(self, codes: Tensor, decoding: Decoding) -> Tensor:
        """Read the codes (B, n) that follow those read before, and return the logits (B, K) of the code after them.

        The first call may bring none. Each code costs one column of work.
        """
        self._check(codes, self.places - 1 - decoding.read)
        if decoding.read == 0:
            self._fill_prefixes(decoding, len(codes))
        batch = len(codes)
        for code in codes.unbind(1):
            if decoding.columns.place == decoding.read:
                self._column(decoding, batch)  # later places look at this one
            self.codes_in.read(self._embed(code), decoding.columns, decoding.read)
            decoding.read += 1
        return self._logits(self._column(decoding, batch))

    def _fill_prefixes(self, decoding: Decoding, batch: int) -> None:
        """Put what every place sees into the caches of attention, unless it is there already."""
        caches = decoding.columns.attention
        for block in self.blocks:
            if block.attention is None or block.attention in caches:
                continue
            prefix = block.attention.prefix(decoding.condition.tokens, batch)
            length = 0 if prefix is None else prefix[0].shape[2]
            cache = KVCache(length + self.places)
            if prefix is not None:
                cache.extend(*prefix)
            caches[block.attention] = cache

    def _column(self, decoding: Decoding, batch: int) -> Tensor:
        """Compute the column (B, channels) of the next place, and keep what later places see of it."""
        columns = decoding.columns
        row, column = columns.row_and_column
        h = self.codes_in.column(columns, batch)
        for block in self.blocks:
            h = block(h, self.background[row, column], decoding.condition, decoding.condition.gates, columns)
        columns.place += 1
        return h

    # --- parts --------------------------------------------------------------------------------------------------------

    def _check(self, codes: Tensor, most: int) -> None:
        if codes.ndim != 2 or codes.shape[1] > most:
            raise BadParameter(f"codes must be (B, n) with n up to {most}, in raster order of {self.grid[0]} x "
                               f"{self.grid[1]}, got {tuple(codes.shape)}")

    def _read(self, tokens: Tensor | None, mask: Tensor | None, pooled: Tensor | None,
              coarse: Tensor | None) -> _Condition:
        has_text = tokens is not None and mask is not None and pooled is not None
        if has_text != self.has_text or (coarse is not None) != (self.coarse is not None):
            raise BadParameter(f"this network reads {'a' if self.has_text else 'no'} text (tokens, mask and pooled) "
                               f"and {'coarse codes' if self.coarse else 'no coarse codes'}; give it just that")
        gates = None
        keep = None
        if coarse is not None:
            self._check_coarse(coarse)
            gates = self.coarse(coarse)  # (B, H, W, channels)
        if has_text:
            tokens = self.token_norm(self.token_in(tokens))  # (B, T, channels)
            keep = F.pad(mask, (1, 0), value=True)  # the null counts always
            pooled = self.pooled_in(pooled)  # (B, channels)
            words = pooled[:, None, None]
            if self.plan is not None:
                words = words + self.plan(tokens, mask, pooled)  # (B, H, W, channels)
            gates = words if gates is None else gates + words
        return _Condition(gates, tokens, keep)

    def _check_coarse(self, coarse: Tensor) -> None:
        expected = (self.grid[0] // 2, self.grid[1] // 2)
        if coarse.ndim != 3 or tuple(coarse.shape[1:]) != expected:
            raise BadParameter(f"coarse codes must be (B, {expected[0]}, {expected[1]}), got {tuple(coarse.shape)}")

    def _embed(self, codes: Tensor) -> Tensor:
        """Return what the first layer reads of codes (...): (..., channels), or one-hot (..., K)."""
        if self.embedding is not None:
            return self.embedding(codes)
        return F.one_hot(codes, self.codes).to(self.out.weight.dtype)

    def _logits(self, h: Tensor) -> Tensor:
        """Return the logits of columns: (..., channels) -> (..., K)."""
        for block in self.out_blocks:
            h = block(h)
        return self.out(F.elu(h))


def _background(height: int, width: int) -> Tensor:
    """Return where each place lies, from -1/2 up: rows and columns, (H, W, 2)."""
    rows = (torch.arange(height) - height / 2) / height
    columns = (torch.arange(width) - width / 2) / width
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)
