"""From words to pictures by a GAN: one pass for each draft, styles that can be moved, guides that choose."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .painter import Score, Text, check_drafts
from .. import runtime
from ..diffusion import split_generator
from ..encoders import TextConditioner, TextEncoder, batch_conditions
from ..encoders.choosing import best_candidates
from ..errors import BadParameter
from ..media import to_unit
from ..models.gigagan import GigaGenerator

LOOKUP_NOISE = 0.5  # chosen on validation: several near names of a new one are found, and its own of a known one
MEAN_OF = 64  # draws of noise whose mean is the middle that truncation moves styles to


class GanPainter:
    """A generator that draws from noise and words.

    Args:
        network: see `GigaGenerator`. text_encoder: the frozen one that it was trained with.
        chunk: pictures drawn in one batch. precision: see `runtime.pick_dtype`.

    Raises:
        BadParameter: a chunk below 1.
    """

    def __init__(self, network: GigaGenerator, text_encoder: TextEncoder, *, chunk: int = 32, precision: str = "auto"):
        if chunk < 1:
            raise BadParameter(f"chunk must be at least 1, got {chunk}")
        self.network = network.eval()
        self.text_encoder = text_encoder
        self.chunk = chunk
        self.device = network.first.device
        self.dtype = runtime.pick_dtype(self.device, precision)
        self._conditioner = TextConditioner(text_encoder, self.device)
        self._noise = torch.randn(MEAN_OF, network.latent_dim, generator=runtime.generator(0, "truncation"))

    @property
    def size(self) -> tuple[int, int]:
        """Return height and width of the pictures."""
        return self.network.sides[-1], self.network.sides[-1]

    @torch.no_grad()
    def sample(self, texts: Sequence[Text], *, generators: Sequence[torch.Generator], truncation: float = 1.0,
               text_strength: float = 1.0, noise: float = LOOKUP_NOISE, candidates: int = 1,
               score: Score | None = None) -> Tensor:
        """Draw a picture for each text: (B, 3, H, W) in [-1, 1].

        Args:
            generators: a stream for each picture, on which alone it depends, not on its neighbours.
            truncation, text_strength: see `style_of`. noise: see `looked_up`; truncation is a factor of it.
            candidates: pictures drawn of each text, of which `score` chooses one.

        Raises:
            BadParameter: a number is out of range, or not a stream for each text.
        """
        check_drafts(texts, generators, candidates, score)
        if noise < 0:
            raise BadParameter(f"noise must be at least 0, got {noise}")
        of_drafts = []
        of_lookups = []
        for generator in generators:
            for stream in split_generator(generator, candidates):
                of_drafts.append(torch.randn(self.network.latent_dim, generator=stream))
                of_lookups.append(torch.randn(self.network.mean_pooled.shape, generator=stream))
        z = torch.stack(of_drafts).to(self.device)  # (M, latent_dim)
        moves = truncation * noise * torch.stack(of_lookups).to(self.device)  # (M, E)
        rows = torch.arange(len(texts)).repeat_interleave(candidates)  # the text of each draft
        drafts = []
        for part in torch.arange(len(rows)).split(self.chunk):
            of_part = [texts[i] for i in rows[part]]
            drafts.append(self._draw(z[part], moves[part], of_part, truncation, text_strength))
        pictures = torch.cat(drafts)
        if candidates == 1:
            return pictures
        scores = score(to_unit(pictures), [texts[i] for i in rows])
        return best_candidates(pictures, scores, candidates)

    def style_of(self, z: Tensor, pooled: Tensor, *, truncation: float = 1.0, text_strength: float = 1.0) -> Tensor:
        """Return the styles of noise and texts, moved.

        Args:
            truncation: 1 leaves styles as they are; towards 0 they move to the mean style of their text, which is drawn
                better and always alike (Karras et al. 2019, "truncation trick", here for each text). Which drawing of a
                thing a memory gives is still chosen by the noise.
            text_strength: 1 leaves styles as they are; above, they move away from the style that the same noise has
                for the mean of all texts, as in classifier-free guidance.

        Shapes:
            z: (B, latent_dim), pooled: (B, E) -> (B, style_dim)

        Raises:
            BadParameter: truncation is not in [0, 1], or text_strength below 0.
        """
        if not 0 <= truncation <= 1 or text_strength < 0:
            raise BadParameter(f"truncation must be in [0, 1] and text_strength at least 0, got {truncation} and "
                               f"{text_strength}")
        style = self._strengthened(z, pooled, text_strength)
        if truncation == 1:
            return style
        noise = self._noise.to(z)
        texts, text_of = pooled.unique(dim=0, return_inverse=True)  # candidates of one text share its middle
        middles = []
        for text in texts:
            middles.append(self._strengthened(noise, text.expand(MEAN_OF, -1), text_strength).mean(0))
        return torch.lerp(torch.stack(middles)[text_of], style, truncation)

    def _strengthened(self, z: Tensor, pooled: Tensor, text_strength: float) -> Tensor:
        style = self.network.style(z, pooled)
        if text_strength == 1:
            return style
        of_mean = self.network.style(z, self.network.mean_pooled.expand_as(pooled))
        return torch.lerp(of_mean, style, text_strength)

    def looked_up(self, pooled: Tensor, moves: Tensor) -> Tensor:
        """Return the texts (B, E) that a memory is asked for: each moved by a multiple of its distance from the mean.

        A text that names a thing of the memory finds it all the same up to moves of about 2; of one that does not, the
        names nearby take turns.
        """
        apart = pooled - self.network.mean_pooled
        return pooled + moves * apart.square().mean(dim=1, keepdim=True).sqrt()

    def _draw(self, z: Tensor, moves: Tensor, texts: Sequence[Text], truncation: float, text_strength: float) -> Tensor:
        """Return the largest pictures of one batch."""
        condition = batch_conditions(self._conditioner(texts))
        pooled = condition["pooled"]
        style = self.style_of(z, pooled, truncation=truncation, text_strength=text_strength)
        with runtime.autocast(self.device, self.dtype):
            read = self.network.read(condition["tokens"], condition["mask"])
            pictures = self.network.draw(style, *read, draft=self.network.draft(z, self.looked_up(pooled, moves)))
        return pictures[0].float().clamp(-1, 1)
