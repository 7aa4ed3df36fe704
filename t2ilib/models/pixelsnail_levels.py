"""Two PixelSNAILs as one network: the coarse codes of a picture first, then the fine ones from them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .pixelsnail import Decoding, PixelSNAIL
from ..errors import BadParameter

Text = tuple[Tensor, Tensor, Tensor]


@dataclass
class LevelsDecoding:
    """What both networks have read of B pictures.

    Attributes:
        text: tokens, mask and pooled. codes: (B, n) read so far, of both grids. coarse, fine: what each network has
            read; the fine one begins when the coarse codes are whole.
    """

    text: Text
    codes: Tensor | None
    coarse: Decoding
    fine: Decoding | None = None


class CoarseToFine(nn.Module):
    """Predict each code of a picture from those before it, its coarse grid in raster order and then its fine one.

    A text without a real token (`mask` False everywhere) is "no text", for which each network has a vector of its own.

    Args:
        coarse: reads the text. fine: reads the text and coarse codes.

    Shapes:
        codes: (B, n) int64, tokens: (B, T, E), mask: (B, T) bool, pooled: (B, E) -> logits (B, n, K)

    Raises:
        BadParameter: networks that do not fit to one another.
    """

    causal = True

    def __init__(self, coarse: PixelSNAIL, fine: PixelSNAIL):
        super().__init__()
        expected = (fine.grid[0] // 2, fine.grid[1] // 2)
        if fine.coarse is None or coarse.coarse is not None or coarse.grid != expected or coarse.codes != fine.codes:
            raise BadParameter(f"need a network of {expected[0]} x {expected[1]} coarse codes and one that reads them, "
                               f"of one codebook size; got {coarse.grid} of {coarse.codes} and {fine.grid} of "
                               f"{fine.codes} codes")
        self.coarse = coarse
        self.fine = fine
        self.codes = fine.codes
        self.grid = fine.grid
        self.grids = (coarse.grid, fine.grid)

    @property
    def places(self) -> int:
        """Return N, the number of codes of a picture, of both grids."""
        return self.coarse.places + self.fine.places

    def without_text(self, tokens: Tensor, mask: Tensor, pooled: Tensor, drop: Tensor) -> Text:
        """Take the text away where `drop` (B,) is True, for classifier-free guidance."""
        return tokens, mask & ~drop[:, None], pooled

    def forward(self, codes: Tensor, tokens: Tensor, mask: Tensor, pooled: Tensor, at: Tensor | None = None) -> Tensor:
        """Return the logits of all codes, or those (M, K) of the M places where `at` (B, n) is True."""
        text = (tokens, mask, pooled)
        count = self.coarse.places
        logits = self.coarse(codes[:, :count], *_text_of(self.coarse, text))  # (B, up to count, K)
        if codes.shape[1] > count:
            coarse = codes[:, :count].unflatten(1, self.coarse.grid)
            fine = self.fine(codes[:, count:], *_text_of(self.fine, text), coarse=coarse)
            logits = torch.cat([logits, fine], dim=1)
        return logits if at is None else logits[at]

    def start(self, tokens: Tensor, mask: Tensor, pooled: Tensor) -> LevelsDecoding:
        """Return the state of a decoding that has read its text and no code."""
        text = (tokens, mask, pooled)
        return LevelsDecoding(text, None, self.coarse.start(*_text_of(self.coarse, text)))

    def next_logits(self, codes: Tensor, decoding: LevelsDecoding) -> Tensor:
        """Read the codes (B, n) that follow those read before, and return the logits (B, K) of the code after them."""
        before = decoding.codes
        decoding.codes = codes if before is None else torch.cat([before, codes], dim=1)
        count = self.coarse.places
        if decoding.codes.shape[1] < count:
            return self.coarse.next_logits(codes, decoding.coarse)
        if decoding.fine is None:
            coarse = decoding.codes[:, :count].unflatten(1, self.coarse.grid)
            decoding.fine = self.fine.start(*_text_of(self.fine, decoding.text), coarse=coarse)
            codes = decoding.codes[:, count:]
        return self.fine.next_logits(codes, decoding.fine)


def _text_of(network: PixelSNAIL, text: Text) -> Text:
    """Return the text as a network reads it: its own "no text" where there is none."""
    tokens, mask, pooled = text
    return network.without_text(tokens, mask, pooled, ~mask.any(dim=1))
