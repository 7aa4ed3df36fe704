"""Drawings that pictures should resemble, as evidence about the codes that are to be drawn."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import BadParameter

LEAST_NOISE = 0.01
NOISE = 1.0  # the shape of a drawing is left, and no more of it than real drawings of one thing share


class CodeEvidence:
    """Code vectors of drawings, each believed to be the picture that is to be drawn, seen through Gaussian noise.

    By Bayes' rule the code e of a place with the vector z of the drawing has

        log p(e | codes before, text, z) = log p(e | codes before, text) - |e - z|^2 / (2 sigma^2) + const

    so a code near the drawing's becomes likelier, and the network, which reads the text and the codes before, decides
    among those. What SDEdit (Meng et al. 2022) is for diffusion: with little noise the drawing comes back, with more
    its shape, with much nothing of it. It is an approximation: what the drawing says of later places bears on this one,
    too, and is left out. Temperature, top-k and top-p act on the sum.

    Args:
        tables: the codebook (K, D) of each grid. vectors: of each grid z (B, D, h, w), on the same device.
        observed: (B,) bool, False for pictures of which nothing is known.
        noise: sigma, in standard deviations of the codebook's entries (root mean square over K and D); at least
            `LEAST_NOISE`, at which the drawing comes back unchanged.

    Raises:
        BadParameter: less noise, or shapes that do not fit.
    """

    def __init__(self, tables: Sequence[Tensor], vectors: Sequence[Tensor], observed: Tensor,
                 noise: float = NOISE):
        if noise < LEAST_NOISE:
            raise BadParameter(f"the noise of evidence must be at least {LEAST_NOISE}, got {noise}; with so little the "
                               "picture is the drawing")
        if len(tables) != len(vectors) or any(len(z) != len(observed) for z in vectors):
            raise BadParameter(f"need a codebook for each grid and {len(observed)} drawings in it, got {len(tables)} "
                               f"codebooks and vectors {[tuple(z.shape) for z in vectors]}")
        self._tables = [table.float() for table in tables]
        self._vectors = [z.float().flatten(2).movedim(1, 2) for z in vectors]  # (B, n, D) each
        self._observed = observed.to(self._vectors[0].device)  # (B,)
        self._variances = [noise**2 * table.var(dim=0, correction=0).mean().clamp(min=1e-12) for table in self._tables]

    def of(self, rows: Tensor) -> "CodeEvidence":
        """Return the evidence of some of the pictures."""
        some = copy.copy(self)
        some._vectors = [z[rows] for z in self._vectors]
        some._observed = self._observed[rows]
        return some

    def log_likelihood(self, place: int) -> Tensor:
        """Return for the codes of a place, counted through all grids, what the drawings say of them: (B, K)."""
        grid = 0
        while place >= self._vectors[grid].shape[1]:
            place -= self._vectors[grid].shape[1]
            grid += 1
        return self._of_grid(grid, slice(place, place + 1))[:, 0]

    def all_log_likelihoods(self) -> Tensor:
        """Return the same of all places: (B, N, K)."""
        return torch.cat([self._of_grid(grid, slice(None)) for grid in range(len(self._tables))], dim=1)

    def _of_grid(self, grid: int, places: slice) -> Tensor:
        z = self._vectors[grid][:, places]  # (B, n, D)
        squared = torch.cdist(z, self._tables[grid].expand(len(z), -1, -1)).square()  # (B, n, K)
        return torch.where(self._observed[:, None, None], -squared / (2 * self._variances[grid]), 0.0)
