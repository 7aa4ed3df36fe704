"""Training drawings whose names lie near a text, in the colour that it asks for."""

import torch
from torch import Tensor

from .protocols import CodingNetwork
from ..data.recoloring import recolored, split_color
from ..encoders import TextCache, TextEncoder
from ..media import to_signed, to_unit
from ..models.start_bank import StartBank

SAME_NAME = 0.9  # cosine from which a name means what the text does: 0.94 of "red apple" and "a red apple"


class NearDrawings:
    """Look drawings up by the names that they have in a bank.

    Where a text asks for a thing in a colour and the bank has no such name, the drawings of the thing are painted in
    the colour: for "a blue car" those of cars.

    Args:
        bank: the drawings. text_encoder: the one that read their names.
        painter: a VQGAN with the bank's codebook; None leaves every drawing its colours.
        chunk: pictures painted at once.
    """

    def __init__(self, bank: StartBank, text_encoder: TextEncoder, painter: CodingNetwork | None, *, chunk: int = 32):
        self.bank = bank
        self.text_encoder = text_encoder
        self.painter = painter
        self.chunk = chunk
        self._features = TextCache(self._encode_texts)

    def drafts(self, text: str, candidates: int, share: float) -> int:
        """Return how many of a text's candidates start from drawings: the share of them, rounded down.

        Where drawings are painted all candidates do, unless the share is 0: from noise, a network that saw no blue cars
        draws the colour without the shape.
        """
        return candidates if share > 0 and self.paints(text) else int(share * candidates)

    def paints(self, text: str) -> bool:
        """Return whether drawings are painted for a text."""
        return self._to_paint(text)[0] is not None

    def color_and_thing(self, text: str) -> tuple[str | None, str]:
        """Return the colour that a text asks of a thing and no drawing of it has, and the thing without it.

        None and the text as it is where it asks for no colour, or for one with which the bank has a name.
        """
        color, thing = split_color(text)
        if color is None or self.bank.best_similarity(*self._features([text])) >= SAME_NAME:
            return None, text
        return color, thing

    @torch.no_grad()
    def latents(self, text: str, count: int) -> Tensor:
        """Return the code vectors of the `count` nearest drawings: (count, D, h, w)."""
        color, z = self._look_up(text, count)
        if color is None:
            return z
        painted = to_signed(recolored(to_unit(self._decode(z)), color))
        codes = torch.cat([self.painter.encode_codes(part) for part in painted.split(self.chunk)])
        return self.painter.embed_codes(codes)

    @torch.no_grad()
    def pictures(self, text: str, count: int) -> Tensor:
        """Return the `count` nearest drawings: (count, 3, H, W), about in [-1, 1]; needs a painter."""
        color, z = self._look_up(text, count)
        pictures = self._decode(z)
        return pictures if color is None else to_signed(recolored(to_unit(pictures), color))

    def _look_up(self, text: str, count: int) -> tuple[str | None, Tensor]:
        """Return the colour in which drawings are to be painted, if any, and their code vectors (count, D, h, w)."""
        color, thing = self._to_paint(text)
        # painted ones are of one name: the next would be other things
        rows = self.bank.nearest(*self._features([thing]), count, names=None if color is None else 1)
        z = self.bank.latents(rows)
        return color, z if self.painter is None else z.to(self.painter.codebook.device)

    def _to_paint(self, text: str) -> tuple[str | None, str]:
        """Return what `color_and_thing` does where there is a painter, otherwise None and the text as it is."""
        return (None, text) if self.painter is None else self.color_and_thing(text)

    def _encode_texts(self, texts: list[str]) -> Tensor:
        _, _, pooled = self.text_encoder.encode(texts)
        return pooled.cpu()  # (texts, E)

    def _decode(self, z: Tensor) -> Tensor:
        return torch.cat([self.painter.decode(part) for part in z.split(self.chunk)])
