"""What a network that predicts the codes of a picture offers, and one that makes codes of pictures."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor


class CodeNetwork(Protocol):
    """Predicts codes from a text and from other codes; what draws with it and what trains it ask for no more.

    Attributes:
        codes: K of the codebook. grid: rows and columns, of the finest grid of codes. grids: of all grids of a picture,
            in the order in which their codes follow one another. places: number of codes of a picture, of all grids.
        causal: whether a code sees only those before it. Such a network decodes with `start` and `next_logits`, see
            `sampling.CausalNetwork`; another one has a `mask_token`, see `sampling.MaskedNetwork`.
    """

    codes: int
    grid: tuple[int, int]
    causal: bool

    @property
    def grids(self) -> Sequence[tuple[int, int]]: ...

    @property
    def places(self) -> int: ...

    def __call__(self, codes: Tensor, tokens: Tensor, mask: Tensor, pooled: Tensor, at: Tensor | None = None) -> Tensor:
        """Return the logits (B, N, K) of codes (B, N), or those (M, K) where `at` (B, N) is True."""

    def without_text(self, tokens: Tensor, mask: Tensor, pooled: Tensor, drop: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Replace the text by the learned "no text" where `drop` (B,) is True."""

    def eval(self) -> Any: ...


class CodeAutoencoder(Protocol):
    """Turns pictures into grids of codes and back: a VQGAN, or a VQ-VAE with one grid or several.

    Attributes:
        factor: sides of a picture over those of its finest grid. codebook: of that grid, (K, D). codebooks: of all
            grids, the coarse one first.
    """

    factor: int

    @property
    def codebook(self) -> Tensor: ...

    @property
    def codebooks(self) -> Sequence[Tensor]: ...

    def encode_codes(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return codes (B, h, w) of pictures (B, 3, H, W) in [-1, 1]; a tuple of them where there are several grids."""

    @property
    def embed_codes(self) -> Callable[..., Tensor | tuple[Tensor, ...]]:
        """Return what looks up the vectors (B, D, h, w) of codes (B, h, w) of each grid; a tuple as above."""

    @property
    def decode_codes(self) -> Callable[..., Tensor]:
        """Return what makes pictures of codes (B, h, w) of each grid."""

    def eval(self) -> Any: ...
