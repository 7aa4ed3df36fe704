"""From words to pictures in one pass: a generator predicts all codes at once, a VQGAN paints what it expects."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .painter import Painted, PainterOfCodes, Score, check_drafts
from .. import runtime
from ..diffusion import split_generator
from ..encoders import TextEncoder
from ..encoders.choosing import best_candidates
from ..encoders.conditions import TextCache
from ..errors import BadParameter, check_name
from ..media import to_unit
from ..models.feed_forward import CodeGenerator
from ..models.vqgan import VQGAN

ANY_STYLE = "any"
LOOKUP_SHARPNESS = 2.0  # fewer drawings are mixed than in training; chosen on validation, see notebook 05


class OnePassPainter(PainterOfCodes):
    """A feed-forward generator with the VQGAN that paints its codes.

    Args:
        network: see `CodeGenerator`. vqgan: with the codebook that it was trained on. Both on one device.
        text_encoder: the frozen one that the network was trained with.
        chunk: pictures drawn in one batch. precision: see `runtime.pick_dtype`.

    Raises:
        BadParameter: a chunk below 1, or a codebook of another size.
    """

    def __init__(self, network: CodeGenerator, vqgan: VQGAN, text_encoder: TextEncoder, *, chunk: int = 32,
                 precision: str = "auto"):
        super().__init__(network, vqgan, text_encoder, chunk=chunk, precision=precision)
        self._read = TextCache(self._pooled)

    @torch.no_grad()
    def sample(self, texts: Sequence[str], *, generators: Sequence[torch.Generator], style: str = ANY_STYLE,
               noise: float = 1.0, temperature: float = 0.5, sharpness: float = LOOKUP_SHARPNESS, candidates: int = 1,
               score: Score | None = None) -> Painted:
        """Draw a picture for each text.

        Args:
            generators: a stream for each picture, on which alone it depends, not on its neighbours.
            style: one of the network's, or "any": drawn by the stream; candidates of one text take turns.
            noise: how much of the noise of training moves the text; 0 is none.
            temperature: of the probabilities by which code vectors are averaged at each place before they are painted;
                0 paints the likeliest code alone.
            sharpness: of the lookup in the network's memory, as a factor of the learned one: a large one takes the
                nearest name alone, 0 mixes all names alike; a network without memory has none to look up in.
            candidates: pictures drawn of each text, of which `score` chooses one.

        Raises:
            BadParameter: a number is out of range, or not a stream for each text. UnknownName: no such style.
        """
        check_drafts(texts, generators, candidates, score)
        if style != ANY_STYLE:
            check_name("style", style, self.network.styles)
        if min(noise, temperature, sharpness) < 0:
            raise BadParameter("noise, temperature and sharpness must be at least 0, got "
                               f"{noise}, {temperature} and {sharpness}")
        styles, noises = self._draw_numbers(generators, style, candidates)
        rows = torch.arange(len(texts)).repeat_interleave(candidates)  # the text of each draft
        pooled = torch.stack(self._read(texts))[rows]  # (M, E)
        codes = []
        pictures = []
        for part in torch.arange(len(rows)).split(self.chunk):
            with runtime.autocast(self.device, self.dtype):
                logits = self.network(pooled[part], styles[part].to(self.device), noise * noises[part].to(self.device),
                                      sharpness=sharpness)
                painted = self.vqgan.decode(self.code_vectors(logits, temperature))
            codes.append(logits.argmax(dim=-1).unflatten(1, self.network.grid))  # (b, h, w)
            pictures.append(painted.float().clamp(-1, 1))
        result = Painted(torch.cat(codes), torch.cat(pictures))
        if candidates == 1:
            return result
        scores = score(to_unit(result.pictures), [texts[i] for i in rows])
        return Painted(best_candidates(result.codes, scores, candidates),
                       best_candidates(result.pictures, scores, candidates))

    def code_vectors(self, logits: Tensor, temperature: float = 0.5) -> Tensor:
        """Return what is painted for logits (B, N, K): code vectors, averaged by their probabilities, (B, D, h, w)."""
        if temperature == 0:
            return self.vqgan.embed_codes(logits.argmax(dim=-1).unflatten(1, self.network.grid))
        probabilities = (logits.float() / temperature).softmax(dim=-1)
        vectors = probabilities @ self.vqgan.codebook  # (B, N, D)
        return vectors.transpose(1, 2).unflatten(2, self.network.grid)

    def _draw_numbers(self, generators: Sequence[torch.Generator], style: str,
                      candidates: int) -> tuple[Tensor, Tensor]:
        """Return weights of styles (M, S) and noise (M, E) of all M drafts."""
        names = self.network.styles
        chosen = []
        noises = []
        for generator in generators:
            order = torch.randperm(len(names), generator=generator).tolist()
            for j, stream in enumerate(split_generator(generator, candidates)):
                chosen.append(names[order[j % len(names)]] if style == ANY_STYLE else style)
                noises.append(torch.randn(self.network.text_dim, generator=stream))
        return self.network.style_weights(chosen), torch.stack(noises)

    def _pooled(self, texts: list[str]) -> list[Tensor]:
        return list(self.text_encoder.pooled(texts).float().to(self.device))
