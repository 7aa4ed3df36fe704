"""What a network that predicts the codes of a picture offers, whatever it is made of."""

from typing import Any, Protocol

from torch import Tensor


class CodeNetwork(Protocol):
    """Predicts codes from a text and from other codes; what draws with it and what trains it ask for no more.

    Attributes:
        codes: K of the codebook. grid: rows and columns. places: number of codes of a picture.
        causal: whether a code sees only those before it. Such a network decodes with `start` and `next_logits`, see
            `sampling.CausalNetwork`; another one has a `mask_token`, see `sampling.MaskedNetwork`.
    """

    codes: int
    grid: tuple[int, int]
    causal: bool

    @property
    def places(self) -> int: ...

    def __call__(self, codes: Tensor, tokens: Tensor, mask: Tensor, pooled: Tensor, at: Tensor | None = None) -> Tensor:
        """Return the logits (B, N, K) of codes (B, N), or those (M, K) where `at` (B, N) is True."""

    def without_text(self, tokens: Tensor, mask: Tensor, pooled: Tensor, drop: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Replace the text by the learned "no text" where `drop` (B,) is True."""

    def eval(self) -> Any: ...
