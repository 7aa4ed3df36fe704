"""Muon for matrices and for the kernels of convolutions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class KernelMuon(torch.optim.Muon):
    """Muon (Jordan et al. 2024), which takes matrices only, for kernels as well.

    A kernel (out, in, rows, columns) is moved as the matrix (out, in * rows * columns), as its authors do.

    Args:
        parameters: of two dimensions or more. settings: of `torch.optim.Muon`.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], **settings: Any):
        self.originals = list(parameters)
        self.matrices = [nn.Parameter(original.detach().flatten(1)) for original in self.originals]
        super().__init__(self.matrices, **settings)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Tensor | None:
        """Make one step with the gradients of the parameters."""
        for original, matrix in zip(self.originals, self.matrices, strict=True):
            matrix.data = original.detach().flatten(1)
            matrix.grad = None if original.grad is None else original.grad.flatten(1)
        loss = super().step(closure)
        for original, matrix in zip(self.originals, self.matrices, strict=True):
            original.copy_(matrix.view_as(original))
            matrix.grad = None  # `zero_grad` of the network does not know it
        return loss
