"""A transformer from words to the codes of a VQGAN: one code after another, or many at once.

Causal it is the second stage of Esser et al. 2021, "Taming transformers", with a text in the place of a class; not
causal it is the network of Chang et al. 2022, "MaskGIT", which fills in masked codes.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoint import configurable
from ..errors import BadParameter, check_name
from ..layers.transformer import INIT_STD, KeysValues, KVCache, Rotation, Squares, Transformer, rotary_grid, rotation_by
from ..layers.unet_blocks import DropsText

TEXT_FORMS = ("cross_attention", "prefix")
POSITIONS = ("axial", "rotary")
MEAN_MASK_RATIO = 2 / math.pi  # of `mask_ratio` over uniform progress


def mask_ratio(progress: Tensor | float) -> Tensor:
    """Return the share of codes that are masked, at progress 0 (all) to 1 (none): cos(pi / 2 progress).

    Chang et al. 2022, section 3.3, for training (uniform progress) and for drawing alike.
    """
    return torch.cos(torch.as_tensor(progress) * math.pi / 2).clamp(0, 1)


@dataclass
class _Text:
    """The text as the blocks read it.

    Attributes:
        pooled: (B, 1, dim), added to every place. tokens: (B, T, dim).
        keep: (B, T) bool, True at real tokens; None if all are.
        keys_values: of the tokens, for each block, with cross-attention.
    """

    pooled: Tensor
    tokens: Tensor
    keep: Tensor | None
    keys_values: list[KeysValues] | None = None


@dataclass
class Decoding:
    """What a causal network has read.

    Attributes:
        text: of B pictures. caches: one for each block. places: how many it has read, the begin token among them.
    """

    text: _Text
    caches: list[KVCache]
    places: int = 0


@configurable
class TextTransformer(DropsText, nn.Module):
    """Predict the codes of a picture from its text and from other codes of the picture.

    A causal network predicts each code from those before it in raster order; what it is given are the codes
    themselves, which it shifts behind a begin token. Another network predicts all codes from those that are not
    `mask_token`. Both read the same text, in one of two ways.

    Args:
        codes: K of the codebook. height, width: of the grid.
        dim, depth, heads, ff_mult, dropout: of the transformer.
        text_dim: width of the text encoder's tokens and of its pooled feature.
        causal: whether a code sees only those before it.
        text: "cross_attention" in every block, or "prefix": the tokens stand before the codes in one sequence.
        positions: "axial" adds a learned vector for the row and one for the column; "rotary" also turns queries and
            keys, so that attention knows distances.
        merge: side of the squares of codes that are one place of the transformer, see `layers.transformer.Squares`;
            1 is none. A causal network has none. local_dim: width of a single code, with squares.

    Shapes:
        codes: (B, N) int64 in raster order, N up to height * width (all of them if not causal), tokens: (B, T, E),
        mask: (B, T) bool, pooled: (B, E) -> logits (B, N, K)

    Raises:
        BadParameter, UnknownName: an argument is out of range.

    Example:
        logits = network(codes, *network.without_text(tokens, mask, pooled, drop))
        decoding = network.start(tokens, mask, pooled)         # causal: the same logits, one code after another
        first = network.next_logits(codes[:, :0], decoding)    # (B, K)
        second = network.next_logits(codes[:, :1], decoding)
    """

    def __init__(self, *, codes: int = 2048, height: int = 16, width: int = 16, dim: int = 256, depth: int = 6,
                 heads: int = 8, ff_mult: float = 4.0, text_dim: int = 384, causal: bool = False,
                 text: str = "cross_attention", positions: str = "rotary", dropout: float = 0.1, merge: int = 1,
                 local_dim: int = 128):
        super().__init__()
        check_name("text", text, TEXT_FORMS)
        check_name("positions", positions, POSITIONS)
        if codes < 2 or height < 1 or width < 1:
            raise BadParameter(f"need a codebook of at least 2 codes and a grid, got {codes} codes, {height} x {width}")
        if merge > 1 and causal:
            raise BadParameter(f"a causal network predicts one code after another, not squares of {merge} x {merge}; "
                               "take merge=1")
        self.codes = codes
        self.grid = (height, width)
        self.grids = (self.grid,)
        self.causal = causal
        self.has_prefix = text == "prefix"
        self.null_token = nn.Parameter(torch.zeros(text_dim))
        self.null_pooled = nn.Parameter(torch.zeros(text_dim))
        self.squares = None
        code_dim = dim
        places = self.grid
        if merge > 1:
            self.squares = Squares(grid=self.grid, merge=merge, local_dim=local_dim, dim=dim)
            code_dim = local_dim
            places = self.squares.merged_grid
        self.code_embedding = nn.Embedding(codes + 1, code_dim)  # the last one is the mask token, or the begin token
        self.row = nn.Parameter(torch.randn(height, 1, code_dim) * INIT_STD)
        self.column = nn.Parameter(torch.randn(1, width, code_dim) * INIT_STD)
        self.token_in = nn.Linear(text_dim, dim)
        self.token_norm = nn.LayerNorm(dim)
        self.pooled_in = nn.Linear(text_dim, dim)
        self.transformer = Transformer(dim=dim, depth=depth, heads=heads, ff_mult=ff_mult, causal=causal,
                                       context=not self.has_prefix, dropout=dropout)
        self.norm_out = nn.LayerNorm(code_dim)
        self.bias_out = nn.Parameter(torch.zeros(codes))
        nn.init.normal_(self.code_embedding.weight, std=INIT_STD)
        self.is_rotary = positions == "rotary"
        if self.is_rotary:
            cos, sin = rotation_by(rotary_grid(*places, dim // heads))  # (N, d) each, N of the transformer's places
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)

    @property
    def places(self) -> int:
        """Return N, the number of codes of a picture."""
        return self.grid[0] * self.grid[1]

    @property
    def mask_token(self) -> int:
        """Return what stands in the place of a code that is to be predicted."""
        return self.codes

    def forward(self, codes: Tensor, tokens: Tensor, mask: Tensor, pooled: Tensor, at: Tensor | None = None) -> Tensor:
        """Return the logits of all codes, or those (M, K) of the M places where `at` (B, N) is True."""
        self._check(codes)
        text = self._read(tokens, mask, pooled)
        x = self._embed(self._shifted(codes) if self.causal else codes)  # (B, N, dim)
        singles = None
        if self.squares is not None:
            singles, x = self.squares.join(x)
        x = x + text.pooled
        places = x.shape[1]
        prefix = 0
        key_keep = None
        if self.has_prefix:
            prefix = text.tokens.shape[1]
            x = torch.cat([text.tokens, x], dim=1)  # (B, T + N, dim)
            key_keep = F.pad(text.keep, (0, places), value=True)  # (B, T + N)
        rotation = self._rotation(0, places, prefix)
        h = self.transformer(x, rotation=rotation, prefix=prefix, key_keep=key_keep, context=text.keys_values,
                             context_keep=text.keep)
        h = h[:, prefix:]
        if self.squares is not None:
            h = self.squares.split(h, singles)
        return self._logits(h if at is None else h[at])

    # --- one code after another ---------------------------------------------------------------------------------------

    def start(self, tokens: Tensor, mask: Tensor, pooled: Tensor) -> Decoding:
        """Return the state of a decoding that has read its text and no code.

        Raises:
            BadParameter: the network is not causal.
        """
        if not self.causal:
            raise BadParameter("only a causal network decodes one code after another; use sample_masked for this one")
        text = self._read(tokens, mask, pooled)
        if bool(mask.all()):
            text.keep = None  # attention without a mask is faster
        length = text.tokens.shape[1]
        prefix = length if self.has_prefix else 0
        decoding = Decoding(text, self.transformer.caches(prefix + self.places))
        if self.has_prefix:
            self.transformer(text.tokens, rotation=self._rotation(0, 0, prefix), prefix=prefix, key_keep=text.keep,
                             caches=decoding.caches)
        return decoding

    def next_logits(self, codes: Tensor, decoding: Decoding) -> Tensor:
        """Read the codes (B, n) that follow those read before, and return the logits (B, K) of the code after them.

        The first call may bring none.
        """
        self._check(codes)
        text = decoding.text
        first = decoding.places
        inputs = codes
        if first == 0:
            inputs = F.pad(codes, (1, 0), value=self.codes)  # (B, 1 + n), the begin token first
        x = self._embed(inputs, first) + text.pooled
        key_keep = None
        prefix = 0
        if self.has_prefix:
            prefix = text.tokens.shape[1]
            if text.keep is not None:
                key_keep = F.pad(text.keep, (0, first + inputs.shape[1]), value=True)  # (B, T + places so far)
        h = self.transformer(x, rotation=self._rotation(first, inputs.shape[1]), prefix=prefix, key_keep=key_keep,
                             caches=decoding.caches, context=text.keys_values, context_keep=text.keep)
        decoding.places = first + inputs.shape[1]
        return self._logits(h[:, -1])

    # --- parts --------------------------------------------------------------------------------------------------------

    def _check(self, codes: Tensor) -> None:
        n = codes.shape[-1]
        fits = n <= self.places if self.causal else n == self.places
        if codes.ndim != 2 or not fits:
            raise BadParameter(f"codes must be (B, {self.places}), in raster order of {self.grid[0]} x {self.grid[1]}, "
                               f"got {tuple(codes.shape)}")

    def _read(self, tokens: Tensor, mask: Tensor, pooled: Tensor) -> _Text:
        tokens = self.token_norm(self.token_in(tokens))  # (B, T, dim)
        pooled = self.pooled_in(pooled)[:, None]  # (B, 1, dim)
        keys_values = None if self.has_prefix else self.transformer.read_context(tokens)
        return _Text(pooled, tokens, mask, keys_values)

    def _shifted(self, codes: Tensor) -> Tensor:
        """Return what a causal network reads where it predicts each code: the code before it, first the begin token."""
        return F.pad(codes[:, :-1], (1, 0), value=self.codes)

    def _embed(self, codes: Tensor, first: int = 0) -> Tensor:
        """Return codes (B, n) as vectors (B, n, dim) of the places `first`, `first + 1`, ... where they are read."""
        last = first + codes.shape[1]
        positions = (self.row + self.column).flatten(0, 1)[first:last]  # (n, dim)
        return self.code_embedding(codes) + positions

    def _rotation(self, first: int, count: int, prefix: int = 0) -> Rotation | None:
        """Return the rotation of `count` places from `first` on, behind a prefix that does not turn."""
        if not self.is_rotary:
            return None
        last = first + count
        cos = F.pad(self.cos[first:last], (0, 0, prefix, 0), value=1)  # (prefix + count, d)
        sin = F.pad(self.sin[first:last], (0, 0, prefix, 0))
        return cos, sin

    def _logits(self, h: Tensor) -> Tensor:
        """Return logits by the embeddings that codes are read with: (..., dim) -> (..., K)."""
        return F.linear(self.norm_out(h), self.code_embedding.weight[:-1], self.bias_out)
