"""Training of a generator of pixels against CLIPs, and the terms that mend it; notebook 05 switches them on in turn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .losses.gan import generator_score_loss, hinge_critic_loss
from .network_training import BETAS, NetworkTraining
from .schedule import set_lr
from ..errors import BadParameter
from ..media import to_unit
from ..models.feed_forward import PixelGenerator

VIEW_NOISE = 0.1  # standard deviation of the noise on a view
SMALLEST_VIEW = 0.7  # side of a view, as a share of the picture's


@dataclass(frozen=True)
class GuidedTerms:
    """What a generator learns by, beside the distance of its pictures to their texts by the guides.

    Attributes:
        views: random crops of each picture, with noise, that the guides see; 0 shows them the picture itself.
        pixels: weight of the mean absolute difference to the real drawing. perceptual: of a distance of features to it.
        critic: weight of an adversarial loss. diversity: of the distance between two pictures of one text.
        latents: of the squared error to the latents of the real drawing, with a decoder.
        guidance: weight of the guides; 0 leaves them out.
    """

    views: int = 0
    pixels: float = 0.0
    perceptual: float = 0.0
    critic: float = 0.0
    diversity: float = 0.0
    latents: float = 0.0
    guidance: float = 1.0


@dataclass(frozen=True)
class GuidedBatch:
    """What one step learns from.

    Attributes:
        embedding: (B, D), what the generator reads. targets: for each guide (B, D_i), what its view of the picture is
            drawn to. noise: (B, Z) or None. real: (B, 3, S, S) in [-1, 1], latents: (B, C, h, w), or None.
    """

    embedding: Tensor
    targets: list[Tensor]
    noise: Tensor | None = None
    real: Tensor | None = None
    latents: Tensor | None = None


def embedding_distance(images: Tensor, target: Tensor, guide: Any) -> Tensor:
    """Return the squared distance of a guide's unit embeddings of pictures to unit targets: 2 - 2 cos.

    The mean squared error over D numbers is a D-th part of it.

    Shapes:
        images: (B, 3, H, W) in [0, 1], target: (B, D) -> (B,)
    """
    return (guide.encode_image(images) - target).square().sum(1)


def random_views(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return random crops of each picture at its own size, with noise: (B, 3, H, W) -> (count * B, 3, H, W)."""
    repeated = images.repeat(count, 1, 1, 1)
    n = len(repeated)
    side = SMALLEST_VIEW + (1 - SMALLEST_VIEW) * torch.rand(n, generator=generator)
    centre = (2 * torch.rand((n, 2), generator=generator) - 1) * (1 - side[:, None])
    transform = torch.zeros(n, 2, 3)
    transform[:, 0, 0] = side
    transform[:, 1, 1] = side
    transform[:, :, 2] = centre
    grid = F.affine_grid(transform.to(images.device), list(repeated.shape), align_corners=False)
    views = F.grid_sample(repeated, grid, padding_mode="border", align_corners=False)
    noise = torch.randn(views.shape, generator=generator).to(images.device)
    return (views + VIEW_NOISE * noise).clamp(0, 1)


class GuidedTraining(NetworkTraining):
    """A `PixelGenerator` in training against CLIPs; see `NetworkTraining`.

    Args:
        network: moved in place. guides: CLIPs, frozen. terms: what it learns by.
        decoder: from the generator's map to pictures in [-1, 1]; None if it makes pictures itself.
        perceptual: distance of two batches of pictures in [0, 1], (B,); needed with its weight.
        critic: scores of pictures, needed with its weight; it learns beside the generator.
        generator: random numbers of the views, on the CPU.
        training: further arguments of `NetworkTraining`.

    Raises:
        BadParameter: a term lacks its network, or the generator lacks noise.
    """

    def __init__(self, network: PixelGenerator, fabric: Any, *, guides: Sequence[Any], terms: GuidedTerms,
                 generator: torch.Generator, decoder: Callable[[Tensor], Tensor] | None = None,
                 perceptual: Callable[[Tensor, Tensor], Tensor] | None = None, critic: nn.Module | None = None,
                 **training: Any):
        super().__init__(network, fabric, **training)
        needs = {"perceptual": perceptual, "critic": critic, "latents": decoder}
        for name, part in needs.items():
            if getattr(terms, name) and part is None:
                raise BadParameter(f"the term {name} needs {'a decoder' if name == 'latents' else f'{name}=...'}")
        if terms.diversity and not network.noise_dim:
            raise BadParameter("the term diversity needs a generator with noise_dim above 0")
        self.guides = list(guides)
        self.terms = terms
        self.generator = generator
        self.decoder = decoder
        self.perceptual = perceptual
        self.critic = critic
        if critic is not None:
            rate = self.optimizer.param_groups[0]["lr"]
            self.critic_optimizer = torch.optim.Adam(critic.parameters(), lr=rate, betas=(0.0, BETAS[1]))

    def parts(self) -> dict[str, Any]:
        parts = super().parts() | {"views": self.generator}
        if self.critic is not None:
            parts |= {"critic": self.critic, "critic_optimizer": self.critic_optimizer}
        return parts

    def step(self, batch: GuidedBatch, learning_rate: float | None = None) -> Tensor:
        """Make one step, as `NetworkTraining` does; the critic learns at the same rate."""
        if self.critic is not None and learning_rate is not None:
            set_lr(self.critic_optimizer, learning_rate)
        return super().step(batch, learning_rate)

    def pictures(self, made: Tensor) -> Tensor:
        """Return what the generator made as pictures (B, 3, H, W) in [-1, 1]."""
        return made if self.decoder is None else self.decoder(made)

    def loss(self, batch: GuidedBatch) -> Tensor:
        """Return the sum of all terms, with gradient."""
        terms = self.terms
        inputs = [batch.embedding] if batch.noise is None else [batch.embedding, batch.noise]
        made = self.forward(*inputs).float()
        fake = self.pictures(made)
        total = fake.new_zeros(())
        if terms.guidance:
            total = total + terms.guidance * self.guide_distance(fake, batch.targets).mean()
        if terms.pixels:
            total = total + terms.pixels * (fake - batch.real).abs().mean()
        if terms.perceptual:
            total = total + terms.perceptual * self.perceptual(to_unit(fake), to_unit(batch.real)).mean()
        if terms.latents:
            total = total + terms.latents * F.mse_loss(made, batch.latents)
        if terms.diversity:
            total = total - terms.diversity * self._spread(fake, batch)
        if terms.critic:
            self._teach_critic(fake.detach(), batch.real)
            self.critic.requires_grad_(False)
            total = total + terms.critic * generator_score_loss(self.critic(fake))
            self.critic.requires_grad_(True)
        return total

    def guide_distance(self, fake: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """Return the distance of pictures to their targets, over all guides: (V,), V = B times the views."""
        shown = to_unit(fake).clamp(0, 1)
        count = max(1, self.terms.views)
        if self.terms.views:
            shown = random_views(shown, count, self.generator)
        distances = []
        for guide, target in zip(self.guides, targets, strict=True):
            distances.append(embedding_distance(shown, target.repeat(count, 1), guide))
        return torch.stack(distances).mean(0)

    def _spread(self, fake: Tensor, batch: GuidedBatch) -> Tensor:
        """Return how far apart two pictures of one text are, by the distance of their noise (Mao et al. 2019, eq. 5).

        The second picture of each text takes the noise of its neighbour in the batch.
        """
        noise = batch.noise.roll(1, 0)
        other = self.pictures(self.forward(batch.embedding, noise).float())
        apart = (fake - other).abs().mean((1, 2, 3))
        return (apart / (batch.noise - noise).abs().mean(1)).mean()

    def _teach_critic(self, fake: Tensor, real: Tensor) -> None:
        loss = hinge_critic_loss(self.critic(real), self.critic(fake))
        self.critic_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.critic_optimizer.step()
