"""Averages of weights, and the statistics of batch norm that belong to them."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from ..errors import BadParameter


class EMA:
    """Exponential moving average of a network's weights, with a warm-up (decay grows as (1 + t) / (10 + t)).

    `ema.model` is the averaged copy, in eval mode; buffers are copied, not averaged.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999):
        if not 0 <= decay < 1:
            raise BadParameter(f"EMA decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.step = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the weights of `model`."""
        self.step += 1
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        averages = list(self.model.parameters())
        weights = [p.detach() for p in model.parameters()]
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for copied, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            copied.copy_(buffer)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "model": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.model.load_state_dict(state["model"])


@torch.no_grad()
def recalibrate_batch_norm(model: nn.Module, batches: Iterable[Any], forward: Callable[[Any], Any]) -> int:
    """Collect the running statistics of batch norm anew, as plain averages over `batches`.

    An average of weights (EMA) has other activations than the weights it was averaged from, so the statistics that
    `EMA` copies do not belong to it. All other layers stay in the mode they are in.

    Args:
        model: the network whose statistics are replaced.
        batches: what `forward` takes, e.g. training pictures; 512 pictures are enough.
        forward: runs `model` on one batch.

    Returns:
        How many layers were recalibrated; 0 if the network has no batch norm, and then `batches` is not touched.
    """
    batch_norm = nn.modules.batchnorm._BatchNorm
    norms = [m for m in model.modules() if isinstance(m, batch_norm) and m.track_running_stats]
    if not norms:
        return 0
    before = [(norm.momentum, norm.training) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's way to ask for a plain average
        norm.train()
    try:
        for batch in batches:
            forward(batch)
    finally:
        for norm, (momentum, training) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.train(training)
    return len(norms)
