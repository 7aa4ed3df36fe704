"""Diffusion among a VQGAN's latents in the place of pixels, as the first stage of a cascade."""

import torch
from torch import Tensor

from ..models.latent_prior import LatentPrior
from ..models.vqgan import VQGAN


class LatentSpace:
    """Turn pictures into the latents that a `LatentPrior` was trained on, and back.

    Rombach et al. 2022, "High-resolution image synthesis with latent diffusion models", section 3.1: details that an
    eye would not miss are left to the decoder, and the diffusion model spends its effort on the rest.

    Args:
        vqgan: the network between them, on the prior's device. prior: knows mean and spread of the latents.

    Shapes:
        pictures (B, 3, S, S) in [-1, 1] <-> latents (B, D, S / f, S / f) of about mean 0 and variance 1
    """

    def __init__(self, vqgan: VQGAN, prior: LatentPrior):
        self.vqgan = vqgan.eval()
        self.prior = prior

    def shape(self, size: int) -> tuple[int, int, int]:
        """Return the shape of the latents of one picture of this side; raises BadParameter if it does not divide."""
        return self.vqgan.latent_shape(size, size)

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Return the normalised latents of pictures."""
        return self.prior.normalize(self.vqgan.encode(pictures))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return the pictures of normalised latents, each moved to its nearest code first."""
        with torch.autocast(latents.device.type, enabled=False):
            z = self.prior.denormalize(latents.float())
            z_q, _ = self.vqgan.snap(z)
            return self.vqgan.decode(z_q).clamp(-1, 1)
