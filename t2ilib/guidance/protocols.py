"""What guidance asks of the networks it is handed; any object that has these methods fits."""

from typing import Protocol

import torch
from torch import Tensor


class PaintingNetwork(Protocol):
    """Paints pictures from a grid of latents and has a codebook of them, as a VQGAN does.

    Optional: `resolution`, the side in pixels of the pictures it was trained on, here or in a dictionary `config`.
    """

    @property
    def codebook(self) -> Tensor:
        """Return the vectors that codes stand for: (K, D)."""

    @property
    def factor(self) -> int:
        """Return how many pixels one code takes along each side."""

    def decode(self, z_q: Tensor) -> Tensor:
        """Paint latents: (B, D, h, w) -> (B, 3, factor h, factor w) in [-1, 1]."""


class CodingNetwork(PaintingNetwork, Protocol):
    """Also encodes pictures: for runs that start from one, and for flights into one."""

    def encode(self, x: Tensor) -> Tensor:
        """Return latents that are not quantised yet: (B, 3, H, W) in [-1, 1] -> (B, D, h, w)."""

    def encode_codes(self, x: Tensor) -> Tensor:
        """Return codes: (B, 3, H, W) in [-1, 1] -> (B, h, w) int64."""

    def embed_codes(self, codes: Tensor) -> Tensor:
        """Look up the vectors of codes: (B, h, w) -> (B, D, h, w)."""


class ImageTextModel(Protocol):
    """Maps pictures and texts to one space, as CLIP does.

    With `long_prompts="windows"`, `encode_text` also gets `long="windows"`.
    """

    @property
    def image_size(self) -> int | tuple[int, int]:
        """Return the side of the pictures that it reads, or (H, W)."""

    def encode_image(self, x: Tensor) -> Tensor:
        """Return features of pictures: (B, 3, S, S) in [0, 1] -> (B, E)."""

    def encode_text(self, texts: list[str]) -> Tensor:
        """Return features of N texts: (N, E)."""


class Prior(Protocol):
    """A learned distribution of latents given text, from which a run may start.

    Optional methods, for the options that name them: `redraw` and `score_distillation`, as in
    `t2ilib.guidance.prior.DiffusionPrior`; `settings()`, what decides its samples beside the weights; and
    `paints(prompt)`, whether the guide must be kept from taking the colour out of a sample.
    """

    def sample(self, prompts: list[str], *, num: int, generators: list[torch.Generator],
               size: tuple[int, int]) -> Tensor:
        """Return `num` latents for each of P prompts: (P * num, D, h, w), those of one prompt next to one another.

        All randomness of prompt i comes from `generators[i]` (on the CPU), so that it does not depend on the others.
        """
