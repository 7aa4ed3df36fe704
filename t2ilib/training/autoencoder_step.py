"""One training step of a VQ-VAE: pixels, commitment, and codebooks that follow by running averages."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .network_training import NetworkTraining
from ..layers.quantize import EMACodebook
from ..models.vqvae2 import VQVAE2

# of the squared error beside the absolute one: alone it would look at the few pictures that are hard
MSE_WEIGHT = 2.0


class VQVAETraining(NetworkTraining):
    """A VQ-VAE in training; see `NetworkTraining`.

    Args:
        network: moved in place. commitment: weight of the term that keeps what is quantised near its codes, for each
            grid.
        l1_weight, mse_weight: of absolute and squared error; van den Oord et al. 2017 have the latter alone.
        codebook: further arguments of `EMACodebook`, such as `decay` and `restart_below`.
        training: further arguments of `NetworkTraining`.

    Attributes:
        codebooks: one `EMACodebook` for each grid.
    """

    def __init__(self, network: VQVAE2, fabric: Any, *, commitment: float = 0.25, l1_weight: float = 1.0,
                 mse_weight: float = MSE_WEIGHT, codebook: dict[str, Any] | None = None, **training: Any):
        settings = {"distributed": fabric.world_size > 1, **(codebook or {})}
        self.codebooks = [EMACodebook(quantizer, **settings) for quantizer in network.quantizers]
        super().__init__(network, fabric, **training)
        self.commitment = commitment
        self.l1_weight = l1_weight
        self.mse_weight = mse_weight

    def parts(self) -> dict[str, Any]:
        """Return what `save_training` and `load_training` keep of it, by name."""
        codebooks = {f"codebook_{i}": codebook for i, codebook in enumerate(self.codebooks)}
        return super().parts() | codebooks

    def loss(self, batch: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Return the loss of pictures (B, 3, H, W) in [-1, 1], with gradient, and move the codebooks.

        They move behind the forward pass: the codes of this batch are those of the tables before.

        Args:
            batch: pictures; for a `JointVQVAE` pictures and their features (B, F).
        """
        if isinstance(batch, Tensor):
            batch = (batch,)
        fake, levels = self.forward(*batch)
        for codebook, level in zip(self.codebooks, levels, strict=True):
            codebook.update(level.z_e, level.quantized.codes)
        x = batch[0]
        fake = fake.float()
        commitment = torch.stack([level.quantized.commitment for level in levels]).sum()
        pixels = self.l1_weight * F.l1_loss(fake, x) + self.mse_weight * F.mse_loss(fake, x)
        return pixels + self.commitment * commitment
