"""What the optimiser moves, and where it starts: free latents, or coefficients in a basis."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .ops import z_bounds
from .protocols import Prior
from ..errors import BadParameter


def random_codes(codebook: Tensor, size: tuple[int, int], generators: Sequence[torch.Generator], num: int) -> Tensor:
    """Return latents of codes drawn uniformly, each picture from its own stream.

    Shapes:
        codebook (K, D) -> (B, num, D, h, w) for B generators
    """
    codes = torch.stack([torch.randint(len(codebook), (num, *size), generator=g) for g in generators])  # (B, num, h, w)
    vectors = F.embedding(codes.to(codebook.device), codebook.detach())  # (B, num, h, w, D)
    return vectors.movedim(-1, 2).clone()  # (B, num, D, h, w)


def prior_samples(prior: Prior, prompts: Sequence[str], size: tuple[int, int], generators: Sequence[torch.Generator],
                  num: int) -> Tensor:
    """Return `num` samples of the prior for each picture: (B, num, D, h, w).

    Raises:
        BadParameter: the prior returned another number of latents or another size.
    """
    with torch.no_grad():
        z = prior.sample(list(prompts), num=num, generators=list(generators), size=size)
    count = len(prompts) * num
    if z.ndim != 4 or len(z) != count or tuple(z.shape[-2:]) != tuple(size):
        raise BadParameter(f"prior.sample returned {tuple(z.shape)}, expected ({count}, D, {size[0]}, {size[1]}): "
                           f"{num} for each of {len(prompts)} prompts")
    return z.float().unflatten(0, (len(prompts), num))


def select_starts(starts: Tensor, score: Callable[[Tensor, int], Tensor], *, shares: Sequence[float] = (1.0,),
                  bonus: Callable[[Tensor, int], Tensor] | None = None, chunk: int = 64) -> tuple[Tensor, Tensor]:
    """Keep for each picture the start that the guides prefer.

    The scores of each guide are standardised over a picture's candidates first, so that a guide whose scores spread
    widely does not decide alone; then they are weighted by `shares`.

    Args:
        starts: (B, N, D, h, w).
        score: maps latents (M, D, h, w) and the index of their picture to scores (M, G) of G guides, high is good.
        shares: weight of each guide.
        bonus: maps the same to what is added (M,), in standard deviations of the guides' scores.
        chunk: latents scored at once.

    Returns:
        The chosen latents (B, D, h, w) and the index of each among its candidates (B,).
    """
    if starts.shape[1] == 1:
        return starts[:, 0], torch.zeros(len(starts), dtype=torch.long)
    rows = []
    added = []
    with torch.no_grad():
        for picture, candidates in enumerate(starts):
            parts = candidates.split(chunk)
            rows.append(torch.cat([score(part, picture) for part in parts]))  # (N, G)
            if bonus is not None:
                added.append(torch.cat([bonus(part, picture) for part in parts]))  # (N,)
    scores = torch.stack(rows)  # (B, N, G)
    spread = scores.std(dim=1, keepdim=True).clamp(min=1e-12)
    standard = (scores - scores.mean(dim=1, keepdim=True)) / spread
    weights = torch.tensor(shares, dtype=scores.dtype, device=scores.device)
    total = (standard * weights).sum(-1)  # (B, N)
    if bonus is not None:
        total = total + torch.stack(added).to(total)
    best = total.argmax(dim=1)  # (B,)
    pictures = torch.arange(len(starts), device=best.device)
    return starts[pictures, best], best.cpu()


def resize(z: Tensor, size: tuple[int, int]) -> Tensor:
    """Return latents on a grid of another size: (B, D, h, w) -> (B, D, size[0], size[1])."""
    if tuple(z.shape[-2:]) == tuple(size):
        return z
    return F.interpolate(z, size, mode="bicubic", align_corners=False)


@dataclass(frozen=True)
class Basis:
    """Principal components of latents: a small space in which every point looks somewhat like data.

    Shapes:
        mean (D, h, w), components (k, D, h, w) orthonormal, std (k,) of the data along each
    """

    mean: Tensor
    components: Tensor
    std: Tensor

    @classmethod
    def fit(cls, latents: Tensor, k: int) -> "Basis":
        """Return the first k principal components of latents (N, D, h, w), exact (by an SVD).

        Raises:
            BadParameter: k exceeds what N latents can span.
        """
        n = len(latents)
        shape = latents.shape[1:]
        most = min(n - 1, shape.numel())
        if not 1 <= k <= most:
            raise BadParameter(f"a basis from {n} latents of {shape.numel()} numbers has at most {most} components, "
                               f"got k={k}")
        mean = latents.mean(dim=0)
        centred = (latents - mean).flatten(1)  # (N, D h w)
        _, s, v = torch.linalg.svd(centred, full_matrices=False)
        components = v[:k].unflatten(1, shape)  # (k, D, h, w)
        std = s[:k] / (n - 1) ** 0.5
        return cls(mean, components, std)

    def project(self, z: Tensor) -> Tensor:
        """Return the coefficients of latents in units of the data's deviation: (B, D, h, w) -> (B, k)."""
        centred = (z - self.mean).flatten(1)  # (B, D h w)
        return centred @ self.components.flatten(1).T / self.std

    def expand(self, coefficients: Tensor) -> Tensor:
        """Return the latents of coefficients: (B, k) -> (B, D, h, w)."""
        flat = (coefficients * self.std) @ self.components.flatten(1)  # (B, D h w)
        return flat.unflatten(1, self.mean.shape) + self.mean


class FreeLatents:
    """Every number of z is a parameter; after each step z is brought back to the codebook's range per channel."""

    def __init__(self, z: Tensor, codebook: Tensor):
        # contiguous, because LBFGS flattens its parameters
        self.z = z.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
        low, high = z_bounds(codebook)
        self.low = low.to(self.z.dtype)
        self.high = high.to(self.z.dtype)

    def parameters(self) -> list[Tensor]:
        """Return what the optimiser moves."""
        return [self.z]

    def __call__(self) -> Tensor:
        return self.z

    @torch.no_grad()
    def clamp_(self) -> None:
        """Bring z back into its range, in place."""
        self.z.copy_(self.z.clamp(self.low, self.high))


class SubspaceLatents:
    """Coefficients in a basis are the parameters; they stay within `limit` deviations of the data."""

    def __init__(self, z: Tensor, basis: Basis, limit: float = 3.0):
        self.basis = Basis(basis.mean.to(z), basis.components.to(z), basis.std.to(z))
        self.limit = limit
        self.coefficients = self.basis.project(z.detach()).clamp(-limit, limit).requires_grad_()

    def parameters(self) -> list[Tensor]:
        """Return what the optimiser moves."""
        return [self.coefficients]

    def __call__(self) -> Tensor:
        return self.basis.expand(self.coefficients)

    @torch.no_grad()
    def clamp_(self) -> None:
        """Bring the coefficients back into their range, in place."""
        self.coefficients.clamp_(-self.limit, self.limit)
