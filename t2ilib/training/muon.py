"""Muon: momentum of matrices whose singular values are all brought to about 1."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadParameter

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic whose iteration brings singular values near 1 fastest
ITERATIONS = 5
EPSILON = 1e-7
RMS = 0.2  # of an update's numbers, as AdamW's updates have it


class KernelMuon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) with Nesterov momentum, for matrices and for the kernels of convolutions.

    A kernel (out, in, rows, columns) is moved as the matrix (out, in * rows * columns), as its authors do. A step is as
    long as one of AdamW (Liu et al. 2025, arXiv:2502.16982, equation 4): lr * 0.2 sqrt(max(rows, columns)).

    It is `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`, which takes no kernels, and iterates in bfloat16
    everywhere: CPUs without instructions for that need 6 to 14 times as long as in float32. Here only CUDA has it.

    Args:
        parameters: of two dimensions or more. lr: learning rate. weight_decay: decoupled, as in AdamW.
        momentum: share of the old momentum that is kept.

    Raises:
        BadParameter: a parameter that is no matrix, or a negative number.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, lr: float, weight_decay: float = 0.0,
                 momentum: float = 0.95):
        if min(lr, weight_decay, momentum) < 0:
            raise BadParameter(f"Muon needs lr, weight_decay and momentum of at least 0; got {lr}, {weight_decay} and "
                               f"{momentum}")
        for parameter in parameters:
            if parameter.ndim < 2:
                raise BadParameter(f"Muon moves matrices and kernels, not a parameter of shape {tuple(parameter.shape)}"
                                   "; leave it to AdamW")
        super().__init__(parameters, dict(lr=lr, weight_decay=weight_decay, momentum=momentum))

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Make one step with the gradients of the parameters; return what `closure` returns, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)
        return loss

    def _move(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter.grad)
        momentum = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
        update = parameter.grad.lerp(momentum, group["momentum"]).flatten(1)  # Nesterov
        length = group["lr"] * RMS * max(update.shape) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.sub_(length * orthogonalized(update).view(parameter.shape))


def orthogonalized(matrix: Tensor, *, iterations: int = ITERATIONS) -> Tensor:
    """Return a matrix with its singular vectors and with singular values near 1, by Newton-Schulz iterations.

    They are not brought to 1 itself, but into about [0.7, 1.2], which takes fewer iterations and trains as well; those
    that were tiny beside the largest are not there yet after five.

    Shapes:
        (R, C) -> (R, C), in the precision of what came in
    """
    x = matrix.to(torch.bfloat16 if matrix.is_cuda else torch.float32)
    if len(x) > x.shape[1]:
        x = x.T  # the smaller of its two Gram matrices
    x = x / x.norm().clamp(min=EPSILON)  # so that no singular value is above 1
    a, b, c = COEFFICIENTS
    for _ in range(iterations):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)  # (a + b G + c G^2) x
    if len(matrix) > matrix.shape[1]:
        x = x.T
    return x.to(matrix.dtype)
